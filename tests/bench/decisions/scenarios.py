"""Every scenario: what is simulated, what would be wrong there, and what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from bench.decisions import cells, dependence, latencies, means, order
from bench.decisions.means import OURS, Stream
from bench.decisions.reading import ALPHA, Reading
from numpy.random import Generator

Found = Mapping[str, Reading | Mapping[float, Reading]]
"""By method, and by quantile where there are some."""


@dataclass(frozen=True)
class Scenario:
    """`simulate` draws that many experiments and says what each method said in them."""

    title: str
    simulate: Callable[[Generator, int], Found]
    pairs: Mapping[str, str]
    """Of an experiment, for the report; by quantile (`p50`), without one by the empty name."""
    wrong: tuple[str, ...]
    """Of `promote` and `rollback`, what must not be said."""
    right: str = ""
    """What should be said."""
    most: float = ALPHA
    """Wanted of shadowproxy: the rate of what is wrong at most."""
    pairs_to_right: Mapping[str, float] = field(default_factory=dict)
    """And the median of pairs to what is right at most, by quantile likewise."""
    fewer_than: str = ""
    """Wanted too: fewer pairs than this method needs."""
    ours: str = OURS
    """The method that the wishes are for."""
    chunk: int = 25


def _streams() -> dict[str, Scenario]:
    def scenario(title: str, stream: Stream, wrong: tuple[str, ...], **other: Any) -> Scenario:
        pairs = f"{stream.judged:,}–{stream.pairs:,}" if stream.judged else f"{stream.pairs:,}"
        return Scenario(title, partial(means.simulate, stream), {"": pairs}, wrong, **other)

    both, n = ("promote", "rollback"), 10_000
    return {
        "mean": scenario("mean at the margin, normal", Stream(means.iid, n, kayenta=True), both),
        "mean-heavy": scenario("mean at the margin, heavy tails", Stream(means.heavy, n), both),
        "mean-rare": scenario("mean at the margin, 2% catastrophes", Stream(means.rare, n), both),
        "mean-rare-both": scenario("mean at the margin, catastrophes both ways", Stream(means.rare_both_ways, n), both),
        "drift-falling": scenario("drift: above the margin, ends at it", Stream(means.falling, n), ("promote",)),
        "drift-rising": scenario("drift: below the margin, ends at it", Stream(means.rising, n), ("rollback",)),
        "drift-to-bad": scenario(
            "drift: good, then bad, from the margin on", Stream(means.good_then_bad, n, judged=8_000), ("promote",)
        ),
        "drift-to-good": scenario(
            "drift: bad, then good, from the margin on", Stream(means.bad_then_good, n, judged=8_000), ("rollback",)
        ),
        "no-op": scenario(
            "no difference, margin .02, deviation .15",
            Stream(means.same, 4_000, every=10, equal=True, kayenta=True),
            ("rollback",),
            right="promote",
            pairs_to_right={"": 420},
        ),
    }


def _cells() -> dict[str, Scenario]:
    def scenario(title: str, law: cells.Draw, wrong: tuple[str, ...], **other: Any) -> Scenario:
        simulate = partial(cells.simulate, law, 4_000, cells.SLOTS + (law is cells.one_bad))
        return Scenario(title, simulate, {"": "4,000"}, wrong, **other)

    return {
        "cells": scenario("100 cells, A/A", cells.equal, ("rollback",), right="promote", most=0.015),
        "cells-margin": scenario("100 cells, each at its margin", cells.at_margin, ("promote", "rollback")),
        "one-cohort": scenario("one bad cohort of 20", cells.one_bad, (), right="rollback"),
    }


def _latencies() -> dict[str, Scenario]:
    laws = {
        "lognormal-0": ("lognormal, ρ = 0", latencies.lognormal(0.0)),
        "lognormal-5": ("lognormal, ρ = .5", latencies.lognormal(0.5)),
        "lognormal-9": ("lognormal, ρ = .9", latencies.lognormal(0.9)),
        "rounded": ("rounded to 1 ms", latencies.rounded),
        "atoms": ("60% and 65% on one value", latencies.atoms),
        "bimodal": ("bimodal", latencies.bimodal(0.7)),
        "valley": ("bimodal, median in between", latencies.bimodal(0.5)),
        "wandering": ("baseline wanders", latencies.wandering),
        "constant": ("constant", latencies.constant),
        "timeouts": ("2% timeouts", latencies.timeouts),
    }
    plan = {0.5: (4_000, 50), 0.9: (4_000, 50), 0.99: (10_000, 50)}
    found = {}
    for name, (title, law) in laws.items():
        case = latencies.Case(law, latencies.MARGIN, plan, means=True, kayenta=True)
        found[f"quantiles-{name}"] = Scenario(
            f"p50, p90, p99 at the margin: {title}",
            partial(latencies.simulate, case),
            _pairs(plan),
            ("promote", "rollback"),
            chunk=50,
        )
    related, peers = latencies.lognormal(0.9), tuple(latencies.SEQUENCES)
    slow = {0.5: (5_000, 50), 0.9: (8_000, 100), 0.99: (30_000, 500)}
    equal = latencies.Case(related, 1.0, slow, peers, means=True, kayenta=True)
    found["latency-same"] = Scenario(
        "latency: no difference, ρ = .9, margin 1.1",
        partial(latencies.simulate, equal),
        _pairs(slow),
        ("rollback",),
        right="promote",
        pairs_to_right={"p50": 900, "p90": 1_800, "p99": 11_000},
        chunk=20,
    )
    quick = {0.5: (2_000, 10), 0.9: (4_000, 50), 0.99: (10_000, 100)}
    harm = latencies.Case(related, 1.3, quick, peers, means=True, kayenta=True)
    found["latency-harm"] = Scenario(
        "latency: 1.3 times as slow, ρ = .9, margin 1.1",
        partial(latencies.simulate, harm),
        _pairs(quick),
        ("promote",),
        right="rollback",
        fewer_than=latencies.FIXED,
    )
    return found


def _pairs(plan: Mapping[float, tuple[int, int]]) -> dict[str, str]:
    return {f"p{p * 100:g}": f"{pairs:,}" for p, (pairs, _) in plan.items()}


def _others() -> dict[str, Scenario]:
    both = ("promote", "rollback")
    return {
        "order": Scenario(
            "timeouts last: 1% fail, as many as tolerated", partial(order.simulate, 0.01), {"": "12,000"}, both
        ),
        "order-5": Scenario(
            "timeouts last: 5% fail, 1% tolerated", partial(order.simulate, 0.05), {"": "12,000"}, ("promote",)
        ),
        "runs": Scenario(
            "losses in runs, AR(.9), at the margin",
            partial(dependence.runs, 60_000),
            {"": "60,000"},
            both,
            ours=dependence.BLOCKS,
        ),
        "accounts": Scenario(
            "500 accounts that return, at the margin",
            partial(dependence.accounts, 10_000),
            {"": "10,000"},
            both,
            ours=dependence.FIRSTS,
        ),
    }


SCENARIOS: Final[Mapping[str, Scenario]] = {**_cells(), **_streams(), **_latencies(), **_others()}
