"""A verdict explained for people: what each figure means, what is still missing, and how the decision follows.

Everything is read from the verdict alone, so that one that came over HTTP is explained like any other. It reads at 80
columns and without colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shadowproxy.config.catalogue import GUARDABLE
from shadowproxy.report import terminal, words
from shadowproxy.verdict import record
from shadowproxy.verdict.record import OVERALL, Cell, Check, Finding, State, Verdict

_OVERALL_SHARE = 0.5
"""Of the error budget of a rollback, what lies on the guardrails over all pairs (docs/verdict.md)."""
_LABEL = 15


def explanation(verdict: Verdict) -> RenderableType:
    """All of it: the decision and its rules, the checks, and every guardrail in every cohort."""
    parts: list[RenderableType] = [terminal.headline(verdict)]
    parts += [terminal.reasons(verdict)] if verdict.reasons else []
    parts += [Text.assemble(("note: ", "yellow"), words.plain(note)) for note in verdict.notes]
    parts += [Text(), Text("How it is decided", style="bold"), *(_step(*step) for step in _steps(verdict))]
    parts += [Text(), Text("Whether the data are sound", style="bold"), *map(_check, verdict.checks)]
    parts += [Text(), Text("How to read the figures", style="bold"), _row("", _LEGEND, width=0)]
    for cohort, cells in _by_cohort(verdict):
        pairs = verdict.pairs if cohort == OVERALL else verdict.cohorts[cohort].pairs
        title = "All pairs" if cohort == OVERALL else f"Cohort {words.plain(cohort)}"
        parts += [Text(), Text(f"{title}: {pairs:,} pairs", style="bold")]
        for cell in cells:
            parts += [Text(), *_cell(cell)]
    return Group(*parts)


_LEGEND = (
    "A guardrail's loss is what the candidate does worse on a pair; larger is worse. `mean` is its average so "
    "far, with an interval that holds however often one looks. `safe` is the evidence that the true mean is within "
    "the margin, `harm` that it is beyond it: each is what a bet of 1 against the opposite has grown to. Where the "
    "opposite is true it reaches a threshold of T with probability 1/T at most, ever. Of a quantile of latency "
    "`excess` is by how much the candidate's is greater, as a share."
)


def _row(label: Text | str, text: str, *, by: int = 2, width: int = 5) -> RenderableType:
    """A label and its text, whose later lines stand below its first."""
    row = Table.grid(padding=0, pad_edge=False)
    row.add_column(width=by + width, no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(Text.assemble(" " * by, label), Text(text))
    return row


def _step(holds: bool | None, text: str) -> RenderableType:
    mark = {True: Text("yes", "green"), False: Text("no", "red"), None: Text("so", "bold")}[holds]
    return _row(mark, text)


def _check(check: Check) -> RenderableType:
    return _step(check.passed, f"{words.plain(check.name)}: {words.plain(check.detail)}")


def _steps(verdict: Verdict) -> Iterator[tuple[bool | None, str]]:
    """Each rule of docs/verdict.md, whether it holds, and by which figures."""
    cells, alpha = record.cells(verdict), _alpha(verdict)
    required = [cell for cell in cells if cell.required]
    proven = [cell for cell in required if cell.pairs and cell.e_promote >= cell.promote_at]
    failed = [check.name for check in verdict.checks if not check.passed]
    if alpha:
        share = verdict.evidence_rollback * alpha
        rollback = verdict.state is State.ROLLBACK
        stands = "; this experiment was rolled back before, which stands" if rollback and share < 1 else ""
        evidence = f"{words.evidence(verdict.evidence_rollback)}, {1 / alpha:g} needed ({_percent(share)})"
        yield share >= 1, f"rollback: the weighted mean of the evidence for harm is {evidence}{stands}"
    yield (
        bool(required) and len(proven) == len(required),
        f"promote, 1: {len(proven)} of {len(required)} guardrails that need it are proven safe",
    )
    if alpha:
        alarming = [cell for cell in cells if cell.e_rollback >= 1 / alpha]
        these = f"; these have: {_names(alarming)}" if alarming else ""
        yield not alarming, f"promote, 2: no guardrail in any cohort has evidence for harm of {1 / alpha:g}{these}"
    which = f"; these checks fail: {', '.join(map(words.plain, failed))}" if failed else ""
    yield not failed and bool(verdict.checks), f"promote, 3: the data are sound{which}"
    yield None, _conclusion(verdict)


def _conclusion(verdict: Verdict) -> str:
    if verdict.state is State.ROLLBACK:
        return "rollback; it goes before a promote, and stands for the rest of the experiment"
    if verdict.state is State.PROMOTE:
        return "promote, since all three hold"
    if verdict.exhausted:
        return "continue, and the horizon is reached: nothing is proven either way"
    return "continue: nothing is proven enough to act on, and no data is never a pass"


def _names(cells: Sequence[Cell]) -> str:
    return ", ".join(
        words.plain(cell.guardrail + ("" if cell.cohort == OVERALL else f" ({cell.cohort})")) for cell in cells
    )


def _by_cohort(verdict: Verdict) -> Iterator[tuple[str, tuple[Cell, ...]]]:
    yield OVERALL, verdict.guardrails
    for name, report in verdict.cohorts.items():
        yield name, report.guardrails


def _cell(cell: Cell) -> Iterator[RenderableType]:
    style = terminal.FINDING_STYLES[cell.finding]
    role = "a promote needs it" if cell.required else "only harm counts here"
    name = words.plain(cell.guardrail)
    yield Text.assemble("  ", (name, "bold"), "  ", (cell.finding.value, style), f"  ({role})")
    for label, text in _figures(cell):
        yield _row(Text(label, "dim"), text, by=4, width=_LABEL)


def _figures(cell: Cell) -> Iterator[tuple[str, str]]:
    yield "what", _meaning(cell)
    undefined = f", {cell.undefined:,} more undefined" if cell.undefined else ""
    yield (
        _estimated(cell),
        f"{words.figure(cell.estimate)} {words.interval(cell.interval)}, on {cell.pairs:,} pairs{undefined}",
    )
    yield "margin", f"{words.figure(cell.margin, signed=False)} ({words.plain(cell.unit)})"
    yield "safe", _towards(cell.e_promote, cell.promote_at)
    yield "harm", _towards(cell.e_rollback, cell.rollback_at)
    if cell.finding is not Finding.HARMFUL and cell.required:
        yield "still missing", missing(cell)


def _meaning(cell: Cell) -> str:
    metric = GUARDABLE.get(cell.metric)
    if metric is None:
        return words.plain(cell.metric)
    name = cell.guardrail.partition("@")[0].removeprefix(cell.metric)
    worse = name.removeprefix(".") or metric.worse[0]
    return f"{metric.title}; {worse} is worse"


def _estimated(cell: Cell) -> str:
    metric = GUARDABLE.get(cell.metric)
    return "excess" if metric is not None and metric.quantile is not None else "mean"


def missing(cell: Cell) -> str:
    """What it still takes to prove a cell safe, and how many pairs, if they go on as they did."""
    if not cell.pairs:
        return "everything: no pair has it yet"
    if cell.e_promote >= cell.promote_at:
        return "nothing: it is proven"
    if cell.needed is not None and math.isfinite(cell.needed):
        return f"about {words.rough(cell.needed)} more pairs, if they go on likewise"
    if cell.estimate is not None and cell.estimate >= cell.margin:
        return "the mean is beyond the margin: more pairs like these will not prove it"
    return "it can't be said yet how many pairs"


def _towards(e_value: float, threshold: float) -> str:
    needed = f"{threshold:,.0f}" if threshold >= 100 else f"{threshold:.3g}"
    return f"{words.evidence(e_value)} of {needed} ({_way(e_value, threshold)})"


def _way(e_value: float, threshold: float) -> str:
    """How far a bet is on its way, by the logarithm: what a pair adds to it is about the same for each.

    >>> _way(20.0, 400.0), _way(0.5, 20.0), _way(50.0, 20.0)
    ('50% of the way', 'not on its way', 'reached')
    """
    if e_value >= threshold:
        return "reached"
    share = progress(e_value, threshold)
    return f"{math.floor(100 * share)}% of the way" if share > 0 else "not on its way"


def progress(e_value: float, threshold: float) -> float:
    """ln e / ln threshold, held to [0, 1]."""
    if e_value <= 1 or threshold <= 1:
        return 0.0 if e_value < threshold else 1.0
    return min(1.0, math.log(e_value) / math.log(threshold))


def _percent(share: float) -> str:
    # Never rounded up to what is needed.
    return ">1000%" if share > 10 else f"{math.floor(share * 100)}%"


def _alpha(verdict: Verdict) -> float:
    """Error budget of a rollback: each cell's threshold is 1/(α·w), and overall the weights w sum to a half."""
    return math.fsum(1 / cell.rollback_at for cell in verdict.guardrails) / _OVERALL_SHARE
