"""proxy-cpu: what one mirrored request costs each side in CPU.

Closed loop: 32 connections that are kept, each asking again as soon as it is answered. What is measured is CPU time
(user and system) of the side's own process and its workers, divided by the requests that the baseline got. The
upstreams, the load and Redis are processes of their own and don't count. It doesn't matter that they share the
machine's cores: waiting costs no CPU time.

In every round each side has its turn, in an order that moves on by one from round to round, and ratios are taken within
a round: a machine that is slower for a minute is slower for all.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

from bench import messages, peers
from bench.options import Options
from bench.peers import SIDES, Counted, NotMeasured, Place, Running
from bench.procs import Failed, Rack, free_ports
from bench.report import Check, Report, Spread, ratios
from prometheus_client.parser import text_string_to_metric_families

from shadowproxy.config import experiment_id, load
from shadowproxy.pairs.store import Snapshot, Store

CONNECTIONS: Final = 32
REFERENCE: Final = "nginx-mirror"
_WARM: Final = 1.0


@dataclass(frozen=True)
class Turn:
    """One side in one round."""

    side: str
    seconds: float
    answered: int
    """By the load's count; likewise `errors`, of any kind."""
    errors: int
    baseline: int
    """Requests by this upstream's count; likewise `candidate`."""
    candidate: int
    candidate_connections: int
    cpu: float

    @property
    def per_request(self) -> float:
        """Seconds of CPU."""
        return self.cpu / self.baseline


def run(options: Options) -> Report:
    """Measure, check and report."""
    rounds = options.rounds or (2 if options.quick else 7)
    seconds = options.seconds or (2.0 if options.quick else 6.0)
    names = options.only or tuple(SIDES)
    if unknown := set(names) - SIDES.keys():
        raise NotMeasured(f"there is no side {', '.join(sorted(unknown))}; there are {', '.join(SIDES)}")
    with Rack() as rack:
        bench = _Bench(rack, peers.program("wrk"))
        sides, missing = bench.start(names)
        for name, side in sides.items():
            options.console.print(f"{name}: pid {side.process.pid}, port {side.port}", style="dim", highlight=False)
        for name in sides:
            bench.turn(name, sides[name], _WARM)
        turns: list[Turn] = []
        before = {name: bench.requests_of(side) for name, side in sides.items()}
        for number in range(rounds):
            order = [*sides]
            shift = number % len(order)
            for name in order[shift:] + order[:shift]:
                turn = bench.turn(name, sides[name], seconds)
                turns.append(turn)
                options.console.print(
                    f"round {number + 1}/{rounds} {name}: {turn.per_request * 1e6:.1f} µs a request, "
                    f"{turn.answered / turn.seconds:.0f} requests a second",
                    style="dim",
                    highlight=False,
                )
        checks = [check for name in sides for check in _counted(name, turns)]
        if "shadowproxy" in sides:
            mine = [turn for turn in turns if turn.side == "shadowproxy"]
            asked = sum(turn.baseline for turn in mine)
            checks += bench.accounted(sides["shadowproxy"], asked, before["shadowproxy"])
    return _report(turns, checks, missing, rounds, seconds)


class _Bench:
    """Upstreams, store and load of one run."""

    def __init__(self, rack: Rack, wrk: str) -> None:
        self._rack = rack
        self._wrk = wrk
        ports = free_ports()
        self._baseline = peers.counted_upstream(rack, "baseline", ports)
        self._candidate = peers.counted_upstream(rack, "candidate", ports)
        self._redis = peers.redis_server(rack)
        self._place = Place(rack, self._baseline.url, self._candidate.url, self._redis, ports)
        self._requests = rack.folder / "requests"
        messages.write(self._requests, messages.requests())

    def start(self, names: tuple[str, ...]) -> tuple[dict[str, Running], dict[str, str]]:
        """The sides that run, and why others don't."""
        running, missing = {}, {}
        for name in names:
            try:
                running[name] = SIDES[name].start(self._place)
            except (NotMeasured, Failed) as error:
                missing[name] = str(error)
        return running, missing

    def turn(self, name: str, side: Running, seconds: float) -> Turn:
        """Load one side. What it still does for these requests when the load is over counts too."""
        upstreams = (self._baseline, self._candidate)
        before = [upstream.counts() for upstream in upstreams]
        cpu = side.process.cpu()
        said = self._rack.run(
            "wrk",
            [
                *(self._wrk, "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds:.0f}s"),
                *("--timeout", "10s", "--script", peers.HERE / "wrk.lua"),
                *(f"http://127.0.0.1:{side.port}/", "--", self._requests),
            ],
            within=seconds + 30,
        )
        after = _settled(upstreams)
        load = json.loads(said.strip().splitlines()[-1])
        return Turn(
            side=name,
            seconds=load["seconds"],
            answered=load["requests"],
            errors=sum(load[kind] for kind in ("connect", "read", "write", "status", "timeout")),
            baseline=after[0][0] - before[0][0],
            candidate=after[1][0] - before[1][0],
            candidate_connections=after[1][1] - before[1][1],
            cpu=side.process.cpu() - cpu,
        )

    def requests_of(self, side: Running) -> float:
        """Requests that a side of ours has counted; 0 for others."""
        return _account(side)["requests"] if side.admin is not None else 0

    def accounted(self, side: Running, asked: int, before: float) -> list[Check]:
        """That shadowproxy's account balances, agrees with the upstreams' and is what the store has."""
        _eventually(lambda: _balanced(_account(side)))
        account = _account(side)
        stored, entries = asyncio.run(_stored(side, self._redis))
        kept = f"{stored.pairs} pairs in {stored.entries} entries written, {entries} entries still kept"
        return [
            Check("requests = skipped + eligible, eligible = recorded + dropped", _balanced(account), _words(account)),
            Check(
                "shadowproxy's requests are the baseline's",
                account["requests"] - before == asked,
                f"{account['requests'] - before:.0f} and {asked}",
            ),
            Check("nothing was skipped or dropped", account["recorded"] == account["requests"], _words(account)),
            Check("the stream got every pair", stored.pairs == account["recorded"], f"{kept}; the rest was trimmed"),
        ]


