"""proxy-latency: what each side adds to an answer's time, and how soon the copy follows the original.

Open loop, at 200 and at 500 requests a second: `paced.py` says how it is sent and why. In every round the upstream is
asked directly and through each side, with the same schedule; added p50 = p50(side) − p50(direct) of the same round, and
its ratio to what nginx without mirroring adds in that round. The upstreams are two nginx processes, so that answering
the copy doesn't hold up the answer to the original.

The copy's delay is measured in a run of its own, against one upstream that listens on both ports and knows by the
kernel's stamps when each request arrived (`stamping.py`): the candidate's stamp minus the baseline's of the same
X-Request-Id; negative where the copy was first.
"""

from __future__ import annotations

import itertools
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench import accounts, messages, peers
from bench.options import Options
from bench.peers import SHADOWPROXY, SIDES, Place, Running
from bench.procs import Failed, Rack, free_ports
from bench.report import Check, Goal, Report, Spread
from bench.stage import Counts, Stage, start
from bench.stage import rounds as in_turn

RATES: Final = (200, 500)
DIRECT: Final = "direct"
REFERENCE: Final = "nginx-plain"
_ADDED_GOAL: Final = 2.5
_COPY_GOAL: Final = 0.2e-3
_WARM_SECONDS: Final = 1.0
_PUNCTUAL: Final = 0.5e-3
"""Half of the requests must leave the client within this of when they were due, or its figures are worth little."""


@dataclass(frozen=True)
class Turn:
    """One side at one rate in one round; times in seconds."""

    side: str
    round: int
    rate: int
    answered: int
    p50: float
    p99: float
    late_p50: float
    """From when a request was due to when it was sent; likewise `late_p99`."""
    late_p99: float


@dataclass(frozen=True)
class Delay:
    """From the original's arrival to the copy's, in seconds, of one side at one rate in one round."""

    side: str
    round: int
    rate: int
    pairs: int
    p50: float
    p99: float


def run(options: Options) -> Report:
    """Measure, check and report."""
    rounds = options.rounds or (2 if options.quick else 7)
    seconds = options.seconds or (1.0 if options.quick else 4.0)
    names = options.only or tuple(SIDES)
    with Rack() as rack:
        stage = Stage(rack)
        sides, missing = start(names, stage.place)
        turns, checks = _answers(options, stage, sides, rounds, seconds)
    with Rack() as rack:
        delays, more = _copies(options, rack, [name for name in sides if SIDES[name].mirrors], rounds, seconds / 2)
    return _report(turns, delays, [*checks, *more], missing, rounds, seconds)


def _answers(
    options: Options, stage: Stage, sides: dict[str, Running], rounds: int, seconds: float
) -> tuple[list[Turn], list[Check]]:
    """Times of answers, directly and through each side."""
    client = _Client(stage.rack)
    ports = {DIRECT: stage.baseline.port, **{name: side.port for name, side in sides.items()}}
    asked = dict.fromkeys(ports, 0)
    got: dict[str, list[Counts]] = {name: [] for name in ports}
    turns = []

    def ask(name: str, number: int, rate: int, duration: float) -> Turn:
        before = stage.counts()
        times = client.run(ports[name], rate, duration, seed=number)
        got[name].append(stage.settled() - before)
        asked[name] += len(times.latencies)
        return _turn(name, number, rate, times)

    for name in ports:
        ask(name, 0, RATES[-1], min(seconds, _WARM_SECONDS))
    for number, (rate, name) in in_turn(rounds, tuple(itertools.product(RATES, ports))):
        turn = ask(name, number, rate, seconds)
        turns.append(turn)
        options.progress(f"round {number}/{rounds} {name} at {rate} a second: p50 {turn.p50 * 1e3:.3f} ms")
    checks = [*counted(asked, got)]
    if SHADOWPROXY in sides:
        baseline = sum(counts.baseline for counts in got[SHADOWPROXY])
        checks += accounts.checks(sides[SHADOWPROXY], stage.redis, baseline)
    return turns, checks


def _punctual(turns: Sequence[Turn]) -> Goal:
    late, tail = max(turn.late_p50 for turn in turns), max(turn.late_p99 for turn in turns)
    what = f"the client's own lateness, p50 of the worst turn, ms (its p99 is {tail * 1e3:.1f})"
    return Goal(what, _PUNCTUAL * 1e3, late * 1e3)


def counted(asked: dict[str, int], got: dict[str, list[Counts]]) -> Iterator[Check]:
    """That what was asked is what the upstreams got: of each side, the requests and what the upstreams counted."""
    for name, count in asked.items():
        baseline = sum(counts.baseline for counts in got[name])
        candidate = sum(counts.candidate for counts in got[name])
        copies = count if name in SIDES and SIDES[name].mirrors else 0
        yield Check(
            f"{name}: the upstreams got what was asked",
            baseline == count and candidate == copies,
            f"{count} asked and answered, {baseline} at the baseline, {candidate} at the candidate",
        )


