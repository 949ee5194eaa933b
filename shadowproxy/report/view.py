"""One pair with all that was recorded, as a record: what the API gives, and pages draw side by side.

Whatever was recorded was written by others. It stands here as text and numbers, bounded in size, and is for whoever
draws it to show as such.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final

import orjson
from msgspec import UNSET, Raw, Struct, UnsetType

from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.extraction.answer import Ranking, spelled
from shadowproxy.compare.reader import RouteReader
from shadowproxy.compare.routes import Router, request_path
from shadowproxy.config import Route
from shadowproxy.encodings import EncodingError, codings, decoded
from shadowproxy.model import Exchange, Pair, Side, headers
from shadowproxy.report.differences import differences

MOST_TEXT: Final = 256 * 1024
"""Bytes of a body that are shown, decoded."""
MOST_DIFFERENCES: Final = 200
MOST_ITEMS: Final = 1000
"""Items of the two rankings together."""
_MOST_DECODED: Final = 4 * 1024**2
"""Bytes of a body that are looked into; kept ones are far smaller, but for bombs."""
_MOST_VALUE: Final = 2000
"""Characters of either side of a difference."""


class Ended(Struct, frozen=True, kw_only=True):
    """How an exchange ended."""

    outcome: str
    status: int
    """0 where no response came."""
    total: float | None
    """Seconds; None where it never ended."""


class Exemplar(Struct, frozen=True, kw_only=True):
    """A pair that is worth a look, without heads and bodies."""

    guardrail: str | None
    """Whose worst it is among; None for one of the sample. Likewise `loss` and `value`, which is the metric's."""
    cohort: str
    loss: float | None
    value: float | None
    id: str
    started: float
    route: str
    """Empty where none matches."""
    cohorts: tuple[str, ...]
    method: str
    target: str
    baseline: Ended
    candidate: Ended
    partition: int
    entry: str
    position: int


class BodyView(Struct, frozen=True, kw_only=True):
    """A body without its content codings."""

    text: str | None
    """Where it is UTF-8."""
    json: Raw | UnsetType = UNSET
    """Where it is JSON and shown whole."""
    base64: str | None = None
    """Where it is no text, or its codings can't be undone."""
    bytes: int
    """Of the whole body as it came, kept or not."""
    truncated: bool
    """Whether less is shown than the whole."""
    coding: str = ""
    """Content codings, undone unless `fault` says otherwise."""
    fault: str = ""
    """Why they can't be undone: `unsupported_encoding`, `bad_encoding` or `too_large`."""


class RequestView(Struct, frozen=True, kw_only=True):
    """The client's request."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] | None
    """(lower-case name, value), in order; None where withheld, likewise `body`."""
    body: BodyView | None


class ExchangeView(Struct, frozen=True, kw_only=True):
    """One upstream's answer, or the failure."""

    outcome: str
    status: int
    """0 where no response came."""
    ttfb: float | None
    """Seconds; None where no byte came."""
    total: float | None
    """Seconds; None where it never ended."""
    detail: str
    headers: tuple[tuple[str, str], ...] | None
    body: BodyView | None


class Item(Struct, frozen=True, kw_only=True):
    """One item of the rankings. Ranks count from 1, None where that side lacks it; a score is None where undefined."""

    id: str
    baseline: int | None
    candidate: int | None
    baseline_score: float | None
    candidate_score: float | None


class RankingView(Struct, frozen=True, kw_only=True):
    """Both sides' rankings, as the route reads them."""

    items: tuple[Item, ...]
    """In the baseline's order, then what only the candidate has, in its order."""
    more: int
    """Items that are not listed."""


class DifferenceView(Struct, frozen=True, kw_only=True):
    """One place where the candidate's answer differs."""

    where: str
    """`outcome`, `status`, `header NAME`, `body`, or a path within the JSON, such as `$.items[0].price`."""
    baseline: str | None
    """What stands there, JSON as JSON, cut where it is long; None for nothing."""
    candidate: str | None
    remark: str = ""


class Standing(Struct, frozen=True, kw_only=True):
    """Whose worst a pair is among."""

    guardrail: str
    cohort: str
    rank: int
    """From 1, the worst."""
    loss: float
    value: float


class PairView(Struct, frozen=True, kw_only=True):
    """A pair side by side. Where `withheld`, nothing of what heads, bodies and annotations hold is in it."""

    exemplar: Exemplar
    standings: tuple[Standing, ...]
    """Overall first; empty of a pair that is only of the sample."""
    request: RequestView
    baseline: ExchangeView
    candidate: ExchangeView
    replica: ExchangeView | None
    ranking: RankingView | None
    """None where the route has no rankings, or neither answer has one."""
    differences: tuple[DifferenceView, ...]
    more: int
    """Differences that are not listed."""
    values: dict[str, float]
    """By metric, those that the pair has a defined value of."""
    notes: tuple[str, ...]
    annotations: str | None
    """As the client sent them, JSON; None for none."""
    withheld: bool = False


