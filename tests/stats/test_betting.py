"""The e-process: against a straightforward one, against `ville`, and its promises under simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ville.sequential import BettingTest

from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.betting import COUNT, FIRST_LOG, SQUARES, SUM, UNDEFINED, MeanGrid, fewest_pairs

THRESHOLD = math.log(20)


def straightforward(losses: list[float], lo: float, hi: float, d: float) -> tuple[float, float]:
    """Natural logs of (NI, harm), written down once more from the definition, in plain Python."""
    result = []
    for largest, sign in ((0.95 / (hi - d), -1), (0.95 / (d - lo), 1)):
        smallest = min(largest / 4, d / (4 * (hi - d) * (d - lo))) if d else largest / 100
        count = math.ceil(math.log2(largest / smallest)) + 1
        bets = [largest * (smallest / largest) ** (j / (count - 1)) for j in range(count)]
        weights = [0.5] + [0.5 / (count - 1)] * (count - 1)
        logs = [
            math.log(w) + math.fsum(math.log1p(sign * g * (x - d)) for x in losses)
            for w, g in zip(weights, bets, strict=True)
        ]
        top = max(logs)
        result.append(top + math.log(math.fsum(math.exp(x - top) for x in logs)))
    return result[0], result[1]


def capitals(grid: MeanGrid, losses: np.ndarray, look: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Logs of the e-values at every look."""
    rows = grid.increments(losses)
    steps = np.add.reduceat(rows, np.arange(0, len(losses), look), axis=0)
    return grid.log_e(np.cumsum(steps, axis=0))


@given(
    st.lists(st.floats(-1, 1), max_size=40),
    st.sampled_from([(-1.0, 1.0, 0.01), (-1.0, 1.0, 0.3), (0.0, 1.0, 0.2), (0.0, 2.0, 1.5), (-1.0, 1.0, 0.0)]),
    st.integers(0, 20),
)
def test_agrees_with_the_definition(losses, bounds, size) -> None:
    lo, hi, d = bounds
    inside = [min(max(x, lo), hi) for x in losses]
    grid = MeanGrid(lo, hi, d, size)
    ni, harm = grid.get(grid.fold(np.array(inside), Grouping.single(len(inside))))
    assert (ni[0], harm[0]) == pytest.approx(straightforward(inside, lo, hi, d), abs=1e-9)


@pytest.mark.parametrize(("lo", "hi", "d"), [(-1, 1, 0.05), (0, 1, 0.2), (0, 2, 0.4)])
def test_each_bet_agrees_with_ville_at_a_constant_bet(lo, hi, d) -> None:
    losses = np.random.default_rng(1).uniform(lo, hi, 120)
    grid = MeanGrid(lo, hi, d)
    state = grid.fold(losses, Grouping.single(len(losses)))[0, FIRST_LOG:]
    for bet, mine in zip(grid.bets, state, strict=True):
        # ville caps its adaptive bet at `c`; with a tiny alpha the cap always holds, which leaves a constant bet.
        room = hi - d if bet < 0 else d - lo
        side = "less" if bet < 0 else "greater"
        if bet:
            theirs = BettingTest(d, (lo, hi), alternative=side, alpha=1e-300, c=abs(bet) * room)
            assert mine == pytest.approx(theirs.update(losses).log_e_values_[-1], abs=1e-9)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60))
def test_three_values_need_their_counts_only(losses) -> None:
    d = 0.05
    grid = MeanGrid(-1, 1, d)
    up, none, down = (losses.count(x) for x in (1.0, 0.0, -1.0))
    bets = grid.bets
    expected = up * np.log1p(bets * (1 - d)) + none * np.log1p(-bets * d) + down * np.log1p(-bets * (1 + d))
    state = grid.fold(np.array(losses), Grouping.single(len(losses)))[0]
    np.testing.assert_allclose(state[FIRST_LOG:], expected, rtol=1e-9, atol=1e-9)


