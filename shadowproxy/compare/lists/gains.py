"""Discounted cumulative gain in lists whose tied items stand in no order."""

from __future__ import annotations

import numpy as np

from shadowproxy.compare.lists.ragged import Floats, Ints


def discounts(depth: int) -> Floats:
    """1 / log2(i + 2) for the places i = 0, 1, … below `depth`.

    As trec_eval and its like have it (Burges et al. 2005). Järvelin & Kekäläinen 2002 divide by log2 of the rank from
    the second on, so that the first two places weigh the same: an exchange at the very top would cost nothing.
    """
    weights: Floats = 1.0 / np.log2(np.arange(depth) + 2.0)
    return weights


def mean_over_places(weights: Floats, first: Ints, last: Ints) -> Floats:
    """By item, the mean weight of the places that it may take; places beyond `weights` weigh nothing.

    It is the mean over all orders of the tied items (McSherry & Najork 2008).
    """
    found = np.append(weights, 0.0)[np.minimum(first, len(weights))]
    tied = np.flatnonzero(last > first)
    if len(tied):
        cumulated = np.concatenate(([0.0], np.cumsum(weights)))
        begin, end = (np.minimum(place[tied], len(weights)) for place in (first, last + 1))
        found[tied] = (cumulated[end] - cumulated[begin]) / (last - first + 1)[tied]
    return found
