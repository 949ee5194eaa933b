"""The decision benchmark, small and seeded, and what it is made of against independent oracles."""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from bench.__main__ import main
from bench.decisions import cells, dependence, latencies, means, order, peers, running, sequences
from bench.decisions.means import ADAPTIVE, KAYENTA, OURS, Z_MARGIN, Z_SAME
from bench.decisions.reading import ALPHA, PROVEN, FloatArray, Rate, Reading, first, joined, looks
from bench.decisions.running import Chunk, all_simulated, simulated
from bench.decisions.scenarios import SCENARIOS
from scipy import stats
from ville import BettingTest

from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.betting import MeanGrid
from shadowproxy.verdict.guardrails.rules import rules
from shadowproxy.verdict.record import State

GOLDEN = json.loads((Path(__file__).parents[1] / "stats" / "golden_confseq.json").read_text())


def golden(name: str) -> dict[str, float]:
    (found,) = (figures for title, figures in GOLDEN.items() if title.startswith(name))
    return dict(found)


# What others decide by


def test_double_stitching_has_the_figures_of_its_authors() -> None:
    figures = golden("double_stitching_bound(p,t,.05,t_opt=1000)/t")
    assert len(figures) == 9
    for at, figure in figures.items():
        p, t = map(float, at.split(","))
        assert sequences.double_stitching_bound(p, t, 0.05, 1000) / t == pytest.approx(figure, rel=1e-6)
    # Below the median, from their own tests.
    assert sequences.double_stitching_bound(0.1, 1000, 0.05, 100) == pytest.approx(59.96521, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "alpha"), [("empirical_process_lil_bound(t,.05", 0.05), ("empirical_process_lil_bound(t,.025", 0.025)]
)
def test_the_bound_of_the_empirical_process_has_the_figures_of_its_authors(name: str, alpha: float) -> None:
    for t, figure in golden(name).items():
        assert sequences.empirical_process_lil_bound(int(t), alpha, 100) == pytest.approx(figure, rel=1e-6)


def test_the_beta_binomial_mixture_has_the_figures_of_its_authors_and_its_bound_is_where_it_reaches_its_level() -> None:
    for at, figure in golden("beta_binomial_log_mixture").items():
        s, n = map(float, at.split(","))
        found = sequences.beta_binomial_log_mixture(s, n / 4, 25, 0.5, 0.5, one_sided=True)
        assert found == pytest.approx(figure, rel=1e-6)
    # From their own tests: g = 0.2, h = 0.8, v = v_opt = 100.
    bound = sequences.beta_binomial_bound(625, 0.05, 625, 0.2, 0.8)
    assert bound == pytest.approx(28.41238, rel=1e-6)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", list(latencies.SEQUENCES))
def test_a_sequence_is_wider_than_one_look_and_its_ends_are_values_of_its_ranks(name: str, p: float) -> None:
    radius = latencies.SEQUENCES[name]
    t = 20_000
    low, high = sequences.ranks(radius, p, t)
    assert low < t * p < high
    # More certain than one look of the same error; for one quantile alone by no more than a factor.
    low_once, high_once = (stats.binom.ppf(q, t, p) for q in (ALPHA / 2, 1 - ALPHA / 2))
    assert low < low_once
    assert high > high_once
    below, above = radius(p, t)
    # Beyond the median the count below a quantile falls short of its mean by more than it exceeds it.
    assert below > above or p == 0.5 or name == latencies.LIL
    if name == latencies.FIXED:
        assert t * p - low < 2.5 * (t * p - low_once)
    values = np.sort(np.random.default_rng(1).random((1, t)), axis=1)
    ((lower, upper),) = sequences.ends(values[:, ::-1], [(low, high)])
    assert lower[0] == values[0, low - 1]
    assert upper[0] == (values[0, high - 1] if high <= t else math.inf)


def test_adaptive_bets_are_those_of_ville() -> None:
    losses = np.clip(np.random.default_rng(3).normal(0.05, 0.2, (2, 400)), -1, 1)
    below, above = peers.adaptive(losses, -1, 1, 0.02)
    for row, of_one in enumerate(losses):
        for alternative, found in (("less", below), ("greater", above)):
            theirs = BettingTest(0.02, bounds=(-1, 1), alternative=alternative).update(of_one).log_e_values_
            assert found[row] == pytest.approx(theirs, rel=1e-9)


