"""What each process can export at the most: registries in which every label has every word it may have, and how many
series that is. docs/metrics.md tells it, and a test holds the words to the code."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, get_args

from prometheus_client import Metric

from shadowproxy import metrics
from shadowproxy.compare.extraction.bodies import BodyFault
from shadowproxy.compare.families.failures import KINDS
from shadowproxy.metrics.comparator import BATCH_BUCKETS
from shadowproxy.metrics.exposition import LATENCY_BUCKETS
from shadowproxy.model import Accounting, Outcome, Side
from shadowproxy.pairs.ledger import DROPPED, SHED, SKIPPED
from shadowproxy.proxy.breaker import BreakerState
from shadowproxy.proxy.overrides import OBSTACLES
from shadowproxy.proxy.redact_json import REASONS
from shadowproxy.proxy.tls import HANDSHAKE_FAILURES
from shadowproxy.tracing.outbox import DROPPED as DROPPED_SPANS
from shadowproxy.verdict.guardrails.batch import KEYS
from shadowproxy.verdict.guardrails.dependence import BLOCKS

COMPARED: Final = (Side.BASELINE, Side.CANDIDATE)
SHADOWS: Final = (Side.CANDIDATE, Side.REPLICA)
FAULTS: Final = get_args(BodyFault)
CHECKS: Final = (
    "min_pairs", "recorded", "nothing_lost", "no_dead_letters", "clocks", "undefined", "versions", "duration",
    "independence", "calibrated", "clipped",
)  # fmt: skip
QUANTILES: Final = ("0.5", "0.9", "0.99")
TIMINGS: Final = ("ttfb", "total")

Factor = tuple[int | None, str]
"""How many of what; None where the settings say."""

_SIDES: Final[Factor] = (len(Side), "sides")
_SHADOWS: Final[Factor] = (len(SHADOWS), "shadow sides")
_CELL: Final[tuple[Factor, ...]] = ((None, "guardrails"), (None, "(`verdict.max_cohorts` + 2)"))
_LATENCY: Final[Factor] = (len(LATENCY_BUCKETS) + 3, "buckets and sums")

AT_MOST: Final[dict[str, tuple[Factor, ...]]] = {
    "exchange_duration_seconds": (_SIDES, _LATENCY),
    "exchanges": (_SIDES, (len(Outcome), "outcomes")),
    "event_loop_lag_seconds": (_LATENCY,),
    "skipped": ((len(SKIPPED), "reasons"),),
    "dropped": ((len(DROPPED), "reasons"),),
    "in_flight_requests": (_SIDES,),
    "json_fields_unapplied": (_SIDES, (len(OBSTACLES), "obstacles")),
    "redaction_left_out": ((len(REASONS), "reasons"),),
    "upstream_addresses": (_SIDES,),
    "upstream_healthy_addresses": (_SIDES,),
    "upstream_failed_lookups": (_SIDES,),
    "failed_handshakes": ((len(HANDSHAKE_FAILURES), "reasons"),),
    "breaker_state": (_SHADOWS, (len(BreakerState), "states")),
    "breaker_transitions": (_SHADOWS, (len(BreakerState), "states")),
    "in_flight_bytes": (_SHADOWS,),
    "shed_copies": (_SHADOWS, (len(SHED), "reasons")),
    "untraced_requests": ((len(DROPPED_SPANS), "reasons"),),
    "compare_duration_seconds": (_LATENCY,),
    "compare_batch_pairs": ((len(BATCH_BUCKETS) + 3, "buckets and sums"),),
    "failed_exchanges": (_SIDES, (len(KINDS), "kinds")),
    "bad_bodies": (_SIDES, (len(FAULTS), "reasons")),
    "verdict": ((3, "states"),),
    "guardrail_finding": (*_CELL, (3, "findings")),
    "guardrail_inflation_ratio": ((None, "guardrails"), (len(KEYS) + 1, "of `by`")),
    "check_passed": ((len(CHECKS), "checks"),),
    "latency_seconds": (
        (len(COMPARED), "sides"),
        (len(TIMINGS), "timings"),
        (len(QUANTILES) + 1, "quantiles and a count"),
    ),
    "score_ks": ((None, "routes"),),
    "score_psi": ((None, "routes"),),
    "score_wasserstein": ((None, "routes"),),
    "score_jensen_shannon": ((None, "routes"),),
    "upstream_version": (_SIDES,),
    "workers": ((2, "states"),),
}
"""Of the families with labels, by name without prefix. Of guardrail × cohort there are many; they are not repeated."""


def factors(name: str) -> tuple[Factor, ...]:
    """What multiplies to the most series of a family; nothing where it has no labels."""
    short = name.removeprefix("shadowproxy_")
    return AT_MOST.get(short, _CELL if short.startswith("guardrail_") else ())


def at_most(name: str) -> str:
    """That in words, such as `3 sides × 6 outcomes = 18`."""
    found = factors(name)
    if not found:
        return "1"
    told = " × ".join(what if count is None else f"{count} {what}" for count, what in found)
    known = [count for count, _ in found if count is not None]
    return f"{told} = {math.prod(known)}" if len(known) == len(found) > 1 else told


def reading(**changes: Any) -> metrics.VerdictReading:
    """A verdict of which everything is known, of one guardrail, one cohort and one route."""
    cell = metrics.GuardrailReading(
        guardrail="ranking.rbo", cohort="all", margin=0.1, estimate=0.05, interval_low=0.01, interval_high=0.09,
        e_promote=30.0, e_rollback=2.0, promote_threshold=20.0, rollback_threshold=40.0, pairs=100, undefined_pairs=3,
        needed_pairs=0.0, required=True, finding="safe",
    )  # fmt: skip
    known: dict[str, Any] = {
        "state": "continue",
        "experiment": "default-12ab",
        "age": 0.5,
        "pairs": 110,
        "open_pairs": 1,
        "exhausted": False,
        "changed_at": 1700000000.0,
        "evidence_rollback": 1.5,
        "evidence_rollback_threshold": 20.0,
        "forecast_pairs": 900.0,
        "forecast_seconds": 90.0,
        "stream": metrics.StreamReading(
            lag=1,
            pending=2,
            waiting_bytes=3,
            kept_bytes=4,
            lost_entries=5,
            lost_pairs=6,
            missing_pairs=7,
            dead_letters=8,
        ),
        "guardrails": (cell,),
        "checks": {name: name != "recorded" for name in CHECKS},
        "inflation": {("ranking.rbo", by): 1.25 for by in (*KEYS, BLOCKS)},
        "latencies": tuple(
            metrics.LatencyReading(side=side, timing=timing, pairs=100, seconds=dict.fromkeys(QUANTILES, 0.25))
            for side in COMPARED
            for timing in TIMINGS
        ),
        "distances": (
            metrics.DistanceReading(route="recommend", ks=0.1, psi=0.2, wasserstein=0.3, jensen_shannon=0.4),
        ),
        "versions": {side.value: f"{side.value}-1.2" for side in Side},
        "labels": {field: 1 for field, *_ in metrics.VerdictMetrics.LABELS},
    }
    return metrics.VerdictReading(**known | changes)


def proxy(into: metrics.Registry) -> None:
    """A proxy to which everything has happened."""
    account = Accounting(9, 6, 4, skipped=dict.fromkeys(SKIPPED, 3), dropped=dict.fromkeys(DROPPED, 2))
    observed = metrics.ProxyMetrics(into)
    observed.watch(
        lambda: account,
        lambda: dict.fromkeys(Side, 2),
        lambda: 3,
        lambda: (4, 500),
        lambda: (5, 600, 7),
        most=(1000, 2000),
    )
    observed.watch_edits(
        lambda: {side: dict.fromkeys(OBSTACLES, 1) for side in Side}, lambda: dict.fromkeys(REASONS, 1)
    )
    observed.watch_network(
        lambda: dict.fromkeys(Side, (2, 1)),
        lambda: dict.fromkeys(Side, 1),
        lambda: dict.fromkeys(HANDSHAKE_FAILURES, 1),
    )
    for side in Side:
        observed.observer(side)(Outcome.OK, 0.02)
        observed.observer(side)(Outcome.TIMEOUT, math.inf)


def mirror(into: metrics.Registry) -> None:
    """One that mirrors to both shadow sides."""
    shadow = metrics.ShadowReading(
        breaker="open",
        transitions={state.value: 2 for state in BreakerState},
        held=7,
        shed=dict.fromkeys(SHED, 5),
    )
    metrics.MirrorMetrics(
        into, lambda: metrics.MirrorReading(paused=True, sample=0.0, sides=dict.fromkeys(SHADOWS, shadow))
    )


def tracing(into: metrics.Registry) -> None:
    """One that makes spans."""
    metrics.TracingMetrics(into, lambda: 3, lambda: dict.fromkeys(DROPPED_SPANS, 1))


def comparator(into: metrics.Registry) -> None:
    """A comparator that has counted."""
    compared = metrics.ComparatorMetrics(into, kinds=KINDS, faults=FAULTS)
    compared.pairs.inc(5)
    compared.batch_pairs.observe(5)
    compared.failure(Side.CANDIDATE, "timeout", 2, "request-1")


def api(into: metrics.Registry) -> None:
    """The API, with a verdict."""
    metrics.VerdictMetrics(into, reading)


def filled() -> dict[str, metrics.Registry]:
    """By process, a registry with every series that there can be, of one guardrail, cohort and route."""
    made = {name: metrics.registry() for name in ("proxy", "comparator", "api")}
    proxy(made["proxy"])
    mirror(made["proxy"])
    tracing(made["proxy"])
    comparator(made["comparator"])
    api(made["api"])
    made["parent of several proxy workers"] = metrics.of_workers(metrics.registry(), {}, configured=1, restarts=0)
    return made


def families(registry: metrics.Registry) -> Iterable[Metric]:
    """Those that are shadowproxy's own."""
    return (family for family in registry.collect() if family.name.startswith("shadowproxy_"))
