"""`shadowproxy demo`."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from shadowproxy.cli.common import fail, log_to_stderr, run_loop

if TYPE_CHECKING:
    from shadowproxy.demo.scenarios import Scenario

app = typer.Typer()


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
        fail(f"there is no scenario {scenario!r}; there are {', '.join(SCENARIOS)}")
    log_to_stderr("warning")
    raise SystemExit(run_loop(_demo(SCENARIOS[scenario], seed, rate, as_json, keep, data)))


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