def test_z_tests_are_those_of_scipy() -> None:
    losses = np.random.default_rng(5).normal(0.03, 0.2, (60, 200))
    at = looks(200)
    below, above = peers.z_margin(losses, 0.02, at)
    same = peers.z_same(losses, at)
    for look, n in enumerate(at):
        means_, errors = losses[:, :n].mean(axis=1), stats.sem(losses[:, :n], axis=1)
        assert (below[:, look] == (stats.norm.cdf((means_ - 0.02) / errors) <= 0.05)).all()
        assert (above[:, look] == (stats.norm.sf((means_ - 0.02) / errors) <= 0.05)).all()
        assert (same[:, look] == (2 * stats.norm.sf(np.abs(means_) / errors) <= 0.05)).all()
    assert below.any()
    assert above.any()
    assert same.any()


def test_without_spread_a_z_test_at_the_margin_itself_says_nothing() -> None:
    at = looks(100)
    assert not np.any(peers.z_margin(np.full((1, 100), 0.1 + 0.2), 0.3, at))
    assert peers.z_margin(np.zeros((1, 100)), 0.3, at)[0].all()


@pytest.mark.parametrize("decimals", [0, 1, 9])
def test_kayentas_judge_decides_as_by_its_interval_and_estimate(decimals: int) -> None:
    generator = np.random.default_rng(7)
    n, seen = 15, set()
    for shift in np.repeat([0.0, 0.5, 1.0, 1.5], 10):
        a = np.round(generator.normal(10, 1, n), decimals)
        b = np.round(generator.normal(10 + shift, 1, n), decimals)
        # Between two differences the statistic doesn't change; it falls with the shift.
        apart = np.unique(np.round(np.subtract.outer(b, a).ravel(), 9))

        def above(shift: float, a: FloatArray = a, b: FloatArray = b) -> bool:
            u, p = stats.mannwhitneyu(b - shift, a, method="asymptotic", use_continuity=True)
            return bool(u > n * n / 2 and stats.norm.isf(p / 2) > stats.norm.isf(0.01))

        # The first of the differences at which it no longer is above the normal's quantile.
        count = bisect.bisect_left((apart[1:] + apart[:-1]) / 2, True, key=lambda shift: not above(shift))
        lower = float(apart[count]) if count else -math.inf
        bound = 0.25 * abs(float(np.median(np.subtract.outer(b, a))))
        if abs(lower - bound) < 0.02:
            continue  # too near: the estimate is a median, and Kayenta's is found to a tolerance
        expected = lower > bound and b.mean() >= a.mean()
        assert peers.kayenta_high(a, b) == expected
        seen.add(expected)
    assert seen == {True, False}


def test_kayenta_passes_what_it_never_called_high_and_asks_for_the_allowed_increase() -> None:
    generator = np.random.default_rng(9)
    a = generator.normal(10, 1, (1, 500))
    at = looks(500, 250)
    assert [float(times[0]) for times in peers.kayenta(a, a + 2, at)] == [math.inf, 250]
    assert [float(times[0]) for times in peers.kayenta(a, a + 2, at, allowed=1.3)] == [500, math.inf]
    assert [float(times[0]) for times in peers.kayenta(a, a - 2, at)] == [500, math.inf]


# What is simulated


@pytest.mark.parametrize("law", [means.iid, means.heavy, means.rare, means.rare_both_ways])
def test_losses_at_the_margin_have_its_mean(law: Callable[..., FloatArray]) -> None:
    losses = law(np.random.default_rng(11), 100, 4_000)
    assert abs(losses.mean() - means.MARGIN) < 4 * losses.std() / math.sqrt(losses.size)
    assert np.abs(losses).max() <= 1


