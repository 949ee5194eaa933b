"""How one route reads a pair: its expressions, compiled, and whose fault it is when they find nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shadowproxy.compare.align import SIDES, Ranking
from shadowproxy.compare.bodies import BodyError
from shadowproxy.compare.documents import request_document, response_document
from shadowproxy.compare.extract import Expression, ExtractError
from shadowproxy.compare.failures import comparable, kinds
from shadowproxy.compare.readings import account_of, cohorts_of, ids_of, ranking_of, scores_of, truth_of
from shadowproxy.config import Route
from shadowproxy.model import Exchange, Pair, Side


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in one pair."""

    comparable: bool
    failure: Mapping[Side, str]
    """Kind of failure by side; empty where it did not fail."""
    rankings: Mapping[Side, Ranking | None]
    truth: Mapping[str, float] | None = None
    cohorts: tuple[str, ...] = ()
    account: int = 0


_NO_RANKINGS: Mapping[Side, Ranking | None] = dict.fromkeys(SIDES)


def read_unrouted(pair: Pair) -> Reading:
    """As `RouteReader.read`, for a pair of no route: there is nothing to look for in it but failures."""
    return Reading(comparable(pair), dict(zip(SIDES, kinds(pair), strict=True)), _NO_RANKINGS)


class RouteReader:
    """One route, compiled. `by_score` says that lists are ordered by their scores.

    That is so where the ids stand in the request and the scores in the response, as with a service that scores the
    candidates it is sent: the order of the ids is then the client's, the same on both sides, and says nothing of the
    models; the order that either model means is that of its scores.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        self._ids = None if route.ids is None else Expression(route.ids, aligned=True)
        self._scores = None if route.scores is None else Expression(route.scores, aligned=True)
        self._truth = None if route.truth is None else Expression(route.truth)
        self._account = None if route.account is None else Expression(route.account)
        self._cohorts = {dimension: Expression(text) for dimension, text in route.cohorts.items()}
        lists = [expression for expression in (self._ids, self._scores) if expression is not None]
        labels = [expression for expression in (self._truth, self._account) if expression is not None]
        everything = [*lists, *labels, *self._cohorts.values()]
        self._shared_reads = frozenset().union(*(expression.reads for expression in everything))
        self._side_reads = frozenset().union(*(filter(_is_response, expression.reads) for expression in lists))
        self._ids_in_response = _in_response(self._ids)
        self.by_score = not self._ids_in_response and _in_response(self._scores)

    def read(self, pair: Pair) -> Reading:
        """Read one pair. Never raises."""
        shared = request_document(pair, self._shared_reads)
        content = comparable(pair)
        failure = dict(zip(SIDES, kinds(pair), strict=True))
        rankings = dict(_NO_RANKINGS)
        ids = self._shared_ids(shared)
        if content and (ids is not None or self._ids_in_response):
            for side, exchange in ((Side.BASELINE, pair.baseline), (Side.CANDIDATE, pair.candidate)):
                if not failure[side]:
                    rankings[side], failure[side] = self._answer(shared, ids, exchange)
        return Reading(
            comparable=content,
            failure=failure,
            rankings=rankings,
            truth=truth_of(_lenient(self._truth, shared)),
            cohorts=cohorts_of({name: _lenient(expression, shared) for name, expression in self._cohorts.items()}),
            account=account_of(_lenient(self._account, shared)),
        )

    def _shared_ids(self, shared: dict[str, Any]) -> list[str] | None:
        """The ids, where they don't stand in the response. None where they do, and where the request lacks them."""
        if self._ids is None or self._ids_in_response:
            return None
        try:
            return ids_of(self._ids(shared))
        except (BodyError, ExtractError):
            return None

    def _answer(
        self, shared: Mapping[str, Any], ids: list[str] | None, exchange: Exchange
    ) -> tuple[Ranking | None, str]:
        """(ranking, kind of failure) of one side, with the ids that both share, if they do."""
        try:
            document = {**shared, "response": response_document(exchange, self._side_reads)}
            if ids is None and self._ids is not None:
                ids = ids_of(self._ids(document))
            names = ids or []
            scores = None if self._scores is None else scores_of(self._scores(document), len(names))
            return ranking_of(names, scores, by_score=self.by_score), ""
        except BodyError as error:
            return None, error.kind if self._side_reads else ""
        except ExtractError:
            return None, "bad_body" if self._side_reads else ""


def _in_response(expression: Expression | None) -> bool:
    return expression is not None and any(map(_is_response, expression.reads))


def _is_response(read: str) -> bool:
    return read.startswith("response")


def _lenient(expression: Expression | None, document: dict[str, Any]) -> Any:
    try:
        return None if expression is None else expression(document)
    except ExtractError:
        return None
