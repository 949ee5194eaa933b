"""One comparator worker: read, decode, compare, accumulate, commit; and what to do when any of these fails.

The worker holds no truth of its own. What it has counted is what Redis says it has counted: a commit stores the new
state and takes the entries out of the stream in one step, and after any doubt (a lost connection, a lost reply) the
worker forgets what it believed and reads its state back.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from shadowproxy.comparator.exemplars import Keeper
from shadowproxy.comparator.firsts import Settler
from shadowproxy.comparator.labels import Joiner
from shadowproxy.compare.columns import Columns
from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.versions import VersionReader
from shadowproxy.errors import Fenced, PayloadError, StoreUnavailable
from shadowproxy.metrics import ComparatorMetrics
from shadowproxy.model import Pair, Side, headers
from shadowproxy.pairs.calibrations import calibrations
from shadowproxy.pairs.exemplars import NO_CHANGE
from shadowproxy.pairs.experiments import note_versions, origin
from shadowproxy.pairs.firsts import First
from shadowproxy.pairs.labels import Waiting
from shadowproxy.pairs.partitions import Watermarks
from shadowproxy.pairs.store import Entry, Store, Stored, Superseded
from shadowproxy.stats.state import State
from shadowproxy.verdict.exemplars import Limits
from shadowproxy.verdict.guardrails.calibration import calibrations_of
from shadowproxy.verdict.plan import Plan

log = logging.getLogger(__name__)

_BLOCK = 0.5
"""Seconds that a read waits for entries: the longest a stop or a takeover has to wait for its turn."""
_RETRY_FIRST, _RETRY_LAST = 0.05, 2.0
_MOST_DELIVERIES = 8
_ABSORBED_AT_ONCE = 16
_DEAD_AFTER = 4
"""Times `claim_idle` that a worker is silent before its state becomes another's: no need to hurry."""
_END_OF_TIME = 1e11
"""Unix seconds; the year 5138."""
_NO_EXEMPLARS = Limits(0, 0, 0)


