"""Agreement of the two rankings. A baseline list A, a candidate list B, without duplicates, best first; depth k, p of
the route.

| metric | definition | both empty | one empty |
| --- | --- | --- | --- |
| `ranking.rbo` | RBO_ext, eq. 32 of Webber et al. 2010, for lists of uneven length | 1 | 0 |
| `ranking.overlap` | size of top-k(A) ∩ top-k(B), over min(k, length of A) | 1 | 0 |
| `ranking.top1` | 1 where both begin with the same item, else 0 | 1 | 0 |
| `ranking.kendall` | Kendall's tau-b on the common items | undefined | undefined |
| `ranking.spearman` | Spearman's rho on the common items, ties by average ranks | undefined | undefined |
| `ranking.length` | (length of B − length of A) / the longer | 0 | ±1 |

*tau-b and rho* go by the scores, so that ties count, where the route has them and every common item of the pair has a
finite one on both sides; else by the places in the lists, which have no ties. Fewer than two common items, or all
of them tied on one side: undefined (NaN, and counted as such). They say nothing of items that were replaced; RBO does.

*Failed sides.* Where either side failed, or both, the five agreements are 0: no overlap, no correlation. It is the same
whichever side failed, so a broken baseline can't flatter a candidate nor the other way round; who failed more is what
`failures.difference` tells. (For the correlations 0, not −1: a missing answer is no evidence of a reversed one.)
`ranking.length` is not applicable then. Where neither failed but there is no list, since the *request* that should
hold it doesn't, all are undefined.

*Sources.* Webber, Moffat, Zobel 2010, "A similarity measure for indefinite rankings"; Kendall 1945 (tau-b), with the
count of discordant pairs after Knight 1966; STATISTICS §5, §10.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shadowproxy.compare import rectangle
from shadowproxy.compare.align import SIDES, Lists
from shadowproxy.compare.ragged import Bools, Floats, Ints, counts, inversions, ranks, run_starts, sums
from shadowproxy.compare.view import Values, View
from shadowproxy.model import Side


def ranking(view: View) -> Mapping[str, Values]:
    """The family `ranking`; nothing where the route has no ids."""
    lists = view.lists
    if lists is None:
        return {}
    kendall, spearman = correlations(lists)
    agreements = {
        "ranking.rbo": rbo(lists, view.rbo_p),
        "ranking.overlap": overlap(lists, view.k),
        "ranking.top1": top1(lists),
        "ranking.kendall": kendall,
        "ranking.spearman": spearman,
    }
    failed = view.any_failed
    found = {
        name: Values(np.where(failed, 0.0, np.where(lists.both, agreement, np.nan)), view.comparable)
        for name, agreement in agreements.items()
    }
    difference = np.where(lists.both, length(lists), np.nan)
    found["ranking.length"] = Values(difference, view.comparable & ~failed)
    return found


def rbo(lists: Lists, p: float) -> Floats:
    """RBO_ext by pair.

    With s ≤ l the lengths, X_d the overlap at depth d:

        (1−p)/p · [Σ_{d≤l} X_d p^d/d + Σ_{s<d≤l} X_s (d−s)/(s d) p^d] + [(X_l − X_s)/l + X_s/s] p^l

    A common item counts in X_d from the depth t on at which both lists have shown it, so with H(n) = Σ_{d≤n} p^(d−1)/d
    the first sum is Σ over common items of H(l) − H(t−1), and no depth has to be walked.
    """
    a, b = lists.length[Side.BASELINE], lists.length[Side.CANDIDATE]
    short, long = np.minimum(a, b), np.maximum(a, b)
    depth = np.arange(1, int(long.max(initial=0)) + 1)
    powers = p ** (depth - 1.0)
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
    return np.where(long == 0, 1.0, np.clip(value, 0.0, 1.0))


def overlap(lists: Lists, k: int) -> Floats:
    """Share of the baseline's top k that is in the candidate's top k, by pair."""
    in_top = (lists.place[Side.BASELINE] < k) & (lists.place[Side.CANDIDATE] < k)
    size = np.minimum(lists.length[Side.BASELINE], k)
    share = sums(in_top, lists.pair, lists.n) / np.maximum(size, 1)
    return np.where(_both_empty(lists), 1.0, share)


def top1(lists: Lists) -> Floats:
    """Whether both lists begin with the same item, by pair."""
    first = (lists.place[Side.BASELINE] == 0) & (lists.place[Side.CANDIDATE] == 0)
    return np.where(_both_empty(lists), 1.0, sums(first, lists.pair, lists.n))


def length(lists: Lists) -> Floats:
    """Relative difference of the lengths, by pair."""
    a, b = lists.length[Side.BASELINE], lists.length[Side.CANDIDATE]
    return (b - a) / np.maximum(np.maximum(a, b), 1)


def correlations(lists: Lists) -> tuple[Floats, Floats]:
    """(tau-b, rho) over the common items, by pair; NaN where undefined."""
    pair, n = lists.pair, lists.n
    a, b = (ranks(key, pair, n) for key in _keys(lists))
    size = counts(pair, n)
    # Both ranks as one number, which no list is long enough to make inexact.
    order = rectangle.order(a.dense * (b.dense.max(initial=0) + 1.0) + b.dense, pair, size)
    return (
        _tau_b(size, a.tied, b.tied, a.dense[order], b.dense[order], pair),
        _rho(size, a.average, b.average, pair),
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


def _tau_b(size: Ints, tied_a: Floats, tied_b: Floats, a: Ints, b: Ints, pair: Ints) -> Floats:
    """`a`, `b`: dense ranks, sorted by (pair, a, b), so that items tied in `a` count no inversion."""
    n = len(size)
    total = size * (size - 1) / 2
    joint = run_starts(pair, a, b)
    lengths = np.diff(joint, append=len(pair))
    tied_both = sums(lengths * (lengths - 1) / 2, pair[joint], n)
    surplus = total - tied_a - tied_b + tied_both - 2 * inversions(b, pair, n)
    free_a, free_b = total - tied_a, total - tied_b
    defined = (free_a > 0) & (free_b > 0)
    # Two roots, not the root of the product: exact for untied lists, and no overflow for long ones.
    scale = np.sqrt(np.where(defined, free_a, 1.0)) * np.sqrt(np.where(defined, free_b, 1.0))
    return np.where(defined, np.clip(surplus / scale, -1.0, 1.0), np.nan)


def _rho(size: Ints, a: Floats, b: Floats, pair: Ints) -> Floats:
    n = len(size)
    middle = ((size - 1) / 2)[pair]
    x, y = a - middle, b - middle
    covariance, xx, yy = sums(x * y, pair, n), sums(x * x, pair, n), sums(y * y, pair, n)
    defined = (xx > 0) & (yy > 0)
    scale = np.sqrt(np.where(defined, xx, 1.0)) * np.sqrt(np.where(defined, yy, 1.0))
    return np.where(defined, np.clip(covariance / scale, -1.0, 1.0), np.nan)


def _both_empty(lists: Lists) -> Bools:
    empty: Bools = np.maximum(lists.length[Side.BASELINE], lists.length[Side.CANDIDATE]) == 0
    return empty
