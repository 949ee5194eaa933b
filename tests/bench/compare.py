"""compare: what a pair costs from payload to state, beside the same comparison made pair by pair.

Both ways get the same payloads in the same process, one after the other in every round: entries of 100 pairs, 20
entries a read, as a comparator reads them. Ours goes from bytes to bytes: `codec.decode`, `Comparer`, `Plan.tally`,
`State.with_added`, `State.to_bytes`. The other (`bench.pairwise`) decodes the same entries and sums in Python. All is
CPU time of one thread; no store takes part. That both come to the same, pair by pair and in their sums, is checked.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import orjson
from bench import pairwise
from bench.options import Options
from bench.peers import NotMeasured
from bench.report import Check, Goal, Report, Spread
from bench.stage import rounds as in_turn

from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.presets import PRESETS
from shadowproxy.config import CATALOGUE, Settings
from shadowproxy.model import Exchange, Outcome, Pair, Request
from shadowproxy.pairs import codec
from shadowproxy.stats.moments import Moments
from shadowproxy.stats.state import State
from shadowproxy.verdict.plan import Plan

MOST: Final = 125.0
"""Microseconds of CPU that a pair of 50 items may cost: 8,000 a second."""
SHARE: Final = 1 / 15
"""Of what it costs pair by pair."""
CLOSE: Final = 1e-9
_ENTRY, _READ = 100, 20
_BINARY: Final = "open-inference"

Encode = Callable[[Sequence[str | int], Sequence[float]], tuple[bytes, bytes]]
"""From ids and scores to the head and the body of an answer."""


@dataclass(frozen=True)
class Side:
    """A shape of answers, and how both ways read it."""

    title: str
    items: int
    route: Mapping[str, Any]
    encode: Encode
    read: pairwise.Read
    integers: bool = False
    preset: str | None = None


def _json(ids: Sequence[str | int], scores: Sequence[float]) -> tuple[bytes, bytes]:
    found = [{"id": name, "score": score} for name, score in zip(ids, scores, strict=True)]
    return b"Content-Type: application/json\r\n", orjson.dumps({"model": "ranker", "items": found})


def _described(ids: Sequence[str | int], scores: Sequence[float]) -> tuple[bytes, bytes]:
    found = [
        {"id": name, "title": f"The one called {name}", "price": 12.5, "tags": ["new", "blue"], "score": score}
        for name, score in zip(ids, scores, strict=True)
    ]
    return b"Content-Type: application/json\r\n", orjson.dumps({"model": "ranker", "items": found})


def _tensors(ids: Sequence[str | int], scores: Sequence[float]) -> tuple[bytes, bytes]:
    """Two binary tensors after a JSON header whose length a header line tells.

    Source: Open Inference Protocol, binary tensor data extension (Triton, protocol/extension_binary_data.md).
    """
    columns = (("ids", "INT64", np.array(ids, "<i8")), ("scores", "FP64", np.array(scores, "<f8")))
    header = orjson.dumps(
        {
            "model_name": "ranker",
            "model_version": "1",
            "outputs": [
                {
                    "name": name,
                    "datatype": datatype,
                    "shape": [len(values)],
                    "parameters": {"binary_data_size": values.nbytes},
                }
                for name, datatype, values in columns
            ],
        }
    )
    lines = f"Content-Type: application/octet-stream\r\nInference-Header-Content-Length: {len(header)}\r\n"
    return lines.encode(), header + b"".join(values.tobytes() for _, _, values in columns)


def _read_tensors(exchange: Exchange) -> pairwise.Answer:
    _, _, rest = exchange.head.partition(b"Inference-Header-Content-Length: ")
    at = int(rest.partition(b"\r\n")[0])
    found = {}
    for output in orjson.loads(exchange.body[:at])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        kind = {"INT64": "<i8", "FP64": "<f8"}[output["datatype"]]
        found[output["name"]] = np.frombuffer(exchange.body[at : at + size], kind).tolist()
        at += size
    return found["ids"], found["scores"]


_JSON_ROUTE: Final = {"ids": "response.body.items[*].id", "scores": "response.body.items[*].score"}
_READ_JSON: Final = pairwise.json_reader("items[*].id", "items[*].score")
_TENSOR: Final = "response.body.tensors.{}"

SIDES: Final[Mapping[str, Side]] = {
    "50": Side("50 items", 50, _JSON_ROUTE, _json, _READ_JSON),
    "10": Side("10 items", 10, _JSON_ROUTE, _json, _READ_JSON),
    "500": Side("500 items", 500, _JSON_ROUTE, _json, _READ_JSON),
    "described": Side("50 items with title, price and tags", 50, _JSON_ROUTE, _described, _READ_JSON),
    "tensors": Side(
        "50 items in binary tensors",
        50,
        {"preset": _BINARY, "ids": _TENSOR.format("ids"), "scores": _TENSOR.format("scores")},
        _tensors,
        _read_tensors,
        integers=True,
        preset=_BINARY,
    ),
}


def settings_of(side: Side) -> Settings:
    """A configuration that compares such answers, with a guardrail of each family."""
    return Settings.model_validate(
        {
            "experiment": "bench",
            "baseline": "http://127.0.0.1:1",
            "candidate": "http://127.0.0.1:2",
            "routes": [{"name": "rank", "path": "/rank", "slow": "20ms", **side.route}],
            "verdict": {
                "guardrails": [
                    {"metric": "ranking.rbo", "margin": 0.1},
                    {"metric": "scores.relative_delta", "margin": 0.1},
                    {"metric": "latency.total_log2", "margin": 0.1},
                    {"metric": "failures.difference", "margin": 0.02},
                ]
            },
        }
    )


def pairs_of(side: Side, count: int, *, seed: int = 7) -> list[Pair]:
    """Pairs whose rankings agree for the most part: scores that moved a little, now and then tied, some other items."""
    draw = random.Random(seed)

    def exchange(scored: Mapping[str | int, float]) -> Exchange:
        ranked = sorted(scored, key=lambda name: -scored[name])
        head, body = side.encode(ranked, [scored[name] for name in ranked])
        took = draw.uniform(0.01, 0.03)
        return Exchange(Outcome.OK, 200, head, body, len(body), b"", took, took + 0.001)

    def pair(number: int) -> Pair:
        names = draw.sample(range(10**6), side.items * 11 // 10)
        ids: list[str | int] = list(names) if side.integers else [f"item-{name}" for name in names]
        baseline = {name: round(draw.random(), 3) for name in ids[: side.items]}
        stay = {name: score for name, score in baseline.items() if draw.random() < 0.95}
        kept = [*stay, *ids[side.items :]][: side.items]
        candidate = {name: round(baseline.get(name, 0.5) + draw.gauss(0, 0.05), 6) for name in kept}
        body = orjson.dumps({"user": number, "k": side.items})
        request = Request("POST", "/rank", b"Content-Type: application/json\r\n", body, len(body))
        return Pair(f"{number:032x}", 1e9 + number / 1000, request, exchange(baseline), exchange(candidate))

    return [pair(number) for number in range(count)]


@dataclass(frozen=True)
class Turn:
    """One side in one round: seconds of CPU, ours by step."""

    side: str
    pairs: int
    decode: float
    compare: float
    count: float
    """`Plan.tally`, `State.with_added` and `State.to_bytes`."""
    others: int
    """Pairs that the other way was given."""
    other: float

    @property
    def each(self) -> float:
        """Microseconds a pair; likewise `other_each`."""
        return (self.decode + self.compare + self.count) / self.pairs * 1e6

    @property
    def other_each(self) -> float:
        return self.other / self.others * 1e6

    @property
    def ratio(self) -> float:
        """How many times ours the other way costs."""
        return self.other_each / self.each


class Bench:
    """One side's payloads, and both ways to compare them."""

    def __init__(self, name: str, entries: int, others: int) -> None:
        self.name = name
        self._side = SIDES[name]
        settings = settings_of(self._side)
        self._plan, self._comparer = Plan(settings), Comparer(settings.routes)
        pairs = pairs_of(self._side, entries * _ENTRY)
        self._payloads = [codec.encode(pairs[at : at + _ENTRY]) for at in range(0, len(pairs), _ENTRY)]
        self._few = [codec.encode(pairs[:others])]

    def turn(self) -> Turn:
        """Both ways once."""
        now = time.thread_time
        began = now()
        pairs = _decoded(self._payloads)
        decoded = now()
        columns = self._comparer(pairs)
        compared = now()
        self._plan.empty().with_added(self._plan.tally(columns, {})).to_bytes()
        counted = now()
        few = _decoded(self._few)
        pairwise.compared(self._side.read, few)
        return Turn(
            side=self.name,
            pairs=len(pairs),
            decode=decoded - began,
            compare=compared - decoded,
            count=counted - compared,
            others=len(few),
            other=now() - counted,
        )

    def difference(self) -> float:
        """The largest difference of any value or sum between the two ways; +inf where one has what the other lacks."""
        pairs = _decoded(self._few)
        columns = self._comparer(pairs)
        others = [pairwise.observe(self._side.read, pair) for pair in pairs]
        state = State.from_bytes(self._plan.empty().with_added(self._plan.tally(columns, {})).to_bytes())
        sums = pairwise.compared(self._side.read, pairs).by_metric
        worst = 0.0
        for name in others[0]:
            theirs = np.array([values[name] for values in others])
            of_theirs = np.array(sums.get(name, (math.nan,) * 3))
            worst = max(worst, _apart(columns.values[name], theirs), _apart(_sums(state, name), of_theirs))
        return worst