def _copies(
    options: Options, rack: Rack, names: Sequence[str], rounds: int, seconds: float
) -> tuple[list[Delay], list[Check]]:
    """Delays of copies, for each side that mirrors."""
    ports = free_ports()
    baseline, candidate = next(ports), next(ports)
    answer, out = rack.folder / "answer", rack.folder / "arrivals.json"
    answer.write_bytes(messages.answer())
    command = [sys.executable, "-P", peers.HERE / "stamping.py", str(baseline), str(candidate), answer, out]
    upstream = rack.start("stamping", command, port=candidate)
    redis = peers.redis_server(rack)
    place = Place(rack, f"http://127.0.0.1:{baseline}", f"http://127.0.0.1:{candidate}", redis, ports)
    sides, _ = start(names, place)
    client = _Client(rack)
    asked = {}
    for turn, (number, (rate, name)) in enumerate(in_turn(rounds, tuple(itertools.product(RATES, sides)))):
        # Requests of one turn have ids that no other turn has.
        asked[name, number, rate] = client.run(sides[name].port, rate, seconds, seed=1000 + turn).ids
        options.progress(f"copies, round {number}/{rounds} {name} at {rate} a second")
    accounted = []
    if SHADOWPROXY in sides:
        mine = sum(len(ids) for (name, _, _), ids in asked.items() if name == SHADOWPROXY)
        accounted = accounts.checks(sides[SHADOWPROXY], redis, mine)
    if upstream.stop() != 0:
        raise Failed(f"the upstream that stamps arrivals failed: {upstream.output()[-500:]}")
    arrivals = json.loads(out.read_text())
    delays, checks = [], accounted
    for name in sides:
        whole = copied = 0
        for (side, number, rate), ids in asked.items():
            if side != name:
                continue
            found = [arrivals["candidate"][one] - arrivals["baseline"][one] for one in ids if _both(arrivals, one)]
            delays.append(Delay(name, number, rate, len(found), *_quantiles(found)))
            whole, copied = whole + len(ids), copied + len(found)
        checks.append(Check(f"{name}: every copy was seen", copied == whole, f"{copied} of {whole}"))
    return delays, checks


def _both(arrivals: dict[str, dict[str, float]], one: str) -> bool:
    return one in arrivals["baseline"] and one in arrivals["candidate"]


@dataclass(frozen=True)
class _Times:
    ids: list[str]
    latencies: list[float]
    lateness: list[float]


class _Client:
    """Runs `paced.py`."""

    def __init__(self, rack: Rack) -> None:
        self._rack = rack

    def run(self, port: int, rate: int, seconds: float, seed: int) -> _Times:
        """One turn; every request is answered, or it raises Failed."""
        made = messages.requests(round(rate * seconds), seed=seed)
        requests, out = self._rack.folder / "paced-requests", self._rack.folder / "paced.json"
        messages.write(requests, made)
        command = [sys.executable, "-P", peers.HERE / "paced.py", str(port), str(rate), str(seconds), str(seed)]
        self._rack.run("paced", [*command, requests, out], within=seconds + 60)
        times: dict[str, Any] = json.loads(out.read_text())
        return _Times(
            ids=[messages.request_id(one) for one in made],
            latencies=[done - sent for done, sent in zip(times["done"], times["sent"], strict=True)],
            lateness=[sent - due for sent, due in zip(times["sent"], times["due"], strict=True)],
        )


def _turn(name: str, number: int, rate: int, times: _Times) -> Turn:
    return Turn(name, number, rate, len(times.latencies), *_quantiles(times.latencies), *_quantiles(times.lateness))


def _quantiles(values: Sequence[float]) -> tuple[float, float]:
    """p50 and p99; of at least two values."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98]


def added(turns: Sequence[Turn], rate: int) -> dict[str, list[float]]:
    """By side, what it adds to p50 in each round, in seconds."""
    p50 = {(turn.round, turn.side): turn.p50 for turn in turns if turn.rate == rate}
    found: dict[str, list[float]] = {}
    for (number, name), value in sorted(p50.items()):
        if name != DIRECT:
            found.setdefault(name, []).append(value - p50[number, DIRECT])
    return found


def _report(
    turns: list[Turn], delays: list[Delay], checks: list[Check], missing: dict[str, str], rounds: int, seconds: float
) -> Report:
    rows: dict[str, list[str]] = {}
    goals = [_punctual(turns)]
    figures: dict[str, Any] = {}
    for rate in RATES:
        extra = added(turns, rate)
        for name, values in extra.items():
            row = rows.setdefault(name, [SIDES[name].title])
            row.append(Spread.of([value * 1e3 for value in values]).text())
            to = (
                Spread.of([value / other for value, other in zip(values, extra[REFERENCE], strict=True)])
                if REFERENCE in extra
                else None
            )
            row.append(to.text(1) if to else "–")
            figures.setdefault(name, {})[f"added_p50_at_{rate}"] = values
            if name == SHADOWPROXY and to:
                goals.append(Goal(f"what shadowproxy adds at {rate} a second, to nginx", _ADDED_GOAL, to.median))
    rows = {name: rows[name] for name in SIDES if name in rows}
    for name, row in rows.items():
        for quantile in ("p50", "p99"):
            values = [getattr(delay, quantile) * 1e3 for delay in delays if delay.side == name]
            row.append(Spread.of(values).text() if values else "–")
            if name == SHADOWPROXY and values:
                goals.append(
                    Goal(f"its copy after the original, {quantile}, ms", _COPY_GOAL * 1e3, Spread.of(values).median)
                )
    head = [column for rate in RATES for column in (f"added p50 at {rate}/s, ms", "to nginx's")]
    return Report(
        name="proxy-latency",
        title="Latency added to p50, and the copy's delay",
        columns=("side", *head, "copy's delay p50, ms", "p99"),
        rows=list(rows.values()),
        checks=checks,
        goals=goals,
        not_measured=missing,
        notes=(
            f"Median of {rounds} rounds of {seconds:g} s at each rate (least–most), ratios within a round; open loop.",
            f"Asked directly, p50 was {_direct(turns)} ms.",
            "The copy's delay: its arrival after the original's, both rates; negative where the copy came first.",
        ),
        raw={
            "rounds": rounds,
            "seconds": seconds,
            "turns": [asdict(turn) for turn in turns],
            "delays": [asdict(delay) for delay in delays],
            "added": figures,
        },
    )


def _direct(turns: Sequence[Turn]) -> str:
    return Spread.of([turn.p50 * 1e3 for turn in turns if turn.side == DIRECT]).text()
