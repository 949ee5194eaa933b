"""Whether the scores have moved, on the items that both sides scored.

`scores.relative_delta` of a pair is the mean, over the common items with a finite score a of the baseline and b of the
candidate, of (b − a) / (|a| + |b|): in [−1, 1], free of the scores' unit, 0 for 0/0, ±1 where the signs differ or
one is 0. It changes sign when the sides change places. No such item: undefined. Not applicable where a side failed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shadowproxy.compare.align import Lists
from shadowproxy.compare.ragged import Floats, counts, sums
from shadowproxy.compare.view import Values, View
from shadowproxy.model import Side


def scores(view: View) -> Mapping[str, Values]:
    """The family `scores`; nothing where the route has none."""
    lists = view.lists
    if lists is None or lists.score is None:
        return {}
    applicable = view.comparable & ~view.any_failed
    return {"scores.relative_delta": Values(relative_delta(lists, lists.score), applicable)}


def relative_delta(lists: Lists, score: Mapping[Side, Floats]) -> Floats:
    """By pair, the mean relative difference; NaN where no item is scored by both."""
    scored = np.isfinite(score[Side.BASELINE]) & np.isfinite(score[Side.CANDIDATE])
    pair, a, b = lists.pair[scored], score[Side.BASELINE][scored], score[Side.CANDIDATE][scored]
    # In units of the larger of the two, for |a| + |b| may overflow.
    unit = np.maximum(np.abs(a), np.abs(b))
    unit[unit == 0] = 1.0
    a, b = a / unit, b / unit
    total = np.abs(a) + np.abs(b)
    delta = np.divide(b - a, total, out=np.zeros_like(total), where=total > 0)
    items = counts(pair, lists.n)
    mean = sums(delta, pair, lists.n) / np.maximum(items, 1)
    return np.where(items > 0, np.clip(mean, -1.0, 1.0), np.nan)