def _decoded(payloads: Sequence[bytes]) -> list[Pair]:
    pairs: list[Pair] = []
    for payload in payloads:
        pairs += codec.decode(payload)
    return pairs


def _sums(state: State, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """n, Σx and Σx², from sums about a centre."""
    centre = CATALOGUE[name].ideal
    of_buckets = [bucket.tally[f"moments/{name}"][0] for bucket in state.open.values()]
    n, first, second = sum(of_buckets, start=np.zeros(Moments(centre).width))
    return np.array([n, first + n * centre, second + 2 * centre * first + n * centre**2])


def _apart(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    if ours.shape != theirs.shape or (np.isnan(ours) != np.isnan(theirs)).any():
        return math.inf
    # Of sums, which grow with the pairs, relative to their size.
    return float(np.nanmax(np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1.0), initial=0.0))


def run(options: Options) -> Report:
    """Measure, check and report."""
    number = options.rounds or (1 if options.quick else 5)
    entries, others = (1, 20) if options.quick else (_READ, 200)
    names = options.only or tuple(SIDES)
    if unknown := set(names) - SIDES.keys():
        raise NotMeasured(f"there is no side {', '.join(sorted(unknown))}; there are {', '.join(SIDES)}")
    absent = {
        SIDES[name].title: f"there is no preset {preset}, which reads such answers"
        for name in names
        if (preset := SIDES[name].preset) is not None and preset not in PRESETS
    }
    measured = [Bench(name, entries, others) for name in names if SIDES[name].title not in absent]
    if not measured:
        raise NotMeasured("; ".join(absent.values()))
    differences = {bench.name: bench.difference() for bench in measured}
    turns = []
    with _as_the_comparator():
        for count, bench in in_turn(number, measured):
            turn = bench.turn()
            turns.append(turn)
            options.progress(
                f"round {count}/{number} {bench.name}: {turn.each:.1f} µs a pair, {turn.other_each:.0f} µs pair by pair"
            )
    return _report(turns, differences, absent, number)


@contextlib.contextmanager
def _as_the_comparator() -> Iterator[None]:
    """What is loaded by now stays, and cycles are looked for less often (see `processes`)."""
    usual = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 50)
    try:
        yield
    finally:
        gc.set_threshold(*usual)
        gc.unfreeze()


