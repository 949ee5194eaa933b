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

from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.families.ranking import ndcg
from shadowproxy.compare.lists.align import Ranking, align
from shadowproxy.compare.lists.correlation import correlations
from shadowproxy.compare.lists.overlap import overlap, rbo, top1
from shadowproxy.compare.lists.ragged import inversions
from shadowproxy.config import CATALOGUE, Route
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


def test_inversions_by_definition() -> None:
    rng = random.Random(7)
    lists = [[rng.randint(0, 6) for _ in range(rng.randint(0, 12))] for _ in range(400)]
    pair_of = np.repeat(np.arange(len(lists)), [len(values) for values in lists])
    flat = np.array([value for values in lists for value in values])
    counted = [sum(x > y for at, x in enumerate(v) for y in v[at + 1 :]) for v in lists]
    np.testing.assert_array_equal(inversions(flat, pair_of, len(lists)), counted)


AGREEMENTS = (
    "ranking.rbo",
    "ranking.overlap",
    "ranking.top1",
    "ranking.ndcg",
    "ranking.kendall",
    "ranking.spearman",
    "ranking.weighted_tau",
)


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
        assert {value(columns, name, row) for name in ("ranking.displacement", "ranking.new")} == {1.0}
        assert value(columns, "ranking.length", row) is None
        for name in ("relative_delta", "relative_change", "undefined"):
            assert value(columns, f"scores.{name}", row) is None


def test_where_the_lists_are_empty() -> None:
    full, none = answer(items(["a", "b"])), answer(items([]))
    columns = Comparer([LISTS])([pair(none, none), pair(full, none), pair(none, full)])
    for name in ("ranking.rbo", "ranking.overlap", "ranking.top1"):
        assert columns.values[name].tolist() == [1, 0, 0]
    assert columns.values["ranking.length"].tolist() == [0, -1, 1]
    assert columns.values["ranking.new"].tolist() == [0, 0, 1]
    np.testing.assert_array_equal(columns.values["ranking.displacement"], [0, math.nan, math.nan])
    np.testing.assert_array_equal(columns.values["ranking.ndcg"], [1, math.nan, 0])
    np.testing.assert_array_equal(columns.values["scores.undefined"], [0, math.nan, math.nan])
    for name in ("ranking.kendall", "ranking.spearman", "ranking.weighted_tau"):
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
        metric = CATALOGUE[name]
        if metric.needs and metric.needs <= route.offers and not metric.replicated:
            assert applicable[0]
            assert math.isnan(columns.values[name][0])


def by_groups(text: str) -> Ranking:
    """`a (b c) d`: items by descending score, those in brackets tied."""
    ids: list[str] = []
    scores: list[float] = []
    level, inside = 100.0, False
    for word in text.split():
        level -= 0 if inside else 1
        inside = (inside or word.startswith("(")) and not word.endswith(")")
        ids.append(word.strip("()"))
        scores.append(level)
    return Ranking(ids, scores)


def test_rbo_with_ties_of_the_papers_own_implementation() -> None:
    """Corsi & Urbano 2024: the example of their published implementation, with p = 0.95; RBO^w_ext = 0.7068257."""
    x, y = by_groups("red (blue green) yellow pink"), by_groups("(blue red) white (yellow black purple) green")
    lists = align({A: [x, y], B: [y, x]}, by_score=True)
    np.testing.assert_allclose(rbo(lists, 0.95), [0.7068257, 0.7068257], atol=5e-8)


def test_lists_that_are_alike_ties_and_all_agree_wholly_and_a_tie_that_is_broken_costs() -> None:
    tied, broken = by_groups("(a b c)"), by_groups("a b c")
    # Agreement of the first three depths: 2·1/(3+1), 2·2/(3+2), 1; with p = 1/2 they weigh 1/2, 1/4, and the rest.
    expected = 0.5 * 0.5 + 0.25 * 0.8 + 0.25
    found = rbo(align({A: [tied, tied, broken], B: [tied, broken, tied]}, by_score=True), 0.5)
    np.testing.assert_allclose(found, [1, expected, expected])


