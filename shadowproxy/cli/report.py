"""`shadowproxy report`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowproxy import __version__
from shadowproxy.cli.common import API, EXIT_UNREACHABLE, Store, Url, fail, read_settings, run_loop
from shadowproxy.cli.judge import written
from shadowproxy.errors import ApiUnavailable, PayloadError, StoreUnavailable

if TYPE_CHECKING:
    from shadowproxy.config import Settings
    from shadowproxy.report.material import Material
    from shadowproxy.serve.collect import Answers

app = typer.Typer()


@app.command()
def report(
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write one self-contained page; - is stdout.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write it as Markdown; - is stdout.")
    ] = None,
    url: Url = API,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="SHADOWPROXY_API_TOKEN", help="What the API wants to see, if it does."),
    ] = None,
    config: Store = None,
    experiment: Annotated[
        str | None,
        typer.Option("--experiment", metavar="ID", help="With --config: this one of its store, also of another time."),
    ] = None,
    pairs: Annotated[
        int, typer.Option("--pairs", min=0, max=100, help="Worst pairs of each guardrail, and of each harmful cell.")
    ] = 3,
    bodies: Annotated[
        bool, typer.Option("--bodies/--no-bodies", help="Heads and bodies of these pairs, as they were redacted.")
    ] = True,
    small: Annotated[
        bool, typer.Option("--small", help="Leave out the library (4.9 MB) that draws charts: pictures stand instead.")
    ] = False,
) -> None:
    """Write the verdict with all that belongs to it into a file, to be attached to a release or kept by a build.

    The exit code is 0 whatever the verdict is: `shadowproxy verdict` is for decisions. 4: there is none to be had.

    [bold]Example[/bold]: shadowproxy report --html report.html --markdown report.md
    """
    if html is None and markdown is None:
        fail("say what to write: --html FILE, --markdown FILE, or both")
    if str(html) == str(markdown) == "-":
        fail("only one of --html and --markdown can be stdout")
    if experiment is not None and config is None:
        fail("--experiment is looked up in the store of a --config FILE")
    settings = None if config is None else read_settings(config)
    try:
        material: Material = run_loop(_collected(url, token, settings, experiment, pairs, bodies))
    except (ApiUnavailable, StoreUnavailable, PayloadError) as error:
        fail(str(error), EXIT_UNREACHABLE)
    from shadowproxy.serve.experiments import when

    if html is not None:
        from shadowproxy.report.html import report_page

        written(html, report_page(material, when, charts=not small))
    if markdown is not None:
        from shadowproxy.report.markdown import report_markdown

        written(markdown, report_markdown(material, when))


async def _collected(
    url: str, token: str | None, settings: Settings | None, experiment: str | None, pairs: int, bodies: bool
) -> Material:
    from shadowproxy.report.material import Made
    from shadowproxy.serve.collect import collect, named

    source = named(url) if settings is None else "its store"
    async with _asked(url, token, settings, experiment) as api:
        return await collect(api, Made(version=__version__, source=source), pairs=pairs, bodies=bodies)


@contextlib.asynccontextmanager
async def _asked(
    url: str, token: str | None, settings: Settings | None, experiment: str | None
) -> AsyncIterator[Answers]:
    """The API at `url`, or the endpoints over the store of `settings`."""
    if settings is None:
        from shadowproxy.serve.collect import answers

        async with answers(url, token=token) as api:
            yield api
        return
    from shadowproxy.config import experiment_id, thawed
    from shadowproxy.pairs.connect import resolve
    from shadowproxy.pairs.experiments import opened
    from shadowproxy.serve.looking import looked_into

    name = experiment or experiment_id(settings)
    async with resolve(settings.redis) as store, opened(store, name) as one:
        judged = settings if name == experiment_id(settings) else thawed(one.description, name)
        async with looked_into(one.store, judged) as api:
            yield api