def _report(turns: Sequence[Turn], differences: Mapping[str, float], absent: Mapping[str, str], number: int) -> Report:
    by_side = {name: [turn for turn in turns if turn.side == name] for name in differences}

    def spread(mine: Sequence[Turn], figure: Callable[[Turn], float], digits: int) -> str:
        return Spread.of([figure(turn) for turn in mine]).text(digits)

    rows = [
        (
            SIDES[name].title,
            spread(mine, lambda turn: turn.each, 1),
            spread(mine, lambda turn: 1e6 / turn.each, 0),
            " + ".join(
                f"{Spread.of([getattr(turn, step) / turn.pairs * 1e6 for turn in mine]).median:.1f}"
                for step in ("decode", "compare", "count")
            ),
            spread(mine, lambda turn: turn.other_each, 0),
            spread(mine, lambda turn: turn.ratio, 1),
        )
        for name, mine in by_side.items()
    ]
    goals = []
    if usual := by_side.get("50"):
        goals = [
            Goal("50 items: CPU of a pair, µs", MOST, Spread.of([turn.each for turn in usual]).median),
            Goal(
                "50 items: CPU of a pair to that of pair by pair",
                SHARE,
                Spread.of([1 / turn.ratio for turn in usual]).median,
            ),
        ]
    return Report(
        name="compare",
        title="compare: from payload to state, one thread",
        columns=(
            "",
            "µs of CPU a pair",
            "pairs a second",
            "decode + compare + count, µs",
            "pair by pair, µs",
            "ratio",
        ),
        rows=rows,
        checks=[
            Check(f"{name}: both ways come to the same", apart <= CLOSE, f"at most {apart:.1e} apart")
            for name, apart in differences.items()
        ],
        goals=goals,
        not_measured=absent,
        notes=(
            f"Median of {number} rounds (least–most), ratios within a round; {turns[0].pairs:,} pairs a read.",
            "Pair by pair: orjson, jmespath, scipy.stats (kendalltau, spearmanr, weightedtau), rbo; sums in Python.",
            f"One of {os.cpu_count()} cores; no store takes part.",
        ),
        raw={"rounds": number, "turns": [asdict(turn) for turn in turns], "differences": dict(differences)},
    )