def test_scores_tie_items_where_they_make_the_order_and_not_where_the_answer_is_a_list() -> None:
    by_score = Route(name="by-score", path="/scored", ids="request.body", scores="response.body")
    tied, broken = [1, 1, 1], [3, 2, 1]
    names = ["a", "b", "c"]
    made = pair(answer(tied), answer(broken), target="/scored", body=names)
    as_listed = pair(answer(items(names, tied)), answer(items(names, broken)))
    columns = Comparer([by_score, LISTS])([made, as_listed])
    # The tied stand at the first place in RBO, and in the middle of the three else.
    expected = 0.1 * (0.5 + 0.9 * 0.8) + 0.81
    np.testing.assert_allclose(columns.values["ranking.rbo"], [expected, 1])
    np.testing.assert_allclose(columns.values["ranking.displacement"], [0.5, 0])


def test_a_pair_without_ties_is_the_same_beside_one_that_has_some() -> None:
    plain, tied = (by_groups("a b c d"), by_groups("c a e b")), (by_groups("(a b) c"), by_groups("b a c"))
    alone = rbo(align({A: [plain[0]], B: [plain[1]]}, by_score=True), 0.9)
    beside = rbo(align({A: [plain[0], tied[0]], B: [plain[1], tied[1]]}, by_score=True), 0.9)
    assert alone[0] == beside[0]


def test_rbo_of_the_lists_in_webbers_example() -> None:
    """<a b c d e f g> and <z c a v w x y>, the lists by which Webber et al. 2010 show the overlap at growing depths:
    0 0 2 2 2 2 2 at depths 1 to 7."""
    lists = aligned([(Ranking(list("abcdefg"), None), Ranking(list("zcavwxy"), None))])
    p = 0.9
    agreement = [0, 0, 2 / 3, 2 / 4, 2 / 5, 2 / 6, 2 / 7]
    expected = (1 - p) * sum(a * p**at for at, a in enumerate(agreement)) + 2 / 7 * p**7
    assert rbo(lists, p)[0] == pytest.approx(expected, abs=1e-12)


def test_ndcg_of_the_gains_in_jarvelin_and_kekalainens_example() -> None:
    """Järvelin & Kekäläinen 2002: G' = <3 2 3 0 0 1 2 2 3 0>, here the baseline's scores in the candidate's order.

    With the discount log2(1 + rank) that is usual since, and not theirs, which leaves the first two ranks alike.
    """
    gains = [3, 2, 3, 0, 0, 1, 2, 2, 3, 0]
    names = [f"d{at}" for at in range(10)]
    best = sorted(range(10), key=lambda at: -gains[at])
    a = Ranking([names[at] for at in best], [float(gains[at]) for at in best])
    lists = align({A: [a], B: [Ranking(names, [1.0 - at / 10 for at in range(10)])]})
    found = [ndcg(lists, lists.scores[A], k)[0] for k in (1, 3, 10)]
    # 3/1 + 2/1.58496 + 3/2 + 0 + 0 + 1/2.80735 + 2/3 + 2/3.16993 + 3/3.32193 + 0, over the same of 3 3 3 2 2 2 1 0 0 0.
    expected = [1.0, 5.7618595 / 6.3927893, 8.3187531 / 9.0735957]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_ndcg_asks_for_the_worth_of_places_and_not_for_their_order_in_the_baseline() -> None:
    tied = align({A: [Ranking(["x", "y", "z"], [2.0, 2.0, 1.0])] * 2, B: [by_groups("x y z"), by_groups("y x z")]})
    np.testing.assert_array_equal(ndcg(tied, tied.scores[A], 2), [1, 1])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([math.nan, math.nan], math.nan),
        ([-1.0, -1.0], 1.0),
        ([0.0, 0.0], 1.0),
        ([-1.0, -3.0], 1 / math.log2(3)),
        ([3.0, 1.0], (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3))),
        ([1.7e308, -1.7e308], 1 / math.log2(3)),
        ([5.0, math.nan], 1 / math.log2(3)),
    ],
)
def test_ndcg_of_two_items_that_change_places(scores: list[float], expected: float) -> None:
    lists = align({A: [Ranking(["x", "y"], scores)], B: [Ranking(["y", "x"], [2.0, 1.0])]})
    np.testing.assert_allclose(ndcg(lists, lists.scores[A], 10), [expected])


