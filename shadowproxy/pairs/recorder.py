"""From the proxy's hot path to the stream: pairs gathered into batches and written by one task.

The proxy never waits for it. Pairs that wait are bounded by their bytes; past the bound the newest are dropped and
counted.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from shadowproxy.config.settings import Recorder as Settings
from shadowproxy.errors import StoreUnavailable
from shadowproxy.model import Accounting, Exchange, Pair
from shadowproxy.pairs import codec
from shadowproxy.pairs.ledger import Ledger
from shadowproxy.tasks import Tasks, end

log = logging.getLogger(__name__)

FULL: Final = "recorder_full"
"""Drop reason: more bytes wait than `recorder.max_bytes`."""
SHUTDOWN: Final = "recorder_shutdown"
"""Drop reason: the process ended before the store took the pair."""
UNENCODABLE: Final = "recorder_unencodable"
"""Drop reason: the pair has no place in the batch format."""
UNREDACTED: Final = "recorder_unredacted"
"""Drop reason: what must not leave the process could not be taken out of the pair."""

_PAIR_OVERHEAD: Final = 1024
_BATCH_BYTES: Final = 2 * 1024**2
_PUBLISH_EVERY: Final = 1.0
_BACKOFF_FIRST: Final = 0.05
_BACKOFF_MOST: Final = 2.0
_LAST_WORD: Final = 1.0


class Sink(Protocol):
    """What the recorder needs of a store."""

    async def append(self, producer: str, sequence: int, payload: bytes, pairs: int, account: Accounting) -> None:
        """Write one batch once, however often it is sent. Raises StoreUnavailable."""

    async def publish(self, producer: str, account: Accounting) -> None:
        """Store the account. Raises StoreUnavailable."""


class Recorder:
    """Takes pairs, and delivers each exactly once or drops it and says so in the ledger.

    `producer` names the process; a random part is added, since the store tells a repeated batch by producer and
    sequence, and a process that restarts counts from the beginning. `scrub` takes out of a pair what must not leave the
    process: it is called in a thread, pair by pair, before anything is packed.
    """

    def __init__(
        self,
        store: Sink,
        settings: Settings,
        ledger: Ledger,
        producer: str,
        tasks: Tasks,
        *,
        jitter: Callable[[], float] = random.random,
        scrub: Callable[[Pair], Pair] | None = None,
    ) -> None:
        self.producer = f"{producer}-{secrets.token_hex(4)}"
        self._store = store
        self._ledger = ledger
        self._tasks = tasks
        self._jitter = jitter
        self._scrub = scrub
        self._batch = settings.batch
        self._linger = settings.linger
        self._max_bytes = settings.max_bytes
        self._queue: deque[tuple[Pair, int]] = deque()
        self._queued_bytes = 0
        self._under_way_pairs = 0
        self._under_way_bytes = 0
        self._sequence = 0
        self._published: Accounting | None = None
        self._wake = asyncio.Event()
        self._closed = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    @property
    def ledger(self) -> Ledger:
        """The account that this recorder and whoever offers pairs keep together."""
        return self._ledger

    @property
    def waiting_pairs(self) -> int:
        """Pairs taken and not yet acknowledged by the store."""
        return len(self._queue) + self._under_way_pairs

    @property
    def waiting_bytes(self) -> int:
        """Estimated memory of these pairs, in bytes."""
        return self._queued_bytes + self._under_way_bytes

    def offer(self, pair: Pair) -> bool:
        """Take a pair of an admitted request, or drop and count it. Never waits; False if it was dropped."""
        size = _size(pair)
        if self._closed.is_set():
            self._ledger.drop(SHUTDOWN)
            return False
        if self._queued_bytes + self._under_way_bytes + size > self._max_bytes:
            self._ledger.drop(FULL)
            return False
        self._queue.append((pair, size))
        self._queued_bytes += size
        waiting = len(self._queue)
        if waiting == 1 or waiting == self._batch:
            self._wake.set()
        return True

    def start(self) -> None:
        """Begin to write. Pairs may have been offered before."""
        if self._writer is None:
            self._writer = self._tasks.start(self._write(), name="recorder")

    async def drain(self, grace: float) -> None:
        """Take no more, write what waits, and the final account; after `grace` seconds drop the rest and count it."""
        self._closed.set()
        self._wake.set()
        if self._writer is not None:
            await asyncio.wait([self._writer], timeout=grace)
            await end([self._writer])
        if self.waiting_pairs:
            log.error("%d pairs were not delivered within %g s and are dropped", self.waiting_pairs, grace)
            self._ledger.drop(SHUTDOWN, self.waiting_pairs)
            self._queue.clear()
            self._queued_bytes = self._under_way_pairs = self._under_way_bytes = 0
            await self._publish_last()

    async def _publish_last(self) -> None:
        """Say what was dropped, to a store that was only slow. A batch under way may have been stored all the same:
        then the pairs count, and the account errs to the safe side."""
        try:
            async with asyncio.timeout(_LAST_WORD):
                await self._publish_now()
        except (StoreUnavailable, TimeoutError):
            log.error("and the store could not be told so")

    def __repr__(self) -> str:
        return f"<Recorder {self.producer} waiting={self.waiting_pairs} pairs, {self.waiting_bytes} bytes>"

    async def _write(self) -> None:
        while not self._closed.is_set() or self._queue:
            if not self._queue:
                await self._pause(_PUBLISH_EVERY)
                if not self._queue:
                    await self._publish()
                continue
            if len(self._queue) < self._batch and not self._closed.is_set():
                await self._pause(self._linger)
            await self._deliver(self._take())
        await self._insist(self._publish_now)

    async def _pause(self, seconds: float) -> None:
        """Until woken by the first pair of a batch, by a full batch or by `drain`; at most `seconds`."""
        self._wake.clear()
        if self._closed.is_set():
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def _take(self) -> list[Pair]:
        """The oldest pairs, up to a batch, and cut where a batch would hold the loop and the server for long."""
        pairs: list[Pair] = []
        while self._queue and len(pairs) < self._batch:
            pair, size = self._queue[0]
            if pairs and self._under_way_bytes + size > _BATCH_BYTES:
                break
            self._queue.popleft()
            self._queued_bytes -= size
            self._under_way_bytes += size
            self._under_way_pairs += 1
            pairs.append(pair)
        return pairs

    async def _deliver(self, pairs: Sequence[Pair]) -> None:
        if self._scrub is not None:
            pairs = await self._scrubbed(pairs, self._scrub)
        packed, count = self._pack(pairs)
        if count:
            # Compression lets go of the interpreter's lock; in a thread it doesn't delay the clients' answers.
            payload = await asyncio.to_thread(codec.seal, packed)
            self._sequence += 1

            async def append() -> None:
                account = self._ledger.snapshot()
                account = msgspec.structs.replace(account, recorded=account.recorded + count)
                await self._store.append(self.producer, self._sequence, payload, count, account)
                self._published = account

            await self._insist(append)
            self._ledger.record(count)
        self._under_way_pairs = self._under_way_bytes = 0

    async def _scrubbed(self, pairs: Sequence[Pair], scrub: Callable[[Pair], Pair]) -> Sequence[Pair]:
        """The pairs as they may leave the process; those that can't be scrubbed are dropped, whatever the reason."""
        clean, failures = await asyncio.to_thread(_each, scrub, pairs)
        for failure in failures:
            # Not the message: it may quote what was to be taken out.
            log.error("a pair can't be redacted and is dropped: %s", failure)
            self._ledger.drop(UNREDACTED)
            self._under_way_pairs -= 1
        return clean

    def _pack(self, pairs: Sequence[Pair]) -> tuple[bytes, int]:
        """The batch as msgpack and how many pairs are in it, without those that can't be encoded, which are dropped."""
        try:
            return codec.pack(pairs), len(pairs)
        except (ValueError, OverflowError) as error:
            log.error("a pair can't be encoded and is dropped: %s", error)
        sound = []
        for pair in pairs:
            try:
                codec.pack([pair])
            except (ValueError, OverflowError):
                self._ledger.drop(UNENCODABLE)
                self._under_way_pairs -= 1
            else:
                sound.append(pair)
        return codec.pack(sound), len(sound)

    async def _insist(self, deliver: Callable[[], Awaitable[None]]) -> None:
        """Try until the store takes it, with growing pauses that differ between processes."""
        pause, failed = _BACKOFF_FIRST, False
        while True:
            try:
                await deliver()
            except StoreUnavailable as error:
                if not failed:
                    log.warning("pairs wait in memory: %s", error)
                failed = True
                await self._back_off(pause * (0.5 + 0.5 * self._jitter()))
                pause = min(2 * pause, _BACKOFF_MOST)
            else:
                if failed:
                    log.info("the store takes pairs again; %d wait", len(self._queue))
                return

    async def _back_off(self, seconds: float) -> None:
        """Sleep, cut short once when `drain` begins: its grace should not be slept away."""
        if self._closed.is_set():
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return

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
            self._published = account


def _each(scrub: Callable[[Pair], Pair], pairs: Sequence[Pair]) -> tuple[list[Pair], list[str]]:
    clean: list[Pair] = []
    failures: list[str] = []
    for pair in pairs:
        try:
            clean.append(scrub(pair))
        except Exception as error:  # noqa: BLE001  (no fault in redaction may let a pair out, nor stop the writer)
            failures.append(type(error).__name__)
    return clean, failures


def _size(pair: Pair) -> int:
    """Estimated memory of a pair, in bytes: what it captured, and a constant for the objects that hold it."""
    request, replica = pair.request, pair.replica
    size = _PAIR_OVERHEAD + len(request.head) + len(request.body) + len(request.target) + len(pair.annotations)
    size += _captured(pair.baseline) + _captured(pair.candidate)
    return size if replica is None else size + _captured(replica)


def _captured(exchange: Exchange) -> int:
    return len(exchange.head) + len(exchange.body)
