"""Content codings undone: gzip, deflate, br and zstd, one within another, within a bound (RFC 9110, section 8.4).

A body that was cut short still gives what stands before the cut, a prefix of the whole, and is told as incomplete.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import brotli
import zstandard

from shadowproxy.model import headers

DECODED_LIMIT: Final = 16 * 1024**2
"""Bytes that one body may have once its content codings are undone. A bomb of 1 MiB of gzip would hold 1 GiB."""

_CODINGS_LIMIT: Final = 4
_PARTS_LIMIT: Final = 1000
"""Gzip members and zstd frames in one body: each costs some time even where it holds nothing."""
_SLICE: Final = 64 * 1024
_ZSTD_WINDOW: Final = 8 * 1024**2
"""RFC 9659 holds a zstd coding to windows of this size, which also bounds what a frame's header makes us allocate."""

EncodingFault = Literal["unsupported_encoding", "bad_encoding", "too_large"]


class EncodingError(Exception):
    """A body whose content codings can't be undone.

    `unsupported_encoding`: another coding than gzip, deflate, br and zstd. `bad_encoding`: not what its coding says, or
    more than four codings. `too_large`: over the bound once decoded.
    """

    def __init__(self, kind: EncodingFault) -> None:
        self.kind: EncodingFault = kind
        super().__init__(kind)


class Decoded(NamedTuple):
    """A body without its codings. Where it is not `complete`, `data` is what stood before the cut."""

    data: bytes
    complete: bool


def codings(head: bytes) -> list[str]:
    """The content codings that stand in `head`, in the order in which they were applied; `identity` is none.

    >>> codings(b"Content-Encoding: deflate, GZIP")
    ['deflate', 'gzip']
    """
    # Most heads have none: one search is a fraction of the price of parsing all headers.
    if b"content-encoding" not in head.lower():
        return []
    values = ",".join(value for name, value in headers(head) if name == "content-encoding")
    return [coding for text in values.split(",") if (coding := text.strip(" \t").lower()) not in ("", "identity")]


def decoded(head: bytes, body: bytes, *, limit: int = DECODED_LIMIT) -> Decoded:
    """`body` without the codings that stand in `head`, at most `limit` bytes. Raises EncodingError."""
    applied = codings(head)
    if len(applied) > _CODINGS_LIMIT:
        raise EncodingError("bad_encoding")
    if any(coding not in _UNDO for coding in applied):
        raise EncodingError("unsupported_encoding")
    complete = True
    for coding in reversed(applied):
        body, whole = _UNDO[coding](body, limit)
        complete = complete and whole
    if len(body) > limit:
        raise EncodingError("too_large")
    return Decoded(body, complete)


def _gunzip(body: bytes, limit: int) -> Decoded:
    members: list[bytes] = []
    size = at = 0
    while at < len(body):
        if len(members) == _PARTS_LIMIT:
            raise EncodingError("bad_encoding")
        member, whole, at = _inflate_one(body, at, zlib.MAX_WBITS | 16, limit - size)
        members.append(member)
        size += len(member)
        if not whole:
            return Decoded(b"".join(members), complete=False)
    return Decoded(b"".join(members), complete=bool(members))


def _inflate(body: bytes, limit: int) -> Decoded:
    """Deflate is zlib by the letter (RFC 9110, section 8.4.1.2), and raw by what some servers send."""
    for window in (zlib.MAX_WBITS, -zlib.MAX_WBITS):
        try:
            data, whole, end = _inflate_one(body, 0, window, limit)
        except EncodingError as error:
            if error.kind == "too_large":
                raise
        else:
            if end == len(body):
                return Decoded(data, whole)
    raise EncodingError("bad_encoding")


def _inflate_one(body: bytes, at: int, window: int, limit: int) -> tuple[bytes, bool, int]:
    """One stream from `at` on: its data, whether it ends, and where. Raises EncodingError."""
    stream = zlib.decompressobj(window)
    pieces: list[bytes] = []
    size = 0
    # In slices, as zlib copies what follows the end of a stream, and a thousand members may follow.
    while at < len(body) and not stream.eof:
        piece = body[at : at + _SLICE]
        at += len(piece)
        try:
            data = stream.decompress(piece, limit + 1 - size)
        except zlib.error:
            raise EncodingError("bad_encoding") from None
        size += len(data)
        if size > limit:
            raise EncodingError("too_large")
        pieces.append(data)
    return b"".join(pieces), stream.eof, at - len(stream.unused_data)


def _unbrotli(body: bytes, limit: int) -> Decoded:
    stream = brotli.Decompressor()
    data = bytearray()
    piece = body
    try:
        while len(data) <= limit:
            chunk = stream.process(piece, output_buffer_limit=min(limit + 1 - len(data), _SLICE))
            data += chunk
            # Asked again until it gives nothing: that it takes more input doesn't say that all output was given.
            if stream.is_finished() or not chunk:
                break
            piece = b""
    except brotli.error:
        raise EncodingError("bad_encoding") from None
    if len(data) > limit:
        raise EncodingError("too_large")
    return Decoded(bytes(data), stream.is_finished())


def _unzstd(body: bytes, limit: int) -> Decoded:
    whole = _zstd_ends(body)
    data = bytearray()
    try:
        reader = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(body, read_across_frames=True)
        while len(data) <= limit:
            chunk = reader.read(min(limit + 1 - len(data), 4 * _SLICE))
            if not chunk:
                break
            data += chunk
    except zstandard.ZstdError:
        raise EncodingError("bad_encoding") from None
    if len(data) > limit:
        raise EncodingError("too_large")
    return Decoded(bytes(data), whole)


def _zstd_ends(body: bytes) -> bool:
    """Whether `body` ends where a frame does (RFC 8878, section 3.1). To the library's reader a cut is an end too."""
    at = frames = 0
    while at < len(body):
        frames += 1
        if frames > _PARTS_LIMIT:
            raise EncodingError("bad_encoding")
        end = _zstd_frame_end(body, at)
        if end is None:
            return False
        at = end
    return frames > 0 and at == len(body)


def _zstd_frame_end(body: bytes, at: int) -> int | None:
    """Where the frame at `at` ends, perhaps beyond the body; None where that can't be told."""
    magic = int.from_bytes(body[at : at + 4], "little")
    if magic & ~0xF == 0x184D2A50:
        return at + 8 + int.from_bytes(body[at + 4 : at + 8], "little") if at + 8 <= len(body) else None
    start = body[at : at + 18]
    try:
        checksum = 4 if zstandard.get_frame_parameters(start).has_checksum else 0
        at += zstandard.frame_header_size(start)
    except zstandard.ZstdError:
        return None
    last = False
    while not last:
        if at + 3 > len(body):
            return None
        block = int.from_bytes(body[at : at + 3], "little")
        last = bool(block & 1)
        # A run of one byte is stored as that byte.
        at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
    return at + checksum


_UNDO: dict[str, Callable[[bytes, int], Decoded]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "deflate": _inflate,
    "br": _unbrotli,
    "zstd": _unzstd,
}
