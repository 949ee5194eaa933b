"""The ratio of paired latency quantiles: against its definition, and its promises under simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

from shadowproxy.stats import quantiles
from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.counts import (
    binomial_bets,
    binomial_log_e,
    excluding_successes,
    geometric_bets,
    ternary_log_e,
)
from shadowproxy.stats.quantiles import BLOCK, RatioGrid

INF, NAN = math.inf, math.nan
THRESHOLD = math.log(20)
SMALL = RatioGrid(1.5, deadline=0.5, shortest=0.01, steps=3)
"""36 bins: an oracle may try each."""


# The definition, once more, in plain Python.


def bets(largest: float, smallest: float) -> list[tuple[float, float]]:
    """(λ, weight)"""
    weights = [0.5] + [0.5 / 11] * 11
    return [(largest * (smallest / largest) ** (j / 11), w) for j, w in enumerate(weights)]


def log_sum(terms: list[float]) -> float:
    top = max(terms)
    return top + math.log(math.fsum(math.exp(x - top) for x in terms))


def binomial(hits: list[bool], p: float, *, low: bool) -> float:
    largest = -0.95 / (1 - p) if low else 0.95 / p
    return log_sum(
        [
            math.log(w) + math.fsum(math.log(1 + bet * ((1 if hit else 0) - p)) for hit in hits)
            for bet, w in bets(largest, 0.003 * largest)
        ]
    )


def ternary(losses: list[int], *, low: bool) -> float:
    sign = -1 if low else 1
    return log_sum(
        [math.log(w) + math.fsum(math.log(1 + sign * bet * loss) for loss in losses) for bet, w in bets(0.95, 0.01)]
    )


def bucket(seconds: float, grid: RatioGrid) -> int:
    """By its edges, the first of which, at x0, ends the empty one."""
    if seconds == INF:
        return grid.top
    edges = (i for i in range(1, grid.top) if seconds <= grid.shortest * grid.ratio ** (i / grid.steps) * (1 + 1e-11))
    return next(edges, grid.top - 1)


def by_definition(pairs: list[tuple[float, float]], p: float, grid: RatioGrid) -> tuple[float, float]:
    """Natural logs of (non-inferiority, harm)."""
    known = [(bucket(a, grid), bucket(b, grid)) for a, b in pairs if not (math.isnan(a) or math.isnan(b))]
    s, top = grid.steps, grid.top
    lowest = [math.log(1e6), math.log(1e6)]
    for k in range(1, top + 1):
        g1 = math.log(0.1) + binomial([a <= k for a, _ in known], p, low=True)
        g2 = math.log(0.1) + binomial([a <= k - 1 for a, _ in known], p, low=False)
        ni = [math.log(0.8)]
        if k < top:
            below = [b <= k + s - 1 and b < top for _, b in known]
            losses = [(a <= k) - fell for (a, _), fell in zip(known, below, strict=True)]
            ni = [math.log(0.4) + ternary(losses, low=True), math.log(0.4) + binomial(below, p, low=False)]
        harm = [math.log(0.8)]
        if k < top and grid.shortest * grid.ratio ** ((k + s) / s) <= grid.deadline * (1 + 1e-9):
            below = [b <= k + s and b < top for _, b in known]
            losses = [(a <= k - 1) - fell for (a, _), fell in zip(known, below, strict=True)]
            harm = [math.log(0.4) + ternary(losses, low=False), math.log(0.4) + binomial(below, p, low=True)]
        for at, parts in enumerate((ni, harm)):
            lowest[at] = min(lowest[at], log_sum([g1, g2, *parts]))
    return lowest[0], lowest[1]


EDGES = [0.01 * 1.5 ** (i / 3) for i in range(0, 30, 3)]
SECONDS = st.floats(0, 0.6) | st.sampled_from([0.04, 0.05, 0.06, *EDGES]) | st.sampled_from([INF, INF, NAN, 0.0, 7.0])
PAIRS = st.lists(st.tuples(SECONDS, SECONDS), max_size=40)
QUANTILES = st.sampled_from([0.5, 0.9, 0.99, 0.05])


def folded(grid: RatioGrid, pairs: list[tuple[float, float]] | np.ndarray) -> np.ndarray:
    return grid.fold(np.array(pairs, float).reshape(-1, 2), Grouping.single(len(pairs)))


def repeated(pairs: list[tuple[float, float]], times: int) -> list[tuple[float, float]]:
    return [pair for pair in pairs for _ in range(times)]


# What it computes.


@given(st.lists(SECONDS, max_size=30))
def test_buckets_are_found_by_their_edges(seconds) -> None:
    expected = [-1 if math.isnan(x) else bucket(x, SMALL) for x in seconds]
    assert SMALL.index(np.array(seconds, float)).tolist() == expected


@pytest.mark.parametrize(("ratio", "steps"), [(1.1, 10), (4.0, 5), (10.0, 10)])
def test_a_ratio_is_so_many_buckets_on_edges_too(ratio, steps) -> None:
    """25.6 ms is an edge of the second grid, and by logarithms alone 102.4 ms would be 4 or 6 buckets off."""
    grid = RatioGrid(ratio, deadline=100.0, steps=steps)
    seconds = np.arange(2, 20_000) * 1e-4
    np.testing.assert_array_equal(grid.index(seconds * ratio), grid.index(seconds) + grid.steps)


@given(PAIRS, QUANTILES, st.integers(1, 4))
def test_agrees_with_the_definition(pairs, p, times) -> None:
    many = repeated(pairs, times)
    ni, harm = SMALL.log_e(folded(SMALL, many), p)
    assert (ni[0], harm[0]) == pytest.approx(by_definition(many, p, SMALL), abs=1e-9)


@pytest.mark.parametrize("p", [0.5, 0.9])
@pytest.mark.parametrize("ratio", [0.7, 1.0, 1.5, 2.5])
def test_agrees_with_the_definition_once_much_is_known(p, ratio) -> None:
    rng = np.random.default_rng(5)
    baseline = rng.lognormal(math.log(0.06), 0.4, 250)
    pairs = np.stack([baseline, baseline * ratio * rng.lognormal(0, 0.1, 250)], axis=1)
    pairs[rng.random((250, 2)) < 0.02] = INF
    for n in (30, 100, 250):
        ni, harm = SMALL.log_e(folded(SMALL, pairs[:n]), p)
        assert (ni[0], harm[0]) == pytest.approx(by_definition(pairs[:n].tolist(), p, SMALL), abs=1e-9)


@given(st.lists(PAIRS, min_size=1, max_size=5), QUANTILES)
def test_many_at_once_are_what_each_is_alone(several, p) -> None:
    states = np.concatenate([folded(SMALL, pairs) for pairs in several])
    together = SMALL.log_e(states, p)
    alone = [SMALL.log_e(state[None], p) for state in states]
    for side in (0, 1):
        np.testing.assert_allclose(together[side], [one[side][0] for one in alone], rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(SMALL.log_e(states[None], p)[side], together[side][None])


def test_in_parts_as_in_one(monkeypatch) -> None:
    state = folded(SMALL, [(0.05, 0.04), (0.2, INF), (INF, 0.1)] * 3)
    whole = SMALL.log_e(state, 0.9)
    monkeypatch.setattr(quantiles, "_AT_ONCE", 5)
    np.testing.assert_array_equal(SMALL.log_e(state, 0.9), whole)


def range_by_definition(seconds: list[float], p: float, alpha: float) -> tuple[int, int]:
    """First and last bucket that neither of the two e-processes excludes."""
    at = [bucket(x, SMALL) for x in seconds]
    bound = math.log(4 / alpha)
    first = min(k for k in range(1, SMALL.bins) if binomial([x <= k for x in at], p, low=True) < bound)
    last = max(k for k in range(1, SMALL.bins) if binomial([x <= k - 1 for x in at], p, low=False) < bound)
    return first, last


def check_interval(known: list[tuple[float, float]], p: float, alpha: float) -> None:
    (a_first, a_last), (b_first, b_last) = (range_by_definition([x[side] for x in known], p, alpha) for side in (0, 1))
    edges = [SMALL.shortest * SMALL.ratio ** (i / SMALL.steps) for i in range(SMALL.top)] + [INF]
    seen = max(edge for edge in edges if edge <= SMALL.deadline)
    lower, upper = SMALL.interval(folded(SMALL, known), p, alpha)
    assert lower[0] == pytest.approx(min(edges[b_first - 1], seen) / edges[a_last])
    assert upper[0] == pytest.approx(edges[b_last] / edges[a_first - 1])


@given(PAIRS, QUANTILES, st.sampled_from([0.05, 0.5]), st.integers(1, 8))
def test_the_interval_agrees_with_its_definition(pairs, p, alpha, times) -> None:
    check_interval(repeated([pair for pair in pairs if not any(math.isnan(x) for x in pair)], times), p, alpha)


@pytest.mark.parametrize("n", [20, 50, 100, 200, 400])
def test_the_interval_agrees_with_its_definition_once_much_is_known(n) -> None:
    pairs = np.random.default_rng(8).lognormal(math.log(0.06), 0.4, (n, 2))
    for p in (0.5, 0.9):
        for alpha in (0.05, 0.5):
            check_interval(pairs.tolist(), p, alpha)


@given(PAIRS, st.data())
def test_the_state_counts_what_it_says(pairs, data) -> None:
    k = data.draw(st.integers(0, SMALL.top - 1))
    sums = np.cumsum(folded(SMALL, pairs).reshape(6, SMALL.bins), axis=1)[:, k]
    known = [(bucket(a, SMALL), bucket(b, SMALL)) for a, b in pairs if not (math.isnan(a) or math.isnan(b))]
    expected = [sum(a <= k for a, _ in known), sum(b <= k for _, b in known)]
    for shift in (SMALL.steps - 1, SMALL.steps + 1):
        below = [(a <= k, b <= k + shift and b < SMALL.top) for a, b in known]
        expected += [below.count((True, False)), below.count((False, True))]
    assert sums.tolist() == expected


@given(PAIRS, st.data())
def test_blocks_are_the_state_without_what_is_empty(pairs, data) -> None:
    grid = RatioGrid(1.02, deadline=0.5, shortest=0.01)
    groups = data.draw(st.lists(st.integers(0, 3), min_size=len(pairs), max_size=len(pairs)))
    grouping = Grouping(np.arange(len(pairs)), np.array(groups, np.int64), len(pairs), 4)
    seconds = np.array(pairs, float).reshape(-1, 2)
    blocks = dict(grid.blocks(seconds, grouping))
    np.testing.assert_array_equal(grid.gathered(blocks, 4), grid.fold(seconds, grouping))
    touched = set()
    for a, b in grid.index(seconds.ravel()).reshape(-1, 2).tolist():
        if min(a, b) >= 0:
            touched |= {a, b, *(b if b == grid.top else max(b - grid.steps + shift, 0) for shift in (1, -1))}
    assert set(blocks) == {bucket // BLOCK for bucket in touched}
    for sums in blocks.values():
        assert sums.shape == (4, 6, BLOCK)
    # A slot that came later is missing in what was counted before.
    np.testing.assert_array_equal(grid.gathered(blocks, 6)[4:], 0)


def test_only_the_blocks_that_were_touched_are_given() -> None:
    grid = RatioGrid(1.1, deadline=30.0)
    touched = dict(grid.blocks(np.full((50, 2), 0.05), Grouping.single(50)))
    assert sorted(touched) == [653 // BLOCK]
    assert dict(grid.blocks(np.full((5, 2), NAN), Grouping.single(5))) == {}


@pytest.mark.parametrize(("block", "shape"), [(99, (1, 6, 64)), (-1, (1, 6, 64)), (0, (1, 6, 32)), (0, (3, 6, 64))])
def test_blocks_of_another_grid_are_refused(block, shape) -> None:
    with pytest.raises(ValueError, match="not counted by this grid"):
        RatioGrid(1.1, deadline=30.0).gathered({block: np.zeros(shape, np.int64)}, 2)


def test_a_state_of_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="not counted by a grid"):
        RatioGrid(1.1, deadline=30.0).log_e(SMALL.empty(), 0.5)


@pytest.mark.parametrize(
    "bad",
    [
        {"ratio": 1.0},
        {"ratio": NAN},
        {"ratio": INF},
        {"steps": 0},
        {"deadline": INF},
        {"deadline": 1e-4},
        {"shortest": 0.0},
        {"deadline": NAN},
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(bad) -> None:
    with pytest.raises(ValueError, match=r"margin|deadline"):
        RatioGrid(**{"ratio": 1.1, "deadline": 10.0, **bad})


@pytest.mark.parametrize("p", [0.0, 1.0, NAN])
def test_no_quantile(p) -> None:
    with pytest.raises(ValueError, match="no quantile"):
        SMALL.log_e(SMALL.empty(), p)


def test_nothing_is_known_without_data() -> None:
    none = SMALL.empty(2)
    for e in SMALL.log_e(none, 0.9):
        np.testing.assert_allclose(e, [0, 0], atol=1e-12)
    assert np.isnan(SMALL.estimate(none, 0.5)).all()
    assert [bound.tolist() for bound in SMALL.interval(none, 0.5, 0.05)] == [[0, 0], [INF, INF]]
    assert math.isnan(SMALL.forecast(none[0], 0.5, THRESHOLD))


def test_no_slots() -> None:
    none = SMALL.empty(0)
    for read in (*SMALL.log_e(none, 0.9), *SMALL.interval(none, 0.9, 0.05), *SMALL.get(none)):
        assert read.shape == (0,)


# Counts.


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.sampled_from([-0.1, 0.0, 0.2]))
def test_three_values_by_counts(plus, zero, minus, margin) -> None:
    for sign in (-1, 1):
        side = geometric_bets(sign * 0.95 / (1 - sign * -margin), sign * 0.01)
        losses = [1] * plus + [0] * zero + [-1] * minus
        expected = log_sum(
            [
                w + math.fsum(math.log(1 + bet * (loss - margin)) for loss in losses)
                for bet, w in zip(side.bets.tolist(), side.log_weights.tolist(), strict=True)
            ]
        )
        mine = ternary_log_e(np.array(plus), np.array(zero), np.array(minus), *side, margin)
        assert float(mine) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_one_observation_is_a_fair_bet(p) -> None:
    for side in binomial_bets(p):
        hit, miss = np.exp(binomial_log_e(np.array([1, 0]), np.array([1, 1]), p, *side))
        assert p * hit + (1 - p) * miss == pytest.approx(1, abs=1e-12)
        assert min(hit, miss) > 0


@given(st.integers(0, 10**9), st.sampled_from([0.5, 0.9, 0.99]), st.floats(-5, 20))
def test_what_is_excluded_by_one_bet_is_excluded_by_all(n, p, bound) -> None:
    count = np.array([n])
    low, high = binomial_bets(p)
    few = math.floor(excluding_successes(count, p, *low, np.array([bound]))[0] - 1e-6)
    many = math.ceil(excluding_successes(count, p, *high, np.array([bound]))[0] + 1e-6)
    if 0 <= few <= n:
        assert binomial_log_e(np.array([few]), count, p, *low)[0] >= bound - 1e-6
    if 0 <= few + 2 <= n:
        assert binomial_log_e(np.array([few + 2]), count, p, *low)[0] < bound + math.log(12)
    if 0 <= many <= n:
        assert binomial_log_e(np.array([many]), count, p, *high)[0] >= bound - 1e-6
    if 0 <= many - 2 <= n:
        assert binomial_log_e(np.array([many - 2]), count, p, *high)[0] < bound + math.log(12)


def test_a_billion_observations_keep_their_digits() -> None:
    """Against Python's integers and exact fractions of the same logs."""
    n = 10**9
    for p in (0.5, 0.9, 0.99):
        for side in binomial_bets(p):
            for successes in (round(n * p) + shift for shift in (-40_000, 0, 40_000)):
                expected = log_sum(
                    [
                        w + math.fsum([successes * math.log1p(bet * (1 - p)), (n - successes) * math.log1p(-bet * p)])
                        for bet, w in zip(side.bets.tolist(), side.log_weights.tolist(), strict=True)
                    ]
                )
                mine = float(binomial_log_e(np.array(successes), np.array(n), p, *side))
                assert mine == pytest.approx(expected, abs=1e-6)


