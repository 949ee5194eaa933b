"""Variance inflation: against its definition, what it finds, and what it must not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.inflation import GROUPS, VarianceInflation, account_keys, time_keys

STATISTIC = VarianceInflation()
RATE = 100
"""Pairs a second of the simulated streams."""


def inflation(values, keys) -> tuple[float, float, float]:
    vif, se, groups = STATISTIC.get(STATISTIC.fold(np.column_stack([values, keys]), Grouping.single(len(values))))
    return float(vif[0]), float(se[0]), float(groups[0])


def by_definition(values: list[float], keys: list[int]) -> tuple[float, float, float] | None:
    """Once more as a ratio of quadratic forms, whose matrix is written out; None where nothing can be said.

    Of normal values x'Ax/x'Hx is independent of x'Hx, so its moments are quotients of moments.
    """
    n = len(values)
    groups = [key % 256 for key in keys]
    if len(set(groups)) < 2 or len(set(values)) < 2:
        return None
    centred = np.eye(n) - 1 / n
    a = centred @ np.array([[float(g == h) for h in groups] for g in groups]) @ centred
    x = np.array(values)
    ratio, trace, squared = x @ a @ x / (x @ centred @ x), np.trace(a), np.trace(a @ a)
    mean_ratio = trace / (n - 1)
    square_ratio = (2 * squared + trace**2) / (n**2 - 1)
    error = math.sqrt(max(0.0, square_ratio - mean_ratio**2)) / mean_ratio
    return ratio / mean_ratio, error, 1 + trace**2 / squared


def autoregressive(rng: np.random.Generator, n: int, rho: float, sd: float = 0.3, mean: float = 0.0) -> np.ndarray:
    """A stationary AR(1) of standard deviation `sd`, held to [−1, 1]."""
    noise = rng.normal(0, sd * math.sqrt(1 - rho**2), n + 200)
    return np.clip(mean + lfilter([1], [1, -rho], noise)[200:], -1, 1)


def flagged(values, keys) -> bool:
    vif, se, _ = inflation(values, keys)
    return vif - 2 * se > 1.3


@given(st.lists(st.tuples(st.integers(-8, 8).map(lambda i: i / 8), st.integers(0, 600)), max_size=40))
def test_agrees_with_the_definition(pairs) -> None:
    values, keys = [x for x, _ in pairs], [key for _, key in pairs]
    expected, found = by_definition(values, keys), inflation(np.array(values), np.array(keys))
    if expected is None:
        assert math.isnan(found[0])
        assert math.isnan(found[1])
    else:
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 1e9) | st.just(math.nan)), max_size=30),
    st.lists(st.integers(0, 2), min_size=30, max_size=30),
)
def test_workers_add_up(pairs, worker) -> None:
    values, of = np.array(pairs, float).reshape(-1, 2), np.array(worker[: len(pairs)], int)
    whole = STATISTIC.fold(values, Grouping.single(len(values)))
    parts = [STATISTIC.fold(values[of == w], Grouping.single(int((of == w).sum()))) for w in range(3)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-9, atol=1e-9)


def test_what_is_unknown_is_left_out() -> None:
    known = inflation(np.array([1.0, 0.0, 0.0, 1.0]), np.array([1, 1, 2, 3]))
    with_unknown = inflation(np.array([1.0, math.nan, 0.0, 0.0, 5.0, 1.0]), np.array([1, 2, 1, 2, math.nan, 3]))
    assert with_unknown == known


def test_values_that_are_all_the_same_say_nothing_though_their_sum_is_rounded() -> None:
    vif, se, groups = inflation(np.full(1000, 0.1), np.arange(1000))
    assert math.isnan(vif)
    assert math.isnan(se)
    assert groups == pytest.approx(255, abs=1)


@pytest.mark.parametrize("sizes", [[40] * 50, [400, 20, 10, 5, 5] + [1] * 100], ids=["even", "few large ones"])
def test_of_independent_values_it_is_one_and_its_error_is_what_it_says(sizes) -> None:
    rng = np.random.default_rng(5)
    keys = np.repeat(np.arange(len(sizes)), sizes)
    found = np.array([inflation(rng.normal(0.2, 0.1, len(keys)), keys) for _ in range(1500)])
    se = found[0, 1]
    assert found[:, 0].mean() == pytest.approx(1, abs=4 * se / math.sqrt(1500))
    assert found[:, 0].std() == pytest.approx(se, rel=0.1)


def test_with_few_large_accounts_independent_values_are_not_called_dependent() -> None:
    """With an error of √(2/256), whatever the sizes, more than one in ten would be."""
    rng = np.random.default_rng(6)
    accounts = np.minimum(rng.zipf(1.4, (600, 2000)), 10**6).astype(np.uint64)
    found = [inflation(rng.normal(0, 0.3, 2000), account_keys(hashes)) for hashes in accounts]
    assert np.mean([vif - 2 * se > 1.3 for vif, se, _ in found]) <= 0.05
    assert np.mean([vif - 2 * math.sqrt(2 / 256) > 1.3 for vif, _, _ in found]) > 0.1


@pytest.mark.parametrize(("rho", "expected"), [(0.5, 3), (0.9, 19)])
def test_a_stream_that_remembers_is_flagged_with_the_factor_that_its_mean_varies_by(rho, expected) -> None:
    rng = np.random.default_rng(7)
    n = 12_000
    keys = time_keys(1.7e9 + np.arange(n) / RATE, 1.0)
    found = [inflation(autoregressive(rng, n, rho), keys) for _ in range(60)]
    assert all(vif - 2 * se > 1.3 for vif, se, _ in found)
    assert np.mean([vif for vif, _, _ in found]) == pytest.approx(expected, rel=0.1)


def test_accounts_that_return_are_flagged_by_their_key_alone() -> None:
    rng = np.random.default_rng(8)
    n, keys_in_time = 6000, time_keys(np.arange(6000) / RATE, 1.0)
    by_account, by_time = [], []
    for _ in range(60):
        account = rng.integers(1, 401, n)
        values = rng.normal(0, 0.2, 401)[account] + rng.normal(0, 0.3, n)
        by_account.append(flagged(values, account_keys(account.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))))
        by_time.append(flagged(values, keys_in_time))
    assert all(by_account)
    assert np.mean(by_time) <= 0.05


@pytest.mark.parametrize("tau", [1.0, 10.0, 60.0])
def test_independent_values_are_not_flagged(tau) -> None:
    rng = np.random.default_rng(9)
    n = 60_000
    keys = time_keys(1.7e9 + np.arange(n) / RATE, tau)
    losses = [rng.normal(0, 0.3, n) for _ in range(40)] + [(rng.random(n) < 0.01).astype(float) for _ in range(40)]
    assert np.mean([flagged(one, keys) for one in losses]) <= 0.05


def test_blocks_far_apart_in_one_group_read_as_each_in_its_own() -> None:
    rng = np.random.default_rng(10)
    n = 8 * GROUPS * RATE
    keys = time_keys(np.arange(n) / RATE, 1.0)
    wrapped, apart = [], []
    for _ in range(20):
        values = autoregressive(rng, n, 0.8)
        wrapped.append(inflation(values, keys)[0])
        sums = np.bincount(keys.astype(int), values - values.mean())
        apart.append(np.square(sums).sum() / (n * values.var()))
    assert np.mean(wrapped) == pytest.approx(np.mean(apart), rel=0.05)


def test_a_slow_drift_is_not_called_dependence() -> None:
    rng = np.random.default_rng(11)
    n = 20 * GROUPS * RATE
    values = np.linspace(-0.1, 0.1, n) + rng.normal(0, 0.3, n)
    keys = time_keys(np.arange(n) / RATE, 1.0)
    assert inflation(values, keys)[0] == pytest.approx(1, abs=0.3)
    apart = np.bincount(keys.astype(int), values - values.mean())
    assert np.square(apart).sum() / (n * values.var()) > 3


def test_unknown_accounts_and_blocks_before_the_epoch_have_keys() -> None:
    hashes = np.array([0, 1, 257, 2**64 - 1], np.uint64)
    np.testing.assert_array_equal(account_keys(hashes), [np.nan, 1, 1, 255])
    np.testing.assert_array_equal(time_keys(np.array([-0.5, 0.0, 9.99, 10.0]), 10.0), [-1, 0, 0, 1])
