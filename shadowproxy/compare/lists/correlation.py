"""Correlations of the two orders of the common items: Kendall's tau-b, Spearman's rho and weighted tau.

With m common items of a pair, ranked on either side by descending score (see `ranking` for where there are none):

* *tau-b* (Kendall 1945): (concordant − discordant pairs of items) / √(pairs untied in A · pairs untied in B), with the
  discordant pairs counted after Knight 1966;
* *rho*: the correlation of the average ranks;
* *weighted tau* (Vigna 2015, "A weighted correlation index for rankings with ties"): as tau-b, with every pair of
  items weighing w_i + w_j instead of 1, where w = 1/(1 + r) for the item of rank r = 0, 1, … (additive, hyperbolic). An
  item has two ranks, by A with ties by B and by B with ties by A; the value is the mean of the two. So it does not
  change when the sides change places, and an exchange at the top costs most.

Each is undefined (NaN) where fewer than two items are common, and where all of them are tied on one side.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shadowproxy.compare.lists import rectangle
from shadowproxy.compare.lists.align import SIDES, Lists
from shadowproxy.compare.lists.ragged import (
    Bools,
    Floats,
    Ints,
    Ranks,
    counts,
    offsets,
    ranks,
    run_starts,
    sums,
    totals,
    weighed_inversions,
)
from shadowproxy.model import Side

_ONE = 1 << 40
"""A weight of 1, in integers. With lists of 100,000 items a sum of weights over pairs of items stays below 2^61."""


class Correlations(NamedTuple):
    """By pair, shape (n,); NaN where undefined."""

    kendall: Floats
    spearman: Floats
    weighted: Floats


def correlations(lists: Lists) -> Correlations:
    """All three over the common items."""
    pair, n = lists.pair, lists.n
    a, b = (ranks(key, pair, n) for key in _keys(lists))
    size = counts(pair, n)
    start = offsets(size)[pair]
    most = int(size.max(initial=0)) + 1
    # Both ranks as one number, which no list is long enough to make inexact. Items tied on both sides are alike in all
    # that follows, whichever comes first.
    order = rectangle.order((a.dense * most + b.dense).astype(np.float64), pair, size)
    other = rectangle.order((b.dense * most + a.dense).astype(np.float64), pair, size)
    place = np.arange(len(pair))
    weight = (_ONE / np.arange(1, most + 1)).astype(np.int64)
    by_a, by_b = weight[place - start], np.empty(len(pair), np.int64)
    by_b[other] = by_a
    by_b = by_b[order]

    sorted_a, sorted_b = a.dense[order], b.dense[order]
    # Sorted by A and then B, so that items that are tied in A count no inversion.
    discordant, exchanged_a, exchanged_b = weighed_inversions(sorted_b, pair, n, by_a, by_b)
    runs = run_starts(pair, sorted_a, sorted_b)
    joint = np.repeat(np.arange(len(runs)), np.diff(runs, append=len(pair)))
    groups = (start + sorted_a, start + sorted_b, joint)
    taus = [
        _weighted_tau(size, weights, discordances, groups)
        for weights, discordances in ((by_a, exchanged_a), (by_b, exchanged_b))
    ]
    return Correlations(
        kendall=_tau_b(size, a, b, discordant, joint),
        spearman=_rho(size, a.average, b.average, pair),
        weighted=np.clip((taus[0] + taus[1]) / 2, -1.0, 1.0),
    )


def _keys(lists: Lists) -> tuple[Floats, Floats]:
    """What the common items are ordered by on either side, ascending from the best."""
    by_place = tuple(lists.place[side].astype(np.float64) for side in SIDES)
    if lists.score is None:
        return by_place[0], by_place[1]
    undefined = np.isnan(lists.score[Side.BASELINE]) | np.isnan(lists.score[Side.CANDIDATE])
    by_score = (sums(undefined, lists.pair, lists.n) == 0)[lists.pair]
    a, b = (np.where(by_score, -lists.score[side], place) for side, place in zip(SIDES, by_place, strict=True))
    return a, b


def _tau_b(size: Ints, a: Ranks, b: Ranks, discordant: Ints, joint: Ints) -> Floats:
    total = size * (size - 1) / 2
    tied_both = totals(_others(joint), size) / 2
    surplus = total - a.tied - b.tied + tied_both - 2 * discordant
    return _ratio(surplus, total - a.tied, total - b.tied)


def _weighted_tau(size: Ints, weights: Ints, discordant: Ints, groups: tuple[Ints, Ints, Ints]) -> Floats:
    """By one of the two ranks; `groups`: of items tied in A, in B, and in both, numbered over all pairs."""
    # Every pair of a group weighs w_i + w_j, so a group of g items adds (g − 1)·Σw.
    total = (size - 1) * totals(weights, size)
    tied_a, tied_b, tied_both = (totals(weights * _others(group), size) for group in groups)
    return _ratio(total - tied_a - tied_b + tied_both - 2 * discordant, total - tied_a, total - tied_b)


def _others(group: Ints) -> Ints:
    """By item, how many others there are in its group."""
    others: Ints = np.bincount(group)[group] - 1
    return others


def _rho(size: Ints, a: Floats, b: Floats, pair: Ints) -> Floats:
    n = len(size)
    middle = ((size - 1) / 2)[pair]
    x, y = a - middle, b - middle
    return _ratio(sums(x * y, pair, n), sums(x * x, pair, n), sums(y * y, pair, n))


def _ratio(product: Floats | Ints, a: Floats | Ints, b: Floats | Ints) -> Floats:
    """product / √(a·b); NaN where a or b is 0."""
    defined: Bools = (a > 0) & (b > 0)
    # Two roots, not the root of the product: exact for untied lists, and no overflow for long ones.
    scale = np.sqrt(np.where(defined, a, 1.0)) * np.sqrt(np.where(defined, b, 1.0))
    return np.where(defined, np.clip(product / scale, -1.0, 1.0), np.nan)
