"""Block means: against their definition, their table, and the promise that the blocks keep where pairs don't."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.betting import COUNT, UNDEFINED, MeanGrid
from shadowproxy.stats.blocks import MOST, STAGE, Schedule, folded, means, run_keys
from shadowproxy.stats.inflation import VarianceInflation

THRESHOLD = math.log(20)


def block_of(started: float, length: float, origin: float) -> int:
    """The table once more: step through it, block by block."""
    away = (started - origin) / length
    index, edge = 0, 0.0
    if away >= 0:
        while edge + 2.0 ** (index // STAGE) <= away:
            edge += 2.0 ** (index // STAGE)
            index += 1
        return index
    while edge - 2.0 ** (index // STAGE) > away:
        edge -= 2.0 ** (index // STAGE)
        index += 1
    return -1 - index


@given(st.integers(-8 * 4 * STAGE, 8 * 4 * STAGE), st.sampled_from([0.25, 1.0, 8.0]))
def test_the_table_is_what_it_says(eighths, length) -> None:
    origin = 1_700_000_000.0
    started = origin + eighths * length / 8
    schedule = Schedule(length, origin)
    assert schedule.index(np.array([started]))[0] == block_of(started, length, origin)


@given(st.lists(st.floats(-1e12, 1e12) | st.just(math.inf), min_size=2, max_size=20))
def test_blocks_are_in_the_order_of_time_and_end_after_what_is_in_them(started) -> None:
    schedule = Schedule(10.0, 1.7e9)
    times = np.sort(np.array(started))
    blocks = schedule.index(times)
    assert (np.diff(blocks) >= 0).all()
    assert ((blocks >= -MOST) & (blocks < MOST)).all()
    inside = blocks < MOST - 1
    assert (schedule.end(blocks)[inside] > times[inside]).all()


def test_a_year_of_ten_seconds_takes_a_few_thousand_blocks() -> None:
    assert Schedule(10.0, 0.0).index(np.array([365 * 86_400.0]))[0] < 13 * STAGE


@pytest.mark.parametrize(("length", "origin"), [(0.0, 0.0), (-1.0, 0.0), (math.inf, 0.0), (1.0, math.nan)])
def test_blocks_of_no_length_are_refused(length, origin) -> None:
    with pytest.raises(ValueError, match="blocks"):
        Schedule(length, origin)


PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1), st.floats(-1, 1), st.integers(0, 2)), max_size=40)
"""(block, slot, loss, worker)"""


def summed(pairs) -> np.ndarray:
    sums = np.zeros((6, 2, 2))
    for block, slot, loss, _ in pairs:
        sums[block, slot] += 1, loss
    return sums


@given(PAIRS, st.lists(st.booleans(), min_size=6, max_size=6))
def test_a_block_is_one_loss_however_its_pairs_were_spread_over_workers(pairs, closed) -> None:
    grid = MeanGrid(-1, 1, 0.05)
    of_workers = sum(summed([pair for pair in pairs if pair[3] == worker]) for worker in range(3))
    state = folded(grid, of_workers, np.array(closed))
    for slot in range(2):
        blocks = defaultdict(list)
        for block, its_slot, loss, _ in pairs:
            if its_slot == slot and closed[block]:
                blocks[block].append(loss)
        losses = [math.fsum(one) / len(one) for one in blocks.values()]
        expected = grid.fold(np.array(losses), Grouping.single(len(losses)))[0]
        np.testing.assert_allclose(state[slot], expected, rtol=1e-9, atol=1e-9)


def test_an_open_block_bets_nothing_and_an_empty_one_is_not_undefined() -> None:
    grid = MeanGrid(0, 1, 0.2)
    sums = np.array([[[3.0, 3.0]], [[0.0, 0.0]], [[1.0, 1.0]]])
    assert np.isnan(means(sums, np.array([True, True, False]))[:, 0]).tolist() == [False, True, True]
    state = folded(grid, sums, np.array([True, True, False]))[0]
    assert (state[COUNT], state[UNDEFINED]) == (1, 0)
    np.testing.assert_array_equal(folded(grid, sums, np.zeros(3, bool)), grid.empty())


def autoregressive(rng: np.random.Generator, n: int, rho: float, mean: float) -> np.ndarray:
    noise = rng.normal(0, 0.3 * math.sqrt(1 - rho**2), n + 200)
    return np.clip(mean + lfilter([1], [1, -rho], noise)[200:], -1, 1)


def ever(grid: MeanGrid, losses: np.ndarray, which: int) -> bool:
    return bool(grid.log_e(np.cumsum(grid.increments(losses), axis=0))[which].max() >= THRESHOLD)


def by_blocks(losses: np.ndarray, size: int) -> np.ndarray:
    sums = np.stack([np.full(len(losses) // size, size), losses.reshape(-1, size).sum(axis=1)], axis=-1)
    return means(sums[:, np.newaxis], np.ones(len(sums), bool))[:, 0]


@pytest.mark.parametrize("which", [0, 1], ids=["promote", "rollback"])
@pytest.mark.parametrize(("rho", "size", "wrong"), [(0.5, 20, 0.15), (0.9, 200, 0.5)])
def test_blocks_keep_the_promise_that_dependent_pairs_break(rho, size, wrong, which) -> None:
    """At the margin, looking at every pair or block: blocks of at least ten correlation times, 1/(1 − ρ) pairs."""
    rng = np.random.default_rng(21)
    grid, runs = MeanGrid(-1, 1, 0.05), 200
    pairs, blocks = 0, 0
    for _ in range(runs):
        losses = autoregressive(rng, 200 * size, rho, 0.05)
        pairs += ever(grid, losses[:6000], which)
        blocks += ever(grid, by_blocks(losses, size), which)
    assert pairs / runs > wrong
    assert blocks / runs <= 0.05


@pytest.mark.parametrize("which", [0, 1], ids=["promote", "rollback"])
def test_first_pairs_keep_the_promise_that_accounts_that_return_break(which) -> None:
    """At the margin in the mean over all accounts that may come: 60 of them that return, against 3000 that don't."""
    rng = np.random.default_rng(24)
    grid, runs, n = MeanGrid(-1, 1, 0.05), 200, 3000
    pairs, firsts = 0, 0
    for _ in range(runs):
        of_account = rng.normal(0.05, 0.15, n)
        noise = rng.normal(0, 0.2, n)
        pairs += ever(grid, np.clip(of_account[rng.integers(0, 60, n)] + noise, -1, 1), which)
        firsts += ever(grid, np.clip(of_account + noise, -1, 1), which)
    assert pairs / runs > 0.15
    assert firsts / runs <= 0.05


def test_blocks_still_decide() -> None:
    """About ln(2/α)/d blocks, and not many times that."""
    rng = np.random.default_rng(22)
    grid = MeanGrid(-1, 1, 0.05)
    needed = []
    for _ in range(50):
        capital = grid.log_e(np.cumsum(grid.increments(by_blocks(autoregressive(rng, 40_000, 0.9, 0.0), 200)), axis=0))
        needed.append(int(np.argmax(capital[0] >= THRESHOLD)) + 1)
    assert np.median(needed) == pytest.approx(math.log(2 / 0.05) / 0.05, rel=0.5)


def test_runs_of_blocks_tell_whether_blocks_are_long_enough() -> None:
    rng = np.random.default_rng(23)
    statistic = VarianceInflation()
    lower = {}
    for size in (5, 200):
        blocks = by_blocks(autoregressive(rng, 400 * size, 0.9, 0.0), size)
        values = np.column_stack([blocks, run_keys(np.arange(len(blocks)), 8)])
        vif, se, _ = statistic.get(statistic.fold(values, Grouping.single(len(blocks))))
        lower[size] = float(vif[0] - 2 * se[0])
    assert lower[5] > 1.3 > lower[200]
