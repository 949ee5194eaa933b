"""proxy-isolation: what a client notices of a candidate, a store or a comparator that fails.

One proxy under 300 requests a second, open loop over kept connections (`bench.openloop`), in turn with a healthy
candidate and with a fault: healthy, fault, healthy, fault… Both turns of a round have the same requests at the same
times and the same service times. The ratio of their quantiles is taken within each round, and the median over the
rounds is judged. In every turn the fault is given some seconds to unfold before latencies are taken; answers are
checked from the first request to the last.

While a fault lasts the proxy's memory and descriptors are watched; they must stay below what its configuration
allows:

    descriptors ≤ at start + client connections + the baseline's (as many, and those kept idle)
                  + the candidate's (in flight, and those kept idle) + 16
    memory      ≤ after the warm-up + recorder.max_bytes + max_in_flight × capture + 16 MiB

After the rounds of a fault nothing is under way any more, and the proxy's account is compared with what the clients
sent, what each upstream saw and what the store was given.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from bench.openloop import Outcome
from bench.options import Options
from bench.peers import NotMeasured
from bench.procs import Failed, Process
from bench.report import Check, Goal, Report, Spread, ratios
from bench.rig import Audit, MiB, Rig, Watch, rig, tally
from bench.wire import CANDIDATE

RATE: Final = 300.0
CONNECTIONS: Final = 64
LEAD: Final = 1.5
P50_MOST: Final = 1.05
P99_MOST: Final = 1.25
_MARGIN_DESCRIPTORS: Final = 16
_MARGIN_BYTES: Final = 16 * MiB
_HEALED_WITHIN: Final = 60.0
"""Seconds: a breaker is open for 30 at the most."""
_PROBES: Final = 8
"""Requests, more than a breaker has probes."""

CONFIGURATION: Final[dict[str, Any]] = {
    "experiment": "isolation",
    # Shorter than the lead, so that from the first latency on the oldest copies run into their deadline.
    "candidate": {"deadline": "1400ms"},
    "proxy": {"capture": "64KiB", "mirror": {"max_in_flight": 128}},
    # Little enough to be full after a second of a store that is gone.
    "recorder": {"max_bytes": "2MiB"},
}


@dataclass(frozen=True)
class Turn:
    """One turn: what the clients got, and the most that the proxy used."""

    outcome: Outcome
    rss: int
    descriptors: int
    cpu: float
    """Seconds of CPU of the proxy, per request: tells a proxy that works more from a machine that is busy."""

    def quantile(self, q: float) -> float:
        """Of the latency from the time each request was due, seconds."""
        return float(np.quantile(self.outcome.from_due, q))


@dataclass(frozen=True)
class Measured:
    """All turns of one fault."""

    fault: str
    healthy: tuple[Turn, ...]
    faulty: tuple[Turn, ...]
    audit: Audit
    exchanges: dict[str, int]
    """The candidate's, by outcome, in these rounds alone."""
    dropped: dict[str, int]
    most_rss: int
    most_descriptors: int

    def ratio(self, q: float) -> Spread:
        """Of the quantiles, fault to healthy, round by round."""
        return ratios([turn.quantile(q) for turn in self.faulty], [turn.quantile(q) for turn in self.healthy])

    @property
    def errors(self) -> dict[str, int]:
        """What clients got instead of their answers, in any turn."""
        found: dict[str, int] = {}
        for turn in (*self.healthy, *self.faulty):
            for what, count in turn.outcome.errors.items():
                found[what] = found.get(what, 0) + count
        return found

    @property
    def rss(self) -> int:
        return max(turn.rss for turn in self.faulty)

    @property
    def descriptors(self) -> int:
        return max(turn.descriptors for turn in self.faulty)

    @property
    def contained(self) -> list[str]:
        """What of it is not as it must be whatever the machine: everything but the ratios."""
        wrong = list(self.audit.wrong)
        if self.errors:
            wrong.append(f"clients got {tally(self.errors)}")
        if self.rss > self.most_rss:
            wrong.append(f"{self.rss / MiB:.0f} MiB, allowed are {self.most_rss / MiB:.0f}")
        if self.descriptors > self.most_descriptors:
            wrong.append(f"{self.descriptors} descriptors, allowed are {self.most_descriptors}")
        return wrong

    @property
    def goals(self) -> list[Goal]:
        """What clients may notice at the most."""
        return [
            Goal(f"{self.fault}: p50, fault to healthy", P50_MOST, self.ratio(0.5).median),
            Goal(f"{self.fault}: p99, fault to healthy", P99_MOST, self.ratio(0.99).median),
        ]


