"""A truth that comes later gives what it would have given in the request: values, sums and verdict."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from compare.samples import LISTS, answer, failure, items, pair
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from verdict.synthetic import facts, settings

from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.extraction.readings import truth_of
from shadowproxy.compare.later import labelled
from shadowproxy.compare.unlabelled import from_bytes
from shadowproxy.config import Route, Settings
from shadowproxy.errors import PayloadError
from shadowproxy.model import Pair
from shadowproxy.stats.state import State
from shadowproxy.verdict.plan import Plan

IN_ORDER = {"name": "order", "path": "/order", "ids": "response.body.items[*].id"}
BY_SCORE = {"name": "score", "path": "/score", "ids": "request.body.ids", "scores": "response.body.scores", "k": 3}
COHORTS = {"cohorts": {"who": "annotations.who"}}


def configured(**more: object) -> Settings:
    routes = [{**route, **COHORTS, "account": "annotations.who", **more} for route in (IN_ORDER, BY_SCORE)]
    metrics = ("quality.ndcg", "quality.recall", "quality.reciprocal_rank", "ranking.rbo", "failures.difference")
    guardrails = [{"metric": metric, "margin": 0.05} for metric in metrics]
    return settings(routes=routes, verdict={"min_pairs": 1, "bucket": 1, "guardrails": guardrails})


AT_ONCE = configured(truth="annotations.truth")
LATER = configured(labels=60)
NAMES = st.sampled_from([f"i{at}" for at in range(8)])
TRUTHS = st.lists(NAMES, min_size=1, max_size=4) | st.dictionaries(NAMES, st.floats(0.1, 9), min_size=1, max_size=4)
SCORES = st.sampled_from([0, 0.5, 1, None])


@st.composite
def asked(draw: st.DrawFn) -> tuple[Pair, Any]:
    """A pair, and its truth (None: nobody ever says)."""
    by_score = draw(st.booleans())
    ids = draw(st.lists(NAMES, max_size=8, unique=True))

    def side() -> Any:
        if draw(st.integers(0, 5)) == 0:
            return failure()
        if by_score:
            return answer({"scores": draw(st.lists(SCORES, min_size=len(ids), max_size=len(ids)))})
        return answer(items(draw(st.lists(NAMES, max_size=8))))

    made = pair(
        side(),
        side(),
        body={"ids": ids} if draw(st.booleans()) else {},
        annotations={"who": draw(st.sampled_from(["x", "y", None]))},
        target="/score" if by_score else "/order",
    )
    return msgspec.structs.replace(made, started=1000 + draw(st.floats(0, 5))), draw(st.none() | TRUTHS)


def annotated(made: Pair, truth: Any) -> Pair:
    notes = msgspec.json.decode(made.annotations)
    return msgspec.structs.replace(made, annotations=msgspec.json.encode({**notes, "truth": truth}))


@given(st.lists(asked(), min_size=1, max_size=30), st.booleans())
def test_it_makes_no_difference_when_the_truth_was_known(drawn: list[tuple[Pair, Any]], closed: bool) -> None:
    slots = {"who=x": 1, "who=y": 2}
    at_once, later = Plan(AT_ONCE), Plan(LATER)
    columns = Comparer(AT_ONCE.routes)([annotated(*one) for one in drawn])
    expected = at_once.empty().with_added(at_once.tally(columns, slots)).close(1e6)

    first = Comparer(LATER.routes)([made for made, _ in drawn])
    assert not any(first.applicable[name].any() for name in first.applicable if name.startswith("quality."))
    state = State.from_bytes(later.empty().with_added(later.tally(first, slots)).to_bytes())
    state = state.close(1e6) if closed else state
    kept = [from_bytes(waiting.to_bytes()) for waiting in first.unlabelled]
    assert len(kept) == len(drawn)
    said = [(waiting, truth_of(truth)) for waiting, (_, truth) in zip(kept, drawn, strict=True)]
    joined = [(waiting, truth) for waiting, truth in said if truth is not None]
    for waiting, truth in reversed(joined):
        state = state.with_added(later.tally_labelled(labelled([waiting], [truth]), slots))
    state = state.close(1e6)

    assert state.same_as(expected)
    assert (state.pairs, state.late) == (len(drawn), 0)
    ours, theirs = later.judge(state.total, slots, facts()), at_once.judge(expected.total, slots, facts())
    for cohort in ("all", "who=x", "who=y"):
        for one, other in zip(cells(ours, cohort), cells(theirs, cohort), strict=True):
            assert (one.guardrail, one.pairs, one.undefined) == (other.guardrail, other.pairs, other.undefined)
            assert (one.estimate is None) == (other.estimate is None)
            for name in ("e_promote", "e_rollback", *(["estimate"] if one.pairs else [])):
                assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-9, abs=1e-9)


def cells(verdict: Any, cohort: str) -> Any:
    report = verdict.cohorts.get(cohort)
    return verdict.guardrails if cohort == "all" else () if report is None else report.guardrails


@given(st.lists(asked(), min_size=1, max_size=20))
def test_a_batch_of_labels_is_as_good_as_each_alone(drawn: list[tuple[Pair, Any]]) -> None:
    kept = Comparer(LATER.routes)([made for made, _ in drawn]).unlabelled
    truths = [truth_of(truth) or {"i1": 1.0} for _, truth in drawn]
    together = labelled(kept, truths)
    for at, (waiting, truth) in enumerate(zip(kept, truths, strict=True)):
        alone = labelled([waiting], [truth])
        for name, values in alone.values.items():
            np.testing.assert_allclose(together.values[name][at], values[0], atol=1e-12)
            assert together.applicable[name][at] == alone.applicable[name][0]


CLASSIFIED = {
    "name": "classes",
    "label": "response.body.label",
    "probabilities": "response.body.p",
    "ids": "response.body.ids",
    **COHORTS,
}
CLASSES = st.sampled_from(["a", "b", "c", 1, True, None])
SAID = st.builds(
    lambda label, p, ids: answer({"label": label, "p": p, "ids": ids}),
    st.lists(CLASSES, max_size=3),
    st.lists(
        st.dictionaries(st.sampled_from("abc"), st.sampled_from([0, 0.5, 1, -1]), min_size=1), min_size=1, max_size=3
    ),
    st.lists(NAMES, max_size=3),
)
RIGHT = st.none() | st.lists(CLASSES, max_size=3) | st.dictionaries(NAMES, st.sampled_from([0, 1, 3]), max_size=3)


@hypothesis_settings(max_examples=40)
@given(st.lists(st.tuples(SAID | st.just(failure()), SAID | st.just(failure()), RIGHT), min_size=1, max_size=12))
def test_nor_does_it_for_classifiers(drawn: list[tuple[Any, Any, Any]]) -> None:
    for without in ((), ("ids",), ("ids", "label"), ("probabilities",)):
        given_here = {key: part for key, part in CLASSIFIED.items() if key not in without}
        made = [pair(a, b, annotations={"truth": truth}) for a, b, truth in drawn]
        expected = Comparer([Route(**given_here, truth="annotations.truth")])(made)
        first = Comparer([Route(**given_here, labels=60)])(made)
        kept = [from_bytes(waiting.to_bytes()) for waiting in first.unlabelled]
        assert len(kept) == len(made)
        found = labelled(kept, [truth for _, _, truth in drawn])
        names = {name for name in expected.values if name.startswith("quality.")}
        assert names == set(found.values)
        for name in names:
            assert found.applicable[name].tolist() == expected.applicable[name].tolist(), name
            np.testing.assert_allclose(found.values[name], expected.values[name], atol=1e-12)
            assert not first.applicable[name].any()


def test_a_label_in_the_request_waits_for_no_other() -> None:
    route = Route(name="r", label="response.body", truth="annotations.truth", labels=60)
    said = answer("a")
    columns = Comparer([route])([pair(said, said, annotations={"truth": truth}) for truth in ("a", [None], None)])
    assert columns.applicable["quality.accuracy"].tolist() == [True, False, False]
    assert len(columns.unlabelled) == 2


def test_a_truth_in_the_request_is_counted_at_once() -> None:
    route = Route.model_validate({**LISTS.model_dump(), "labels": 60.0})
    with_truth = pair(answer(items(["a"])), answer(items(["b"])), annotations={"truth": ["a"]})
    without = pair(answer(items(["a"])), answer(items(["b"])), annotations={"truth": []})
    columns = Comparer([route])([with_truth, without])
    assert columns.applicable["quality.ndcg"].tolist() == [True, False]
    assert [waiting.expires for waiting in columns.unlabelled] == [without.started + 60]
    assert Comparer([LISTS])([without]).unlabelled == ()


def test_what_is_kept_is_small_and_says_its_version() -> None:
    ids = [f"item-{at}" for at in range(50)]
    made = pair(answer(items(ids, [1.0] * 50)), answer(items(ids[::-1], [1.0] * 50)))
    route = Route.model_validate({**LISTS.model_dump(), "labels": 60.0})
    [waiting] = Comparer([route])([made]).unlabelled
    stored = waiting.to_bytes()
    # The ids of both sides, and no scores: their order says it all.
    assert len(stored) < 2 * sum(len(name) + 1 for name in ids) + 100
    with pytest.raises(PayloadError, match="version 2"):
        from_bytes(msgspec.msgpack.encode([2, *msgspec.msgpack.decode(stored)[1:]]))
    for damaged in (b"", stored[:20], b"\xc1", msgspec.msgpack.encode([1, "x"])):
        with pytest.raises(PayloadError):
            from_bytes(damaged)


def test_scores_of_any_size_and_none_are_kept_where_they_say_the_order() -> None:
    route = Route.model_validate({**BY_SCORE, "path": "/*", "labels": 60.0})
    body = {"ids": ["a", "b"]}
    made = pair(answer(b'{"scores": [1, 1' + b"0" * 30 + b"]}"), answer({"scores": [None, 2]}), body=body)
    [waiting] = Comparer([route])([made]).unlabelled
    again = from_bytes(waiting.to_bytes())
    assert again.baseline is not None
    assert again.candidate is not None
    assert (again.baseline.ids, again.baseline.scores) == (["b", "a"], [1e30, 1.0])
    assert again.candidate.ids == ["b", "a"]
    assert again.candidate.scores is not None
    assert math.isnan(again.candidate.scores[1])
