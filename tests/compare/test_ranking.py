"""Agreement of rankings, against scipy, the `rbo` package and definitions written out."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from compare.samples import LISTS, A, B, answer, failure, items, pair, value
from rbo import RankingSimilarity
from scipy import stats

from shadowproxy.compare.align import Ranking, align
from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.correlation import correlations
from shadowproxy.compare.overlap import overlap, rbo, top1
from shadowproxy.compare.ragged import inversions, ranks
from shadowproxy.config import Route
from shadowproxy.model import Exchange, Outcome

Pairs = list[tuple[Ranking, Ranking]]


def rankings(seed: int, count: int, *, longest: int = 14, scored: bool = True) -> Pairs:
    """Pairs of lists, from empty ones to uneven, disjoint and equal ones, with scores that often tie."""
    rng = random.Random(seed)

    def one(pool: list[str]) -> Ranking:
        ids = rng.sample(pool, rng.randint(0, min(longest, len(pool))))
        levels = rng.choice([1, 2, 4, 1000])
        return Ranking(ids, [rng.randint(0, levels) / 4 for _ in ids] if scored else None)

    made = []
    for _ in range(count):
        pool = [f"i{at}" for at in range(rng.randint(1, 20))]
        a = one(pool)
        other = [f"j{at}" for at in range(5)] if rng.random() < 0.1 else pool
        b = Ranking(a.ids, a.scores) if rng.random() < 0.1 else one(other)
        made.append((a, b))
    return made


def aligned(pairs: Pairs) -> Any:
    return align({A: [a for a, _ in pairs], B: [b for _, b in pairs]})


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.98])
def test_rbo_is_the_extrapolated_rbo_of_the_paper(p: float) -> None:
    pairs = rankings(1, 1500)
    expected = [RankingSimilarity(a.ids, b.ids).rbo_ext(p=p) for a, b in pairs]
    np.testing.assert_allclose(rbo(aligned(pairs), p), expected, atol=1e-12)


def test_rbo_by_hand() -> None:
    # X = 0, 2 at depths 1, 2: (1−p)/p · (2/2)p² + (2/2)p² with p = 1/2 is 1/4 + 1/4.
    swapped = aligned([(Ranking(["a", "b"], None), Ranking(["b", "a"], None))])
    assert rbo(swapped, 0.5)[0] == pytest.approx(0.5)


def test_rbo_keeps_its_bounds_on_long_lists() -> None:
    ids = [str(at) for at in range(3000)]
    value = rbo(
        aligned([(Ranking(ids, None), Ranking(ids, None)), (Ranking(ids[:1], None), Ranking(ids, None))]), 0.999
    )
    np.testing.assert_allclose(value, [1, 1], atol=1e-12)
    assert (value <= 1).all()


def test_kendall_is_scipys_with_ties() -> None:
    pairs = rankings(2, 2000)
    tau, _, _ = correlations(aligned(pairs))
    np.testing.assert_allclose(tau, [by_scipy(stats.kendalltau, a, b) for a, b in pairs], atol=1e-12, equal_nan=True)


def test_spearman_is_scipys_with_ties() -> None:
    pairs = rankings(3, 2000)
    _, rho, _ = correlations(aligned(pairs))
    np.testing.assert_allclose(rho, [by_scipy(stats.spearmanr, a, b) for a, b in pairs], atol=1e-12, equal_nan=True)


def test_without_scores_the_correlations_go_by_places() -> None:
    pairs = rankings(4, 1000, scored=False)
    tau, rho, _ = correlations(aligned(pairs))
    expected = [by_scipy(stats.kendalltau, a, b) for a, b in pairs]
    np.testing.assert_allclose(tau, expected, atol=1e-12, equal_nan=True)
    expected = [by_scipy(stats.spearmanr, a, b) for a, b in pairs]
    np.testing.assert_allclose(rho, expected, atol=1e-12, equal_nan=True)


def by_scipy(statistic: Any, a: Ranking, b: Ranking) -> float:
    common = [name for name in a.ids if name in b.ids]
    x, y = (
        [-r.scores[r.ids.index(name)] if r.scores is not None else r.ids.index(name) for name in common] for r in (a, b)
    )
    if len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan
    return float(statistic(x, y).statistic)


def test_long_lists_cost_no_quadratic_memory_and_agree_with_scipy() -> None:
    rng = random.Random(5)
    names = [str(at) for at in range(20_000)]
    a, b = (Ranking(names, [rng.randint(0, 500) / 7 for _ in names]) for _ in range(2))
    tau, rho, _ = correlations(aligned([(a, b)]))
    assert tau[0] == pytest.approx(stats.kendalltau(a.scores, b.scores).statistic, abs=1e-12)
    assert rho[0] == pytest.approx(stats.spearmanr(a.scores, b.scores).statistic, abs=1e-12)


def test_one_undefined_score_among_the_common_items_makes_the_pair_go_by_places() -> None:
    a = Ranking(["x", "y", "z"], [3.0, 2.0, math.nan])
    b = Ranking(["x", "y", "z"], [1.0, 2.0, 3.0])
    tau, _, _ = correlations(aligned([(a, b), (a, Ranking(["y", "x"], [5.0, 5.5]))]))
    assert tau[0] == pytest.approx(1.0)
    assert tau[1] == pytest.approx(1.0), "z is not common, so its score doesn't matter: both put x above y"


@pytest.mark.parametrize("k", [1, 3, 10, 1000])
def test_overlap_and_top1_by_definition(k: int) -> None:
    pairs = rankings(6, 1000)
    lists = aligned(pairs)

    def share(a: list[str], b: list[str]) -> float:
        if not a:
            return 0.0 if b else 1.0
        return len(set(a[:k]) & set(b[:k])) / min(k, len(a))

    np.testing.assert_allclose(overlap(lists, k), [share(a.ids, b.ids) for a, b in pairs])
    np.testing.assert_array_equal(top1(lists), [float(a.ids[:1] == b.ids[:1]) for a, b in pairs])


def test_inversions_and_ranks_by_definition() -> None:
    rng = random.Random(7)
    lists = [[rng.randint(0, 6) for _ in range(rng.randint(0, 12))] for _ in range(400)]
    pair_of = np.repeat(np.arange(len(lists)), [len(values) for values in lists])
    flat = np.array([value for values in lists for value in values])
    counted = [sum(x > y for at, x in enumerate(v) for y in v[at + 1 :]) for v in lists]
    np.testing.assert_array_equal(inversions(flat, pair_of, len(lists)), counted)
    found = ranks(flat.astype(float), pair_of, len(lists))
    average = np.concatenate([stats.rankdata(values, "average") - 1 for values in lists])
    dense = np.concatenate([stats.rankdata(values, "dense") - 1 for values in lists])
    np.testing.assert_array_equal(found.average, average)
    np.testing.assert_array_equal(found.dense, dense)
    tied = [sum(x == y for at, x in enumerate(v) for y in v[at + 1 :]) for v in lists]
    np.testing.assert_array_equal(found.tied, tied)


AGREEMENTS = ("ranking.rbo", "ranking.overlap", "ranking.top1", "ranking.kendall", "ranking.spearman")


@pytest.mark.parametrize(
    ("baseline", "candidate"),
    [
        (failure(), answer(items(["a", "b"]))),
        (answer(items(["a", "b"])), failure(Outcome.SHED)),
        (failure(), failure()),
        (answer(items(["a", "b"])), answer(b"<html>")),
        (answer(items(["a", "b"])), answer(items(["a", "b"]), status=503)),
        (answer(items(["a", "b"])), answer({"detail": "no"}, status=404)),
    ],
)
def test_with_a_failed_side_agreement_is_nought_and_length_not_applicable(
    baseline: Exchange, candidate: Exchange
) -> None:
    columns = Comparer([LISTS])([pair(baseline, candidate), pair(candidate, baseline)])
    for row in (0, 1):
        assert {value(columns, name, row) for name in AGREEMENTS} == {0.0}
        assert value(columns, "ranking.length", row) is None
        assert value(columns, "scores.relative_delta", row) is None


def test_where_the_lists_are_empty() -> None:
    full, none = answer(items(["a", "b"])), answer(items([]))
    columns = Comparer([LISTS])([pair(none, none), pair(full, none), pair(none, full)])
    for name in ("ranking.rbo", "ranking.overlap", "ranking.top1"):
        assert columns.values[name].tolist() == [1, 0, 0]
    assert columns.values["ranking.length"].tolist() == [0, -1, 1]
    for name in ("ranking.kendall", "ranking.spearman"):
        assert columns.applicable[name].all()
        assert np.isnan(columns.values[name]).all()
    assert not columns.failed[A].any()
    assert not columns.failed[B].any()


def test_a_cut_list_shows_in_length_and_overlap() -> None:
    whole = [f"i{at}" for at in range(10)]
    columns = Comparer([LISTS])([pair(answer(items(whole)), answer(items(whole[:1])))])
    assert value(columns, "ranking.rbo") == pytest.approx(1.0), "RBO_ext extrapolates"
    assert value(columns, "ranking.length") == pytest.approx(-0.9)
    assert value(columns, "ranking.overlap") == pytest.approx(0.1)


def test_ids_in_the_request_and_scores_in_the_response_are_ordered_by_score() -> None:
    route = Route(name="r", ids="request.body.instances[*].id", scores="response.body.predictions")
    body = {"instances": [{"id": name} for name in "abc"]}
    made = pair(answer({"predictions": [0.1, 0.9, 0.5]}), answer({"predictions": [0.9, 0.1, 0.5]}), body=body)
    columns = Comparer([route])([made])
    assert value(columns, "ranking.top1") == 0
    assert value(columns, "ranking.kendall") == pytest.approx(-1)
    assert value(columns, "ranking.rbo") == pytest.approx(RankingSimilarity(list("bca"), list("acb")).rbo_ext(p=0.9))
    assert value(columns, "ranking.length") == 0


def test_ids_missing_from_the_request_are_nobodys_failure_and_leave_the_metrics_undefined() -> None:
    route = Route(name="r", ids="request.body.ids", scores="response.body.predictions", truth="annotations.t")
    made = pair(answer({"predictions": [1]}), answer({"predictions": [2]}), body={"other": 1}, annotations={"t": ["a"]})
    columns = Comparer([route])([made])
    assert columns.failure == {A: ("",), B: ("",)}
    for name, applicable in columns.applicable.items():
        if name.split(".")[0] in ("ranking", "scores", "quality"):
            assert applicable[0]
            assert math.isnan(columns.values[name][0])
