"""The commands; wiring only. Each says what it does, shows an example, and ends with a code that means something."""

from __future__ import annotations

from typing import Annotated

import typer

from shadowproxy import __version__
from shadowproxy.cli import control, demo, exemplars, experiment, inspect, judge, pairs, plan, report, run, verdict
from shadowproxy.cli.common import EXIT_UNFINISHED, fail
from shadowproxy.errors import ShadowproxyError, Unfinished

app = typer.Typer(
    name="shadowproxy",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Compare a candidate model with the one in service on live traffic, and know when it may be promoted.",
)
for commands in (run, verdict, report, judge, plan, control, experiment, inspect, demo):
    app.add_typer(commands.app)
pairs.app.add_typer(exemplars.app)
app.add_typer(pairs.app, name="pairs")


def main() -> None:
    """Entry point: errors that are meant for people become one line and exit code 2."""
    try:
        app()
    except Unfinished as error:
        fail(str(error), EXIT_UNFINISHED)
    except ShadowproxyError as error:
        fail(str(error))


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