@pytest.mark.parametrize(
    ("law", "end", "side"),
    [(means.falling, 1.0, 1), (means.rising, 1.0, -1), (means.good_then_bad, 0.8, -1), (means.bad_then_good, 0.8, 1)],
)
def test_a_drift_stays_on_its_side_of_the_margin_and_comes_to_it(
    law: Callable[..., FloatArray], end: float, side: int
) -> None:
    losses = law(np.random.default_rng(13), 4_000, 1_000)
    running_mean = np.cumsum(losses.mean(axis=0)) / np.arange(1, 1_001) - means.MARGIN
    noise = means.SPREAD / math.sqrt(losses.size)
    last = round(1_000 * end)
    assert abs(running_mean[last - 1]) < 5 * noise / end
    assert (side * running_mean[100 : last - 100] > 0).all()
    if last < 1_000:
        assert (side * running_mean[last + 50 :] < 0).all()


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("quantiles-")])
def test_both_sides_of_a_law_of_latencies_have_the_same_quantiles(name: str) -> None:
    simulate = SCENARIOS[name].simulate
    assert isinstance(simulate, partial)
    (case,) = simulate.args
    baseline, candidate = case.law(np.random.default_rng(17), (1, 200_000))
    for p in (0.5, 0.9, 0.99):
        a, b = (float(np.quantile(side, p, method="inverted_cdf")) for side in (baseline, candidate))
        assert a == b or (math.isfinite(a) and abs(b / a - 1) < 0.02)
    assert case.ratio == latencies.MARGIN


def test_correlation_is_within_pairs() -> None:
    for wanted in (0.0, 0.5, 0.9):
        a, b = latencies.lognormal(wanted)(np.random.default_rng(19), (1, 50_000))
        assert np.corrcoef(np.log(a[0]), np.log(b[0]))[0, 1] == pytest.approx(wanted, abs=0.02)


def test_what_a_cohort_is_made_of_has_the_means_that_are_said() -> None:
    generator = np.random.default_rng(23)
    cohort = generator.integers(0, 20, (50, 4_000))
    margins = [margin for _, margin in cells.METRICS]
    chosen = rules(cells.settings(slots=20, same_margin=True))
    assert [rule.margin for rule in chosen] == [rule.cohort_margin for rule in chosen] == margins
    for losses, margin, rule in zip(cells.at_margin(generator, cohort.shape, cohort), margins, chosen, strict=True):
        assert abs(losses.mean() - margin) < 5 * losses.std() / math.sqrt(losses.size)
        assert losses.min() >= rule.lo
        assert losses.max() <= rule.hi
    equal = cells.equal(generator, cohort.shape, cohort)
    assert all(losses.mean() < 0.6 * margin for losses, margin in zip(equal, margins, strict=True))
    assert np.corrcoef(equal[2].ravel(), equal[3].ravel())[0, 1] > 0.2
    bad = cells.one_bad(generator, cohort.shape, cohort)[2]
    assert bad.mean() < margins[2]
    assert bad[cohort == cells.BAD].mean() > 10 * margins[2]


# What is said of it


def test_first_times_and_rates() -> None:
    at = looks(150)
    said = means.said(np.array([[True, False, True]]), np.array([[True, True, False]]), at)
    assert said.promote is not None
    assert said.promote[0] == 150  # 50 pairs are fewer than a promote needs
    assert said.rollback is not None
    assert said.rollback[0] == 50
    later = means.said(np.array([[True, True, True]]), np.array([[True, False, False]]), at, judged=101)
    assert later.promote is not None
    assert later.rollback is not None
    assert (later.promote[0], later.rollback[0]) == (150, math.inf)
    assert first(np.zeros((2, 3), bool), at).tolist() == [math.inf, math.inf]
    rate = Rate.of_times(np.array([50.0, math.inf, math.inf, 100.0]))
    assert (rate.hits, rate.of) == (2, 4)
    # The rule of three, exactly: 1 − (α/2)^(1/n).
    assert Rate(0, 100).interval == pytest.approx((0, 1 - 0.025 ** (1 / 100)))
    parts = [
        Reading(np.array([1.0]), None, {"x": np.array([True])}),
        Reading(np.array([2.0]), None, {"x": np.array([False])}),
    ]
    whole = joined(parts)
    assert whole.promote is not None
    assert whole.promote.tolist() == [1, 2]
    assert whole.rollback is None
    assert whole.shares["x"].tolist() == [True, False]


def test_evidence_at_a_look_is_that_of_all_pairs_before_it() -> None:
    losses = means.iid(np.random.default_rng(29), 3, 200)
    ni, harm = means.evidence(means.GRID, losses)
    for look, pairs in enumerate(looks(200)):
        for row in range(3):
            state = means.GRID.fold(losses[row, :pairs], Grouping.single(int(pairs)))
            assert [log_e[0] for log_e in means.GRID.get(state)] == pytest.approx([ni[row, look], harm[row, look]])