Fault = Callable[[Rig], contextlib.AbstractContextManager[None]]


def behaving(mode: str, **how: Any) -> Fault:
    """The candidate behaves like this."""

    @contextlib.contextmanager
    def fault(one: Rig) -> Iterator[None]:
        one.upstream(CANDIDATE).switch(CANDIDATE, mode, **how)
        yield
        one.upstream(CANDIDATE).switch(CANDIDATE, "healthy")

    return fault


@contextlib.contextmanager
def store_stopped(one: Rig) -> Iterator[None]:
    """Redis takes requests and answers none."""
    one.stop_store()
    try:
        yield
    finally:
        one.continue_store()


@contextlib.contextmanager
def store_killed(one: Rig) -> Iterator[None]:
    """Redis is gone."""
    one.kill_store()
    yield
    one.restart_store()


class Comparator:
    """Runs in the healthy turns, and is killed amid its work for the others."""

    def __init__(self) -> None:
        self._process: Process | None = None

    def ensure(self, one: Rig) -> None:
        if self._process is None:
            self._process = one.comparator()

    @contextlib.contextmanager
    def dead(self, _one: Rig) -> Iterator[None]:
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            self._process.wait(10)
        self._process = None
        yield

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
        self._process = None


FAULTS: Final[dict[str, Fault]] = {
    "slow (1 s)": behaving("slow", slow=1.0),
    "hung": behaving("hung"),
    "refusing": behaving("refusing"),
    "resetting": behaving("resetting"),
    "dripping": behaving("dripping"),
    "garbage": behaving("garbage"),
    "half an answer": behaving("half"),
    "10 MB": behaving("huge", size=10_000_000),
    "endless": behaving("huge", size=None),
    "store stopped": store_stopped,
    "store killed": store_killed,
}
COMPARATOR_DEAD: Final = "comparator dead"
NAMES: Final = (*FAULTS, COMPARATOR_DEAD)


class Isolation:
    """The benchmark over one rig that has been warmed up."""

    def __init__(self, one: Rig, *, rate: float, seconds: float, lead: float, warm_up: float) -> None:
        self._rig = one
        self._rate, self._seconds, self._lead = rate, seconds, lead
        at_start = one.proxy.descriptors()
        one.clients.open_loop(rate=rate, seconds=warm_up, connections=CONNECTIONS)
        one.settled()
        settings = one.settings
        mirror = settings.proxy.mirror
        self.most_descriptors = (
            at_start
            + CONNECTIONS
            + CONNECTIONS
            + settings.baseline.max_idle
            + mirror.max_in_flight
            + settings.candidate.max_idle
            + _MARGIN_DESCRIPTORS
        )
        copies = mirror.max_in_flight * settings.proxy.capture
        self.most_rss = one.proxy.rss() + settings.recorder.max_bytes + copies + _MARGIN_BYTES

    def measure(self, name: str, rounds: int) -> Measured:
        """One fault, in turn with health."""
        one = self._rig
        self._heal()
        before = one.settled()
        comparator = Comparator() if name == COMPARATOR_DEAD else None
        fault = FAULTS[name] if comparator is None else comparator.dead
        healthy, faulty = [], []
        for number in range(rounds):
            if comparator is not None:
                comparator.ensure(one)
            healthy.append(self._turn(number))
            with fault(one):
                faulty.append(self._turn(number))
        if comparator is not None:
            comparator.stop()
        audit = one.audit()
        after, was = audit.candidate, before.of(CANDIDATE)
        lost, were = audit.account.dropped, before.account.dropped
        return Measured(
            name,
            tuple(healthy),
            tuple(faulty),
            audit,
            {outcome: count - was.get(outcome, 0) for outcome, count in after.items() if count > was.get(outcome, 0)},
            {reason: count - were.get(reason, 0) for reason, count in lost.items() if count > were.get(reason, 0)},
            self.most_rss,
            self.most_descriptors,
        )

    def _heal(self) -> None:
        """Ask until the breaker, which the fault before has opened, lets copies through. Raises Failed."""
        deadline = time.monotonic() + _HEALED_WITHIN
        while True:
            before = self._rig.settled().of(CANDIDATE).get("ok", 0)
            self._rig.clients.closed_loop(_PROBES, connections=1)
            if self._rig.settled().of(CANDIDATE).get("ok", 0) == before + _PROBES:
                return
            if time.monotonic() > deadline:
                raise Failed(f"the candidate is not asked again within {_HEALED_WITHIN:g} s of a fault")
            time.sleep(0.2)

    def _turn(self, seed: int) -> Turn:
        self._rig.seed(seed)
        before = self._rig.proxy.cpu()
        with Watch(self._rig.proxy) as watch:
            outcome = self._rig.clients.open_loop(
                rate=self._rate, seconds=self._seconds, lead=self._lead, connections=CONNECTIONS, seed=seed
            )
        return Turn(outcome, watch.rss, watch.descriptors, (self._rig.proxy.cpu() - before) / outcome.sent)


