"""What two lists have in common: rank-biased overlap, with and without ties, overlap@k, the first item, new items.

*Rank-biased overlap* is extrapolated: RBO_ext, eq. 32 of Webber, Moffat & Zobel 2010, for lists of uneven length. Where
the lists are ordered by their scores, equal scores are ties, and it is RBO^w_ext of Corsi & Urbano 2024 ("The treatment
of ties in rank-biased overlap"), which is RBO_ext where nothing is tied: the items of a group all stand at its first
place, and the agreement at depth d is 2·X_d / (items of A at d + items of B at d). Of that paper's three variants it is
the one for ties that mean "equally good", and lists that are alike, ties and all, are worth 1. RBO^a, the mean over all
orders of the tied, would find a service with tied scores to disagree with itself.
"""

from __future__ import annotations

import numpy as np

from shadowproxy.compare.lists.align import SIDES, Lists
from shadowproxy.compare.lists.ragged import Bools, Floats, Ints, counts, offsets, sums
from shadowproxy.model import Side


def rbo(lists: Lists, p: float) -> Floats:
    """RBO_ext by pair, RBO^w_ext where items are tied; 1 where both lists are empty.

    With s ≤ l the lengths, X_d the overlap at depth d:

        (1−p)/p · [Σ_{d≤l} X_d p^d/d + Σ_{s<d≤l} X_s (d−s)/(s d) p^d] + [(X_l − X_s)/l + X_s/s] p^l

    A common item counts in X_d from the depth t on at which both lists have shown it, so with H(n) = Σ_{d≤n} p^(d−1)/d
    the first sum is Σ over common items of H(l) − H(t−1), and no depth has to be walked.
    """
    a, b = lists.length[Side.BASELINE], lists.length[Side.CANDIDATE]
    short, long = np.minimum(a, b), np.maximum(a, b)
    depth = np.arange(1, int(long.max(initial=0)) + 1)
    powers = np.asarray(p ** (depth - 1.0), np.float64)
    harmonic = np.concatenate(([0.0], np.cumsum(powers / depth)))
    geometric = np.concatenate(([0.0], np.cumsum(powers)))

    seen = np.maximum(lists.place[Side.BASELINE], lists.place[Side.CANDIDATE]) + 1
    overlap_long = counts(lists.pair, lists.n)
    overlap_short = sums(seen <= short[lists.pair], lists.pair, lists.n)
    walked = sums(harmonic[long[lists.pair]] - harmonic[seen - 1], lists.pair, lists.n)
    s, l = np.maximum(short, 1), np.maximum(long, 1)  # noqa: E741  (the paper's letters)
    beyond = overlap_short * ((geometric[long] - geometric[short]) / s - (harmonic[long] - harmonic[short]))
    tail = ((overlap_long - overlap_short) / l + overlap_short / s) * p ** long.astype(np.float64)
    value = (1 - p) * (walked + beyond) + tail
    if lists.by_score:
        value = _with_ties(lists, p, powers, value)
    return np.where(long == 0, 1.0, np.clip(value, 0.0, 1.0))


def _with_ties(lists: Lists, p: float, powers: Floats, untied: Floats) -> Floats:
    """RBO^w_ext for those pairs that have tied items, `untied` for the others; `powers`: p^(d−1) for d = 1, 2, …

    Every depth of every list is walked: the items that stand at a depth are no longer as many as its number. Beyond the
    end of the shorter list that list is taken to go on without ties, and to agree as it did at its end.
    """
    first, last = {}, {}
    tied = np.zeros(lists.n)
    for side in SIDES:
        first[side], last[side] = lists.ranges(side)
        tied += sums(last[side] > first[side], lists.items(side)[0], lists.n)
    if not tied.any():
        return untied
    a, b = lists.length[Side.BASELINE], lists.length[Side.CANDIDATE]
    short, long = np.minimum(a, b), np.maximum(a, b)
    start = offsets(long)
    pair = np.repeat(np.arange(lists.n), long)
    depth = np.arange(len(pair)) - start[pair] + 1
    standing = [_standing(last[side], lists.length[side], pair, depth) for side in SIDES]

    both = np.maximum(*(first[side][lists.at(side)] for side in SIDES))
    shown = np.cumsum(np.bincount(start[lists.pair] + both, minlength=len(pair)))
    before = np.concatenate(([0], shown))[start]
    overlap = (shown - before[pair]).astype(np.float64)
    agreement = 2 * overlap / (standing[0] + standing[1])
    end = np.concatenate((agreement, [0.0]))[start + np.maximum(short, 1) - 1]
    at_end = np.where(short > 0, end, 0.0)
    unseen = np.maximum(depth - short[pair], 0) * at_end[pair]
    agreement += 2 * unseen / (standing[0] + standing[1])
    walked = sums(agreement * powers[depth - 1], pair, lists.n)
    found = (counts(lists.pair, lists.n) + (long - short) * at_end) / np.maximum(long, 1)
    return np.where(tied > 0, (1 - p) * walked + found * p ** long.astype(np.float64), untied)


def _standing(last: Ints, length: Ints, pair: Ints, depth: Ints) -> Ints:
    """How many items of one side stand at each depth (1, 2, …) or above, a group as a whole where it begins."""
    inside = depth <= length[pair]
    at = np.where(inside, offsets(length)[pair] + depth - 1, -1)
    return np.where(inside, np.concatenate((last, [0]))[at] + 1, depth)


def overlap(lists: Lists, k: int) -> Floats:
    """Share of the baseline's top k that is in the candidate's top k, by pair."""
    in_top = (lists.place[Side.BASELINE] < k) & (lists.place[Side.CANDIDATE] < k)
    size = np.minimum(lists.length[Side.BASELINE], k)
    share = sums(in_top, lists.pair, lists.n) / np.maximum(size, 1)
    return np.where(both_empty(lists), 1.0, share)


def top1(lists: Lists) -> Floats:
    """Whether both lists begin with the same item, by pair."""
    first = (lists.place[Side.BASELINE] == 0) & (lists.place[Side.CANDIDATE] == 0)
    return np.where(both_empty(lists), 1.0, sums(first, lists.pair, lists.n))


def new(lists: Lists, k: int) -> Floats:
    """Share of the candidate's top k that is nowhere in the baseline's list, by pair; 0 where there is none."""
    size = np.minimum(lists.length[Side.CANDIDATE], k)
    known = sums(lists.place[Side.CANDIDATE] < k, lists.pair, lists.n)
    return (size - known) / np.maximum(size, 1)


def both_empty(lists: Lists) -> Bools:
    """Whether neither list has an item, by pair."""
    empty: Bools = np.maximum(lists.length[Side.BASELINE], lists.length[Side.CANDIDATE]) == 0
    return empty
