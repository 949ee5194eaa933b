"""tracing: what spans cost the proxy, in CPU per mirrored request.

As proxy-cpu, with proxies of different settings in turn, and a collector that takes everything at once. All threads of
the proxy count. A closed loop asks as fast as it is answered, so that without a rate the thread that makes spans can't
keep up: what it drops costs it nothing, which is why the share that was traced stands beside the cost.
"""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench import messages, peers
from bench.options import Options
from bench.peers import Running
from bench.procs import Rack
from bench.report import Check, Report, Spread, ratios
from bench.stage import Stage
from bench.stage import rounds as in_turn

_PARENT: Final = re.compile(rb"(?i)\r\ntrace(?:parent|state):[^\r]*")
_OFF: Final = "off"
_FEW: Final = "on, and a hundredth is traced"


@dataclass(frozen=True)
class Turn:
    """One setting in one round."""

    side: str
    requests: int
    cpu: float
    traced: int

    @property
    def per_request(self) -> float:
        """Seconds of CPU."""
        return self.cpu / self.requests


def run(options: Options) -> Report:
    """Measure and report."""
    rounds = options.rounds or (2 if options.quick else 7)
    seconds = options.seconds or (2.0 if options.quick else 5.0)
    with Rack() as rack:
        stage = Stage(rack)
        bench = _Bench(stage, _collector(stage))
        for name in bench.sides:
            bench.turn(name, 1.0)
        turns = []
        for number, name in in_turn(rounds, tuple(bench.sides)):
            turn = bench.turn(name, seconds)
            turns.append(turn)
            options.progress(f"round {number}/{rounds} {name}: {turn.per_request * 1e6:.1f} µs, {turn.traced} traced")
    return _report(turns, rounds, seconds)


class _Bench:
    def __init__(self, stage: Stage, collector: str) -> None:
        self._stage = stage
        self._wrk = peers.program("wrk")
        plain = stage.rack.folder / "plain"
        traced = stage.rack.folder / "traced"
        asked = messages.requests()
        messages.write(traced, asked)
        messages.write(plain, [_PARENT.sub(b"", one) for one in asked])

        def proxy(**tracing: Any) -> Running:
            return peers.shadowproxy(stage.place, sections={"tracing": tracing})

        off = proxy()
        by_flag = proxy(endpoint=collector, sample=0.0)
        self.sides = {
            _OFF: (off, plain),
            "on, and none is traced": (by_flag, plain),
            _FEW: (proxy(endpoint=collector, sample=0.01), plain),
            "off, the client traces every request": (off, traced),
            "on, likewise, at 100 a second": (by_flag, traced),
            "on, likewise, without a rate": (proxy(endpoint=collector, sample=0.0, rate=10**6), traced),
        }

    def turn(self, name: str, seconds: float) -> Turn:
        """Load one. What it still does for these requests when the load is over counts too."""
        side, requests = self.sides[name]
        before, cpu, traced = self._stage.counts(), side.process.cpu(), _traced(side)
        self._stage.rack.run(
            "wrk",
            [
                *(self._wrk, "--threads", "1", "--connections", "32", "--duration", f"{max(1, round(seconds))}s"),
                *("--script", peers.HERE / "wrk.lua", f"http://127.0.0.1:{side.port}/", "--", requests),
            ],
            within=seconds + 30,
        )
        got = self._stage.settled() - before
        return Turn(name, got.baseline, side.process.cpu() - cpu, _traced(side) - traced)


def _collector(stage: Stage) -> str:
    port = next(stage.place.ports)
    peers.nginx(
        stage.place,
        "collector",
        f"    client_max_body_size 64m;\n    server {{ listen 127.0.0.1:{port}; location / {{ return 200; }} }}\n",
        port,
    )
    return f"http://127.0.0.1:{port}"


def _traced(side: Running) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{side.admin}/metrics", timeout=10) as page:
        found = re.search(rb"^shadowproxy_traced_requests_total (\S+)$", page.read(), re.MULTILINE)
    return int(float(found[1])) if found else 0


def _report(turns: Sequence[Turn], rounds: int, seconds: float) -> Report:
    by_side: dict[str, list[Turn]] = {}
    for turn in turns:
        by_side.setdefault(turn.side, []).append(turn)
    off = [turn.per_request for turn in by_side[_OFF]]
    rows = []
    for name, mine in by_side.items():
        share = sum(turn.traced for turn in mine) / sum(turn.requests for turn in mine)
        costs = [turn.per_request for turn in mine]
        rows.append((name, ratios(costs, off).text(), f"{Spread.of(costs).median * 1e6:.0f}", f"{share:.1%}"))
    few = by_side[_FEW]
    share = sum(turn.traced for turn in few) / sum(turn.requests for turn in few)
    return Report(
        name="tracing",
        title="CPU per mirrored request, with spans and without",
        columns=("tracing", "CPU to that without", "µs a request", "traced"),
        rows=rows,
        checks=[Check("a hundredth of the requests was traced", 0.008 < share < 0.012, f"{share:.2%}")],
        notes=(
            f"Median of {rounds} rounds of {seconds:g} s (least–most), ratios within a round; 32 connections.",
            "Each traced request has three spans: its own, the baseline's and the candidate's.",
        ),
        raw={"rounds": rounds, "seconds": seconds, "turns": [asdict(turn) for turn in turns]},
    )
