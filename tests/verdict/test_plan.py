"""The plan: against a plain loop over the pairs, and whole verdicts on made-up experiments."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from verdict.synthetic import columns, facts, settings, take

from shadowproxy.model import Side
from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.betting import COUNT, SQUARES, SUM, UNDEFINED, MeanGrid
from shadowproxy.stats.state import State as Counted
from shadowproxy.verdict.plan import FAILURES, Plan
from shadowproxy.verdict.record import Finding, State, Verdict

FAIL = "failures.difference"
RBO = "ranking.rbo"
ROUTES = [
    {"name": "search", "path": "/search/*", "ids": "response.body.ids", "cohorts": {"gender": "a", "region": "b"}},
    {"name": "home", "cohorts": {"gender": "a"}},
]


def plan(*guardrails: tuple[str, float], routes=ROUTES, **policy: object) -> Plan:
    given = [{"metric": metric, "margin": margin} for metric, margin in guardrails]
    return Plan(settings(routes=routes, verdict={"guardrails": given, **policy}))


def total(one: Plan, batch, slots=None) -> Counted:
    return one.empty().with_added(one.tally(batch, slots or {})).close(1e12)


def judged(one: Plan, batch, slots=None, **parts) -> Verdict:
    counted = total(one, batch, slots)
    return one.judge(counted.total, slots or {}, facts(**parts))


def random_batch(seed: int, n: int = 60):
    rng = np.random.default_rng(seed)
    names = ["gender=F", "gender=M", "region=us", "region=eu", "region=jp"]
    cohorts = [tuple(rng.choice(names, rng.integers(0, 4), replace=True)) for _ in range(n)]
    kinds = {
        side: rng.choice(["", "", "timeout", "http_5xx", "strange"], n) for side in (Side.BASELINE, Side.CANDIDATE)
    }
    rbo = np.where(rng.random(n) < 0.2, np.nan, rng.random(n))
    return columns(
        n,
        {FAIL: rng.choice([-1.0, 0.0, 1.0], n), RBO: rbo},
        started=1000 + rng.random(n) * 4,
        route=rng.integers(-1, 2, n),
        cohorts=cohorts,
        applicable={RBO: rng.random(n) < 0.7},
        kinds=kinds,
    )


SLOTS = {"gender=F": 1, "gender=M": 2}


@pytest.mark.parametrize("seed", range(5))
def test_sums_are_those_of_a_plain_loop(seed) -> None:
    one = Plan(
        settings(
            routes=ROUTES,
            verdict={
                "max_cohorts": 2,
                "guardrails": [
                    {"metric": FAIL, "margin": 0.01},
                    {"metric": RBO, "margin": 0.2, "routes": ["search"]},
                ],
            },
        )
    )
    batch = random_batch(seed)
    expected: dict[tuple[int, str, int], Counter[str]] = defaultdict(Counter)
    for i in range(len(batch)):
        slots = {0} | {SLOTS.get(name, 3) for name in batch.cohorts[i]}
        for slot in slots:
            expected[math.floor(batch.started[i]), "", slot]["pairs"] += 1
            for metric, sign, ideal in ((FAIL, 1, 0), (RBO, -1, 1)):
                if not batch.applicable[metric][i] or (metric == RBO and batch.route[i] != 0):
                    continue
                sums = expected[math.floor(batch.started[i]), metric, slot]
                value = batch.values[metric][i]
                if math.isnan(value):
                    sums["undefined"] += 1
                else:
                    loss = sign * (value - ideal)
                    sums["n"] += 1
                    sums["sum"] += loss
                    sums["squares"] += loss**2
    tallies = one.tally(batch, SLOTS)
    assert {bucket for bucket, _, _ in expected} == set(tallies)
    for bucket, (tally, pairs) in tallies.items():
        assert pairs == expected[bucket, "", 0]["pairs"]
        for slot in range(4):
            assert tally["pairs"][slot] == expected[bucket, "", slot]["pairs"]
            for metric in (FAIL, RBO):
                sums = expected[bucket, metric, slot]
                row = tally[f"guardrail/{metric}"][slot]
                assert [row[COUNT], row[UNDEFINED]] == [sums["n"], sums["undefined"]]
                assert [row[SUM], row[SQUARES]] == pytest.approx([sums["sum"], sums["squares"]])
            assert tally["latency/candidate/total"][slot].sum() == tally["pairs"][slot]


@given(st.integers(0, 50), st.permutations(list(range(6))))
@hypothesis_settings(max_examples=20, deadline=None)
def test_batches_in_any_order_come_to_the_same(seed, order) -> None:
    one, batch = plan((FAIL, 0.01), (RBO, 0.2), max_cohorts=2), random_batch(seed)
    parts = [take(batch, np.arange(len(batch))[k::6]) for k in order]
    state = one.empty()
    for part in parts:
        state = state.with_added(one.tally(part, SLOTS))
    assert state.same_as(one.empty().with_added(one.tally(batch, SLOTS)))
    workers = [one.empty().with_added(one.tally(part, SLOTS)) for part in parts]
    assert workers[0].merge(workers[1:]).same_as(state)


def test_a_pair_counts_once_in_the_pool_however_many_cohorts_it_has_there() -> None:
    one = plan((FAIL, 0.01), max_cohorts=1)
    batch = columns(2, {FAIL: 1.0}, cohorts=[("region=us", "gender=F", "gender=F"), ("gender=M", "gender=M")])
    ((tally, _),) = one.tally(batch, {"gender=M": 1}).values()
    assert tally["pairs"].tolist() == [2, 1, 1]
    assert tally[f"guardrail/{FAIL}"][:, COUNT].tolist() == [2, 1, 1]


def test_nothing_is_nothing() -> None:
    assert plan((FAIL, 0.01)).tally(columns(0, {FAIL: []}), {}) == {}


def test_more_buckets_than_are_summed_at_once() -> None:
    one, n = plan((FAIL, 0.01)), 6000
    batch = columns(n, {FAIL: np.arange(n) % 2}, started=np.arange(n) + 0.5)
    tallies = one.tally(batch, {})
    assert len(tallies) == n
    assert all(tally[f"guardrail/{FAIL}"][0, SUM] == bucket % 2 for bucket, (tally, _) in tallies.items())


def test_a_start_that_is_no_time_does_no_harm() -> None:
    one = plan((FAIL, 0.01))
    wild = columns(4, {FAIL: 0.0}, started=[math.nan, math.inf, -math.inf, 1e300])
    state = one.empty().with_added(one.tally(wild, {}))
    assert Counted.from_bytes(state.to_bytes()).open_pairs == 4


@pytest.mark.parametrize("slot", [0, 33, -1])
def test_a_slot_out_of_range_is_refused(slot) -> None:
    with pytest.raises(ValueError, match="slots run from 1 to 32"):
        plan((FAIL, 0.01)).tally(columns(1, {FAIL: 0.0}), {"a=b": slot})


def test_sums_of_another_plan_are_refused() -> None:
    counted = total(plan((FAIL, 0.01)), columns(5, {FAIL: 0.0}))
    with pytest.raises(ValueError, match="not counted by this plan"):
        plan((FAIL, 0.4)).judge(counted.total, {}, facts())


def test_a_good_candidate_is_promoted_with_a_line_for_each_guardrail() -> None:
    rng = np.random.default_rng(1)
    batch = columns(1000, {FAIL: 0.0, RBO: 1 - 0.1 * rng.random(1000)}, started=1000 + np.arange(1000) / 50)
    verdict = judged(plan((FAIL, 0.01), (RBO, 0.2)), batch)
    assert verdict.state is State.PROMOTE
    assert [cell.finding for cell in verdict.guardrails] == [Finding.SAFE] * 2
    first, second = verdict.reasons
    assert first.startswith("failures, candidate less baseline: +0% of requests over all, margin 1%: ")
    assert "proven within it on 1,000 pairs (e-value" in first
    assert "overlap over all, margin 0.2: proven within it" in second
    assert ": -0.0" in second


def test_what_only_the_candidate_does_is_an_amount_and_no_shift() -> None:
    often = columns(2000, {"failures.candidate": (np.arange(2000) % 500 == 0) * 1.0})
    (first,) = judged(plan(("failures.candidate", 0.01)), often).reasons
    assert first.startswith("the candidate's failures: 0.2% of requests over all, margin 1%: proven within it on 2,000")


def test_a_failing_candidate_is_rolled_back_with_the_figures() -> None:
    n = 2140
    losses = (np.arange(n) % 10 == 0).astype(float)
    kinds = {Side.CANDIDATE: ["http_5xx" if loss else "" for loss in losses]}
    verdict = judged(plan((FAIL, 0.01)), columns(n, {FAIL: losses}, kinds=kinds))
    assert verdict.state is State.ROLLBACK
    (cell,) = verdict.guardrails
    assert cell.finding is Finding.HARMFUL
    assert cell.rollback_at == pytest.approx(40)
    assert cell.estimate == pytest.approx(0.1)
    assert cell.interval[0] > 0.01
    assert verdict.evidence_rollback >= 20
    assert verdict.reasons[0].startswith(
        "failures, candidate less baseline: +10% of requests over all, margin 1%: "
        "proven harmful on 2,140 pairs (e-value "
    )
    assert verdict.reasons[0].endswith(" ≥ 40)")
    assert verdict.failures == {"baseline": {}, "candidate": {"http_5xx": 214}}


def test_no_data_is_undecided_and_says_so() -> None:
    one = plan((FAIL, 0.01), (RBO, 0.2))
    verdict = one.judge(one.empty().total, {}, facts())
    assert verdict.state is State.CONTINUE
    assert [cell.finding for cell in verdict.guardrails] == [Finding.UNDECIDED] * 2
    assert [(cell.pairs, cell.estimate, cell.interval) for cell in verdict.guardrails] == [(0, None, None)] * 2
    assert sum(reason.endswith("over all: no data") for reason in verdict.reasons) == 2
    assert any(reason.startswith("min_pairs: 0 pairs") for reason in verdict.reasons)


def test_a_guardrail_without_data_holds_the_others_back() -> None:
    batch = columns(2000, {FAIL: 0.0, RBO: np.nan}, applicable={RBO: False})
    verdict = judged(plan((FAIL, 0.01), (RBO, 0.2)), batch)
    assert verdict.state is State.CONTINUE
    assert verdict.reasons == ("rank-biased overlap of the two lists, over all: no data",)


def test_undefined_values_hold_a_promote_back() -> None:
    values = np.where(np.arange(2000) % 5 == 0, np.nan, 1.0)
    verdict = judged(plan((RBO, 0.2)), columns(2000, {RBO: values}))
    assert verdict.state is State.CONTINUE
    assert verdict.guardrails[0].undefined == 400
    assert verdict.reasons[0].startswith("undefined: ranking.rbo is undefined for 20.00% of its pairs")


@pytest.mark.parametrize(("parts", "word"), [({"lost_entries": 2}, "trimmed"), ({"dead_letters": 1}, "not be read")])
def test_lost_data_hold_a_promote_back(parts, word) -> None:
    verdict = judged(plan((FAIL, 0.01)), columns(2000, {FAIL: 0.0}), **parts)
    assert verdict.state is State.CONTINUE
    assert any(word in reason for reason in verdict.reasons)


def test_a_latched_rollback_stands_and_says_why() -> None:
    verdict = judged(plan((FAIL, 0.01)), columns(2000, {FAIL: 0.0}), latched=("it failed",))
    assert verdict.state is State.ROLLBACK
    assert "a rollback stands" in verdict.reasons[0]
    assert verdict.reasons[1:] == ("it failed",)


def test_a_harmed_cohort_is_named() -> None:
    n = 4000
    of_f = np.arange(n) % 8 == 0
    losses = (of_f & (np.arange(n) % 16 == 0)).astype(float)
    cohorts = [("gender=F",) if f else ("gender=M",) for f in of_f]
    slots = {"gender=F": 1, "gender=M": 2}
    verdict = judged(plan((FAIL, 0.1)), columns(n, {FAIL: losses}, cohorts=cohorts), slots)
    assert verdict.state is State.ROLLBACK
    (reason,) = verdict.reasons
    assert "+50% of requests in cohort gender=F, margin 20%: proven harmful on 500 pairs" in reason
    assert {name: report.pairs for name, report in verdict.cohorts.items()} == {"gender=F": 500, "gender=M": 3500}
    assert [cell.finding for cell in verdict.cohorts["gender=F"].guardrails] == [Finding.HARMFUL]


def test_a_large_cohort_needs_its_own_proof_and_a_small_one_does_not() -> None:
    n = 1000
    for every, state in ((10, State.CONTINUE), (11, State.PROMOTE)):
        rare = np.arange(n) % every == 0
        cohorts = [("gender=F",) if f else () for f in rare]
        losses = np.where(rare, np.where(np.arange(n) % (2 * every) == 0, 0.8, -0.8), 0.0)
        verdict = judged(plan((FAIL, 0.05)), columns(n, {FAIL: losses}, cohorts=cohorts), {"gender=F": 1})
        assert verdict.state is state
        assert verdict.cohorts["gender=F"].guardrails[0].required is (state is State.CONTINUE)


def test_a_cell_is_judged_at_its_own_margin() -> None:
    """Cells against grids made by hand: 2% over all, 7% in a cohort."""
    rng, n = np.random.default_rng(6), 400
    losses, of_f = rng.choice([-1.0, 0.0, 1.0], n, p=[0.02, 0.94, 0.04]), rng.random(n) < 0.4
    one = Plan(
        settings(routes=ROUTES, verdict={"guardrails": [{"metric": FAIL, "margin": 0.02, "cohort_margin": 0.07}]})
    )
    batch = columns(n, {FAIL: losses}, cohorts=[("gender=F",) if f else () for f in of_f])
    verdict = judged(one, batch, {"gender=F": 1})
    for cell, own, margin, weight in (
        (verdict.guardrails[0], losses, 0.02, 0.5),
        (verdict.cohorts["gender=F"].guardrails[0], losses[of_f], 0.07, 0.5 / 33),
    ):
        grid = MeanGrid(-1, 1, margin)
        ni, harm = grid.get(grid.fold(own, Grouping.single(len(own))))
        assert (cell.e_promote, cell.e_rollback) == pytest.approx((math.exp(ni[0]), math.exp(harm[0])))
        assert (cell.pairs, cell.margin, cell.estimate) == (len(own), margin, pytest.approx(own.mean()))
        assert (cell.promote_at, cell.rollback_at) == pytest.approx((20, 20 / weight))
        low, high = cell.interval
        assert low < cell.estimate < high


def test_a_promote_names_the_large_cohorts_that_are_proven_too() -> None:
    cohorts = [("gender=F",) if i % 2 else ("gender=M",) for i in range(2000)]
    verdict = judged(plan((FAIL, 0.01)), columns(2000, {FAIL: 0.0}, cohorts=cohorts), {"gender=F": 1, "gender=M": 2})
    (reason,) = verdict.reasons
    assert reason.endswith(", and within 2% in each of 2 large cohorts")


def test_buckets_settle_after_the_longest_deadline_and_the_grace() -> None:
    one = Plan(settings(candidate={"url": "http://b:1", "deadline": 25}, verdict={"settle": 2, "bucket": 0.5}))
    assert (one.empty().settle, one.empty().width) == (27.0, 0.5)
    state = one.empty().with_added(one.tally(columns(1, started=100.1), {}))
    assert (state.close(127.4).pairs, state.close(127.5).pairs) == (0, 1)


def test_the_pool_of_other_cohorts_is_never_required() -> None:
    cohorts = [(f"gender={i % 50}",) for i in range(1000)]
    verdict = judged(plan((FAIL, 0.05), max_cohorts=1), columns(1000, {FAIL: 0.0}, cohorts=cohorts), {"gender=0": 1})
    assert verdict.cohorts["other"].pairs == 980
    assert not verdict.cohorts["other"].guardrails[0].required
    assert verdict.state is State.PROMOTE


def test_a_large_cohort_without_data_on_a_guardrail_blocks_unless_it_can_not_have_any() -> None:
    n, half = 2000, np.arange(2000) % 2 == 0
    for dimension, state in (("region", State.CONTINUE), ("gender", State.CONTINUE), ("device", State.PROMOTE)):
        routes = [ROUTES[0], {"name": "home", "cohorts": {"gender": "a", "device": "c"}}]
        batch = columns(
            n,
            {FAIL: 0.0, RBO: 1.0},
            applicable={RBO: half},
            route=np.where(half, 0, 1),
            cohorts=[() if h else (f"{dimension}=x",) for h in half],
        )
        verdict = judged(plan((FAIL, 0.01), (RBO, 0.2), routes=routes), batch, {f"{dimension}=x": 1})
        assert verdict.state is state, dimension


def test_a_harm_in_a_small_cohort_that_is_not_proven_after_correction_blocks() -> None:
    n = 5000
    small = np.arange(n) % 100 == 0
    losses = (small & (np.arange(n) % 500 == 0)).astype(float) - (np.arange(n) % 500 == 1)
    cohorts = [("gender=F",) if f else () for f in small]
    one = plan((FAIL, 0.01))
    verdict = judged(one, columns(n, {FAIL: losses}, cohorts=cohorts), {"gender=F": 1})
    (cell,) = verdict.cohorts["gender=F"].guardrails
    assert 20 <= cell.e_rollback < cell.rollback_at
    assert verdict.guardrails[0].finding is Finding.SAFE
    assert verdict.state is State.CONTINUE
    assert any("in cohort gender=F" in reason and "may be harmful" in reason for reason in verdict.reasons)


def test_undecided_says_what_is_missing_and_how_much() -> None:
    verdict = judged(plan((FAIL, 0.01)), columns(200, {FAIL: 0.0}))
    assert verdict.state is State.CONTINUE
    assert "not proven within it yet" in verdict.reasons[0]
    assert verdict.reasons[-1] == "if things go on like this, a promote takes about 200 more pairs"


def test_a_forecast_counts_all_pairs_where_only_some_bear_on_what_is_missing() -> None:
    batch = columns(800, {FAIL: 0.0}, applicable={FAIL: np.arange(800) % 4 == 0})
    verdict = judged(plan((FAIL, 0.01)), batch)
    assert verdict.reasons[-1] == "if things go on like this, a promote takes about 800 more pairs"


def test_directions_are_told_apart() -> None:
    one = plan(("ranking.length", 0.05))
    verdict = judged(one, columns(500, {"ranking.length": -0.2}))
    assert verdict.state is State.ROLLBACK
    (reason,) = verdict.reasons
    assert "less baseline (lower): -20% of the list over all, margin 5%: proven harmful" in reason


def test_exhausted_at_the_horizon() -> None:
    verdict = judged(plan((FAIL, 0.01), horizon=200), columns(200, {FAIL: 0.0}))
    assert verdict.exhausted
    assert verdict.reasons[0] == "the horizon is reached with 200 pairs and nothing is proven either way"


def test_summaries_and_latencies_by_cohort() -> None:
    kinds = {Side.CANDIDATE: ["timeout" if i < 20 else "" for i in range(100)]}
    cohorts = [("gender=F",) if i < 50 else () for i in range(100)]
    batch = columns(100, {FAIL: 0.0, "ranking.top1": np.arange(100) % 2}, kinds=kinds, cohorts=cohorts)
    verdict = judged(plan((FAIL, 0.01)), batch, {"gender=F": 1})
    top1 = {one.cohort: one for one in verdict.summaries if one.metric == "ranking.top1"}
    assert (top1["all"].pairs, top1["all"].mean) == (100, pytest.approx(0.5))
    assert top1["gender=F"].pairs == 50
    latency = {(one.side, one.timing, one.cohort): one for one in verdict.latencies}
    assert len(latency) == 8
    slow = latency["candidate", "total", "all"]
    assert slow.p50 == pytest.approx(0.02, rel=0.05)
    assert slow.p90 is None
    assert latency["candidate", "ttfb", "gender=F"].pairs == 50
    assert latency["baseline", "total", "all"].p99 == pytest.approx(0.02, rel=0.05)


def test_summaries_and_latencies_by_route() -> None:
    """Of three routes, a third of the pairs each, of which one has none, and as many pairs of no route."""
    route = np.array([0, 1, -1] * 40)
    top1 = np.where(route == 0, 1.0, 0.25)
    kinds = {Side.CANDIDATE: ["timeout" if at == 1 else "" for at in route]}
    cohorts = [("gender=F",) if at == 0 else () for at in route]
    batch = columns(120, {FAIL: 0.0, "ranking.top1": top1}, kinds=kinds, cohorts=cohorts, route=route)
    batch.applicable["ranking.top1"][route == -1] = False
    routes = [{"name": name, "path": f"/{name}", "ids": "response.body"} for name in ("a", "b", "c")]
    verdict = judged(plan((FAIL, 0.01), routes=routes), batch, {"gender=F": 1})
    agreed = [one for one in verdict.summaries if one.metric == "ranking.top1"]
    means = {(one.route, one.cohort): (one.pairs, one.mean) for one in agreed}
    assert means == {
        ("", "all"): (80, pytest.approx(0.625)),
        ("", "gender=F"): (40, 1.0),
        ("a", "all"): (40, 1.0),
        ("a", "gender=F"): (40, 1.0),
        ("b", "all"): (40, 0.25),
    }
    totals = [one for one in verdict.latencies if (one.side, one.timing) == ("candidate", "total")]
    slow = {(one.route, one.cohort): one for one in totals}
    pairs = {key: one.pairs for key, one in slow.items()}
    assert pairs == {("", "all"): 120, ("", "gender=F"): 40, ("a", "all"): 40, ("a", "gender=F"): 40, ("b", "all"): 40}
    assert slow["a", "all"].p99 == pytest.approx(0.02, rel=0.05)
    assert slow["b", "all"].p50 is None


@pytest.mark.parametrize(("path", "apart"), [("/**", False), ("/*", False), ("/rank", True)])
def test_a_single_route_is_apart_only_where_there_may_be_pairs_of_none(path: str, apart: bool) -> None:
    batch = columns(6, {FAIL: 0.0}, route=np.zeros(6, np.int64))
    verdict = judged(plan((FAIL, 0.01), routes=[{"name": "a", "path": path, "ids": "response.body"}]), batch)
    for rows in (verdict.summaries, verdict.latencies):
        assert {row.route for row in rows} == ({"", "a"} if apart else {""})


def test_kinds_of_failure_stay_a_bounded_set() -> None:
    kinds = {Side.CANDIDATE: ["timeout", "shed", "never heard of", ""], Side.BASELINE: ["", "", "http_4xx", ""]}
    verdict = judged(plan((FAIL, 0.01)), columns(4, {FAIL: 0.0}, kinds=kinds))
    assert verdict.failures == {"baseline": {"http_4xx": 1}, "candidate": {"timeout": 1, "shed": 1, "other": 1}}
    assert {"timeout", "connect", "reset", "protocol", "shed"} < set(FAILURES)


@pytest.mark.parametrize("loss", [-1.0, 0.0, 1.0])
def test_every_number_of_a_verdict_is_json(loss) -> None:
    one = plan((FAIL, 0.01), (RBO, 0.2))
    counted = total(one, columns(50, {FAIL: loss, RBO: np.nan}, cohorts=[("gender=F",)] * 50), {"gender=F": 1})
    huge = {name: array * 10**7 for name, array in counted.total.items()}
    for sums in (counted.total, type(counted.total)(huge), one.empty().total):
        verdict = one.judge(sums, {"gender=F": 1}, facts())
        text = json.dumps(msgspec.to_builtins(verdict), allow_nan=False)
        assert msgspec.json.decode(text, type=Verdict) == verdict


def test_false_decisions_of_a_whole_plan_are_rare() -> None:
    """A candidate at the margin on one of two guardrails, in two cohorts, judged every 100 pairs: 60 experiments."""
    one, slots = plan((FAIL, 0.05), (RBO, 0.2)), {"gender=F": 1, "gender=M": 2}
    rng, wrong = np.random.default_rng(4), 0
    for _ in range(60):
        state = one.empty()
        for step in range(12):
            n = 100
            losses = rng.choice([-1.0, 0.0, 1.0], n, p=[0.05, 0.85, 0.1])
            cohorts = [("gender=F",) if x else ("gender=M",) for x in rng.random(n) < 0.5]
            batch = columns(n, {FAIL: losses, RBO: 1.0}, started=1000.0 + step + rng.random(n), cohorts=cohorts)
            state = state.with_added(one.tally(batch, slots)).close(1000.0 + step + 13)
            if one.judge(state.total, slots, facts()).state is not State.CONTINUE:
                wrong += 1
                break
    assert wrong <= 6


def test_a_value_out_of_its_range_is_held_to_it() -> None:
    verdict = judged(plan((FAIL, 0.01)), columns(3, {FAIL: [math.inf, -math.inf, 0.5]}))
    (summary,) = (one for one in verdict.summaries if not one.route)
    assert summary.mean == pytest.approx(0.5 / 3)
    assert verdict.guardrails[0].estimate == pytest.approx(0.5 / 3)


def test_a_promote_waits_until_dependence_could_be_seen() -> None:
    batch = columns(2000, {FAIL: 0.0}, started=1000 + np.arange(2000) / 100)
    one = plan((FAIL, 0.01), min_duration=20)
    assert judged(one, batch).state is State.PROMOTE
    verdict = judged(one, take(batch, np.flatnonzero(batch.started < 1019)))
    assert verdict.state is State.CONTINUE
    (reason,) = verdict.reasons
    assert reason == (
        "duration: pairs began in 19 different seconds, at least 20 needed to tell whether they depend on each other; "
        "see verdict.min_duration"
    )
