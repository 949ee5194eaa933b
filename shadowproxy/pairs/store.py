"""One experiment's stream of pairs and the state made of them, in Redis ≥ 7.0 or Valkey ≥ 8.

Producers append batches; workers of one consumer group read them and commit: acknowledge and store what they made of
them in one atomic step. Whatever is done twice because a reply was lost counts once.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import msgspec
from redis.exceptions import ResponseError

from shadowproxy.errors import Fenced, PayloadError, ShadowproxyError, StartError
from shadowproxy.model import Accounting, Pair
from shadowproxy.pairs import scripts
from shadowproxy.pairs.client import Client, Script, boundary, redacted
from shadowproxy.pairs.codec import decode
from shadowproxy.pairs.controls import LIVE, ControlChange, Controls, ControlStatus, ProxyReport
from shadowproxy.pairs.controls import decode as decode_controls
from shadowproxy.pairs.exemplars import NO_CHANGE, Change, Exemplars
from shadowproxy.pairs.firsts import DUE_FIRSTS, FIND_FIRSTS, SETTLE, First, Start
from shadowproxy.pairs.firsts import words as first_words
from shadowproxy.pairs.labels import MOST as MOST_LABELS
from shadowproxy.pairs.labels import CountedLabels, Fate, Label, Labels, Waiting

log = logging.getLogger(__name__)

GROUP: Final = "comparators"
"""The consumer group of every partition's stream."""

ENTRY_VERSION: Final = 1
"""Field `v` of an entry: which fields it has. The payload carries a version of its own (see `codec`)."""

_EXPERIMENTS: Final = "shadow:experiments"
_MAX_DEAD: Final = 1000
_MAX_DEAD_BYTES: Final = 64 * 1024**2
MAX_BYTES: Final = 1024**3
"""Bytes of the stream, where nothing else is asked for."""
_TIMEOUT: Final = 5.0
_SOON: Final = 0.5
"""Seconds for what a kill switch needs: a lost connection must be noticed, and another made, within a second."""
_MAX_HISTORY: Final = 200
_MOST_WAITING: Final = 100_000
"""Pairs that one commit leaves waiting for their label: a command has a most of arguments."""
_FORGET_PROXY: Final = 3600.0
_OLDEST: Final = (7, 0)


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream entry: a batch of pairs. `deliveries` counts how often workers got it, this time included."""

    id: str
    pairs: int
    payload: bytes
    deliveries: int = 1
    version: int = ENTRY_VERSION
    before: int | None = None
    """Pairs that were written to this partition before it; None where it is none of our entries."""

    @property
    def ordinal(self) -> int:
        """Which entry of its partition it is, from 1; 0 where it is none of ours."""
        return scripts.ordinal_of(self.id)

    def batch(self) -> list[Pair]:
        """Its pairs. Raises PayloadError for what can't be read, or is of a version that this program doesn't know."""
        if self.version > ENTRY_VERSION:
            raise PayloadError(
                f"the entry is of version {self.version}, this program reads {ENTRY_VERSION}: update shadowproxy"
            )
        return decode(self.payload)


@dataclass(frozen=True, slots=True)
class Clock:
    """A producer's clock beside the server's, when it last wrote."""

    behind: float
    """Seconds from its stamp to the server's time, the way there included; negative where it is ahead."""
    at: float
    """The server's clock then, Unix seconds."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A worker's state as it is stored, and the version of it that `Store.absorb` asks for."""

    worker: str
    state: bytes
    version: bytes


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store has of one producer, at one instant."""

    sequence: int
    """Of the last batch that is stored; 0 before the first."""
    account: Accounting | None
    """As last published; None where it never was."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One partition of an experiment at one instant."""

    states: Mapping[str, bytes]
    """Latest committed state of every worker that ever committed."""
    watermark: float
    """Unix seconds up to which everything written has been committed (see `Store.commit`)."""
    time: float
    """The server's clock, Unix seconds."""
    accounts: Mapping[str, Accounting]
    """Last published account of every producer."""
    slots: Mapping[str, int]
    latch: bytes | None
    entries: int
    """Entries ever written; likewise `pairs`."""
    pairs: int
    committed_entries: int
    """Entries ever committed, dead letters included; likewise `committed_pairs`."""
    committed_pairs: int
    lost_entries: int
    """Entries that were trimmed before anybody committed them, and which nobody can commit any more."""
    lost_pairs: int
    clocks: Mapping[str, Clock]
    """By producer, as of its last entry."""
    dead_entries: int
    """Entries moved to the dead-letter stream; likewise `dead_pairs`."""
    dead_pairs: int
    pending: int
    """Entries that a worker was given and has not committed."""
    undelivered: int
    """Entries in the stream that no worker was given yet."""
    waiting_bytes: int
    """Bytes of payload in the stream that nobody has committed; likewise `kept_bytes` of what is kept after that."""
    kept_bytes: int
    resets: int = 0
    """How often the experiment was reset (see `experiments.reset`). Nothing here counts what was before the last."""
    labels: CountedLabels = field(default_factory=CountedLabels)

    @property
    def accounting(self) -> Accounting:
        """The accounts of all producers in one."""
        return sum(self.accounts.values(), Accounting())

    @property
    def missing_pairs(self) -> int:
        """Pairs that the producers saw acknowledged and of which the store knows nothing.

        More than zero after a fail-over to a replica that was behind, or a crash of a server that doesn't sync:
        acknowledged writes were undone. Such pairs are lost as `lost_pairs` are.
        """
        return max(0, self.accounting.recorded - self.pairs)

    def clock_behind(self, within: float) -> float:
        """Seconds by which a producer's clock is behind the server's, the most of those that wrote `within` seconds.

        0 where none did, or none is behind. What was written longer ago matters no more to what is complete.
        """
        recent = [clock.behind for clock in self.clocks.values() if self.time - clock.at <= within]
        return max(0.0, max(recent, default=0.0))


