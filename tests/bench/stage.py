"""What the sides of a comparison stand between: two upstreams that count, and a store."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench import peers
from bench.peers import SIDES, NotMeasured, Place, Running
from bench.procs import Failed, Rack, free_ports

_T = TypeVar("_T")


@dataclass(frozen=True)
class Counts:
    """Requests at both upstreams, and connections that the candidate accepted; so far, or as a difference."""

    baseline: int
    candidate: int
    candidate_connections: int

    def __sub__(self, other: Counts) -> Counts:
        return Counts(
            self.baseline - other.baseline,
            self.candidate - other.candidate,
            self.candidate_connections - other.candidate_connections,
        )


class Stage:
    """Two nginx that answer at once and count, one for each upstream's part, and a Redis. All belong to the rack."""

    def __init__(self, rack: Rack) -> None:
        ports = free_ports()
        self.rack = rack
        self.baseline = peers.counted_upstream(rack, "baseline", ports)
        self.candidate = peers.counted_upstream(rack, "candidate", ports)
        self.redis = peers.redis_server(rack)
        self.place = Place(rack, self.baseline.url, self.candidate.url, self.redis, ports)

    def counts(self) -> Counts:
        """As of now."""
        requests, connections = self.candidate.counts()
        return Counts(self.baseline.counts()[0], requests, connections)

    def settled(self) -> Counts:
        """Once no more requests come, and batches of pairs that lingered are written. Raises Failed after 15 s."""
        last = self.counts()
        for _ in range(50):
            time.sleep(0.3)
            now = self.counts()
            if now == last:
                return now
            last = now
        raise Failed("the upstreams still get requests 15 s after the load was over")


def start(names: Sequence[str], place: Place) -> tuple[dict[str, Running], dict[str, str]]:
    """The sides that run, and why others can't be measured. Raises NotMeasured for a name that no side has."""
    running: dict[str, Running] = {}
    missing: dict[str, str] = {}
    for name in names:
        if name not in SIDES:
            raise NotMeasured(f"there is no side {name}; there are {', '.join(SIDES)}")
        try:
            running[name] = SIDES[name].start(place)
        except (NotMeasured, Failed) as error:
            missing[name] = str(error)
    return running, missing


def rounds(number: int, items: Sequence[_T]) -> Iterator[tuple[int, _T]]:
    """Every item once in each round, with the round's number from 1; the one that begins moves on by one each time."""
    for count in range(number):
        shift = count % len(items)
        for item in (*items[shift:], *items[:shift]):
            yield count + 1, item