def test_undefined_losses_are_counted_apart_and_bet_nothing() -> None:
    grid = MeanGrid(-1, 1, 0.05)
    with_nan = grid.fold(np.array([0.5, math.nan, -0.5]), Grouping.single(3))[0]
    without = grid.fold(np.array([0.5, -0.5]), Grouping.single(2))[0]
    assert with_nan[UNDEFINED] == 1
    assert [with_nan[i] for i in (COUNT, SUM, SQUARES)] == [2, 0.0, 0.5]
    np.testing.assert_allclose(with_nan[FIRST_LOG:], without[FIRST_LOG:])


def test_losses_out_of_range_are_held_to_it() -> None:
    grid = MeanGrid(0, 1, 0.2)
    wild = grid.fold(np.array([1 + 1e-12, math.inf, -math.inf]), Grouping.single(3))
    np.testing.assert_array_equal(wild, grid.fold(np.array([1.0, 1.0, 0.0]), Grouping.single(3)))


def test_a_billion_pairs_are_read_without_overflow() -> None:
    grid = MeanGrid(-1, 1, 0.01)
    row = grid.fold(np.array([0.0]), Grouping.single(1)) * 1e9
    ni, harm = grid.get(row)
    assert np.isfinite(ni).all()
    assert np.isfinite(harm).all()
    assert ni[0] > 1e6
    assert harm[0] < -1e4


@pytest.mark.parametrize("bounds", [(0, 1, 1.0), (0, 1, 0.0), (-1, 1, 2.0), (0, math.inf, 0.5), (-1, 1, math.nan)])
def test_a_margin_outside_the_range_is_refused(bounds) -> None:
    with pytest.raises(ValueError, match="margin"):
        MeanGrid(*bounds)


@pytest.mark.parametrize(
    ("margin", "floor"), [(0.001, 3880), (0.01, 387), (0.02, 192), (0.05, 75), (0.1, 37), (0.3, 11)]
)
def test_floor_without_any_loss(margin, floor) -> None:
    assert fewest_pairs(margin, 1, 0.05) == pytest.approx(floor, abs=1)
    grid = MeanGrid(-1, 1, margin)
    (real,) = np.flatnonzero(capitals(grid, np.zeros(floor + 2))[0] >= THRESHOLD)[:1] + 1
    assert 0.95 * floor <= real <= floor + 1


def normal(mean: float, deviation: float):
    return lambda rng, n: np.clip(rng.normal(mean, deviation, n), -1, 1)


def bernoulli(mean: float):
    return lambda rng, n: (rng.random(n) < mean).astype(float)


