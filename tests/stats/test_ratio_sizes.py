"""Planned pairs of latency quantiles, against the figures that STATISTICS gives (median pairs at a true ratio of 1)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from shadowproxy.stats.quantiles import RatioGrid
from shadowproxy.stats.ratio_sizes import Latencies, ratio_sizes
from shadowproxy.stats.sizes import NEVER

THRESHOLD = math.log(20)


@pytest.mark.parametrize(
    ("correlation", "p", "stated"),
    [(0.9, 0.5, 800), (0.9, 0.9, 1600), (0.9, 0.99, 9900), (0.0, 0.5, 2200), (0.0, 0.9, 3850)],
)
def test_the_table_of_sizes(correlation: float, p: float, stated: int) -> None:
    grid = RatioGrid(1.1, deadline=10.0)
    found = ratio_sizes(grid, p, Latencies(0.6, correlation), "safe", THRESHOLD, np.random.default_rng(1))
    assert found.median == pytest.approx(stated, rel=0.25)
    assert found.median < found.most < 4 * stated


def test_what_is_slower_is_harmful_and_never_safe() -> None:
    grid, slower = RatioGrid(1.1, deadline=10.0), Latencies(0.3, 0.8, ratio=1.2)
    harm = ratio_sizes(grid, 0.5, slower, "harm", math.log(80), np.random.default_rng(1))
    assert 100 < harm.median < 2000
    assert ratio_sizes(grid, 0.5, slower, "safe", THRESHOLD, np.random.default_rng(1)) == NEVER
    assert ratio_sizes(grid, 0.5, Latencies(0.3, 0.8), "harm", THRESHOLD, np.random.default_rng(1)) == NEVER


def test_drawn_latencies_are_as_they_were_asked_for() -> None:
    seconds = Latencies(0.6, 0.7, ratio=1.3).drawn(np.random.default_rng(1), 200_000, 1.0)
    assert np.median(seconds, axis=0) == pytest.approx([0.05, 0.065], rel=0.01)
    known = np.log(seconds[np.isfinite(seconds).all(axis=1)])
    assert known.std(axis=0) == pytest.approx(0.6, rel=0.01)
    assert np.corrcoef(known.T)[0, 1] == pytest.approx(0.7, abs=0.01)
    assert np.isinf(seconds).any()
    assert seconds[np.isfinite(seconds)].max() <= 1.0


def test_what_would_take_too_long_to_draw_is_the_typical_figure() -> None:
    grid, law = RatioGrid(1.02, deadline=10.0), Latencies(0.6, 0.0)
    found = ratio_sizes(grid, 0.9, law, "safe", THRESHOLD, np.random.default_rng(1))
    assert found.median == found.most > 50_000
