"""What people say to the proxies while they run: pause, resume, how much to mirror."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowproxy.cli.common import (
    API,
    EXIT_UNREACHABLE,
    CaCert,
    Json,
    Reason,
    Store,
    Token,
    Url,
    fail,
    read_settings,
    remote,
    run_loop,
)
from shadowproxy.config import Settings
from shadowproxy.errors import ApiUnavailable, PayloadError, StoreUnavailable

if TYPE_CHECKING:
    from shadowproxy.pairs.controls import ControlChange, ControlStatus
    from shadowproxy.serve.client import Remote

CONFIRMED_WITHIN = 3.0
"""Seconds for every proxy to say that it goes by a change: they look several times a second."""

app = typer.Typer()


@app.command()
def pause(
    url: Url = API,
    token: Token = None,
    cacert: CaCert = None,
    config: Store = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Stop all mirroring of the experiment within a second; clients are answered as before.

    What is under way is completed and recorded. It stays so until `resume`, also for proxies that start meanwhile.

    [bold]Example[/bold]: shadowproxy pause --reason "the candidate is overloaded"
    """
    say(remote(url, token, cacert), config, as_json, paused=True, reason=reason)


@app.command()
def resume(
    url: Url = API,
    token: Token = None,
    cacert: CaCert = None,
    config: Store = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Mirror again after `pause`.

    [bold]Example[/bold]: shadowproxy resume --reason "the candidate has its second machine"
    """
    say(remote(url, token, cacert), config, as_json, paused=False, reason=reason)


@app.command()
def sample(
    share: Annotated[float | None, typer.Argument(min=0, max=1, show_default=False, help="From 0 to 1.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Back to what the configuration says.")] = False,
    url: Url = API,
    token: Token = None,
    cacert: CaCert = None,
    config: Store = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Set the share of requests that are mirrored, in place of proxy.mirror.sample, while the proxies run.

    Who is in at a share is in at every larger one. A route with a share of its own is mirrored at the lower of the two.

    [bold]Example[/bold]: shadowproxy sample 0.1 --reason "a tenth will do at night"
    """
    if (share is None) is not reset:
        fail("sample needs a share from 0 to 1, such as `shadowproxy sample 0.1`, or --reset")
    say(remote(url, token, cacert), config, as_json, sample=share, reason=reason)


@app.command()
def control(
    url: Url = API, token: Token = None, cacert: CaCert = None, config: Store = None, as_json: Json = False
) -> None:
    """Show whether and how much is mirrored, which proxies go by it, and what was changed by whom and why.

    [bold]Example[/bold]: shadowproxy control --json
    """
    say(remote(url, token, cacert), config, as_json)


def say(url: Remote, config: Path | None, as_json: bool, **changes: Any) -> None:
    """Ask for a change, or with none for the state; print it, and end with 4 where a proxy has not confirmed it."""
    import asyncio
    import getpass
    import socket

    import msgspec

    from shadowproxy.pairs.controls import ControlChange, Controls

    settings = None if config is None else read_settings(config)
    change = ControlChange(**changes, by=f"{getpass.getuser()}@{socket.gethostname()}") if changes else None
    if change is not None:
        try:
            change.applied_to(Controls(), 0.0)
        except ValueError as error:
            fail(str(error))

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
        got: ControlStatus = run_loop(ask())
    except (ApiUnavailable, StoreUnavailable, PayloadError) as error:
        fail(str(error), EXIT_UNREACHABLE)
    if as_json:
        typer.echo(msgspec.json.encode(got))
    else:
        typer.echo(got.describe(history=change is None))
    if got.behind:
        fail(f"{', '.join(got.behind)} has not confirmed it; is it able to reach the store?", EXIT_UNREACHABLE)


@contextlib.asynccontextmanager
async def _controls(
    settings: Settings | None, url: Remote
) -> AsyncIterator[tuple[Callable[[], Awaitable[ControlStatus]], Callable[[ControlChange], Awaitable[ControlStatus]]]]:
    """How to look at the controls and how to change them: by the API `url`, or in the store of `settings`."""
    if settings is None:
        from shadowproxy.serve.client import change_control, fetch_control

        yield partial(fetch_control, url), partial(change_control, url)
        return
    from shadowproxy.processes import open_store

    async with open_store(settings) as store:

        async def put(change: ControlChange) -> ControlStatus:
            await store.home.change_controls(change)
            return await store.home.control_status()

        yield store.home.control_status, put
