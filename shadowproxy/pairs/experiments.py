"""Experiments as a whole: which there are, how their verdicts changed, which versions answered, and beginning anew.

All of it lives in the home partition, beside what was counted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import msgspec

from shadowproxy.errors import PayloadError, Refused, StoreUnavailable
from shadowproxy.model import VersionSeen
from shadowproxy.pairs import scripts
from shadowproxy.pairs.client import Script
from shadowproxy.pairs.controls import ControlStatus
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import GROUP, Snapshot, Store, list_experiments

KEPT: Final = 1000
"""Changes of the verdict that are kept; the oldest are forgotten."""
MOST_VERSIONS: Final = 20
"""Values of one side that are told apart."""
OTHER: Final = "other"
"""All values past these. A service that numbers its answers instead of its versions must not fill the store."""
RESET: Final = "reset"
SPOKEN: Final = 3.0
"""Seconds after a stop until all proxies have published what they still hold: they do so every second."""
_VERSION: Final = 1
_LONGEST: Final = 128
_ANY_BOUND: Final = 1_000_000
"""Bounds matter to those who write; whoever opens an experiment to read it needs none."""

_REMEMBER: Final = Script(scripts.REMEMBER)
_ORIGIN: Final = Script(scripts.ORIGIN)
_SEEN: Final = Script(scripts.SEEN)
_RESET: Final = Script(scripts.RESET)
_RESET_KEYS: Final = (
    "pairs", "totals", "index", "kept", "dead", "dead:sizes", "states", "versions", "accounts", "accounts:bases",
    "slots", "latch", "seen", "controls", "verdicts", "labels", "labels:totals", "unlabelled", "unlabelled:expiry",
    "early", "early:expiry", "labelled", "exemplars", "exemplars:pairs", "origin", "calibration",
    "firsts", "firsts:starts", "trail",
)  # fmt: skip


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the verdict (the first one included), or a reset. Stored as JSON."""

    what: str
    """`promote`, `rollback` or `continue`; or `reset`."""
    at: float = 0.0
    """Unix seconds, by the store's clock."""
    exhausted: bool = False
    pairs: int = 0
    """That the verdict rested on; of a reset, that were forgotten."""
    evidence: float = 0.0
    """For a rollback (see `Verdict.evidence_rollback`)."""
    reasons: tuple[str, ...] = ()
    by: str = ""
    """Who reset it."""
    v: int = _VERSION
    """Which fields it has."""

    @property
    def kind(self) -> str:
        """Two moments in a row that are of one kind are one."""
        return f"{self.what} exhausted" if self.exhausted else self.what


class History(msgspec.Struct, frozen=True, kw_only=True):
    """How an experiment's verdict changed."""

    experiment: str
    history: tuple[Moment, ...]
    """Newest first."""


async def remember(home: Store, moment: Moment, read_at: float) -> Moment | None:
    """Append the moment to the history, unless the last one is of its kind; whoever else does so at the same time.

    `read_at` is the store's time (Unix seconds) at which was read what the moment rests on: what is older than the last
    moment adds nothing. Returns the last one as it is then, None where there is none. Raises StoreUnavailable, and
    PayloadError where that one can't be read.
    """
    _, *last = await home.run(
        _REMEMBER, ("verdicts",), moment.kind, msgspec.json.encode(moment), round(read_at * 1000), KEPT
    )
    return _moment(last[0], last[2]) if last else None


async def history(home: Store, most: int = KEPT) -> History:
    """The last changes of the verdict. Raises StoreUnavailable, and PayloadError where one can't be read."""
    found = await home.command("XREVRANGE", "verdicts", "+", "-", "COUNT", most)
    return History(experiment=home.name, history=tuple(_moment(name, fields[3]) for name, fields in found))


def _moment(name: bytes, stored: bytes) -> Moment:
    try:
        moment = msgspec.json.decode(stored, type=Moment)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PayloadError(f"the history of the verdict can't be read: {error}; update shadowproxy") from None
    if moment.v > _VERSION:
        raise PayloadError("the history of the verdict was written by a newer shadowproxy; update this one")
    return msgspec.structs.replace(moment, at=int(name.partition(b"-")[0]) / 1000)


