"""Labels that come later: their stream in one partition, the pairs that wait for them, and those that came too early.

A label says, under a request's id, what a right answer to it would have held. Anybody may add labels to the stream
`shadow:{EXPERIMENT:PARTITION}:labels`, of every partition, since an id does not say in which its pair is. The fields of
an entry are `id`, the request's, and `truth`: JSON, a list of ids, or an object id → gain. Workers of a consumer group
read them; what they have dealt with is deleted. See `Store.commit` and `Store.join` for how the two find each other.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import ResponseError

from shadowproxy.pairs import scripts
from shadowproxy.pairs.client import Client, Script, boundary

GROUP: Final = "comparators"
"""The consumer group of every partition's label stream."""
MOST: Final = 100_000
"""Labels in the stream, pairs that wait and early labels, each, where nothing else is asked for."""
_AT_ONCE: Final = 1000
"""Labels that one script adds."""

_MAKE_LABEL_GROUP: Final = Script(scripts.MAKE_LABEL_GROUP)
_ADD_LABELS: Final = Script(scripts.ADD_LABELS)
_OWN_PENDING: Final = Script(scripts.OWN_PENDING)
_CLAIM: Final = Script(scripts.CLAIM)
_FIND_UNLABELLED: Final = Script(scripts.FIND_UNLABELLED)
_EXPIRE_LABELS: Final = Script(scripts.EXPIRE_LABELS)


@dataclass(frozen=True, slots=True)
class Label:
    """One entry of the label stream. `deliveries` counts how often workers got it, this time included."""

    entry: str
    id: str
    """The request's."""
    truth: bytes
    """JSON, as it came."""
    deliveries: int = 1

    @property
    def arrived(self) -> float:
        """When it came, by the server's clock, Unix seconds."""
        return int(self.entry.partition("-")[0]) / 1000


@dataclass(frozen=True, slots=True)
class Waiting:
    """A pair that waits for its label."""

    id: str
    expires: float
    """Unix seconds: a label that comes later is late."""
    record: bytes
    """Whatever the worker needs of the pair then."""