# What it says.


def test_the_estimate_is_the_ratio_of_quantiles() -> None:
    rng = np.random.default_rng(3)
    grid = RatioGrid(1.1, deadline=10.0)
    pairs = rng.lognormal(-3, 0.6, (5000, 2)) * [1, 1.3]
    expected = np.quantile(pairs, [0.5, 0.9, 0.99], axis=0, method="inverted_cdf")
    state = folded(grid, pairs)
    np.testing.assert_allclose(np.concatenate(grid.get(state)), expected[:, 1] / expected[:, 0], rtol=grid.gamma - 1)
    pairs[rng.random((5000, 2)) < 0.02] = INF
    p50, _, p99 = grid.get(folded(grid, pairs))
    assert math.isfinite(p50[0])
    assert math.isnan(p99[0])


@pytest.mark.parametrize("ratio", [0.8, 1.0, 1.3])
def test_the_interval_holds_the_ratio_and_narrows(ratio) -> None:
    rng = np.random.default_rng(4)
    grid = RatioGrid(1.1, deadline=10.0)
    pairs = rng.lognormal(-3, 0.6, (20_000, 2)) * [1, ratio]
    widths = []
    for n in (200, 2000, 20_000):
        lower, upper = grid.interval(folded(grid, pairs[:n]), 0.5, 0.05)
        assert lower[0] < ratio < upper[0]
        widths.append(upper[0] / lower[0])
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 1.2


