"""Quality of pairs whose truth came later: what it comes to.

Everything else about such a pair is counted at once. What the quality metrics need is little: the items of both sides
in their order. With the truth in hand they go through the very functions that a truth in the request goes through, so
when it was known makes no difference to a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from shadowproxy.compare.align import SIDES, align, hits
from shadowproxy.compare.answer import Ranking
from shadowproxy.compare.columns import Columns
from shadowproxy.compare.quality import NAMES, quality
from shadowproxy.compare.unlabelled import Unlabelled
from shadowproxy.compare.view import Truth, View
from shadowproxy.model import Side


def truths_of(
    rankings: Mapping[Side, Sequence[Ranking | None]],
    truths: Sequence[Mapping[str, float] | None],
    *,
    by_score: bool,
) -> Truth:
    """The truths of n pairs (None where unknown), and where the two sides' lists hold them."""
    return Truth(
        known=np.array([truth is not None for truth in truths], np.bool_),
        ideal=tuple(tuple(sorted((truth or {}).values(), reverse=True)) for truth in truths),
        hits={side: hits(rankings[side], truths, by_score=by_score) for side in SIDES},
    )


def labelled(pairs: Sequence[Unlabelled], truths: Sequence[Mapping[str, float]]) -> Columns:
    """The columns of the family `quality`, and of it alone, for n pairs whose truth has come, in their order.

    There is nothing in them of failures and latency: that was counted when the pairs came.
    """
    n = len(pairs)
    values = {name: np.full(n, np.nan) for name in NAMES}
    applicable = {name: np.zeros(n, np.bool_) for name in NAMES}
    routes = np.array([pair.route for pair in pairs], np.int32)
    for route in np.unique(routes):
        rows = np.flatnonzero(routes == route).tolist()
        view = _view([pairs[row] for row in rows], [truths[row] for row in rows])
        for name, (found, applies) in quality(view).items():
            values[name][rows] = np.where(applies, found, np.nan)
            applicable[name][rows] = applies
    return Columns(
        started=np.array([pair.started for pair in pairs], np.float64),
        route=routes,
        cohorts=tuple(pair.cohorts for pair in pairs),
        account=np.zeros(n, np.uint64),
        values=values,
        applicable=applicable,
        failed={},
        failure={},
        ttfb={},
        total={},
        weight=np.array([pair.weight for pair in pairs], np.float64),
    )


def _view(pairs: Sequence[Unlabelled], truths: Sequence[Mapping[str, float]]) -> View:
    """What the family gets to see of pairs of one route."""
    kept = {Side.BASELINE: [pair.baseline for pair in pairs], Side.CANDIDATE: [pair.candidate for pair in pairs]}
    rankings = {
        side: [None if items is None else Ranking(items.ids, items.scores) for items in kept[side]] for side in SIDES
    }
    by_score = any(items.scores is not None for side in SIDES for items in kept[side] if items is not None)
    failed = {
        Side.BASELINE: np.array([pair.baseline_failed for pair in pairs], np.bool_),
        Side.CANDIDATE: np.array([pair.candidate_failed for pair in pairs], np.bool_),
    }
    unknown = {side: np.full(len(pairs), np.nan) for side in SIDES}
    return View(
        failed=failed,
        ttfb=unknown,
        total=unknown,
        comparable=np.array([pair.comparable for pair in pairs], np.bool_),
        lists=align(rankings),
        truth=truths_of(rankings, truths, by_score=by_score),
        k=pairs[0].k,
    )
