"""A plan for the terminal: how many pairs each guardrail takes, and how long that is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shadowproxy.report import words
from shadowproxy.stats.sizes import Sizes
from shadowproxy.verdict.planning import Row, promote

_LONG = 15


def pairs(value: float) -> str:
    """A number of pairs in two significant figures; `never` where it never is.

    >>> pairs(1234.0), pairs(87.0), pairs(math.inf)
    ('1,200', '87', 'never')
    """
    if not math.isfinite(value):
        return "never"
    size = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return f"{round(value / size) * size:,}"


def plan_view(
    rows: Sequence[Row],
    *,
    rate: float | None,
    horizon: int | None,
    worse: float,
    share: float,
    blocks: float | None = None,
    first_pairs: bool = False,
) -> RenderableType:
    """The table, what it rests on, and what follows for a promote."""
    cohorts = any(row.cohort is not None for row in rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0), collapse_padding=True)
    names = ["guardrail", "margin", "loss ±sd", "least", "safe (90%)", f"harm {worse:g}×"]
    names += ["cohort"] if cohorts else []
    names += ["time"] if rate else []
    for name in names:
        left = name == "guardrail"
        table.add_column(name, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for row in rows:
        table.add_row(*_figures(row, cohorts=cohorts, rate=rate))
    text = [Text(line) for line in _conclusions(rows, rate=rate, horizon=horizon, share=share if cohorts else None)]
    text += [Text(line) for line in _of_blocks(rows, blocks)]
    if first_pairs:
        text.append(
            Text("warning: accounts count once (verdict.first_per_account): read accounts where it says pairs.")
        )
    return Group(table, Text(), *text)


def _figures(row: Row, *, cohorts: bool, rate: float | None) -> list[RenderableType]:
    case, noise = row.case, row.noise
    mark = "?" if noise.source == "assumed" else ""
    figures: list[RenderableType] = [
        Text(_broken(words.plain(case.name))),
        words.figure(case.margin, signed=False),
        f"{words.figure(noise.mean, signed=False)} ±{words.figure(noise.sd, signed=False)}{mark}",
        pairs(row.fewest),
        f"{pairs(row.safe.median)} ({pairs(row.safe.most)})",
        pairs(row.harm.median),
    ]
    if cohorts:
        figures.append("–" if row.cohort is None else pairs(row.cohort.median))
    if rate:
        figures.append(words.lasting(row.needed.median / rate))
    return figures


def _broken(name: str) -> str:
    """A long name in lines, so that figures have their place at 80 columns.

    >>> _broken("scores.relative_delta.higher").split("\\n"), _broken("ranking.rbo")
    (['scores.', 'relative_delta.', 'higher'], 'ranking.rbo')
    """
    return name if len(name) <= _LONG else name.replace(".", ".\n")


def _conclusions(rows: Sequence[Row], *, rate: float | None, horizon: int | None, share: float | None) -> Iterator[str]:
    yield (
        "least: pairs without which no proof is possible. safe: pairs until half of the experiments have proven it, "
        "and until 90% have, if loss and deviation (sd) are as given. harm: until half have proven a mean loss of so "
        "many margins."
    )
    if any(row.case.quantile is not None for row in rows):
        yield "Of a latency quantile the loss is the candidate's excess, and sd that of either latency's logarithm."
    if share is not None:
        yield f"cohort: of all pairs, until it is proven in a cohort that has {100 * share:g}% of them."
    if any(row.noise.source == "assumed" for row in rows):
        yield "?: assumed; say what is known with --noise METRIC=SD, or take it from recorded pairs with --from FILE."
    whole = promote(rows)
    yield f"A promote takes {_promote(whole, rate)}."
    slow = [row.case.name for row in rows if row.needed.median == whole.median]
    if len(rows) > 1 and slow:
        yield f"It waits longest for {words.plain(slow[0])}."
    if horizon is not None and whole.most > horizon:
        beyond = "most likely not" if whole.median > horizon else "likely, but not surely,"
        yield f"warning: by verdict.horizon, {horizon:,} pairs, it is {beyond} decided."


def _of_blocks(rows: Sequence[Row], blocks: float | None) -> Iterator[str]:
    """A block counts as one pair, so no fewer blocks than the fewest pairs prove a mean."""
    means = [row for row in rows if row.case.quantile is None]
    if blocks is None or not means:
        return
    row = max(means, key=lambda row: row.bets)
    time = words.lasting(row.bets * blocks)
    yield (
        f"warning: means are judged by blocks of {blocks:g} s (verdict.blocks), as one pair each: "
        f"{words.plain(row.case.name)} takes at least {row.bets:,} of them, which is {time}."
    )


def _promote(whole: Sizes, rate: float | None) -> str:
    if not math.isfinite(whole.median):
        return "more pairs than can be: a mean loss is at its margin or beyond"
    parts = []
    for value, what in ((whole.median, "typically"), (whole.most, "in nine of ten experiments at most")):
        time = f" ({words.lasting(value / rate)})" if rate else ""
        parts.append(f"{what} {pairs(value)} pairs{time}")
    return ", ".join(parts)


def plan_json(rows: Sequence[Row], *, rate: float | None, share: float, worse: float) -> dict[str, Any]:
    """The plan as a record; numbers of pairs and seconds are null where something is never proven."""

    def spread(found: Sizes | None) -> dict[str, Any] | None:
        if found is None:
            return None
        known = {name: value if math.isfinite(value) else None for name, value in found._asdict().items()}
        times = (
            {f"{name}_seconds": None if value is None else value / rate for name, value in known.items()}
            if rate
            else {}
        )
        return known | times

    return {
        "guardrails": [
            {
                "guardrail": row.case.name,
                "unit": row.case.unit,
                "margin": row.case.margin,
                "mean": row.noise.mean,
                "sd": row.noise.sd,
                "correlation": row.noise.correlation,
                "noise": row.noise.source,
                "fewest": row.fewest,
                "safe": spread(row.safe),
                "harm": spread(row.harm),
                "harm_mean": row.harm_mean,
                "cohort": spread(row.cohort),
            }
            for row in rows
        ],
        "promote": spread(promote(rows)),
        "rate": rate,
        "cohort_share": share,
        "worse": worse,
    }
