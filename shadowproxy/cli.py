"""The commands; wiring only. Each says what it does, shows an example, and ends with a code that means something."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import orjson
import typer
import uvloop

from shadowproxy import __version__
from shadowproxy.config import Settings, load, worker_count, worker_settings
from shadowproxy.errors import ApiUnavailable, PayloadError, ShadowproxyError, StoreUnavailable, Unfinished

if TYPE_CHECKING:
    from shadowproxy.children import Stop
    from shadowproxy.demo.scenarios import Scenario
    from shadowproxy.pairs.controls import ControlChange, ControlStatus

EXIT_USAGE = 2
EXIT_UNREACHABLE = 4
EXIT_UNFINISHED = 5

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
Url = Annotated[str, typer.Option("--url", help="The API to ask.", envvar="SHADOWPROXY_API_URL")]
Store = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Go to the store of this configuration, past any API."),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the experiment.", metavar="TEXT")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
API = "http://127.0.0.1:9100"
CONFIRMED_WITHIN = 3.0
"""Seconds for every proxy to say that it goes by a change: they look several times a second."""
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


def main() -> None:
    """Entry point: errors that are meant for people become one line and exit code 2."""
    try:
        app()
    except Unfinished as error:
        _fail(str(error), EXIT_UNFINISHED)
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


def _log_to_stderr(level: str, who: str = "") -> None:
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format=f"%(asctime)s %(levelname)-7s {who}%(name)s: %(message)s"
    )


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return uvloop.run(work)


def _process(
    work: Callable[[Stop, Callable[[Mapping[str, str]], None]], Coroutine[Any, Any, None]], supervised: bool
) -> None:
    """Run one process until it is told to stop. One that is supervised announces itself in one line of JSON."""
    from shadowproxy.children import PartFailed
    from shadowproxy.processes import stop_signals, watch_parent
    from shadowproxy.tasks import Tasks

    def announce(urls: Mapping[str, str]) -> None:
        if supervised:
            sys.stdout.write(json.dumps(dict(urls)) + "\n")
            sys.stdout.flush()
            return
        for what, url in urls.items():
            typer.echo(f"{what}: {url}")

    async def process() -> None:
        tasks = Tasks()
        with stop_signals() as stop:
            if supervised:
                watch_parent(stop, tasks)
            try:
                await work(stop, announce)
            finally:
                await tasks.cancel()

    try:
        _run(process())
    except PartFailed:
        raise SystemExit(EXIT_USAGE) from None


@app.command()
def run(config: Config) -> None:
    """Run everything: proxy, comparator and API, with an embedded Valkey where no redis.url is given.

    The parts are processes of their own; one that dies is started again. Ctrl-C or SIGTERM drains them in order.

    [bold]Example[/bold]: shadowproxy run --config config/minimal.yaml
    """
    settings = _settings(config)
    _log_to_stderr(settings.log_level)

    from shadowproxy.children import on_hangup
    from shadowproxy.processes import open_store
    from shadowproxy.supervisor import Supervisor

    async def work(stop: Stop, announce: Callable[[Mapping[str, str]], None]) -> None:
        # Opened here first, so that a wrong URL is said once and not by every part.
        async with open_store(settings) as store:
            supervisor = Supervisor(config, settings, store.url)
            stop.at_once.append(supervisor.end_at_once)
            await supervisor.start()
            with on_hangup(settings, partial(supervisor.hang_up, "proxy")):
                announce({**supervisor.urls, "experiment": store.name})
                await stop.wait()
                failed = await supervisor.stop()
        if failed:
            raise Unfinished(failed)

    _process(work, supervised=False)


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

    settings = _settings(config)
    number, count, port = worker
    if count:
        _log_to_stderr(settings.log_level, f"worker {number}: ")
        _process(partial(run_proxy, worker_settings(settings, count, port), reuse_port=True), supervised)
        return
    _log_to_stderr(settings.log_level)
    if worker_count(settings) == 1:
        _process(partial(run_proxy, settings), supervised)
        return
    from shadowproxy.workers import run_workers

    _process(partial(run_workers, config, settings), supervised)


@app.command()
def compare(config: Config, supervised: Supervised = False) -> None:
    """Read pairs, compare them and accumulate the evidence. Start as many workers as it takes.

    [bold]Example[/bold]: shadowproxy compare --config config/shadowproxy.yaml
    """
    from shadowproxy.processes import run_comparator

    settings = _settings(config)
    _log_to_stderr(settings.log_level)
    _process(partial(run_comparator, settings), supervised)


@app.command()
def serve(config: Config, supervised: Supervised = False) -> None:
    """Serve the verdict (/api/v1/verdict), metrics (/metrics) and probes.

    [bold]Example[/bold]: shadowproxy serve --config config/shadowproxy.yaml
    """
    from shadowproxy.processes import run_api

    settings = _settings(config)
    _log_to_stderr(settings.log_level)
    _process(partial(run_api, settings), supervised)


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

    from shadowproxy.config import experiment_id, risks
    from shadowproxy.report.configuration import configuration_table
    from shadowproxy.verdict.rules import rules, warnings

    console = Console()
    console.print(f"{config}: good; experiment {experiment_id(settings)}")
    console.print(configuration_table(settings, rules(settings)))
    for warning in (*risks(settings), *warnings(settings)):
        console.print(f"warning: {warning}", style="yellow", markup=False)


@app.command()
def verdict(
    url: Url = API,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Work the verdict out of the store instead of asking an API."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the verdict. Exit code: 0 promote, 1 rollback, 3 continue, 4 can't tell, 2 usage.

    [bold]Example[/bold]: shadowproxy verdict --url http://127.0.0.1:9100 || echo not yet
    """
    from shadowproxy.verdict.record import EXIT_CODES, Verdict

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
    except (ApiUnavailable, StoreUnavailable, PayloadError) as error:
        _fail(str(error), EXIT_UNREACHABLE)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(got))
    else:
        from rich.console import Console

        from shadowproxy.report.terminal import verdict_report

        Console().print(verdict_report(got))
    raise SystemExit(EXIT_CODES[got.state])


