"""proxy-aa: the baseline against itself. Does the proxy make either side look slower?

Baseline and candidate are the same program with service times of one distribution, in two layouts by turns: as two
processes, and as two ports of one process. In every run a new proxy gets some thousand requests, open loop, and the
pairs are read from the stream as a comparator reads them. The latency of the candidate less that of the baseline,
pair by pair, should be zero on average: its mean is given with a standard error taken from the means of the runs,
which holds whatever pairs of one run have in common.

The upstream tells how long it kept each request itself. What is left of the difference without that is the proxy's
own (with the kernel's way there and back), and is known more exactly, since service times are random and this takes
them out.

Over the pairs of every run the product's own latency guardrails are judged as the verdict judges them, at their
default margins, anew whenever a bucket of pairs closes. None may ever say rollback.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from bench.openloop import Outcome
from bench.options import Options
from bench.report import Check, Goal, Report
from bench.rig import Audit, Rig, rig
from bench.wire import BASELINE, CANDIDATE
from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import CATALOGUE, Settings, experiment_id
from shadowproxy.model import Accounting, Pair, Side
from shadowproxy.pairs.codec import decode
from shadowproxy.pairs.store import Store
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Facts, State

RUNS: Final = 20
SECONDS: Final = 15.0
RATE: Final = 200.0
SERVICE: Final = 0.003
"""Seconds. The bias is a fixed time, so a slower service would make the same bias a smaller share."""
SPREAD: Final = 0.1
LAYOUTS: Final = {"two processes": False, "two ports of one": True}
LEAD: Final = 1.0
CONNECTIONS: Final = 32
BIAS_MOST: Final = 0.02
STRICT: Final = math.log2(1.02)
"""A margin far below any default, for a look at how near an alarm is."""
TIMINGS: Final = ("ttfb", "total")
_BUCKET: Final = 0.1

CONFIGURATION: Final[dict[str, Any]] = {"experiment": "aa", "redis": {"max_entries": 100_000}}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One run of one layout. Differences are candidate less baseline, seconds; shares are of the baseline's median."""

    layout: str
    pairs: int
    medians: dict[str, float]
    differences: dict[str, float]
    """Mean, by timing."""
    kept: float
    """Mean difference of what the upstream itself took."""
    alarms: dict[str, bool]
    """By margin (`default`, `strict`): whether any look said rollback."""
    looks: int
    errors: dict[str, int]
    audit: Audit


def run_once(layout: str, seed: int, *, seconds: float, rate: float = RATE) -> Run:
    """A new proxy, its load, and what its pairs say."""
    with rig(CONFIGURATION, same_process=LAYOUTS[layout], niceness=0, service=SERVICE, spread=SPREAD) as one:
        one.clients.open_loop(rate=rate, seconds=LEAD, connections=CONNECTIONS, seed=seed)
        one.settled()
        one.seed(seed)
        before = _kept(one)
        skip = len(recorded(one))
        outcome = one.clients.open_loop(rate=rate, seconds=seconds, connections=CONNECTIONS, seed=seed)
        audit = one.audit()
        kept = {side: total - before[side] for side, total in _kept(one).items()}
        pairs = recorded(one)[skip:]
    return _measured(layout, pairs, kept, outcome, audit)


def _kept(one: Rig) -> dict[str, float]:
    return {side: one.upstream(side).counts(side).kept for side in (BASELINE, CANDIDATE)}


def recorded(one: Rig) -> list[Pair]:
    """All pairs in the stream, in the order in which they were recorded."""

    async def read() -> list[Pair]:
        name, most = experiment_id(one.settings), one.settings.redis.max_entries
        async with await Store.open(one.valkey.url, name, max_entries=most) as store:
            # A worker's name is its claim to entries: read once, they are found again as its own.
            await store.read("aa", most, 0)
            entries = await store.own_pending("aa", most)
        return [pair for entry in entries for pair in decode(entry.payload)]

    return asyncio.run(read())


def _measured(layout: str, pairs: Sequence[Pair], kept: dict[str, float], outcome: Outcome, audit: Audit) -> Run:
    columns = Comparer(())(sorted(pairs, key=lambda pair: pair.started))
    medians, differences = {}, {}
    for timing in TIMINGS:
        both = getattr(columns, timing)
        medians[timing] = float(np.median(both[Side.BASELINE]))
        differences[timing] = float(np.mean(both[Side.CANDIDATE] - both[Side.BASELINE]))
    looked = {"default": looks(columns, audit.account, None), "strict": looks(columns, audit.account, STRICT)}
    return Run(
        layout=layout,
        pairs=len(pairs),
        medians=medians,
        differences=differences,
        kept=(kept[CANDIDATE] - kept[BASELINE]) / len(pairs),
        alarms={name: State.ROLLBACK in states for name, states in looked.items()},
        looks=len(looked["default"]),
        errors=outcome.errors,
        audit=audit,
    )


