"""Many short lists as one rectangle, a row each: where they fill a good part of it, several times as fast as flat.

Per 25,000 elements in lists of 50: sorting each list takes 0.15 ms by row and 2.7 ms by two keys in one flat array;
counting inversions 0.2 ms among bytes and 4.2 ms bit by bit, as `ragged.weighed_inversions` does else. The
results are the same integers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SHORT = 254
"""Longest list whose inversions are counted here: ranks and counts fit into a byte, and a filler above them."""


def fits(lengths: Ints) -> bool:
    """Whether lists of these lengths are fit for it: one long list among many short ones would make it enormous."""
    return len(lengths) * int(lengths.max(initial=0)) <= 4 * int(lengths.sum())


def order(key: Floats, pair: Ints, lengths: Ints) -> Ints:
    """Places in the flat array, list by list, sorted by `key` (no NaN) within each; equal ones in no order.

    `pair` is each element's list, ascending; `lengths`, shape (n,), how many each has.

    >>> order(np.array([3.0, 1.0, 2.0, 0.0]), np.array([0, 0, 0, 2]), np.array([3, 0, 1])).tolist()
    [1, 2, 0, 3]
    """
    if not fits(lengths) or not np.isfinite(key).all():
        return np.lexsort((key, pair))
    inside = _inside(lengths)
    table = np.full(inside.shape, np.inf)
    table[inside] = key
    # The filler comes last in its row, so that the same places are taken after sorting.
    first = np.cumsum(lengths) - lengths
    placed: Ints = (np.argsort(table, axis=1) + first[:, None])[inside]
    return placed


def involved(rank: Ints, lengths: Ints) -> Ints:
    """By element, in how many inversions it takes part: pairs of its list of which the earlier has the greater rank.

    For ranks and lengths up to `SHORT`; every element is held against all later ones of its list.

    >>> involved(np.array([2, 0, 1, 1, 0]), np.array([3, 2])).tolist()
    [2, 1, 1, 1, 1]
    """
    inside = _inside(lengths)
    table = np.full(inside.shape, SHORT + 1, np.uint8)
    table[inside] = rank
    places = np.ascontiguousarray(table.T)
    found = np.zeros(places.shape, np.uint8)
    for at in range(len(places) - 1):
        greater = (places[at] > places[at + 1 :]).view(np.uint8)
        found[at + 1 :] += greater
        found[at] += np.add.reduce(greater, axis=0, dtype=np.uint8)
    counted: Ints = found.T[inside].astype(np.int64)
    return counted


def _inside(lengths: Ints) -> NDArray[np.bool_]:
    """Which places of the rectangle are taken, (n, longest)."""
    taken: NDArray[np.bool_] = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    return taken