@dataclass(frozen=True, slots=True)
class Books:
    """The accounts of all producers, as one partition has them."""

    accounts: Mapping[str, Accounting]
    bases: Mapping[str, Accounting]
    """What they were when the partition was last reset."""
    resets: int


class Superseded(Fenced):
    """A commit was refused because the worker's state was written by somebody else since it was loaded here.

    That is another process under the same name, an earlier commit of this one whose reply was lost, or a reset. Nothing
    was stored. `lost` are all entries of the commit: load the state again, and take up what is still pending.
    """

    def __init__(self, worker: str, entries: Sequence[str]) -> None:
        ShadowproxyError.__init__(
            self,
            f"the state of worker {worker} was written by another process, or by a commit whose reply was lost, or the "
            "experiment was reset; load it again, and give each comparator a name of its own",
        )
        self.lost = tuple(entries)


class Gone(ShadowproxyError):  # noqa: N818  (what was done to us, read as such at the call site)
    """Nothing was stored, since a pair that was to be joined with its label waits no more. Look again."""


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
_MAKE_GROUP: Final = Script(scripts.MAKE_GROUP)
_JOIN: Final = Script(scripts.JOIN)
_SLOTS: Final = Script(scripts.SLOTS)
_SNAPSHOT: Final = Script(scripts.SNAPSHOT)
_ACCOUNTS: Final = Script(scripts.ACCOUNTS)
_LATCH: Final = Script(scripts.LATCH)
_CONTROL: Final = Script(scripts.CONTROL)
_REPORT: Final = Script(scripts.REPORT)
_CONTROL_STATUS: Final = Script(scripts.CONTROL_STATUS)


def _version(info: bytes) -> str:
    """The Redis version that a server says it is compatible with (Valkey 8 and 9 say 7.2.4)."""
    found = re.search(rb"^redis_version:(\d+\.\d+[^\r\n]*)", info, re.MULTILINE)
    return found[1].decode("ascii", "replace") if found else "0.0"