def test_weighted_tau_goes_by_the_top() -> None:
    ids = list("abcdef")
    top, bottom = ["b", "a", *ids[2:]], [*ids[:4], "f", "e"]
    _, _, weighted = correlations(aligned([(Ranking(ids, None), Ranking(other, None)) for other in (top, bottom)]))
    # Σw = 49/20, all 15 pairs of items weigh 5·49/20; the exchange at the top 1 + 1/2, that at the bottom 1/5 + 1/6.
    np.testing.assert_allclose(weighted, [1 - 2 * 1.5 / 12.25, 1 - 2 * (1 / 5 + 1 / 6) / 12.25], atol=1e-9)


def test_weighted_tau_of_long_lists_is_scipys() -> None:
    rng = random.Random(8)
    names = [str(at) for at in range(3000)]
    a, b = (Ranking(names, [rng.randint(0, 300) / 7 for _ in names]) for _ in range(2))
    constant = Ranking(names, [1.0] * 3000)
    _, _, weighted = correlations(aligned([(a, b), (a, constant), (a, a)]))
    assert weighted[0] == pytest.approx(stats.weightedtau(a.scores, b.scores).statistic, abs=1e-9)
    assert math.isnan(weighted[1])
    assert weighted[2] == pytest.approx(1, abs=1e-12)


def test_displacement_and_new_items_of_a_pair() -> None:
    whole = [f"i{at}" for at in range(5)]
    moved = ["i4", "i0", "n", "i1", "i2"]
    columns = Comparer([LISTS])([pair(answer(items(whole)), answer(items(moved))), pair(failure(), failure())])
    assert columns.values["ranking.displacement"].tolist() == [1.0, 1.0]
    assert columns.values["ranking.new"].tolist() == pytest.approx([1 / 5, 1.0])


def test_a_route_without_scores_has_no_ndcg() -> None:
    route = Route(name="r", ids="response.body")
    listed, failed = pair(answer(["a"]), answer(["a"])), pair(failure(), failure())
    for made in ([listed, failed], [listed], [failed]):
        columns = Comparer([route])(made)
        assert not columns.applicable["ranking.ndcg"].any()
        assert columns.applicable["ranking.rbo"].all()
        assert all(not len(one.value) for one in columns.scores.values())


def test_columns_carry_the_scores_of_pairs_that_both_answered() -> None:
    a, b = answer(items(["x", "y"], [2, None])), answer(items(["z"], [7]))
    bare = Route(name="bare", path="/bare", ids="response.body.items[*].id")
    made = [pair(a, failure()), pair(a, b), pair(a, a, target="/bare"), pair(b, a), pair(failure(), b)]
    scores = Comparer([bare, LISTS])(made).scores
    assert scores[A].pair.tolist() == [1, 1, 3]
    np.testing.assert_array_equal(scores[A].value, [2, math.nan, 7])
    assert scores[B].pair.tolist() == [1, 3, 3]
    np.testing.assert_array_equal(scores[B].value, [7, 2, math.nan])


def test_columns_carry_the_scores_of_long_batches_under_their_own_pairs() -> None:
    names = [f"i{at}" for at in range(2000)]
    made = [pair(*[answer(items(names, [float(at)] * 2000))] * 2) for at in range(30)]
    scores = Comparer([LISTS])(made).scores
    np.testing.assert_array_equal(scores[B].pair, np.repeat(np.arange(30), 2000))
    np.testing.assert_array_equal(scores[B].value, np.repeat(np.arange(30.0), 2000))
