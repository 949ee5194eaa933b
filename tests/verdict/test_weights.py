"""Weights: what they come to in sums and verdicts, and that the evidence stays valid for the weighted mean."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from verdict.synthetic import columns, facts, settings, take

from shadowproxy.compare.columns import Columns
from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.betting import COUNT, FIRST_LOG, MeanGrid
from shadowproxy.stats.empirical_bernstein import interval
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Verdict

FAIL, RBO = "failures.difference", "ranking.rbo"
SLOTS = {"region=us": 1, "region=eu": 2}


def plan(*, weight: str | None = "annotations.weight") -> Plan:
    return Plan(
        settings(
            routes=[{"name": "r", "ids": "response.body", "cohorts": {"region": "annotations.r"}, "weight": weight}],
            verdict={
                "max_cohorts": 2,
                "guardrails": [{"metric": FAIL, "margin": 0.05}, {"metric": RBO, "margin": 0.2}],
            },
        )
    )


def batch(seed: int, n: int = 400) -> Columns:
    draw = np.random.default_rng(seed)
    regions = [("region=us",), ("region=eu",), ("region=jp",), ()]
    made = columns(
        n,
        {FAIL: draw.choice([-1.0, 0, 0, 0, 1], n), RBO: np.where(draw.random(n) < 0.1, np.nan, draw.random(n))},
        started=1000 + draw.random(n) * 6,
        cohorts=[regions[at] for at in draw.integers(0, 4, n)],
        applicable={RBO: draw.random(n) < 0.8},
    )
    return replace(made, weight=draw.choice([0, 0.1, 0.5, 1.0], n))


def judged(one: Plan, *batches: Columns) -> Verdict:
    state = one.empty()
    for some in batches:
        state = state.with_added(one.tally(some, SLOTS))
    return one.judge(state.close(1e12).total, SLOTS, facts())


def figures(verdict: Verdict) -> str:
    """All of a verdict, rounded: sums are taken in another order."""

    def rounded(value: object) -> object:
        if isinstance(value, dict):
            return {key: rounded(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [rounded(inner) for inner in value]
        return float(f"{value:.9g}") if isinstance(value, float) else value

    return repr(rounded(msgspec.to_builtins(verdict)))


def test_weights_of_0_and_1_leave_pairs_out() -> None:
    whole = batch(1)
    whole = replace(whole, weight=np.where(whole.weight > 0.3, 1.0, 0.0))
    left = np.flatnonzero(whole.weight)
    kept = replace(take(whole, left), weight=np.ones(len(left)))
    one = plan()
    assert figures(judged(one, whole)) == figures(judged(one, kept)) == figures(judged(plan(weight=None), kept))
    assert judged(one, whole).pairs == len(left) < len(whole)
    # What was read is read, whatever it counts.
    assert sum(pairs for _, pairs in one.tally(whole, SLOTS).values()) == len(whole)


def test_estimates_and_intervals_are_of_the_weighted_mean() -> None:
    whole = batch(2)
    verdict = judged(plan(), take_weighted(whole, 0), take_weighted(whole, 1))
    cells = [*verdict.guardrails, *(cell for report in verdict.cohorts.values() for cell in report.guardrails)]
    assert len(cells) == 8
    for cell in cells:
        loss = whole.values[FAIL] if cell.metric == FAIL else 1 - whole.values[RBO]
        named = {"all": True, "other": np.array([names == ("region=jp",) for names in whole.cohorts])}
        here = named.get(cell.cohort, np.array([cell.cohort in names for names in whole.cohorts]))
        chosen = here & whole.applicable[cell.metric] & (whole.weight > 0)
        assert cell.undefined == np.isnan(loss[chosen]).sum()
        chosen &= ~np.isnan(loss)
        weight, loss = whole.weight[chosen], loss[chosen]
        assert cell.pairs == chosen.sum()
        assert cell.estimate == pytest.approx(np.average(loss, weights=weight))
        low = -1 if cell.metric == FAIL else 0
        expected = interval(*map(np.asarray, (weight.sum(), weight @ loss, weight**2 @ loss**2)), low, 1, 0.05)
        assert cell.interval == pytest.approx([float(end) for end in expected])
        assert cell.interval[0] <= cell.estimate <= cell.interval[1]


def take_weighted(whole: Columns, part: int) -> Columns:
    at = np.arange(len(whole))[part::2]
    return replace(take(whole, at), weight=whole.weight[at])


def test_a_bet_on_a_weighted_loss_is_one_on_the_loss_moved_to_the_margin() -> None:
    draw = np.random.default_rng(3)
    losses, weights = draw.uniform(-1, 1, 500), draw.random(500)
    for margin in (0.02, 0.3):
        grid = MeanGrid(-1, 1, margin)
        moved = margin + weights * (losses - margin)
        np.testing.assert_allclose(grid.increments(losses, weights), grid.increments(moved), atol=1e-12)
        assert np.array_equal(grid.rows(losses, np.ones(500)), grid.rows(losses))


def test_without_a_weight_in_the_configuration_nothing_is_another() -> None:
    one, whole = plan(weight=None), batch(4)
    weightless = replace(whole, weight=None)
    states = [one.empty().with_added(one.tally(some, SLOTS)) for some in (whole, weightless)]
    assert states[0].to_bytes() == states[1].to_bytes()
    assert not [name for name in states[0].names if name.startswith("weight/")]
    # Pairs of which nothing is said count as 1 beside those that are weighed.
    ones = plan().tally(weightless, SLOTS)
    for bucket, (tally, _) in one.tally(weightless, SLOTS).items():
        for rule in one.rules:
            name = f"guardrail/{rule.name}"
            assert np.array_equal(ones[bucket][0][name], tally[name])
            assert np.array_equal(ones[bucket][0][f"weight/{rule.name}"][:, 0], tally[name][:, COUNT])


def test_a_labels_quality_has_its_pairs_weight() -> None:
    one = plan()
    first = replace(columns(3, {FAIL: 0.0}), weight=np.array([0, 0.5, 1]))
    later = replace(columns(3, {RBO: [0.0, 0.0, 1.0]}), weight=np.array([0, 0.5, 1]))
    state = one.empty().with_added(one.tally(first, {})).with_added(one.tally_labelled(later, {}))
    verdict = one.judge(state.close(1e12).total, {}, facts())
    (cell,) = [cell for cell in verdict.guardrails if cell.metric == RBO]
    assert (verdict.pairs, cell.pairs, cell.estimate) == (2, 2, pytest.approx(0.5 / 1.5))


def streams(kind: str, runs: int, n: int, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(losses in {0, 1}, weights) whose weighted mean of conditional means is 0.2 at the least, always.

    The plain mean is far below: what weighs little loses little. `drift`: and neither stays as it is.
    """
    weights = np.where(draw.random((runs, n)) < 0.3, 1.0, 0.1)
    if kind == "drift":
        # Heavy losses come early, and the light rest ever less: the weighted mean falls towards 0.2, the plain to 0.
        at = np.arange(n)
        weights = np.broadcast_to(np.where(at < n / 4, 1.0, 0.05), (runs, n))
        means = np.broadcast_to(np.where(at < n / 4, 0.2 * (n / 4 + 0.05 * 3 * n / 4) / (n / 4), 0.0), (runs, n))
        return (draw.random((runs, n)) < means).astype(float), weights
    means = np.where(weights == 1, 0.24, 0.0286)  # 0.3 · 0.24 + 0.07 · 0.0286 is just above 0.2 · 0.37
    return (draw.random((runs, n)) < means).astype(float), weights


