"""The bytes of a spool's files: batches one after another, each with what it takes to know that it is whole.

A *segment* is a header and then records, only ever appended to. All integers are little-endian.

    header   magic `shdwspl` and the version (8 bytes), through u64, marker (8 bytes), CRC-32 of these u32
    record   marker (8 bytes), sequence u64, pairs u32, through u64, length of the account u32, length of the payload
             u32, CRC-32 of both u32, CRC-32 of the record's header u32; then the account (JSON) and the payload

`through` counts the pairs of a producer from its first batch to the end of this record (in a segment's header: up to
its first record). Where records can't be read, the next that can says so how many pairs are missing.

`marker` is random and another one in each segment. After damage the next record is looked for by it, and what a client
sent can't pass for a record: nobody outside knows the marker.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shadowproxy.errors import ShadowproxyError

VERSION: Final = 1
"""The format that is written, and the newest that is read."""
MARKER_BYTES: Final = 8

_MAGIC: Final = b"shdwspl"
_CRC: Final = struct.Struct("<I")
_SEGMENT: Final = struct.Struct(f"<7sBQ{MARKER_BYTES}s")
_RECORD: Final = struct.Struct(f"<{MARKER_BYTES}sQIQIII")
SEGMENT_HEAD: Final = _SEGMENT.size + _CRC.size
RECORD_HEAD: Final = _RECORD.size + _CRC.size


class NewerFormat(ShadowproxyError):  # noqa: N818  (a state of the world, read as such at the call site)
    """A segment that a later version wrote. It is whole, and must be left alone."""


@dataclass(frozen=True, slots=True)
class Record:
    """One batch as it lies in the spool."""

    sequence: int
    pairs: int
    through: int
    """Pairs of its producer up to and with this batch."""
    account: bytes
    """The producer's account (JSON) when the batch was written."""
    payload: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that are not a whole record."""

    offset: int
    size: int
    what: str
    through: int = 0
    """Where the damaged record's own header can be read: pairs of its producer up to and with it."""


def segment_head(marker: bytes, through: int) -> bytes:
    """The first bytes of a segment whose producer wrote `through` pairs before."""
    return _sealed(_SEGMENT.pack(_MAGIC, VERSION, through, marker))


def record_parts(marker: bytes, record: Record) -> tuple[bytes, bytes, bytes | memoryview]:
    """A record's bytes, in three parts so that the payload is not copied."""
    body = zlib.crc32(record.payload, zlib.crc32(record.account))
    head = _RECORD.pack(
        marker,
        record.sequence,
        record.pairs,
        record.through,
        len(record.account),
        len(record.payload),
        body,
    )
    return _sealed(head), record.account, record.payload


def record_size(record: Record) -> int:
    """Bytes that a record takes."""
    return RECORD_HEAD + len(record.account) + len(record.payload)


class Segment:
    """What is left of a segment's bytes. Never raises for damage: that is a part of what is read.

    Raises NewerFormat for a segment of a later version.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._marker = b""
        self.through: int | None = None
        """Pairs before the segment; None where its header can't be read."""
        head = _opened(data, 0, SEGMENT_HEAD)
        if head is not None:
            magic, version, through, marker = _SEGMENT.unpack(head)
            if magic == _MAGIC:
                if version > VERSION:
                    raise NewerFormat(f"it has version {version} of the spool's format, this program reads {VERSION}")
                self._marker, self.through = marker, through

    def __iter__(self) -> Iterator[Record | Damage]:
        """Whole records in the order they were written, and the gaps between them."""
        data = self._data
        if self.through is None:
            what = "is not a segment of a spool, or its header is damaged" if data else "is empty"
            yield Damage(0, len(data), what)
            return
        at = SEGMENT_HEAD
        while at < len(data):
            found = self._record(at)
            if isinstance(found, Record):
                yield found
                at += record_size(found)
                continue
            # A length that may be wrong is not followed. Every offset is a candidate, and the marker finds the next.
            after = data.find(self._marker, at + 1)
            while after >= 0 and _opened(data, after, RECORD_HEAD) is None:
                after = data.find(self._marker, after + 1)
            end = len(data) if after < 0 else after
            yield Damage(at, end - at, found.what, found.through)
            at = end

    def _record(self, at: int) -> Record | Damage:
        data = self._data
        head = _opened(data, at, RECORD_HEAD)
        if head is None or not head.startswith(self._marker):
            torn = len(data) - at < RECORD_HEAD
            return Damage(at, 0, "the last record is cut off" if torn else "a record's header is damaged")
        _, sequence, pairs, through, account, payload, crc = _RECORD.unpack(head)
        start = at + RECORD_HEAD
        middle, end = start + account, start + account + payload
        if end > len(data):
            return Damage(at, 0, f"batch {sequence} is cut off", through)
        if zlib.crc32(memoryview(data)[start:end]) != crc:
            return Damage(at, 0, f"batch {sequence} is damaged", through)
        return Record(sequence, pairs, through, data[start:middle], data[middle:end])


def _sealed(head: bytes) -> bytes:
    return head + _CRC.pack(zlib.crc32(head))


def _opened(data: bytes, at: int, size: int) -> bytes | None:
    """The header of `size` bytes at `at`, less its checksum; None where it is cut off or damaged."""
    head = data[at : at + size]
    if len(head) < size or _CRC.unpack_from(head, size - _CRC.size)[0] != zlib.crc32(head[: -_CRC.size]):
        return None
    return head[: -_CRC.size]
