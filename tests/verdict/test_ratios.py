"""Guardrails on quantiles of latency: counted from columns, judged from what was counted."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from verdict.synthetic import columns, facts, settings

from shadowproxy.compare.columns import Columns
from shadowproxy.model import Side
from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.quantiles import RatioGrid
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import OVERALL, Cell, Finding, State, Verdict

P50, P99 = "latency.total_p50", "latency.total_p99"


def plan(*guardrails: dict[str, object], **parts: object) -> Plan:
    return Plan(settings(verdict={"guardrails": guardrails}, **parts))


def latencies(seed: int, n: int, slower: float = 1.0, **parts: object) -> Columns:
    """Log-normal, the same request alike on both sides."""
    rng = np.random.default_rng(seed)
    shared, a, b = rng.normal(size=(3, n))
    seconds = {
        Side.BASELINE: 0.02 * np.exp(0.5 * (0.95 * shared + 0.3 * a)),
        Side.CANDIDATE: 0.02 * slower * np.exp(0.5 * (0.95 * shared + 0.3 * b)),
    }
    log2 = np.clip(np.log2(seconds[Side.CANDIDATE] / seconds[Side.BASELINE]), -1, 1)
    made = columns(n, {"latency.total_log2": log2}, started=1000 + np.arange(n) / 100, **parts)
    return replace(made, total=seconds, ttfb={side: 0.5 * one for side, one in seconds.items()})


def judged(one: Plan, *batches: Columns, slots: dict[str, int] | None = None) -> Verdict:
    state = one.empty()
    for batch in batches:
        state = state.with_added(one.tally(batch, slots or {}))
    return one.judge(state.close(1e12).total, slots or {}, facts())


def cell_of(verdict: Verdict, guardrail: str, cohort: str = OVERALL) -> Cell:
    cells = verdict.guardrails if cohort == OVERALL else verdict.cohorts[cohort].guardrails
    (cell,) = (cell for cell in cells if cell.guardrail == guardrail)
    return cell


def test_a_candidate_as_quick_is_promoted_with_its_figures() -> None:
    verdict = judged(plan({"metric": P50, "margin": 0.1}), latencies(1, 2000))
    assert verdict.state is State.PROMOTE
    cell = cell_of(verdict, P50)
    assert (cell.finding, cell.pairs, cell.undefined) == (Finding.SAFE, 2000, 0)
    assert abs(cell.estimate) < 0.05
    low, high = cell.interval
    assert low < cell.estimate < high
    (reason,) = verdict.reasons
    assert reason.startswith("median of the time to the last byte, candidate over baseline: ")
    assert "% of the baseline's over all, margin 10%: proven within it on 2,000 pairs" in reason


def test_a_slower_one_is_rolled_back() -> None:
    verdict = judged(plan({"metric": P50, "margin": 0.1}), latencies(2, 2000, 1.4))
    assert verdict.state is State.ROLLBACK
    assert cell_of(verdict, P50).estimate == pytest.approx(0.4, abs=0.05)
    assert "proven harmful on 2,000 pairs" in verdict.reasons[0]


def test_what_is_judged_is_what_the_statistic_says_of_all_pairs_at_once() -> None:
    """Whatever the batches, buckets and cohorts."""
    one = plan(
        {"metric": P50, "margin": 0.1, "cohort_margin": 0.3},
        {"metric": P99, "margin": 0.1, "cohort_margin": 0.3},
        {"metric": "latency.ttfb_p90", "margin": 0.2},
        routes=[{"name": "a", "cohorts": {"region": "request.body.region"}}],
        candidate={"url": "http://b:1", "deadline": 5},
    )
    n = 900
    of_eu = np.arange(n) % 3 == 0
    batch = latencies(3, n, 1.2, cohorts=[("region=eu",) if eu else () for eu in of_eu])
    halves = [
        replace(
            latencies(3, n, 1.2, cohorts=[("region=eu",) if eu else () for eu in of_eu]),
            total={side: np.where(kept, seconds, np.nan) for side, seconds in batch.total.items()},
            ttfb={side: np.where(kept, seconds, np.nan) for side, seconds in batch.ttfb.items()},
        )
        for kept in (np.arange(n) < 400, np.arange(n) >= 400)
    ]
    whole = judged(one, batch, slots={"region=eu": 1})
    parts = judged(one, *halves, slots={"region=eu": 1})
    for name, p, timing, margins in (
        (P50, 0.5, "total", (0.1, 0.3)),
        (P99, 0.99, "total", (0.1, 0.3)),
        ("latency.ttfb_p90", 0.9, "ttfb", (0.2, 0.4)),
    ):
        for cohort, chosen, margin in ((OVERALL, np.full(n, True), margins[0]), ("region=eu", of_eu, margins[1])):
            seconds = np.stack([getattr(batch, timing)[side][chosen] for side in (Side.BASELINE, Side.CANDIDATE)], 1)
            grid = RatioGrid(1 + margin, deadline=5)
            ni, harm = grid.log_e(grid.fold(seconds, Grouping.single(len(seconds))), p)
            for verdict in (whole, parts):
                cell = cell_of(verdict, name, cohort)
                assert cell.pairs == chosen.sum()
                assert (math.log(cell.e_promote), math.log(cell.e_rollback)) == pytest.approx((ni[0], harm[0]))


def test_quantiles_of_one_latency_rest_on_the_same_sums() -> None:
    one = plan(
        {"metric": P50, "margin": 0.1},
        {"metric": P99, "margin": 0.1},
        {"metric": P99, "margin": 0.2, "routes": ["a"]},
        routes=[{"name": "a", "path": "/a"}, {"name": "b"}],
    )
    names = {name.rsplit("/", 1)[0] for tally, _ in one.tally(latencies(4, 50), {}).values() for name in tally}
    assert {name for name in names if name.startswith("ratio/")} == {
        "ratio/total@0.1,0.2/all",
        "ratio/total@0.2,0.4@a/all",
    }


def test_only_the_routes_that_are_named_count() -> None:
    routes = [{"name": "a", "path": "/a"}, {"name": "b"}]
    one = plan({"metric": P50, "margin": 0.1, "routes": ["b"]}, routes=routes)
    verdict = judged(one, latencies(5, 300, route=np.arange(300) % 2))
    assert cell_of(verdict, P50).pairs == 150


def test_a_pair_that_failed_takes_for_ever_and_no_figure_is_infinite() -> None:
    n = 400
    batch = latencies(6, n)
    down = {side: np.where(np.arange(n) % 2 == 0, np.inf, seconds) for side, seconds in batch.total.items()}
    verdict = judged(plan({"metric": P50, "margin": 0.1}, {"metric": P99, "margin": 0.1}), replace(batch, total=down))
    cell = cell_of(verdict, P99)
    assert (cell.pairs, cell.estimate, cell.finding) == (n, None, Finding.UNDECIDED)
    assert all(math.isfinite(end) for end in cell.interval)


def test_a_forecast_is_given_and_comes_true() -> None:
    one = plan({"metric": P50, "margin": 0.1})
    verdict = judged(one, latencies(7, 120))
    assert verdict.state is State.CONTINUE
    needed = cell_of(verdict, P50).needed
    assert verdict.forecast.pairs == needed
    likewise = judged(one, *[latencies(7, 120)] * (1 + math.ceil(needed / 120)))
    assert cell_of(likewise, P50).finding is Finding.SAFE


def test_the_worst_pairs_are_those_whose_candidate_was_slowest_beside_the_baseline() -> None:
    batch = latencies(8, 100)
    ((rule, values, losses),) = plan({"metric": P99, "margin": 0.1}).losses(batch)
    assert rule.name == P99
    assert np.array_equal(values, batch.values["latency.total_log2"])
    assert np.array_equal(values, losses)


def test_slow_stretches_of_the_candidate_alone_hold_a_promote_back() -> None:
    one = plan({"metric": P50, "margin": 0.3})
    n = 6000
    steady = latencies(9, n)
    waves = 1 + 0.3 * np.repeat(np.random.default_rng(9).choice([-1.0, 1.0], n // 200), 200)
    slower = {**steady.total, Side.CANDIDATE: steady.total[Side.CANDIDATE] * waves}
    log2 = np.clip(np.log2(slower[Side.CANDIDATE] / slower[Side.BASELINE]), -1, 1)
    uneven = replace(steady, total=slower, values={"latency.total_log2": log2})
    assert judged(one, steady).state is State.PROMOTE
    verdict = judged(one, uneven)
    assert verdict.state is State.CONTINUE
    (reason,) = (reason for reason in verdict.reasons if reason.startswith("independence: "))
    assert P50 in reason
    assert "mirror a smaller share of the requests, for longer (proxy.mirror.sample)" in reason
    bold = Plan(settings(verdict={"guardrails": [{"metric": P50, "margin": 0.3}], "max_inflation": 1000}))
    assert judged(bold, uneven).state is State.PROMOTE
