"""proxy-cpu: what one mirrored request costs each side in CPU.

Closed loop: 32 connections that are kept, each asking again as soon as it is answered. What is measured is CPU time
(user and system) of the side's own process and its workers, divided by the requests that the baseline got. The
upstreams, the load and Redis are processes of their own and don't count. It doesn't matter that they share the
machine's cores: waiting costs no CPU time.

In every round each side has its turn, in an order that moves on by one from round to round, and ratios are taken within
a round: a machine that is slower for a minute is slower for all.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from bench import accounts, messages, peers
from bench.options import Options
from bench.peers import SHADOWPROXY, SIDES, Running
from bench.procs import Rack
from bench.report import Check, Goal, Report, Spread, ratios
from bench.stage import Stage, start
from bench.stage import rounds as in_turn

CONNECTIONS: Final = 32
REFERENCE: Final = "nginx-mirror"
_WARM: Final = 1.0
_GOALS: Final[dict[str, float]] = {REFERENCE: 0.8, "traefik": 1.0, "aiohttp": 0.2}
"""What shadowproxy may cost at most, to that side."""


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

    @property
    def rate(self) -> float:
        """Requests answered in a second."""
        return self.answered / self.seconds


def run(options: Options) -> Report:
    """Measure, check and report."""
    rounds = options.rounds or (2 if options.quick else 7)
    seconds = options.seconds or (2.0 if options.quick else 6.0)
    wrk = peers.program("wrk")
    with Rack() as rack:
        stage = Stage(rack)
        load = _Load(stage, wrk)
        sides, missing = start(options.only or tuple(SIDES), stage.place)
        for name, side in sides.items():
            options.progress(f"{name}: pid {side.process.pid}, port {side.port}")
        warm = [load.turn(name, side, _WARM) for name, side in sides.items()]
        turns = []
        for number, name in in_turn(rounds, tuple(sides)):
            turn = load.turn(name, sides[name], seconds)
            turns.append(turn)
            options.progress(
                f"round {number}/{rounds} {name}: {turn.per_request * 1e6:.1f} µs a request, {turn.rate:.0f} a second"
            )
        checks = [check for name in sides for check in counted(name, turns)]
        if SHADOWPROXY in sides:
            asked = sum(turn.baseline for turn in (*warm, *turns) if turn.side == SHADOWPROXY)
            checks += accounts.checks(sides[SHADOWPROXY], stage.redis, asked)
    return _report(turns, checks, missing, rounds, seconds)


class _Load:
    """wrk, with requests that all differ."""

    def __init__(self, stage: Stage, wrk: str) -> None:
        self._stage = stage
        self._wrk = wrk
        self._requests = stage.rack.folder / "requests"
        messages.write(self._requests, messages.requests())

    def turn(self, name: str, side: Running, seconds: float) -> Turn:
        """Load one side. What it still does for these requests when the load is over counts too."""
        before, cpu = self._stage.counts(), side.process.cpu()
        said = self._stage.rack.run(
            "wrk",
            [
                *(
                    self._wrk,
                    "--threads",
                    "1",
                    "--connections",
                    str(CONNECTIONS),
                    "--duration",
                    f"{max(1, round(seconds))}s",
                ),
                *("--timeout", "10s", "--script", peers.HERE / "wrk.lua"),
                *(f"http://127.0.0.1:{side.port}/", "--", self._requests),
            ],
            within=seconds + 30,
        )
        got = self._stage.settled() - before
        load = json.loads(said.strip().splitlines()[-1])
        return Turn(
            side=name,
            seconds=load["seconds"],
            answered=load["requests"],
            errors=sum(load[kind] for kind in ("connect", "read", "write", "status", "timeout")),
            baseline=got.baseline,
            candidate=got.candidate,
            candidate_connections=got.candidate_connections,
            cpu=side.process.cpu() - cpu,
        )


def counted(name: str, turns: list[Turn]) -> list[Check]:
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
        left = 0 if name == SHADOWPROXY else CONNECTIONS * len(mine)
        checks.append(Check(f"{name}: the candidate got them all", baseline - left <= candidate <= baseline, detail))
    return checks


def _report(turns: list[Turn], checks: list[Check], missing: dict[str, str], rounds: int, seconds: float) -> Report:
    costs: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    for turn in turns:
        costs.setdefault(turn.side, []).append(turn.per_request)
        rates.setdefault(turn.side, []).append(turn.rate)
    to: dict[str, dict[str, Spread]] = {
        reference: {name: ratios(values, costs[reference]) for name, values in costs.items()}
        for reference in (REFERENCE, "traefik", "aiohttp")
        if reference in costs
    }
    spreads = to.get(REFERENCE, {})
    rows = [
        (
            SIDES[name].title,
            spreads[name].text() if name in spreads else "–",
            f"{Spread.of(values).median * 1e6:.0f}",
            f"{Spread.of(rates[name]).median:.0f}",
        )
        for name, values in costs.items()
    ]
    goals = [
        Goal(f"shadowproxy's CPU to that of {SIDES[reference].title}", limit, to[reference][SHADOWPROXY].median)
        for reference, limit in _GOALS.items()
        if SHADOWPROXY in to.get(reference, {})
    ]
    return Report(
        name="proxy-cpu",
        title="CPU per mirrored request",
        columns=("side", "CPU to nginx mirror's", "µs a request", "requests a second"),
        rows=rows,
        checks=checks,
        goals=goals,
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
            "ratios": {reference: {name: asdict(one) for name, one in by.items()} for reference, by in to.items()},
        },
    )
