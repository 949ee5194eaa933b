"""How one route reads a pair: its expressions, compiled, and whose fault it is when they find nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from shadowproxy.compare.extraction.answer import NOTHING, Answer, Ids, Ranking, spelled
from shadowproxy.compare.extraction.bodies import BodyError, decode
from shadowproxy.compare.extraction.documents import request_document, response_document
from shadowproxy.compare.extraction.extract import Expression, ExtractError
from shadowproxy.compare.extraction.readings import (
    account_of,
    cohorts_of,
    ids_of,
    labels_of,
    probabilities_of,
    ranking_of,
    scores_of,
    text_of,
    true_labels_of,
    truth_of,
    weight_of,
)
from shadowproxy.compare.extraction.straight import Listed, StraightRead
from shadowproxy.compare.extraction.typed import typed_decode
from shadowproxy.compare.families.failures import answered, comparable, kind_alone, kinds
from shadowproxy.compare.lists.align import SIDES
from shadowproxy.compare.presets import preset_of
from shadowproxy.compare.structure.checks import Checks
from shadowproxy.compare.structure.places import places_of
from shadowproxy.config import Route
from shadowproxy.model import Exchange, Pair, Side


class Reading(msgspec.Struct, frozen=True, gc=False):
    """What was found in one pair."""

    comparable: bool
    failure: Mapping[Side, str]
    """Kind of failure by side; empty where it did not fail."""
    answers: Mapping[Side, Answer]
    """What was found on either side, and in the replica's answer where there is one."""
    truth: Mapping[str, float] | None = None
    true_labels: Sequence[str | None] | None = None
    """The right label of each instance, where the route compares labels or probabilities."""
    cohorts: tuple[str, ...] = ()
    account: int = 0
    weight: float = 1.0
    """How much the pair counts, in [0, 1]."""
    replicated: bool = False
    """Whether there is content to compare in the replica's answer, and neither side failed."""


_NOTHING: Final[Mapping[str, Any]] = {"request": {}}
"""What is shared where nothing of the request is looked at."""
_NO_ANSWERS: Mapping[Side, Answer] = dict.fromkeys(SIDES, NOTHING)


def read_unrouted(pair: Pair) -> Reading:
    """As `RouteReader.read`, for a pair of no route: there is nothing to look for in it but failures."""
    return Reading(comparable(pair), dict(zip(SIDES, kinds(pair), strict=True)), _NO_ANSWERS)