def _entry(reply: Sequence[Any]) -> Entry:
    name, fields = reply[0].decode(), reply[1] or []
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    count, version, before = values.get(b"n", b"0"), values.get(b"v", b""), values.get(b"c", b"")
    return Entry(
        id=name,
        pairs=int(count) if count.isdigit() else 0,
        payload=values.get(b"b", b""),
        deliveries=int(reply[2]) if len(reply) > 2 else 1,
        version=int(version) if version.isdigit() else ENTRY_VERSION,
        before=int(before) if before.isdigit() else None,
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _mapping(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {_text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _clock(stored: bytes) -> Clock:
    behind, _, at = stored.partition(b" ")
    return Clock(int(behind) / 1000, int(at) / 1000)


def _version_of(expected: bytes, entries: Sequence[str], state: bytes) -> str:
    """Names a state by all that was ever put into it."""
    return hashlib.blake2b(b"\0".join((expected, ",".join(entries).encode(), state)), digest_size=16).hexdigest()


def weight(account: Accounting) -> int:
    """Grows with every change of one producer's account: of two accounts, the heavier is the later."""
    return (
        account.requests
        + account.eligible
        + account.recorded
        + sum(account.skipped.values())
        + sum(account.dropped.values())
    )


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def since(account: Accounting, base: Accounting) -> Accounting:
    """What an account has gained over an earlier state of it.

    >>> since(Accounting(5, 4, 3, {"method": 1}), Accounting(2, 2, 2))
    Accounting(requests=3, eligible=2, recorded=1, skipped={'method': 1}, dropped={})
    """
    return Accounting(
        max(0, account.requests - base.requests),
        max(0, account.eligible - base.eligible),
        max(0, account.recorded - base.recorded),
        _less(account.skipped, base.skipped),
        _less(account.dropped, base.dropped),
    )


def _less(counts: Mapping[str, int], base: Mapping[str, int]) -> dict[str, int]:
    return {key: more for key, count in counts.items() if (more := count - base.get(key, 0)) > 0}


def since_reset(accounts: Mapping[str, Accounting], bases: Mapping[str, Accounting]) -> dict[str, Accounting]:
    """By producer, what it has accounted for since the last reset; those that have nothing are left out."""
    found = {name: since(account, bases[name]) if name in bases else account for name, account in accounts.items()}
    return {name: account for name, account in found.items() if name not in bases or account != Accounting()}


def _accounts(flat: Sequence[bytes]) -> dict[str, Accounting]:
    return {name: _account(stored) for name, stored in _mapping(flat).items()}


def _account(stored: bytes) -> Accounting:
    try:
        return msgspec.json.decode(stored.partition(b" ")[2], type=Accounting)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"a producer's account can't be read: {error}; is a newer shadowproxy writing?") from None


class Connections:
    """The connections to a store of any kind, for whatever number of partitions is there."""

    def __init__(self, url: str, *, reply_within: float = _TIMEOUT) -> None:
        """Connects to nothing yet. Raises StartError for a URL that can't be used."""
        self.usual = Client(url, reply_within=reply_within, connect_within=reply_within, attempts=2)
        # A blocking read outlasts any socket timeout, so it has connections of its own without one; `read` bounds it.
        self.blocking = Client(url, reply_within=None, connect_within=reply_within, attempts=1)
        # What a batch of pairs may take must not hold up a kill switch.
        self.prompt = Client(url, reply_within=_SOON, connect_within=_SOON, attempts=2)

    async def close(self) -> None:
        """Close all connections."""
        for client in (self.usual, self.blocking, self.prompt):
            await client.close()


class Store:
    """One partition of one experiment. Belongs to one event loop; any number of tasks may use it at once.

    The constructor connects to nothing, so that a proxy can start while Redis is down: `append` and `publish` need no
    more. Workers and readers use `open`.

    Every method raises StoreUnavailable where Redis can't be reached, doesn't answer within `reply_within` seconds, or
    refuses. What was asked may then have been done all the same; asking again is always safe.
    """

    def __init__(
        self,
        url: str,
        experiment: str,
        *,
        max_entries: int,
        max_bytes: int = MAX_BYTES,
        keep: int = 0,
        partition: int = 0,
        reply_within: float = _TIMEOUT,
        clock: Callable[[], float] = time.time,
        max_labels: int = MOST_LABELS,
        connections: Connections | None = None,
    ) -> None:
        """The stream holds at most `max_entries` entries and about `max_bytes` bytes: the oldest are trimmed, those
        that are committed first. `keep` bytes of the latter are kept, for people to look at. `max_labels` bounds the
        labels, and the pairs that wait for one (see `Labels`). `connections` may be shared by several stores: once one
        of them is closed, all are."""
        if not experiment or any(character in "{}\r\n " for character in experiment):
            raise ValueError(f"{experiment!r} can't name an experiment: no spaces, no braces")
        self.url = url
        self.name = experiment
        self.partition = partition
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.keep = keep
        self._reply_within = reply_within
        self._clock = clock
        self._versions: dict[str, bytes] = {}
        prefix = f"shadow:{{{experiment}:{partition}}}:"
        self._pairs = f"{prefix}pairs"
        self._index = f"{prefix}index"
        self._kept = f"{prefix}kept"
        self._dead = f"{prefix}dead"
        self._dead_sizes = f"{prefix}dead:sizes"
        self._totals = f"{prefix}totals"
        self._sequences = f"{prefix}sequences"
        self._accounts = f"{prefix}accounts"
        self._bases = f"{prefix}accounts:bases"
        self._states = f"{prefix}states"
        self._state_versions = f"{prefix}versions"
        self._firsts = (f"{prefix}firsts", f"{prefix}firsts:starts")
        self._slots = f"{prefix}slots"
        self._latch = f"{prefix}latch"
        self._clocks = f"{prefix}clocks"
        self._experiment = f"{prefix}experiment"
        self._controls = f"{prefix}controls"
        self._control_history = f"{prefix}controls:history"
        self._watchers = f"{prefix}controls:proxies"
        self.connections = connections or Connections(url, reply_within=reply_within)
        self._client = self.connections.usual
        self._reader = self.connections.blocking
        self._watcher = self.connections.prompt
        self.labels = Labels(url, prefix, self._client, self._reader, max_labels, reply_within=reply_within)
        self.exemplars = Exemplars(url, prefix, self._client)

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
        reply_within: float = _TIMEOUT,
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

    async def prepare(self) -> None:
        """Check the server and make the consumer group, from the stream's beginning, where there is none."""
        with boundary(self.url):
            found = _version(await self._client.command("INFO", "server", near=self._pairs))
            if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
                raise StartError(
                    f"{redacted(self.url)} is version {found}; shadowproxy needs Redis ≥ 7.0 or Valkey ≥ 8"
                )
            await self._make_group()

    async def close(self) -> None:
        """Close all connections."""
        await self.connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Store {self.name}:{self.partition} at {redacted(self.url)}>"

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
        return Standing(int(sequence or 0), None if account is None else _account(account))

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
        return [_entry(entry) for entry in reply[0][1]] if reply else []

    async def own_pending(self, worker: str, entries: int) -> list[Entry]:
        """The oldest `entries` entries that were given to this worker and that it has not committed.

        For a worker that starts over: what it holds in memory must be forgotten first. Entries whose payload was
        trimmed are given up here, and from then on counted as lost.
        """
        reply = await self._run_in_group(_OWN_PENDING, (self._pairs,), GROUP, worker, entries)
        return [_entry(entry) for entry in reply]

    async def claim(self, worker: str, idle: float, entries: int) -> list[Entry]:
        """Take over up to `entries` entries that other workers have held for `idle` seconds without committing.

        After StoreUnavailable some may have been: `own_pending` finds them.
        """

        async def once() -> Any:
            # Asked again because its reply was lost, it would pass over what is the worker's already.
            async with asyncio.timeout(self._reply_within):
                return await self._reader.run(_CLAIM, (self._pairs,), GROUP, worker, round(idle * 1000), entries)

        return [_entry(entry) for entry in await self._in_group(once)]

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
            *(_bytes(text) for letter in letters.items() for text in letter),
            *exemplars.words,
            *first_words(firsts),
            self.labels.most,
            max(0, len(unlabelled) - _MOST_WAITING),
            *(
                word
                for pair in unlabelled[:_MOST_WAITING]
                for word in (_bytes(pair.id), _milliseconds(pair.expires), pair.record)
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
        return [Stored(_text(name), state, version) for name, state, version in reply]

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
            *(part for other in others for part in (_bytes(other.worker), other.version)),
            *exemplars.words,
            *map(_bytes, included),
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
        return self._slot_numbers(await self._run(_SLOTS, (self._slots,), limit, *map(_bytes, cohorts)))

    # What concerns the experiment as a whole

    async def snapshot(self) -> Snapshot:
        """Everything that a verdict rests on, read in one atomic step. Raises PayloadError for unreadable accounts."""
        keys = (
            self._pairs,
            self._totals,
            self._states,
            self._accounts,
            self._slots,
            self._latch,
            self._clocks,
            self._kept,
            self._bases,
            self.labels.stream,
            self.labels.totals,
            self.labels.unlabelled,
            self.labels.early,
            self.labels.labelled,
        )
        counts, mark, now, states, *rest = await self._run_in_group(_SNAPSHOT, keys, GROUP)
        accounts, slots, latch, clocks, bases, labels = rest
        (entries, pairs, committed, committed_pairs, lost, lost_pairs, dead, dead_pairs, *waiting) = counts
        pending, undelivered, waiting_bytes, kept_bytes, resets = waiting
        return Snapshot(
            states=_mapping(states),
            watermark=int(mark) / 1000,
            time=int(now[0]) + int(now[1]) / 1e6,
            accounts=since_reset(_accounts(accounts), _accounts(bases)),
            slots=self._slot_numbers(slots),
            latch=latch,
            entries=entries,
            pairs=pairs,
            committed_entries=committed,
            committed_pairs=committed_pairs,
            lost_entries=lost,
            lost_pairs=lost_pairs,
            clocks={name: _clock(stored) for name, stored in _mapping(clocks).items()},
            dead_entries=dead,
            dead_pairs=dead_pairs,
            pending=pending,
            undelivered=undelivered,
            waiting_bytes=waiting_bytes,
            kept_bytes=kept_bytes,
            resets=resets,
            labels=CountedLabels.of(labels),
        )

    async def books(self) -> Books:
        """Last published account of every producer, and what it was at the last reset.

        Raises PayloadError for one that can't be read.
        """
        accounts, bases, resets = await self._run(_ACCOUNTS, (self._accounts, self._bases, self._totals))
        return Books(_accounts(accounts), _accounts(bases), resets)

    # What people look at

    async def browse(self, after: str, entries: int) -> list[Entry]:
        """Up to `entries` entries behind the id `after` ("0" for the beginning), whoever was given them before.

        These are those that wait and those that are kept. Reading takes nothing from anybody.
        """
        with boundary(self.url):
            reply = await self._client.command("XRANGE", self._pairs, f"({after}", "+", "COUNT", entries)
        return [_entry(entry) for entry in reply]

    async def newest(self, entries: int, before: str | None = None) -> list[Entry]:
        """The newest entries, or the newest ahead of the id `before`; oldest of them first."""
        end = "+" if before is None else f"({before}"
        with boundary(self.url):
            reply = await self._client.command("XREVRANGE", self._pairs, end, "-", "COUNT", entries)
        return [_entry(entry) for entry in reversed(reply)]

    async def follow(self, after: str, entries: int, block: float) -> list[Entry]:
        """As `browse`, and where there is nothing it waits up to `block` seconds for it."""
        command = ["XREAD", "COUNT", entries, "BLOCK", max(1, round(block * 1000)), "STREAMS", self._pairs, after]
        with boundary(self.url):
            async with asyncio.timeout(block + self._reply_within):
                reply = await self._reader.command(*command)
        return [_entry(entry) for entry in reply[0][1]] if reply else []

    async def written(self) -> tuple[int, int]:
        """Entries ever written to this partition, and the pairs in them."""
        with boundary(self.url):
            entries, pairs = await self._client.command("HMGET", self._totals, "entries", "pairs")
        return int(entries or 0), int(pairs or 0)

    async def dead_letters(self, entries: int) -> list[tuple[Entry, str]]:
        """The newest dead letters, newest first, each with its original id and payload and the reason."""
        with boundary(self.url):
            reply = await self._client.command("XREVRANGE", self._dead, "+", "-", "COUNT", entries)
        letters = []
        for _, fields in reply:
            values = dict(zip(fields[::2], fields[1::2], strict=True))
            letters.append((_entry((values[b"id"], fields)), _text(values[b"reason"])))
        return letters

    async def latch(self, payload: bytes, *, resets: int = 0) -> bool:
        """Keep `payload` until a reset, unless there is one already. Returns whether it is this one that is kept.

        `resets` is that of the snapshot that the payload rests on: after another reset it is no longer kept.
        """
        return bool(await self._run(_LATCH, (self._latch, self._totals), payload, resets) == payload)

    async def experiment(self, description: bytes) -> bytes:
        """Say what this experiment is, once: its frozen settings. Returns the description that was given first."""
        with boundary(self.url):
            seconds, _ = await self._client.command("TIME", near=self._experiment)
            await self._client.command("ZADD", _EXPERIMENTS, "NX", int(seconds), self.name)
            await self._client.command("SET", self._experiment, description, "NX")
            return bytes(await self._client.command("GET", self._experiment))

    # What people say to it while it runs (see `controls`)

    async def read_controls(self) -> bytes | None:
        """The controls as they are stored, None where nobody has said anything. Answers or raises within a second."""
        with boundary(self.url):
            found = await self._watcher.command("GET", self._controls)
        return None if found is None else bytes(found)

    async def restore_controls(self, stored: bytes) -> None:
        """Store these again, unless there are others."""
        with boundary(self.url):
            await self._watcher.command("SET", self._controls, stored, "NX")

    async def report_controls(self, name: str, version: int) -> None:
        """Say that the proxy `name` is there, and goes by that version of the controls."""
        with boundary(self.url):
            await self._watcher.run(_REPORT, (self._watchers,), name, version, round(_FORGET_PROXY * 1000))

    async def forget_proxy(self, name: str) -> None:
        """Forget what the proxy `name` has reported."""
        with boundary(self.url):
            await self._watcher.command("HDEL", self._watchers, name)

    async def change_controls(self, change: ControlChange) -> Controls:
        """Put a change in force and into the history. Returns the controls after it.

        What is there and can't be read is replaced. Raises ValueError for a change that can't be, and Refused for one
        that can't be now.
        """
        with boundary(self.url):
            while True:
                found = await self._client.command("GET", self._controls) or b""
                try:
                    before = decode_controls(found or None)
                except PayloadError:
                    before = Controls()
                seconds, micros = await self._client.command("TIME", near=self._controls)
                after = change.applied_to(before, int(seconds) + int(micros) / 1e6)
                new = msgspec.json.encode(after)
                keys = (self._controls, self._control_history)
                if await self._client.run(_CONTROL, keys, found, new, _MAX_HISTORY):
                    return after

    async def control_status(self) -> ControlStatus:
        """What is in force, who goes by it, and what was before. Raises PayloadError where it can't be read."""
        keys = (self._controls, self._control_history, self._watchers)
        found, history, watchers, now = await self._run(_CONTROL_STATUS, keys)
        milliseconds = int(now[0]) * 1000 + int(now[1]) // 1000
        proxies = {}
        for name, stored in _mapping(watchers).items():
            version, _, at = stored.partition(b" ")
            age = max(0.0, (milliseconds - int(at)) / 1000)
            if age <= LIVE:
                proxies[name] = ProxyReport(version=int(version), age=age)
        return ControlStatus(
            experiment=self.name,
            controls=decode_controls(found),
            proxies=proxies,
            history=tuple(map(decode_controls, history)),
        )

    # For `experiments`, which knows more keys and scripts

    def key(self, name: str) -> str:
        """A key of this partition."""
        return f"shadow:{{{self.name}:{self.partition}}}:{name}"

    async def run(self, script: Script, names: Sequence[str], *args: Any) -> Any:
        """One script on keys of this partition, its raw reply."""
        return await self._run_in_group(script, [self.key(name) for name in names], *args)

    async def command(self, word: str, name: str, *args: Any) -> Any:
        """One command on a key of this partition, its raw reply."""
        with boundary(self.url):
            return await self._client.command(word, self.key(name), *args)

    # Below: how

    @staticmethod
    def _slot_numbers(flat: Sequence[bytes]) -> dict[str, int]:
        return {name: int(slot) for name, slot in _mapping(flat).items()}

    async def _make_group(self) -> None:
        await self._client.run(_MAKE_GROUP, (self._pairs, self._totals, self._kept), GROUP)

    async def _run(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        with boundary(self.url):
            return await self._client.run(script, keys, *args)

    async def _run_in_group(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        return await self._in_group(functools.partial(self._client.run, script, keys, *args))

    async def _in_group(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask, and where the stream or its group is gone (flushed, evicted), make it again and ask once more."""
        with boundary(self.url):
            try:
                return await ask()
            except ResponseError as error:
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    raise
                log.warning("%r has no stream or no consumer group (never made, deleted or evicted); making it", self)
                await self._make_group()
                return await ask()


async def list_experiments(url: str) -> dict[str, float]:
    """All experiments that were ever described in this store, and when (Unix seconds), oldest first.

    Raises StoreUnavailable.
    """
    client = Client(url, reply_within=_TIMEOUT, connect_within=_TIMEOUT, attempts=2)
    try:
        with boundary(url):
            found = await client.command("ZRANGE", _EXPERIMENTS, 0, -1, "WITHSCORES")
            return {_text(name): float(score) for name, score in zip(found[::2], found[1::2], strict=True)}
    finally:
        await client.close()
