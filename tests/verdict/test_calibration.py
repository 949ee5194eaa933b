"""Guardrails that take what they need from the first pairs: nothing is counted before, and nothing twice after."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from verdict.synthetic import columns, facts, settings, take, with_scores

from shadowproxy.compare.columns import Columns
from shadowproxy.errors import PayloadError
from shadowproxy.model import Side
from shadowproxy.stats.betting import COUNT, MeanGrid
from shadowproxy.stats.state import State as Counted
from shadowproxy.verdict.guardrails.calibration import FEWEST, Calibration, calibrations_of
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Check, Finding, State, Verdict

DELTA, NOISE = "scores.delta", "scores.noise"
LOWER, HIGHER = f"{DELTA}.lower", f"{DELTA}.higher"
ROUTES = [
    {"name": "rank", "path": "/rank", "ids": "response.body.ids", "scores": "response.body.s", "cohorts": {"r": "a"}},
    {"name": "other", "ids": "response.body.ids", "scores": "response.body.s"},
]


def plan(margin: float = 0.5, **guardrail: object) -> Plan:
    return Plan(settings(routes=ROUTES, verdict={"guardrails": [{"metric": DELTA, "margin": margin, **guardrail}]}))


def batch(delta: np.ndarray, *, level: np.ndarray | None = None, noise: np.ndarray | None = None, **parts) -> Columns:
    """Pairs with these mean differences, one item each, of which the baseline's score is `level`."""
    n = len(delta)
    values = {DELTA: delta} if noise is None else {DELTA: delta, NOISE: noise}
    applicable = {} if noise is None else {NOISE: ~np.isnan(noise)}
    a = np.zeros(n) if level is None else level
    made = columns(n, values, applicable=applicable, **parts)
    pair = np.arange(n)
    return with_scores(made, {Side.BASELINE: (pair, a), Side.CANDIDATE: (pair, a + np.nan_to_num(delta))})


def closed(one: Plan, *batches: Columns, slots=None) -> Counted:
    state = one.empty()
    for some in batches:
        state = state.with_added(one.tally(some, slots or {}))
    return state.close(1e12)


def judged(one: Plan, state: Counted, slots=None) -> Verdict:
    return one.judge(state.total, slots or {}, facts())


def check(verdict: Verdict, name: str) -> Check:
    (found,) = [one for one in verdict.checks if one.name == name]
    return found


def known(one: Plan, clip: float, since: float = 0.0, most: float = 0.01) -> Plan:
    return one.calibrated({rule.name: Calibration(clip=clip, most_clipped=most, since=since) for rule in one.rules})


# ── before ──


def test_until_it_is_calibrated_nothing_is_known_and_nothing_decided() -> None:
    one = plan()
    assert one.waiting
    state = closed(one, batch(np.full(120, 5.0)))
    verdict = judged(one, state)
    assert verdict.state is State.CONTINUE
    assert {(cell.pairs, cell.estimate, cell.e_promote, cell.e_rollback) for cell in verdict.guardrails} == {
        (0, None, 1.0, 1.0)
    }
    assert check(verdict, "calibrated").detail == (
        f"{LOWER} is calibrated by the first 200 pairs with scores; 120 are counted"
    )
    assert not check(verdict, "calibrated").passed
    assert one.due(state.total) == {}
    assert not any(name.startswith("guardrail/") for name in state.total)


def test_only_closed_buckets_with_scores_calibrate() -> None:
    one = plan()
    undefined = batch(np.where(np.arange(300) % 2 == 0, np.nan, 1.0))
    assert one.due(closed(one, undefined).total) == {}
    open_still = one.empty().with_added(one.tally(batch(np.ones(FEWEST)), {}))
    assert one.due(open_still.total) == {}
    assert set(one.due(open_still.close(1e12).total)) == {LOWER, HIGHER}


def clip_of(one: Plan, *batches: Columns, most: float = 0.01) -> float:
    due = one.due(closed(one, *batches).total)
    assert due[LOWER] == due[HIGHER]
    assert due[LOWER].most_clipped == most
    assert due[LOWER].clip is not None
    return due[LOWER].clip


