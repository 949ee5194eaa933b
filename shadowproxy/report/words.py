"""How figures and names of a verdict are written, wherever it is shown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable

from shadowproxy.model import Accounting
from shadowproxy.verdict.record import OVERALL, Cell, Finding, Labels, Quantiles, Verdict


def plain(text: str) -> str:
    """`text` with control characters and other unprintables written out, so that a name can't steer a terminal.

    >>> plain("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def plain_json(text: str) -> str:
    """The same JSON, with whatever is unprintable in its strings escaped: it leaves those beyond ASCII as they are.

    >>> print(plain_json('{"a\\x9b": "größe"}'))
    {"a\\u009b": "größe"}
    """
    return "".join(sign if sign.isprintable() else json.dumps(sign)[1:-1] for sign in text)


def evidence(value: float) -> str:
    """An e-value: three digits where it matters, bounds where it doesn't.

    >>> [evidence(value) for value in (0.00012, 0.5, 12.34, 4321.0, 3e9)]
    ['<0.001', '0.5', '12.3', '4,321', '>1e6']
    """
    if math.isnan(value):
        return "–"
    if value < 1e-3:
        return "<0.001"
    if value > 1e6:
        return ">1e6"
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def dependence(verdict: Verdict) -> list[tuple[str, str, str]]:
    """Where pairs depend on each other too much, the worst first: guardrail, by what they do, and how much."""
    beyond = sorted((one for one in verdict.dependence if one.beyond), key=lambda one: -one.least)
    return [(one.guardrail, one.by, f"{one.inflation:.2g} ± {2 * one.error:.1g}") for one in beyond]


def figure(value: float | None, *, signed: bool = True) -> str:
    """A mean or a bound: three significant digits, no finer than 1e-4; – where there is none.

    >>> figure(0.01234), figure(-0.000004), figure(None), figure(0.1, signed=False), figure(100.0, signed=False)
    ('+0.0123', '0', '–', '0.1', '100')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 5e-5:
        return "0"
    digits = max(0, min(4, 2 - math.floor(math.log10(abs(value)))))
    if signed:
        return f"{value:+.{digits}f}"
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if digits else text


def interval(bounds: tuple[float, float] | None) -> str:
    """Both ends of a confidence interval."""
    return "–" if bounds is None else f"[{figure(bounds[0])}, {figure(bounds[1])}]"


def seconds(value: float | None) -> str:
    """A latency in milliseconds; – where the quantile is infinite or there is none.

    >>> seconds(0.00423), seconds(None)
    ('4.23 ms', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value * 1000:.3g} ms"


def took(value: float) -> str:
    """A duration that was measured, in the unit that reads best; – where it never ended.

    >>> took(0.0042345), took(12.3456), took(math.inf)
    ('4.23 ms', '12.3 s', '–')
    """
    if not math.isfinite(value):
        return "–"
    return f"{value * 1000:.3g} ms" if abs(value) < 0.9995 else f"{value:.1f} s"


def rough(pairs: float) -> str:
    """A forecast: one significant figure, rounded up.

    >>> rough(0.2), rough(421.0), rough(12_001.0)
    ('1', '500', '20,000')
    """
    size = 10 ** max(0, math.floor(math.log10(max(pairs, 1))))
    return f"{math.ceil(max(pairs, 1) / size) * size:,}"


def lasting(value: float) -> str:
    """A span of time to wait, in the unit in which it is a small number; – where it never ends.

    >>> [lasting(value) for value in (0.2, 45, 119.6, 3000, 90_000, 1e7, math.inf)]
    ['1 s', '45 s', '2 min', '50 min', '25 h', '116 days', '–']
    """
    if not math.isfinite(value):
        return "–"
    for unit, whole, until in (("s", 1, 119.5), ("min", 60, 7170), ("h", 3600, 171_000)):
        if value < until:
            return f"{max(1, round(value / whole)):,} {unit}"
    return f"{round(value / 86_400):,} days"


def size(value: int) -> str:
    """Bytes, in the unit that reads best.

    >>> size(0), size(999), size(2_345), size(12_345_678)
    ('0 B', '999 B', '2.3 kB', '12.3 MB')
    """
    if value < 1000:
        return f"{value} B"
    for unit, factor in (("kB", 1000), ("MB", 1000**2)):
        if value < factor * 1000:
            return f"{value / factor:.1f} {unit}"
    return f"{value / 1000**3:,.1f} GB"


def counts(parts: Iterable[tuple[str, int]]) -> str:
    """`kind n` for each, in order; `none` where there is nothing."""
    return ", ".join(f"{plain(kind)} {count:,}" for kind, count in parts if count) or "none"


def findings(cells: Iterable[Cell]) -> str:
    """How many of the cells say what: `7 safe, 1 harmful`."""
    cells = tuple(cells)
    order = (Finding.HARMFUL, Finding.UNDECIDED, Finding.SAFE)
    return ", ".join(
        f"{number} {finding}" for finding in order if (number := sum(cell.finding == finding for cell in cells))
    )


def telling(cell: Cell) -> str:
    """The e-value that matters for the cell: of harm where it is proven or near, else of safety."""
    if _badness(cell)[:2] > (False, 0.0):
        return f"harm {evidence(cell.e_rollback)}"
    return f"safe {evidence(cell.e_promote)}"


def worst(cells: Iterable[Cell]) -> Cell | None:
    """The cell nearest to a rollback; among those that are nowhere near, the one furthest from being proven safe."""
    return max(cells, key=_badness, default=None)


def _badness(cell: Cell) -> tuple[bool, float, float]:
    near = cell.e_rollback / cell.rollback_at
    return cell.finding is Finding.HARMFUL, near if near >= 1e-2 else 0.0, -cell.e_promote / cell.promote_at


def accounting(account: Accounting) -> str:
    """Where every request went, as the identity that must hold.

    >>> accounting(Accounting(requests=10, eligible=9, recorded=8, skipped={"method": 1}))
    '10 requests = 1 skipped (method 1) + 9 eligible; 9 eligible = 8 recorded + 0 dropped + 1 in flight'
    """
    skipped, dropped = sum(account.skipped.values()), sum(account.dropped.values())
    why_skipped = f" ({counts(account.skipped.items())})" if skipped else ""
    why_dropped = f" ({counts(account.dropped.items())})" if dropped else ""
    return (
        f"{account.requests:,} requests = {skipped:,} skipped{why_skipped} + {account.eligible:,} eligible; "
        f"{account.eligible:,} eligible = {account.recorded:,} recorded + {dropped:,} dropped{why_dropped} "
        f"+ {account.in_flight:,} in flight"
    )


def labels(found: Labels) -> str:
    """What became of labels that came later.

    >>> labels(Labels(received=9, joined=5, unmatched=2, duplicates=1, invalid=0, waiting=1, waiting_pairs=30,
    ...     expired_pairs=4, overflow=0))
    'labels: 9 received = 5 joined + 1 repeated + 2 late or unknown + 1 waiting; 30 pairs wait, 4 waited in vain'
    """
    parts = [f"{found.joined:,} joined", f"{found.duplicates:,} repeated", f"{found.unmatched:,} late or unknown"]
    parts += [f"{found.invalid:,} unreadable"] if found.invalid else []
    text = f"labels: {found.received:,} received = {' + '.join(parts)} + {found.waiting:,} waiting; "
    text += f"{found.waiting_pairs:,} pairs wait, {found.expired_pairs:,} waited in vain"
    return f"{text}, {found.overflow:,} could not wait" if found.overflow else text


def rests_on(verdict: Verdict) -> str:
    """The pairs that the verdict counts, and those it doesn't."""
    text = f"{verdict.pairs:,} pairs counted, {verdict.open_pairs:,} waiting for their bucket to close"
    return f"{text}, {verdict.late_pairs:,} came late" if verdict.late_pairs else text


def latencies(verdict: Verdict) -> tuple[Quantiles, ...]:
    """Those over all routes, and by route where that says more: of one route that has all pairs it says nothing new."""
    by_route = [row for row in verdict.latencies if row.route]
    pairs = {row.pairs for row in verdict.latencies if row.cohort == OVERALL}
    if len({row.route for row in by_route}) > 1 or len(pairs) > 1:
        return verdict.latencies
    return tuple(row for row in verdict.latencies if not row.route)


def harmed(verdict: Verdict) -> tuple[str, ...]:
    """The cohorts with a proven harm, `all` left out, in the verdict's order."""
    return tuple(
        name
        for name, report in verdict.cohorts.items()
        if name != OVERALL and any(cell.finding is Finding.HARMFUL for cell in report.guardrails)
    )
