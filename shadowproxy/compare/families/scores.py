"""Whether the scores have moved, on the items that both sides have. All of it is free of the scores' unit.

With r = (b − a) / (|a| + |b|) of a common item with finite scores a of the baseline and b of the candidate, which is in
[−1, 1], 0 for 0/0, and ±1 where the signs differ or one is 0:

* `scores.relative_delta`: the mean of r. It changes sign when the sides change places; items that gain and items that
  lose cancel each other out.
* `scores.relative_change`: the mean of |r|, in [0, 1]. It doesn't change with the sides, and nothing cancels out.
* `scores.undefined`: the share of the common items that only the candidate leaves without a finite score, less the
  share that only the baseline does, in [−1, 1]. The other two don't see such items.

No item that both scored leaves the first two undefined, no common item the third, unless both lists are empty: then it
is 0. Not applicable where a side failed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shadowproxy.compare.lists.align import Lists
from shadowproxy.compare.lists.overlap import both_empty
from shadowproxy.compare.lists.ragged import Floats, counts, sums
from shadowproxy.compare.view import Values, View
from shadowproxy.model import Side


def scores(view: View) -> Mapping[str, Values]:
    """The family `scores`; nothing where the route has none."""
    lists = view.lists
    if lists is None or lists.score is None:
        return {}
    applicable = view.comparable & ~view.any_failed
    delta, change = relative(lists, lists.score)
    return {
        "scores.relative_delta": Values(delta, applicable),
        "scores.relative_change": Values(change, applicable),
        "scores.undefined": Values(np.where(lists.both, undefined(lists, lists.score), np.nan), applicable),
    }


def relative(lists: Lists, score: Mapping[Side, Floats]) -> tuple[Floats, Floats]:
    """By pair, the mean relative difference and the mean of its size; NaN where no item is scored by both."""
    scored = np.isfinite(score[Side.BASELINE]) & np.isfinite(score[Side.CANDIDATE])
    pair, a, b = lists.pair[scored], score[Side.BASELINE][scored], score[Side.CANDIDATE][scored]
    # In units of the larger of the two, for |a| + |b| may overflow.
    unit = np.maximum(np.abs(a), np.abs(b))
    unit[unit == 0] = 1.0
    a, b = a / unit, b / unit
    total = np.abs(a) + np.abs(b)
    delta = np.divide(b - a, total, out=np.zeros_like(total), where=total > 0)
    items = counts(pair, lists.n)
    mean, size = (sums(values, pair, lists.n) / np.maximum(items, 1) for values in (delta, np.abs(delta)))
    return np.where(items > 0, np.clip(mean, -1.0, 1.0), np.nan), np.where(items > 0, np.minimum(size, 1.0), np.nan)


def undefined(lists: Lists, score: Mapping[Side, Floats]) -> Floats:
    """By pair, the difference of the shares without a score; NaN where no item is common and not both are empty."""
    missing = {side: ~np.isfinite(score[side]) for side in score}
    more = missing[Side.CANDIDATE].astype(np.int64) - missing[Side.BASELINE]
    items = counts(lists.pair, lists.n)
    share = sums(more, lists.pair, lists.n) / np.maximum(items, 1)
    return np.where((items > 0) | both_empty(lists), share, np.nan)