def test_an_interval_does_not_look_behind_the_deadline() -> None:
    """All candidates time out at 1 s: their median may be 1.01 s."""
    grid = RatioGrid(1.1, deadline=1.0)
    lower, upper = grid.interval(folded(grid, [(0.5, INF)] * 500), 0.5, 0.05)
    assert lower[0] == pytest.approx(2, rel=2 * (grid.gamma - 1))
    assert upper[0] == INF
    lower, upper = grid.interval(folded(grid, [(INF, 0.5)] * 500), 0.5, 0.05)
    assert (lower[0], upper[0] < 1) == (0, True)


def test_harm_is_told_only_before_the_deadline() -> None:
    """The candidate is stopped at 1 s. Baselines at 0.95 s leave no room for m times that; those at 0.5 s do."""
    grid = RatioGrid(1.1, deadline=1.0)
    for baseline, told in ((0.5, True), (0.95, False), (INF, False)):
        _, harm = grid.log_e(folded(grid, [(baseline, INF)] * 2000), 0.5)
        assert (harm[0] > THRESHOLD) == told
        ni, _ = grid.log_e(folded(grid, [(baseline, 0.1)] * 2000), 0.5)
        assert (ni[0] > THRESHOLD) == (baseline < INF)


def test_the_forecast_is_when_it_is_proven() -> None:
    grid = RatioGrid(1.1, deadline=10.0)
    rng = np.random.default_rng(6)
    pairs = rng.lognormal(-3, 0.6, (60, 1)) * rng.lognormal(0, 0.2, (60, 2))
    row = folded(grid, pairs)
    more = grid.forecast(row[0], 0.5, THRESHOLD)
    times = (60 + more) / 60
    assert times > 1.5
    assert grid.log_e(row * math.ceil(times), 0.5)[0][0] >= THRESHOLD
    assert grid.log_e(row * (math.floor(times) if times % 1 > 0.01 else math.floor(times) - 1), 0.5)[0][0] < THRESHOLD
    assert grid.forecast(row[0] * 1000, 0.5, THRESHOLD) == 0
    assert math.isnan(grid.forecast(row[0], 0.5, 14.0))
    slower = folded(grid, pairs * [1, 1.5])
    assert math.isnan(grid.forecast(slower[0], 0.5, THRESHOLD))


