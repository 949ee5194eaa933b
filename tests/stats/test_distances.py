"""Distances of distributions: scipy's on numbers that the grid holds exactly, within the stated error on others."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon

from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.distances import distances, jensen_shannon, ks, psi, wasserstein
from shadowproxy.stats.histogram import ScoreHistogram

GRID = ScoreHistogram()
VALUES = GRID.values()


def counted(values: np.ndarray) -> np.ndarray:
    return GRID.fold(values, Grouping.single(len(values)))[0]


def samples(count: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of samples: of several shapes, with ties, of both signs, shifted, uneven, far apart."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n, m = rng.integers(1, 80, 2)
        kind = rng.integers(5)
        if kind == 0:
            a, b = rng.normal(size=n), rng.normal(rng.choice([0, 0.5, 40]), 1, m)
        elif kind == 1:
            a, b = rng.beta(2, 5, n), rng.beta(2, 4, m)
        elif kind == 2:
            a, b = rng.integers(-2, 3, n) / 4, rng.integers(-2, 4, m) / 4
        elif kind == 3:
            a, b = rng.lognormal(0, 3, n), -rng.lognormal(0, 3, m)
        else:
            a, b = np.zeros(n), rng.choice([0.0, 1.0], m)
        yield a.astype(float), b.astype(float)


def on_the_grid(values: np.ndarray) -> np.ndarray:
    return VALUES[GRID.index(values)]


def test_they_are_scipys_where_the_grid_holds_the_numbers_exactly() -> None:
    for a, b in samples(1000, 1):
        x, y = on_the_grid(a), on_the_grid(b)
        found = distances(counted(x), counted(y), VALUES)
        assert found is not None
        assert found.wasserstein == pytest.approx(stats.wasserstein_distance(x, y), rel=1e-9, abs=1e-12)
        assert found.jensen_shannon == pytest.approx(jensen_shannon_by_scipy(x, y), abs=1e-9)


def jensen_shannon_by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    """From the numbers: cut at those where half the two distribution functions' sum reaches 5%, 10%, …"""
    both = np.union1d(a, b)
    p, q = ((sample[:, None] == both).mean(axis=0) for sample in (a, b))
    reached = ((p + q) / 2).cumsum()
    upper = sorted({float(both[np.flatnonzero(reached >= at / 20 - 1e-12)[0]]) for at in range(1, 20)})
    bins = list(itertools.pairwise([-math.inf, *upper, math.inf]))
    shares = [[((low < sample) & (sample <= high)).mean() for low, high in bins] for sample in (a, b)]
    return float(jensenshannon(*shares, base=2) ** 2)


def test_the_ks_statistic_is_scipys() -> None:
    for a, b in samples(600, 2):
        x, y = on_the_grid(a), on_the_grid(b)
        assert ks(counted(x), counted(y)) == pytest.approx(stats.ks_2samp(x, y, method="asymp").statistic, abs=1e-12)


def test_binning_costs_no_more_than_is_stated() -> None:
    for a, b in samples(800, 3):
        p, q = counted(a), counted(b)
        exact = stats.ks_2samp(a, b, method="asymp").statistic
        common = np.minimum(p / p.sum(), q / q.sum()).max()
        assert ks(p, q) - 1e-12 <= exact <= ks(p, q) + common + 1e-12
        off = abs(wasserstein(p, q, VALUES) - stats.wasserstein_distance(a, b))
        assert off <= GRID.error * (np.abs(a).mean() + np.abs(b).mean()) * (1 + 1e-9) + 1e-12


def test_psi_by_definition() -> None:
    for a, b in samples(1000, 4):
        x, y = on_the_grid(a), on_the_grid(b)
        assert psi(counted(x), counted(y)) == pytest.approx(psi_by_definition(x, y), abs=1e-9)


def psi_by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """From the numbers: bins (−∞, d₁], (d₁, d₂], …, (d₉, ∞) at the deciles of `a`, equal ones once."""
    ordered = np.sort(a)
    deciles = sorted({float(ordered[math.ceil(tenth * len(a) / 10) - 1]) for tenth in range(1, 10)})
    total = 0.0
    bins = list(itertools.pairwise([-math.inf, *deciles, math.inf]))
    for low, high in bins:
        p, q = (
            (((low < sample) & (sample <= high)).sum() + 0.5) / (len(sample) + 0.5 * len(bins)) for sample in (a, b)
        )
        total += (p - q) * math.log(p / q)
    return total


def test_psi_by_hand() -> None:
    # Ten bins of 10 each against 19 in the first and 9 in each other: (10.5/105, …) against (19.5/105 − … of 105).
    a, b = np.full(10, 10), np.array([19, *[9] * 9])
    expected = (10.5 - 19.5) / 105 * math.log(10.5 / 19.5) + 9 * (10.5 - 9.5) / 105 * math.log(10.5 / 9.5)
    assert psi(a, b) == pytest.approx(expected)


@given(
    st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any),
    st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any),
)
def test_they_are_symmetrical_but_for_the_bins_of_psi_and_nought_for_equals(a, b) -> None:
    p, q, values = np.array(a), np.array(b), np.array([-1.0, 0.0, 3.0])
    there, back = distances(p, q, values), distances(q, p, values)
    assert there is not None
    assert back is not None
    assert there._replace(psi=0.0) == pytest.approx(back._replace(psi=0.0))
    assert min(there) >= 0
    same = distances(p, 3 * p, values)
    assert same is not None
    assert same._replace(psi=0.0) == pytest.approx((0, 0, 0, 0), abs=1e-12)


def test_disjoint_distributions_are_as_far_apart_as_can_be() -> None:
    a, b = counted(np.array([1.0, 2.0])), counted(np.array([-1.0]))
    assert (ks(a, b), jensen_shannon(a, b)) == (1.0, 1.0)
    assert distances(a, np.zeros_like(a), VALUES) is None