def looks(columns: Columns, account: Accounting, margin: float | None) -> list[State]:
    """What the verdict says each time a bucket of pairs is complete, with guardrails on both latencies.

    `margin` is in doublings; None takes each metric's default.
    """
    metrics = [f"latency.{timing}_log2" for timing in TIMINGS]
    settings = Settings.model_validate(
        {
            "baseline": "http://baseline:1",
            "candidate": "http://candidate:1",
            "verdict": {
                "bucket": _BUCKET,
                "guardrails": [{"metric": name, "margin": margin or CATALOGUE[name].margin} for name in metrics],
            },
        }
    )
    plan = Plan(settings)
    state = plan.empty()
    found = []
    for bucket, counted in sorted(plan.tally(columns, {}).items()):
        state = state.with_added({bucket: counted}).close((bucket + 1) * state.width + state.settle)
        facts = Facts(at=bucket * state.width, experiment="aa", accounting=account)
        found.append(plan.judge(state.total, {}, facts).state)
    return found


def run(options: Options) -> Report:
    """Measure, check and report."""
    runs = options.rounds or (4 if options.quick else RUNS)
    seconds = options.seconds or (3.0 if options.quick else SECONDS)
    found = []
    for seed in range(runs):
        one = run_once(tuple(LAYOUTS)[seed % len(LAYOUTS)], seed, seconds=seconds)
        found.append(one)
        shares = ", ".join(f"{timing} {one.differences[timing] / one.medians[timing]:+.2%}" for timing in TIMINGS)
        options.console.print(f"run {seed}, {one.layout}: {one.pairs:,} pairs, {shares}", style="dim", highlight=False)
    by_layout = [several for name in LAYOUTS if (several := [one for one in found if one.layout == name])]
    wrong = [text for one in found for text in (*one.audit.wrong, *one.errors)]
    alarms = {name: sum(one.alarms[name] for one in found) for name in ("default", "strict")}
    return Report(
        "proxy-aa",
        f"proxy-aa: baseline against itself, {runs} runs of {seconds:g} s at {RATE:g} requests/s",
        (
            "layout",
            "latency",
            "baseline's median, ms",
            "mean difference, µs",
            "share of the median",
            "the proxy's own, µs",
        ),
        [_row(several, timing) for several in by_layout for timing in TIMINGS],
        goals=[_bias(several, timing) for several in by_layout for timing in TIMINGS],
        checks=[
            Check(
                "the guardrails keep still",
                not alarms["default"],
                f"{alarms['default']} of {runs} runs said rollback, in {sum(one.looks for one in found):,} looks",
            ),
            Check("accounted for", not wrong, "; ".join(wrong) or f"{sum(one.pairs for one in found):,} pairs"),
        ],
        notes=(
            "± is one standard error, from the means of the runs.",
            "The proxy's own is the difference less what the upstream itself took.",
            f"With margins of 2% instead of the default 10%, {alarms['strict']} of {runs} runs say rollback.",
        ),
        raw={"runs": [_raw(one) for one in found]},
    )


def _raw(one: Run) -> dict[str, Any]:
    return {**{key: value for key, value in vars(one).items() if key != "audit"}, "account": one.audit.text}


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(np.mean(values)), error


def _row(found: Sequence[Run], timing: str) -> tuple[str, ...]:
    mean, error = _mean([one.differences[timing] for one in found])
    own, own_error = _mean([one.differences[timing] - one.kept for one in found])
    median = float(np.median([one.medians[timing] for one in found]))
    return (
        found[0].layout,
        timing,
        f"{median * 1e3:.3f}",
        f"{mean * 1e6:+.1f} ± {error * 1e6:.1f}",
        f"{mean / median:+.2%} ± {error / median:.2%}",
        f"{own * 1e6:+.1f} ± {own_error * 1e6:.1f}",
    )


def _bias(found: Sequence[Run], timing: str) -> Goal:
    mean, _ = _mean([one.differences[timing] for one in found])
    median = float(np.median([one.medians[timing] for one in found]))
    return Goal(f"{found[0].layout}: bias of {timing}, share of the median", BIAS_MOST, abs(mean) / median)
