"""How the evidence went while pairs came: a point for every 2% more of them, kept in the home partition.

`…:trail` is a stream, and a point's id is `PAIRS-0`: of several processes that look at one experiment at a time one
alone writes a point, and it is the same whoever looked. A billion pairs come to about a thousand points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
_AT_ONCE: Final = 200
_LARGEST: Final = 64 * 1024**2
_LEVEL: Final = 3
_VERSION: Final = 1

_TRAIL: Final = Script(scripts.TRAIL)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence at one moment."""

    at: float
    """Unix seconds, by the store's clock."""
    pairs: int
    """That it rests on."""
    evidence: float
    """For a rollback (see `Verdict.evidence_rollback`)."""
    cells: tuple[tuple[str, str], ...]
    """(guardrail, cohort) of each."""
    promote: tuple[int, ...]
    """By cell, thousandths of the decimal logarithm of its e-value for a promote."""
    rollback: tuple[int, ...]
    v: int = _VERSION


def due(last: int, pairs: int) -> bool:
    """Whether a point is to be kept at so many pairs, where the last was kept at `last`, 0 for none."""
    return pairs >= max(last + 1, math.ceil(last * GROWTH))


async def keep(home: Store, point: Point, *, resets: int) -> int:
    """Keep a point if it is due. Returns at how many pairs the last is then; 0 where there is none.

    `resets` is that of the snapshot that the point rests on: after another reset nothing is kept. Raises
    StoreUnavailable.
    """
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(msgspec.msgpack.encode(point))
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
        found += (_point(fields) for _, fields in page)
        if len(page) < _AT_ONCE:
            return found
        after = int(page[-1][0].partition(b"-")[0])


def _point(fields: Sequence[bytes]) -> Point:
    try:
        size = zstandard.frame_content_size(fields[1])
        if not 0 <= size <= _LARGEST:
            raise ValueError(f"it claims {size} bytes")
        point = msgspec.msgpack.decode(zstandard.ZstdDecompressor().decompress(fields[1]), type=Point)
        if not len(point.cells) == len(point.promote) == len(point.rollback):
            raise ValueError("its e-values are not those of its cells")
    except (zstandard.ZstdError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise PayloadError(f"the way of the evidence can't be read: {error}; update shadowproxy") from None
    if point.v > _VERSION:
        raise PayloadError("the way of the evidence was written by a newer shadowproxy; update this one")
    return point
