"""Quality against the truth, against ir_measures (NDCG, recall, reciprocal rank) and by hand."""

from __future__ import annotations

import math
import random

import ir_measures
import numpy as np
import pytest
from compare.samples import LISTS, answer, failure, items, pair, value
from ir_measures import RR, R, nDCG

from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Route

NAMES = ("quality.ndcg", "quality.recall", "quality.reciprocal_rank")


@pytest.mark.parametrize("k", [1, 5, 10])
def test_all_three_are_those_of_ir_measures(k: int) -> None:
    rng = random.Random(k)
    pool = [f"i{at}" for at in range(15)]
    lists = [(rng.sample(pool, rng.randint(0, 12)), rng.sample(pool, rng.randint(0, 12))) for _ in range(600)]
    truths = [{name: rng.randint(1, 4) for name in rng.sample(pool, rng.randint(1, 6))} for _ in lists]
    route = Route.model_validate({**LISTS.model_dump(), "k": k})
    made = [
        pair(answer(items(a)), answer(items(b)), annotations={"truth": truth})
        for (a, b), truth in zip(lists, truths, strict=True)
    ]
    columns = Comparer([route])(made)

    measures = (nDCG @ k, R @ k, RR)
    worth = [by_ir_measures(measures, [pair_lists[side] for pair_lists in lists], truths) for side in (0, 1)]
    for name, measure in zip(NAMES, measures, strict=True):
        np.testing.assert_allclose(columns.values[name], worth[1][measure] - worth[0][measure], atol=1e-12)
        assert columns.applicable[name].all()


def by_ir_measures(measures, lists, truths):  # type: ignore[no-untyped-def]
    qrels = {str(at): truth for at, truth in enumerate(truths)}
    run = {str(at): {name: -float(place) for place, name in enumerate(ids)} for at, ids in enumerate(lists)}
    found = {measure: np.zeros(len(lists)) for measure in measures}
    for result in ir_measures.iter_calc(measures, qrels, run):
        found[result.measure][int(result.query_id)] = result.value
    return found


def test_by_hand() -> None:
    made = pair(answer(items(["x", "a", "b"])), answer(items(["a", "x", "y"])), annotations={"truth": ["a", "b"]})
    columns = Comparer([LISTS])([made])
    ideal = 1 + 1 / math.log2(3)
    assert value(columns, "quality.ndcg") == pytest.approx((1 - 1 / math.log2(3) - 1 / 2) / ideal)
    assert value(columns, "quality.recall") == pytest.approx(1 / 2 - 1)
    assert value(columns, "quality.reciprocal_rank") == pytest.approx(1 - 1 / 2)


@pytest.mark.parametrize("truth", [[], {}, None, {"a": 0}, {"a": -1, "b": "2", "c": True}, [None, {}], True, 1.5])
def test_without_a_truth_nothing_is_applicable(truth: object) -> None:
    columns = Comparer([LISTS])(
        [pair(answer(items(["a"])), answer(items(["b"])), annotations={"truth": truth}), pair(failure(), failure())]
    )
    for name in NAMES:
        assert not columns.applicable[name].any()


def test_a_failed_side_is_worth_nought() -> None:
    good, empty = answer(items(["a"])), answer(items([]))
    notes = {"truth": "a"}
    sides = [(good, failure()), (failure(), good), (failure(), failure()), (good, empty), (good, answer({"items": 3}))]
    columns = Comparer([LISTS])([pair(a, b, annotations=notes) for a, b in sides])
    for name in NAMES:
        assert columns.values[name].tolist() == [-1, 1, 0, -1, -1]


def test_huge_gains_do_not_overflow() -> None:
    notes = {"truth": {"a": 1.5e308, "b": 1.5e308, "c": 5e-324}}
    columns = Comparer([LISTS])([pair(answer(items(["x", "a"])), answer(items(["a", "b"])), annotations=notes)])
    ideal = 1 + 1 / math.log2(3)
    assert value(columns, "quality.ndcg") == pytest.approx(1 - (1 / math.log2(3)) / ideal)


def test_tied_scores_take_the_mean_over_all_orders() -> None:
    route = Route(name="r", ids="request.body.ids", scores="response.body", truth="annotations.truth", k=2)
    orders = [["t", "x", "y"], ["x", "t", "y"], ["x", "y", "t"]]
    tied, right = answer([1, 1, 1]), answer([3, 3, 3])
    made = [pair(tied, right, body={"ids": ids}, annotations={"truth": ["t"]}) for ids in orders]
    wrong = [pair(answer([0, 0, 0]), failure(), body={"ids": ids}, annotations={"truth": ["t"]}) for ids in orders]
    columns = Comparer([route])([*made, *wrong])
    assert np.nanmax(np.abs(columns.values["quality.ndcg"][:3])) == 0
    np.testing.assert_allclose(columns.values["quality.ndcg"][3:], -(1 + 1 / math.log2(3)) / 3)
    np.testing.assert_allclose(columns.values["quality.recall"][3:], -2 / 3)
    np.testing.assert_allclose(columns.values["quality.reciprocal_rank"][3:], -1 / 2)
