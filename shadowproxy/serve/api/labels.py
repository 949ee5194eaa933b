"""/api/v1/labels: what a right answer to an earlier request would have held, told later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Protocol

import msgspec
import orjson
from aiohttp import web

from shadowproxy.compare.extraction.readings import LONGEST, true_labels_of, truth_of
from shadowproxy.errors import StoreUnavailable
from shadowproxy.serve.problems import problem

JSON_LINES = ("application/x-ndjson", "application/jsonl", "application/json-lines")
_LONGEST_ID = 128
"""Of a request id that the proxy takes from a client."""


_GAIN = {"type": "number", "exclusiveMinimum": 0}


class Label(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a right answer to one request would have held."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=_LONGEST_ID)]
    """The request's, as in X-Request-Id."""
    truth: (
        Annotated[list[Any], msgspec.Meta(extra_json_schema={"contains": {"type": ["string", "integer", "boolean"]}})]
        | Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={"not": {"additionalProperties": {"not": _GAIN}}})]
    )
    """Ids or labels; or an object id: gain, with at least one gain above 0."""


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """Labels that were stored."""

    taken: int


class LabelStore(Protocol):
    """What is needed of a store."""

    async def add_labels(self, labels: Sequence[tuple[str, bytes]]) -> None:
        """Add labels, as (request id, truth as JSON). Raises StoreUnavailable."""


class LabelApi:
    """POST takes `{"id": REQUEST_ID, "truth": [ids] | {id: gain}}`: one, an array, or one a line (JSON Lines).

    All of them or none: a body with something wrong in it adds nothing. That 503 was answered says nothing about what
    was added; posting it again is always safe, since a label counts once.
    """

    def __init__(self, store: LabelStore, *, awaited: bool) -> None:
        """`awaited`: whether any route waits for labels; else nobody would read them, and who sends some is told."""
        self._store = store
        self._awaited = awaited

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [web.post("/api/v1/labels", self._add)]

    async def _add(self, request: web.Request) -> web.Response:
        if not self._awaited:
            return problem(
                409, "Conflict", "no route of this experiment waits for labels: set `labels`, such as 24h, on a route"
            )
        body = await request.read()
        try:
            labels = [_label(where, value) for where, value in _values(body, lines=request.content_type in JSON_LINES)]
        except ValueError as error:
            return problem(400, "Bad Request", str(error))
        try:
            await self._store.add_labels(labels)
        except StoreUnavailable as error:
            return problem(503, "Service Unavailable", f"{error}; send the labels again, each counts once")
        return web.Response(
            body=msgspec.json.encode(Added(taken=len(labels))), status=202, content_type="application/json"
        )


def _values(body: bytes, *, lines: bool) -> Iterator[tuple[str, Any]]:
    """Where each label stands, and its JSON. Raises ValueError."""
    if lines:
        for number, line in enumerate(body.split(b"\n"), 1):
            if line.strip():
                yield f"line {number}", _parsed(f"line {number}", line)
        return
    try:
        value = _parsed("the body", body)
    except ValueError:
        # JSON Lines are often sent as plain JSON; whoever means one value that is broken gets its first line named.
        if b"\n" not in body.strip():
            raise
        yield from _values(body, lines=True)
        return
    if isinstance(value, list):
        yield from ((f"$[{at}]", one) for at, one in enumerate(value))
    else:
        yield "$", value


def _parsed(where: str, data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {error}") from None


def _label(where: str, value: Any) -> tuple[str, bytes]:
    if not isinstance(value, dict) or value.keys() != {"id", "truth"}:
        raise ValueError(f'{where}: write {{"id": "a request\'s id", "truth": ["a", "b"]}}, with nothing beside')
    name, truth = value["id"], value["truth"]
    if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_ID:
        raise ValueError(f"{where}.id: a request's id (X-Request-Id) is a string of 1 to {_LONGEST_ID} characters")
    if not isinstance(truth, list | dict) or (truth_of(truth) is None and true_labels_of(truth) is None):
        raise ValueError(
            f"{where}.truth: write a list of ids (or labels), or an object id: gain, with at least one gain above 0; "
            "leave out requests to which no answer was right"
        )
    if len(truth) > LONGEST:
        raise ValueError(f"{where}.truth: {len(truth)} ids are more than the {LONGEST} that are looked at")
    return name, orjson.dumps(truth)
