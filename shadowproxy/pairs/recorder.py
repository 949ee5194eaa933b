"""From the proxy's hot path to the stream: pairs gathered into batches, and delivered in order, each exactly once.

The proxy never waits for it. Three tasks share the work:

- *deliver* sends the oldest batch until the store takes it: from the spool, else from memory;
- *spill* moves what waits in memory to the spool where that is over half of its bound, and everything where the
  process stops and the store is away;
- *heir* delivers what dead producers left in the spool (see `adoption`).

A batch has its sequence from the moment it is packed, and the store takes only higher ones. So batches are packed one
at a time, and the order is: spool, then packed batches, then the queue. A batch that is being sent may be moved to the
spool meanwhile; acknowledged, it is passed over there.

Memory is bounded by its bytes, the spool by its own; past both the newest pairs are dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from shadowproxy.config.settings import Recorder as Settings
from shadowproxy.errors import StoreUnavailable
from shadowproxy.model import Accounting, Exchange, Pair
from shadowproxy.pairs import codec
from shadowproxy.pairs.adoption import CORRUPT, Heir, Sink, pace
from shadowproxy.pairs.batch import BATCH_BYTES, FULL, UNENCODABLE, Batch, Gathering, Scrub
from shadowproxy.pairs.ledger import Ledger
from shadowproxy.pairs.segments import Record
from shadowproxy.pairs.spool import Spool
from shadowproxy.tasks import Tasks, end

log = logging.getLogger(__name__)

SHUTDOWN: Final = "recorder_shutdown"
"""Drop reason: the process ended before the store or the spool took the pair."""
FAILED: Final = "recorder_failed"
"""Drop reason: a fault of ours; every attempt to deliver the batch ended in an error that nobody foresaw."""

_PAIR_OVERHEAD: Final = 1024
_PUBLISH_EVERY: Final = 1.0
_BACKOFF_FIRST: Final = 0.05
_BACKOFF_MOST: Final = 2.0
_LAST_WORD: Final = 1.0
_LAST_NOTE: Final = 0.5
_TICK: Final = 1.0
_SPOOL_LEVEL: Final = 1
_MOST_FAULTS: Final = 3


@dataclass(frozen=True, slots=True)
class _Batch:
    """Pairs that have their place in the order."""

    sequence: int
    pairs: int
    through: int
    payload: bytes | memoryview
    size: int
    """Estimated memory, in bytes; 0 for one from the spool."""
    gathered: Batch | None = None
    """Whose memory the payload is."""


class Recorder:
    """Takes pairs, and delivers each exactly once or drops it and says so in the ledger.

    `producer` names the process; a random part is added, since the store tells a repeated batch by producer and
    sequence, and a process that restarts counts from the beginning. `scrub` is applied to each pair before it is
    packed: nothing that it takes out reaches the store or the disk.

    `at_once`: pairs are scrubbed and encoded as they are offered, which is cheapest, while all they hold is in the
    processor's caches. Where `scrub` takes long (it parses bodies) they wait as they are, and it is done in a thread.
    """

    def __init__(
        self,
        store: Sink,
        settings: Settings,
        ledger: Ledger,
        producer: str,
        tasks: Tasks,
        *,
        spool: Spool | None = None,
        scrub: Scrub | None = None,
        at_once: bool = True,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.producer = f"{producer}-{secrets.token_hex(4)}"
        self._store = store
        self._ledger = ledger
        self._tasks = tasks
        self._spool = spool
        self._heir = None if spool is None else Heir(store, spool, jitter=jitter)
        self._scrub = scrub
        self._at_once = at_once
        self._gathering = Gathering(ledger, scrub, settings.batch)
        self._jitter = jitter
        self._batch = settings.batch
        self._linger = settings.linger
        self._level = settings.compression
        self._max_bytes = settings.max_bytes
        self._spill_above = settings.max_bytes if spool is None else settings.max_bytes // 2
        self._queue: deque[tuple[Pair, int]] = deque()
        self._ready: deque[_Batch] = deque()
        self._packing = asyncio.Lock()
        self._waiting_bytes = 0
        self._under_way_pairs = 0
        self._sequence = 0
        self._through = 0
        self._faults = 0
        self._failing = False
        self._published: Accounting | None = None
        self._published_at = 0.0
        self._wake = asyncio.Event()
        self._spill_wake = asyncio.Event()
        self._closed = asyncio.Event()
        self._last_chance = False
        self._deliverer: asyncio.Task[None] | None = None
        self._others: list[asyncio.Task[None]] = []

    @property
    def ledger(self) -> Ledger:
        """The account that this recorder and whoever offers pairs keep together."""
        return self._ledger

    @property
    def waiting_pairs(self) -> int:
        """Pairs in memory: neither acknowledged by the store nor in the spool."""
        return self._unpacked + self._under_way_pairs

    @property
    def _unpacked(self) -> int:
        return self._gathering.pairs + len(self._queue)

    @property
    def waiting_bytes(self) -> int:
        """Estimated memory of these pairs, in bytes."""
        return self._waiting_bytes

    @property
    def spooled(self) -> tuple[int, int]:
        """Pairs that wait in this process's spool, and bytes of its segments."""
        return (0, 0) if self._spool is None else (self._spool.pairs, self._spool.bytes)

    @property
    def adopted_pairs(self) -> int:
        """Pairs delivered for producers that had died."""
        return 0 if self._heir is None else self._heir.pairs

    def offer(self, pair: Pair, guarded: Sequence[bytes] | None = None) -> bool:
        """Take a pair of an admitted request, or drop and count it. Never waits; False if it was dropped.

        `guarded` is handed to `scrub`.
        """
        if self._closed.is_set():
            self._ledger.drop(SHUTDOWN)
            return False
        if self._at_once:
            size = self._gathering.take(pair, guarded, self._max_bytes - self._waiting_bytes)
            count = self._gathering.pairs
        else:
            size = self._keep_for_later(pair)
            count = len(self._queue)
        if not size:
            return False
        self._waiting_bytes += size
        if self._waiting_bytes > self._spill_above:
            self._spill_wake.set()
        if count == 1 or count == self._batch:
            self._wake.set()
        return True

    def _keep_for_later(self, pair: Pair) -> int:
        """Put the pair into the queue, to be scrubbed and encoded in a thread."""
        size = _size(pair)
        if self._waiting_bytes + size > self._max_bytes:
            self._ledger.drop(FULL)
            return 0
        self._queue.append((pair, size))
        return size

    def start(self) -> None:
        """Begin to write. Pairs may have been offered before."""
        if self._deliverer is not None:
            return
        self._deliverer = self._tasks.start(self._keep(self._deliver), name="recorder")
        if self._spool is not None and self._heir is not None:
            self._others = [
                self._tasks.start(self._keep(self._spill), name="recorder: spool"),
                self._tasks.start(self._keep(self._heir.run), name="recorder: heir"),
            ]

    async def drain(self, grace: float) -> None:
        """Take no more, write what waits, and the final account.

        What the store has not taken after `grace` seconds goes to the spool, and what the spool doesn't take within
        one more is dropped and counted.
        """
        self._closed.set()
        self._wake.set()
        self._spill_wake.set()
        if self._spool is not None:
            self._spool.room.set()
        if self._deliverer is not None:
            await end(self._others[1:])
            await asyncio.wait([self._deliverer], timeout=grace)
            await end([self._deliverer])
            await self._spill_the_rest()
        left = self.waiting_pairs
        if left:
            log.error("%d pairs were not delivered within %g s and are dropped", left, grace)
            self._ledger.drop(SHUTDOWN, left)
            self._queue.clear()
            self._gathering.clear()
            self._ready.clear()
            self._waiting_bytes = self._under_way_pairs = 0
        if left or (self._spool is not None and self._spool.pairs):
            await self._publish_last()
        if self._spool is not None:
            await self._leave(self._spool)

    async def _leave(self, spool: Spool) -> None:
        account = self._ledger.snapshot()
        try:
            async with asyncio.timeout(_LAST_NOTE):
                await spool.close(account, complete=account == self._published)
        except TimeoutError:
            log.error("the disk of the spool doesn't answer; its account there may be old")

    async def _spill_the_rest(self) -> None:
        if self._spool is None:
            return
        self._last_chance = True
        self._spill_wake.set()
        self._spool.room.set()
        await asyncio.wait(self._others[:1], timeout=_LAST_WORD)
        await end(self._others[:1])
        if self._spool.pairs:
            log.warning("%d pairs are left in the spool, for the next start", self._spool.pairs)

    async def _publish_last(self) -> None:
        """Say how things stand, to a store that was only slow. A batch under way may have been stored all the same:
        then the pairs count, and the account errs to the safe side."""
        try:
            async with asyncio.timeout(_LAST_WORD):
                await self._publish_now()
        except (StoreUnavailable, TimeoutError):
            log.error("the store could not be told the final account")

    def __repr__(self) -> str:
        return f"<Recorder {self.producer} waiting={self.waiting_pairs} pairs, {self.waiting_bytes} bytes>"

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, and again after an error that nobody foresaw: pairs would pile up behind a task that is dead."""
        while True:
            try:
                await work()
            except Exception:
                log.exception("a fault in the recorder; it goes on")
                await self._back_off(_BACKOFF_MOST)
            else:
                return

    # Delivering

    async def _deliver(self) -> None:
        pause = _BACKOFF_FIRST
        while True:
            try:
                batch = await self._oldest()
                if batch is not None:
                    await self._send(batch)
                elif not self._idle:
                    continue
                elif self._closed.is_set():
                    await self._publish_now()
                    return
                else:
                    await self._publish()
            except (StoreUnavailable, OSError) as error:
                if not self._failing:
                    log.warning("pairs wait: %s", error)
                self._failing = True
                self._spill_wake.set()
                await self._back_off(pause * (0.5 + 0.5 * self._jitter()))
                pause = min(2 * pause, _BACKOFF_MOST)
            else:
                pause = _BACKOFF_FIRST

    @property
    def _idle(self) -> bool:
        return not self.waiting_pairs and not self._spool_pending

    @property
    def _spool_pending(self) -> bool:
        return self._spool is not None and self._spool.pending

    async def _oldest(self) -> _Batch | None:
        """The next batch in the order; None where there is none for now. Raises OSError if the spool can't be read."""
        if self._spool is not None and self._spool.pending:
            record, missing = await self._spool.peek()
            if missing:
                self._ledger.drop(CORRUPT, missing)
            if record is not None:
                return _Batch(record.sequence, record.pairs, record.through, record.payload, 0)
        if not self._ready:
            if not self._unpacked:
                await self._pause(_PUBLISH_EVERY)
                return None
            if self._unpacked < self._batch and not self._closed.is_set():
                await self._pause(self._linger)
            async with self._packing:
                # While it was waited for, everything may have gone to the spool.
                if not self._ready and not self._spool_pending:
                    await self._pack(self._level)
        return self._ready[0] if self._ready and not self._spool_pending else None

    async def _send(self, batch: _Batch) -> None:
        began = asyncio.get_running_loop().time()
        account = self._ledger.snapshot()
        account = msgspec.structs.replace(account, recorded=account.recorded + batch.pairs)
        try:
            await self._store.append(self.producer, batch.sequence, batch.payload, batch.pairs, account)
        except (StoreUnavailable, OSError):
            raise
        except Exception:
            self._faults += 1
            if self._faults >= _MOST_FAULTS:
                log.error("%d pairs can't be delivered and are dropped", batch.pairs)
                self._ledger.drop(FAILED, batch.pairs)
                self._done(batch)
            raise
        self._noted_as_published(account)
        self._ledger.record(batch.pairs)
        self._reuse(batch)
        self._done(batch)
        if self._failing:
            self._failing = False
            log.info("the store takes pairs again; %d wait", self.waiting_pairs + self.spooled[0])
        if not batch.size and not self._closed.is_set():
            await asyncio.sleep(pace(asyncio.get_running_loop().time() - began))

    def _reuse(self, batch: _Batch) -> None:
        """Let the next pairs have the memory of a batch that is stored, where nobody else can be reading it.

        While it was being sent, it may have been taken up for the spool; and after a failed attempt a connection that
        was given up may still hold it.
        """
        spilled = self._packing.locked() or not self._ready or self._ready[0] is not batch
        if batch.gathered is not None and not spilled and not self._failing:
            self._gathering.give_back(batch.gathered)

    def _done(self, batch: _Batch) -> None:
        """Nothing more is to be done for this batch, wherever it is by now."""
        self._faults = 0
        if self._ready and self._ready[0].sequence == batch.sequence:
            self._let_go()
        if self._spool is not None:
            self._spool.delivered(batch.sequence, batch.through)

    def _let_go(self) -> None:
        batch = self._ready.popleft()
        self._under_way_pairs -= batch.pairs
        self._waiting_bytes -= batch.size

    async def _pause(self, seconds: float) -> None:
        """Until woken by the first pair of a batch, by a full batch or by `drain`; at most `seconds`."""
        self._wake.clear()
        if self._closed.is_set():
            return
        await _wait(self._wake, seconds)

    async def _back_off(self, seconds: float) -> None:
        """Sleep, cut short once when `drain` begins: its grace should not be slept away."""
        if self._closed.is_set():
            await asyncio.sleep(seconds)
            return
        await _wait(self._closed, seconds)

    # Packing

    async def _pack(self, level: int) -> None:
        """Turn the oldest pairs that wait into the newest packed batch. Only one at a time: see `_packing`."""
        if self._at_once:
            await self._pack_gathered(level)
        else:
            await self._pack_queued(level)

    async def _pack_gathered(self, level: int) -> None:
        gathering = self._gathering
        if not gathering.complete:
            gathering.close()
        if not gathering.complete:
            return
        batch = gathering.complete[0]
        payload: bytes | memoryview = batch.payload()
        pairs, size = batch.pairs, batch.size
        if level:
            payload = await asyncio.to_thread(codec.squeeze, payload, level)
        # Nothing is lost if this was cut short: the batch is still the first.
        gathering.pop()
        self._under_way_pairs += pairs
        self._place(payload, pairs, size, batch if isinstance(payload, memoryview) else None)

    def _place(self, payload: bytes | memoryview, pairs: int, size: int, gathered: Batch | None = None) -> None:
        self._sequence += 1
        self._through += pairs
        self._ready.append(_Batch(self._sequence, pairs, self._through, payload, size, gathered))

    async def _pack_queued(self, level: int) -> None:
        taken = self._take()
        try:
            # In a thread, what it takes doesn't delay the clients' answers; compression lets go of the interpreter.
            payload, count = await asyncio.to_thread(self._encode, [pair for pair, _ in taken], level)
        except BaseException:
            self._queue.extendleft(reversed(taken))
            self._under_way_pairs -= len(taken)
            raise
        size = sum(size for _, size in taken)
        refused = len(taken) - count
        if refused:
            self._ledger.drop(UNENCODABLE, refused)
            self._under_way_pairs -= refused
        if not count:
            self._waiting_bytes -= size
            return
        self._place(payload, count, size)

    def _take(self) -> list[tuple[Pair, int]]:
        """The oldest pairs, up to a batch, and cut where a batch would hold the loop and the server for long."""
        queue, taken, total = self._queue, list[tuple[Pair, int]](), 0
        while queue and len(taken) < self._batch:
            total += queue[0][1]
            if taken and total > BATCH_BYTES:
                break
            taken.append(queue.popleft())
        self._under_way_pairs += len(taken)
        return taken

    def _encode(self, pairs: Sequence[Pair], level: int) -> tuple[bytes, int]:
        """A payload, and how many pairs are in it: without those that can't be encoded. Runs in a thread."""
        try:
            scrubbed = pairs if self._scrub is None else [self._scrub(pair, None) for pair in pairs]
            return codec.encode(scrubbed, level), len(pairs)
        except Exception as error:  # noqa: BLE001
            # Whatever a pair does to what scrubs it, it must not take the others with it. Its kind is told and not its
            # message, which may quote what was to be taken out.
            log.error("a pair can't be redacted or encoded and is dropped: %s", type(error).__name__)
        sound = []
        for pair in pairs:
            try:
                scrubbed_pair = pair if self._scrub is None else self._scrub(pair, None)
                codec.encode([scrubbed_pair], 0)
            except Exception as error:  # noqa: BLE001
                log.debug("dropped: %s", type(error).__name__)
            else:
                sound.append(scrubbed_pair)
        return codec.encode(sound, level), len(sound)

    # Spilling

    async def _spill(self) -> None:
        spool = self._spool
        if spool is None:
            return
        await spool.open(self.producer)
        while True:
            while self._too_much_waits():
                if await self._spill_one(spool):
                    continue
                if self._last_chance:
                    return
                spool.room.clear()
                await _wait(spool.room, _TICK)
            if self._last_chance:
                return
            await _wait(self._spill_wake, _TICK)
            self._spill_wake.clear()
            await self._note_account(spool)

    def _too_much_waits(self) -> bool:
        if self._waiting_bytes > self._spill_above:
            return True
        return self.waiting_pairs > 0 and (self._last_chance or (self._failing and self._closed.is_set()))

    async def _spill_one(self, spool: Spool) -> bool:
        """Move the oldest batch in memory to the spool. False where that doesn't take it."""
        async with self._packing:
            if not self._ready:
                await self._pack(max(self._level, _SPOOL_LEVEL))
            if not self._ready:
                return True
            batch = self._ready[0]
            payload = await asyncio.to_thread(codec.squeeze, batch.payload, _SPOOL_LEVEL)
            account = msgspec.json.encode(self._ledger.snapshot())
            if not await spool.append(Record(batch.sequence, batch.pairs, batch.through, account, payload)):
                return False
            # It may have been delivered in the meantime.
            if self._ready and self._ready[0] is batch:
                self._let_go()
            return True

    async def _note_account(self, spool: Spool) -> None:
        """Where the store has not heard of us for a while, keep the account for an heir."""
        account = self._ledger.snapshot()
        now = asyncio.get_running_loop().time()
        if account != (self._published or Accounting()) and now - self._published_at > 2 * _PUBLISH_EVERY:
            await spool.note(account)

    # The account

    async def _publish(self) -> None:
        """The account alone, if it has changed. The next wake tries again where the store can't be reached."""
        try:
            await self._publish_now()
        except StoreUnavailable as error:
            log.debug("the account was not published: %s", error)

    async def _publish_now(self) -> None:
        account = self._ledger.snapshot()
        if account != self._published:
            await self._store.publish(self.producer, account)
            self._noted_as_published(account)

    def _noted_as_published(self, account: Accounting) -> None:
        self._published = account
        self._published_at = asyncio.get_running_loop().time()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """For the event, at most `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _size(pair: Pair) -> int:
    """Estimated memory of a pair, in bytes: what it captured, and a constant for the objects that hold it."""
    request, replica = pair.request, pair.replica
    size = _PAIR_OVERHEAD + len(request.head) + len(request.body) + len(request.target) + len(pair.annotations)
    size += _captured(pair.baseline) + _captured(pair.candidate)
    return size if replica is None else size + _captured(replica)


def _captured(exchange: Exchange) -> int:
    return len(exchange.head) + len(exchange.body)
