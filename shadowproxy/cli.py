"""The commands; wiring only. Each says what it does, shows an example, and ends with a code that means something."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import uvloop

from shadowproxy import __version__
from shadowproxy.config import Settings, experiment_id, load
from shadowproxy.errors import ApiUnavailable, ShadowproxyError, StoreUnavailable

EXIT_USAGE = 2
EXIT_CODES: Mapping[str, int] = {"promote": 0, "rollback": 1, "continue": 3}
EXIT_UNREACHABLE = 4

app = typer.Typer(
    name="shadowproxy",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Compare a candidate model with the one in service on live traffic, and know when it may be promoted.",
)

Config = Annotated[
    Path, typer.Option("--config", "-c", help="Configuration file (YAML).", metavar="FILE", show_default=False)
]
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


def main() -> None:
    """Entry point: errors that are meant for people become one line and exit code 2."""
    try:
        app()
    except ShadowproxyError as error:
        _fail(str(error))


def _fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    sys.stderr.write(f"shadowproxy: {message}\n")
    raise SystemExit(code)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shadowproxy {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    return


def _settings(path: Path) -> Settings:
    settings = load(path)
    # The supervisor tells its children where the store is, since an embedded one has no place in the file.
    url = os.environ.get("SHADOWPROXY_REDIS_URL")
    if url:
        settings = settings.model_copy(update={"redis": settings.redis.model_copy(update={"url": url})})
    return settings


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return uvloop.run(work)


def _process(name: str, config: Path, supervised: bool) -> None:
    settings = _settings(config)
    _log_to_stderr(settings.log_level)

    async def work() -> None:
        from shadowproxy.processes import PROCESSES, stop_signals, watch_parent
        from shadowproxy.tasks import Tasks

        tasks = Tasks()

        def announce(urls: Mapping[str, str]) -> None:
            if supervised:
                sys.stdout.write(json.dumps(dict(urls)) + "\n")
                sys.stdout.flush()
                return
            for what, url in urls.items():
                typer.echo(f"{what}: {url}")

        with stop_signals() as stop:
            if supervised:
                watch_parent(stop, tasks)
            try:
                await PROCESSES[name](settings, stop, announce)
            finally:
                await tasks.cancel()

    _run(work())


@app.command()
def run(config: Config) -> None:
    """Run everything: proxy, comparator and API, with an embedded Valkey where no redis.url is given.

    The parts are processes of their own; one that dies is started again. Ctrl-C or SIGTERM drains them in order.

    [bold]Example[/bold]: shadowproxy run --config config/minimal.yaml
    """
    settings = _settings(config)
    _log_to_stderr(settings.log_level)

    async def work() -> None:
        from shadowproxy.pairs.connect import server
        from shadowproxy.processes import stop_signals
        from shadowproxy.supervisor import Supervisor

        grace = max(settings.proxy.grace, settings.comparator.grace) + 5.0
        with stop_signals() as stop:
            async with server(settings.redis) as url:
                supervisor = Supervisor(config, url, grace=grace)
                await supervisor.start()
                for what, where in supervisor.urls.items():
                    typer.echo(f"{what}: {where}")
                typer.echo(f"experiment: {experiment_id(settings)}")
                await stop.wait()
                await supervisor.stop()

    _run(work())


@app.command()
def proxy(config: Config, supervised: Supervised = False) -> None:
    """Answer clients from the baseline and send copies to the candidate; pairs go to Redis.

    [bold]Example[/bold]: shadowproxy proxy --config config/shadowproxy.yaml
    """
    _process("proxy", config, supervised)


@app.command()
def compare(config: Config, supervised: Supervised = False) -> None:
    """Read pairs, compare them and accumulate the evidence. Start as many workers as it takes.

    [bold]Example[/bold]: shadowproxy compare --config config/shadowproxy.yaml
    """
    _process("compare", config, supervised)


@app.command()
def serve(config: Config, supervised: Supervised = False) -> None:
    """Serve the verdict (/api/v1/verdict), metrics (/metrics) and probes.

    [bold]Example[/bold]: shadowproxy serve --config config/shadowproxy.yaml
    """
    _process("serve", config, supervised)


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
        _fail("check-config needs a file, such as config/shadowproxy.yaml (or --schema)")
    settings = load(config)
    from rich.console import Console

    from shadowproxy.report.configuration import configuration_table
    from shadowproxy.verdict.rules import resolve, warnings

    console = Console()
    console.print(f"{config}: good. experiment {experiment_id(settings)}")
    console.print(configuration_table(settings, resolve(settings)))
    for warning in warnings(settings):
        console.print(f"warning: {warning}", style="yellow", markup=False)


@app.command()
def verdict(
    url: Annotated[
        str, typer.Option("--url", help="The API to ask.", envvar="SHADOWPROXY_API_URL")
    ] = "http://127.0.0.1:9100",
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Work the verdict out of the store instead of asking an API."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Print the verdict. Exit code: 0 promote, 1 rollback, 3 continue, 4 can't tell, 2 usage.

    [bold]Example[/bold]: shadowproxy verdict --url http://127.0.0.1:9100 || echo not yet
    """
    from shadowproxy.verdict.record import Verdict

    settings = None if config is None else _settings(config)

    async def ask() -> Verdict:
        if settings is None:
            from shadowproxy.serve.client import fetch_verdict

            return await fetch_verdict(url)
        from shadowproxy.processes import open_store
        from shadowproxy.serve.reader import VerdictReader

        async with open_store(settings) as store:
            return (await VerdictReader(store, settings).read()).verdict

    try:
        got: Verdict = _run(ask())
    except (ApiUnavailable, StoreUnavailable) as error:
        _fail(str(error), EXIT_UNREACHABLE)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(got))
    else:
        from rich.console import Console

        from shadowproxy.report.terminal import verdict_view

        Console().print(verdict_view(got))
    raise SystemExit(EXIT_CODES[got.state.value])
