"""How many more observations something takes, if they go on as they did."""

from __future__ import annotations

import math
from collections.abc import Callable

_FOREVER = 1e15
_TOLERANCE = 1e-3


def more_until(short: Callable[[float], bool], n: float) -> float:
    """How many more than `n` > 0 until `short` is false: 0 where it is, NaN where it is true for all that can be.

    `short` must be true up to some number and false from there on; it is found to a thousandth.

    >>> more_until(lambda pairs: pairs < 700, 1000), round(more_until(lambda pairs: pairs < 5000, 1000), -1)
    (0.0, 4000.0)
    """
    if not short(n):
        return 0.0
    below, above = n, 2 * n
    while short(above):
        below, above = above, 2 * above
        if above > _FOREVER:
            return math.nan
    while above - below > max(1.0, below * _TOLERANCE):
        middle = (below + above) / 2
        below, above = (middle, above) if short(middle) else (below, middle)
    return above - n
