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

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shadowproxy.compare.lists.align import Lists
from shadowproxy.compare.lists.ragged import (
    Bools,
    Floats,
    Ints,
    Runs,
    counts,
    offsets,
    ordered,
    runs_where,
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
    size = counts(pair, n)
    start = offsets(size)[pair]
    place = np.arange(len(pair)) - start
    keys = _keys(lists)
    a, b = ordered(keys[0], keys[1], pair, size), ordered(keys[1], keys[0], pair, size)

    # By item: its place in A, and in B, where ties of the one are broken by the other.
    in_a, in_b = np.empty_like(place), np.empty_like(place)
    in_a[a.order], in_b[b.order] = place, place
    # From here on items stand in A's order. Those tied in B all have the first one's rank: none inverts another.
    rank_b = in_b[a.order]
    weight = (_ONE / np.arange(1, int(size.max(initial=0)) + 1)).astype(np.int64)
    by_a, by_b = weight[place], weight[rank_b]
    of_b = b.order[b.tied.places]
    tied_b = in_a[of_b] + start[of_b]
    rank_b[tied_b] = b.tied.spread(place[b.tied.starts])
    discordant, exchanged_a, exchanged_b = weighed_inversions(rank_b, pair, n, by_a, by_b)

    tied_a = a.tied.places
    joint = _joint(a.tied, rank_b[tied_a])
    ties = (
        _Ties(pair[tied_a], tied_a, a.tied.spread(a.tied.lengths - 1)),
        _Ties(pair[tied_b], tied_b, b.tied.spread(b.tied.lengths - 1)),
        _Ties(pair[tied_a][joint.places], tied_a[joint.places], joint.spread(joint.lengths - 1)),
    )
    # Twice an item's average rank, less its mean.
    middle = (size - 1)[pair]
    x, y = 2 * place - middle, 2 * rank_b - middle
    x[tied_a] = (2 * a.tied.spread(place[a.tied.starts]) - middle[tied_a]) + ties[0].others
    y[tied_b] += ties[1].others
    taus = [
        _tau((size - 1) * totals(weights, size), [tie.sums(n, weights) for tie in ties], exchanged)
        for weights, exchanged in ((by_a, exchanged_a), (by_b, exchanged_b))
    ]
    return Correlations(
        kendall=_tau(size * (size - 1), [tie.sums(n) for tie in ties], 2 * discordant),
        spearman=_rho(size, totals(x * y, size), a.tied, b.tied, pair),
        weighted=np.clip((taus[0] + taus[1]) / 2, -1.0, 1.0),
    )


class _Ties(NamedTuple):
    """Items that are tied with others: of which list, where they stand in A's order, and with how many others."""

    pair: Ints
    at: Ints
    others: Ints

    def sums(self, n: int, weights: Ints | None = None) -> Ints:
        """By list, the sum over items of weight times others: over pairs of tied items, the sum of both weights."""
        found = np.zeros(n, np.int64)
        np.add.at(found, self.pair, self.others if weights is None else self.others * weights[self.at])
        return found


def _keys(lists: Lists) -> tuple[Floats, Floats]:
    """What the common items are ordered by on either side, ascending from the best."""
    if lists.score is None:
        return _places(lists)
    a, b = -lists.score[Side.BASELINE], -lists.score[Side.CANDIDATE]
    undefined = np.isnan(a) | np.isnan(b)
    if undefined.any():
        by_place = (sums(undefined, lists.pair, lists.n) > 0)[lists.pair]
        a, b = (np.where(by_place, place, key) for place, key in zip(_places(lists), (a, b), strict=True))
    return a, b


def _places(lists: Lists) -> tuple[Floats, Floats]:
    return lists.place[Side.BASELINE].astype(np.float64), lists.place[Side.CANDIDATE].astype(np.float64)


def _joint(tied: Runs, rank_b: Ints) -> Runs:
    """Among the members of A's tied runs, one run after the other, those that are tied in B too."""
    run = tied.spread(tied.starts)
    equal = np.zeros(len(run), np.bool_)
    equal[1:] = (run[1:] == run[:-1]) & (rank_b[1:] == rank_b[:-1])
    return runs_where(equal)


def _tau(total: Ints, tied: Sequence[Ints], discordant: Ints) -> Floats:
    """From sums over ordered pairs of items: of all, of those tied in A, in B and in both; `discordant`: unordered."""
    in_a, in_b, in_both = tied
    return _ratio(total - in_a - in_b + in_both - 2 * discordant, total - in_a, total - in_b)


def _rho(size: Ints, product: Ints, a: Runs, b: Runs, pair: Ints) -> Floats:
    """From the sum of the products of what twice the average ranks are off their mean."""
    squares = size * (size * size - 1) // 3
    # Σ(2r − m + 1)² over m ranks without ties; a run of t tied ones takes t(t² − 1)/3 from it.
    of_a, of_b = (
        squares - _summed(runs.lengths * (runs.lengths * runs.lengths - 1) // 3, pair[runs.starts], len(size))
        for runs in (a, b)
    )
    return _ratio(product, of_a, of_b)


def _summed(values: Ints, pair: Ints, n: int) -> Ints:
    found = np.zeros(n, np.int64)
    np.add.at(found, pair, values)
    return found


def _ratio(product: Ints, a: Ints, b: Ints) -> Floats:
    """product / √(a·b); NaN where a or b is 0."""
    defined: Bools = (a > 0) & (b > 0)
    # Two roots, not the root of the product: exact for untied lists, and no overflow for long ones.
    scale = np.sqrt(np.where(defined, a, 1.0)) * np.sqrt(np.where(defined, b, 1.0))
    return np.where(defined, np.clip(product / scale, -1.0, 1.0), np.nan)