class Fate(enum.StrEnum):
    """What is done with a label."""

    JOIN = "join"
    """Its pair waits, and the state that is stored includes it."""
    KEEP = "keep"
    """No pair waits for it; one may come."""
    LATE = "late"
    """Its pair waited for as long as it was to."""
    INVALID = "invalid"
    """It can't be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedLabels:
    """What became of the labels, in one partition or in all.

    Every label is in the stream of each partition, and at most one of them joins it. So what came is counted in the
    first alone, and a label is late or unknown when it is gone from there and nobody has joined it.
    """

    received: int = 0
    """Labels that came, repetitions included; likewise `duplicates` and `invalid`, which are among them."""
    duplicates: int = 0
    """Those whose id had a label already: the first that joins counts."""
    invalid: int = 0
    """Those that could not be read."""
    joined: int = 0
    expired_pairs: int = 0
    """Pairs that waited in vain."""
    overflow: int = 0
    """Pairs that could not wait: too many did, or one of the same request id."""
    waiting_pairs: int = 0
    waiting: int = 0
    """Labels that may yet be joined: not read, or before their pair."""
    remembered: int = 0
    """Joined labels that would still wait if they were not."""

    @property
    def unmatched(self) -> int:
        """Labels that came too late, or under an id of which no pair is known."""
        return max(0, self.received - self.duplicates - self.invalid - self.joined - self.waiting)

    @classmethod
    def of(cls, counts: Sequence[int]) -> CountedLabels:
        """From the figures of the script."""
        received, joined, duplicates, invalid, expired, overflow, waiting_pairs, unread, early, labelled = counts
        return cls(
            received=received,
            duplicates=duplicates,
            invalid=invalid,
            joined=joined,
            expired_pairs=expired,
            overflow=overflow,
            waiting_pairs=waiting_pairs,
            waiting=unread + early,
            remembered=labelled,
        )

    @classmethod
    def over(cls, partitions: Sequence[CountedLabels]) -> CountedLabels:
        """Of all partitions together."""
        first, others = partitions[0], partitions[1:]

        def total(of: Callable[[CountedLabels], int]) -> int:
            return sum(map(of, partitions))

        return cls(
            received=first.received,
            duplicates=first.duplicates,
            invalid=first.invalid,
            joined=total(lambda counted: counted.joined),
            expired_pairs=total(lambda counted: counted.expired_pairs),
            overflow=total(lambda counted: counted.overflow),
            waiting_pairs=total(lambda counted: counted.waiting_pairs),
            # What another partition has joined waits in the first for a pair that will not come.
            waiting=max(0, first.waiting - sum(other.remembered for other in others)),
            remembered=total(lambda counted: counted.remembered),
        )


class Labels:
    """The labels of one partition. What is stored together with a worker's state is the `Store`'s to do.

    Every method raises StoreUnavailable, as those of `Store` do.
    """

    def __init__(
        self, url: str, prefix: str, client: Client, reader: Client, most: int, *, reply_within: float
    ) -> None:
        """`prefix` is that of the partition's keys; `most` bounds the stream, the pairs and the early labels, each.

        `reader` must ask once only: what was given out with a reply that was lost would not be given out again.
        """
        self.most = most
        self.stream = f"{prefix}labels"
        self.totals = f"{prefix}labels:totals"
        self.unlabelled = f"{prefix}unlabelled"
        self.unlabelled_expiry = f"{prefix}unlabelled:expiry"
        self.early = f"{prefix}early"
        self.early_expiry = f"{prefix}early:expiry"
        self.labelled = f"{prefix}labelled"
        self._pairs = f"{prefix}pairs"
        self._pair_totals = f"{prefix}totals"
        self._url = url
        self._client = client
        self._reader = reader
        self._reply_within = reply_within

    @property
    def keys(self) -> tuple[str, ...]:
        """All of a partition, in the order in which the scripts expect them."""
        return (
            self.stream,
            self.totals,
            self.unlabelled,
            self.unlabelled_expiry,
            self.early,
            self.early_expiry,
            self.labelled,
        )

    def __repr__(self) -> str:
        return f"<Labels {self.stream}>"

    async def add(self, labels: Sequence[tuple[str, bytes]]) -> None:
        """Add labels, each as (request id, truth as JSON), in their order; past the bound the oldest are trimmed.

        Adding them again does no harm: the second is a duplicate.
        """
        for first in range(0, len(labels), _AT_ONCE):
            words = [word for name, truth in labels[first : first + _AT_ONCE] for word in (_bytes(name), truth)]
            with boundary(self._url):
                await self._client.run(_ADD_LABELS, (self.stream,), self.most, *words)

    async def read(self, worker: str, most: int) -> list[Label]:
        """Up to `most` labels that no worker was given yet; does not wait for any."""
        words = ("XREADGROUP", "GROUP", GROUP, worker, "COUNT", most, "STREAMS", self.stream, ">")
        reply = await self.in_group(lambda: self._once(self._reader.command(*words)))
        return _labels(reply[0][1]) if reply else []

    async def own_pending(self, worker: str, most: int) -> list[Label]:
        """The oldest labels that were given to this worker and that it has not dealt with (see `Store`)."""
        return _labels(await self.in_group(lambda: self._client.run(_OWN_PENDING, (self.stream,), GROUP, worker, most)))

    async def claim(self, worker: str, idle: float, most: int) -> list[Label]:
        """Take over labels that other workers have held for `idle` seconds."""
        words = (GROUP, worker, round(idle * 1000), most)
        return _labels(await self.in_group(lambda: self._once(self._reader.run(_CLAIM, (self.stream,), *words))))

    async def find(self, ids: Sequence[str]) -> dict[str, Waiting]:
        """By id, the pairs that wait under these ids."""
        if not ids:
            return {}
        keys = (self.unlabelled, self.unlabelled_expiry)
        with boundary(self._url):
            found = await self._client.run(_FIND_UNLABELLED, keys, *map(_bytes, ids))
        return {
            name: Waiting(name, float(expiry or b"inf") / 1000, record)
            for name, (record, expiry) in zip(ids, found, strict=True)
            if record
        }

    async def expire(self, most: int) -> int:
        """Forget up to `most` pairs and as many labels that waited for long enough. Returns how many it were."""
        keys = (self._pairs, self._pair_totals, *self.keys)
        with boundary(self._url):
            return int(await self._client.run(_EXPIRE_LABELS, keys, GROUP, most))

    async def _once(self, ask: Awaitable[Any]) -> Any:
        async with asyncio.timeout(self._reply_within):
            return await ask

    async def in_group(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask, and where the stream or its group is not there (yet, or no more), make it and ask once more."""
        with boundary(self._url):
            try:
                return await ask()
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                await self._client.run(_MAKE_LABEL_GROUP, (self.stream,), GROUP)
                return await ask()


def _labels(replies: Iterable[Sequence[Any]]) -> list[Label]:
    return [_label(reply) for reply in replies]


def _label(reply: Sequence[Any]) -> Label:
    fields = reply[1] or []
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    return Label(
        entry=reply[0].decode(),
        # Whoever writes to the stream may write anything; what is no id finds no pair.
        id=values.get(b"id", b"").decode("utf-8", "surrogateescape"),
        truth=values.get(b"truth", b""),
        deliveries=int(reply[2]) if len(reply) > 2 else 1,
    )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