async def origin(home: Store, at: float) -> float:
    """When the experiment began, Unix seconds: `at`, unless somebody has said so before. The same for all who ask.

    Raises StoreUnavailable.
    """
    return float(await home.run(_ORIGIN, ("origin",), at))


async def note_versions(home: Store, seen: Mapping[tuple[str, str], tuple[float, float]]) -> None:
    """Note which versions answered: by (side, value), the Unix times of the first and the last pair.

    To be said before the pairs are committed; saying it again changes nothing. Raises StoreUnavailable.
    """
    words = [
        word
        for (side, value), (first, last) in seen.items()
        for word in (side, value[:_LONGEST].encode(), round(first * 1000), round(last * 1000))
    ]
    await home.run(_SEEN, ("seen",), MOST_VERSIONS, *words)


async def versions(home: Store) -> dict[str, tuple[VersionSeen, ...]]:
    """By side, the versions that were noted, in the order in which they were first seen. Raises StoreUnavailable."""
    flat = await home.command("HGETALL", "seen")
    found: dict[str, list[VersionSeen]] = {}
    for field, times in zip(flat[::2], flat[1::2], strict=True):
        side, told, value = field.decode("utf-8", "replace").partition(" ")
        first, _, last = times.partition(b" ")
        seen = VersionSeen(value=value if told else OTHER, first=int(first) / 1000, last=int(last) / 1000)
        found.setdefault(side, []).append(seen)
    return {
        side: tuple(sorted(values, key=lambda seen: (seen.first, seen.last, seen.value)))
        for side, values in sorted(found.items())
    }


async def reset(store: Partitions, *, by: str, reason: str, force: bool = False, spoken: float = SPOKEN) -> int:
    """Forget all that was counted, so that the experiment begins anew under its id. Returns how many pairs that was.

    Raises Refused unless the experiment is stopped and what was recorded has been counted, PayloadError where that
    can't be told, and StoreUnavailable: then part of it may be done, and asking again does it all.

    `force` resets too where proxies hold pairs that are neither stored nor dropped: what of it arrives later is counted
    then. Some never arrives, where a proxy was killed and nobody takes up its spool. Where proxies run it waits until
    the stop is `spoken` seconds old.
    """
    books = [await one.books() for one in store.stores]
    number = 1 + max(book.resets for book in books)
    counted = 0
    if len({book.resets for book in books}) == 1:
        # Else an earlier reset was cut short, and there is no account to look at.
        snapshot = await _spoken(store, spoken)
        counted = snapshot.committed_pairs
        await _refuse_unsettled(store, snapshot, force=force)
    moment = Moment(what=RESET, pairs=counted, by=by, reasons=(reason,) if reason else ())
    for one in store.stores:
        home = one is store.home
        done = await one.run(
            _RESET, _RESET_KEYS, GROUP, number, int(home), moment.kind, msgspec.json.encode(moment), KEPT
        )
        if done == 2:
            raise Refused(f"{store.name} is not stopped: `shadowproxy experiment stop` first")
        if not done:
            raise Refused(f"{store.name} has pairs that are not counted yet: wait for the comparators")
    return counted


async def _spoken(store: Partitions, within: float) -> Snapshot:
    """The store when running proxies have said what they hold. A request may have begun just before they stopped, and
    the account that is stored just before that."""
    snapshot = await store.snapshot()
    status = await store.home.control_status()
    wait = status.controls.at + within - snapshot.time
    if not status.controls.stopped or not status.proxies or wait <= 0:
        return snapshot
    # Not longer than asked for, whatever the store's clock has done since.
    await asyncio.sleep(min(wait, within))
    return await store.snapshot()


