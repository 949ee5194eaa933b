"""How the evidence went while pairs came: a point for every 2% more of them, kept in the home partition.

`…:trail` is a stream, and a point's id is `PAIRS-0`: of several processes that look at one experiment at a time one
alone writes a point, and it is the same whoever looked. A billion pairs come to about a thousand points.
"""

from __future__ import annotations

import asyncio
import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import zstandard

from shadowproxy.errors import PayloadError
from shadowproxy.pairs import scripts
from shadowproxy.pairs.client import Script
from shadowproxy.pairs.store import Store

MOST_POINTS: Final = 2000
"""Points that are kept; the oldest are forgotten."""
GROWTH: Final = 1.02
_AT_ONCE: Final = 100
_LARGEST: Final = 64 * 1024**2
_LEVEL: Final = 3
_VERSION: Final = 1

_TRAIL: Final = Script(scripts.TRAIL)


Names = tuple[tuple[str, str], ...]
"""(guardrail, cohort) of each cell."""


@dataclass(frozen=True, slots=True)
class Point:
    """The evidence at one moment."""

    at: float
    """Unix seconds, by the store's clock."""
    pairs: int
    """That it rests on."""
    evidence: float
    """For a rollback (see `Verdict.evidence_rollback`)."""
    cells: Names
    promote: array[int]
    """By cell, thousandths of the decimal logarithm of its e-value for a promote; 32 bits each."""
    rollback: array[int]


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    v: int
    at: float
    pairs: int
    evidence: float
    cells: bytes
    """As msgpack: points in a row mostly have the same, and these are read once."""
    promote: bytes
    """Little-endian."""
    rollback: bytes


def due(last: int, pairs: int) -> bool:
    """Whether a point is to be kept at so many pairs, where the last was kept at `last`, 0 for none."""
    return pairs >= max(last + 1, math.ceil(last * GROWTH))


async def keep(home: Store, point: Point, *, resets: int) -> int:
    """Keep a point if it is due. Returns at how many pairs the last is then; 0 where there is none.

    `resets` is that of the snapshot that the point rests on: after another reset nothing is kept. Raises
    StoreUnavailable.
    """
    stored = _Stored(
        _VERSION,
        point.at,
        point.pairs,
        point.evidence,
        msgspec.msgpack.encode(point.cells),
        _swapped(point.promote).tobytes(),
        _swapped(point.rollback).tobytes(),
    )
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(msgspec.msgpack.encode(stored))
    return int(
        await home.run(_TRAIL, ("trail", "totals"), resets, point.pairs, packed, MOST_POINTS, round(GROWTH * 100))
    )


async def trail(home: Store, *, after: int = 0) -> list[Point]:
    """The points of more than `after` pairs, oldest first.

    Raises StoreUnavailable, and PayloadError where one can't be read.
    """
    found: list[Point] = []
    while True:
        page = await home.command("XRANGE", "trail", f"({after}-0" if after else "-", "+", "COUNT", _AT_ONCE)
        found += await asyncio.to_thread(_points, [fields[1] for _, fields in page])
        if len(page) < _AT_ONCE:
            return found
        after = int(page[-1][0].partition(b"-")[0])


def _points(packed: Sequence[bytes]) -> list[Point]:
    found: list[Point] = []
    names = b""
    cells: Names = ()
    try:
        for one in packed:
            stored = _unpacked(one)
            if stored.cells != names:
                names, cells = stored.cells, msgspec.msgpack.decode(stored.cells, type=Names)
            promote, rollback = (_swapped(array("i", told)) for told in (stored.promote, stored.rollback))
            if not len(cells) == len(promote) == len(rollback):
                raise ValueError("its e-values are not those of its cells")
            found.append(Point(stored.at, stored.pairs, stored.evidence, cells, promote, rollback))
    except (zstandard.ZstdError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PayloadError(f"the way of the evidence can't be read: {error}; update shadowproxy") from None
    return found


def _unpacked(packed: bytes) -> _Stored:
    size = zstandard.frame_content_size(packed)
    if not 0 <= size <= _LARGEST:
        raise ValueError(f"a point claims {size} bytes")
    plain = zstandard.ZstdDecompressor().decompress(packed)
    if msgspec.msgpack.decode(plain, type=_Version).v > _VERSION:
        raise ValueError("a newer shadowproxy wrote it")
    return msgspec.msgpack.decode(plain, type=_Stored)


class _Version(msgspec.Struct, frozen=True, array_like=True):
    v: int


def _swapped(numbers: array[int]) -> array[int]:
    """From this machine's order of bytes to the stored one, and back."""
    if sys.byteorder == "little":
        return numbers
    other = array("i", numbers)
    other.byteswap()
    return other
