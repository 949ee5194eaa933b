"""Distributions of scores: counted by route, side, bucket and cohort as a plain loop would, and bounded in size."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from verdict.synthetic import columns, facts, settings, with_scores

from shadowproxy.compare.columns import Columns
from shadowproxy.model import Side
from shadowproxy.stats.histogram import ScoreHistogram
from shadowproxy.stats.state import State, Tally
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Distribution
from shadowproxy.verdict.reported.distributions import BLOCK

GRID = ScoreHistogram()
A, B = Side.BASELINE, Side.CANDIDATE
ROUTES = [
    {"name": "search", "path": "/search", "ids": "response.body.ids", "scores": "response.body.scores"},
    {"name": "feed.home", "path": "/home", "ids": "response.body.ids", "scores": "response.body.scores"},
    {"name": "plain"},
]
SLOTS = {"gender=F": 1, "gender=M": 2}


def plan() -> Plan:
    return Plan(settings(routes=ROUTES, verdict={"max_cohorts": 3}))


def random_batch(seed: int, n: int = 80) -> Columns:
    draw = np.random.default_rng(seed)
    names = ["gender=F", "gender=M", "region=us"]
    batch = columns(
        n,
        {"failures.difference": 0.0},
        started=1000 + draw.random(n) * 3,
        route=draw.integers(-1, 3, n),
        cohorts=[tuple(draw.choice(names, draw.integers(0, 3), replace=False)) for _ in range(n)],
    )

    def side(shift: float) -> tuple[np.ndarray, np.ndarray]:
        pair = np.sort(draw.integers(0, n, 600))
        value = draw.normal(shift, 1, 600) * 10.0 ** draw.integers(-3, 3, 600)
        return pair, np.where(draw.random(600) < 0.1, np.nan, value)

    return with_scores(batch, {A: side(0.0), B: side(0.3)})


def judged(batch: Columns, slots=SLOTS) -> dict[tuple[str, str], Distribution]:
    one = plan()
    total = one.empty().with_added(one.tally(batch, slots)).close(1e12).total
    return {(row.route, row.cohort): row for row in one.judge(total, slots, facts()).distributions}


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_a_plain_loop(seed) -> None:
    batch, one = random_batch(seed), plan()
    expected: Counter[tuple[int, str, str, int, int]] = Counter()
    for side, (pair, value) in batch.scores.items():
        for owner, score in zip(pair.tolist(), value.tolist(), strict=True):
            route = int(batch.route[owner])
            if math.isnan(score) or route < 0:
                continue
            slots = {0} | {SLOTS.get(name, 4) for name in batch.cohorts[owner]}
            for slot in slots:
                at = math.floor(batch.started[owner])
                expected[at, ROUTES[route]["name"], side.value, slot, int(GRID.index(np.array([score]))[0])] += 1
    found: Counter[tuple[int, str, str, int, int]] = Counter()
    for bucket, (tally, _) in one.tally(batch, SLOTS).items():
        for name, counts in tally.items():
            if name.startswith("scores/"):
                route, side, block = name.removeprefix("scores/").rsplit("/", 2)
                for slot, column in zip(*np.nonzero(counts), strict=True):
                    key = (bucket, route, side, int(slot), int(block) * BLOCK + int(column))
                    found[key] += int(counts[slot, column])
    assert found == expected


def test_the_verdict_tells_both_sides_and_how_far_they_are_apart() -> None:
    batch = random_batch(4, n=400)
    found = judged(batch)
    assert {route for route, _ in found} == {"search", "feed.home", "plain"}
    for (route, cohort), row in found.items():
        if cohort == "other":
            continue
        mine = [at >= 0 and ROUTES[at]["name"] == route for at in batch.route.tolist()]
        inside = np.array(mine) & np.array([cohort == "all" or cohort in names for names in batch.cohorts])
        a, b = (value[inside[pair] & ~np.isnan(value)] for pair, value in batch.scores.values())
        assert (row.baseline.items, row.candidate.items) == (len(a), len(b))
        for side, values in ((row.baseline, a), (row.candidate, b)):
            exact = np.quantile(values, [0.1, 0.5, 0.9], method="inverted_cdf")
            np.testing.assert_allclose([side.p10, side.p50, side.p90], exact, rtol=0.015)
        assert row.ks == pytest.approx(stats.ks_2samp(a, b).statistic, abs=0.05)
        off = GRID.error * (np.abs(a).mean() + np.abs(b).mean())
        assert row.wasserstein == pytest.approx(stats.wasserstein_distance(a, b), abs=off)
        assert row.psi > 0
        assert 0 < row.jensen_shannon < 1


def test_workers_add_up_in_any_order() -> None:
    one, batches = plan(), [random_batch(seed) for seed in range(4)]
    tallies = [one.tally(batch, SLOTS) for batch in batches]
    forth, back = one.empty(), one.empty()
    for tally in tallies:
        forth = forth.with_added(tally)
    for tally in reversed(tallies):
        back = back.with_added(tally)
    assert forth.same_as(back)
    assert State.from_bytes(forth.to_bytes()).same_as(back)


def test_a_side_without_scores_is_told_and_has_no_distance() -> None:
    batch = with_scores(columns(3, {"failures.difference": 0.0}), {A: ([0, 1], [1.0, 2.0]), B: ([], [])})
    (row,) = judged(batch, {}).values()
    assert (row.baseline.items, row.candidate.items, row.candidate.p50) == (2, 0, None)
    assert (row.ks, row.psi, row.wasserstein, row.jensen_shannon) == (None,) * 4


def test_without_scores_there_is_nothing() -> None:
    assert judged(columns(3, {"failures.difference": 0.0})) == {}
    undefined = with_scores(columns(3, {"failures.difference": 0.0}), {A: ([0], [np.nan]), B: ([1], [np.inf])})
    assert judged(undefined) == {}


def test_counts_of_another_grid_are_refused() -> None:
    one, batch = plan(), random_batch(5)
    total = one.empty().with_added(one.tally(batch, {})).close(1e12).total
    wrong = Tally({name: np.hstack([rows, rows]) for name, rows in total.items() if name.startswith("scores/")})
    with pytest.raises(ValueError, match="not counted by this plan"):
        one.judge(wrong, {}, facts())


def test_what_is_kept_is_bounded_however_wild_the_scores_are() -> None:
    """At most the whole grid for each slot, side and route."""
    draw, one, n = np.random.default_rng(6), plan(), 5000
    wild = np.concatenate([sign * 10.0 ** draw.uniform(-15, 15, n * 10) for sign in (1, -1)])
    batch = with_scores(columns(n), {A: (np.arange(2 * n * 10) % n, wild), B: ([], [])})
    total = one.empty().with_added(one.tally(replace(batch, route=np.zeros(n, np.int32)), {})).close(1e12).total
    kept = sum(rows.size for name, rows in total.items() if name.startswith("scores/"))
    assert GRID.width <= kept < GRID.width + BLOCK
