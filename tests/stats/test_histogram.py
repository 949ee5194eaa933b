"""Latency quantiles: within the error that is stated, failures at the end."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.histogram import LatencyHistogram

HISTOGRAM = LatencyHistogram()


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
