"""Pairs to bytes and back: the payload of one stream entry.

Layout: the magic `SP`, one byte of format version, one byte that says how the rest is stored (0 plain, 1 one zstd frame
with its content size), then a msgpack array of `Pair`s. Records are arrays too, so that a field appended with a default
needs no new version: older readers skip it, newer ones fill it in. A version is for what they can't.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import msgspec
import zstandard

from shadowproxy.errors import PayloadError
from shadowproxy.model import Pair

VERSION: Final = 1
"""The format that `encode` writes, and the newest that `decode` reads."""

MAX_BYTES: Final = 256 * 1024**2
"""Bound of a batch before compression, in bytes. A frame that claims more is not decompressed."""

_MAGIC: Final = b"SP"
_PLAIN: Final = 0
_ZSTD: Final = 1
_HEAD: Final = len(_MAGIC) + 2
PLAIN_PREFIX: Final = _MAGIC + bytes((VERSION, _PLAIN))
"""What a payload begins with that is not compressed."""
_ZSTD_PREFIX: Final = _MAGIC + bytes((VERSION, _ZSTD))
_PLAIN_BELOW: Final = 512
_USUAL_BYTES: Final = 2 * 1024**2
_KEEP_BYTES: Final = 8 * 1024**2
_LEVEL: Final = 1
"""Of zstd, where nothing else is asked for: a third of the size or less, for some 15 µs per pair of 5 KB."""

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(list[Pair])


class _Contexts(threading.local):
    """What is costly to make and must not be shared by threads, so each thread keeps its own."""

    def __init__(self) -> None:
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()
        self.buffer = bytearray()

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        made = self._compressors.get(level)
        if made is None:
            made = self._compressors[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
        return made


_CONTEXTS: Final = _Contexts()

# A block that was freed once is what glibc takes for usual: it keeps blocks up to that size for the next batch. By its
# first guess it would fetch each batch from the kernel page by page and give it back, which is a quarter of what
# recording costs. With another allocator this does nothing.
bytearray(_USUAL_BYTES)


def encode(pairs: Sequence[Pair], level: int = _LEVEL) -> bytes:
    """A batch as the payload of one stream entry; `level` is zstd's, 0 compresses nothing. May run in any thread.

    Raises ValueError for a batch over `MAX_BYTES`, and for text that has no UTF-8 form (lone surrogates).
    """
    # Memory that is used again: half a megabyte, fresh from the kernel for each batch, costs more than packing into it.
    buffer = _CONTEXTS.buffer
    _ENCODER.encode_into(pairs, buffer, _HEAD)
    packed = len(buffer) - _HEAD
    if packed > _KEEP_BYTES:
        _CONTEXTS.buffer = bytearray()
    if packed > MAX_BYTES:
        raise ValueError(f"a batch of {packed} bytes is over the format's bound of {MAX_BYTES}; split it")
    buffer[:_HEAD] = PLAIN_PREFIX
    return _squeezed(buffer, level) or bytes(buffer)


def squeeze(payload: bytes | memoryview, level: int = _LEVEL) -> bytes | memoryview:
    """The same batch compressed, where it isn't yet and that pays. May run in any thread."""
    return (_squeezed(payload, level) or payload) if payload[3] == _PLAIN else payload


def _squeezed(plain: bytes | bytearray | memoryview, level: int) -> bytes:
    """A plain payload compressed; empty where that doesn't pay."""
    if not level or len(plain) < _HEAD + _PLAIN_BELOW:
        return b""
    with memoryview(plain) as view:
        squeezed = _CONTEXTS.compressor(level).compress(view[_HEAD:])
    return _ZSTD_PREFIX + squeezed if len(squeezed) < len(plain) - _HEAD else b""


def decode(payload: bytes) -> list[Pair]:
    """The pairs of a payload. Raises PayloadError, and nothing else, for anything that can't be read."""
    if payload[: len(_MAGIC)] != _MAGIC or len(payload) < _HEAD:
        raise PayloadError(
            f"not a batch of pairs: {len(payload)} bytes that begin with {payload[:4]!r}, not with {_MAGIC!r}; "
            "something other than shadowproxy writes to this stream"
        )
    version, storage = payload[2], payload[3]
    if version > VERSION:
        raise PayloadError(
            f"written by a newer shadowproxy: version {version}, this one reads up to {VERSION}; upgrade the comparator"
        )
    if version < 1:
        raise PayloadError(f"damaged batch: there is no format version {version}")
    if storage == _ZSTD:
        packed = _decompress(payload[_HEAD:])
    elif storage == _PLAIN:
        packed = payload[_HEAD:]
    else:
        raise PayloadError(f"damaged batch: there is no storage {storage} in format version {version}")
    try:
        return _DECODER.decode(packed)
    # Bad UTF-8 and deep nesting in fields to be skipped come out of msgspec under their own names.
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"damaged batch: {error}") from None


def _decompress(frame: bytes) -> bytes:
    # The size is checked before anything is allocated: zstd's own bound doesn't apply to a frame that names its size.
    try:
        size = zstandard.get_frame_parameters(frame).content_size
        if size == zstandard.CONTENTSIZE_UNKNOWN:
            raise PayloadError("damaged batch: its zstd frame doesn't say how large it is")
        if size > MAX_BYTES:
            raise PayloadError(f"damaged batch: its zstd frame claims {size} bytes, the bound is {MAX_BYTES}")
        return _CONTEXTS.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PayloadError(f"damaged batch: {error}") from None
