"""Pairs that are kept to be looked at, where each worker of a partition stores them beside its state.

`shadow:{EXPERIMENT:PARTITION}:exemplars` is a hash: worker → its boards, as bytes that are not looked into here.
`…:exemplars:pairs` is a hash: key of a pair → its `Record`. A pair is committed by one worker and so stands on the
boards of one alone. Both change in the step that commits the worker's state (see `Store.commit`), so that no crash
leaves a pair without a board, or a board without its pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from shadowproxy.errors import PayloadError
from shadowproxy.model import Exchange, Pair
from shadowproxy.pairs.client import Client, boundary
from shadowproxy.pairs.codec import decode, encode

MOST_RECORD: Final = 256 * 1024
"""Bytes of one record, at the most; a body has a quarter of that."""
_SHARES: Final = 32
"""So many of the largest records have room."""
_LONGEST: Final = 1024
"""Characters of what has to stay of a pair that is too large all the same."""
_AT_ONCE: Final = 200
"""Records that are asked for together."""
_VERSION: Final = 1


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A pair, and what is known of it where it was counted."""

    v: int
    id: str
    """The request's."""
    entry: str
    """Which entry of the partition it was in, and where in it."""
    position: int
    route: str
    """Empty where none matches."""
    cohorts: tuple[str, ...]
    payload: bytes
    """See `codec`."""

    def pair(self) -> Pair:
        """The pair as it was recorded, less what `record_of` has cut. Raises PayloadError."""
        found = decode(self.payload)
        if len(found) != 1:
            raise PayloadError(f"damaged exemplar: {len(found)} pairs instead of one")
        return found[0]

    @classmethod
    def of(cls, stored: bytes) -> Record:
        """From the bytes of `record_of`. Raises PayloadError."""
        try:
            found = msgspec.msgpack.decode(stored, type=Record)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise PayloadError(f"damaged exemplar: {error}") from None
        if found.v > _VERSION:
            raise PayloadError("the exemplar was written by a newer shadowproxy; update this one")
        return found


def largest(size: int) -> int:
    """Bytes of one record, at the most, where all together have `size`."""
    return min(MOST_RECORD, size // _SHARES)


def record_of(pair: Pair, *, entry: str, position: int, route: str, cohorts: Sequence[str], most: int) -> bytes:
    """A pair to be kept, in about `most` bytes. Never raises for what a pair holds.

    Bodies are cut to a quarter of that and say so, as those past the capture cap do; where it is too large all the
    same, heads, bodies and annotations are left out.
    """
    cut = _cut(pair, most // 4)
    names = tuple(name.encode("utf-8", "replace").decode() for name in cohorts)

    def packed(kept: Pair, named: tuple[str, ...]) -> bytes:
        return msgspec.msgpack.encode(Record(_VERSION, pair.id, entry, position, route, named, encode([kept])))

    record = packed(cut, names)
    return record if len(record) <= most else packed(_bare(cut), tuple(name[:_LONGEST] for name in names[:10]))


def _cut(pair: Pair, most: int) -> Pair:
    cut = {
        name: _cut_exchange(exchange, most)
        for name in ("baseline", "candidate", "replica")
        if (exchange := getattr(pair, name)) is not None and len(exchange.body) > most
    }
    if len(pair.request.body) > most:
        cut["request"] = msgspec.structs.replace(pair.request, body=pair.request.body[:most])
    return msgspec.structs.replace(pair, **cut) if cut else pair


def _cut_exchange(exchange: Exchange, most: int) -> Any:
    digest = exchange.digest if exchange.truncated else hashlib.blake2b(exchange.body, digest_size=16).digest()
    return msgspec.structs.replace(exchange, body=exchange.body[:most], digest=digest)


def _bare(pair: Pair) -> Pair:
    def bare(exchange: Exchange) -> Exchange:
        return msgspec.structs.replace(exchange, head=b"", body=b"", detail=exchange.detail[:_LONGEST])

    return msgspec.structs.replace(
        pair,
        request=msgspec.structs.replace(pair.request, head=b"", body=b"", target=pair.request.target[:_LONGEST]),
        baseline=bare(pair.baseline),
        candidate=bare(pair.candidate),
        replica=None if pair.replica is None else bare(pair.replica),
        annotations=b"",
        notes=("headers and bodies left out: too large to be kept as an exemplar",),
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a worker's exemplars with a commit."""

    boards: bytes = b""
    """All of its boards then; empty where they are as they were."""
    added: Mapping[int, bytes] = field(default_factory=dict)
    """Records by key."""
    dropped: Sequence[int] = ()
    """Keys that are on no board any more."""

    @property
    def words(self) -> Iterator[Any]:
        """As the scripts expect it."""
        yield self.boards
        yield len(self.added)
        for key, record in self.added.items():
            yield key
            yield record
        yield len(self.dropped)
        yield from self.dropped


NO_CHANGE: Final = Change()


class Exemplars:
    """The exemplars of one partition, to be read. They are written by `Store.commit` and `Store.absorb`.

    Every method raises StoreUnavailable, as those of `Store` do.
    """

    def __init__(self, url: str, prefix: str, client: Client) -> None:
        """`prefix` is that of the partition's keys."""
        self._url = url
        self._client = client
        self._boards = f"{prefix}exemplars"
        self._records = f"{prefix}exemplars:pairs"

    def __repr__(self) -> str:
        return f"<Exemplars {self._boards}>"

    @property
    def keys(self) -> tuple[str, str]:
        """In the order in which the scripts expect them."""
        return self._boards, self._records

    async def of(self, workers: Sequence[str]) -> dict[str, bytes]:
        """The boards of these workers, of those that have some."""
        if not workers:
            return {}
        names = [worker.encode("utf-8", "surrogatepass") for worker in workers]
        with boundary(self._url):
            found = await self._client.command("HMGET", self._boards, *names)
        return {worker: bytes(stored) for worker, stored in zip(workers, found, strict=True) if stored}

    async def all(self) -> list[bytes]:
        """The boards of all workers."""
        with boundary(self._url):
            flat = await self._client.command("HGETALL", self._boards)
        return [bytes(stored) for stored in flat[1::2]]

    async def records(self, keys: Sequence[int]) -> dict[int, bytes]:
        """Records by key, of those that are still there: a worse pair may have taken a place meanwhile."""
        found: dict[int, bytes] = {}
        for first in range(0, len(keys), _AT_ONCE):
            some = keys[first : first + _AT_ONCE]
            with boundary(self._url):
                stored = await self._client.command("HMGET", self._records, *some)
            found |= {key: bytes(record) for key, record in zip(some, stored, strict=True) if record}
        return found