@app.command()
def pause(url: Url = API, config: Store = None, reason: Reason = "", as_json: Json = False) -> None:
    """Stop all mirroring of the experiment within a second; clients are answered as before.

    What is under way is completed and recorded. It stays so until `resume`, also for proxies that start meanwhile.

    [bold]Example[/bold]: shadowproxy pause --reason "the candidate is overloaded"
    """
    _control(url, config, as_json, paused=True, reason=reason)


@app.command()
def resume(url: Url = API, config: Store = None, reason: Reason = "", as_json: Json = False) -> None:
    """Mirror again after `pause`.

    [bold]Example[/bold]: shadowproxy resume --reason "the candidate has its second machine"
    """
    _control(url, config, as_json, paused=False, reason=reason)


@app.command()
def sample(
    share: Annotated[float | None, typer.Argument(min=0, max=1, show_default=False, help="From 0 to 1.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Back to what the configuration says.")] = False,
    url: Url = API,
    config: Store = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Set the share of requests that are mirrored, in place of proxy.mirror.sample, while the proxies run.

    Who is in at a share is in at every larger one. A route with a share of its own is mirrored at the lower of the two.

    [bold]Example[/bold]: shadowproxy sample 0.1 --reason "a tenth will do at night"
    """
    if (share is None) is not reset:
        _fail("sample needs a share from 0 to 1, such as `shadowproxy sample 0.1`, or --reset")
    _control(url, config, as_json, sample=share, reason=reason)


@app.command()
def control(url: Url = API, config: Store = None, as_json: Json = False) -> None:
    """Show whether and how much is mirrored, which proxies go by it, and what was changed by whom and why.

    [bold]Example[/bold]: shadowproxy control --json
    """
    _control(url, config, as_json)


def _control(url: str, config: Path | None, as_json: bool, **changes: Any) -> None:
    """Ask for a change, or with none for the state; print it, and end with 4 where a proxy has not confirmed it."""
    import asyncio
    import getpass
    import socket

    import msgspec

    from shadowproxy.pairs.controls import ControlChange, Controls

    settings = None if config is None else _settings(config)
    change = ControlChange(**changes, by=f"{getpass.getuser()}@{socket.gethostname()}") if changes else None
    if change is not None:
        try:
            change.applied_to(Controls(), 0.0)
        except ValueError as error:
            _fail(str(error))

    async def ask() -> ControlStatus:
        async with _controls(settings, url) as (look, put):
            if change is None:
                return await look()
            status = await put(change)
            clock = asyncio.get_running_loop().time
            until = clock() + CONFIRMED_WITHIN
            while status.behind and clock() < until:
                await asyncio.sleep(0.1)
                status = await look()
            return status

    try:
        got: ControlStatus = _run(ask())
    except (ApiUnavailable, StoreUnavailable, PayloadError) as error:
        _fail(str(error), EXIT_UNREACHABLE)
    if as_json:
        typer.echo(msgspec.json.encode(got))
    else:
        typer.echo(got.describe(history=change is None))
    if got.behind:
        _fail(f"{', '.join(got.behind)} has not confirmed it; is it able to reach the store?", EXIT_UNREACHABLE)


@contextlib.asynccontextmanager
async def _controls(
    settings: Settings | None, url: str
) -> AsyncIterator[tuple[Callable[[], Awaitable[ControlStatus]], Callable[[ControlChange], Awaitable[ControlStatus]]]]:
    """How to look at the controls and how to change them: by the API at `url`, or in the store of `settings`."""
    if settings is None:
        from shadowproxy.serve.client import change_control, fetch_control

        yield partial(fetch_control, url), partial(change_control, url)
        return
    from shadowproxy.processes import open_store

    async with open_store(settings) as store:

        async def put(change: ControlChange) -> ControlStatus:
            await store.change_controls(change)
            return await store.control_status()

        yield store.control_status, put


@app.command()
def demo(
    scenario: Annotated[
        str, typer.Option("--scenario", "-s", help="What the candidate is: see --list.", show_default=True)
    ] = "better",
    seed: Annotated[int, typer.Option("--seed", help="Fixes everything random.")] = 7,
    rate: Annotated[float, typer.Option("--rate", min=1, max=2000, help="Requests a second.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running after the verdict.")] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="MovieLens 100k: a folder, or the recbole wheel.", show_default=False),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the scenarios.")] = False,
) -> None:
    """Watch a real recommender being compared with a changed one, and the verdict arrive.

    Ends with the exit code of the verdict: 0 promote, 1 rollback, 3 continue.

    [bold]Example[/bold]: shadowproxy demo --scenario cohort-regression
    """
    from shadowproxy.demo.scenarios import SCENARIOS

    if list_:
        for known in SCENARIOS.values():
            blame = f", because of {known.cohort}" if known.cohort else ""
            typer.echo(f"{known.name:18} {known.title} (must reach {known.expected.value}{blame})")
        return
    if scenario not in SCENARIOS:
        _fail(f"there is no scenario {scenario!r}; there are {', '.join(SCENARIOS)}")
    _log_to_stderr("warning")
    raise SystemExit(_run(_demo(SCENARIOS[scenario], seed, rate, as_json, keep, data)))


async def _demo(scenario: Scenario, seed: int, rate: float, as_json: bool, keep: bool, data: Path | None) -> int:
    from rich.console import Console

    from shadowproxy.demo import run as demonstration
    from shadowproxy.demo import view
    from shadowproxy.demo.stack import ProcessStack
    from shadowproxy.processes import stop_signals

    # Whoever reads --json gets progress on the other stream, where a terminal is there to show it.
    console = Console(stderr=as_json)
    with stop_signals() as stop, tempfile.TemporaryDirectory(prefix="shadowproxy-demo-") as folder:

        async def concluded(result: demonstration.Result) -> None:
            if as_json:
                typer.echo(orjson.dumps(demonstration.as_json(result)))
            if keep:
                console.print(view.kept(result))
                await stop.wait()

        options = demonstration.Options(scenario, seed=seed, rate=rate, data=data, data_dir=f"{folder}/redis")
        events = demonstration.run(options, ProcessStack(Path(folder)), stop=stop, keep=concluded)
        async with contextlib.aclosing(events):
            result = await view.watch(events, console)
        return result.exit_code
