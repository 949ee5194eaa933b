"""Quality of pairs whose truth came later: what it comes to.

Everything else about such a pair is counted at once. What the quality metrics need is little: the items of both sides
in their order. With the truth in hand they go through the very functions that a truth in the request goes through, so
when it was known makes no difference to a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shadowproxy.compare.columns import Columns
from shadowproxy.compare.extraction.answer import NOTHING, Answer, Ranking
from shadowproxy.compare.extraction.readings import true_labels_of, truth_of
from shadowproxy.compare.families import quality_labels
from shadowproxy.compare.families.quality import NAMES, quality_of_lists
from shadowproxy.compare.families.quality_labels import quality_of_labels
from shadowproxy.compare.lists.align import SIDES, align, hits
from shadowproxy.compare.unlabelled import Unlabelled
from shadowproxy.compare.view import Truth, Values, View
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


def labelled(pairs: Sequence[Unlabelled], truths: Sequence[Any]) -> Columns:
    """The columns of the family `quality`, and of it alone, for n pairs whose truth has come, in their order.

    `truths` are as they came, any JSON: they are read as the same in the request would be.

    There is nothing in them of failures and latency: that was counted when the pairs came.
    """
    n = len(pairs)
    names = (*NAMES, *(quality_labels.NAMES if any(pair.classes is not None for pair in pairs) else ()))
    values = {name: np.full(n, np.nan) for name in names}
    applicable = {name: np.zeros(n, np.bool_) for name in names}
    routes = np.array([pair.route for pair in pairs], np.int32)
    for route in np.unique(routes):
        rows = np.flatnonzero(routes == route).tolist()
        for name, (found, applies) in _quality([pairs[row] for row in rows], [truths[row] for row in rows]).items():
            values[name][rows] = np.where(applies, found, np.nan)
            applicable[name][rows] = applies
    return Columns(
        started=np.array([pair.started for pair in pairs], np.float64),
        route=routes,
        cohorts=tuple(pair.cohorts for pair in pairs),
        account=np.array([pair.account for pair in pairs], np.uint64),
        values=values,
        applicable=applicable,
        failed={},
        failure={},
        ttfb={},
        total={},
        weight=np.array([pair.weight for pair in pairs], np.float64),
    )


def _quality(pairs: Sequence[Unlabelled], truths: Sequence[Any]) -> Mapping[str, Values]:
    """The family's metrics for pairs of one route."""
    classes = pairs[0].classes
    view = _view(pairs, truths)
    if classes is None:
        return quality_of_lists(view)
    by = {"label": classes.labels is not None, "probabilities": classes.probabilities is not None}
    return {**(quality_of_lists(view) if classes.ranked else {}), **quality_of_labels(view, **by)}


def _view(pairs: Sequence[Unlabelled], truths: Sequence[Any]) -> View:
    """What the family gets to see of pairs of one route."""
    gains = [
        truth_of(truth) if pair.classes is None or isinstance(truth, dict) else None
        for pair, truth in zip(pairs, truths, strict=True)
    ]
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
        answers={side: [_answer(pair, at) for pair in pairs] for at, side in enumerate(SIDES)},
        true_labels=[true_labels_of(truth) for truth in truths],
        truth=truths_of(rankings, gains, by_score=by_score),
        k=pairs[0].k,
    )


def _answer(pair: Unlabelled, side: int) -> Answer:
    classes = pair.classes
    if classes is None:
        return NOTHING
    return Answer(
        labels=None if classes.labels is None else classes.labels[side],
        probabilities=None if classes.probabilities is None else classes.probabilities[side],
    )