def test_a_billion_pairs_are_read_without_overflow() -> None:
    grid = RatioGrid(1.1, deadline=10.0)
    rng = np.random.default_rng(7)
    row = folded(grid, rng.lognormal(-3, 0.6, (1000, 2))) * 10**6
    for p in (0.5, 0.9, 0.99):
        ni, harm = grid.log_e(row, p)
        assert np.isfinite([ni, harm]).all()
        assert ni[0] <= math.log(1e6)
        assert harm[0] <= math.log(1e6)
    assert grid.log_e(folded(grid, [(0.05, 0.05)]) * 10**9, 0.5)[0][0] == pytest.approx(math.log(1e6))


# What it promises.


def quantile(values: list[float], weights: list[int], p: float) -> float:
    """The first value that reaches a share of p, in integers: p is a multiple of 1/100."""
    for value in sorted(set(values)):
        if sum(w for x, w in zip(values, weights, strict=True) if x <= value) * 100 >= round(p * 100) * sum(weights):
            return value
    raise AssertionError


def expected_e(cells: list[tuple[float, float]], weights: list[int], p: float, n: int) -> tuple[float, float]:
    """The exact means of both e-values after n independent pairs, each of a cell with its weight. The sum over all
    outcomes, by how often each of three cells occurs."""
    counts = np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)])
    each = SMALL.fold(np.array(cells), Grouping(np.arange(3), np.arange(3), 3, 3))
    logs = gammaln(n + 1) - gammaln(counts + 1).sum(axis=1) + counts @ np.log(np.array(weights) / sum(weights))
    ni, harm = (np.exp(logs + e).sum() for e in SMALL.log_e(counts @ each, p))
    return float(ni), float(harm)


