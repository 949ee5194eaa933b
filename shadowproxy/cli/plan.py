"""`shadowproxy plan`."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shadowproxy.cli.common import Json, fail, read_settings
from shadowproxy.cli.judge import Spoken, opened, shown, written

if TYPE_CHECKING:
    from shadowproxy.config import Settings
    from shadowproxy.verdict.planning import Case, Noise, Row

app = typer.Typer()

_SHARE = 0.1


@app.command()
def plan(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", help="Plan the guardrails of this configuration.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="NUMBER/s", help="Mirrored pairs, such as 50/s, 3000/m or 1e6/d.")
    ] = None,
    noise: Annotated[
        list[str] | None,
        typer.Option(
            "--noise",
            metavar="METRIC=SD",
            help="Standard deviation of a guardrail's loss, or METRIC=MEAN,SD; of a latency quantile that of the "
            "logarithm, or METRIC=CORRELATION,SD. Repeatable.",
        ),
    ] = None,
    recorded: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="FILE", help="Learn means and deviations from recorded pairs. Repeatable."),
    ] = None,
    worse: Annotated[
        float, typer.Option("--worse", min=1, help="What harm is looked for, as a multiple of the margin.")
    ] = 2.0,
    share: Annotated[
        float | None,
        typer.Option("--cohort-share", min=1e-6, max=1, help="Of the smallest cohort [default: verdict.large_cohort]."),
    ] = None,
    margin: Annotated[float | None, typer.Option("--margin", help="Without --config: the margin.")] = None,
    sd: Annotated[float | None, typer.Option("--sd", min=0, help="Without --config: deviation of the loss.")] = None,
    mean: Annotated[float, typer.Option("--mean", help="Without --config: the true mean loss.")] = 0.0,
    lo: Annotated[float, typer.Option("--lo", help="Without --config: the least loss of a pair.")] = -1.0,
    hi: Annotated[float, typer.Option("--hi", help="Without --config: the greatest.")] = 1.0,
    alpha: Annotated[
        float, typer.Option("--alpha", min=1e-12, max=0.5, help="Without --config: chance of a wrong decision.")
    ] = 0.05,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also plot pairs against margins (extra plots).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say how many pairs an experiment will take, and how long that is, before it begins.

    For each guardrail: pairs until it is proven safe if the candidate is as hoped, or harmful if it is worse by
    --worse margins. By a configuration, or by --margin and --sd alone.

    [bold]Example[/bold]: shadowproxy plan --config shadowproxy.yaml --rate 50/s --noise ranking.rbo=0.15
    """
    from shadowproxy.verdict.planning import Planner

    a_second = _rate(rate)
    settings = None if config is None else read_settings(config)
    if settings is None:
        if margin is None or sd is None:
            fail("plan needs --config FILE, or --margin and --sd")
        if noise or recorded:
            fail("--noise and --from are for the guardrails of a --config; say --mean and --sd")
        asked = _alone(margin, mean, sd, lo, hi, alpha)
    else:
        if margin is not None or sd is not None:
            fail("--margin and --sd are for a plan without --config; say --noise METRIC=SD")
        asked = _configured(settings, noise or [], recorded or [])
    if share is None:
        share = _SHARE if settings is None else max(settings.verdict.large_cohort, 1e-6)
    least, least_harm = (1, 1)
    if settings is not None:
        least, least_harm = settings.verdict.min_pairs, settings.verdict.min_pairs_rollback
    horizon = None if settings is None else settings.verdict.horizon
    planner = Planner()
    rows: list[Row] = []
    for case, known in asked:
        try:
            rows.append(planner.row(case, known, worse=worse, share=share, least=least, least_harm=least_harm))
        except ValueError as error:
            fail(f"{case.name}: {error}")
    if html is not None:
        from shadowproxy.report.figures import plan_page

        curves = [planner.curve(row) for row in rows]
        written(html, plan_page(rows, curves, rate=a_second, horizon=horizon))
    if as_json:
        import msgspec

        from shadowproxy.report.planning import plan_json

        typer.echo(msgspec.json.encode(plan_json(rows, rate=a_second, share=share, worse=worse)))
        return
    from rich.console import Console

    from shadowproxy.report.planning import plan_view

    view = plan_view(
        rows,
        rate=a_second,
        horizon=horizon,
        worse=worse,
        share=share,
        blocks=None if settings is None else settings.verdict.blocks,
        first_pairs=settings is not None and settings.verdict.first_per_account,
    )
    Console(highlight=False).print(view)


def _alone(margin: float, mean: float, sd: float, lo: float, hi: float, alpha: float) -> list[tuple[Case, Noise]]:
    from shadowproxy.verdict.planning import Noise, single

    if not (all(map(math.isfinite, (margin, mean, lo, hi))) and margin > 0 and lo < margin < hi):
        fail(f"--margin {margin:g} must be above 0 and between --lo {lo:g} and --hi {hi:g}")
    return [(single(margin, lo, hi, alpha), Noise(mean, sd, "given"))]


def _configured(settings: Settings, noise: Sequence[str], files: list[str]) -> list[tuple[Case, Noise]]:
    from shadowproxy.verdict.planning import cases, noise_of, unplanned

    found = cases(settings)
    for name in unplanned(settings):
        sys.stderr.write(f"{name} is left out: it is calibrated by the first pairs, and has no bounds before\n")
    if not found:
        fail("no guardrail is left to be planned")
    given = dict(map(_noise, noise))
    known = {name for case in found for name in (case.name, case.metric)}
    for name in given.keys() - known:
        fail(f"--noise: there is no guardrail {name}; there are {', '.join(case.name for case in found)}")
    seen: dict[str, Noise] = {}
    if files:
        from shadowproxy.comparator.noise import seen_noise

        spoken = Spoken()
        recording = opened(files)
        seen = seen_noise((spoken.passed(one) for one in shown(recording)), settings)
        spoken.end()
    return [(case, noise_of(case, given, seen)) for case in found]


def _noise(text: str) -> tuple[str, tuple[float | None, float]]:
    name, equals, said = text.partition("=")
    mean, comma, sd = said.rpartition(",")
    try:
        found = float(mean) if comma else None, float(sd)
    except ValueError:
        equals = ""
    if not equals or not all(one is None or math.isfinite(one) for one in found) or found[1] < 0:
        fail(f"--noise {text}: write METRIC=SD or METRIC=MEAN,SD, such as ranking.rbo=0.15")
    return name.strip(), found


def _rate(text: str | None) -> float | None:
    from shadowproxy.config.units import parse_rate

    try:
        return None if text is None else parse_rate(text)
    except ValueError as error:
        fail(f"--rate: {error}")
