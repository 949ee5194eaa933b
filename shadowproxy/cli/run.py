"""The commands that run something until they are told to stop, and the check of what they run by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowproxy.cli.common import (
    Config,
    Supervised,
    fail,
    log_to_stderr,
    read_settings,
    run_process,
)
from shadowproxy.config import load, worker_count, worker_settings
from shadowproxy.errors import Unfinished

if TYPE_CHECKING:
    from shadowproxy.children import Stop

app = typer.Typer()


@app.command()
def run(config: Config) -> None:
    """Run everything: proxy, comparator and API, with an embedded Valkey where no redis.url is given.

    The parts are processes of their own; one that dies is started again. Ctrl-C or SIGTERM drains them in order.

    [bold]Example[/bold]: shadowproxy run --config config/minimal.yaml
    """
    settings = read_settings(config)
    log_to_stderr(settings.log_level)

    from shadowproxy.children import on_hangup
    from shadowproxy.processes import open_store
    from shadowproxy.supervisor import Supervisor

    async def work(stop: Stop, announce: Callable[[Mapping[str, str]], None]) -> None:
        # Opened here first, so that a wrong URL is said once and not by every part.
        async with open_store(settings) as store:
            supervisor = Supervisor(config, settings, store.url)
            stop.at_once.append(supervisor.end_at_once)
            await supervisor.start()
            # Whoever reads no files ends on SIGHUP, so only those that do are told.
            readers = [
                part
                for part, reads in (
                    ("proxy", settings.tls_files),
                    ("serve", settings.serve.tls.certificate is not None),
                )
                if reads
            ]
            with on_hangup(bool(readers), partial(supervisor.hang_up, *readers)):
                announce({**supervisor.urls, "experiment": store.name})
                await stop.wait()
                failed = await supervisor.stop()
        if failed:
            raise Unfinished(failed)

    run_process(work, supervised=False)


@app.command()
def proxy(
    config: Config,
    supervised: Supervised = False,
    worker: Annotated[
        tuple[int, int, int], typer.Option("--worker", hidden=True, help="Which worker, of how many, on which port.")
    ] = (0, 0, 0),
) -> None:
    """Answer clients from the baseline and send copies to the candidate; pairs go to Redis.

    With `proxy.workers` more than 1 it is the parent of that many processes.

    [bold]Example[/bold]: shadowproxy proxy --config config/shadowproxy.yaml
    """
    from shadowproxy.processes import run_proxy

    settings = read_settings(config)
    number, count, port = worker
    if count:
        log_to_stderr(settings.log_level, f"worker {number}: ")
        run_process(partial(run_proxy, worker_settings(settings, count, port), reuse_port=True), supervised)
        return
    log_to_stderr(settings.log_level)
    if worker_count(settings) == 1:
        run_process(partial(run_proxy, settings), supervised)
        return
    from shadowproxy.workers import run_workers

    run_process(partial(run_workers, config, settings), supervised)


@app.command()
def compare(config: Config, supervised: Supervised = False) -> None:
    """Read pairs, compare them and accumulate the evidence. Start as many workers as it takes.

    [bold]Example[/bold]: shadowproxy compare --config config/shadowproxy.yaml
    """
    from shadowproxy.processes import run_comparator

    settings = read_settings(config)
    log_to_stderr(settings.log_level)
    run_process(partial(run_comparator, settings), supervised)


@app.command()
def serve(config: Config, supervised: Supervised = False) -> None:
    """Serve the verdict (/api/v1/verdict), metrics (/metrics) and probes.

    [bold]Example[/bold]: shadowproxy serve --config config/shadowproxy.yaml
    """
    from shadowproxy.processes import run_api

    settings = read_settings(config)
    log_to_stderr(settings.log_level)
    run_process(partial(run_api, settings), supervised)


@app.command("check-config")
def check_config(
    config: Annotated[Path | None, typer.Argument(metavar="FILE", show_default=False, help="File to check.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema for editors instead.")] = False,
) -> None:
    """Check a configuration and show what follows from it. All faults are reported at once.

    [bold]Example[/bold]: shadowproxy check-config config/shadowproxy.yaml
    """
    if schema:
        from shadowproxy.config import json_schema

        typer.echo(json_schema(), nl=False)
        return
    if config is None:
        fail("check-config needs a file, such as config/shadowproxy.yaml (or --schema)")
    settings = load(config)
    from rich.console import Console

    from shadowproxy.config import experiment_id, risks
    from shadowproxy.report.configuration import configuration_table
    from shadowproxy.verdict.guardrails.rules import rules, warnings

    console = Console()
    console.print(f"{config}: good; experiment {experiment_id(settings)}")
    console.print(configuration_table(settings, rules(settings)))
    for warning in (*risks(settings), *warnings(settings)):
        console.print(f"warning: {warning}", style="yellow", markup=False)