class Worker:
    """Counts the pairs of one partition until it is stopped.

    `name` must be this worker's alone among all that live: state and entries are held under it. `home` is the partition
    that gives the cohorts their slots. Workers of other partitions in the same process share `watermarks`. With
    `versions` is noted which versions answered. `exemplars` is how many pairs are kept to be looked at.
    """

    def __init__(
        self,
        store: Store,
        comparer: Comparer,
        plan: Plan,
        metrics: ComparatorMetrics,
        *,
        name: str,
        read: int,
        claim_idle: float,
        max_cohorts: int,
        home: Store | None = None,
        watermarks: Watermarks | None = None,
        versions: VersionReader | None = None,
        exemplars: Limits = _NO_EXEMPLARS,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._comparer = comparer
        self._plan = plan
        self._metrics = metrics
        self._name = name
        self._read = read
        self._claim_idle = claim_idle
        self._max_cohorts = max_cohorts
        self._home = home or store
        self._watermarks = watermarks or Watermarks(1)
        self._versions = versions
        self._partition = store.partition if watermarks is not None else 0
        self._monotonic = monotonic
        self._jitter = jitter
        self._state = plan.empty()
        self._slots: Mapping[str, int] = {}
        self._origin: float | None = None
        self._keeper = Keeper(store, plan, exemplars)
        self._boards = self._keeper.nothing
        wait = plan.settings.longest_wait
        self._joiner = (
            None
            if wait is None
            else Joiner(store, plan, metrics, self._places_for, name=name, wait=wait, monotonic=monotonic)
        )
        self._settler = Settler(store, name=name) if plan.settings.verdict.first_per_account else None
        self._stop = asyncio.Event()
        self.connected = False
        """Whether the last word from the store was an answer."""

    def __repr__(self) -> str:
        return f"<Worker {self._name}:{self._partition} counted={self._state.pairs} connected={self.connected}>"

    @property
    def late(self) -> int:
        """Pairs in its state that came after their bucket was closed."""
        return self._state.late

    def stop(self) -> None:
        """Ask `run` to count what is already in the stream and then return."""
        self._stop.set()

    async def run(self) -> None:
        """Work until stopped *and* nothing unread is left. Outages and bad pairs are dealt with here.

        Raises PayloadError where what is stored under this worker's name is not its state.
        """
        delay = _RETRY_FIRST
        while True:
            began = self._monotonic()
            try:
                await self._recover()
                self.connected = True
                began = self._monotonic()
                await self._work()
            except (StoreUnavailable, Superseded) as error:
                self.connected = False
                # Only work that lasted is a new start: a server that lets us recover and refuses what follows is not.
                if self._monotonic() - began > _RETRY_LAST:
                    delay = _RETRY_FIRST
                if self._stop.is_set() and isinstance(error, StoreUnavailable):
                    log.warning("stopped in doubt; what is not committed stays in the stream: %s", error)
                    return
                log.warning("starting over from what is committed, in %.1f s at the latest: %s", delay, error)
                await self._pause(delay * (0.5 + 0.5 * self._jitter()))
                delay = min(delay * 2, _RETRY_LAST)
            else:
                return

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return

    async def _recover(self) -> None:
        """Take the store's word for what this worker has counted and in which slots, and finish what it had read."""
        self._forget()
        stored = await self._store.load_state(self._name)
        self._state = self._plan.empty() if stored is None else State.from_bytes(stored)
        self._boards = await self._keeper.load(self._name)
        while entries := await self._store.own_pending(self._name, self._read):
            await self._count(entries)
        if self._joiner is not None:
            # Labels are of old pairs, more often than not: their buckets had better be closed than opened anew.
            self._close(await self._store.watermark())
            self._state = await self._joiner.recover(self._state)

    async def _work(self) -> None:
        claim_at = self._monotonic()
        more_labels = False
        while True:
            stopping = self._stop.is_set()
            if self._monotonic() >= claim_at:
                await self._take_over()
                claim_at = self._monotonic() + self._claim_idle / 2
            busy = stopping or more_labels
            entries = await self._store.read(self._name, self._read, 0.0 if busy else _BLOCK)
            if entries:
                await self._count(entries)
            if self._joiner is not None:
                # After the pairs: what is read with its label is then joined in the same turn.
                self._state, more_labels = await self._joiner.turn(self._state)
            if self._settler is not None:
                self._state = await self._settler.turn(self._state)
            if entries or more_labels:
                continue
            if len(self._watermarks) > 1 or self._joiner is not None or self._settler is not None:
                # The workers of the other partitions wait for this one's, and without entries there are no commits.
                self._close(await self._store.watermark())
            if stopping:
                if self._settler is not None:
                    self._state = await self._settler.turn(self._state)
                return

    async def _take_over(self) -> None:
        while entries := await self._store.claim(self._name, self._claim_idle, self._read):
            log.info("took over %d entries of a silent worker", len(entries))
            self._metrics.claimed.inc(len(entries))
            await self._count(entries)
        if self._joiner is not None:
            self._state = await self._joiner.take_over(self._state, self._claim_idle)
        # Each restart is a new worker: without this their states would pile up, and every verdict read them all.
        while dead := await self._store.silent(self._name, self._claim_idle * _DEAD_AFTER, _ABSORBED_AT_ONCE):
            if not await self._absorb(dead):
                return

    async def _absorb(self, dead: Sequence[Stored]) -> bool:
        """Take what dead workers have counted into this one's state."""
        try:
            states = [State.from_bytes(stored.state) for stored in dead]
            merged = self._state.merge(states).close(self._state.watermark)
        except (PayloadError, ValueError) as error:
            # Whoever reads the verdict says so, and which worker's it is.
            log.warning("the states of dead workers are left alone: %s", error)
            return False
        boards, change, included = await self._keeper.absorb(self._boards, [stored.worker for stored in dead])
        absorbed = await self._store.absorb(self._name, merged.to_bytes(), dead, exemplars=change, included=included)
        if absorbed:
            log.info("took over what %d dead workers had counted", len(dead))
            self._state, self._boards = merged, boards
        return absorbed

    async def _count(self, entries: Sequence[Entry]) -> None:
        """Compare the entries and commit them with the state that includes them; what was taken from us is left out."""
        with self._metrics.batch.time():
            while entries:
                try:
                    await self._commit(entries)
                except Superseded:
                    raise
                except Fenced as fenced:
                    self._metrics.fenced.inc()
                    log.info("%s", fenced)
                    self._forget()
                    lost = set(fenced.lost)
                    entries = [entry for entry in entries if entry.id not in lost]
                else:
                    return

    async def _commit(self, entries: Sequence[Entry]) -> None:
        pairs, counts, dead = _decode(entries)
        state, boards, exemplars = self._state, self._boards, NO_CHANGE
        columns = self._comparer(pairs) if pairs else None
        firsts: Sequence[First] = ()
        if columns is not None:
            slots, began = await self._places_for(columns)
            if self._plan.waiting:
                # After the batch was read and before it is counted: what was read without one started before it holds.
                self._plan = self._plan.calibrated(calibrations_of(await calibrations(self._home)))
            if self._settler is None:
                state = state.with_added(self._plan.tally(columns, slots, state.names, began))
            else:
                names = [
                    f"{entry.id}:{at}" for entry, count in zip(entries, counts, strict=True) for at in range(count)
                ]
                firsts = await self._settler.firsts(
                    self._plan, columns, names, [one.id for one in pairs], slots, state.names, began
                )
            boards, exemplars = self._keeper.offer(boards, entries, counts, pairs, columns, slots)
            if self._versions is not None and (seen := self._versions(pairs)):
                # Before the commit: who sees the pairs counted sees by which versions.
                await note_versions(self._home, seen)
        watermark = await self._store.commit(
            self._name,
            [entry.id for entry in entries],
            state.to_bytes(),
            dead=dead,
            unlabelled=[Waiting(pair.id, pair.expires, pair.to_bytes()) for pair in columns.unlabelled]
            if columns is not None
            else (),
            exemplars=exemplars,
            firsts=firsts,
        )
        self._state, self._boards = state, boards
        self._close(watermark)
        self._tell(len(entries), pairs, columns, len(dead))

    def _close(self, watermark: float) -> None:
        # Folding is left out of what was stored: whoever reads a state closes it by the watermark of that moment.
        self._state = self._state.close(self._watermarks.hear(self._partition, watermark))

    def _forget(self) -> None:
        """What the experiment gave this worker to count by: where no commit holds it, a reset may have made it anew."""
        self._slots, self._origin = {}, None
        self._plan = self._plan.calibrated({})

    async def _places_for(self, columns: Columns) -> tuple[Mapping[str, int], float | None]:
        """The cohorts' slots, and when the experiment began where that matters."""
        if self._origin is None and (proposed := self._plan.begins(columns)) is not None:
            self._origin = await origin(self._home, proposed)
        return await self._slots_for(columns), self._origin

    async def _slots_for(self, columns: Columns) -> Mapping[str, int]:
        unknown = {name for names in columns.cohorts for name in names} - self._slots.keys()
        if unknown and len(self._slots) < self._max_cohorts:
            self._slots = await self._home.slots(sorted(unknown), self._max_cohorts)
        return self._slots

    def _tell(self, entries: int, pairs: Sequence[Pair], columns: Columns | None, dead: int) -> None:
        self._metrics.entries.inc(entries)
        self._metrics.dead_letters.inc(dead)
        if columns is None:
            return
        self._metrics.pairs.inc(len(columns))
        self._metrics.batch_pairs.observe(len(columns))
        for side in Side:
            kinds = columns.failure.get(side, ())
            for kind, count in Counter(filter(None, kinds)).items():
                # Of several the newest: the others are in the store for as long as `redis.keep` has it, and no longer.
                one = pairs[len(kinds) - 1 - kinds[::-1].index(kind)]
                self._metrics.failure(side, kind, count, one.id, _traceparent(one))


def _traceparent(pair: Pair) -> str:
    return next((value for name, value in headers(pair.request.head) if name == "traceparent"), "")


def _decode(entries: Sequence[Entry]) -> tuple[list[Pair], list[int], dict[str, str]]:
    """All pairs of the entries, how many are of each, and by entry id the reason why one can't be read."""
    pairs: list[Pair] = []
    counts: list[int] = []
    dead: dict[str, str] = {}
    for entry in entries:
        before = len(pairs)
        try:
            pairs += _readable(entry)
        except PayloadError as error:
            log.error("entry %s goes to the dead-letter stream: %s", entry.id, error)
            dead[entry.id] = str(error)
        counts.append(len(pairs) - before)
    return pairs, counts, dead


def _readable(entry: Entry) -> list[Pair]:
    if entry.deliveries > _MOST_DELIVERIES:
        # Whatever it is that ends a worker on this entry, memory it needs or a fault of ours, it must not end them all.
        raise PayloadError(f"was given to workers {entry.deliveries - 1} times and none of them committed it")
    pairs = entry.batch()
    for pair in pairs:
        if not 0 <= pair.started < _END_OF_TIME:
            raise PayloadError(f"pair {pair.id!r} starts at {pair.started}, which is no Unix time")
    return pairs
