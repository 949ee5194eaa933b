"""What a store gives, read from its replies: entries, states, and a partition at one instant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from shadowproxy.errors import Fenced, PayloadError, ShadowproxyError
from shadowproxy.model import Accounting, Pair
from shadowproxy.pairs import scripts
from shadowproxy.pairs.codec import decode
from shadowproxy.pairs.labels import CountedLabels

ENTRY_VERSION: Final = 1
"""Field `v` of an entry: which fields it has. The payload carries a version of its own (see `codec`)."""


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


def entry_of(reply: Sequence[Any]) -> Entry:
    """An entry from (id, fields), or from (id, fields, deliveries). Fields may be None where it was trimmed."""
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


def text_of(raw: bytes) -> str:
    """A name from the store, whatever is in it."""
    return raw.decode("utf-8", "surrogatepass")


def bytes_of(text: str) -> bytes:
    """The reverse of `text_of`."""
    return text.encode("utf-8", "surrogatepass")


def mapping_of(flat: Sequence[bytes]) -> dict[str, bytes]:
    """By name, from a flat list of names and values."""
    return {text_of(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def clock_of(stored: bytes) -> Clock:
    """A clock as it is stored: milliseconds, twice."""
    behind, _, at = stored.partition(b" ")
    return Clock(int(behind) / 1000, int(at) / 1000)
