"""The forest plot's rows as geometry, as web/js/forest.js draws them: interval, estimate and margin of a cell.

All text here is made of numbers.
"""

from __future__ import annotations

from typing import NamedTuple

from shadowproxy.report.shown import amount
from shadowproxy.verdict.record import Cell, Finding

LOW, HIGH = -2.0, 3.0
"""Ends of the frame in margins: 0 is no difference, 1 is the margin. Every row has this scale, so that rows compare."""
WIDTH, HEIGHT = 250, 22
"""Of a row's picture, in its own units (CSS pixels at its natural size)."""
_MIDDLE = HEIGHT // 2


class Mark(NamedTuple):
    """A row's picture: the interval's ends, and the `d` of two SVG paths."""

    low: float
    high: float
    ends: str
    """A stroke at each end, or an arrow where the interval goes on outside of the frame."""
    point: str
    """The estimate, by its shape too what the finding is. Outside of the frame it stands beside the arrow."""


def mark(cell: Cell) -> Mark | None:
    """Where the cell's interval and estimate are; None where it has none, or no margin to measure them by.

    The larger the loss, the further right.
    """
    if cell.interval is None or cell.estimate is None or not cell.margin > 0:
        return None
    low, high = (bound / cell.margin for bound in cell.interval)
    ends = _end(low, -1) + _end(high, 1)
    return Mark(place(low), place(high), ends, _point(cell.estimate / cell.margin, cell.finding))


def place(margins: float) -> float:
    """Where a loss of so many margins stands; at the frame's edge where it is outside.

    >>> place(LOW), place(0.5), place(9.0)
    (0.0, 125.0, 250.0)
    """
    return round((min(max(margins, LOW), HIGH) - LOW) / (HIGH - LOW) * WIDTH, 1)


def described(cell: Cell) -> str:
    """The picture in words."""
    if cell.estimate is None or cell.interval is None:
        return "no data"
    said, low, high = (amount(value, cell.unit, signed=True) for value in (cell.estimate, *cell.interval))
    return f"loss {said}, interval {low} to {high}, margin {amount(cell.margin, cell.unit)}"


def _end(at: float, way: int) -> str:
    if LOW <= at <= HIGH:
        return f"M{place(at):g} {_MIDDLE - 4}V{_MIDDLE + 4}"
    if (at < LOW) is not (way < 0):
        return ""
    tip, base = (2, 7) if way < 0 else (WIDTH - 2, WIDTH - 7)
    return f"M{base} {_MIDDLE - 4}L{tip} {_MIDDLE}L{base} {_MIDDLE + 4}"


def _point(at: float, finding: Finding) -> str:
    inside = LOW <= at <= HIGH
    x = min(max(place(at), 6.0), WIDTH - 6.0) if inside else 15.0 if at < LOW else WIDTH - 15.0
    if finding is Finding.HARMFUL:
        return f"M{x:g} {_MIDDLE - 6}L{x + 6:g} {_MIDDLE}L{x:g} {_MIDDLE + 6}L{x - 6:g} {_MIDDLE}Z"
    return f"M{x - 4.5:g} {_MIDDLE}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z"
