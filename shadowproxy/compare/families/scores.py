"""Whether the scores have moved, on the items that both sides have; all but the last two free of the scores' unit.

With r = (b − a) / (|a| + |b|) of a common item with finite scores a of the baseline and b of the candidate, which is in
[−1, 1], 0 for 0/0, and ±1 where the signs differ or one is 0:

* `scores.relative_delta`: the mean of r. It changes sign when the sides change places; items that gain and items that
  lose cancel each other out.
* `scores.relative_change`: the mean of |r|, in [0, 1]. It doesn't change with the sides, and nothing cancels out.
* `scores.undefined`: the share of the common items that only the candidate leaves without a finite score, less the
  share that only the baseline does, in [−1, 1]. The other two don't see such items.
* `scores.delta`: the mean of b − a, in the scores' own unit, which has no bounds: a guardrail clips it (see
  `verdict.guardrails.calibrated`). `scores.noise` is the same of the replica's scores and the baseline's, of the pairs
  that the replica answered too: by how much the baseline differs from itself. Beyond ±1e150 they count as that.

No item that both scored leaves all but the third undefined, no common item the third, unless both lists are empty:
then it is 0. Not applicable where a side failed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shadowproxy.compare.lists.align import Lists
from shadowproxy.compare.lists.overlap import both_empty
from shadowproxy.compare.lists.ragged import Floats, counts, sums
from shadowproxy.compare.view import Values, View
from shadowproxy.model import Side

_FARTHEST = 1e150


def scores(view: View) -> Mapping[str, Values]:
    """The family `scores`; nothing where the route has none."""
    lists = view.lists
    if lists is None or lists.score is None:
        return {}
    applicable = view.comparable & ~view.any_failed
    delta, change = relative(lists, lists.score)
    found = {
        "scores.relative_delta": Values(delta, applicable),
        "scores.relative_change": Values(change, applicable),
        "scores.delta": Values(moved(lists, lists.score), applicable),
        "scores.undefined": Values(np.where(lists.both, undefined(lists, lists.score), np.nan), applicable),
    }
    triplets = view.triplets
    if triplets is not None and triplets.noise.score is not None:
        noise, there = np.full(len(view), np.nan), np.zeros(len(view), np.bool_)
        noise[triplets.row] = moved(triplets.noise, triplets.noise.score)
        there[triplets.row] = True
        found["scores.noise"] = Values(noise, there)
    return found


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


def moved(lists: Lists, score: Mapping[Side, Floats]) -> Floats:
    """By pair, the mean difference; NaN where no item is scored by both."""
    a, b = score[Side.BASELINE], score[Side.CANDIDATE]
    scored = np.isfinite(a) & np.isfinite(b)
    pair = lists.pair[scored]
    # Halves, for the difference of two floats may be none; bounded, so that sums of squares over many pairs are floats.
    delta = 2 * np.clip(b[scored] / 2 - a[scored] / 2, -_FARTHEST / 2, _FARTHEST / 2)
    items = counts(pair, lists.n)
    return np.where(items > 0, sums(delta, pair, lists.n) / np.maximum(items, 1), np.nan)


def undefined(lists: Lists, score: Mapping[Side, Floats]) -> Floats:
    """By pair, the difference of the shares without a score; NaN where no item is common and not both are empty."""
    missing = {side: ~np.isfinite(score[side]) for side in score}
    more = missing[Side.CANDIDATE].astype(np.int64) - missing[Side.BASELINE]
    items = counts(lists.pair, lists.n)
    share = sums(more, lists.pair, lists.n) / np.maximum(items, 1)
    return np.where((items > 0) | both_empty(lists), share, np.nan)
