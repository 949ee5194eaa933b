"""Which of the two is right, where the truth is known: each side against it, and the difference.

The truth of a pair is the items that a right answer holds, each with a gain > 0 (1 where only ids are given), from the
request, the annotations or a label that came later. Without any the metrics are not applicable. With k of the route:

* `quality.ndcg`: NDCG@k = Σ_{i<k} gain_i / log2(i + 2) over the list, divided by the same of the truth in its best
  order (linear gain; Järvelin & Kekäläinen 2002, with the discount of `gains`);
* `quality.recall`: share of the true items that are in the list's top k (over all true items, however small k is);
* `quality.reciprocal_rank`: 1 / the rank of the first true item, wherever it stands; 0 where none does.

The value is the candidate's less the baseline's, in [−1, 1]; it changes sign when the sides change places. An empty
list is worth 0, and so is a failed side: an answer that did not come helped nobody. Both failed: 0.

In a list that is ordered by scores (see `comparer`) tied items stand in no order, so none may matter: each takes the
mean discount, or the mean share of the top k, over the places that its group takes (McSherry & Najork 2008), and the
mean of its ranks as its rank.

Where neither side failed but there is no list, since the request that should hold it doesn't: undefined.

Of classifiers see `quality_labels`. Where a route has labels or probabilities beside its lists, a truth that is an
object (id → gain) is of the lists, any other of the labels; the metrics of the other are not applicable to that pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from shadowproxy.compare.families.quality_labels import quality_of_labels
from shadowproxy.compare.lists.align import SIDES, Hits
from shadowproxy.compare.lists.gains import discounts, mean_over_places
from shadowproxy.compare.lists.ragged import Floats, sums
from shadowproxy.compare.view import Truth, Values, View
from shadowproxy.model import Side


def quality(view: View) -> Mapping[str, Values]:
    """The family `quality`; nothing where the route has no truth."""
    found = quality_of_lists(view)
    route = view.route
    if route is None or route.truth is None:
        return found
    by = {"label": route.label is not None, "probabilities": route.probabilities is not None}
    return {**found, **quality_of_labels(view, **by)}


def quality_of_lists(view: View) -> Mapping[str, Values]:
    """Its metrics that need lists; nothing where there are none."""
    truth, lists = view.truth, view.lists
    if truth is None or lists is None:
        return {}
    applicable = view.comparable & truth.known
    defined = view.any_failed | lists.both
    found = {}
    for name, measure in _MEASURES.items():
        worth = {side: np.where(view.failed[side], 0.0, measure(truth, truth.hits[side], view.k)) for side in SIDES}
        difference = worth[Side.CANDIDATE] - worth[Side.BASELINE]
        found[name] = Values(np.where(defined, np.clip(difference, -1.0, 1.0), np.nan), applicable)
    return found


def ndcg(truth: Truth, hits: Hits, k: int) -> Floats:
    """NDCG@k of one side, by pair."""
    n = len(truth.known)
    weights = discounts(min(k, _deepest(truth, hits)))
    gained = sums(hits.gain * mean_over_places(weights, hits.first, hits.last), hits.pair, n)
    ideal = np.array([np.dot(gains[: len(weights)], weights[: len(gains)]) for gains in truth.ideal])
    value = np.zeros(n)
    np.divide(gained, ideal, out=value, where=truth.known)
    return value


def recall(truth: Truth, hits: Hits, k: int) -> Floats:
    """Recall@k of one side, by pair."""
    n = len(truth.known)
    shown = mean_over_places(np.ones(min(k, _deepest(truth, hits))), hits.first, hits.last)
    size = np.array([len(gains) for gains in truth.ideal], np.int64)
    return sums(shown, hits.pair, n) / np.maximum(size, 1)


def reciprocal_rank(truth: Truth, hits: Hits, _k: int) -> Floats:
    """Reciprocal rank of one side, by pair."""
    value = np.zeros(len(truth.known))
    np.maximum.at(value, hits.pair, 1.0 / ((hits.first + hits.last) / 2 + 1))
    return value


_MEASURES: Mapping[str, Callable[[Truth, Hits, int], Floats]] = {
    "quality.ndcg": ndcg,
    "quality.recall": recall,
    "quality.reciprocal_rank": reciprocal_rank,
}

NAMES = tuple(_MEASURES)
"""Those of the family that lists have."""


def _deepest(truth: Truth, hits: Hits) -> int:
    """How deep a table of weights must reach: k may be far beyond every list."""
    return max(int(hits.last.max(initial=-1)) + 1, *map(len, truth.ideal), 1)
