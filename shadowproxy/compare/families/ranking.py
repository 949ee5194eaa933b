"""Agreement of the two rankings. A baseline list A, a candidate list B, without duplicates, best first; depth k, p of
the route.

| metric | definition | both empty | one empty |
| --- | --- | --- | --- |
| `ranking.rbo` | rank-biased overlap, extrapolated (see `overlap`) | 1 | 0 |
| `ranking.overlap` | size of top-k(A) ∩ top-k(B), over min(k, length of A) | 1 | 0 |
| `ranking.top1` | 1 where both begin with the same item, else 0 | 1 | 0 |
| `ranking.ndcg` | NDCG@k of B's order, with A's scores as gains | 1 | 0 |
| `ranking.kendall` | Kendall's tau-b on the common items (see `correlation`) | undefined | undefined |
| `ranking.spearman` | Spearman's rho on the common items, ties by average ranks | undefined | undefined |
| `ranking.weighted_tau` | weighted tau on the common items | undefined | undefined |
| `ranking.displacement` | largest distance of a common item's places, over (longer length − 1) | 0 | undefined |
| `ranking.new` | share of top-k(B) that is nowhere in A | 0 | A: 1, B: 0 |
| `ranking.length` | (length of B − length of A) / the longer | 0 | ±1 |

*The correlations* go by the scores, so that ties count, where the route has them and every common item of the pair has
a finite one on both sides; else by the places in the lists, which have no ties. Fewer than two common items, or all
of them tied on one side: undefined (NaN, and counted as such). They say nothing of items that were replaced; RBO does.
Nor does the displacement, which is undefined where there is no common item, and 0 in lists of one.

*NDCG* takes an item's score in A for its gain, so it tells whether what A values most still stands at the top of B,
and an exchange of items that A holds for nearly equal costs nearly nothing. Items that A doesn't have, or has without
a score, gain nothing. Scores that are all 0 or more are gains as they are (Järvelin & Kekäläinen 2002). NDCG has no
bounds with negative gains (Gienapp, Fröbe, Hagen & Potthast 2020, "The impact of negative relevance judgments on
NDCG"): where any of a list is negative, all are shifted so that the lowest is 0. Where all gains are 0 then, every item
with a score gains 1: it is a list without preference. No item with a score in A: undefined. Items that are tied in A
have equal gains, so their order in B makes no difference.

*Ties of B*, and of either list in displacement and RBO, are looked at where the lists are ordered by their scores (see
`comparer`): a tied item stands at its group's mean place, and takes the mean discount over its group's places. Overlap,
top1 and new leave tied items in the order of the request, which is the same on both sides. Where an answer itself is a
list, its order is what the client sees, and scores tie nothing.

*Failed sides.* Where either side failed, or both, overlap, NDCG and correlations are 0: nothing is common, nothing
correlates. (0 and not −1: a missing answer is no evidence of a reversed one.) Displacement and share of new items are
1: nothing is where it was. It is the same whichever side failed, so a broken baseline can't flatter a candidate nor the
other way round; who failed more is what `failures.difference` tells. `ranking.length` is not applicable then. Where
neither failed but there is no list, since the *request* that should hold it doesn't, all are undefined.

`ranking.rbo_excess` and `ranking.overlap_excess` are what A and B disagree in beyond A's own noise, by those two
agreements, for pairs that the replica answered too (see `excess`).

STATISTICS §5, §10.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shadowproxy.compare.families.excess import excess_of_lists
from shadowproxy.compare.lists.align import SIDES, Lists
from shadowproxy.compare.lists.correlation import correlations
from shadowproxy.compare.lists.gains import discounts, mean_over_places
from shadowproxy.compare.lists.overlap import both_empty, new, overlap, rbo, top1
from shadowproxy.compare.lists.ragged import Floats, Ints, counts, highest, sums
from shadowproxy.compare.view import Values, View
from shadowproxy.model import Side


def ranking(view: View) -> Mapping[str, Values]:
    """The family `ranking`; nothing where the route has no ids, no NDCG where it has no scores."""
    lists = view.lists
    if lists is None:
        return {}
    correlated = correlations(lists)
    agreements = {
        "ranking.rbo": rbo(lists, view.rbo_p),
        "ranking.overlap": overlap(lists, view.k),
        "ranking.top1": top1(lists),
        "ranking.kendall": correlated.kendall,
        "ranking.spearman": correlated.spearman,
        "ranking.weighted_tau": correlated.weighted,
    }
    if lists.scores is not None and view.route is not None and "scores" in view.route.offers:
        agreements["ranking.ndcg"] = ndcg(lists, lists.scores[Side.BASELINE], view.k)
    changes = {"ranking.displacement": displacement(lists), "ranking.new": new(lists, view.k)}
    failed = view.any_failed
    found = {
        name: Values(np.where(failed, worth, np.where(lists.both, value, np.nan)), view.comparable)
        for values, worth in ((agreements, 0.0), (changes, 1.0))
        for name, value in values.items()
    }
    difference = np.where(lists.both, length(lists), np.nan)
    found["ranking.length"] = Values(difference, view.comparable & ~failed)
    if view.triplets is not None:
        triplets, depth, p = view.triplets, view.k, view.rbo_p
        found["ranking.rbo_excess"] = excess_of_lists(triplets, found["ranking.rbo"].values, lambda one: rbo(one, p))
        found["ranking.overlap_excess"] = excess_of_lists(
            triplets, found["ranking.overlap"].values, lambda one: overlap(one, depth)
        )
    return found


def ndcg(lists: Lists, scores: Floats, k: int) -> Floats:
    """NDCG@k of the candidate's order, by pair; `scores`: of all items of the baseline. NaN where none is a number."""
    pair, place = lists.items(Side.BASELINE)
    gain = gains(scores, pair, lists.length[Side.BASELINE])
    weights = discounts(min(k, max(map(_longest, lists.length.values()))))
    firsts, lasts = lists.ranges(Side.CANDIDATE)
    at = lists.at(Side.CANDIDATE)
    discount = mean_over_places(weights, firsts[at], lasts[at])
    gained = sums(gain[lists.at(Side.BASELINE)] * discount, lists.pair, lists.n)

    # Most services answer in the order of their scores; sorting is for the others.
    if ((gain[1:] > gain[:-1]) & (pair[1:] == pair[:-1])).any():
        gain = gain[np.lexsort((-gain, pair))]
    ideal = sums(gain * mean_over_places(weights, place, place), pair, lists.n)
    value = np.divide(gained, ideal, out=np.full(lists.n, np.nan), where=ideal > 0)
    value = np.where(lists.length[Side.BASELINE] == 0, 0.0, np.clip(value, 0.0, 1.0))
    return np.where(both_empty(lists), 1.0, value)