def _settled(upstreams: tuple[Counted, Counted]) -> list[tuple[int, int]]:
    """The upstreams' counts once nothing more comes, and batches that lingered are written."""
    last: list[tuple[int, int]] = []
    for _ in range(50):
        time.sleep(0.3)
        now = [upstream.counts() for upstream in upstreams]
        if now == last:
            return now
        last = now
    raise Failed("the upstreams still get requests 15 s after the load was over")


def _eventually(condition: Callable[[], bool], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)


def _account(side: Running) -> dict[str, float]:
    """shadowproxy's counters, from its /metrics; by reason summed up."""
    with urllib.request.urlopen(f"http://127.0.0.1:{side.admin}/metrics", timeout=10) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    return {
        name: sum(
            sample.value
            for family in families
            if family.name == f"shadowproxy_{name}"
            for sample in family.samples
            if sample.name.endswith("_total")
        )
        for name in ("requests", "eligible", "recorded", "skipped", "dropped")
    }


def _balanced(account: Mapping[str, float]) -> bool:
    return (
        account["requests"] == account["skipped"] + account["eligible"]
        and account["eligible"] == account["recorded"] + account["dropped"]
    )


def _words(account: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {count:.0f}" for name, count in account.items())


async def _stored(side: Running, url: str) -> tuple[Snapshot, int]:
    """What the store says was written, and how many entries it still has."""
    assert side.config is not None
    settings = load(side.config)
    async with await Store.open(url, experiment_id(settings), max_entries=settings.redis.max_entries) as store:
        snapshot = await store.snapshot()
    return snapshot, snapshot.undelivered + snapshot.pending


def _counted(name: str, turns: list[Turn]) -> list[Check]:
    """That the load, the baseline and the candidate agree. At its end the load leaves with requests under way."""
    mine = [turn for turn in turns if turn.side == name]
    answered, errors = sum(turn.answered for turn in mine), sum(turn.errors for turn in mine)
    baseline, candidate = sum(turn.baseline for turn in mine), sum(turn.candidate for turn in mine)
    checks = [
        Check(
            f"{name}: every request was answered by the baseline",
            not errors and answered <= baseline <= answered + CONNECTIONS * len(mine),
            f"{answered} answered, {errors} errors, {baseline} at the baseline",
        )
    ]
    if SIDES[name].mirrors:
        detail = f"{candidate} of {baseline}, over {sum(turn.candidate_connections for turn in mine)} connections"
        # Others end a copy whose client has left, as the load does at its end; for ours each copy counts.
        left = 0 if name == "shadowproxy" else CONNECTIONS * len(mine)
        checks.append(Check(f"{name}: the candidate got them all", baseline - left <= candidate <= baseline, detail))
    return checks


def _report(turns: list[Turn], checks: list[Check], missing: dict[str, str], rounds: int, seconds: float) -> Report:
    costs: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    for turn in turns:
        costs.setdefault(turn.side, []).append(turn.per_request)
        rates.setdefault(turn.side, []).append(turn.answered / turn.seconds)
    spreads = {name: ratios(values, costs[REFERENCE]) for name, values in costs.items() if REFERENCE in costs}
    rows = [
        (
            SIDES[name].title,
            spreads[name].text() if name in spreads else "–",
            f"{Spread.of(values).median * 1e6:.0f}",
            f"{Spread.of(rates[name]).median:.0f}",
        )
        for name, values in costs.items()
    ]
    return Report(
        name="proxy-cpu",
        title="CPU per mirrored request",
        columns=("side", "CPU to nginx mirror's", "µs a request", "requests a second"),
        rows=rows,
        checks=checks,
        not_measured=missing,
        notes=(
            f"Median of {rounds} rounds of {seconds:g} s (least–most), ratios within a round.",
            f"{CONNECTIONS} connections; requests of {messages.BODY_BYTES} bytes, answers of {messages.ANSWER_BYTES}.",
            "nginx and Traefik record nothing; nginx opens a connection for every mirrored request.",
        ),
        raw={
            "rounds": rounds,
            "seconds": seconds,
            "turns": [asdict(turn) for turn in turns],
            "ratios": {name: asdict(spread) for name, spread in spreads.items()},
        },
    )