LATENT = st.sampled_from([0.03, 0.045, 0.04, 0.06, 0.3, 0.45, 0.49, 0.55, 0.6, 5.0, INF])


@settings(max_examples=150)
@given(st.lists(st.tuples(LATENT, LATENT), min_size=3, max_size=3), st.data())
def test_under_a_null_hypothesis_the_mean_is_at_most_one(cells, data) -> None:
    """Exactly, for any three pairs of latencies and their shares. What lasts beyond the deadline, 0.5 s, is stopped."""
    weights = data.draw(st.sampled_from([[1, 1, 2], [2, 1, 1], [1, 8, 1], [2, 9, 9], [5, 3, 2]]))
    p = data.draw(st.sampled_from([0.5, 0.9]))
    n = data.draw(st.sampled_from([5, 25, 50]))
    a, b = (quantile([cell[side] for cell in cells], weights, p) for side in (0, 1))
    seen = [tuple(x if x <= SMALL.deadline else INF for x in cell) for cell in cells]
    ni, harm = expected_e(seen, weights, p, n)
    if b >= SMALL.ratio * a * (1 - 1e-12):
        assert ni <= 1 + 1e-9
    if b <= SMALL.ratio * a * (1 + 1e-12):
        assert harm <= 1 + 1e-9


def test_an_interval_holds_at_every_look() -> None:
    """All but 5% of the runs; in truth nearly all."""
    rng = np.random.default_rng(12)
    missed = 0
    for _ in range(60):
        grouping = Grouping(np.arange(600), np.arange(600) // 50, 600, 12)
        states = np.cumsum(COARSE.fold(latencies(rng, 600, 1.1, rho=0), grouping), axis=0)
        lower, upper = COARSE.interval(states, 0.5, 0.05)
        missed += bool(((lower > 1.1) | (upper < 1.1)).any())
    assert missed <= 3


def latencies(rng: np.random.Generator, n: int, ratio: float, rho: float = 0.9, median: float = 0.05) -> np.ndarray:
    z = rng.standard_normal((n, 2))
    z[:, 1] = rho * z[:, 0] + math.sqrt(1 - rho**2) * z[:, 1]
    return median * np.exp(0.6 * z) * [1, ratio]


def looked_at(grid: RatioGrid, pairs: np.ndarray, p: float, look: int = 50) -> tuple[np.ndarray, np.ndarray]:
    """Logs of the e-values at every look."""
    grouping = Grouping(np.arange(len(pairs)), np.arange(len(pairs)) // look, len(pairs), -(-len(pairs) // look))
    return grid.log_e(np.cumsum(grid.fold(pairs, grouping), axis=0), p)


COARSE = RatioGrid(1.1, deadline=2.0, shortest=0.005)


def lognormal(rng: np.random.Generator) -> np.ndarray:
    return latencies(rng, 600, 1.1)


def rounded_with_timeouts(rng: np.random.Generator) -> np.ndarray:
    """Medians of 50 and 55 ms after rounding to 1 ms: 50 ms and 55 ms are the quantiles, and 1.1 apart exactly."""
    pairs = np.round(latencies(rng, 600, 1.1) * 1000) / 1000
    pairs[rng.random((600, 2)) < 0.02] = INF
    return pairs


def atoms(rng: np.random.Generator, ratio: float) -> np.ndarray:
    """60% and 65% of the mass on one value each, `ratio` apart, which is the median of its side."""
    u = rng.random(600)
    v = np.where(rng.random(600) < 0.9, u, rng.random(600))
    value = 0.05
    a = np.where(u < 0.2, 0.02, np.where(u < 0.8, value, 0.09))
    b = np.where(v < 0.175, 0.02, np.where(v < 0.825, value * ratio, 0.12))
    return np.stack([a, b], axis=1)


def false_alarms(make, p: float = 0.5, runs: int = 200) -> tuple[int, int]:
    """Of NI, of harm, at any look."""
    rng = np.random.default_rng(11)
    crossed = np.zeros(2, int)
    for _ in range(runs):
        crossed += [bool((e >= THRESHOLD).any()) for e in looked_at(COARSE, make(rng), p)]
    return int(crossed[0]), int(crossed[1])


@pytest.mark.parametrize(
    "make", [lognormal, rounded_with_timeouts, lambda rng: atoms(rng, 1.1)], ids=["lognormal", "rounded", "atoms"]
)
def test_at_the_margin_neither_is_proven(make) -> None:
    """At most 5% each, 10 of 200. In truth they are rarer, since every bucket that may hold the quantile has a say."""
    ni, harm = false_alarms(make)
    assert ni <= 10
    assert harm <= 10


def test_equal_medians_of_unequal_atoms_are_no_harm() -> None:
    """60% on one value against 65%, and the other way round."""
    for order in ([0, 1], [1, 0]):
        _, harm = false_alarms(lambda rng, order=order: atoms(rng, 1.0)[:, order], runs=100)
        assert harm <= 2


@pytest.mark.parametrize(("p", "about"), [(0.5, 800), (0.9, 1600)])
def test_pairs_that_equality_needs(p, about) -> None:
    rng = np.random.default_rng(13)
    needed = []
    for _ in range(15):
        ni, harm = looked_at(COARSE, latencies(rng, 4 * about, 1.0), p)
        needed.append(int(np.argmax(ni >= THRESHOLD)) * 50 + 50 if ni.max() >= THRESHOLD else 4 * about)
        assert harm.max() < THRESHOLD
    assert 0.6 * about < np.median(needed) < 1.5 * about


@pytest.mark.parametrize("p", [0.5, 0.9])
def test_harm_is_found(p) -> None:
    _, harm = looked_at(COARSE, latencies(np.random.default_rng(14), 4000, 1.3), p)
    assert harm[-1] > THRESHOLD
