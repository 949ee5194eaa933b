"""decisions: how often each method decides wrongly, and after how many pairs rightly, over simulated experiments.

The evidence of shadowproxy's rows is the product's own: `stats.betting.MeanGrid`, `stats.quantiles.RatioGrid`, rules
and weights of `verdict.guardrails.rules`, the decision of `verdict.decide`, `stats.state`, `stats.blocks` and
`stats.inflation`. A scenario's experiments come in chunks, each drawn from a seed of its own, so that the figures are
the same however many processes share the work.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

import numpy as np
from bench.decisions import cells
from bench.decisions.reading import EVERY, FloatArray, Rate, Reading, joined, middle
from bench.decisions.scenarios import SCENARIOS, Scenario
from bench.options import Options
from bench.peers import NotMeasured
from bench.report import Check, Goal, Report

SEED: Final = 20_260
EXPERIMENTS: Final = 1_000
QUICK: Final = 50
_PROCESSES: Final = 2

_NOTES: Final = (
    "α = 5% for either decision. In round brackets the 95% Clopper–Pearson interval, in square ones the pairs.",
    "False: said at any look at which it is false. Of the three quantiles at the margin the worst.",
    f"A look every {EVERY} pairs; every 10 for a mean without a difference and for p50 of 1.3 times as slow.",
    "Latencies without a difference: every 100 for p90, 500 for p99; 1.3 times as slow: every 100 for p99.",
    "Two sequences: at most 40 looks. Kayenta: every 250, for means 500.",
    "Kayenta, with the margin as `allowedIncrease`, passes what it doesn't find higher by the end.",
)

Key = tuple[str, str]
"""Method, and quantile (`p50`) or nothing."""


@dataclass(frozen=True)
class Chunk:
    """Some experiments of one scenario."""

    name: str
    number: int
    experiments: int


def chunks(name: str, experiments: int) -> list[Chunk]:
    """All of a scenario's."""
    size = SCENARIOS[name].chunk
    return [Chunk(name, number, min(size, experiments - at)) for number, at in enumerate(range(0, experiments, size))]


def simulated(chunk: Chunk) -> dict[Key, Reading]:
    """What each method said; the same for the same chunk."""
    draw = np.random.default_rng([SEED, zlib.crc32(chunk.name.encode()), chunk.number])
    found: dict[Key, Reading] = {}
    for method, said in SCENARIOS[chunk.name].simulate(draw, chunk.experiments).items():
        if isinstance(said, Reading):
            found[method, ""] = said
        else:
            found |= {(method, f"p{quantile * 100:g}"): reading for quantile, reading in said.items()}
    return found