def test_without_a_replica_the_spread_of_the_scores_says_what_is_far() -> None:
    rng = np.random.default_rng(1)
    level = rng.lognormal(3, 1, 1000) * rng.choice([-1, 1], 1000)
    found = clip_of(plan(), batch(rng.normal(size=1000), level=level))
    assert found == pytest.approx(2 * level.std())


def test_with_a_replica_its_differences_say_so() -> None:
    rng = np.random.default_rng(2)
    noise = np.where(rng.random(2000) < 0.3, np.nan, rng.normal(0, 40, 2000))
    made = batch(rng.normal(size=2000), level=rng.normal(0, 1e4, 2000), noise=noise)
    expected = np.nanquantile(np.abs(noise), 0.99, method="inverted_cdf")
    assert clip_of(plan(), made, most=0.05) == pytest.approx(expected, rel=0.05)
    few = batch(
        rng.normal(size=2000), level=np.tile([3.0, 5.0], 1000), noise=np.where(np.arange(2000) < 149, 9.0, np.nan)
    )
    assert clip_of(plan(0.01), few) == pytest.approx(2.0)  # too few of them: by the scores


@pytest.mark.parametrize(("margin", "cohort", "expected"), [(0.5, None, 5.0), (0.5, 4.0, 8.0)])
def test_a_margin_is_always_well_inside(margin: float, cohort: float | None, expected: float) -> None:
    one = plan(margin, cohort_margin=cohort)
    assert clip_of(one, batch(np.zeros(FEWEST))) == expected
    assert not known(one, expected).waiting


def test_only_the_pairs_of_its_routes_calibrate_it() -> None:
    one = plan(0.001, routes=["other"])
    route = np.arange(600) % 2
    level = np.where(route == 1, np.arange(600) % 4 - 2.0, 1e6)
    found = one.due(closed(one, batch(np.zeros(600), level=level, route=route)).total)[LOWER]
    assert found.clip == pytest.approx(2 * level[route == 1].std())
    assert one.due(closed(one, batch(np.zeros(600), route=0)).total) == {}


# ── after ──


def test_values_are_clipped_and_figures_are_in_their_own_unit() -> None:
    rng = np.random.default_rng(3)
    delta, n = rng.normal(0.3, 4, 3000), 3000
    one = known(plan(2.0), 20.0)
    verdict = judged(one, closed(one, batch(delta)))
    clipped = [min(20.0, max(-20.0, float(d))) for d in delta]
    higher = next(cell for cell in verdict.guardrails if cell.guardrail == HIGHER)
    lower = next(cell for cell in verdict.guardrails if cell.guardrail == LOWER)
    assert higher.estimate == pytest.approx(sum(clipped) / n)
    assert lower.estimate == pytest.approx(-sum(clipped) / n)
    assert higher.interval is not None
    assert higher.interval[0] < 0.3 < higher.interval[1]
    # The e-value by its definition: bets on D/c, with the margin d/c.
    grid = MeanGrid(-1, 1, 0.1)
    for cell, sign in ((higher, 1), (lower, -1)):
        logs = [sum(math.log1p(bet * (sign * d / 20 - 0.1)) for d in clipped) for bet in grid.bets[: grid.size]]
        expected = sum(math.exp(w + log) for w, log in zip(grid.log_weights[: grid.size], logs, strict=True))
        assert cell.e_promote == pytest.approx(expected, rel=1e-6)
        assert cell.margin == 2.0
    assert verdict.state is State.PROMOTE
    assert any(
        f"{sum(clipped) / n:+.3g} in the scores' unit over all, margin 2" in reason for reason in verdict.reasons
    )


def test_harm_in_either_direction_rolls_back() -> None:
    for sign, name in ((1, HIGHER), (-1, LOWER)):
        one = known(plan(0.5), 5.0)
        verdict = judged(one, closed(one, batch(np.full(400, sign * 2.0))))
        assert verdict.state is State.ROLLBACK
        assert [cell.guardrail for cell in verdict.guardrails if cell.finding is Finding.HARMFUL] == [name]


