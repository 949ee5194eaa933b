"""Arithmetic on many short lists at once: one flat array and, beside it, the number of each element's list.

`pair` is that number: int64, ascending, so that a list's elements are neighbours. `n` is the number of lists; those
without elements have no place in the flat arrays, and zeros in every result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.lists import rectangle

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def sums(values: NDArray[np.generic], pair: Ints, n: int) -> Floats:
    """Sum of `values` by list, shape (n,)."""
    return np.bincount(pair, weights=values, minlength=n).astype(np.float64, copy=False)


def counts(pair: Ints, n: int) -> Ints:
    """Number of elements by list, shape (n,)."""
    return np.bincount(pair, minlength=n).astype(np.int64, copy=False)


def highest(values: Floats, lengths: Ints) -> Floats:
    """The largest of `values`, and of 0, by list of these lengths, shape (n,)."""
    found = np.zeros(len(lengths))
    some = lengths > 0
    if some.any():
        found[some] = np.maximum(np.maximum.reduceat(values, offsets(lengths)[some]), 0.0)
    return found


def totals(values: Ints, lengths: Ints) -> Ints:
    """Exact sum of integers by list of these lengths, shape (n,): it must be below 2^63, what is before it need not."""
    before, first = _before(values), offsets(lengths)
    total: Ints = before[first + lengths] - before[first]
    return total


def offsets(lengths: Ints) -> Ints:
    """Where each list begins in the flat array, shape (n,)."""
    first: Ints = np.cumsum(lengths) - lengths
    return first


def run_starts(*keys: NDArray[np.generic]) -> Ints:
    """Where, in arrays sorted alike, a run of equal keys begins."""
    size = len(keys[0])
    new = np.ones(size, np.bool_)
    if size:
        new[1:] = keys[0][1:] != keys[0][:-1]
        for key in keys[1:]:
            new[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(new)


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs of two or more neighbours that are equal; what stands alone is in none. Few, in most data."""

    starts: Ints
    """Where each begins, ascending."""
    lengths: Ints

    @property
    def places(self) -> Ints:
        """Where all their members stand."""
        return np.repeat(self.starts - offsets(self.lengths), self.lengths) + np.arange(int(self.lengths.sum()))

    def spread(self, values: Ints) -> Ints:
        """A value of each run for each of its members."""
        found: Ints = np.repeat(values, self.lengths)
        return found


def runs_where(equal: Bools) -> Runs:
    """The runs in which each but the first is `equal` to the one before it. The first of all is equal to none.

    >>> runs_where(np.array([False, True, False, False, True, True]))
    Runs(starts=array([0, 3]), lengths=array([2, 3]))
    """
    again = np.append(equal, False)
    starts = np.flatnonzero(~again[:-1] & again[1:])
    ends = np.flatnonzero(again[:-1] & ~again[1:])
    return Runs(starts, ends - starts + 1)


@dataclass(frozen=True, slots=True)
class Ordered:
    """Lists, each in ascending order of a key."""

    order: Ints
    """Where the elements stand in the flat array; those with equal keys in ascending order of the other key."""
    tied: Runs
    """Equal keys, in that order."""


def ordered(key: Floats, other: Floats, pair: Ints, lengths: Ints) -> Ordered:
    """Order each list by `key`, then by `other` (no NaN).

    >>> ordered(np.array([3.0, 1.0, 3.0]), np.array([5.0, 0.0, 4.0]), np.zeros(3, np.int64), np.array([3]))
    Ordered(order=array([1, 2, 0]), tied=Runs(starts=array([1]), lengths=array([2])))
    """
    order = rectangle.order(key, pair, lengths)
    by_key = key[order]
    equal = np.zeros(len(key), np.bool_)
    np.equal(by_key[1:], by_key[:-1], out=equal[1:])
    equal[1:] &= pair[1:] == pair[:-1]
    tied = runs_where(equal)
    at = tied.places
    members = order[at]
    # Few are tied: to sort these alone is cheaper than to sort everything by both.
    order[at] = members[np.lexsort((other[members], tied.spread(tied.starts)))]
    return Ordered(order, tied)