def all_simulated(work: Sequence[Chunk], processes: int) -> Iterator[tuple[Chunk, dict[Key, Reading]]]:
    """As they are done."""
    if processes <= 1:
        for chunk in work:
            yield chunk, simulated(chunk)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(simulated, chunk): chunk for chunk in work}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            # Told to end, it doesn't wait for what may take a minute yet.
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def run(options: Options) -> Report:
    """Simulate, check and report."""
    names = options.only or tuple(SCENARIOS)
    if unknown := set(names) - SCENARIOS.keys():
        raise NotMeasured(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    experiments = options.rounds or (QUICK if options.quick else EXPERIMENTS)
    work = {name: chunks(name, experiments) for name in names}
    parts: dict[str, dict[int, dict[Key, Reading]]] = defaultdict(dict)
    began = monotonic()
    # A process of its own costs a second or two to start.
    processes = 1 if options.quick else min(_PROCESSES, os.cpu_count() or 1)
    done: dict[str, dict[Key, Reading]] = {}
    for chunk, found in all_simulated([chunk for name in names for chunk in work[name]], processes):
        parts[chunk.name][chunk.number] = found
        if len(parts[chunk.name]) == len(work[chunk.name]):
            done[chunk.name] = _joined([found for _, found in sorted(parts.pop(chunk.name).items())])
            options.progress(_said(chunk.name, done, len(names), monotonic() - began))
    return _report({name: done[name] for name in names}, experiments)


def _joined(parts: Sequence[Mapping[Key, Reading]]) -> dict[Key, Reading]:
    return {key: joined([part[key] for part in parts]) for key in parts[0]}


def _said(name: str, done: Mapping[str, Mapping[Key, Reading]], of: int, seconds: float) -> str:
    cells_ = _row(
        SCENARIOS[name], [reading for (method, _), reading in done[name].items() if method == SCENARIOS[name].ours]
    )
    return f"{len(done)}/{of} {SCENARIOS[name].title}: {' | '.join(cells_)} ({seconds:.0f} s)"


def _times(reading: Reading, what: str) -> FloatArray | None:
    return reading.promote if what == "promote" else reading.rollback


def _worst(readings: Sequence[Reading], what: str) -> Rate | None:
    """The highest rate of several quantiles."""
    rates = [Rate.of_times(times) for reading in readings if (times := _times(reading, what)) is not None]
    return max(rates, key=lambda rate: rate.share, default=None)


def _row(scenario: Scenario, readings: Sequence[Reading]) -> tuple[str, str, str]:
    """Wrong promotes, wrong rollbacks, and what is right with its median of pairs, or what else there is to say."""

    def wrong(what: str) -> str:
        rate = _worst(readings, what) if what in scenario.wrong else None
        return rate.text() if rate is not None else "–"

    besides = []
    if scenario.right and (times := _times(readings[0], scenario.right)) is not None:
        median = f", {middle(times):,.0f} pairs" if math.isfinite(middle(times)) else ""
        besides.append(f"{scenario.right} {Rate.of_times(times).share:.1%}{median}")
    shares = {name: held for name, held in readings[0].shares.items() if name != cells.AGREES}
    besides += [f"{name} {held.mean():.1%}" for name, held in shares.items()]
    return wrong("promote"), wrong("rollback"), "; ".join(besides) or "–"


def _report(done: Mapping[str, Mapping[Key, Reading]], experiments: int) -> Report:
    rows: list[tuple[str, ...]] = []
    for name, found in done.items():
        last = ""
        for title, method, readings in _grouped(SCENARIOS[name], found):
            rows.append((title if title != last else "", method, *_row(SCENARIOS[name], readings)))
            last = title
    agreed = [
        reading.shares[cells.AGREES]
        for found in done.values()
        for reading in found.values()
        if cells.AGREES in reading.shares
    ]
    goals = [goal for name, found in done.items() for goal in _goals(SCENARIOS[name], found)]
    return Report(
        name="decisions",
        title="decisions: how often wrong, and how soon right",
        columns=("scenario", "method", "false promote", "false rollback", "right, median of pairs"),
        rows=rows,
        checks=[
            Check(
                "the weighted sum decides as verdict.decide does",
                bool(held.all()),
                f"in {held.sum():,} of {len(held):,} experiments",
            )
            for held in agreed
        ],
        goals=goals,
        not_measured={
            "adaptive bets and Kayenta over 100 cells": "bets need each cell's own order; the judge is shown "
            "on single means and latencies",
        },
        notes=(
            f"{experiments:,} simulated experiments a scenario.",
            *_NOTES,
            _missed(goals),
        ),
        raw={
            "experiments": experiments,
            "seed": SEED,
            "scenarios": {name: _raw(found) for name, found in done.items()},
        },
    )


def _missed(goals: Sequence[Goal]) -> str:
    missed = [goal.what for goal in goals if not goal.met]
    if not missed:
        return f"All {len(goals)} goals are met."
    return f"{len(missed)} of {len(goals)} goals are not met: {'; '.join(missed)}."


def _grouped(scenario: Scenario, found: Mapping[Key, Reading]) -> Iterator[tuple[str, str, list[Reading]]]:
    """Rows: where the pairs to a decision are asked for each quantile has its own, otherwise all share one."""
    parts = list(dict.fromkeys(part for _, part in found))
    if scenario.right:
        for part in parts:
            for (method, of), reading in found.items():
                if of == part:
                    yield f"{scenario.title} {part}".strip() + f" [{scenario.pairs[part]}]", method, [reading]
        return
    lengths = "; ".join(dict.fromkeys(scenario.pairs[part] for part in parts))
    for method in dict.fromkeys(method for method, _ in found):
        yield f"{scenario.title} [{lengths}]", method, [reading for (of, _), reading in found.items() if of == method]


def _goals(scenario: Scenario, found: Mapping[Key, Reading]) -> Iterator[Goal]:
    ours = {part: reading for (method, part), reading in found.items() if method == scenario.ours}
    rates = {what: rate for what in scenario.wrong if (rate := _worst(list(ours.values()), what)) is not None}
    if rates:
        what = max(rates, key=lambda what: rates[what].share)
        low, high = rates[what].interval
        # Of the two the more frequent one.
        yield Goal(
            f"{scenario.title}: false {what}, {rates[what].hits} of {rates[what].of} ({low:.1%}–{high:.1%})",
            scenario.most,
            rates[what].share,
        )
    for part, most in scenario.pairs_to_right.items():
        times = _times(ours[part], scenario.right)
        if times is not None:
            yield Goal(f"{scenario.title} {part}".strip() + f": pairs to {scenario.right}, median", most, middle(times))
    if scenario.fewer_than:
        for part, reading in ours.items():
            mine, theirs = (_times(one, scenario.right) for one in (reading, found[scenario.fewer_than, part]))
            if mine is not None and theirs is not None:
                yield Goal(
                    f"{scenario.title} {part}: pairs to {scenario.right}, to those of {scenario.fewer_than}",
                    1.0,
                    middle(mine) / middle(theirs) if math.isfinite(middle(mine)) else math.inf,
                )


def _raw(found: Mapping[Key, Reading]) -> list[dict[str, Any]]:
    rows = []
    for (method, part), reading in found.items():
        row: dict[str, Any] = {"method": method, "quantile": part}
        for what in ("promote", "rollback"):
            times = _times(reading, what)
            if times is not None:
                rate, median = Rate.of_times(times), middle(times)
                row[what] = {
                    "said": rate.hits,
                    "of": rate.of,
                    "interval": rate.interval,
                    "median_pairs": median if math.isfinite(median) else None,
                }
        row["shares"] = {name: float(held.mean()) for name, held in reading.shares.items()}
        rows.append(row)
    return rows
