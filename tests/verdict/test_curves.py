"""What is drawn of scores and latency: numpy's own histogram and quantiles of the same numbers, by definition."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from verdict.synthetic import columns, settings, with_scores
from verdict.test_distributions import ROUTES, SLOTS, A, B, random_batch

from shadowproxy.compare.columns import Columns
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.reported.curves import MOST_BINS, PROBABILITIES, Curves, ScoreCurve


def curves(batch: Columns, routes=ROUTES, slots=SLOTS) -> Curves:
    plan = Plan(settings(routes=routes, verdict={"max_cohorts": 3}))
    total = plan.empty().with_added(plan.tally(batch, slots)).close(1e12).total
    return plan.curves(total, slots)


def drawn(a, b) -> ScoreCurve:
    batch = columns(2, {"failures.difference": 0.0})
    scored = with_scores(batch, {A: (np.zeros(len(a), int), a), B: (np.ones(len(b), int), b)})
    [curve] = curves(scored, slots={}).scores(None, "all")
    return curve


def assert_counts(curve: ScoreCurve, a, b) -> None:
    assert len(curve.edges) <= MOST_BINS + 1
    assert np.all(np.diff(curve.edges) > 0)
    assert np.all(np.isfinite(curve.edges))
    for counts, values in ((curve.baseline, a), (curve.candidate, b)):
        assert list(counts) == np.histogram(values, curve.edges)[0].tolist()
        assert sum(counts) == len(values)
    both = np.add(curve.baseline, curve.candidate)
    assert both[0] > 0
    assert both[-1] > 0


@pytest.mark.parametrize("cohort", ["all", "gender=F", "gender=M"])
def test_scores_are_counted_as_numpy_counts_them(cohort) -> None:
    batch = random_batch(4, n=400)
    found = {curve.route: curve for curve in curves(batch).scores(None, cohort)}
    assert list(found) == [route["name"] for route in ROUTES]
    for at, route in enumerate(ROUTES):
        inside = (batch.route == at) & np.array([cohort == "all" or cohort in names for names in batch.cohorts])
        a, b = (value[inside[pair] & ~np.isnan(value)] for pair, value in batch.scores.values())
        curve = found[route["name"]]
        assert_counts(curve, a, b)
        assert curve.ks == pytest.approx(stats.ks_2samp(a, b).statistic, abs=0.05)
        assert list(curves(batch).scores(route["name"], cohort)) == [curve]


SHAPES = {
    "normal": lambda draw, n: draw.normal(3, 1, n),
    "probabilities": lambda draw, n: draw.beta(0.5, 0.5, n),
    "negative": lambda draw, n: -draw.gamma(2, 1, n),
    "decades": lambda draw, n: 10 ** draw.uniform(-6, 6, n),
    "negative decades": lambda draw, n: -(10 ** draw.uniform(-6, 6, n)),
    "whole": lambda draw, n: draw.integers(1, 6, n).astype(float),
    "beyond the grid": lambda draw, n: draw.choice([-1e30, 1e30], n),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_any_shape_fills_its_bins(shape, seed) -> None:
    draw = np.random.default_rng(seed)
    a, b = SHAPES[shape](draw, 5000), SHAPES[shape](draw, 3000)
    curve = drawn(a, b)
    if shape == "beyond the grid":
        assert (sum(curve.baseline), sum(curve.candidate)) == (5000, 3000)
        return
    assert_counts(curve, a, b)
    assert curve.scale == ("log" if "decades" in shape else "linear")
    # No comb: what has a smooth density leaves no bin empty between two that are full of it.
    if shape in ("normal", "decades", "negative decades"):
        middle = np.array(curve.baseline)[20:-20]
        assert middle.min() > 0
        assert len(curve.baseline) > 40


def test_what_is_far_out_does_not_squeeze_the_rest() -> None:
    draw = np.random.default_rng(7)
    a, b = draw.normal(10, 1, 4000), np.append(draw.normal(10, 1, 3999), 1e9)
    curve = drawn(a, b)
    assert_counts(curve, a, b)
    inner = [edge for edge in curve.edges if 7 < edge < 13]
    assert len(inner) > 15
    assert curve.edges[-1] > 9e8
    assert curve.candidate[-1] >= 1


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_one_score_alone_has_one_bin_around_it(value) -> None:
    curve = drawn(np.full(5, value), np.full(3, value))
    low, high = curve.edges
    assert low <= value <= high
    assert (curve.baseline, curve.candidate, curve.ks) == ((5,), (3,), 0.0)


def test_a_side_without_scores_is_drawn_empty() -> None:
    curve = drawn(np.array([1.0, 2.0]), np.array([]))
    assert sum(curve.baseline) == 2
    assert set(curve.candidate) == {0}
    assert curve.psi is None


def timed(n: int = 1000) -> Columns:
    draw = np.random.default_rng(3)
    failing = draw.random(n) < 0.02
    kinds = {A: ("",) * n, B: tuple("timeout" if down else "" for down in failing)}
    batch = columns(
        n,
        {"failures.difference": 0.0},
        kinds=kinds,
        route=draw.integers(0, 3, n),
        cohorts=[(("gender=F",), ("gender=M",))[at % 2] for at in range(n)],
    )
    seconds = {side: draw.lognormal(-3, 0.7, n) for side in (A, B)}
    seconds[B][failing] = math.inf
    return replace(batch, ttfb={side: values / 2 for side, values in seconds.items()}, total=seconds)


@pytest.mark.parametrize(("route", "cohort"), [("", "all"), ("feed.home", "all"), ("", "gender=M")])
def test_latency_quantiles_are_those_of_the_pairs(route, cohort) -> None:
    batch = timed()
    chosen = np.ones(len(batch), bool) if not route else batch.route == 1
    chosen &= np.array([cohort == "all" or cohort in names for names in batch.cohorts])
    found = {(curve.side, curve.timing): curve for curve in curves(batch).latencies(route, cohort)}
    assert set(found) == {(side, timing) for side in ("baseline", "candidate") for timing in ("ttfb", "total")}
    for (side, timing), curve in found.items():
        values = getattr(batch, timing)[A if side == "baseline" else B][chosen]
        exact = np.quantile(values, PROBABILITIES, method="inverted_cdf")
        got = [math.inf if one is None else one for one in curve.seconds]
        np.testing.assert_allclose(got, exact, rtol=0.05)
        assert (curve.pairs, curve.route, curve.cohort) == (chosen.sum(), route, cohort)
        assert (curve.seconds[-1] is None) == (side == "candidate")


def test_a_single_route_of_every_path_is_found_under_all() -> None:
    batch = replace(timed(), route=np.zeros(1000, np.int32))
    found = [curve.route for curve in curves(batch, routes=[{"name": "only", "path": "/**"}]).latencies(None, "all")]
    assert found == [""] * 4


def test_a_cohort_that_is_not_there_is_said_as_such() -> None:
    found = curves(timed())
    assert found.cohorts == ("all", "gender=F", "gender=M")
    for draw in (found.scores, found.latencies):
        with pytest.raises(KeyError, match="moon"):
            list(draw(None, "moon"))