def test_cells_hold_what_the_grids_say_of_their_pairs_and_decide_as_the_verdict_does() -> None:
    generator = np.random.default_rng(31)
    cohort = generator.integers(0, cells.SLOTS, (2, 1_000))
    chosen = rules(cells.settings(slots=cells.SLOTS, same_margin=False))
    losses = cells.one_bad(generator, cohort.shape, cohort)
    found = cells.observed(losses, cohort, chosen, cells.SLOTS)
    assert found.weights.sum() == pytest.approx(1)
    assert found.pairs[1, 9, 0] == 500
    for g, slot in ((0, None), (2, cells.BAD), (3, 4)):
        of_cell = losses[g][1, :500][(cohort[1, :500] == slot) if slot is not None else slice(None)]
        margin = chosen[g].margin if slot is None else chosen[g].cohort_margin
        grid = MeanGrid(chosen[g].lo, chosen[g].hi, margin)
        ni, harm = grid.get(grid.fold(of_cell, Grouping.single(len(of_cell))))
        at = 0 if slot is None else 1 + slot
        assert found.pairs[1, 9, at] == len(of_cell)
        assert found.ni[1, 9, g, at] == pytest.approx(ni[0])
        assert found.harm[1, 9, g, at] == pytest.approx(harm[0])
    said = set()
    for row in range(2):
        for look, share in enumerate(found.shares()[row]):
            decided = found.decision(row, look)
            assert decided.evidence == pytest.approx(share / ALPHA)
            assert (decided.state is State.ROLLBACK) == (share >= 1)
            assert found.promotes()[row, look] == (not decided.unproven and not decided.alarming)
            said.add((decided.state, bool(decided.unproven), bool(decided.alarming)))
    assert {state for state, _, _ in said} == {State.ROLLBACK, State.CONTINUE}
    # Where some is proven and some isn't, and where nothing alarms and something does.
    assert {alarming for _, _, alarming in said} == {True, False}
    assert (found.ni[..., 0] >= PROVEN).any(axis=2).any()
    assert not (found.ni[..., 0] >= PROVEN).all()


def test_two_sequences_say_what_their_ends_say() -> None:
    generator = np.random.default_rng(37)
    baseline, candidate = generator.random((2, 3, 3_000)) + 2
    of_all = latencies._two_sequences(tuple(latencies.SEQUENCES), 0.5, baseline, candidate, looks(3_000, 250))
    reading = of_all[latencies.FIXED]
    assert reading.promote is not None
    assert reading.rollback is not None
    assert np.isinf(reading.rollback).all()
    for row in range(3):
        for pairs in looks(3_000, 250):
            low, high = sequences.ranks(sequences.beta_binomial, 0.5, int(pairs))
            a, b = np.sort(baseline[row, :pairs]), np.sort(candidate[row, :pairs])
            if high <= pairs and low >= 1 and b[high - 1] < latencies.MARGIN * a[low - 1]:
                assert reading.promote[row] == pairs
                break
        else:
            pytest.fail("never said")


def test_quantiles_are_read_at_every_look_from_all_pairs_before_it_and_not_before_there_are_enough() -> None:
    case = latencies.Case(latencies.lognormal(0.9), 3.0, {0.5: (240, 20), 0.9: (160, 40)})
    for factor, of, fewest in ((1.0, "rollback", 30), (0.2, "promote", 100)):
        baseline, candidate = case.law(np.random.default_rng(39), (3, 240))
        candidate *= 3.0 * factor
        found = latencies._ours(case, baseline, candidate)
        for p, (pairs, every) in case.plan.items():
            for row in range(3):
                expected = math.inf
                for at in reversed(looks(pairs, every)):
                    values = np.column_stack([baseline[row, :at], candidate[row, :at]])
                    ni, harm = latencies.GRID.log_e(latencies.GRID.fold(values, Grouping.single(int(at))), p)
                    if at >= fewest and (harm if of == "rollback" else ni)[0] >= PROVEN:
                        expected = at
                assert getattr(found[p], of)[row] == expected
        assert fewest <= getattr(found[0.5], of).min() < 100 + 20 * (fewest == 100)


