"""The pairs of an experiment for people to look at: oldest first, or as they come.

What is in the stream is what waits for the comparators and what is kept after they counted it (`redis.keep`); anything
of it may be deleted before it is reached here. Nothing of that goes unnoticed: an entry's id says which entry of its
partition it is, and the entry how many pairs were written before it, so what is missing between two is known exactly.

Reading is bounded in memory, one page for each partition, and takes nothing from anybody.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from shadowproxy.errors import PayloadError, StoreUnavailable
from shadowproxy.model import Pair
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Entry, Store
from shadowproxy.tasks import Tasks

log = logging.getLogger(__name__)

PAGE_BYTES: Final = 8 * 1024**2
"""Bytes of payload that are asked for at once, of all partitions together. A single entry may be larger."""

_MOST_ENTRIES: Final = 1000
_BLOCK: Final = 5.0
_AGAIN: Final = 1.0


@dataclass(frozen=True, slots=True)
class Position:
    """How far one partition has been read."""

    after: str = "0-0"
    """The entry id behind which reading goes on."""
    entries: int = 0
    """Entries of the partition that are done with, read or not; likewise `pairs`."""
    pairs: int = 0
    taken: int = 0
    """Pairs that were taken of the entry that comes next."""


START: Final = Position()


@dataclass(frozen=True, slots=True)
class Batch:
    """The pairs of one entry, or those of them that were asked for."""

    partition: int
    entry: str
    first: int
    """Which pair of the entry, from 0, `pairs` begins with."""
    pairs: Sequence[Pair]
    size: int
    """Bytes of the entry's payload."""
    position: Position
    """That of the partition once this batch is done with."""
    before: Position
    """That of the partition at the entry's beginning."""

    def head(self, pairs: int) -> Batch:
        """Its first `pairs` pairs; reading goes on behind them."""
        if pairs >= len(self.pairs):
            return self
        position = replace(self.before, taken=self.first + pairs)
        return replace(self, pairs=self.pairs[:pairs], position=position)


@dataclass(frozen=True, slots=True)
class Tally:
    """What was read, and what was not. `earlier + gone + damaged + read + unread` is all that was ever written."""

    entries: int = 0
    """Entries that were read; likewise `pairs`, and `size` in bytes of payload."""
    pairs: int = 0
    size: int = 0
    earlier_entries: int = 0
    """Entries that had been deleted, or were left out on purpose, before the reading began."""
    earlier_pairs: int = 0
    gone_entries: int = 0
    """Entries that were deleted between two that were read, or before the end that was asked for."""
    gone_pairs: int = 0
    damaged_entries: int = 0
    """Entries that can't be read."""
    damaged_pairs: int = 0
    damage: str = ""
    """What is wrong with the first of these."""
    unread_entries: int = 0
    """Entries written behind the last that was read, where the reading was stopped."""
    unread_pairs: int = 0


class _Cursor:
    """One partition, read page by page."""

    def __init__(self, store: Store, position: Position, page_bytes: int) -> None:
        self.store = store
        self.position = position
        self.page: deque[Entry] = deque()
        # Apart from the position: what is none of our entries is behind us too, and has no number.
        self._after = position.after
        self._page_bytes = page_bytes
        self._count = 1

    async def fetch(self, block: float = 0.0) -> bool:
        """Ask for a page where none is left, and wait `block` seconds for it. Returns whether there is something."""
        if not self.page:
            if block:
                found = await self.store.follow(self._after, self._count, block)
            else:
                found = await self.store.browse(self._after, self._count)
            if found:
                self._after = found[-1].id
                self._count = _next_count(self._page_bytes, found)
            self.page.extend(found)
        return bool(self.page)


