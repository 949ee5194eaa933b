"""Delivering what dead producers left in the spool, and closing their accounts (see `spool` for what is owed)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final, Protocol, TypeVar

from msgspec import MsgspecError, json
from msgspec.structs import replace

from shadowproxy.errors import PayloadError, StoreUnavailable
from shadowproxy.model import Accounting
from shadowproxy.pairs import journal
from shadowproxy.pairs.segments import NewerFormat, Record
from shadowproxy.pairs.spool import Estate, Spool
from shadowproxy.pairs.store import Standing

log = logging.getLogger(__name__)

CORRUPT: Final = "spool_corrupt"
"""Drop reason: the pair was in the spool and can't be read back."""
CRASHED: Final = "proxy_crashed"
"""Drop reason: the pair was in the memory of a process that was killed."""

_LOOK_EVERY: Final = 30.0
_BACKOFF_FIRST: Final = 0.05
_BACKOFF_MOST: Final = 2.0
_PAUSE_MOST: Final = 0.01

T = TypeVar("T")


class Sink(Protocol):
    """What an heir needs of a store."""

    async def append(
        self, producer: str, sequence: int, payload: bytes | memoryview, pairs: int, account: Accounting
    ) -> None:
        """Write one batch once, however often it is sent. Raises StoreUnavailable."""

    async def publish(self, producer: str, account: Accounting) -> None:
        """Store the account. Raises StoreUnavailable."""

    async def standing(self, producer: str) -> Standing:
        """What the producer has stored. Raises StoreUnavailable, and PayloadError."""


def pace(took: float) -> float:
    """Seconds to leave to the clients after a batch from the spool that took `took`: a part of the loop, not all."""
    return min(2 * took, _PAUSE_MOST)


class Heir:
    """Delivers the estates of dead producers, one after the other, for as long as it runs."""

    def __init__(self, store: Sink, spool: Spool, *, jitter: Callable[[], float] = random.random) -> None:
        self._store = store
        self._spool = spool
        self._jitter = jitter
        self._left_alone: set[str] = set()
        self.pairs = 0
        """Pairs that were delivered for others."""

    async def run(self) -> None:
        """Look for the dead at once and then every half minute, until cancelled."""
        for experiment, size in (await self._spool.strangers()).items():
            log.warning(
                "%d bytes of pairs of experiment %s lie in %s; they are delivered when a proxy of that experiment "
                "starts; delete them if none will",
                size,
                experiment,
                self._spool.directory / experiment,
            )
        while True:
            passed = set(self._left_alone)
            while (estate := await self._spool.abandoned(passed)) is not None:
                passed.add(estate.producer)
                try:
                    await self._settle(estate)
                finally:
                    estate.release()
            await asyncio.sleep(_LOOK_EVERY)

    async def _settle(self, estate: Estate) -> None:
        try:
            await self._deliver(estate)
        except (NewerFormat, PayloadError) as error:
            self._left_alone.add(estate.producer)
            log.error("%s is left as it is: %s", estate.path, error)
        except OSError as error:
            log.error("%s can't be delivered now and is tried again: %s", estate.path, error)

    async def _deliver(self, estate: Estate) -> None:
        if estate.size:
            log.info("delivering what %s left in the spool: %d segments", estate.producer, estate.size)
        loop = asyncio.get_running_loop()
        producer, store = estate.producer, self._store
        standing = await self._insist(partial(store.standing, producer))
        estate.delivered(standing.sequence)
        note = await estate.noted()
        account = standing.account or Accounting()
        for known in (None if note is None else note.account, journal.read(producer)):
            if known is not None:
                account = latest(account, known)
        while (record := await estate.peek()) is not None:
            account = latest(account, _account(record))
            account = replace(account, recorded=account.recorded + record.pairs)
            began = loop.time()
            append = partial(store.append, producer, record.sequence, record.payload, record.pairs, account)
            await self._insist(append)
            estate.pop()
            self.pairs += record.pairs
            await asyncio.sleep(pace(loop.time() - began))
        # Of a producer that stopped in order all that is missing was in its spool.
        final = closed(account, account.in_flight if note is not None and note.closed else estate.lost)
        await self._insist(partial(store.publish, producer, final))
        journal.forget(producer)
        await estate.remove()
        log.info("the account of %s is closed: %s", producer, final)

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until the store answers, with growing pauses that differ between processes."""
        pause = _BACKOFF_FIRST
        while True:
            try:
                return await ask()
            except StoreUnavailable as error:
                log.debug("what dead producers left waits: %s", error)
                await asyncio.sleep(pause * (0.5 + 0.5 * self._jitter()))
                pause = min(2 * pause, _BACKOFF_MOST)


def latest(one: Accounting, other: Accounting) -> Accounting:
    """The later of two states of one account, whichever it is: all its counts only grow.

    >>> latest(Accounting(3, 3, 1, {}, {"a": 1}), Accounting(5, 4, 1, {"m": 1}, {}))
    Accounting(requests=5, eligible=4, recorded=1, skipped={'m': 1}, dropped={'a': 1})
    """
    return Accounting(
        max(one.requests, other.requests),
        max(one.eligible, other.eligible),
        max(one.recorded, other.recorded),
        _most(one.skipped, other.skipped),
        _most(one.dropped, other.dropped),
    )


def _most(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {reason: max(one.get(reason, 0), other.get(reason, 0)) for reason in sorted({*one, *other})}


def closed(account: Accounting, corrupt: int) -> Accounting:
    """The account of a dead producer, balanced: of what is in flight, `corrupt` pairs were lost in the spool.

    >>> closed(Accounting(10, 10, 6), 1).dropped
    {'proxy_crashed': 3, 'spool_corrupt': 1}
    """
    missing = max(0, account.in_flight)
    corrupt = min(corrupt, missing)
    losses = {reason: count for reason, count in ((CORRUPT, corrupt), (CRASHED, missing - corrupt)) if count}
    return account + Accounting(dropped=losses)


def _account(record: Record) -> Accounting:
    try:
        return json.decode(record.account, type=Accounting)
    except (MsgspecError, UnicodeDecodeError) as error:
        log.error("the account beside batch %d can't be read and is done without: %s", record.sequence, error)
        return Accounting()