def test_the_figures_are_the_same_however_many_processes_share_the_work() -> None:
    work = [Chunk("no-op", 0, 2), Chunk("no-op", 1, 2)]
    alone = {chunk.number: found for chunk, found in all_simulated(work, 1)}
    shared = {chunk.number: found for chunk, found in all_simulated(work, 2)}
    key = (OURS, "")
    assert alone.keys() == shared.keys()
    for number, found in alone.items():
        assert found[key].promote.tolist() == shared[number][key].promote.tolist()
    assert alone[0][key].promote.tolist() != alone[1][key].promote.tolist()
    assert sum(chunk.experiments for chunk in running.chunks("no-op", 60)) == 60


@pytest.mark.parametrize(
    "name", ["cells", "one-cohort", "no-op", "quantiles-atoms", "latency-harm", "runs", "accounts"]
)
def test_a_scenario_has_the_method_that_is_held_to_its_goals_and_a_row_for_each(name: str) -> None:
    found = simulated(Chunk(name, 0, 1))
    scenario = SCENARIOS[name]
    assert any(method == scenario.ours for method, _ in found)
    assert {part for _, part in found} == set(scenario.pairs)
    assert list(running._goals(scenario, found)) or not scenario.wrong
    rows = running._report({name: found}, 1).rows
    assert {row[1] for row in rows} == {method for method, _ in found}
    assert {len(row) for row in rows} == {5}


# The whole, small


Figures = dict[str, dict[tuple[str, str], dict[str, object]]]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """Of 40 experiments in each scenario that is quick, by method and quantile."""
    out = tmp_path_factory.mktemp("decisions") / "figures.json"
    names = [name for name in SCENARIOS if not name.startswith(("quantiles", "latency", "runs"))]
    assert main(["decisions", "--quick", "--rounds", "40", "--only", ",".join(names), "--json", str(out)]) == 0
    (report,) = json.loads(out.read_text())
    assert report["good"]
    assert report["checks"]
    return {name: {(row["method"], row["quantile"]): row for row in rows} for name, rows in report["scenarios"].items()}


def rate(row: dict[str, object], what: str) -> float:
    said = row[what]
    assert isinstance(said, dict)
    return float(said["said"] / said["of"])


def test_what_is_ours_is_seldom_wrong(figures: Figures) -> None:
    for name, rows in figures.items():
        for what in SCENARIOS[name].wrong:
            # 5% at most, of 40: eight or more are less likely than 1 in 1,000.
            assert rate(rows[SCENARIOS[name].ours, ""], what) <= 7 / 40, (name, what)
    assert rate(figures["cells"][OURS, ""], "rollback") == 0


@pytest.mark.parametrize(
    ("name", "method", "what", "least"),
    [
        ("mean", Z_MARGIN, "promote", 0.2),
        ("mean", Z_MARGIN, "rollback", 0.2),
        ("mean", KAYENTA, "rollback", 0.3),
        ("no-op", Z_SAME, "rollback", 0.2),
        ("drift-to-bad", ADAPTIVE, "promote", 0.7),
        ("drift-to-good", ADAPTIVE, "rollback", 0.7),
        ("cells-margin", cells.Z_EACH, "rollback", 0.9),
        ("order", order.NAIVE, "promote", 0.9),
        ("order-5", order.NAIVE, "promote", 0.9),
        ("accounts", dependence.BARE, "promote", 0.1),
        ("accounts", Z_MARGIN, "rollback", 0.3),
    ],
)
def test_what_is_known_to_go_wrong_does(figures: Figures, name: str, method: str, what: str, least: float) -> None:
    assert rate(figures[name][method, ""], what) >= least


def test_what_is_right_is_said_in_time(figures: Figures) -> None:
    same = figures["no-op"][OURS, ""]["promote"]
    assert isinstance(same, dict)
    assert same["said"] == 40
    assert 250 <= same["median_pairs"] <= 450
    bad = figures["one-cohort"][OURS, ""]
    assert rate(bad, "rollback") == 1
    assert isinstance(bad["shares"], dict)
    assert bad["shares"][cells.NAMED] >= 0.9
    assert figures["accounts"][dependence.BARE, ""]["shares"] == {dependence.FLAGGED: 1.0}


