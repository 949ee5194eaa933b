"""The verdict, as people and pipelines ask for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowproxy.cli.common import API, EXIT_UNREACHABLE, Json, Url, fail, read_settings, run_loop
from shadowproxy.errors import ApiUnavailable, PayloadError, StoreUnavailable

if TYPE_CHECKING:
    from shadowproxy.verdict.record import Verdict

app = typer.Typer()


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
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what each figure means and how the decision follows.")
    ] = False,
) -> None:
    """Print the verdict. Exit code: 0 promote, 1 rollback, 3 continue, 4 can't tell, 2 usage.

    [bold]Example[/bold]: shadowproxy verdict --url http://127.0.0.1:9100 || echo not yet
    """
    from shadowproxy.verdict.record import EXIT_CODES

    settings = None if config is None else read_settings(config)

    async def ask() -> Verdict:
        if settings is None:
            from shadowproxy.serve.client import fetch_verdict

            return await fetch_verdict(url)
        from shadowproxy.processes import open_store
        from shadowproxy.serve.reader import VerdictReader

        async with open_store(settings) as store:
            return (await VerdictReader(store, settings).read()).verdict

    try:
        got: Verdict = run_loop(ask())
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
