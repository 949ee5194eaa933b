"""What is beyond the baseline's own noise: against definitions written out, and what the correction must not do."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from compare.samples import A, B, answer, failure, pair, value
from rbo import RankingSimilarity

from shadowproxy.compare.columns import Columns
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import CATALOGUE, Route
from shadowproxy.model import Exchange, Pair

LISTS = Route(name="lists", path="/lists", ids="response.body.ids", k=3, rbo_p=0.8)
EVERYTHING = Route.model_validate(
    {
        "name": "all",
        "path": "/all",
        "ids": "response.body.ids",
        "label": "response.body.labels",
        "probabilities": "response.body.p",
        "text": "response.body.text",
        "finish": "response.body.finish",
        "fields": {"ignore": ["noise"]},
    }
)
BY_SCORE = Route(name="scored", path="/scored", ids="request.body.ids", scores="response.body.scores")
COMPARER = Comparer([LISTS, EVERYTHING, BY_SCORE])
EXCESSES = sorted(name for name in CATALOGUE if name.endswith("excess"))


def triplet(a: Any, replica: Any, b: Any, target: str = "/all", request: Any = b"") -> Pair:
    sides = [one if isinstance(one, Exchange) else answer(one) for one in (a, replica, b)]
    return msgspec.structs.replace(pair(sides[0], sides[2], target=target, body=request), replica=sides[1])


def body(rng: random.Random) -> dict[str, Any]:
    """An answer that differs from one time to the next."""
    weights = [rng.random() for _ in range(3)]
    return {
        "ids": rng.sample("abcdefgh", rng.choice([0, 1, 3, 6, 8])),
        "labels": rng.choices(["x", "y", None], k=rng.choice([0, 1, 2, 3])),
        "p": [dict(zip("xyz", (w / sum(weights) for w in weights), strict=True))],
        "text": rng.choice([None, "", " ".join(rng.choices(["one", "two", "three", "the", "four."], k=5))]),
        "finish": rng.choice([None, "stop", "length"]),
        "rest": rng.randint(0, 2),
    }


def excesses(columns: Columns, row: int = 0) -> dict[str, float | None]:
    return {name: value(columns, name, row) for name in EXCESSES}


# ── definitions, one triplet at a time ──


def beyond(a: Any, replica: Any, b: Any, agree: Any) -> float:
    return agree(a, replica) - (agree(a, b) + agree(replica, b)) / 2


def rbo(a: dict[str, Any], b: dict[str, Any]) -> float:
    if not a["ids"] or not b["ids"]:
        return float(a["ids"] == b["ids"])
    return float(RankingSimilarity(a["ids"], b["ids"]).rbo_ext(p=0.8))


def overlap(a: dict[str, Any], b: dict[str, Any]) -> float:
    if not a["ids"]:
        return float(not b["ids"])
    return len({*a["ids"][:3]} & {*b["ids"][:3]}) / min(3, len(a["ids"]))


def test_rankings_by_definition() -> None:
    rng = random.Random(1)
    made = [[body(rng) for _ in range(3)] for _ in range(400)]
    columns = COMPARER([triplet(*three, target="/lists") for three in made])
    for name, agree in (("ranking.rbo_excess", rbo), ("ranking.overlap_excess", overlap)):
        expected = [beyond(*three, agree) for three in made]
        np.testing.assert_allclose(columns.values[name], expected, atol=1e-12)
        assert len(set(np.round(expected, 6))) > 10


def same_labels(a: dict[str, Any], b: dict[str, Any]) -> float:
    both = list(itertools.zip_longest(a["labels"], b["labels"]))
    known = [x == y for x, y in both if x is not None or y is not None]
    if not both:
        return 1.0
    return sum(known) / len(known) if known else float("nan")


def closeness(a: dict[str, Any], b: dict[str, Any]) -> float:
    return 1 - sum(abs(a["p"][0][label] - b["p"][0][label]) for label in "xyz") / 2


def f1(a: dict[str, Any], b: dict[str, Any]) -> float:
    bags = [Counter(word.strip(".") for word in (one["text"] or "").split() if word != "the") for one in (a, b)]
    if (a["text"] or "") == (b["text"] or ""):
        return 1.0
    both = (bags[0] & bags[1]).total()
    return 2 * both / max(1, bags[0].total() + bags[1].total())


def test_labels_and_texts_by_definition() -> None:
    rng = random.Random(2)
    made = [[body(rng) for _ in range(3)] for _ in range(400)]
    columns = COMPARER([triplet(*three) for three in made])
    for name, agree, said in (
        ("labels.agreement_excess", same_labels, lambda one: True),
        ("labels.probability_shift_excess", closeness, lambda one: True),
        ("text.token_f1_excess", f1, lambda one: one["text"] is not None),
        ("text.finish_excess", lambda x, y: float(x["finish"] == y["finish"]), lambda one: one["finish"] is not None),
    ):
        for row, three in enumerate(made):
            expected = beyond(*three, agree) if any(map(said, three)) else None
            assert value(columns, name, row) == pytest.approx(expected, nan_ok=True), name


# ── what the correction must and must not do ──


def test_it_sums_to_nothing_when_the_three_change_roles() -> None:
    """The mean over exchangeable triplets is the mean over all roles of each; here it is exactly 0 for every one."""
    rng = random.Random(3)
    for _ in range(60):
        three = [body(rng) for _ in range(3)]
        scored = [{"scores": [rng.randint(0, 2) for _ in range(4)]} for _ in range(3)]
        for target, answers, request in (("/all", three, b""), ("/scored", scored, {"ids": list("abcd")})):
            roles = [triplet(*order, target, request) for order in itertools.permutations(answers)]
            columns = COMPARER(roles)
            for name in EXCESSES:
                found = columns.values[name][columns.applicable[name]]
                assert len(found) in (0, 6)
                assert np.isnan(found).all() or sum(found) == pytest.approx(0, abs=1e-12), name
            assert columns.applicable["ranking.rbo_excess"].all()


def test_without_noise_it_is_the_plain_disagreement() -> None:
    rng = random.Random(4)
    made = [(body(rng), body(rng)) for _ in range(100)]
    columns = COMPARER([triplet(a, a, b) for a, b in made])
    for name in EXCESSES:
        plain = name.removesuffix("_excess") if name != "fields.excess" else "fields.changed"
        metric, there = CATALOGUE[plain], ~np.isnan(columns.values[name])
        intercept, slope = metric.loss(metric.worse[0])
        expected = intercept + slope * columns.values[plain][there]
        np.testing.assert_allclose(columns.values[name][there], expected, atol=1e-12)
        assert there.sum() > 40


def test_a_candidate_of_another_mind_stands_out_of_the_noise() -> None:
    rng = random.Random(5)

    def noisy(model: list[str]) -> dict[str, Any]:
        ids = list(model)
        at = rng.randrange(len(ids) - 1)
        ids[at : at + 2] = reversed(ids[at : at + 2])
        return {"ids": ids}

    ours, theirs = list("abcdefgh"), list("hgfedcba")
    same = COMPARER([triplet(*(noisy(ours) for _ in range(3)), target="/lists") for _ in range(2000)])
    other = COMPARER([triplet(noisy(ours), noisy(ours), noisy(theirs), target="/lists") for _ in range(2000)])
    assert abs(same.values["ranking.rbo_excess"].mean()) < 0.01
    assert same.values["ranking.rbo"].mean() < 0.95  # what the plain one holds against it
    assert other.values["ranking.rbo_excess"].mean() > 0.3


def test_how_far_baseline_and_replica_are_apart_by_definition() -> None:
    rng = random.Random(8)
    levels = [None, 0, 1, -2.5, 1e6]
    made = [[rng.choices(levels, k=4) for _ in range(3)] for _ in range(300)]
    columns = COMPARER(
        [triplet(*({"scores": one} for one in three), "/scored", {"ids": list("abcd")}) for three in made]
    )
    for name, first, second in (("scores.noise", 0, 1), ("scores.delta", 0, 2)):
        for row, three in enumerate(made):
            if any(set(one) == {None} for one in three):
                continue  # an answer without any score failed
            both = zip(three[first], three[second], strict=True)
            moved = [b - a for a, b in both if a is not None and b is not None]
            expected = sum(moved) / len(moved) if moved else float("nan")
            assert value(columns, name, row) == pytest.approx(expected, nan_ok=True), name
    plain = COMPARER([msgspec.structs.replace(triplet(GOOD, GOOD, GOOD, "/scored"), replica=None)])
    assert value(plain, "scores.noise") is None


GOOD = body(random.Random(6))


@pytest.mark.parametrize("bad", [failure(), answer(GOOD, status=500), answer(b"<html>"), answer(GOOD, status=404)])
@pytest.mark.parametrize("at", range(3))
def test_a_triplet_of_which_one_failed_is_left_out_whichever_it_was(bad: Exchange, at: int) -> None:
    three: list[Any] = [GOOD, GOOD, GOOD]
    three[at] = bad
    columns = COMPARER([triplet(*three)])
    assert set(excesses(columns).values()) == {None}
    assert columns.failed[A].tolist() == [at == 0]
    assert columns.failed[B].tolist() == [at == 2]


def test_a_pair_without_the_replica_is_no_triplet() -> None:
    with_replica = triplet(GOOD, GOOD, GOOD)
    columns = COMPARER([msgspec.structs.replace(with_replica, replica=None), with_replica])
    assert set(excesses(columns).values()) == {None}
    assert set(excesses(columns, 1).values()) == {0.0}


def test_in_a_batch_each_triplet_is_as_it_is_alone() -> None:
    rng = random.Random(7)
    made = []
    for _ in range(300):
        target = rng.choice(["/lists", "/all", "/scored", "/none"])
        three: list[Any] = [{**body(rng), "scores": [rng.random() for _ in range(4)]} for _ in range(3)]
        if rng.random() < 0.2:
            three[rng.randrange(3)] = failure()
        one = triplet(*three, target=target, request={"ids": list("abcd")})
        made.append(one if rng.random() < 0.6 else msgspec.structs.replace(one, replica=None))
    whole = COMPARER(made)
    for row, one in enumerate(made):
        alone = COMPARER([one])
        for name in CATALOGUE:
            assert repr(whole.values[name][row]) == repr(alone.values[name][0]), name
            assert whole.applicable[name][row] == alone.applicable[name][0], name


def test_ids_that_the_request_lacks_leave_it_undefined() -> None:
    columns = COMPARER([triplet(*({"scores": [1, 2]},) * 3, target="/scored", request={})])
    assert np.isnan(value(columns, "ranking.rbo_excess") or 0.0)
