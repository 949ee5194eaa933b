"""pairs-outage: the store is stopped, or killed, for a minute: what clients notice, and what becomes of the pairs.

Clients ask all the while, 300 times a second in an open loop. What the store doesn't take waits in memory, and past
half of its bound on disk. As the outage ends the load does too, and the clock runs until the proxy has delivered
everything and the comparator, which has lived through it, has counted it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from bench.isolation import store_killed, store_stopped
from bench.openloop import Outcome
from bench.options import Options
from bench.peers import NotMeasured
from bench.procs import Failed
from bench.report import Check, Goal, Report
from bench.rig import Audit, MiB, Proxied, Rig, rig, tally

SECONDS: Final = 60.0
RATE: Final = 300.0
LEAD: Final = 2.0
DELAY_MOST: Final = 1.0
"""Seconds until all is counted that an outage may cost at the most, to its own length."""
_EVERY: Final = 0.1
_COUNTED_WITHIN: Final = 300.0

CONFIGURATION: Final[Mapping[str, Any]] = {
    "experiment": "outage",
    # Little memory, so that most of it goes to the disk.
    "recorder": {"max_bytes": "2MiB", "spool": {"max_bytes": "256MiB"}},
    "redis": {"max_entries": 100_000},
}

FAULTS: Final = {"store stopped": store_stopped, "store killed": store_killed}


class Waiting:
    """The most that waited while this was held, looked at ten times a second."""

    def __init__(self, one: Rig) -> None:
        self._rig = one
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="waiting")
        self.pairs = 0
        self.spooled_pairs = 0
        self.spooled_bytes = 0

    def _look(self) -> None:
        while not self._over.wait(_EVERY):
            self._note(self._rig.proxied())

    def _note(self, found: Proxied) -> None:
        self.pairs = max(self.pairs, found.waiting_pairs + found.spooled_pairs)
        self.spooled_pairs = max(self.spooled_pairs, found.spooled_pairs)
        self.spooled_bytes = max(self.spooled_bytes, found.spooled_bytes)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._note(self._rig.proxied())


@dataclass(frozen=True)
class Outage:
    """One outage."""

    fault: str
    seconds: float
    outcome: Outcome
    waited: int
    """Most pairs that waited, in memory and on disk; likewise those on disk, and their bytes."""
    spooled_pairs: int
    spooled_bytes: int
    delay: float
    """Seconds from the store's return until every pair was counted."""
    audit: Audit
    counted: int
    """Pairs that comparators have committed; likewise what was lost or couldn't be read."""
    lost: int

    @property
    def wrong(self) -> list[str]:
        """What is not as it must be whatever the machine."""
        account = self.audit.account
        found = list(self.audit.wrong)
        if self.outcome.errors:
            found.append(f"clients got {tally(self.outcome.errors)}")
        if account.dropped or account.skipped:
            found.append(f"dropped {tally(account.dropped)} skipped {tally(account.skipped)}")
        if self.counted != account.recorded or self.lost:
            found.append(f"{self.counted:,} counted of {account.recorded:,}, {self.lost:,} lost")
        if not self.spooled_pairs:
            found.append("nothing went to the disk, so that it was not looked at")
        return found


def outage(fault: str, *, seconds: float, rate: float = RATE, sections: Mapping[str, Any] = CONFIGURATION) -> Outage:
    """The store is away for so long; a proxy and a comparator of their own. Raises Failed."""
    with rig(sections) as one:
        one.comparator()
        one.clients.closed_loop(200, connections=8)
        with Waiting(one) as waiting:
            ended = one.clients.begin(rate=rate, seconds=LEAD + seconds)
            time.sleep(LEAD)
            with FAULTS[fault](one):
                time.sleep(seconds)
            back = time.perf_counter()
            outcome = ended()
        _until_counted(one)
        delay = time.perf_counter() - back
        audit, stored = one.audit(), one.stored()
    return Outage(
        fault,
        seconds,
        outcome,
        waiting.pairs,
        waiting.spooled_pairs,
        waiting.spooled_bytes,
        delay,
        audit,
        stored.committed_pairs,
        stored.lost_pairs + stored.dead_pairs,
    )


def _until_counted(one: Rig) -> None:
    """Until the proxy has nothing left to deliver, and the comparators nothing to count."""
    deadline = time.monotonic() + _COUNTED_WITHIN
    conditions: tuple[Callable[[], bool], ...] = (
        lambda: one.proxied().account.balanced,
        lambda: one.stored().committed_pairs >= one.proxied().account.recorded,
    )
    for holds in conditions:
        while not holds():
            if time.monotonic() > deadline:
                raise Failed(f"not all is counted {_COUNTED_WITHIN:g} s after the outage: {one.proxied()}")
            time.sleep(_EVERY)


def run(options: Options) -> Report:
    """Measure, check and report."""
    seconds = options.seconds or (3.0 if options.quick else SECONDS)
    names = options.only or tuple(FAULTS)
    if unknown := set(names) - FAULTS.keys():
        raise NotMeasured(f"there is no outage {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    found = []
    for name in names:
        one = outage(name, seconds=seconds)
        options.progress(" ".join(_row(one)))
        found.append(one)
    return Report(
        "pairs-outage",
        f"pairs-outage: the store away for {seconds:g} s, {RATE:g} requests a second",
        (
            "",
            "requests",
            "errors",
            "most pairs waiting",
            "of them on disk",
            "MiB on disk",
            "dropped",
            "all counted after, s",
        ),
        [_row(one) for one in found],
        checks=[
            Check(f"{one.fault}: no error, nothing lost", not one.wrong, "; ".join(one.wrong) or one.audit.text)
            for one in found
        ],
        goals=[
            Goal(f"{one.fault}: time until all was counted, to the outage's", DELAY_MOST, one.delay / one.seconds)
            for one in found
        ],
        notes=("The load ends with the outage; half of `recorder.max_bytes`, 2 MiB here, is used before the disk.",),
        raw={"seconds": seconds, "rate": RATE, "outages": [_raw(one) for one in found]},
    )


def _row(one: Outage) -> tuple[str, ...]:
    return (
        f"{one.fault}, {one.seconds:g} s",
        f"{one.outcome.sent:,}",
        str(sum(one.outcome.errors.values())),
        f"{one.waited:,}",
        f"{one.spooled_pairs:,}",
        f"{one.spooled_bytes / MiB:.1f}",
        tally(one.audit.account.dropped) or "none",
        f"{one.delay:.1f}",
    )


def _raw(one: Outage) -> dict[str, Any]:
    told = asdict(one)
    del told["outcome"], told["audit"]
    return {**told, "sent": one.outcome.sent, "errors": one.outcome.errors, "wrong": one.wrong}
