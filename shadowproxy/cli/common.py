"""What the commands share: options, settings, how a process is run, and how it ends."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
import uvloop

from shadowproxy.config import Settings, load

if TYPE_CHECKING:
    from shadowproxy.children import Stop
    from shadowproxy.serve.client import Remote

EXIT_USAGE = 2
EXIT_UNREACHABLE = 4
EXIT_UNFINISHED = 5

Config = Annotated[
    Path, typer.Option("--config", "-c", help="Configuration file (YAML).", metavar="FILE", show_default=False)
]
Url = Annotated[str, typer.Option("--url", help="The API to ask.", envvar="SHADOWPROXY_API_URL")]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="SHADOWPROXY_API_TOKEN",
        metavar="TOKEN",
        help="One of its serve.tokens; others see it in the list of processes, so prefer the variable.",
        show_envvar=True,
    ),
]
CaCert = Annotated[
    Path | None,
    typer.Option("--cacert", envvar="SHADOWPROXY_API_CACERT", metavar="FILE", help="Who signed its certificate (PEM)."),
]
Store = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Go to the store of this configuration, past any API."),
]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept with the experiment.", metavar="TEXT")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
API = "http://127.0.0.1:9100"
Supervised = Annotated[bool, typer.Option("--supervised", hidden=True)]


def remote(url: str, token: str | None, cacert: Path | None) -> Remote:
    """The API that a command asks."""
    from shadowproxy.serve.client import Remote

    return Remote(url, token or "", cacert)


def fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    """End with one line on stderr."""
    sys.stderr.write(f"shadowproxy: {message}\n")
    raise SystemExit(code)


def read_settings(path: Path) -> Settings:
    """The configuration. Raises ConfigError."""
    settings = load(path)
    # The supervisor tells its children where the store is, since an embedded one has no place in the file.
    url = os.environ.get("SHADOWPROXY_REDIS_URL")
    if url:
        settings = settings.model_copy(update={"redis": settings.redis.model_copy(update={"url": url})})
    return settings


def log_to_stderr(level: str, who: str = "") -> None:
    """Log what is as important as `level`; `who` is put before each line."""
    logging.basicConfig(
        level=level.upper(), stream=sys.stderr, format=f"%(asctime)s %(levelname)-7s {who}%(name)s: %(message)s"
    )


def run_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run it in a loop of its own."""
    return uvloop.run(work)


def run_process(
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
        run_loop(process())
    except PartFailed:
        raise SystemExit(EXIT_USAGE) from None