class Viewer:
    """Makes views of pairs, by the configured routes. Expressions are compiled once."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._router = Router([route.path for route in routes])
        self._readers = [RouteReader(route) for route in routes]
        self._comparer = Comparer(routes)

    def __call__(
        self, pair: Pair, exemplar: Exemplar, *, standings: Sequence[Standing] = (), withhold: bool = False
    ) -> PairView:
        """The view. It takes milliseconds for large bodies. Never raises for what a pair holds."""
        found = [] if withhold else differences(pair.baseline, pair.candidate, limit=_MOST_DECODED)
        values, notes = self._values(pair)
        return PairView(
            exemplar=exemplar,
            standings=tuple(standings),
            request=RequestView(
                method=pair.request.method,
                target=pair.request.target,
                headers=None if withhold else tuple(headers(pair.request.head)),
                body=None if withhold else body_view(pair.request.head, pair.request.body, pair.request.body_size),
            ),
            baseline=_exchange(pair.baseline, withhold),
            candidate=_exchange(pair.candidate, withhold),
            replica=None if pair.replica is None else _exchange(pair.replica, withhold),
            ranking=None if withhold else self._ranking(pair),
            differences=tuple(
                DifferenceView(
                    where=_text(one.where) or "",
                    baseline=_text(one.baseline),
                    candidate=_text(one.other),
                    remark=one.remark,
                )
                for one in found[:MOST_DIFFERENCES]
            ),
            more=max(0, len(found) - MOST_DIFFERENCES),
            values=values,
            notes=(*pair.notes, *notes),
            annotations=None if withhold or not pair.annotations else pair.annotations.decode("utf-8", "replace"),
            withheld=withhold,
        )

    def _values(self, pair: Pair) -> tuple[dict[str, float], tuple[str, ...]]:
        """By metric, and what is to be said of them."""
        if pair.baseline.truncated or pair.candidate.truncated:
            # Whether it was cut when it was captured or when it was kept can't be told; only the former was counted so.
            return {}, ("a body is not here as a whole, so the metrics are not worked out again",)
        columns = self._comparer([pair])
        values = {
            name: float(found[0])
            for name, found in columns.values.items()
            if columns.applicable[name][0] and math.isfinite(found[0])
        }
        return values, ()

    def _ranking(self, pair: Pair) -> RankingView | None:
        at = self._router(request_path(pair.request.target))
        if at < 0 or not self._readers[at].has_ids:
            return None
        answers = self._readers[at].read(pair).answers
        ours, theirs = (answers[side].ranking for side in (Side.BASELINE, Side.CANDIDATE))
        return None if ours is None and theirs is None else _ranking(ours, theirs)


def _ranking(baseline: Ranking | None, candidate: Ranking | None) -> RankingView:
    ours, theirs = _places(baseline), _places(candidate)
    ids = dict.fromkeys((*ours, *theirs))
    items = tuple(
        Item(
            id=name,
            baseline=ours[name][0] if name in ours else None,
            candidate=theirs[name][0] if name in theirs else None,
            baseline_score=ours[name][1] if name in ours else None,
            candidate_score=theirs[name][1] if name in theirs else None,
        )
        for name in islice(ids, MOST_ITEMS)
    )
    return RankingView(items=items, more=len(ids) - len(items))


def _places(ranking: Ranking | None) -> Mapping[str, tuple[int, float | None]]:
    if ranking is None:
        return {}
    scores = ranking.scores or [math.nan] * len(ranking.ids)
    names = spelled(ranking.ids)
    return {name: (rank, _finite(score)) for rank, (name, score) in enumerate(zip(names, scores, strict=True), 1)}


def _exchange(exchange: Exchange, withhold: bool) -> ExchangeView:
    return ExchangeView(
        outcome=exchange.outcome.value,
        status=exchange.status,
        ttfb=_finite(exchange.ttfb),
        total=_finite(exchange.total),
        detail=exchange.detail,
        headers=None if withhold else tuple(headers(exchange.head)),
        body=None if withhold else body_view(exchange.head, exchange.body, exchange.body_size),
    )


def body_view(head: bytes, body: bytes, whole: int) -> BodyView:
    """A captured body of `whole` bytes."""
    coding, fault, complete, data = ", ".join(codings(head)), "", True, body
    if coding:
        try:
            data, complete = decoded(head, body, limit=_MOST_DECODED)
        except EncodingError as error:
            fault = error.kind
    shown = data[:MOST_TEXT]
    cut = whole > len(body) or not complete or len(shown) < len(data)
    text = None if fault else _utf8(shown, cut=len(shown) < len(data) or whole > len(body))
    return BodyView(
        text=text,
        json=UNSET if text is None or cut or not _is_json(shown) else Raw(shown),
        base64=base64.b64encode(shown).decode() if text is None else None,
        bytes=whole,
        truncated=cut,
        coding=coding,
        fault=fault,
    )


def _utf8(data: bytes, *, cut: bool) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        # A cut may go through a character.
        return data[: error.start].decode() if cut and len(data) - error.start < 4 else None


def _is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except (orjson.JSONDecodeError, RecursionError):
        return False
    return True


def _text(value: str | None) -> str | None:
    """What can be written as UTF-8, of a bounded length: JSON may hold half of a character."""
    if value is None:
        return None
    cut = value if len(value) <= _MOST_VALUE else f"{value[:_MOST_VALUE]}…"
    return cut.encode("utf-8", "replace").decode()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def ended(exchange: Exchange) -> Ended:
    """How an exchange ended."""
    return Ended(outcome=exchange.outcome.value, status=exchange.status, total=_finite(exchange.total))