def _next_count(page_bytes: int, found: Sequence[Entry]) -> int:
    largest = max(len(entry.payload) for entry in found)
    # No more than twice as many as before: one small entry says little about those that follow.
    return max(1, min(_MOST_ENTRIES, 2 * len(found), page_bytes // (largest + 1)))


class Reading:
    """The pairs of all partitions, each entry once: what is `stored`, and then what comes (`followed`)."""

    def __init__(
        self, partitions: Partitions, *, positions: Mapping[int, Position] | None = None, page_bytes: int = PAGE_BYTES
    ) -> None:
        """Reading begins at `positions`, by partition; at the oldest entry for those that have none."""
        begun = positions or {}
        share = page_bytes // len(partitions.stores)
        self._cursors = [_Cursor(store, begun.get(store.partition, START), share) for store in partitions.stores]
        self._opened = {number for number, position in begun.items() if position != START}
        self.tally = Tally()

    @property
    def positions(self) -> dict[int, Position]:
        """How far each partition has been read."""
        return {cursor.store.partition: cursor.position for cursor in self._cursors}

    async def stored(self) -> AsyncGenerator[Batch, None]:
        """What was written by now, in the order in which it was, as far as it is still there when it is reached.

        Raises StoreUnavailable.
        """
        ends = [await cursor.store.written() for cursor in self._cursors]
        heap: list[tuple[int, int]] = []
        for number, cursor in enumerate(self._cursors):
            await self._push(heap, number, cursor, ends[number][0])
            self._open(cursor, *ends[number])
        while heap:
            _, number = heapq.heappop(heap)
            cursor = self._cursors[number]
            batch = self._take(cursor)
            if batch is not None:
                yield batch
            await self._push(heap, number, cursor, ends[number][0])
        for cursor, (entries, pairs) in zip(self._cursors, ends, strict=True):
            self._close(cursor, entries, pairs)

    async def followed(self, stop: asyncio.Event) -> AsyncGenerator[Batch, None]:
        """What comes after that, until `stop` is set. A store that is away is waited for.

        What was written and not read by then is counted as unread, if the store can still be asked.
        """
        ready: asyncio.Queue[_Cursor | None] = asyncio.Queue()
        crashes: list[BaseException] = []

        def crashed(_: str, crash: BaseException) -> None:
            crashes.append(crash)
            ready.put_nowait(None)

        tasks = Tasks(crashed)
        empty = {cursor: asyncio.Event() for cursor in self._cursors}

        async def follow(cursor: _Cursor) -> None:
            while True:
                try:
                    found = await cursor.fetch(_BLOCK)
                except StoreUnavailable as error:
                    log.warning("%s; it is tried again", error)
                    await asyncio.sleep(_AGAIN)
                    continue
                if found:
                    empty[cursor].clear()
                    ready.put_nowait(cursor)
                    await empty[cursor].wait()

        async def end() -> None:
            await stop.wait()
            ready.put_nowait(None)

        running = [tasks.start(follow(cursor), name=f"{cursor.store!r}") for cursor in self._cursors]
        running.append(tasks.start(end(), name="stop"))
        try:
            while not stop.is_set():
                cursor = await ready.get()
                if crashes:
                    raise crashes[0]
                if cursor is None:
                    break
                while cursor.page and not stop.is_set():
                    batch = self._take(cursor)
                    if batch is not None:
                        yield batch
                empty[cursor].set()
        finally:
            await tasks.cancel()
        await self.count_unread()

    async def count_unread(self) -> None:
        """Count as unread what was written and not read by now. For a reading that ends before its end."""
        entries = pairs = 0
        try:
            for cursor in self._cursors:
                written, written_pairs = await cursor.store.written()
                entries += max(0, written - cursor.position.entries)
                pairs += max(0, written_pairs - cursor.position.pairs - cursor.position.taken)
        except StoreUnavailable as error:
            log.warning("%s; what was written after the last pair that was read is not counted", error)
            return
        self.tally = replace(self.tally, unread_entries=entries, unread_pairs=pairs)

    @staticmethod
    async def _push(heap: list[tuple[int, int]], number: int, cursor: _Cursor, end: int) -> None:
        if await cursor.fetch():
            head = cursor.page[0]
            if head.ordinal <= end:
                heapq.heappush(heap, (_milliseconds(head.id), number))

    def _open(self, cursor: _Cursor, entries: int, pairs: int) -> None:
        """What is not there when a reading begins at the beginning had been deleted before: it isn't lost here."""
        if cursor.store.partition in self._opened:
            return
        self._opened.add(cursor.store.partition)
        first = next((entry for entry in cursor.page if entry.ordinal and entry.before is not None), None)
        if first is not None and first.ordinal <= entries:
            entries, pairs = first.ordinal - 1, first.before or 0
        cursor.position = Position(cursor.position.after, entries, pairs)
        self.tally = replace(
            self.tally,
            earlier_entries=self.tally.earlier_entries + entries,
            earlier_pairs=self.tally.earlier_pairs + pairs,
        )

    def _close(self, cursor: _Cursor, entries: int, pairs: int) -> None:
        at = cursor.position
        if entries > at.entries:
            self._gone(entries - at.entries, pairs - at.pairs - at.taken)
            cursor.position = replace(at, entries=entries, pairs=pairs, taken=0)

    def _take(self, cursor: _Cursor) -> Batch | None:
        """The next entry of a partition; None where it can't be read, or nothing of it is left to take."""
        entry, at = cursor.page.popleft(), cursor.position
        if not entry.ordinal or entry.before is None:
            # Whoever wrote it, it is none of those that are counted.
            self._damaged(0, "an entry that shadowproxy did not write")
            return None
        if entry.ordinal <= at.entries:
            # The store was emptied, and is counted from the beginning again.
            at = START
        before = Position(_ahead_of(entry.id), entry.ordinal - 1, entry.before)
        skip = at.taken if entry.ordinal == at.entries + 1 else 0
        if before.entries > at.entries:
            self._gone(before.entries - at.entries, before.pairs - at.pairs - at.taken)
        cursor.position = Position(entry.id, entry.ordinal, entry.before + entry.pairs)
        try:
            pairs = entry.batch()
        except PayloadError as error:
            self._damaged(entry.pairs, str(error))
            return None
        self.tally = replace(
            self.tally,
            entries=self.tally.entries + 1,
            pairs=self.tally.pairs + len(pairs) - skip,
            size=self.tally.size + len(entry.payload),
        )
        if skip >= len(pairs):
            return None
        return Batch(
            partition=cursor.store.partition,
            entry=entry.id,
            first=skip,
            pairs=pairs[skip:],
            size=len(entry.payload),
            position=cursor.position,
            before=before,
        )

    def _gone(self, entries: int, pairs: int) -> None:
        self.tally = replace(
            self.tally,
            gone_entries=self.tally.gone_entries + entries,
            gone_pairs=self.tally.gone_pairs + max(0, pairs),
        )

    def _damaged(self, pairs: int, what: str) -> None:
        self.tally = replace(
            self.tally,
            damaged_entries=self.tally.damaged_entries + 1,
            damaged_pairs=self.tally.damaged_pairs + pairs,
            damage=self.tally.damage or what,
        )


async def newest(partitions: Partitions, pairs: int, *, page_bytes: int = PAGE_BYTES) -> dict[int, Position]:
    """Where to begin reading to get the newest `pairs` pairs of all partitions. Raises StoreUnavailable."""
    heads: list[tuple[int, int, Entry]] = []
    positions: dict[int, Position] = {}
    for store in partitions.stores:
        positions[store.partition] = Position("0-0", *(await store.written()))
        found = 0
        async for entry in _backwards(store, page_bytes):
            if not found:
                positions[store.partition] = Position(entry.id, entry.ordinal, (entry.before or 0) + entry.pairs)
            # The payload is of no use yet, and may be large.
            heads.append((_milliseconds(entry.id), store.partition, replace(entry, payload=b"")))
            found += entry.pairs
            if found >= pairs:
                break
    for _, partition, entry in sorted(heads, key=lambda head: (head[0], head[1], head[2].ordinal), reverse=True):
        if pairs <= 0:
            break
        positions[partition] = Position(
            _ahead_of(entry.id), entry.ordinal - 1, entry.before or 0, max(0, entry.pairs - pairs)
        )
        pairs -= entry.pairs
    return positions


async def _backwards(store: Store, page_bytes: int) -> AsyncIterator[Entry]:
    before, count = None, 1
    while found := await store.newest(count, before):
        for entry in reversed(found):
            if entry.ordinal and entry.before is not None:
                yield entry
        before, count = found[0].id, _next_count(page_bytes, found)


def described(tally: Tally) -> Iterator[str]:
    """What was not read, one line for each reason; nothing where all was."""
    if tally.gone_entries:
        yield f"{_counted(tally.gone_entries, tally.gone_pairs)} had been deleted before they were read"
    if tally.damaged_entries:
        yield f"{_counted(tally.damaged_entries, tally.damaged_pairs)} can't be read: {tally.damage}"
    if tally.unread_entries:
        yield f"{_counted(tally.unread_entries, tally.unread_pairs)} had come and were not read when it stopped"


def _counted(entries: int, pairs: int) -> str:
    entry, pair = "entry" if entries == 1 else "entries", "pair" if pairs == 1 else "pairs"
    return f"{entries:,} {entry} ({pairs:,} {pair})"


def _milliseconds(entry: str) -> int:
    return int(entry.partition("-")[0])


def _ahead_of(entry: str) -> str:
    """The greatest id below that of one of our entries, whose sequence is never 0."""
    milliseconds, _, sequence = entry.partition("-")
    return f"{milliseconds}-{int(sequence) - 1}"
