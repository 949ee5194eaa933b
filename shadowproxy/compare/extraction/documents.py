"""What expressions see: `{request, response, annotations}`, built only as far as they look.

* `request`: `method`, `path` (as sent, without the query), `query` (first value by name), `headers` (first value by
  lower-case name), `body` (decoded JSON; null where it is none, or was not captured whole);
* `response`: `status`, `headers`, `body` likewise; of one upstream;
* `annotations`: the client's annotations, null where none were sent or they are no JSON.

A bad *response* body is an error of that upstream; a bad request body or annotation is nobody's, and null.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any
from urllib.parse import parse_qsl

from shadowproxy.compare.extraction.bodies import BodyError, Decode, decode
from shadowproxy.compare.routes import request_path
from shadowproxy.model import Exchange, Pair, Request, headers


def request_document(pair: Pair, reads: Collection[str], read_body: Decode = decode) -> dict[str, Any]:
    """The part of the document that all upstreams share: no `response` in it. Never raises."""
    request = {part: build(pair.request) for part, build in _REQUEST.items() if f"request.{part}" in reads}
    if "request.body" in reads:
        request["body"] = _body(pair.request, read_body)
    document: dict[str, Any] = {"request": request}
    if "annotations" in reads:
        document["annotations"] = _lenient(b"", pair.annotations)
    return document


def response_document(exchange: Exchange, reads: Collection[str], read_body: Decode = decode) -> dict[str, Any]:
    """The `response` of one upstream. Raises BodyError where its body is read and can't be."""
    response: dict[str, Any] = {}
    if "response.status" in reads:
        response["status"] = exchange.status
    if "response.headers" in reads:
        response["headers"] = _headers(exchange.head)
    if "response.body" in reads:
        if exchange.truncated:
            raise BodyError("truncated_capture")
        response["body"] = read_body(exchange.head, exchange.body)
    return response


def _headers(head: bytes) -> dict[str, str]:
    first: dict[str, str] = {}
    for name, value in headers(head):
        first.setdefault(name, value)
    return first


def _query(request: Request) -> dict[str, str]:
    first: dict[str, str] = {}
    for name, value in parse_qsl(request.target.partition("?")[2], keep_blank_values=True, errors="replace"):
        first.setdefault(name, value)
    return first


def _body(request: Request, read_body: Decode) -> Any:
    if not request.body or request.body_size > len(request.body):
        return None
    return _lenient(request.head, request.body, read_body)


def _lenient(head: bytes, body: bytes, read_body: Decode = decode) -> Any:
    try:
        return read_body(head, body) if body else None
    except BodyError:
        return None


_REQUEST: dict[str, Callable[[Request], Any]] = {
    "method": lambda request: request.method,
    "path": lambda request: request_path(request.target),
    "query": _query,
    "headers": lambda request: _headers(request.head),
}
