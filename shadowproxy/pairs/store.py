"""One experiment's stream of pairs and the state made of them, in Redis ≥ 7.0 or Valkey ≥ 8.

Producers append batches; workers of one consumer group read them and commit: acknowledge and store what they made of
them in one atomic step. Whatever is done twice because a reply was lost counts once.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from shadowproxy.errors import Fenced
from shadowproxy.model import Accounting
from shadowproxy.pairs import scripts
from shadowproxy.pairs.accounts import account_of, since_reset, weight
from shadowproxy.pairs.client import Client, Script, boundary
from shadowproxy.pairs.controlled import Controlled
from shadowproxy.pairs.exemplars import NO_CHANGE, Change
from shadowproxy.pairs.firsts import DUE_FIRSTS, FIND_FIRSTS, SETTLE, First, Start
from shadowproxy.pairs.firsts import words as first_words
from shadowproxy.pairs.labels import MOST as MOST_LABELS
from shadowproxy.pairs.labels import Fate, Label, Waiting
from shadowproxy.pairs.looking import EXPERIMENTS, Looking
from shadowproxy.pairs.partition import GROUP, MAX_BYTES, TIMEOUT, Connections
from shadowproxy.pairs.records import (
    ENTRY_VERSION,
    Books,
    Clock,
    Entry,
    Gone,
    Snapshot,
    Standing,
    Stored,
    Superseded,
    bytes_of,
    entry_of,
    text_of,
)  # fmt: skip

__all__ = [
    "ENTRY_VERSION", "GROUP", "MAX_BYTES", "Books", "Clock", "Connections", "Entry", "Gone", "Snapshot", "Standing",
    "Store", "Stored", "Superseded", "list_experiments", "since_reset", "weight",
]  # fmt: skip

_MAX_DEAD: Final = 1000
_MAX_DEAD_BYTES: Final = 64 * 1024**2
_MOST_WAITING: Final = 100_000
"""Pairs that one commit leaves waiting for their label: a command has a most of arguments."""

_APPEND: Final = Script(scripts.APPEND)
_PUBLISH: Final = Script(scripts.PUBLISH)
_STANDING: Final = Script(scripts.STANDING)
_OWN_PENDING: Final = Script(scripts.OWN_PENDING)
_CLAIM: Final = Script(scripts.CLAIM)
_COMMIT: Final = Script(scripts.COMMIT)
_LOAD: Final = Script(scripts.LOAD)
_SILENT: Final = Script(scripts.SILENT)
_ABSORB: Final = Script(scripts.ABSORB)
_WATERMARK: Final = Script(scripts.WATERMARK)
_JOIN: Final = Script(scripts.JOIN)
_SLOTS: Final = Script(scripts.SLOTS)


def _version_of(expected: bytes, entries: Sequence[str], state: bytes) -> str:
    """Names a state by all that was ever put into it."""
    return hashlib.blake2b(b"\0".join((expected, ",".join(entries).encode(), state)), digest_size=16).hexdigest()


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


class Store(Looking, Controlled):
    """One partition of one experiment. Belongs to one event loop; any number of tasks may use it at once.

    The constructor connects to nothing, so that a proxy can start while Redis is down: `append` and `publish` need no
    more. Workers and readers use `open`.

    Every method raises StoreUnavailable where Redis can't be reached, doesn't answer within `reply_within` seconds, or
    refuses. What was asked may then have been done all the same; asking again is always safe.
    """

    @classmethod
    async def open(
        cls,
        url: str,
        experiment: str,
        *,
        max_entries: int,
        max_bytes: int = MAX_BYTES,
        keep: int = 0,
        partition: int = 0,
        reply_within: float = TIMEOUT,
        clock: Callable[[], float] = time.time,
        max_labels: int = MOST_LABELS,
    ) -> Store:
        """A store whose server has answered, is recent enough, and has the consumer group.

        Raises StoreUnavailable if it can't be reached or isn't Redis, StartError if it is too old.
        """
        store = cls(
            url,
            experiment,
            max_entries=max_entries,
            max_bytes=max_bytes,
            keep=keep,
            partition=partition,
            reply_within=reply_within,
            clock=clock,
            max_labels=max_labels,
        )
        try:
            await store.prepare()
        except BaseException:
            await store.close()
            raise
        return store

    # What producers do

    async def append(
        self, producer: str, sequence: int, payload: bytes | memoryview, pairs: int, account: Accounting
    ) -> None:
        """Write one batch, and the producer's account with it, unless this batch is stored already.

        `sequence` counts the batches of this producer from 1. A batch whose sequence is not above the last stored one
        is taken for a repetition and left alone, so a producer's name must never be used twice. `account` must count
        the batch as recorded. This process's clock is noted beside the server's (see `Snapshot.clocks`): pairs are
        stamped by the one, and counted as complete by the other.
        """
        if not 1 <= pairs <= scripts.MAX_PAIRS:
            raise ValueError(f"an entry holds 1 to {scripts.MAX_PAIRS} pairs, not {pairs}")
        await self._run(
            _APPEND,
            (self._pairs, self._totals, self._sequences, self._accounts, self._clocks, self._index, self._kept),
            producer,
            sequence,
            pairs,
            payload,
            weight(account),
            msgspec.json.encode(account),
            self.max_entries,
            ENTRY_VERSION,
            round(self._clock() * 1000),
            self.max_bytes,
        )

    async def publish(self, producer: str, account: Accounting) -> None:
        """Store a producer's account alone. An older account than the stored one is ignored."""
        await self._run(_PUBLISH, (self._accounts,), producer, weight(account), msgspec.json.encode(account))

    async def standing(self, producer: str) -> Standing:
        """What a producer has stored, for whoever takes over what it has not. Raises PayloadError for its account."""
        sequence, account = await self._run(_STANDING, (self._sequences, self._accounts), producer)
        return Standing(int(sequence or 0), None if account is None else account_of(account))

    # What workers do

    async def read(self, worker: str, entries: int, block: float) -> list[Entry]:
        """Up to `entries` entries that no worker was given yet; waits up to `block` seconds for the first.

        Cancelling is safe: what the server had given out by then is found by `own_pending`.
        """
        command: list[Any] = ["XREADGROUP", "GROUP", GROUP, worker, "COUNT", entries]
        if block > 0:
            command += ["BLOCK", max(1, round(block * 1000))]
        command += ["STREAMS", self._pairs, ">"]

        async def ask() -> Any:
            async with asyncio.timeout(max(block, 0) + self._reply_within):
                return await self._reader.command(*command)

        reply = await self._in_group(ask)
        return [entry_of(entry) for entry in reply[0][1]] if reply else []

    async def own_pending(self, worker: str, entries: int) -> list[Entry]:
        """The oldest `entries` entries that were given to this worker and that it has not committed.

        For a worker that starts over: what it holds in memory must be forgotten first. Entries whose payload was
        trimmed are given up here, and from then on counted as lost.
        """
        reply = await self._run_in_group(_OWN_PENDING, (self._pairs,), GROUP, worker, entries)
        return [entry_of(entry) for entry in reply]

    async def claim(self, worker: str, idle: float, entries: int) -> list[Entry]:
        """Take over up to `entries` entries that other workers have held for `idle` seconds without committing.

        After StoreUnavailable some may have been: `own_pending` finds them.
        """

        async def once() -> Any:
            # Asked again because its reply was lost, it would pass over what is the worker's already.
            async with asyncio.timeout(self._reply_within):
                return await self._reader.run(_CLAIM, (self._pairs,), GROUP, worker, round(idle * 1000), entries)

        return [entry_of(entry) for entry in await self._in_group(once)]

    async def commit(
        self,
        worker: str,
        entries: Sequence[str],
        state: bytes,
        *,
        dead: Mapping[str, str] | None = None,
        unlabelled: Sequence[Waiting] = (),
        exemplars: Change = NO_CHANGE,
        firsts: Sequence[First] = (),
    ) -> float:
        """Acknowledge `entries` and store the `state` that includes them, in one atomic step.

        `dead` maps ids among `entries` to the reason why they can't be read: these are kept in the dead-letter stream.
        `unlabelled` are pairs of these entries that wait for their label from now on; a label that came before goes
        back into the label stream. `exemplars` is what becomes of the worker's pairs to look at (see `Exemplars`).
        `firsts` are pairs that the state does not include, and that may be their account's first (see `firsts`).
        Without entries only the state is stored.

        Returns the watermark in Unix seconds: everything that was written before it has been committed, by whichever
        worker. It is the time of the oldest entry that is pending or undelivered, or the server's clock where there is
        none. It never goes back.

        Raises Fenced if any of the entries is no longer this worker's, and Superseded (a Fenced) if the state in the
        store is not the one that this Store loaded or committed last; either way nothing was stored. After
        StoreUnavailable it is unknown whether the commit was done: repeat exactly this one (it is recognised and
        counts once), or start over with `load_state` and `own_pending`. Raises ValueError where `entries` has
        duplicates or lacks an id of `dead`.
        """
        letters = dead or {}
        if len(set(entries)) != len(entries) or not letters.keys() <= set(entries):
            raise ValueError("a commit names each entry once, and its dead letters among them")
        expected = self._versions.get(worker, b"")
        version = _version_of(expected, entries, state)
        reply = await self._run_in_group(
            _COMMIT,
            (
                self._pairs,
                self._totals,
                self._states,
                self._state_versions,
                self._dead,
                self._dead_sizes,
                self._index,
                self._kept,
                *self.labels.keys,
                *self.exemplars.keys,
                *self._firsts,
            ),
            GROUP,
            worker,
            version,
            expected,
            state,
            _MAX_DEAD,
            _MAX_DEAD_BYTES,
            self.keep,
            len(entries),
            *entries,
            len(letters),
            *(bytes_of(text) for letter in letters.items() for text in letter),
            *exemplars.words,
            *first_words(firsts),
            self.labels.most,
            max(0, len(unlabelled) - _MOST_WAITING),
            *(
                word
                for pair in unlabelled[:_MOST_WAITING]
                for word in (bytes_of(pair.id), _milliseconds(pair.expires), pair.record)
            ),
        )
        if reply[0] == 2:
            raise Superseded(worker, entries)
        if reply[0] == 0:
            raise Fenced([name.decode() for name in reply[1:]])
        self._versions[worker] = version.encode()
        return int(reply[1]) / 1000

    async def join(
        self, worker: str, labels: Sequence[tuple[Label, Fate]], state: bytes | None, *, wait: float
    ) -> list[str]:
        """Do with these labels what was decided, acknowledge them, and store the `state` that includes those that are
        joined, in one atomic step. None where the state is as it was: where nothing is joined.

        A label that is kept waits for its pair for `wait` seconds from when it came. Returns the entries of those that
        were not: a pair has come meanwhile, so they must be looked at again.

        Raises Fenced with the entries that are no longer this worker's, and Superseded as `commit` does. Raises Gone
        where a pair that was to be joined waits no more: somebody else has counted it. Nothing was stored then.
        """
        if (state is None) is any(fate is Fate.JOIN for _, fate in labels):
            raise ValueError("a state is stored where labels are joined, and only there")
        entries = [label.entry for label, _ in labels]
        expected = self._versions.get(worker, b"")
        version = "" if state is None else _version_of(expected, entries, state)
        keys = (*self.labels.keys, self._states, self._state_versions)
        words = [
            word
            for label, fate in labels
            for word in (label.entry, fate.value, label.id.encode("utf-8", "surrogateescape"), label.truth)
        ]
        arguments = (GROUP, worker, version, expected, state or b"", self.labels.most, _milliseconds(wait), len(labels))
        reply = await self.labels.in_group(lambda: self._client.run(_JOIN, keys, *arguments, *words))
        if reply[0] == 2:
            raise Superseded(worker, entries)
        if reply[0] == 3:
            raise Gone("a pair has been joined with its label by another worker, or waits no more")
        if reply[0] == 0:
            raise Fenced([entry.decode() for entry in reply[1:]])
        if state is not None:
            self._versions[worker] = version.encode()
        return [entry.decode() for entry in reply[1:]]

    async def find_firsts(self, accounts: Sequence[str]) -> dict[str, Start | None]:
        """Of these accounts, those of which a pair is counted (None) or waits (its start)."""
        if not accounts:
            return {}
        found = await self._run(FIND_FIRSTS, self._firsts[:1], *accounts)
        return {
            account: None if held == b"counted" else Start.of(held)
            for account, held in zip(accounts, found, strict=True)
            if held
        }

    async def due_firsts(self, before: float, most: int, in_all: int) -> list[First]:
        """Up to `most` pairs that wait and began before `before` (Unix seconds), the earliest first.

        Where `in_all` accounts are counted, pairs of others are forgotten.
        """
        found = []
        for account, held in await self._run(DUE_FIRSTS, self._firsts, repr(before), most, in_all):
            start, tie, record = held.split(b" ", 2)
            found.append(First(account.decode(), Start.of(start + b" " + tie), record))
        return found

    async def settle(self, worker: str, due: Sequence[First], state: bytes) -> None:
        """Mark the accounts of these pairs as counted, and store the `state` that includes them, in one atomic step.

        Raises Gone where one of them doesn't wait any more, and Superseded as `commit` does; nothing was stored then.
        """
        expected = self._versions.get(worker, b"")
        names = [f"{one.account} {one.start.words}" for one in due]
        version = _version_of(expected, names, state)
        keys = (*self._firsts, self._states, self._state_versions)
        marks = [word for one in due for word in (one.account, one.start.words)]
        reply = await self._run(SETTLE, keys, worker, version, expected, state, *marks)
        if reply == 2:
            raise Superseded(worker, [])
        if reply == 3:
            raise Gone("an account's first pair has been counted by another worker, or was not its first")
        self._versions[worker] = version.encode()

    async def load_state(self, worker: str) -> bytes | None:
        """The state that this worker committed last, or None. From here on this Store commits on top of it."""
        state, version = await self._run(_LOAD, (self._states, self._state_versions), worker)
        self._versions[worker] = version
        return state if version else None

    async def watermark(self) -> float:
        """The watermark as it is now (see `commit`), for a worker that has nothing to commit."""
        return int(await self._run_in_group(_WATERMARK, (self._pairs, self._totals), GROUP)) / 1000

    async def silent(self, worker: str, idle: float, most: int) -> list[Stored]:
        """States of up to `most` other workers that hold no entries and have not been heard of for `idle` seconds."""
        keys = (self._pairs, self._states, self._state_versions)
        reply = await self._run_in_group(_SILENT, keys, GROUP, worker, round(idle * 1000), most)
        return [Stored(text_of(name), state, version) for name, state, version in reply]

    async def absorb(
        self,
        worker: str,
        state: bytes,
        others: Sequence[Stored],
        *,
        exemplars: Change = NO_CHANGE,
        included: Sequence[str] = (),
    ) -> bool:
        """Store the worker's `state`, which includes those of `others`, and delete these, in one atomic step.

        Likewise its `exemplars`, with the boards of those of the others that are `included`.

        It may be done to workers that live: their next commit is refused as Superseded. Returns False, and stores
        nothing, where one of the others has written a state since. Raises Superseded as `commit` does.
        """
        expected = self._versions.get(worker, b"")
        version = _version_of(expected, [other.worker for other in others], state)
        reply = await self._run_in_group(
            _ABSORB,
            (self._pairs, self._states, self._state_versions, self.labels.stream, *self.exemplars.keys),
            GROUP,
            worker,
            version,
            expected,
            state,
            len(others),
            *(part for other in others for part in (bytes_of(other.worker), other.version)),
            *exemplars.words,
            *map(bytes_of, included),
        )
        if reply == 2:
            raise Superseded(worker, ())
        if reply == 1:
            self._versions[worker] = version.encode()
        return bool(reply == 1)

    async def slots(self, cohorts: Sequence[str], limit: int) -> dict[str, int]:
        """Give each cohort a slot of 1 … `limit`, for good, first come first served.

        Returns all that are assigned, also those that others asked for. A cohort that found no slot is absent.
        """
        return self._slot_numbers(await self._run(_SLOTS, (self._slots,), limit, *map(bytes_of, cohorts)))


async def list_experiments(url: str) -> dict[str, float]:
    """All experiments that were ever described in this store, and when (Unix seconds), oldest first.

    Raises StoreUnavailable.
    """
    client = Client(url, reply_within=TIMEOUT, connect_within=TIMEOUT, attempts=2)
    try:
        with boundary(url):
            found = await client.command("ZRANGE", EXPERIMENTS, 0, -1, "WITHSCORES")
            return {text_of(name): float(score) for name, score in zip(found[::2], found[1::2], strict=True)}
    finally:
        await client.close()