async def _refuse_unsettled(store: Partitions, snapshot: Snapshot, *, force: bool) -> None:
    status = await store.home.control_status()
    if not status.controls.stopped:
        raise Refused(f"{store.name} is not stopped: `shadowproxy experiment stop` first")
    if status.behind:
        raise Refused(f"{', '.join(status.behind)} has not confirmed the stop yet; is it able to reach the store?")
    lag = snapshot.pending + snapshot.undelivered
    if lag:
        raise Refused(f"{lag:,} stream entries of {store.name} are not counted yet: let `shadowproxy compare` run")
    if force:
        return
    # More recorded than stored were lost by the store, and never come: beginning anew is the remedy then.
    if snapshot.accounting.recorded < snapshot.pairs:
        raise Refused(f"the accounts of {store.name}'s proxies are behind what they stored; try again in a second")
    waiting = {name: account.in_flight for name, account in snapshot.accounts.items() if account.in_flight > 0}
    if waiting:
        told = ", ".join(f"{name} {count:,}" for name, count in sorted(waiting.items()))
        raise Refused(
            f"pairs are still on their way from proxies ({told}): wait for them, start a proxy that takes up the spool "
            "of one that was killed, or say --force if they are gone"
        )


# Looking at experiments


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """One experiment in a line."""

    experiment: str
    begun: float
    """Unix seconds."""
    configured: bool
    """Whether it is the one that the configuration at hand means."""
    state: str = "unknown"
    """`running`: proxies of it run; `idle`: none does; `paused`, `stopped`: by a person."""
    counted: int = 0
    """Pairs that were committed."""
    recorded: int = 0
    """Pairs that the proxies have recorded."""
    lag: int = 0
    """Stream entries that are not committed yet."""
    last: Moment | None = None
    """The last change of the verdict, or a reset."""
    problem: str = ""
    """Why the rest is not known."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An experiment that is there to be read, with its own number of partitions."""

    store: Partitions
    begun: float
    description: bytes


@asynccontextmanager
async def opened(url: str, experiment: str) -> AsyncIterator[Opened]:
    """An experiment of the store at `url`, by its id.

    Raises Refused where there is none of that id, PayloadError where its description can't be read, StoreUnavailable.
    """
    known = await list_experiments(url)
    if experiment not in known:
        there = f"there are {', '.join(sorted(known))}" if known else "there are none at all"
        raise Refused(f"there is no experiment {experiment!r} in this store; {there}")
    async with _opened(url, experiment, known[experiment]) as one:
        yield one


@asynccontextmanager
async def _opened(url: str, experiment: str, begun: float) -> AsyncIterator[Opened]:
    async with Store(url, experiment, max_entries=_ANY_BOUND) as home:
        description = await home.command("GET", "experiment")
    if description is None:
        raise PayloadError(f"the store has lost the description of {experiment}; a proxy that starts writes it anew")
    async with Partitions.at(
        url, experiment, partitions=_partitions(experiment, description), max_entries=_ANY_BOUND
    ) as store:
        yield Opened(store, begun, bytes(description))


def _partitions(experiment: str, description: bytes) -> int:
    try:
        found = json.loads(description).get("partitions", 1)
    except (ValueError, AttributeError):
        found = None
    if not isinstance(found, int) or not 1 <= found <= 1024:
        raise PayloadError(f"the description of {experiment} can't be read; is a newer shadowproxy writing?")
    return found


async def summaries(url: str, configured: str | None) -> list[Summary]:
    """All experiments of a store, oldest first. What can't be read of one stands in its `problem`.

    Raises StoreUnavailable where the store can't be reached at all.
    """
    return [
        await _summary(url, name, begun, name == configured) for name, begun in (await list_experiments(url)).items()
    ]


async def _summary(url: str, name: str, begun: float, configured: bool) -> Summary:
    summary = Summary(experiment=name, begun=begun, configured=configured)
    try:
        async with _opened(url, name, begun) as one:
            snapshot = await one.store.snapshot()
            status = await one.store.home.control_status()
            last = (await history(one.store.home, 1)).history
    except (PayloadError, StoreUnavailable) as error:
        return msgspec.structs.replace(summary, problem=str(error))
    except ValueError as error:
        return msgspec.structs.replace(summary, problem=f"what is stored of it is damaged: {error}")
    return msgspec.structs.replace(
        summary,
        state=condition(status),
        counted=snapshot.committed_pairs,
        recorded=snapshot.accounting.recorded,
        lag=snapshot.pending + snapshot.undelivered,
        last=last[0] if last else None,
    )


def condition(status: ControlStatus) -> str:
    """Whether an experiment runs, in a word (see `Summary.state`)."""
    if status.controls.stopped:
        return "stopped"
    if status.controls.paused:
        return "paused"
    return "running" if status.proxies else "idle"
