"""The verdict, as people and pipelines ask for it."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowproxy.cli.common import (
    API,
    EXIT_UNREACHABLE,
    CaCert,
    Json,
    Token,
    Url,
    fail,
    read_settings,
    remote,
    run_loop,
)
from shadowproxy.errors import ApiUnavailable, PayloadError, StoreUnavailable

if TYPE_CHECKING:
    from shadowproxy.config import Settings
    from shadowproxy.serve.client import Remote
    from shadowproxy.serve.waiting import Look
    from shadowproxy.verdict.record import Verdict

app = typer.Typer()

_PATIENCE = "30m"
_SAID_AGAIN = 60.0
"""Seconds after which a line is written though nothing has changed."""


@app.command()
def verdict(
    url: Url = API,
    token: Token = None,
    cacert: CaCert = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", metavar="FILE", help="Work the verdict out of the store instead of asking an API."
        ),
    ] = None,
    as_json: Json = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each figure means and how the decision follows.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it is promote or rollback, or the horizon is reached.")
    ] = False,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="DURATION", help=f"With --wait: for so long at most [default: {_PATIENCE}]."),
    ] = None,
    every: Annotated[str, typer.Option("--every", metavar="DURATION", help="With --wait: look so often.")] = "1s",
) -> None:
    """Print the verdict. Exit code: 0 promote, 1 rollback, 3 continue, 4 can't tell, 2 usage.

    With --wait an API or a store that is away is waited for, too: 4 if it is away when the time is up, else 3.

    [bold]Example[/bold]: shadowproxy verdict --url http://127.0.0.1:9100 --wait --timeout 30m || echo not yet
    """
    from shadowproxy.verdict.record import EXIT_CODES

    if explain and as_json:
        fail("--json has all figures and prints nothing else: leave out --explain")
    if timeout is not None and not wait:
        fail("--timeout is for --wait")
    settings = None if config is None else read_settings(config)
    api = remote(url, token, cacert)
    try:
        if wait:
            got = _awaited(api, settings, _duration("--timeout", timeout or _PATIENCE), _duration("--every", every))
        else:
            got = run_loop(_asked(api, settings))
    except (ApiUnavailable, StoreUnavailable, PayloadError) as error:
        fail(str(error), EXIT_UNREACHABLE)
    print_verdict(got, as_json=as_json, explain=explain)
    raise SystemExit(EXIT_CODES[got.state])


def print_verdict(got: Verdict, *, as_json: bool, explain: bool) -> None:
    """The verdict on stdout: as JSON, explained, or as a report."""
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(got))
        return
    from rich.console import Console

    if explain:
        from shadowproxy.report.explain import explanation

        Console(highlight=False).print(explanation(got))
        return
    from shadowproxy.report.terminal import verdict_report

    Console().print(verdict_report(got))


def _duration(option: str, text: str) -> float:
    from shadowproxy.config.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        fail(f"{option}: {error}")


async def _asked(url: Remote, settings: Settings | None) -> Verdict:
    async with _looking(url, settings) as look:
        return await look()


@contextlib.asynccontextmanager
async def _looking(url: Remote, settings: Settings | None) -> AsyncIterator[Callable[[], Awaitable[Verdict]]]:
    """How to look: at the API `url`, or into the store of `settings`, which is opened when it is first there."""
    if settings is None:
        from shadowproxy.serve.client import fetch_verdict

        yield partial(fetch_verdict, url)
        return
    from shadowproxy.processes import open_store
    from shadowproxy.serve.reader import VerdictReader

    async with contextlib.AsyncExitStack() as stack:
        readers: list[VerdictReader] = []

        async def look() -> Verdict:
            if not readers:
                readers.append(VerdictReader(await stack.enter_async_context(open_store(settings)), settings))
            return (await readers[0].read()).verdict

        yield look


def _awaited(url: Remote, settings: Settings | None, timeout: float, every: float) -> Verdict:
    """The verdict when the waiting is over. Raises ApiUnavailable where there is none then."""
    from shadowproxy.processes import stop_signals
    from shadowproxy.report.words import lasting
    from shadowproxy.serve.waiting import Look, follow

    async def waiting() -> Look:
        last = Look(None, "stopped before there was an answer", 0.0)
        with stop_signals() as stop, _shown(timeout) as show:
            async with _looking(url, settings) as look:
                looks = follow(look, every=every, timeout=timeout, stop=stop)
                async with contextlib.aclosing(looks):
                    async for last in looks:
                        show(last)
        return last

    last: Look = run_loop(waiting())
    if last.trouble or last.verdict is None:
        raise ApiUnavailable(f"{last.trouble}; waited for {lasting(last.elapsed)}")
    if not last.decided:
        sys.stderr.write(f"nothing was decided in {lasting(last.elapsed)}\n")
    return last.verdict


@contextlib.contextmanager
def _shown(timeout: float) -> Iterator[Callable[[Look], None]]:
    """Progress on stderr: on a terminal what changes in place, else a line where something has changed."""
    from rich.console import Console

    from shadowproxy.report.waiting import waiting_line, waiting_view

    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        from rich.live import Live

        with Live(console=console, transient=True, auto_refresh=False) as live:
            yield lambda look: live.update(
                waiting_view(look.verdict, look.trouble, look.elapsed, timeout), refresh=True
            )
        return
    said: tuple[object, ...] = ()
    again = -math.inf

    def line(look: Look) -> None:
        nonlocal said, again
        seen = look.verdict
        news = (look.trouble,) if seen is None or look.trouble else _news(seen)
        if news != said or look.elapsed >= again:
            said, again = news, look.elapsed + _SAID_AGAIN
            sys.stderr.write(f"{waiting_line(seen, look.trouble)}\n")
            sys.stderr.flush()

    yield line


def _news(seen: Verdict) -> tuple[object, ...]:
    """What must have changed for a line to be worth it: a finding, or a check."""
    from shadowproxy.verdict.record import cells

    checks = tuple((check.name, check.passed) for check in seen.checks)
    return seen.state, seen.exhausted, checks, tuple((one.guardrail, one.cohort, one.finding) for one in cells(seen))
