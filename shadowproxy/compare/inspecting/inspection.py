"""What a route finds in recorded or fetched answers, which protocols fit them, and which route is proposed.

Of several answers the first that came with a body is shown in full; of the others it is counted in how many the route
finds something.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from shadowproxy.compare.extraction.bodies import BodyError, Decode
from shadowproxy.compare.extraction.documents import request_document, response_document
from shadowproxy.compare.extraction.extract import ROOTS, Expression, ExtractError
from shadowproxy.compare.inspecting.findings import Finding, described
from shadowproxy.compare.inspecting.guessing import guess
from shadowproxy.compare.inspecting.outline import Outline, outline
from shadowproxy.compare.presets import PRESETS, preset_of
from shadowproxy.compare.presets.sample import Sample
from shadowproxy.compare.reader import RouteReader
from shadowproxy.compare.routes import request_path
from shadowproxy.config import Route
from shadowproxy.config.presets import EXTRACTED
from shadowproxy.config.presets import PRESETS as PRESET_EXPRESSIONS
from shadowproxy.encodings import codings
from shadowproxy.model import Exchange, Outcome, Pair, Side, headers

_EVERYTHING: Final = frozenset(f"{root}.{part}" for root, parts in ROOTS.items() for part in parts) | {"annotations"}
_FURTHER: Final = ("truth", "account")
_ALIGNED: Final = frozenset({"ids", "scores", "label", "probabilities", "truth"})


class Detected(NamedTuple):
    """A preset whose protocol the answer is of, and why."""

    preset: str
    reason: str


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found in some answers, the first of them in full."""

    answers: int
    """How many there are."""
    status: int
    ended: str
    """How the exchange ended: `ok`, or its failure."""
    content_type: str
    codings: tuple[str, ...]
    size: int
    """Bytes of the whole body, as sent."""
    fault: str
    """Why the body can't be read; empty where it can."""
    detected: tuple[Detected, ...]
    outline: Outline | None
    route: Route | None
    """The route that was asked for, or else the one that is proposed; None where there is nothing to propose."""
    findings: tuple[Finding, ...]
    """Of the route, on the answer that is shown."""
    found: int
    """Answers in which the route finds something to compare."""
    failed: Mapping[str, int]
    """Kinds of failure of the others, as the comparator counts them."""


def inspect(answers: Sequence[tuple[Pair, Side]], route: Route | None = None) -> Inspection:
    """Look into the answers of one route, at least one. `route`: what to look with; else what fits is proposed.

    Never raises for what is in them.
    """
    pair, side = next(((pair, side) for pair, side in answers if exchange_of(pair, side).body), answers[0])
    exchange = exchange_of(pair, side)
    detected = detect(pair, exchange)
    if route is None:
        route = _proposed(pair, exchange, detected)
    preset = preset_of(None if route is None else route.preset)
    document, fault = _document(pair, exchange, preset.request, preset.response)
    body = document.get("response", {}).get("body")
    found, failed = (0, Counter[str]()) if route is None else _coverage(route, answers)
    return Inspection(
        answers=len(answers),
        status=exchange.status,
        ended=exchange.outcome.value,
        content_type=_headers(exchange.head).get("content-type", ""),
        codings=tuple(codings(exchange.head)),
        size=exchange.body_size,
        fault=fault,
        detected=detected,
        outline=None if fault else outline(body, "response.body"),
        route=route,
        findings=() if route is None or fault else tuple(_findings(route, document)),
        found=found,
        failed=failed,
    )


def exchange_of(pair: Pair, side: Side) -> Exchange:
    """One side's exchange."""
    found = {Side.BASELINE: pair.baseline, Side.CANDIDATE: pair.candidate, Side.REPLICA: pair.replica}[side]
    return pair.baseline if found is None else found


def detect(pair: Pair, exchange: Exchange) -> tuple[Detected, ...]:
    """The presets whose protocol this exchange is of, as far as they can tell."""
    found = []
    for name, preset in PRESETS.items():
        document, fault = _document(pair, exchange, preset.request, preset.response)
        sample = Sample(
            path=request_path(pair.request.target),
            request_headers=document["request"]["headers"],
            request=document["request"]["body"],
            response_headers=_headers(exchange.head),
            response=None if fault else document["response"]["body"],
            status=exchange.status,
        )
        reason = preset.detect(sample)
        if reason is not None:
            found.append(Detected(name, reason))
    return tuple(found)