@pytest.mark.parametrize("kind", ["mixed", "drift"])
def test_evidence_against_a_true_null_on_the_weighted_mean_is_rare(kind) -> None:
    draw = np.random.default_rng(5)
    runs, n, alpha = 400, 1500, 0.05
    losses, weights = streams(kind, runs, n, draw)
    grid = MeanGrid(0, 1, 0.2)

    def ever(some_weights: np.ndarray | None) -> float:
        crossed = 0
        for run in range(runs):
            steps = grid.increments(losses[run], None if some_weights is None else some_weights[run])
            ni, _ = grid.log_e(np.cumsum(steps, axis=0)[9::10])
            crossed += bool((ni >= np.log(1 / alpha)).any())
        return crossed / runs

    assert ever(weights) <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / runs)
    # The plain mean is below the margin: whoever forgets the weights finds the candidate safe.
    assert ever(None) > 0.9


def test_what_weighs_much_and_is_bad_is_found_although_the_plain_mean_is_good() -> None:
    draw = np.random.default_rng(6)
    weights = np.where(draw.random(3000) < 0.2, 1.0, 0.05)
    losses = (draw.random(3000) < np.where(weights == 1, 0.5, 0.0)).astype(float)
    grid = MeanGrid(0, 1, 0.2)
    rows = [grid.rows(losses, some).sum(axis=0) for some in (weights, None)]
    (ni, harm), (plain_ni, plain_harm) = (grid.get(row) for row in rows)
    assert harm > np.log(1000) > 0 > ni
    assert plain_ni > np.log(1000) > 0 > plain_harm


def test_intervals_cover_the_weighted_mean_at_all_times() -> None:
    draw = np.random.default_rng(7)
    runs, n = 300, 800
    weights = np.where(draw.random((runs, n)) < 0.3, 1.0, 0.1)
    means = np.where(weights == 1, 0.6, 0.05)
    losses = (draw.random((runs, n)) < means).astype(float)
    at = np.arange(19, n, 20)
    totals = [np.cumsum(one, axis=1)[:, at] for one in (weights, weights * losses, (weights * losses) ** 2)]
    target = np.cumsum(weights * means, axis=1)[:, at] / totals[0]
    lower, upper = interval(*totals, 0, 1, 0.05)
    missed = ((target < lower) | (target > upper)).any(axis=1).mean()
    assert missed <= 0.05
    assert np.median((upper - lower)[:, -1]) < 0.35


def test_grouping_is_by_weight_too() -> None:
    grid = MeanGrid(0, 1, 0.2)
    losses, weights = np.array([0.0, 1.0, np.nan]), np.array([0.5, 0.25, 1.0])
    row = Grouping.single(3).sum(grid.rows(losses, weights))[0]
    assert row[:FIRST_LOG].tolist() == [2, 1, 0.25, 0.0625]