def run(options: Options) -> Report:
    """Measure, check and report."""
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = options.seconds or (1.0 if options.quick else 4.0)
    names = options.only or NAMES
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise NotMeasured(f"there is no fault {', '.join(unknown)}; there are {', '.join(NAMES)}")
    found = []
    with rig(CONFIGURATION) as one:
        bench = Isolation(one, rate=RATE, seconds=seconds, lead=LEAD, warm_up=seconds)
        for name in names:
            measured = bench.measure(name, rounds)
            found.append(measured)
            options.console.print(" ".join(_row(measured)), style="dim", highlight=False)
    return Report(
        "proxy-isolation",
        f"proxy-isolation: {RATE:g} requests/s, {rounds} rounds of {seconds:g} s each, fault to healthy",
        (
            "fault",
            "p50 ms",
            "p50 ratio",
            "p99 ms",
            "p99 ratio",
            "CPU ms",
            "errors",
            "RSS MiB",
            "descriptors",
            "candidate",
            "dropped",
            "",
        ),
        [_row(one) for one in found],
        goals=[goal for one in found for goal in one.goals],
        checks=[Check(one.fault, not one.contained, "; ".join(one.contained) or one.audit.text) for one in found],
        notes=(
            "Ratios are medians of the rounds; in brackets least and most.",
            f"How late the clients' requests left: {_late(found)}.",
        ),
        raw={"rounds": rounds, "seconds": seconds, "rate": RATE, "faults": [_raw(one) for one in found]},
    )


def _row(one: Measured) -> tuple[str, ...]:
    def milliseconds(of: Callable[[Turn], float]) -> str:
        pair = (float(np.median([of(turn) for turn in turns])) * 1e3 for turns in (one.healthy, one.faulty))
        return " → ".join(f"{value:.2f}" for value in pair)

    return (
        one.fault,
        milliseconds(lambda turn: turn.quantile(0.5)),
        one.ratio(0.5).text(3),
        milliseconds(lambda turn: turn.quantile(0.99)),
        one.ratio(0.99).text(),
        milliseconds(lambda turn: turn.cpu),
        str(sum(one.errors.values())),
        f"{one.rss / MiB:.0f} of {one.most_rss / MiB:.0f}",
        f"{one.descriptors} of {one.most_descriptors}",
        tally(one.exchanges),
        tally(one.dropped) or "none",
        "PASS" if not one.contained and all(goal.met for goal in one.goals) else "short",
    )


def _late(found: list[Measured]) -> str:
    late = [value for one in found for turn in (*one.healthy, *one.faulty) for value in turn.outcome.late]
    p50, p99 = np.quantile(late, (0.5, 0.99)) * 1e3
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, part of every latency above"


def _raw(one: Measured) -> dict[str, Any]:
    def turns(several: tuple[Turn, ...]) -> list[dict[str, Any]]:
        return [
            {
                "p50": turn.quantile(0.5),
                "p99": turn.quantile(0.99),
                "p50_from_sent": float(np.quantile(turn.outcome.from_sent, 0.5)),
                "p99_from_sent": float(np.quantile(turn.outcome.from_sent, 0.99)),
                "p99_late": float(np.quantile(turn.outcome.late, 0.99)),
                "sent": turn.outcome.sent,
                "errors": turn.outcome.errors,
                "rss": turn.rss,
                "descriptors": turn.descriptors,
                "cpu": turn.cpu,
            }
            for turn in several
        ]

    return {
        "fault": one.fault,
        "healthy": turns(one.healthy),
        "faulty": turns(one.faulty),
        "p50_ratio": asdict(one.ratio(0.5)),
        "p99_ratio": asdict(one.ratio(0.99)),
        "most_rss": one.most_rss,
        "most_descriptors": one.most_descriptors,
        "candidate": one.exchanges,
        "dropped": one.dropped,
        "wrong": one.contained,
    }