class RouteReader:
    """One route, compiled. `by_score` says that lists are ordered by their scores.

    That is so where the ids stand in the request and the scores in the response, as with a service that scores the
    candidates it is sent: the order of the ids is then the client's, the same on both sides, and says nothing of the
    models; the order that either model means is that of its scores.
    """

    def __init__(self, route: Route) -> None:
        self.route = route
        self._preset = preset_of(route.preset)
        self._ids = _compiled(route.ids, aligned=True)
        self._scores = _compiled(route.scores, aligned=True)
        self._label = _compiled(route.label, aligned=True)
        self._probabilities = _compiled(route.probabilities, aligned=True)
        self._text = _compiled(route.text)
        self._finish = _compiled(route.finish)
        self._truth = _compiled(route.truth, aligned=True)
        self._account = _compiled(route.account)
        self._weight = _compiled(route.weight)
        self._cohorts = {dimension: Expression(text) for dimension, text in route.cohorts.items()}
        found = (self._ids, self._scores, self._label, self._probabilities, self._text, self._finish)
        of_answers = [expression for expression in found if expression is not None]
        of_requests = [
            expression for expression in (self._truth, self._account, self._weight) if expression is not None
        ]
        everything = [*of_answers, *of_requests, *self._cohorts.values()]
        self._checks = Checks(route) if route.valid else None
        self.places = None if route.fields is None else places_of(route, route.fields)
        """Of its documents, where they are compared as a whole."""
        whole = self._checks.reads if self._checks is not None else frozenset()
        whole |= {"response.body"} if self.places is not None else set()
        self._shared_reads = whole.union(*(expression.reads for expression in everything))
        self._side_reads = frozenset().union(
            filter(_is_response, whole), *(filter(_is_response, expression.reads) for expression in of_answers)
        )
        # An expression that reads nothing at all, such as a constant, is found there too.
        self._reads_request = bool(of_requests or self._cohorts) or not all(map(_is_response, self._shared_reads))
        self._read_response = self._preset.response
        if self._read_response is decode and not whole:
            self._read_response = typed_decode(of_answers) or decode
        self._only_lists = not whole and all(one is self._ids or one is self._scores for one in of_answers)
        self._straight: StraightRead | None = None
        if self._preset.straight is not None and self._only_lists:
            self._straight = self._preset.straight(self._ids if _in_response(self._ids) else None, self._scores)
        self._by_label = self._label is not None or self._probabilities is not None
        self._has_lists = self._ids is not None or self._scores is not None
        self._ids_in_response = _in_response(self._ids)
        self.has_ids = "ids" in route.offers
        self.keeps_rankings = route.truth is not None or route.labels is not None
        """Whether something looks at the lists after they are aligned."""
        self.by_score = not self._ids_in_response and _in_response(self._scores)

    def read(self, pair: Pair) -> Reading:
        """Read one pair. Never raises."""
        shared = request_document(pair, self._shared_reads, self._preset.request) if self._reads_request else _NOTHING
        if answered(pair):
            content, failure = True, {Side.BASELINE: "", Side.CANDIDATE: ""}
        else:
            content, failure = comparable(pair), dict(zip(SIDES, kinds(pair), strict=True))
        answers, replicated = dict(_NO_ANSWERS), False
        if content and self._side_reads:
            ids = self._shared_ids(shared)
            for side, exchange in ((Side.BASELINE, pair.baseline), (Side.CANDIDATE, pair.candidate)):
                if not failure[side]:
                    answers[side], failure[side] = self._answer(shared, ids, exchange)
            if pair.replica is not None and not kind_alone(pair.replica):
                answers[Side.REPLICA], unusable = self._answer(shared, ids, pair.replica)
                replicated = not (unusable or failure[Side.BASELINE] or failure[Side.CANDIDATE])
        if not self._reads_request:
            return Reading(content, failure, answers, replicated=replicated)
        truth = _lenient(self._truth, shared)
        return Reading(
            comparable=content,
            failure=failure,
            answers=answers,
            truth=truth_of(truth) if self._has_lists and (isinstance(truth, dict) or not self._by_label) else None,
            true_labels=true_labels_of(truth) if self._by_label else None,
            cohorts=cohorts_of({name: _lenient(expression, shared) for name, expression in self._cohorts.items()}),
            account=account_of(_lenient(self._account, shared)),
            weight=1.0 if self._weight is None else weight_of(_lenient(self._weight, shared)),
            replicated=replicated,
        )

    def without_rankings(self, reading: Reading) -> Reading:
        """What `read` gave less the lists of ids and scores, which are most of it: for when they are aligned."""
        if self.keeps_rankings:
            return reading
        if self._only_lists:
            return msgspec.structs.replace(reading, answers=_NO_ANSWERS)
        answers = {side: msgspec.structs.replace(answer, ranking=None) for side, answer in reading.answers.items()}
        return msgspec.structs.replace(reading, answers=answers)

    def _shared_ids(self, shared: Mapping[str, Any]) -> list[str] | None:
        """The ids, where they don't stand in the response. None where they do, and where the request lacks them."""
        if self._ids is None or self._ids_in_response:
            return None
        try:
            return ids_of(self._ids(shared))
        except (BodyError, ExtractError):
            return None

    def _answer(self, shared: Mapping[str, Any], ids: list[str] | None, exchange: Exchange) -> tuple[Answer, str]:
        """(what was found, kind of failure) of one side, with the ids that both share, if they do."""
        if self._straight is not None and not exchange.truncated:
            listed = self._straight(exchange.head, exchange.body)
            ranking = None if listed is None else self._straight_ranking(listed, ids)
            if ranking is not None:
                return Answer(ranking), ""
        try:
            document = {**shared, "response": response_document(exchange, self._side_reads, self._read_response)}
            return Answer(
                ranking=self._ranking(document, ids) if self._has_lists else None,
                labels=None if self._label is None else labels_of(self._label(document)),
                probabilities=None if self._probabilities is None else probabilities_of(self._probabilities(document)),
                text=None if self._text is None else text_of(self._text(document)),
                finish=None if self._finish is None else text_of(self._finish(document)),
                document=None if self.places is None else document,
                broken=None if self._checks is None else self._checks(document),
            ), ""
        except BodyError as error:
            return NOTHING, error.kind
        except ExtractError:
            return NOTHING, "bad_body"

    def _straight_ranking(self, listed: Listed, ids: list[str] | None) -> Ranking | None:
        """None where it must be read the long way."""
        found: Ids | None = ids
        if listed.ids is not None:
            found = listed.ids
        elif self._ids is None and listed.scores is not None:
            found = list(range(len(listed.scores)))
        if found is None or (listed.scores is not None and len(listed.scores) != len(found)):
            return None
        # Whatever looks at them later has ids in their one spelling.
        return ranking_of(spelled(found) if self.keeps_rankings else found, listed.scores, by_score=self.by_score)

    def _ranking(self, document: dict[str, Any], ids: list[str] | None) -> Ranking | None:
        """None where the ids should stand in the request, and don't: that is neither side's fault."""
        scores = None if self._scores is None else self._scores(document)
        if self._ids_in_response and self._ids is not None:
            ids = ids_of(self._ids(document))
        elif self._ids is None and isinstance(scores, list):
            ids = list(map(str, range(len(scores))))
        if ids is None:
            if self._ids is None:
                raise BodyError("bad_body")
            return None
        values = None if self._scores is None else scores_of(scores, len(ids))
        # Where the order is that of the scores, and there are none, both sides would seem to rank alike.
        if self.by_score and values and all(map(math.isnan, values)):
            raise BodyError("bad_body")
        return ranking_of(ids, values, by_score=self.by_score)


def _compiled(text: str | None, *, aligned: bool = False) -> Expression | None:
    return None if text is None else Expression(text, aligned=aligned)


def _in_response(expression: Expression | None) -> bool:
    return expression is not None and any(map(_is_response, expression.reads))


def _is_response(read: str) -> bool:
    return read.startswith("response")


def _lenient(expression: Expression | None, document: Mapping[str, Any]) -> Any:
    try:
        return None if expression is None else expression(document)
    except ExtractError:
        return None
