"""From a captured body to JSON: content codings undone within a bound, then parsed strictly.

The media type is not looked at: many services send JSON as `text/plain`, and what doesn't parse is bad anyway.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from typing import Any, Literal

import orjson
import zstandard

from shadowproxy.model import headers

DECODED_LIMIT = 16 * 1024**2
"""Bytes that one body may have once its content coding is undone. A bomb of 1 MiB of gzip would hold 1 GiB."""

_CODINGS_LIMIT = 4

BodyFault = Literal["bad_body", "truncated_capture", "unsupported_encoding", "bad_encoding", "too_large"]


class BodyError(Exception):
    """A body that can't be used. `kind` is one of a bounded set of words, fit for a metric's label.

    `bad_body`: not JSON (empty, invalid UTF-8, NaN or Infinity, nested deeper than 1024), or without what the route
    looks for. `truncated_capture`: longer than the capture cap, so that the rest is missing.
    `unsupported_encoding`: a content coding other than gzip, deflate and zstd (br is one). `bad_encoding`: not what
    its content coding says, or cut short. `too_large`: over the bound once decoded, or a
    list over `readings.LONGEST`.
    """

    def __init__(self, kind: BodyFault) -> None:
        self.kind: BodyFault = kind
        super().__init__(kind)


def decode(head: bytes, body: bytes, *, limit: int = DECODED_LIMIT) -> Any:
    """The JSON value in `body`, whose content codings stand in `head`. A byte order mark is skipped.

    Raises BodyError.

    >>> decode(b"", b'{"ids": [1]}')
    {'ids': [1]}
    """
    for coding in reversed(_codings(head)):
        undo = _UNDO.get(coding)
        if undo is None:
            raise BodyError("unsupported_encoding")
        body = undo(body, limit)
    if len(body) > limit:
        raise BodyError("too_large")
    try:
        return orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except (orjson.JSONDecodeError, RecursionError):
        raise BodyError("bad_body") from None


def _codings(head: bytes) -> list[str]:
    # Most heads have none: one search is a tenth of the price of parsing all headers.
    if _CODING_HEADER.search(head) is None:
        return []
    values = ",".join(value for name, value in headers(head) if name == "content-encoding")
    codings = [coding for text in values.split(",") if (coding := text.strip().lower()) not in ("", "identity")]
    if len(codings) > _CODINGS_LIMIT:
        raise BodyError("bad_encoding")
    return codings


_CODING_HEADER = re.compile(rb"content-encoding", re.IGNORECASE)


def _gunzip(body: bytes, limit: int) -> bytes:
    members = []
    size = 0
    while body:
        member, body = _inflate_one(body, zlib.MAX_WBITS | 16, limit - size)
        members.append(member)
        size += len(member)
    if not members:
        raise BodyError("bad_encoding")
    return b"".join(members)


def _inflate(body: bytes, limit: int) -> bytes:
    """Deflate is zlib by the letter (RFC 9110 8.4.1.2), and raw by what some servers send."""
    for window in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        try:
            data, rest = _inflate_one(body, window, limit)
        except BodyError as error:
            if error.kind == "too_large":
                raise
        else:
            if not rest:
                return data
    raise BodyError("bad_encoding")


def _inflate_one(body: bytes, window: int, limit: int) -> tuple[bytes, bytes]:
    stream = zlib.decompressobj(window)
    try:
        data = stream.decompress(body, max(limit, 0) + 1)
    except zlib.error:
        raise BodyError("bad_encoding") from None
    if len(data) > limit:
        raise BodyError("too_large")
    if not stream.eof:
        raise BodyError("bad_encoding")
    return data, stream.unused_data


def _unzstd(body: bytes, limit: int) -> bytes:
    data = bytearray()
    try:
        # RFC 9659 holds a zstd coding to windows of 8 MiB, which also bounds what a frame header can make us allocate.
        reader = zstandard.ZstdDecompressor(max_window_size=8 * 1024**2).stream_reader(body, read_across_frames=True)
        while len(data) <= limit:
            chunk = reader.read(min(limit + 1 - len(data), 256 * 1024))
            if not chunk:
                break
            data += chunk
    except zstandard.ZstdError:
        raise BodyError("bad_encoding") from None
    if len(data) > limit:
        raise BodyError("too_large")
    return bytes(data)


_UNDO: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _inflate,
    "zstd": _unzstd,
}
