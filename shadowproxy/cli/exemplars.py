"""Looking at the pairs that are worth it: the worst of each guardrail, and some at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from shadowproxy.cli.common import Config, fail, read_settings
from shadowproxy.cli.pairs import look, say, when

if TYPE_CHECKING:
    from shadowproxy.children import Stop
    from shadowproxy.pairs.partitions import Partitions
    from shadowproxy.serve.exemplars import Kept

app = typer.Typer()

Lines = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
_ALL = "all"


@app.command()
def worst(
    config: Config,
    guardrail: Annotated[
        str | None,
        typer.Option("--guardrail", metavar="NAME", help="As the verdict names it; all of them unless given."),
    ] = None,
    cohort: Annotated[
        str, typer.Option("--cohort", metavar="NAME", help="Such as region=us, or other for the pooled ones.")
    ] = _ALL,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Of each guardrail, at most.")] = 10,
    as_json: Lines = False,
) -> None:
    """Print the pairs with the greatest loss of each guardrail, worst first, a line each; `pairs show` has the rest.

    [bold]Example[/bold]: shadowproxy pairs worst --config config/minimal.yaml --guardrail ranking.rbo -n 3
    """

    async def work(store: Partitions, stop: Stop) -> None:
        from shadowproxy.report.words import plain
        from shadowproxy.serve.exemplars import ExemplarReader

        reader = ExemplarReader(store, read_settings(config))
        if guardrail is not None and guardrail not in reader.guardrails:
            fail(f"there is no guardrail {plain(guardrail)}; there are {', '.join(reader.guardrails)}")
        found = await reader.worst(guardrail, cohort, limit)
        if not found and cohort not in (known := await reader.cohorts()):
            fail(f"there is no cohort {plain(cohort)}; there are {', '.join(map(plain, known))}")
        _print(found, as_json)
        if not found:
            say("no pair was kept: none was counted yet that did any harm, or comparator.worst is 0")

    look(config, work)


@app.command()
def sample(
    config: Config,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most.")] = 100,
    as_json: Lines = False,
) -> None:
    """Print pairs chosen by chance, each as likely as any other that was counted, a line each, oldest first.

    [bold]Example[/bold]: shadowproxy pairs sample --config config/minimal.yaml --limit 20
    """

    async def work(store: Partitions, stop: Stop) -> None:
        from shadowproxy.serve.exemplars import ExemplarReader

        found = await ExemplarReader(store, read_settings(config)).sample(limit)
        _print(found, as_json)
        if not found:
            say("no pair was kept: none was counted yet, or comparator.sample is 0")

    look(config, work)


def _print(found: Sequence[Kept], as_json: bool) -> None:
    import msgspec

    from shadowproxy.report.pair import summary
    from shadowproxy.report.words import plain, plain_json

    for exemplar, pair in found:
        if as_json:
            typer.echo(plain_json(msgspec.json.encode(exemplar).decode()))
            continue
        words = [summary(pair, when(pair.started)), *map(plain, exemplar.cohorts)]
        if exemplar.guardrail is not None:
            words = [exemplar.guardrail, plain(exemplar.cohort), f"loss {exemplar.loss:.4g}", *words]
        typer.echo("  ".join(words))
