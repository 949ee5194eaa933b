"""The forest plot's rows as geometry: where interval, estimate and margin of a cell stand in a frame of its own."""

from __future__ import annotations

import math
from typing import NamedTuple

from shadowproxy.verdict.record import Cell

LEFT, RIGHT = -1.5, 2.5
"""Ends of the frame in margins: 0 is no difference, 1 is the margin. Every row has this scale, so that rows compare."""
WIDTH, HEIGHT = 240, 18
"""Of a row's picture, in its own units (CSS pixels at its natural size)."""


class Mark(NamedTuple):
    """A row. All `x` in units of the picture; an interval that leaves the frame ends at its edge."""

    low: float
    high: float
    beyond_low: bool
    beyond_high: bool
    point: float | None
    """None where the estimate is outside the frame."""


def mark(cell: Cell) -> Mark | None:
    """Where the cell's interval and estimate are; None where it has none, or no margin to measure them by.

    The larger the loss, the further right.
    """
    if cell.interval is None or cell.estimate is None or not cell.margin > 0:
        return None
    low, high = (bound / cell.margin for bound in cell.interval)
    estimate = cell.estimate / cell.margin
    inside = math.isfinite(estimate) and LEFT <= estimate <= RIGHT
    return Mark(place(low), place(high), low < LEFT, high > RIGHT, place(estimate) if inside else None)


def place(margins: float) -> float:
    """Where a loss of so many margins stands; at the frame's edge where it is outside.

    >>> place(LEFT), place(0.5), place(math.inf)
    (0.0, 120.0, 240.0)
    """
    return round((min(max(margins, LEFT), RIGHT) - LEFT) / (RIGHT - LEFT) * WIDTH, 1)
