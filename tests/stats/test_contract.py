"""What every additive statistic owes: one contract, and no statistic that escapes it."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shadowproxy.stats
from shadowproxy.stats.additive import Additive, Grouping
from shadowproxy.stats.betting import MeanGrid
from shadowproxy.stats.histogram import LatencyHistogram, ScoreHistogram
from shadowproxy.stats.inflation import VarianceInflation
from shadowproxy.stats.moments import Moments
from shadowproxy.stats.quantiles import RatioGrid
from shadowproxy.stats.state import State, Tally

LOSSES = st.floats(-1, 1) | st.just(float("nan"))
SECONDS = st.floats(0, 10) | st.sampled_from([0.05, float("inf"), float("nan")])
CASES = {
    MeanGrid: (MeanGrid(-1, 1, 0.05), LOSSES),
    LatencyHistogram: (LatencyHistogram(), st.floats(0, 1e4) | st.sampled_from([float("inf"), float("nan")])),
    ScoreHistogram: (ScoreHistogram(), st.floats()),
    Moments: (Moments(0.5), LOSSES),
    RatioGrid: (RatioGrid(1.5, 1.0, steps=3), st.tuples(SECONDS, SECONDS)),
    VarianceInflation: (VarianceInflation(), st.tuples(LOSSES, st.integers(0, 600) | st.just(float("nan")))),
}


def discovered() -> list[type[Additive]]:
    found = set()
    for module in pkgutil.iter_modules(shadowproxy.stats.__path__, "shadowproxy.stats."):
        for _, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(one, Additive) and not inspect.isabstract(one):
                found.add(one)
    return sorted(found, key=lambda one: one.__name__)


def whole(statistic: Additive, values: list[float] | list[tuple[float, float]]) -> np.ndarray:
    return statistic.fold(np.array(values, float), Grouping.single(len(values)))


each = pytest.mark.parametrize("kind", discovered(), ids=lambda kind: kind.__name__)


def test_there_is_something_to_hold_to_the_contract() -> None:
    assert set(discovered()) == set(CASES), "a statistic without a case here escapes the contract"


@each
@given(data=st.data())
def test_streaming_is_batch(kind, data) -> None:
    statistic, strategy = CASES[kind]
    values = data.draw(st.lists(strategy, max_size=30))
    streamed = statistic.empty()
    for value in values:
        streamed = streamed + whole(statistic, [value])
    np.testing.assert_allclose(streamed, whole(statistic, values), rtol=1e-9, atol=1e-9)


@each
@given(data=st.data())
def test_merging_is_concatenation_in_any_order(kind, data) -> None:
    statistic, strategy = CASES[kind]
    parts = data.draw(st.lists(st.lists(strategy, max_size=8), max_size=6))
    shuffled = data.draw(st.permutations(parts))
    merged = sum((whole(statistic, part) for part in shuffled), start=statistic.empty())
    np.testing.assert_allclose(merged, whole(statistic, [x for part in parts for x in part]), rtol=1e-9, atol=1e-9)


@each
@given(data=st.data())
def test_groups_are_what_each_would_be_alone(kind, data) -> None:
    statistic, strategy = CASES[kind]
    values = data.draw(st.lists(strategy, min_size=1, max_size=12))
    member = data.draw(st.sets(st.tuples(st.integers(0, len(values) - 1), st.integers(0, 3)), max_size=20))
    pairs = sorted(member)
    grouping = Grouping(
        np.array([i for i, _ in pairs], np.int64), np.array([g for _, g in pairs], np.int64), len(values), 4
    )
    grouped = statistic.fold(np.array(values), grouping)
    assert grouped.shape == (4, statistic.width)
    assert grouped.dtype == statistic.dtype
    for group in range(4):
        alone = whole(statistic, [values[i] for i, g in pairs if g == group])
        np.testing.assert_allclose(grouped[group : group + 1], alone, rtol=1e-9, atol=1e-9)


@each
def test_nothing_is_zero_and_can_be_read(kind) -> None:
    statistic, _ = CASES[kind]
    np.testing.assert_array_equal(whole(statistic, []), statistic.empty())
    for reading in statistic.get(statistic.empty(3)):
        assert reading.shape == (3,)


@each
@given(data=st.data())
def test_one_value_can_be_read(kind, data) -> None:
    statistic, strategy = CASES[kind]
    for reading in statistic.get(whole(statistic, [data.draw(strategy)])):
        assert reading.shape == (1,)


@each
@given(data=st.data())
def test_stored_and_read_back(kind, data) -> None:
    statistic, strategy = CASES[kind]
    state = whole(statistic, data.draw(st.lists(strategy, max_size=20)))
    stored = State(width=1.0, settle=0.0).add(3, Tally({"x": state}), 1).to_bytes()
    back = State.from_bytes(stored).open[3].tally["x"]
    assert back.dtype == state.dtype
    np.testing.assert_array_equal(back, state)
