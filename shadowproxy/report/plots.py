"""Curves as geometry, for pictures that need no script: paths and ticks in the units of an SVG picture.

All text of a plot is made of numbers; what others named stands in the template, where it is escaped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from shadowproxy.report.shown import duration, figure
from shadowproxy.verdict.record import Cell
from shadowproxy.verdict.reported.curves import LatencyCurve, ScoreCurve
from shadowproxy.verdict.reported.evidence import Evidence, EvidencePoint

WIDTH, HEIGHT = 560, 240
"""Of a plot; CSS pixels at its natural size."""
LEFT, RIGHT, TOP, BOTTOM = 64, 22, 8, 34
"""What is kept free around the curves, for ticks."""
SPARK_WIDTH, SPARK_HEIGHT = 160, 28
_PROBABILITIES = (0.01, 0.5, 0.9, 0.99, 0.999)
_MOST_TICKS = 6
_SPAN = 8.0
"""Decades below the threshold that a way of e-values shows: further down nothing is decided."""


class Tick(NamedTuple):
    """A place on an axis, and what is written there."""

    at: float
    text: str


class Line(NamedTuple):
    """A curve as the `d` of an SVG path; `name` says whose it is."""

    name: str
    path: str


class Plot(NamedTuple):
    """Curves in one frame."""

    lines: tuple[Line, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]


class Spark(NamedTuple):
    """One curve without axes, and where its threshold stands."""

    path: str
    threshold: float


def latency_plot(curves: Sequence[LatencyCurve]) -> Plot | None:
    """Quantiles of several upstreams: probability across, stretched where the slow ones are; seconds up, by logarithm.

    A curve ends where its quantiles lie among the failures. None where there is nothing to draw.
    """
    points = {
        curve.side: [
            (_stretched(probability), math.log10(value))
            for probability, value in zip(curve.probabilities, curve.seconds, strict=True)
            if value is not None and value > 0 and math.isfinite(value)
        ]
        for curve in curves
    }
    across = [(_stretched(at), f"{100 * at:g}%") for at in _PROBABILITIES]
    return _plot(points, lambda _low, _high: across, _seconds, (_stretched(0.01), _stretched(0.999)))


def _stretched(probability: float) -> float:
    return -math.log10(1 - probability)


def _seconds(low: float, high: float) -> list[tuple[float, str]]:
    steps = [
        math.log10(digit) + decade
        for decade in range(math.floor(low), math.ceil(high) + 1)
        for digit in ((1, 2, 5) if high - low < 2 else (1,))
    ]
    return [(step, duration(10**step)) for step in steps if low <= step <= high]


def score_plot(curves: ScoreCurve) -> Plot | None:
    """Both sides' densities as steps, over the score. None where there are no scores."""
    points = {}
    for side, counts in (("baseline", curves.baseline), ("candidate", curves.candidate)):
        whole = sum(counts)
        steps = []
        for (low, high), number in zip(itertools.pairwise(curves.edges), counts, strict=True):
            height = number / whole / (high - low) if whole and high > low else 0.0
            steps += [(low, height), (high, height)]
        points[side] = steps if whole else []
    return _plot(points, _even, _even)


def _even(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers, at most so many that they can be read."""
    rough = (high - low) / _MOST_TICKS
    if not (math.isfinite(rough) and rough > 0):
        return [(low, figure(low))]
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough)
    first = math.ceil(low / step)
    return [(at * step, figure(at * step)) for at in range(first, math.floor(high / step) + 1)]


def _plot(
    points: dict[str, list[tuple[float, float]]],
    across: Callable[[float, float], list[tuple[float, str]]],
    up: Callable[[float, float], list[tuple[float, str]]],
    ends: tuple[float, float] | None = None,
) -> Plot | None:
    seen = [point for line in points.values() for point in line]
    if not seen:
        return None
    left, right = ends or _ends(x for x, _ in seen)
    low, high = _ends(y for _, y in seen)
    inner = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(value: float) -> float:
        return round(LEFT + (value - left) / (right - left) * inner[0], 1)

    def y(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * inner[1], 1)

    return Plot(
        tuple(Line(name, _path((x(a), y(b)) for a, b in line)) for name, line in points.items() if line),
        tuple(Tick(x(at), text) for at, text in across(left, right)),
        tuple(Tick(y(at), text) for at, text in up(low, high)),
    )


def _ends(values: Iterable[float]) -> tuple[float, float]:
    seen = list(values)
    low, high = min(seen), max(seen)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _path(points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


# How e-values went


class Way(NamedTuple):
    """One cell's way to its two thresholds."""

    cell: Cell
    promote: Spark | None
    rollback: Spark | None


def ways(evidence: Evidence, cells: Sequence[Cell]) -> list[Way]:
    """Of these cells, in their order; of those that the trail has."""
    places = {(cell.guardrail, cell.cohort): at for at, cell in enumerate(evidence.cells)}
    found = ((cell, places.get((cell.guardrail, cell.cohort))) for cell in cells)
    return [_way(evidence, cell, at) for cell, at in found if at is not None]


def _way(evidence: Evidence, cell: Cell, at: int) -> Way:
    promote = [(point.pairs, _at(point.promote, at)) for point in evidence.points]
    rollback = [(point.pairs, _at(point.rollback, at)) for point in evidence.points]
    return Way(cell, spark(promote, math.log10(cell.promote_at)), spark(rollback, math.log10(cell.rollback_at)))


def whole(points: Sequence[EvidencePoint], rollback_at: float) -> Spark | None:
    """The way of the evidence of harm over all cells."""
    logs = [(one.pairs, math.log10(one.evidence_rollback) if one.evidence_rollback > 0 else None) for one in points]
    return spark(logs, math.log10(rollback_at))


def _at(values: Sequence[float | None], at: int) -> float | None:
    # A point from before a cohort was met is shorter.
    return values[at] if at < len(values) else None


def spark(points: Sequence[tuple[int, float | None]], threshold: float) -> Spark | None:
    """Logarithms of e-values over pairs, from `_SPAN` decades below their threshold to two above it."""
    seen = [(pairs, log) for pairs, log in points if log is not None and not math.isnan(log)]
    if not seen:
        return None
    low, high = max(threshold - _SPAN, min(-1.0, *(log for _, log in seen))), threshold + 2
    right = max(pairs for pairs, _ in points) or 1

    def y(log: float) -> float:
        return round((high - min(max(log, low), high)) / (high - low) * SPARK_HEIGHT, 1)

    path = _path((round(pairs / right * SPARK_WIDTH, 1), y(log)) for pairs, log in seen)
    return Spark(path if len(seen) > 1 else f"{path}h0.1", y(threshold))