def _document(pair: Pair, exchange: Exchange, request: Decode, response: Decode) -> tuple[dict[str, Any], str]:
    """What expressions see, and why there is no response in it, if so."""
    document = request_document(pair, _EVERYTHING, request)
    if exchange.outcome is not Outcome.OK:
        return document, exchange.outcome.value
    try:
        return {**document, "response": response_document(exchange, _EVERYTHING, response)}, ""
    except BodyError as error:
        return document, error.kind


def _headers(head: bytes) -> dict[str, str]:
    return dict(reversed(list(headers(head))))


def _proposed(pair: Pair, exchange: Exchange, detected: Sequence[Detected]) -> Route | None:
    path = request_path(pair.request.target)
    # Of a file nothing is known but the body; and what is a wildcard in a glob can't be said literally.
    given = {"path": path if path != "/" and "*" not in path else "/*"}
    if detected:
        return _route({"name": _name(path, detected[0].preset), **given, "preset": detected[0].preset})
    plain = preset_of(None)
    document, fault = _document(pair, exchange, plain.request, plain.response)
    if fault:
        return None
    found = guess(document["response"]["body"], document["request"]["body"])
    return _route({"name": _name(path, "answers"), **given, **found}) if found else None


def _route(given: Mapping[str, str]) -> Route | None:
    try:
        return Route.model_validate(given)
    except ValidationError:
        return None  # two guesses that a route can't have together


def _name(path: str, otherwise: str) -> str:
    """A route's name, after the last telling segment of its path.

    >>> _name("/v2/models/Rank_1/infer", "x"), _name("/", "answers")
    ('infer', 'answers')
    """
    names = [re.sub(r"[^a-z0-9_.-]+", "-", segment.lower()).strip("-_.")[:40] for segment in path.split("/")]
    return next((name for name in reversed(names) if re.match(r"[a-z]", name)), otherwise)


def given_keys(route: Route) -> dict[str, Any]:
    """A proposed route as it is written down: what its preset says is left out."""
    shown = ("name", "path", "preset", *EXTRACTED)
    known = PRESET_EXPRESSIONS.get(route.preset or "", {})
    keys = {key: getattr(route, key) for key in shown}
    return {key: value for key, value in keys.items() if value is not None and known.get(key) != value}


def _findings(route: Route, document: Mapping[str, Any]) -> list[Finding]:
    expressions = {key: getattr(route, key) for key in (*EXTRACTED, *_FURTHER)}
    expressions |= {f"cohorts.{name}": text for name, text in route.cohorts.items()}
    values: dict[str, Any] = {}
    found = []
    for key, text in expressions.items():
        if text is None:
            continue
        try:
            values[key] = Expression(text, aligned=key in _ALIGNED)(dict(document))
        except ExtractError as error:
            found.append(Finding(key, text, False, f"can't be evaluated: {error}"))
            continue
        found.append(described(key, text, values[key], document, values.get("ids")))
    return found


def _coverage(route: Route, answers: Sequence[tuple[Pair, Side]]) -> tuple[int, Counter[str]]:
    reader = RouteReader(route)
    found = 0
    failed: Counter[str] = Counter()
    for pair, side in answers:
        exchange = exchange_of(pair, side)
        # On its own: what the other side answered is no matter here.
        alone = Pair(pair.id, pair.started, pair.request, exchange, exchange, annotations=pair.annotations)
        reading = reader.read(alone)
        answer = reading.answers[Side.BASELINE]
        parts = (answer.ranking and answer.ranking.ids, answer.labels, answer.probabilities, answer.text)
        if reading.failure[Side.BASELINE]:
            failed[reading.failure[Side.BASELINE]] += 1
        elif any(parts):
            found += 1
        else:
            failed["empty" if reading.comparable else "not_compared"] += 1
    return found, failed
