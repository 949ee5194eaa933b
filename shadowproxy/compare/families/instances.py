"""The labels and probabilities of many pairs as flat arrays: one element per instance of a request, or per probability.

A distribution is what `probabilities_of` found of one instance, brought into one form:

* a row that adds up to more than 1 (by rounding, or one probability per label of several) is divided by its sum;
* what is missing to 1 (only the likeliest labels were sent) belongs to labels that are not named;
* a row with a negative number holds no probabilities but logits or logarithms: it counts as missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import TypeVar

import numpy as np

from shadowproxy.compare.lists.ragged import Bools, Floats, Ints, sums

T = TypeVar("T")


def aligned(
    baseline: Iterable[Sequence[T | None] | None], candidate: Iterable[Sequence[T | None] | None]
) -> tuple[list[T | None], list[T | None], Ints]:
    """Instance by instance what either side has: (baseline's, candidate's, number of instances by pair).

    A pair has as many as the longer of its sides; where the other has not so many, it has None.
    """
    a_flat: list[T | None] = []
    b_flat: list[T | None] = []
    sizes = []
    for a, b in zip(baseline, candidate, strict=True):
        of_a, of_b = len(a or ()), len(b or ())
        a_flat += a or ()
        b_flat += b or ()
        if of_a != of_b:
            a_flat += repeat(None, max(0, of_b - of_a))
            b_flat += repeat(None, max(0, of_a - of_b))
        sizes.append(max(of_a, of_b))
    return a_flat, b_flat, np.array(sizes, np.int64)


def shares(values: Floats, row: Ints, rows: int) -> tuple[Floats, Bools]:
    """(values as probabilities, which rows are distributions): of flat rows, as said at the head of this file.

    `row` says to which of `rows` rows a value belongs; those that are none have only zeros.
    """
    valid = sums(values < 0, row, rows) == 0
    peak = np.ones(rows)
    # Before they are summed: finite numbers may add up to what isn't.
    np.maximum.at(peak, row, values)
    scaled = np.where(valid[row], values / peak[row], 0.0)
    return scaled / np.maximum(sums(scaled, row, rows), 1 / peak)[row], valid


def means(values: Floats, chosen: Bools, sizes: Ints) -> Floats:
    """By pair, the mean over those of its instances that are chosen, NaN where none is; `sizes`: instances by pair."""
    n = len(sizes)
    pair = np.repeat(np.arange(n), sizes)[chosen]
    number = np.bincount(pair, minlength=n)
    return np.where(number > 0, sums(values[chosen], pair, n) / np.maximum(number, 1), np.nan)