@pytest.mark.parametrize(
    ("clipped", "most", "passes"), [(20, 0.01, True), (21, 0.01, False), (100, 0.05, True), (101, 0.05, False)]
)
def test_what_is_clipped_too_often_is_no_promote(clipped: int, most: float, passes: bool) -> None:
    delta = np.zeros(2000)
    delta[:clipped] = np.tile([1e9, -1e9], clipped)[:clipped]
    one = known(plan(0.5), 5.0, most=most)
    verdict = judged(one, closed(one, batch(delta)))
    found = check(verdict, "clipped")
    assert found.passed is passes
    assert found.detail.startswith(f"{LOWER} is clipped at ±5 in {clipped / 20:.2f}% of its pairs, at most {most:.0%}")
    assert (verdict.state is State.PROMOTE) is passes


def test_what_started_before_counts_nowhere_whoever_counts_it_and_when() -> None:
    one = known(plan(), 5.0, since=1500.0)
    started = np.concatenate([np.full(50, 1499.999), np.full(30, 1500.0), np.full(7, 1600.0)])
    made = batch(np.full(87, 9.0), started=started, cohorts=[("r=x",)] * 87)
    state = closed(one, made, slots={"r=x": 1})
    for rule in (LOWER, HIGHER):
        rows = state.total[f"guardrail/{rule}#1500000"]
        assert rows[:, COUNT].tolist() == [37, 37]
        assert state.total[f"clipped/{rule}#1500000"].tolist() == [[37], [37]]
    # What is asked for by hand, the worst pairs, is of all of them.
    ((_, values, losses), (_, _, other)) = one.losses(made)
    assert values.tolist() == other.tolist() == [9.0] * 87
    assert losses.tolist() == [-9.0] * 87