@pytest.mark.parametrize(
    ("which", "lo", "margin", "draw", "median", "runs"),
    [
        (0, -1, 0.02, normal(0, 0.05), 210, 200),
        (0, -1, 0.02, normal(0, 0.15), 380, 400),
        (0, -1, 0.05, normal(0, 0.3), 340, 400),
        (0, -1, 0.1, normal(0.05, 0.3), 320, 300),
        (0, -1, 0.3, normal(0, 0.5), 20, 400),
        (0, -1, 0.001, normal(0, 0.05), 23_000, 60),
        (1, -1, 0.02, normal(0.05, 0.15), 190, 400),
        (1, -1, 0.3, normal(0.45, 0.5), 95, 400),
        (1, 0, 0.001, bernoulli(0.002), 10_200, 80),
    ],
)
def test_median_pairs_to_a_proof(which, lo, margin, draw, median, runs) -> None:
    """Within 30% of the figures on record: these medians are of skew distributions, at looks of a twentieth."""
    rng = np.random.default_rng(7)
    grid, look = MeanGrid(lo, 1, margin), max(1, median // 20)
    needed = []
    for _ in range(runs):
        # Most runs end soon; only the others are drawn in full.
        for length in (2 * median, 12 * median):
            losses = draw(rng, length)
            (hits,) = np.nonzero(capitals(grid, losses, look)[which] >= THRESHOLD)
            if len(hits):
                break
        needed.append((hits[0] + 1) * look if len(hits) else math.inf)
    assert np.median(needed) == pytest.approx(median, rel=0.3)


def ever(grid: MeanGrid, draw, which: int, runs: int, n: int, seed: int = 3) -> float:
    """Share of streams whose e-value reaches 20 at any time."""
    rng = np.random.default_rng(seed)
    return float(np.mean([capitals(grid, draw(rng, n))[which].max() >= THRESHOLD for _ in range(runs)]))


AT_THE_MARGIN = {
    "normal": (-1, 0.05, normal(0.05, 0.3)),
    "narrow": (-1, 0.05, normal(0.05, 0.05)),
    "rare": (0, 0.01, bernoulli(0.01)),
    "rare catastrophes": (0, 0.05, lambda rng, n: np.where(rng.random(n) < 0.002, 1.0, (0.05 - 0.002) / 0.998)),
    "three values": (-1, 0.05, lambda rng, n: rng.choice([-1.0, 0.0, 1.0], n, p=[0.05, 0.85, 0.1])),
}


@pytest.mark.parametrize("which", [0, 1], ids=["promote", "rollback"])
@pytest.mark.parametrize("name", AT_THE_MARGIN)
def test_false_alarms_are_rarer_than_alpha_however_often_one_looks(name, which) -> None:
    lo, margin, draw = AT_THE_MARGIN[name]
    runs = 400
    rate = ever(MeanGrid(lo, 1, margin), draw, which, runs, 1500)
    assert rate <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def drift(first: float, last: float):
    """The mean moves from one value to the other along the stream."""
    return lambda rng, n: np.clip(np.linspace(first, last, n) + rng.normal(0, 0.15, n), -1, 1)


def test_a_stream_that_was_bad_and_ends_good_is_not_non_inferior() -> None:
    """The running mean stays at or above the margin to the end, though at the end every loss is far inside it."""
    assert ever(MeanGrid(-1, 1, 0.05), drift(0.25, -0.15), 0, 200, 2000) <= 0.05


def test_a_stream_that_was_good_and_ends_at_its_limit_is_not_harmful() -> None:
    assert ever(MeanGrid(-1, 1, 0.05), drift(-0.15, 0.25), 1, 200, 2000) <= 0.05


def test_the_simulation_would_notice_an_adaptive_bet() -> None:
    """The same drift, bet upon with what was seen so far: false rejections in most runs. So the test above can fail."""
    rng, draw, rejected = np.random.default_rng(3), drift(0.25, -0.15), 0
    for _ in range(40):
        excess = draw(rng, 2000) - 0.05
        sums = np.concatenate([[0.0], np.cumsum(excess)[:-1]])
        before = np.concatenate([np.zeros(50), (sums[50:] - sums[:-50]) / 50])
        bet = np.clip(-before / 0.15**2, 0.0, 0.9)
        rejected += np.cumsum(np.log1p(-bet * excess)).max() >= THRESHOLD
    assert rejected >= 30


def test_forecast_is_near_what_it_takes() -> None:
    grid = MeanGrid(-1, 1, 0.05)
    rng = np.random.default_rng(11)
    losses = rng.normal(0, 0.15, 20_000)
    path = capitals(grid, losses)[0]
    row = grid.fold(losses[:60], Grouping.single(60))[0]
    long_run = grid.fold(losses, Grouping.single(len(losses)))[0] / len(losses) * 40
    assert path[59] < THRESHOLD
    assert 1 < grid.forecast(row, THRESHOLD) < 1000
    rate = long_run / 40
    expected = next(n for n in range(40, 5000) if grid.log_e(n * rate[FIRST_LOG:])[0] >= THRESHOLD) - 40
    assert grid.forecast(long_run, THRESHOLD) == pytest.approx(expected, abs=2)


def test_forecast_says_when_it_can_not_say() -> None:
    grid = MeanGrid(-1, 1, 0.05)
    assert math.isnan(grid.forecast(grid.empty()[0], THRESHOLD))
    assert math.isnan(grid.forecast(grid.fold(np.ones(50), Grouping.single(50))[0], THRESHOLD))
    assert grid.forecast(grid.fold(np.zeros(500), Grouping.single(500))[0], THRESHOLD) == 0
