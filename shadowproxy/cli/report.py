"""`shadowproxy report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowproxy import __version__
from shadowproxy.cli.common import API, EXIT_UNREACHABLE, Url, fail, run_loop
from shadowproxy.cli.judge import written
from shadowproxy.errors import ApiUnavailable

if TYPE_CHECKING:
    from shadowproxy.report.material import Material

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
) -> None:
    """Write the verdict with all that belongs to it into a file, to be attached to a release or kept by a build.

    The exit code is 0 whatever the verdict is: `shadowproxy verdict` is for decisions. 4: there is none to be had.

    [bold]Example[/bold]: shadowproxy report --html report.html --markdown report.md
    """
    if html is None and markdown is None:
        fail("say what to write: --html FILE, --markdown FILE, or both")
    if str(html) == str(markdown) == "-":
        fail("only one of --html and --markdown can be stdout")
    try:
        material: Material = run_loop(_collected(url))
    except ApiUnavailable as error:
        fail(str(error), EXIT_UNREACHABLE)
    if html is not None:
        from shadowproxy.report.html import report_page
        from shadowproxy.serve.experiments import when

        written(html, report_page(material, when))
    if markdown is not None:
        from shadowproxy.report.markdown import verdict_markdown

        written(markdown, verdict_markdown(material.verdict))


async def _collected(url: str) -> Material:
    from shadowproxy.report.material import Made
    from shadowproxy.serve.collect import answers, collect

    async with answers(url) as api:
        return await collect(api, Made(version=__version__, source=url))