def gains(scores: Floats, pair: Ints, lengths: Ints) -> Floats:
    """What items with these scores are worth, 0 to 1 within each list: NDCG has no unit."""
    known = np.isfinite(scores)
    score = scores if known.all() else np.where(known, scores, 0.0)
    largest = highest(np.abs(score), lengths)
    # In units of the largest, for the difference of two may overflow.
    gain = score / np.where(largest > 0, largest, 1.0)[pair]
    lowest = -highest(-gain, lengths)
    if lowest.any():
        gain = np.where(known, gain - lowest[pair], 0.0)
    worthless = highest(gain, lengths) == 0
    return np.where(known & worthless[pair], 1.0, gain) if worthless.any() else gain


def displacement(lists: Lists) -> Floats:
    """Largest displacement of a common item, 0 to 1, by pair; NaN where there is none and not both lists are empty."""
    places = []
    for side in SIDES:
        first, last = lists.ranges(side)
        at = lists.at(side)
        places.append((first[at] + last[at]) / 2)
    size = counts(lists.pair, lists.n)
    farthest = highest(np.abs(places[0] - places[1]), size)
    span = np.maximum(lists.length[Side.BASELINE], lists.length[Side.CANDIDATE]) - 1
    known = (size > 0) | both_empty(lists)
    return np.where(known, farthest / np.maximum(span, 1), np.nan)


def length(lists: Lists) -> Floats:
    """Relative difference of the lengths, by pair."""
    a, b = lists.length[Side.BASELINE], lists.length[Side.CANDIDATE]
    return (b - a) / np.maximum(np.maximum(a, b), 1)


def _longest(lengths: Ints) -> int:
    return int(lengths.max(initial=0))
