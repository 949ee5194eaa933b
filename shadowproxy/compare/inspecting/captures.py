"""Answers out of a file: a body alone (JSON, JSON lines, an event stream), or a raw HTTP response with its head.

Written by hand and not by an HTTP parser: what tools save is not what was on the wire. `curl -i` writes the heads of
redirects and of `100 Continue` before the last one, says `HTTP/2 200`, and has undone the chunks that the head still
speaks of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import orjson

from shadowproxy.encodings import EncodingError, decoded
from shadowproxy.model import Exchange, Outcome, Pair, Request

_STATUS: Final = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})(?: [^\r\n]*)?\r?\n")
_REQUEST: Final = re.compile(rb"([A-Z]+) (\S+) HTTP/\d(?:\.\d)?\r?\n")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n")
_MAGIC: Final = {b"\x1f\x8b": b"gzip", b"\x28\xb5\x2f\xfd": b"zstd"}
_NONE: Final = Request("POST", "/")


class Capture(NamedTuple):
    """What a file holds."""

    form: str
    """`response` (with its head), `body`, `lines` (a body on each) or `pairs` (as `pairs export` writes them)."""
    exchanges: Sequence[Exchange]
    """Empty for `pairs`."""
    data: bytes
    """The file's content, decompressed if it was."""


def capture(data: bytes) -> Capture:
    """What stands in a file. Of a body alone the status is taken to be 200. Never raises."""
    data = _unpacked(data)
    if data.startswith(b"HTTP/"):
        found = _response(data)
        if found is not None:
            return Capture("response", (found,), data)
    lines = _json_lines(data)
    if lines and all(_is_pair(line) for line in lines[:1]):
        return Capture("pairs", (), data)
    if len(lines) > 1:
        return Capture("lines", tuple(body_alone(line) for line in lines), data)
    return Capture("body", (body_alone(data),), data)


def request_of(data: bytes, method: str = "POST", target: str = "/") -> Request:
    """The request in a file: its body, or a raw HTTP request."""
    data = _unpacked(data)
    start = _REQUEST.match(data)
    if start is None:
        return Request(method, target, b"", data, len(data))
    head, body = _split(data[start.end() :])
    line_method, line_target = start[1].decode(), start[2].decode("latin-1")
    return Request(line_method, line_target, head, body, len(body))


def pair_of(request: Request | None, exchange: Exchange) -> Pair:
    """A pair with this answer on both sides. Its id is empty where the request, and so the path, is not known."""
    known = request is not None and request.target != "/"
    return Pair("inspected" if known else "", 0.0, request or _NONE, exchange, exchange)


def body_alone(body: bytes) -> Exchange:
    """An answer of which only the body is known."""
    return Exchange(Outcome.OK, 200, b"", body, len(body))


def _unpacked(data: bytes) -> bytes:
    coding = next((coding for magic, coding in _MAGIC.items() if data.startswith(magic)), None)
    if coding is None:
        return data
    try:
        return decoded(b"content-encoding: " + coding, data).data
    except EncodingError:
        return data


def _response(data: bytes) -> Exchange | None:
    """The last response in `data`: what stands before it are interim ones, redirects, and a tunnel's."""
    found = None
    while (start := _STATUS.match(data)) is not None:
        head, rest = _split(data[start.end() :])
        status = int(start[1])
        body = _dechunked(rest) if re.search(rb"(?im)^transfer-encoding:.*chunked", head) else rest
        found = Exchange(Outcome.OK, status, _plain_head(head, body), body, len(body))
        data = rest
    return found


def _split(data: bytes) -> tuple[bytes, bytes]:
    """(header lines with CRLF between them, body)."""
    for ending in (b"\r\n", b"\n"):
        if data.startswith(ending):
            return b"", data[len(ending) :]
    end = _HEAD_END.search(data)
    head, body = (data, b"") if end is None else (data[: end.start()], data[end.end() :])
    return b"\r\n".join(head.splitlines()), body


def _plain_head(head: bytes, body: bytes) -> bytes:
    """Without a content coding that isn't there: `curl --compressed` undoes it and leaves the field as it was."""
    if b"content-encoding" not in head.lower():
        return head
    try:
        whole = decoded(head, body).complete
    except EncodingError as error:
        whole = error.kind == "too_large"
    if whole or not _is_text(body):
        return head
    return b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-encoding:"))


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _dechunked(data: bytes) -> bytes:
    """A chunked body put together (RFC 9112, section 7.1); as it is where it is none, or breaks off."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = data.find(b"\r\n", at)
        size = re.fullmatch(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?", data[at:end]) if end >= 0 else None
        if size is None:
            return data
        length = int(size[1], 16)
        if length == 0:
            return b"".join(parts)
        at = end + 2 + length
        if data[at : at + 2] != b"\r\n":
            return data
        parts.append(data[end + 2 : at])
        at += 2


def _json_lines(data: bytes) -> list[bytes]:
    """The lines, if each is an object or a list in JSON; empty where they aren't."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    if not lines or not all(line.lstrip()[:1] in (b"{", b"[") for line in lines):
        return []
    try:
        orjson.loads(lines[0])
    except (orjson.JSONDecodeError, RecursionError):
        return []
    return lines


def _is_pair(line: bytes) -> bool:
    value = orjson.loads(line)
    return isinstance(value, dict) and {"request", "baseline", "candidate"} <= value.keys()