@given(
    st.lists(st.tuples(st.integers(1000, 1040), st.booleans(), st.integers(0, 5)), min_size=1, max_size=60),
    st.integers(1005, 1035),
    st.integers(0, 3),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_workers_that_learn_of_it_at_different_moments_count_each_pair_once(pairs, written, grace) -> None:
    """Pairs by start; each is counted some seconds later, by one of two workers that look for a calibration then."""
    waiting, since = plan(), written + grace
    calibrated = known(waiting, 5.0, since=float(since))
    workers = [waiting.empty(), waiting.empty()]
    for start, which, took in pairs:
        at = start + took
        # Whoever counts at the moment it is written, or before, can't have seen it.
        by = calibrated if at > written else waiting
        some = batch(np.array([float(start)]), started=float(start))
        workers[which] = workers[which].with_added(by.tally(some, {}))
    total = workers[0].merge(workers[1:]).close(1e12).total
    expected = sum(start >= since and start + took > written for start, _, took in pairs)
    assert expected == sum(start >= since for start, _, _ in pairs) or grace == 0
    row = total.rows(f"guardrail/{HIGHER}#{since * 1000}", 34, (MeanGrid(-1, 1, 0.1).width,))
    assert row[0, COUNT] == expected


def test_batches_in_any_order_come_to_the_same() -> None:
    rng = np.random.default_rng(4)
    for one in (plan(), known(plan(), 3.0, since=1001.0)):
        made = batch(rng.normal(0, 3, 90), level=rng.normal(size=90), started=1000 + rng.random(90) * 4)
        parts = [take_scored(made, np.arange(90)[at::3]) for at in (2, 0, 1)]
        whole = one.empty().with_added(one.tally(made, {}))
        state = one.empty()
        for part in parts:
            state = state.with_added(one.tally(part, {}))
        assert state.same_as(whole)
        assert Counted.from_bytes(state.to_bytes()).same_as(whole)


def take_scored(made: Columns, at: np.ndarray) -> Columns:
    scores = {side: (np.arange(len(at)), made.scores[side].value[at]) for side in (Side.BASELINE, Side.CANDIDATE)}
    return with_scores(take(made, at), scores)


def test_another_calibration_is_another_experiment_to_the_guardrail() -> None:
    """Were one lost and another written, what was counted by the first is not mixed in."""
    first, second = known(plan(), 5.0, since=1.0), known(plan(), 50.0, since=2.0)
    state = closed(first, batch(np.zeros(500)))
    assert judged(first, state).guardrails[0].pairs == 500
    assert judged(second, state).guardrails[0].pairs == 0


def test_it_is_what_it_was_when_it_is_read_back() -> None:
    made = Calibration(clip=0.1 + 0.2, thresholds=(1e-300, 2.0), most_clipped=0.05, since=1234.567)
    assert calibrations_of({"a": (1234.567, made.to_bytes())}) == {"a": made}
    for stored in (b"", b"[]", b'{"clip": -1.0}', b'{"clip": "x"}', b"\xff"):
        with pytest.raises(PayloadError, match="calibration"):
            calibrations_of({"a": (1.0, stored)})


def test_without_such_a_guardrail_there_is_nothing_of_it() -> None:
    one = Plan(settings(routes=ROUTES))
    assert not one.waiting
    assert one.calibrated({}) is one
    state = closed(one, batch(np.zeros(50)))
    assert not any(name.startswith(("calibration/", "clipped/")) for name in state.total)
    assert {check.name for check in judged(one, state).checks}.isdisjoint({"calibrated", "clipped"})


def test_with_blocks_of_time_the_clipped_values_are_judged_by_their_means() -> None:
    parts = {"guardrails": [{"metric": DELTA, "margin": 0.5, "worse": "higher"}], "blocks": 10.0}
    one = known(Plan(settings(routes=ROUTES, verdict=parts)), 5.0, since=2000.0)
    started = np.concatenate([np.full(100, 1999.0), 2000 + np.arange(4000) / 4])
    delta = np.where(started < 2000, 50.0, np.where(np.arange(4100) % 4 == 0, 9.0, -3.0))
    origin = one.begins(batch(delta, started=started))
    state = one.empty().with_added(one.tally(batch(delta, started=started), {}, (), origin)).close(1e12)
    verdict = judged(one, state)
    (cell,) = verdict.guardrails
    assert cell.pairs == 4000
    # Each block's mean is that of (5 − 3·3) / 4 = −1, a fifth of the clip: bets on blocks, by definition.
    grid = MeanGrid(-1, 1, 0.1)
    assert cell.blocks is not None
    assert 95 <= cell.blocks <= 100
    assert cell.estimate == pytest.approx(-1.0, abs=0.02)
    capitals = [cell.blocks * math.log1p(bet * -0.3) for bet in grid.bets[: grid.size]]
    expected = sum(math.exp(w + log) for w, log in zip(grid.log_weights[: grid.size], capitals, strict=True))
    assert cell.e_promote == pytest.approx(expected, rel=0.2)
    assert {one.guardrail for one in verdict.dependence} <= {HIGHER}


def test_how_far_pairs_depend_is_said_of_the_guardrail_by_its_name() -> None:
    one = known(plan(), 5.0)
    made = batch(np.repeat([0.0, 1.0] * 50, 20), started=1000 + np.arange(2000) / 20)
    assert {found.guardrail for found in judged(one, closed(one, made)).dependence} == {LOWER, HIGHER}


def test_the_baselines_very_model_is_not_clipped_too_often_by_its_own_noise() -> None:
    """A clip at the 99th percentile clips 1% of such a candidate's pairs; taken from few pairs, it may be more."""
    rng, refused = np.random.default_rng(5), 0
    for _ in range(100):
        first = batch(rng.standard_t(3, FEWEST), noise=rng.standard_t(3, FEWEST))
        waiting = plan(0.01)
        due = waiting.due(closed(waiting, first).total)
        one = waiting.calibrated({name: msgspec.structs.replace(found, since=0.0) for name, found in due.items()})
        refused += not check(judged(one, closed(one, batch(rng.standard_t(3, 2000)))), "clipped").passed
    assert refused <= 3
