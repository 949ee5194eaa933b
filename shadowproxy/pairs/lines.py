"""One pair as one line of JSON, and back: everything that was recorded is in the line.

Bytes that are UTF-8 stand as text; others in a key of their own, in base64. `docs/pairs.md` has the schema for readers.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from shadowproxy.errors import PayloadError
from shadowproxy.model import Exchange, Outcome, Pair, Request

VERSION: Final = 1
"""Of the schema: a key may be added without a new one, never moved, removed or given another meaning."""

Undo = Callable[[bytes, bytes], bytes | None]
"""Takes a head and a body, and gives the body without its content codings; None where they can't be undone."""

# JSON has no infinity: what never came is null. No clock gives the others; a record may hold them all the same.
Number = float | Literal["-inf", "nan"] | None


class RequestLine(Struct, frozen=True, kw_only=True):
    """The client's request."""

    method: str
    target: str
    head: str | None
    head_base64: str | UnsetType = UNSET
    body: str | None
    body_base64: str | UnsetType = UNSET
    body_size: int


class ExchangeLine(Struct, frozen=True, kw_only=True):
    """One upstream's answer, or the failure."""

    outcome: Outcome
    status: int
    head: str | None
    head_base64: str | UnsetType = UNSET
    body: str | None
    body_base64: str | UnsetType = UNSET
    body_text: str | UnsetType = UNSET
    """Where the body has a content coding: the text without it. Not read back."""
    body_size: int
    digest: str
    """In hexadecimal."""
    ttfb: Number
    total: Number
    detail: str


class PairLine(Struct, frozen=True, kw_only=True):
    """One line."""

    v: int = VERSION
    partition: int
    entry: str
    position: int
    """Which pair of its entry, from 0. With partition and entry it names the pair for good."""
    id: str
    started: Number
    request: RequestLine
    baseline: ExchangeLine
    candidate: ExchangeLine
    replica: ExchangeLine | None
    annotations: str | None
    annotations_base64: str | UnsetType = UNSET
    notes: tuple[str, ...]


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(PairLine)


def line_of(pair: Pair, *, partition: int, entry: str, position: int, undo: Undo) -> bytes:
    """A pair as one line of JSON, without the line's end."""
    request, (annotations, annotations_base64) = pair.request, _text(pair.annotations)
    head, head_base64 = _text(request.head)
    body, body_base64 = _text(request.body)
    return _ENCODER.encode(
        PairLine(
            partition=partition,
            entry=entry,
            position=position,
            id=pair.id,
            started=_number(pair.started),
            request=RequestLine(
                method=request.method,
                target=request.target,
                head=head,
                head_base64=head_base64,
                body=body,
                body_base64=body_base64,
                body_size=request.body_size,
            ),
            baseline=_exchange_line(pair.baseline, undo),
            candidate=_exchange_line(pair.candidate, undo),
            replica=None if pair.replica is None else _exchange_line(pair.replica, undo),
            annotations=annotations,
            annotations_base64=annotations_base64,
            notes=pair.notes,
        )
    )


class Recorded(NamedTuple):
    """A pair as it is read back, and where it stood in the stream: partition, entry and position name it for good."""

    partition: int
    entry: str
    position: int
    pair: Pair


def read_line(line: bytes | str) -> Pair:
    """The pair of one line. Raises PayloadError where it is none, or of a newer version."""
    return read_recorded(line).pair


def read_recorded(line: bytes | str) -> Recorded:
    """The pair of one line, and its place. Raises PayloadError as `read_line`."""
    try:
        read = _DECODER.decode(line)
        if read.v > VERSION:
            raise PayloadError(f"written by a newer shadowproxy: version {read.v}, this one reads up to {VERSION}")
        request = read.request
        pair = Pair(
            id=read.id,
            started=_float(read.started),
            request=Request(
                method=request.method,
                target=request.target,
                head=_bytes(request.head, request.head_base64),
                body=_bytes(request.body, request.body_base64),
                body_size=request.body_size,
            ),
            baseline=_exchange(read.baseline),
            candidate=_exchange(read.candidate),
            replica=None if read.replica is None else _exchange(read.replica),
            annotations=_bytes(read.annotations, read.annotations_base64),
            notes=read.notes,
        )
        return Recorded(read.partition, read.entry, read.position, pair)
    except (msgspec.MsgspecError, binascii.Error, UnicodeError, RecursionError, ValueError) as error:
        raise PayloadError(f"not a line of `shadowproxy pairs export`: {error}") from None


def _exchange_line(exchange: Exchange, undo: Undo) -> ExchangeLine:
    head, head_base64 = _text(exchange.head)
    body, body_base64 = _text(exchange.body)
    return ExchangeLine(
        outcome=exchange.outcome,
        status=exchange.status,
        head=head,
        head_base64=head_base64,
        body=body,
        body_base64=body_base64,
        body_text=UNSET if body is not None else undone(exchange.head, exchange.body, undo) or UNSET,
        body_size=exchange.body_size,
        digest=exchange.digest.hex(),
        ttfb=_number(exchange.ttfb),
        total=_number(exchange.total),
        detail=exchange.detail,
    )


def _exchange(line: ExchangeLine) -> Exchange:
    return Exchange(
        outcome=line.outcome,
        status=line.status,
        head=_bytes(line.head, line.head_base64),
        body=_bytes(line.body, line.body_base64),
        body_size=line.body_size,
        digest=bytes.fromhex(line.digest),
        ttfb=_float(line.ttfb),
        total=_float(line.total),
        detail=line.detail,
    )


def undone(head: bytes, body: bytes, undo: Undo) -> str | None:
    """A body as text, without its content codings; None where it is none."""
    plain = undo(head, body)
    try:
        return None if plain is None else plain.decode()
    except UnicodeDecodeError:
        return None


def _text(raw: bytes) -> tuple[str | None, str | UnsetType]:
    try:
        return raw.decode(), UNSET
    except UnicodeDecodeError:
        return None, base64.b64encode(raw).decode()


def _bytes(text: str | None, coded: str | UnsetType) -> bytes:
    if isinstance(coded, str):
        return base64.b64decode(coded, validate=True)
    if text is None:
        raise ValueError("bytes that are not text stand in a key that ends with _base64; there is none")
    return text.encode()


def _number(value: float) -> Number:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "nan"
    return None if value > 0 else "-inf"


def _float(value: Number) -> float:
    return math.inf if value is None else float(value)
