"""Quality of pairs whose truth comes later: what is kept of a pair until then, and what it comes to.

Everything else about such a pair is counted at once. What the quality metrics need is little: the items of both sides
in their order. With the truth in hand they go through the very functions that a truth in the request goes through, so
when it was known makes no difference to a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from shadowproxy.compare.align import SIDES, Ranking, align, hits
from shadowproxy.compare.columns import Columns
from shadowproxy.compare.quality import NAMES, quality
from shadowproxy.compare.view import Truth, View
from shadowproxy.errors import PayloadError
from shadowproxy.model import Side

_VERSION = 1


class _Items(msgspec.Struct, frozen=True, array_like=True):
    """A ranking as it is kept; its scores only where they say which items are tied."""

    ids: list[str]
    scores: list[float] | None


class Unlabelled(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of one pair that waits for its truth."""

    version: int
    id: str
    """The pair's."""
    started: float
    expires: float
    """Unix time up to which its label may come."""
    route: int
    k: int
    comparable: bool
    baseline_failed: bool
    candidate_failed: bool
    baseline: _Items | None
    """None where that side has no list."""
    candidate: _Items | None
    cohorts: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """As a versioned msgpack array."""
        return msgspec.msgpack.encode(self)


class _Version(msgspec.Struct, array_like=True):
    version: int


def unlabelled(
    name: str,
    started: float,
    expires: float,
    *,
    route: int,
    k: int,
    comparable: bool,
    failed: Mapping[Side, bool],
    rankings: Mapping[Side, Ranking | None],
    by_score: bool,
    cohorts: tuple[str, ...],
) -> Unlabelled:
    """What to keep of a pair (see `Unlabelled`); `by_score` as in `hits`."""

    def items(ranking: Ranking | None) -> _Items | None:
        if ranking is None:
            return None
        scores = list(map(float, ranking.scores)) if by_score and ranking.scores is not None else None
        return _Items(ranking.ids, scores)

    return Unlabelled(
        version=_VERSION,
        id=name,
        started=started,
        expires=expires,
        route=route,
        k=k,
        comparable=comparable,
        baseline_failed=failed[Side.BASELINE],
        candidate_failed=failed[Side.CANDIDATE],
        baseline=items(rankings[Side.BASELINE]),
        candidate=items(rankings[Side.CANDIDATE]),
        cohorts=cohorts,
    )


def from_bytes(data: bytes) -> Unlabelled:
    """The reverse of `Unlabelled.to_bytes`. Raises PayloadError for bytes that can't be read, or of another version."""
    try:
        version = msgspec.msgpack.decode(data, type=_Version).version
        if version != _VERSION:
            raise PayloadError(f"what waits for a label is of version {version}, this program reads {_VERSION}")
        return msgspec.msgpack.decode(data, type=Unlabelled)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PayloadError(f"what waits for a label can't be read: {error}") from None


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
