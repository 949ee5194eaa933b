"""Quantiles of latencies and scores: within the error that is stated, what is off the grid at its ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.histogram import LatencyHistogram, ScoreHistogram

HISTOGRAM = LatencyHistogram()
SCORES = ScoreHistogram()
ON_THE_GRID = st.floats(1e-12, 1e12) | st.floats(-1e12, -1e-12) | st.just(0.0)


def quantiles(seconds: list[float] | np.ndarray, *levels: float) -> list[float]:
    state = HISTOGRAM.fold(np.asarray(seconds, float), Grouping.single(len(seconds)))
    return [float(found[0]) for found in HISTOGRAM.quantiles(state, levels)]


@given(st.lists(st.floats(1e-4, 999.0), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.9, 0.99]))
def test_within_the_stated_error(seconds, level) -> None:
    exact = float(np.quantile(seconds, level, method="inverted_cdf"))
    (found,) = quantiles(seconds, level)
    assert abs(found / exact - 1) <= HISTOGRAM.error + 1e-9


def test_failures_lie_at_the_end() -> None:
    seconds = [0.01] * 90 + [math.inf] * 10
    p50, p90, p91 = quantiles(seconds, 0.5, 0.9, 0.91)
    assert p50 == p90 == pytest.approx(0.01, rel=0.05)
    assert p91 == math.inf


def test_what_is_off_the_grid_is_read_as_its_ends() -> None:
    assert quantiles([0.0, 1e-9], 0.5) == [1e-4]
    assert quantiles([5000.0], 0.5) == [1e3]


def test_what_is_not_there_is_not_counted() -> None:
    assert quantiles([math.nan, 0.02], 0.5)[0] == pytest.approx(0.02, rel=0.05)
    assert math.isnan(quantiles([math.nan], 0.5)[0])


def scores(values: list[float] | np.ndarray, *levels: float) -> list[float]:
    state = SCORES.fold(np.asarray(values, float), Grouping.single(len(values)))
    return [float(found[0]) for found in SCORES.quantiles(state, levels)]


@given(st.lists(ON_THE_GRID, min_size=1, max_size=200), st.sampled_from([0.01, 0.1, 0.5, 0.9, 0.99]))
def test_quantiles_of_scores_of_any_sign_and_size_are_within_the_stated_error(values, level) -> None:
    exact = float(np.quantile(values, level, method="inverted_cdf"))
    (found,) = scores(values, level)
    assert abs(found - exact) <= (SCORES.error + 1e-9) * abs(exact)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_bins_of_scores_are_in_the_order_of_the_scores(values) -> None:
    ordered = np.sort(np.array(values))
    bins = SCORES.index(ordered)
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 0
    assert bins.max() < SCORES.width
    mirrored = SCORES.index(-ordered)
    np.testing.assert_array_equal(mirrored, SCORES.width - 1 - bins)


def test_what_a_score_is_read_as_lies_in_its_own_bin() -> None:
    np.testing.assert_array_equal(SCORES.index(SCORES.values())[1:-1], np.arange(1, SCORES.width - 1))
    assert SCORES.error < 0.015
    assert SCORES.width < 4000


def test_scores_off_the_grid_are_read_as_its_ends_and_what_is_no_number_not_at_all() -> None:
    assert scores([1e-13, -1e-13, 5e-324], 0.1, 0.9) == [0.0, 0.0]
    assert scores([1e300, 1.01e12], 0.1, 0.9) == [1e12, 1e12]
    assert scores([-1e300, -1.7e308], 0.5) == [-1e12]
    assert math.isnan(scores([math.nan, math.inf, -math.inf], 0.5)[0])
    assert scores([math.nan, math.inf, 0.0], 0.5) == [0.0]


def test_the_ends_of_the_grid_belong_to_it() -> None:
    assert SCORES.index(np.array([-1e12, 1e12, 1e-12, -1e-12])).tolist() == [
        1,
        SCORES.width - 2,
        SCORES.bins + 2,
        SCORES.bins,
    ]
