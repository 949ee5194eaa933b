"""Experiments as a whole: which there are, what is known of one, and how one is ended and begun anew."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shadowproxy.cli.common import (
    API,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    CaCert,
    Config,
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
from shadowproxy.cli.control import say
from shadowproxy.config import Settings, experiment_id
from shadowproxy.errors import PayloadError, StoreUnavailable

if TYPE_CHECKING:
    from shadowproxy.pairs.experiments import Summary
    from shadowproxy.serve.experiments import Report

Server = Annotated[
    str | None,
    typer.Option("--redis", metavar="URL", envvar="SHADOWPROXY_REDIS_URL", help="The store, without a configuration."),
]
Configured = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The store of this configuration; its experiment is marked."),
]
_SHOWN = 5
"""Changes of the verdict that are shown unless all are asked for."""

app = typer.Typer()
group = typer.Typer(
    name="experiment",
    no_args_is_help=True,
    help="List, show, start, stop and reset experiments.",
)
app.add_typer(group, name="experiment")


@group.command("list")
def list_(config: Configured = None, redis: Server = None, as_json: Json = False) -> None:
    """List all experiments of a store, oldest first: since when, how far, with which verdict, and whether they run.

    [bold]Example[/bold]: shadowproxy experiment list --config shadowproxy.yaml
    """
    import msgspec

    settings = _settings(config, redis)

    async def ask() -> list[Summary]:
        from shadowproxy.pairs.experiments import summaries

        async with _server(settings, redis) as url:
            return await summaries(url, None if settings is None else experiment_id(settings))

    found: list[Summary] = _answered(ask())
    if as_json:
        typer.echo(msgspec.json.encode({"experiments": found}))
        return
    from shadowproxy.serve.experiments import table

    for line in table(found) if found else ["no experiment has begun in this store"]:
        typer.echo(line)


@group.command()
def show(
    experiment: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="Its id, as `list` has it; none: the one of --config.")
    ] = None,
    history: Annotated[bool, typer.Option("--history", help="Every change of the verdict that is kept.")] = False,
    config: Configured = None,
    redis: Server = None,
    as_json: Json = False,
) -> None:
    """Show one experiment, also one of another time: frozen settings, accounting, versions, history and verdict.

    The verdict is worked out anew from what was counted, by the settings that were frozen then.

    [bold]Example[/bold]: shadowproxy experiment show ranker-1a2b3c4d --config shadowproxy.yaml --history
    """
    import msgspec

    settings = _settings(config, redis)
    if experiment is None:
        if settings is None:
            fail("say which: `shadowproxy experiment show ID`, with an id from `shadowproxy experiment list`")
        experiment = experiment_id(settings)

    async def ask(name: str) -> Report:
        from shadowproxy.serve.experiments import report

        async with _server(settings, redis) as url:
            return await report(url, name, settings)

    found: Report = _answered(ask(experiment))
    if as_json:
        typer.echo(msgspec.json.encode(found))
        return
    from rich.console import Console

    from shadowproxy.report.terminal import verdict_report
    from shadowproxy.serve.experiments import changes, summary

    for line in summary(found):
        typer.echo(line)
    lines = list(changes(found.history))
    shown = lines if history else lines[:_SHOWN]
    if shown:
        typer.echo("\nchanges of the verdict, newest first:")
    for line in shown:
        typer.echo(f"  {line}")
    if len(shown) < len(lines):
        typer.echo(f"  and {len(lines) - len(shown)} before these (--history)")
    frozen = {key: value for key, value in json.loads(bytes(found.settings)).items() if key != "catalogue"}
    typer.echo(f"\nfrozen settings:\n{json.dumps(frozen, indent=2)}\n")
    if found.verdict is None:
        fail(f"no verdict: {found.problem}", EXIT_UNREACHABLE)
    Console().print(verdict_report(found.verdict))


@group.command()
def start(
    url: Url = API,
    token: Token = None,
    cacert: CaCert = None,
    config: Store = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Make a stopped experiment run again, or register one that has not begun (with --config).

    A pause that was there before the stop stays: `resume` ends it.

    [bold]Example[/bold]: shadowproxy experiment start --reason "the candidate is fixed"
    """
    say(remote(url, token, cacert), config, as_json, stopped=False, reason=reason)


@group.command()
def stop(
    url: Url = API,
    token: Token = None,
    cacert: CaCert = None,
    config: Store = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """End the experiment: all proxies stop mirroring within a second, and `resume` doesn't change that.

    Comparators count what is there; the verdict stays readable, and says that the experiment was stopped.

    [bold]Example[/bold]: shadowproxy experiment stop --reason "promoted"
    """
    say(remote(url, token, cacert), config, as_json, stopped=True, reason=reason)


@group.command()
def reset(
    config: Config,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also where pairs are on their way; those that arrive later are counted.")
    ] = False,
    reason: Reason = "",
) -> None:
    """Forget all that was counted, and begin anew under the same id. Only when it is stopped and all is counted.

    Its settings and the history of the verdict stay; proxies and comparators may run on.

    [bold]Example[/bold]: shadowproxy experiment reset --config shadowproxy.yaml --reason "the candidate is a new build"
    """
    settings = read_settings(config)
    name = experiment_id(settings)
    if not yes and not typer.confirm(f"Forget all pairs of {name} and the verdict on them?"):
        fail("nothing was done")

    async def ask() -> int:
        from shadowproxy.pairs.experiments import reset as begin_anew
        from shadowproxy.processes import open_store

        async with open_store(settings) as store:
            return await begin_anew(store, by=_who(), reason=reason, force=force)

    counted: int = _answered(ask())
    typer.echo(f"{name}: {counted:,} pairs are forgotten; `shadowproxy experiment start` makes it run again")


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _settings(config: Path | None, redis: str | None) -> Settings | None:
    if config is None and redis is None:
        fail("say which store: --config FILE or --redis URL", EXIT_USAGE)
    return None if config is None else read_settings(config)


@asynccontextmanager
async def _server(settings: Settings | None, redis: str | None) -> AsyncIterator[str]:
    """Where the store is. A configuration without one means an embedded server, which runs as long as this."""
    from shadowproxy.pairs.connect import resolve

    if settings is None:
        yield redis or ""
        return
    async with resolve(settings.redis) as url:
        yield url


def _answered(work: Any) -> Any:
    try:
        return run_loop(work)
    except (StoreUnavailable, PayloadError) as error:
        fail(str(error), EXIT_UNREACHABLE)