def inversions(rank: Ints, pair: Ints, n: int) -> Floats:
    """By list, how many pairs of elements stand in descending order (earlier one greater), shape (n,).

    `rank` is a non-negative integer, best dense.

    >>> inversions(np.array([2, 0, 1, 1, 0]), np.array([0, 0, 0, 1, 1]), 2)
    array([2., 1.])
    """
    return weighed_inversions(rank, pair, n)[0].astype(np.float64)


def weighed_inversions(rank: Ints, pair: Ints, n: int, *weights: Ints) -> tuple[Ints, ...]:
    """As `inversions`, and for each of `weights` the sum of w_i + w_j over the same pairs of elements.

    Bit by bit from the highest, each list is split into the elements without and with that bit, keeping their order,
    and every one without it counts those with it that stood before it in its group, and sums up their weights:
    O(m log m) for m elements, all lists at once (the counting that a wavelet tree does). Groups that have become short
    are counted as rectangles.

    Weights are integers, so that a list's sum does not depend on the lists beside it. Those of all elements before one
    may wrap around; what must stay below 2^63 is a list's own sum of weights times twice its elements.

    >>> weighed_inversions(np.array([2, 0, 1]), np.zeros(3, np.int64), 1, np.array([10, 7, 5]))
    (array([2]), array([32]))
    """
    lengths = counts(pair, n)
    if max(lengths.max(initial=0), rank.max(initial=0)) <= rectangle.SHORT and rectangle.fits(lengths):
        involved = rectangle.involved(rank, lengths)
        return totals(involved, lengths) // 2, *(totals(involved * weight, lengths) for weight in weights)
    size = len(rank)
    value = rank
    inverted = np.zeros(size, np.int64)
    weighed = [np.zeros(size, np.int64) for _ in weights]
    place = np.arange(size)
    start = offsets(lengths)[pair]
    end = start + lengths[pair]
    for bit in reversed(range(int(rank.max(initial=0)).bit_length())):
        if bit < _FEW_BITS and (groups := _short_groups(start, end, place)) is not None:
            involved = rectangle.involved(value & ((2 << bit) - 1), groups)
            doubled = 2 * totals(inverted, lengths) + totals(involved, lengths)
            found = (
                totals(before + involved * weight, lengths) for before, weight in zip(weighed, weights, strict=True)
            )
            return doubled // 2, *found
        one = (value >> bit) & 1
        ones = _before(one)
        ones_before = ones[:-1] - ones[start]
        # Only those without the bit count; times 0 or 1 is cheaper than a choice.
        passed = (1 - one) * ones_before
        inverted += passed
        for at, weight in enumerate(weights):
            heavy = _before(weight * one)
            weighed[at] += weight * passed + (1 - one) * (heavy[:-1] - heavy[start])
        middle = end - (ones[end] - ones[start])
        to = np.where(one, middle + ones_before, place - ones_before)
        weights = tuple(_moved(weight, to) for weight in weights)
        value, start, end = (
            _moved(value, to),
            _moved(np.where(one, middle, start), to),
            _moved(np.where(one, end, middle), to),
        )
    return tuple(totals(found, lengths) for found in (inverted, *weighed))


_FEW_BITS = 7
"""Of ranks that a rectangle takes."""


def _short_groups(start: Ints, end: Ints, place: Ints) -> Ints | None:
    """The lengths of the groups that elements stand in, from `start` to `end`, where they are fit for a rectangle."""
    first = np.flatnonzero(start == place)
    lengths = end[first] - start[first]
    return lengths if lengths.max(initial=0) <= rectangle.SHORT and rectangle.fits(lengths) else None


def _before(values: Ints) -> Ints:
    """Sums of the elements before each, and of all: one longer."""
    total = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=total[1:])
    return total


def _moved(values: Ints, to: Ints) -> Ints:
    moved = np.empty_like(values)
    moved[to] = values
    return moved
