"""pairs-throughput: what a pair costs its producer, how many a second the comparators count, and what waits in memory.

In every round, for each number of comparators: they are started and stopped (SIGSTOP), a producer of its own process
(`bench.producing`) fills the stream, the server says how much more memory it uses, and the comparators go on. Their
throughput is that of the wall clock from there until all is committed; their CPU is that of the processes, per pair.

The server keeps nothing on disk, so that its disk is not measured. It has a core's worth to do itself, and so have the
comparators: where there are fewer cores than processes, more comparators can't be faster, and the report says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench import peers
from bench.options import Options
from bench.peers import HERE, PACKAGE, NotMeasured
from bench.procs import Failed, Process, Rack
from bench.report import Check, Goal, Report, Spread
from bench.stage import rounds as in_turn
from redis import Redis

from shadowproxy.config import Settings, experiment_id, load
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Snapshot

PAIRS: Final = 100_000
CPU_MOST: Final = 12.0
"""Microseconds of a producer's CPU that a pair may cost."""
_MiB: Final = 1024**2


@dataclass(frozen=True)
class Side:
    """A way to write the pairs, and who counts them."""

    title: str
    comparators: int
    compression: int = 0
    keep: int | None = None
    """Bytes of `redis.keep`; None for the default."""


SIDES: Final[Mapping[str, Side]] = {
    "one": Side("1 comparator", 1),
    "two": Side("2 comparators", 2),
    "four": Side("4 comparators", 4),
    "keep-0": Side("1 comparator, `redis.keep: 0`", 1, keep=0),
    "compressed": Side("1 comparator, `recorder.compression: 1`", 1, compression=1),
}


@dataclass(frozen=True)
class Turn:
    """One side in one round."""

    side: str
    pairs: int
    size: int
    """Bytes captured of a pair, on average."""
    producer_cpu: float
    """Seconds, of all pairs; likewise the others."""
    producer_seconds: float
    memory: int
    """Bytes that the server uses for the pairs that wait."""
    comparator_cpu: float
    comparator_seconds: float
    account: Mapping[str, Any]
    committed: int
    """Pairs; likewise those that were lost or can't be read."""
    lost: int

    @property
    def producer(self) -> float:
        """Microseconds of CPU per pair; likewise `comparator`."""
        return self.producer_cpu / self.pairs * 1e6

    @property
    def comparator(self) -> float:
        return self.comparator_cpu / self.pairs * 1e6

    @property
    def rate(self) -> float:
        """Pairs counted a second."""
        return self.pairs / self.comparator_seconds

    @property
    def waiting(self) -> float:
        """MiB of the server per 100,000 pairs that wait."""
        return self.memory / self.pairs * 100_000 / _MiB

    @property
    def whole(self) -> bool:
        """Whether every pair was recorded and counted."""
        told = self.account
        return (
            self.pairs == told["requests"] == told["eligible"] == told["recorded"] == self.committed and not self.lost
        )


class Bench:
    """A server, and what runs on it."""

    def __init__(self, rack: Rack) -> None:
        self._rack = rack
        self._url = peers.redis_server(rack)
        self._runs = 0

    def turn(self, name: str, pairs: int) -> Turn:
        """Fill the stream, then count what is in it."""
        side = SIDES[name]
        self._runs += 1
        config, settings = self._configured(side)
        with Redis.from_url(self._url) as client:
            comparators = [self._comparator(config) for _ in range(side.comparators)]
            try:
                for one in comparators:
                    one.signal(signal.SIGSTOP)
                before = client.info("memory")["used_memory"]
                said = json.loads(self._produced(config, pairs))
                memory = client.info("memory")["used_memory"] - before
                cpu, began = sum(one.cpu() for one in comparators), time.perf_counter()
                for one in comparators:
                    one.signal(signal.SIGCONT)
                found = self._all_counted(settings, pairs, 60 + pairs / 500)
                seconds, cpu = time.perf_counter() - began, sum(one.cpu() for one in comparators) - cpu
            finally:
                for one in comparators:
                    one.stop()
                    self._rack.processes.remove(one)
            client.flushall()
        return Turn(
            side=name,
            pairs=pairs,
            size=said["bytes"],
            producer_cpu=said["cpu"],
            producer_seconds=said["seconds"],
            memory=memory,
            comparator_cpu=cpu,
            comparator_seconds=seconds,
            account=said["account"],
            committed=found.committed_pairs,
            lost=found.lost_pairs + found.dead_pairs,
        )

    def _configured(self, side: Side) -> tuple[Path, Settings]:
        path = self._rack.folder / f"throughput-{self._runs}.json"
        store: dict[str, Any] = {"url": self._url}
        if side.keep is not None:
            store["keep"] = side.keep
        path.write_text(
            json.dumps(
                {
                    "experiment": f"throughput-{self._runs}",
                    "baseline": "http://127.0.0.1:1",
                    "candidate": "http://127.0.0.1:2",
                    "redis": store,
                    "recorder": {"compression": side.compression},
                    "routes": [
                        {
                            "name": "recommend",
                            "path": "/recommend",
                            "ids": "response.body.items[*].id",
                            "scores": "response.body.items[*].score",
                            "cohorts": {"k": "request.body.k"},
                        }
                    ],
                    "comparator": {"admin": "127.0.0.1:0"},
                    "verdict": {"guardrails": [{"metric": "ranking.rbo", "margin": 0.1}]},
                    "log_level": "warning",
                },
                indent=2,
            )
        )
        return path, load(path)

    def _comparator(self, config: Path) -> Process:
        process = self._rack.start(
            "compare",
            [sys.executable, "-m", "shadowproxy", "compare", "--config", config],
            env={"PYTHONPATH": str(PACKAGE)},
        )
        process.wait_for(lambda: "comparator_admin: " in process.output(), "announce where it listens", 60)
        return process

    def _produced(self, config: Path, pairs: int) -> str:
        # Not as a module of the rack's environment: the benchmark's own modules stand beside the package.
        process = self._rack.start(
            "producer",
            [sys.executable, "-m", "bench.producing", config, pairs],
            env={"PYTHONPATH": os.pathsep.join((str(PACKAGE), str(HERE.parent)))},
        )
        try:
            if process.wait(60 + pairs / 500) != 0:
                raise Failed(f"the producer ended: {process.output().strip()[-500:]}")
        finally:
            process.stop()
            self._rack.processes.remove(process)
        return process.output().strip().splitlines()[-1]

    def _all_counted(self, settings: Settings, pairs: int, within: float) -> Snapshot:
        return asyncio.run(_all_counted(self._url, settings, pairs, within))


