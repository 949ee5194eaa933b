"""A pair as it may leave the process: headers, parameters and JSON fields dropped, or replaced by their keyed hash.

It runs on pairs that are about to be packed, in a thread: parsing JSON would hold up the clients' answers. What is to
be looked into and can't be read is left out as a whole, never let through.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Final

import msgspec

from shadowproxy.config import Redact
from shadowproxy.encodings import EncodingError, codings, decoded
from shadowproxy.model import Exchange, Pair, Request
from shadowproxy.proxy.fields import FORM
from shadowproxy.proxy.mask import Hash, masks
from shadowproxy.proxy.redact_json import REASONS, Fields, UnreadableError
from shadowproxy.proxy.redact_text import URL_HEADERS, Heads, Parameters

_TYPE: Final = re.compile(rb"\r\ncontent-type[ \t]*:[ \t]*([^\r;]*)")
_CODING: Final = re.compile(rb"\r\ncontent-encoding[ \t]*:.*?(?=\r\n(?![ \t])|\Z)", re.IGNORECASE | re.DOTALL)
_TYPE_NAME: Final = b"content-type"
_FORM_TYPE: Final = re.compile(rb"\r\ncontent-type[ \t]*:[ \t]*" + re.escape(FORM), re.IGNORECASE)


class _Message:
    """Head and body, masked. `left_out` says why there is no body, or is empty."""

    __slots__ = ("body", "head", "left_out")

    def __init__(self, head: bytes, body: bytes, left_out: str = "") -> None:
        self.head = head
        self.body = body
        self.left_out = left_out


def guarded_headers(settings: Redact) -> frozenset[bytes]:
    """Names, in lower case, of the headers in which there may be something to mask."""
    masked = (name for name, mask in settings.headers.items() if mask != "keep")
    return frozenset((*URL_HEADERS, *(name.lower().encode("ascii") for name in masked)))


class Redactor:
    """Masks pairs by the settings. Without `json_fields` no body is decoded or parsed.

    A body that is left out keeps its size and gets a digest, keyed, as that of a short body could be undone by trying;
    `Pair.notes` says so. `left_out` counts them by reason (see `redact_json.UnreadableError`).
    """

    def __init__(self, settings: Redact) -> None:
        key = secrets.token_bytes(32) if settings.key is None else settings.key.get_secret_value().encode()
        self.left_out: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._hash = Hash(key)
        self._parameters = Parameters(masks(settings.query, self._hash))
        self._heads = Heads(masks(settings.headers, self._hash), self._parameters)
        self._fields = Fields(masks(settings.json_fields, self._hash))
        self._annotations = Fields(masks(settings.annotations, self._hash))
        self.light = not self._fields and not self._annotations
        """Whether no JSON is looked into, so that it takes microseconds."""

    def __call__(self, pair: Pair, guarded: Sequence[bytes] | None = None) -> Pair:
        """The pair, masked. May run in any thread, one at a time.

        `guarded` are all lines of its heads that the `fields.FieldTable` of `guarded_headers` tells; without them they
        are looked for.
        """
        if self.light and not (_may_be_form(pair.request) if guarded is None else _tells_form(guarded)):
            return self._lightly(pair, guarded)
        notes: list[str] = []
        return Pair(
            pair.id,
            pair.started,
            self._request(pair.request, notes),
            self._exchange("baseline", pair.baseline, notes),
            self._exchange("candidate", pair.candidate, notes),
            None if pair.replica is None else self._exchange("replica", pair.replica, notes),
            self._annotated(pair.annotations, notes),
            tuple(notes),
        )

    def _lightly(self, pair: Pair, guarded: Sequence[bytes] | None) -> Pair:
        """Heads and targets only. What nothing was taken out of is passed on as it is."""
        request, baseline, candidate, replica = pair.request, pair.baseline, pair.candidate, pair.replica
        head, target = self._head(request.head, guarded), request.target
        if "?" in target or "#" in target:
            target = self._parameters.in_url(target.encode("latin-1")).decode("latin-1")
        if head is request.head and target == request.target:
            masked = request
        else:
            masked = Request(request.method, target, head, request.body, request.body_size)
        first, second = self._headed(baseline, guarded), self._headed(candidate, guarded)
        third = None if replica is None else self._headed(replica, guarded)
        if masked is request and first is baseline and second is candidate and third is replica:
            return pair
        return Pair(pair.id, pair.started, masked, first, second, third, pair.annotations, pair.notes)

    def _head(self, head: bytes, guarded: Sequence[bytes] | None) -> bytes:
        if guarded is None:
            return self._heads(head)
        return self._heads.without(head, guarded) if guarded else head

    def _headed(self, exchange: Exchange, guarded: Sequence[bytes] | None = None) -> Exchange:
        head = self._head(exchange.head, guarded)
        return exchange if head is exchange.head else msgspec.structs.replace(exchange, head=head)

    def _request(self, request: Request, notes: list[str]) -> Request:
        target = self._parameters.in_url(request.target.encode("latin-1")).decode("latin-1")
        truncated = request.body_size > len(request.body)
        message = self._message(request.head, request.body, truncated=truncated)
        if message.body and _may_be_form(request) and _media_type(request.head) == FORM:
            message = self._form(message, truncated=truncated)
        self._note("request.body", message.left_out, notes)
        body = message.body
        return Request(
            method=request.method,
            target=target,
            head=message.head,
            body=body,
            body_size=request.body_size if message.left_out else request.body_size - len(request.body) + len(body),
        )

    def _exchange(self, side: str, exchange: Exchange, notes: list[str]) -> Exchange:
        if not self._fields:
            return self._headed(exchange)
        message = self._message(exchange.head, exchange.body, truncated=exchange.truncated)
        if message.left_out:
            self._note(f"{side}.body", message.left_out, notes)
            digest = exchange.digest or self._hash.digest(exchange.body)
            return msgspec.structs.replace(exchange, head=message.head, body=b"", digest=digest)
        size = exchange.body_size - len(exchange.body) + len(message.body)
        return msgspec.structs.replace(exchange, head=message.head, body=message.body, body_size=size)

    def _message(self, head: bytes, body: bytes, *, truncated: bool) -> _Message:
        masked = self._heads(head)
        if not self._fields or not body:
            return _Message(masked, body)
        try:
            if truncated:
                raise UnreadableError("truncated")
            if codings(head):
                masked, body = _without_coding(masked), _decoded(head, body)
            return _Message(masked, self._fields.body(body, _media_type(head)))
        except UnreadableError as error:
            return _Message(masked, b"", error.reason)

    def _form(self, message: _Message, *, truncated: bool) -> _Message:
        """A form has the parameters of a query. What was captured of it is enough to find them."""
        head, body = message.head, message.body
        if codings(head):
            try:
                if truncated:
                    raise UnreadableError("truncated")
                head, body = _without_coding(head), _decoded(head, body)
            except UnreadableError as error:
                return _Message(head, b"", error.reason)
        return _Message(head, self._parameters.in_form(body))

    def _annotated(self, annotations: bytes, notes: list[str]) -> bytes:
        if not self._annotations or not annotations:
            return annotations
        try:
            return self._annotations.document(annotations)
        except UnreadableError as error:
            self._note("annotations", error.reason, notes)
            return b""

    def _note(self, part: str, reason: str, notes: list[str]) -> None:
        if reason:
            self.left_out[reason] += 1
            notes.append(f"{part} left out: {reason}")


def _tells_form(guarded: Sequence[bytes]) -> bool:
    for line in guarded:  # noqa: SIM110  (a generator for each pair costs more than it saves)
        if line[: len(_TYPE_NAME) + 1].lower() == _TYPE_NAME + b":":
            return True
    return False


def _may_be_form(request: Request) -> bool:
    return bool(request.body) and _FORM_TYPE.search(b"\r\n" + request.head) is not None


def _decoded(head: bytes, body: bytes) -> bytes:
    try:
        plain, complete = decoded(head, body)
    except EncodingError:
        raise UnreadableError("encoding") from None
    if not complete:
        raise UnreadableError("encoding")
    return plain


def _without_coding(head: bytes) -> bytes:
    return _CODING.sub(b"", b"\r\n" + head).removeprefix(b"\r\n")


def _media_type(head: bytes) -> bytes:
    match = _TYPE.search(b"\r\n" + head.lower())
    return b"" if match is None else match[1].rstrip(b" \t")
