"""How two documents differ, place by place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from shadowproxy.compare.structure.leaves import Column, Leaves, Where, kind_of
from shadowproxy.compare.structure.places import Place
from shadowproxy.config.fields import Tolerance

ADDED, REMOVED, TYPE, VALUE = 1, 2, 4, 8
"""Ways to differ, as bits: a leaf that only the second document has, that only the first has, of another type in it,
of another value. null is a value: null against nothing is a leaf removed or added, null against 0 another type."""

_NOTHING: Final = object()
_NO_LEAVES: Final = Column([], [])


class Difference(NamedTuple):
    """How two documents differ at one place."""

    leaves: int
    """In either document."""
    differing: int
    ways: int
    """The bits of how; 0 for not at all."""


def differences(a: Leaves, b: Leaves) -> dict[Place, Difference]:
    """By place where either has leaves that are to be compared. The leaves are of places under the same root."""
    found = {}
    for place in (*a.at, *(place for place in b.at if place not in a.at)):
        first, second = a.at.get(place, _NO_LEAVES), b.at.get(place, _NO_LEAVES)
        if first.values == second.values and first.wheres == second.wheres:
            difference = Difference(len(first), 0, 0)
        else:
            difference = _difference(place, first.by_where(), second.by_where(), (a, b))
        if difference.leaves:
            found[place] = difference
    return found


def changed(differing: Mapping[Place, Difference]) -> float:
    """The share that differs, each place weighed alike: the mean over places of the share of its leaves. 0 for none."""
    if not differing:
        return 0.0
    # Rounded once, whatever the order: that of the places is not the same if the documents change places.
    return math.fsum(one.differing / one.leaves for one in differing.values()) / len(differing)


def _difference(
    place: Place, first: dict[Where, Any], second: dict[Where, Any], documents: tuple[Leaves, Leaves]
) -> Difference:
    differing = ways = 0
    suspects = first.items() - second.items()
    leaves = len(first) - len(suspects)
    for where, x in suspects:
        y = second.get(where, _NOTHING)
        if y is not _NOTHING or _counts(place, where, documents):
            way = _way(x, y, place.tolerance)
            leaves += 1
            differing += way != 0
            ways |= way
    for where in second.keys() - first.keys():
        if _counts(place, where, documents):
            leaves += 1
            differing += 1
            ways |= ADDED
    return Difference(leaves, differing, ways)


def _counts(place: Place, where: Where, documents: tuple[Leaves, Leaves]) -> bool:
    """Whether what only one document has is in no item that the other lacks, of a list whose common items count."""
    return all(
        where[:several] in document.items.get(common, ()) for common, several in place.within for document in documents
    )


def _way(x: Any, y: Any, tolerance: Tolerance | None) -> int:
    if y is _NOTHING:
        return REMOVED
    if x == y:
        return 0
    if kind_of(x) != kind_of(y):
        return TYPE
    return 0 if tolerance is not None and _close(x, y, tolerance) else VALUE


def _close(x: Any, y: Any, tolerance: Tolerance) -> bool:
    if not (isinstance(x, int | float) and isinstance(y, int | float)):
        return False
    try:
        gap = abs(x - y)
        return gap <= tolerance.absolute or gap <= tolerance.relative * max(abs(x), abs(y)) < math.inf
    except OverflowError:  # an integer that no float can hold
        return False