async def _all_counted(url: str, settings: Settings, pairs: int, within: float) -> Snapshot:
    """What the store says once all is committed. Raises Failed if that doesn't come."""
    most = settings.redis.max_entries
    async with Partitions.at(url, experiment_id(settings), max_entries=most) as store:
        deadline = time.monotonic() + within
        while (found := await store.snapshot()).committed_pairs < pairs:
            if time.monotonic() > deadline:
                raise Failed(f"only {found.committed_pairs} of {pairs} pairs were counted within {within:g} s")
            await asyncio.sleep(0.02)
        return found


def run(options: Options) -> Report:
    """Measure, check and report."""
    rounds = options.rounds or (1 if options.quick else 3)
    pairs = 5_000 if options.quick else PAIRS
    names = options.only or tuple(SIDES)
    if unknown := set(names) - SIDES.keys():
        raise NotMeasured(f"there is no side {', '.join(sorted(unknown))}; there are {', '.join(SIDES)}")
    turns = []
    with Rack() as rack:
        bench = Bench(rack)
        bench.turn(names[0], pairs // 10)
        for number, name in in_turn(rounds, names):
            turn = bench.turn(name, pairs)
            turns.append(turn)
            options.progress(
                f"round {number}/{rounds} {name}: producer {turn.producer:.1f} µs a pair, {turn.rate:,.0f} pairs a "
                f"second at {turn.comparator:.0f} µs each, {turn.waiting:.0f} MiB per 100,000 that wait"
            )
    return _report(turns, rounds, pairs)


def _report(turns: list[Turn], rounds: int, pairs: int) -> Report:
    sides = {name: [turn for turn in turns if turn.side == name] for name in dict.fromkeys(one.side for one in turns)}
    rows = [
        (
            SIDES[name].title,
            Spread.of([turn.producer for turn in mine]).text(1),
            Spread.of([turn.rate for turn in mine]).text(0),
            Spread.of([turn.comparator for turn in mine]).text(0),
            Spread.of([turn.waiting for turn in mine]).text(0),
        )
        for name, mine in sides.items()
    ]
    plain = [turn.producer for turn in turns if not SIDES[turn.side].compression]
    return Report(
        name="pairs-throughput",
        title=f"pairs-throughput: {pairs:,} pairs of {turns[0].size / 1000:.1f} KB",
        columns=(
            "",
            "producer, µs of CPU a pair",
            "pairs counted a second",
            "comparators, µs of CPU a pair",
            "MiB in the server per 100,000 pairs that wait",
        ),
        rows=rows,
        checks=[
            Check(
                f"{name}: every pair was recorded and counted",
                all(turn.whole for turn in mine),
                "; ".join(map(_told, mine)),
            )
            for name, mine in sides.items()
        ],
        goals=[Goal("a producer's CPU per pair, µs", CPU_MOST, Spread.of(plain).median)] if plain else [],
        notes=(
            f"Median of {rounds} rounds (least–most), in batches as the defaults have them.",
            f"{os.cpu_count()} cores for the server and all comparators: more of these than cores can't be faster.",
            "The server keeps nothing on disk.",
        ),
        raw={"rounds": rounds, "turns": [asdict(turn) for turn in turns]},
    )


def _told(turn: Turn) -> str:
    account = turn.account
    return f"{turn.committed:,} of {turn.pairs:,} counted, {account['recorded']:,} recorded, {turn.lost:,} lost"