def test_quantiles_at_the_margin_are_seldom_wrong_and_equal_ones_soon_proven() -> None:
    plan = {0.5: (1_000, 50), 0.9: (2_000, 50), 0.99: (2_000, 500)}
    draw = partial(np.random.default_rng, 41)
    for law in (latencies.lognormal(0.9), latencies.atoms, latencies.timeouts):
        found = latencies.simulate(latencies.Case(law, latencies.MARGIN, plan), draw(), 30)
        for reading in found[OURS].values():
            assert reading.promote is not None
            assert reading.rollback is not None
            assert Rate.of_times(reading.promote).hits <= 6
            assert Rate.of_times(reading.rollback).hits <= 6
    equal = latencies.simulate(latencies.Case(latencies.lognormal(0.9), 1.0, plan), draw(), 30)
    slower = latencies.simulate(latencies.Case(latencies.lognormal(0.9), 1.3, plan), draw(), 30)
    promote, rollback = equal[OURS][0.5].promote, slower[OURS][0.5].rollback
    assert promote is not None
    assert rollback is not None
    assert np.median(promote) <= 900
    assert np.median(rollback) <= 500
    two = slower[latencies.FIXED][0.5].rollback
    assert two is not None
    assert np.median(rollback) < np.median(two)


def test_runs_mislead_evidence_that_takes_them_for_independent_and_blocks_do_not() -> None:
    found = dependence.runs(20_000, np.random.default_rng(43), 30)
    bare, blocks, held, waited = (
        found[of] for of in (dependence.BARE, dependence.BLOCKS, dependence.HELD, dependence.WAITED)
    )
    assert bare.promote is not None
    assert bare.rollback is not None
    assert blocks.promote is not None
    assert blocks.rollback is not None
    assert Rate.of_times(bare.promote).share >= 0.4
    assert Rate.of_times(bare.rollback).share >= 0.4
    assert Rate.of_times(blocks.promote).hits <= 6
    assert Rate.of_times(blocks.rollback).hits <= 6
    assert bare.shares[dependence.FLAGGED].all()
    # Noticing it isn't enough: the first promotes come before there is anything to be noticed.
    assert held.promote is not None
    assert waited.promote is not None
    assert 0.1 <= Rate.of_times(held.promote).share < Rate.of_times(bare.promote).share
    assert Rate.of_times(waited.promote).hits <= 3


def test_pairs_are_judged_when_all_that_began_with_them_have_ended() -> None:
    found = order.simulate(1.0, np.random.default_rng(47), 2)
    # All fail at the deadline: harm is seen once the first buckets are closed, no sooner than 11 s.
    times = found[OURS].rollback
    assert times is not None
    assert (times >= (order.DEADLINE + order.SETTLE) * order.RATE).all()
    never = found[OURS].promote
    assert never is not None
    assert np.isinf(never).all()


def test_a_rate_beyond_what_is_wanted_is_a_goal_that_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = SCENARIOS["mean"]
    some, none = np.where(np.arange(100) < 6, 50.0, math.inf), np.full(100, math.inf)
    (missed,) = running._goals(scenario, {(OURS, ""): Reading(none, some)})
    assert (missed.found, missed.met) == (0.06, False)
    assert "false rollback, 6 of 100" in missed.what
    # Of several quantiles the worst.
    several = {
        (OURS, "p50"): Reading(none, none),
        (OURS, "p90"): Reading(none, some),
        (OURS, "p99"): Reading(none, none),
    }
    assert [goal.found for goal in running._goals(SCENARIOS["quantiles-atoms"], several)] == [0.06]
    (met,) = running._goals(scenario, {(OURS, ""): Reading(none, np.where(np.arange(100) < 5, 50.0, math.inf))})
    assert met.met
    late = running._goals(SCENARIOS["no-op"], {(OURS, ""): Reading(np.full(9, 430.0), np.full(9, math.inf))})
    assert [goal.met for goal in late] == [True, False]
    # An experiment of which the vectorised sum says something else than the decision fails the run.
    monkeypatch.setattr(cells.Cells, "shares", lambda self: np.full(self.ni.shape[:2], 2.0))
    report = running._report({"cells": simulated(Chunk("cells", 0, 3))}, 3)
    assert not report.good
