"""The confidence sequence: against confseq's own figures, and its coverage under simulation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from shadowproxy.stats.empirical_bernstein import best_rho, boundary, interval, log_mixture

GOLDEN = json.loads(Path(__file__).with_name("golden_confseq.json").read_text())


@pytest.mark.parametrize(("at", "expected"), GOLDEN["gamma_exponential_log_mixture(s,v,v_opt=100,c=1,.05)"].items())
def test_mixture_is_confseqs(at, expected) -> None:
    s, v = (np.array(float(x)) for x in at.split(","))
    assert float(log_mixture(s, v, best_rho(100, 0.05), 1.0)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("v", "expected"), GOLDEN["gamma_exponential_mixture_bound(v,.05,100,1)"].items())
def test_boundary_is_confseqs(v, expected) -> None:
    assert float(boundary(np.array(float(v)), 0.05, 1.0, 100.0)) == pytest.approx(expected, rel=1e-6)


def test_the_sequence_with_a_predictable_centre_is_confseqs() -> None:
    """Theorem 4 as it is in the paper. confseq 0.0.11 halves alpha twice: for the two sides, and again in each."""
    x = np.random.default_rng(GOLDEN["x_beta55_300_round6_seed"]).beta(5, 5, 300).round(6)
    means = np.cumsum(x) / np.arange(1, 301)
    v = np.square(x - np.append(0.5, means[:-1])).sum()
    radius = boundary(v, 0.05 / 4, 1.0, 10.0) / len(x)
    found = [means[-1] - radius, means[-1] + radius]
    assert found == pytest.approx(GOLDEN["conjmix_empbern_twosided_cs(x,v_opt=10) last"], rel=1e-6)


def test_boundary_solves_its_equation_over_all_sizes() -> None:
    v = np.array([0.0, 1e-6, 1.0, 1e3, 1e6, 1e9])
    for c in (1.0, 2.0):
        s = boundary(v, 0.025, c)
        np.testing.assert_allclose(log_mixture(s, v, best_rho(10.0, 0.025), c), np.log(40), atol=1e-4)
        assert (np.diff(s) > 0).all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_a_level_that_is_none_is_refused(alpha) -> None:
    with pytest.raises(ValueError, match="alpha"):
        boundary(np.array(1.0), alpha, 1.0)


def test_without_data_the_interval_is_the_whole_range() -> None:
    lower, upper = interval(*(np.array([0.0, 4.0]), np.array([0.0, 2.0]), np.array([0.0, 1.0])), -1, 1, 0.05)
    assert (lower[0], upper[0]) == (-1, 1)
    assert -1 <= lower[1] < 0.5 < upper[1] <= 1


@pytest.mark.parametrize("mean", [0.02, 0.3])
def test_covers_at_every_moment_together(mean) -> None:
    rng, runs, missed = np.random.default_rng(5), 300, 0
    for _ in range(runs):
        x = (rng.random(2000) < mean).astype(float)
        n = np.arange(1.0, 2001.0)[9::10]
        lower, upper = interval(n, np.cumsum(x)[9::10], np.cumsum(x * x)[9::10], 0, 1, 0.05)
        missed += bool(((lower > mean) | (upper < mean)).any())
    assert missed / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5


def test_narrows_to_the_mean() -> None:
    n = np.array([1e2, 1e4, 1e6])
    lower, upper = interval(n, n * 0.1, n * 0.1, 0, 1, 0.05)
    assert (np.diff(upper - lower) < 0).all()
    assert upper[2] - lower[2] < 0.003
