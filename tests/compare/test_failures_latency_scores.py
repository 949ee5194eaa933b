from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from compare.samples import LISTS, A, B, answer, failure, items, pair, value

from shadowproxy.compare.columns import Columns
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Route
from shadowproxy.model import Exchange, Outcome, Side

GOOD = answer(items(["a"]))


def compare(baseline: Exchange, candidate: Exchange, *, method: str = "POST", route: Route = LISTS) -> Columns:
    return Comparer([route])([pair(baseline, candidate, method=method)])


@pytest.mark.parametrize("outcome", [outcome for outcome in Outcome if outcome is not Outcome.OK])
def test_a_failure_of_transport_keeps_its_word(outcome: Outcome) -> None:
    columns = compare(GOOD, failure(outcome))
    assert columns.failure == {A: ("",), B: (outcome.value,)}
    assert value(columns, "failures.difference") == 1
    assert value(compare(failure(outcome), GOOD), "failures.difference") == -1
    assert value(compare(failure(outcome), failure()), "failures.difference") == 0


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (answer(items(["a"]), status=500), "http_5xx"),
        (answer(items(["a"]), status=599), "http_5xx"),
        (answer(items(["a"]), status=600), "protocol"),
        (answer(items(["a"]), status=101), "protocol"),
        (answer(items(["a"]), status=0), "protocol"),
        (answer({"detail": "who are you"}, status=401), "http_4xx"),
        (answer(b""), "bad_body"),
        (answer(b"", status=204), "bad_body"),
        (answer(b"", status=304), "bad_body"),
        (answer(b"[NaN]"), "bad_body"),
        (answer({}), "bad_body"),
        (answer({"items": "none"}), "bad_body"),
        (answer(items([1] * 100_001)), "too_large"),
        (answer(items(["a", None])), "bad_body"),
        (answer(items([True])), "bad_body"),
        (answer(items([1.5])), "bad_body"),
        (answer(items([["a"]])), "bad_body"),
        (answer(items(["a"]), head=b"Content-Encoding: compress\r\n"), "unsupported_encoding"),
        (answer(items(["a"]), head=b"Content-Encoding: gzip\r\n"), "bad_encoding"),
        (Exchange(Outcome.OK, 200, b"", b'{"items": []}', 5000, ttfb=0.1, total=0.1), "truncated_capture"),
    ],
)
def test_what_fails_is_told_on_either_side_alike(bad: Exchange, kind: str) -> None:
    assert compare(GOOD, bad).failure == {A: ("",), B: (kind,)}
    assert compare(bad, GOOD).failure == {A: (kind,), B: ("",)}
    columns = compare(GOOD, bad)
    assert columns.total[B][0] == math.inf
    assert columns.ttfb[B][0] == math.inf
    assert columns.failed[B].tolist() == [True]


@pytest.mark.parametrize(
    ("baseline", "candidate", "method"),
    [
        (answer({"detail": "no"}, status=422), answer(b"", status=400), "POST"),
        (answer(b"", status=304), answer(b"", status=304), "GET"),
        (answer(b"", status=302), answer(b"", status=307), "GET"),
        (answer(b"", status=204), answer(b"", status=204), "GET"),
        (answer(b""), answer(b""), "HEAD"),
    ],
)
def test_where_neither_answer_has_content_nobody_failed_and_there_is_nothing_to_compare(
    baseline: Exchange, candidate: Exchange, method: str
) -> None:
    columns = compare(baseline, candidate, method=method)
    assert columns.failure == {A: ("",), B: ("",)}
    for name, applicable in columns.applicable.items():
        assert applicable[0] == (name.split(".")[0] in ("failures", "latency")), name


def test_a_refusal_beside_a_timeout_is_a_failure_of_its_own() -> None:
    assert compare(answer(b"", status=404), failure()).failure == {A: ("http_4xx",), B: ("timeout",)}


def test_a_route_that_reads_no_body_needs_none() -> None:
    columns = compare(answer(b""), answer(b"<html>"), route=Route(name="plain"))
    assert columns.failure == {A: ("",), B: ("",)}
    by_header = Route(name="r", ids="response.headers.ids | [@]")
    made = answer(b"<html>", head=b"Ids: x\r\n")
    assert value(compare(made, made, route=by_header), "ranking.rbo") == pytest.approx(1)


def test_without_a_route_failures_and_latency_are_compared() -> None:
    columns = Comparer([Route(name="other", path="/other", ids="response.body")])([pair(GOOD, failure())])
    assert columns.route.tolist() == [-1]
    assert {name for name, applicable in columns.applicable.items() if applicable[0]} == {
        "failures.difference",
        "failures.candidate",
        "latency.total_log2",
        "latency.ttfb_log2",
    }


@pytest.mark.parametrize(
    ("baseline", "candidate", "log2"),
    [
        (0.1, 0.1, 0),
        (0.1, 0.1 * 2**0.5, 0.5),
        (0.1, 0.1 / 2**0.25, -0.25),
        (0.1, 5, 1),
        (5, 0.1, -1),
        (0, 0, 0),
        (0, 0.1, 1),
        (-1, 0, 0),
        (0.1, math.inf, 1),
        (math.inf, 0.1, -1),
        (math.inf, math.inf, 0),
        (math.nan, 0.1, -1),
        (1e-320, 1e-310, 0),
        (1e308, 1e308, 0),
    ],
)
def test_latency(baseline: float, candidate: float, log2: float) -> None:
    body = items(["a"])
    columns = compare(answer(body, took=baseline), answer(body, took=candidate))
    assert value(columns, "latency.total_log2") == pytest.approx(log2)
    assert value(columns, "latency.ttfb_log2") == pytest.approx(log2)


def test_latency_of_failed_exchanges() -> None:
    quick = answer(items(["a"]), status=500, took=0.001)
    columns = Comparer([LISTS])([pair(GOOD, quick), pair(quick, GOOD), pair(quick, failure())])
    for name in ("latency.total_log2", "latency.ttfb_log2", "latency.total_slow"):
        assert columns.values[name].tolist() == [1, -1, 0], "a fast 500 is not fast"


def test_slow_is_beyond_the_limit_not_at_it() -> None:
    body = items(["a"])
    took = [(0.5, 0.6), (0.6, 0.5), (0.6, 9.0), (0.1, 0.5)]
    columns = Comparer([LISTS])([pair(answer(body, took=a), answer(body, took=b)) for a, b in took])
    assert columns.values["latency.total_slow"].tolist() == [1, -1, 0, 0]
    assert not compare(GOOD, GOOD, route=Route(name="r")).applicable["latency.total_slow"][0]


@pytest.mark.parametrize(
    ("baseline", "candidate", "failed", "over"),
    [
        (GOOD, GOOD, 0, 0),
        (failure(), GOOD, 0, 0),
        (answer(items(["a"]), took=9), GOOD, 0, 0),
        (GOOD, failure(), 1, 1),
        (failure(), failure(), 1, 1),
        (GOOD, answer(items(["a"]), took=0.6), 0, 1),
        (answer(items(["a"]), took=0.7), answer(items(["a"]), took=0.6), 0, 1),
        (GOOD, answer(items(["a"]), took=0.5), 0, 0),
        (GOOD, answer(b"", status=404), 1, 1),
        (answer(b"", status=404), answer(b"", status=404), 0, 0),
    ],
)
def test_of_the_candidate_alone_whatever_the_baseline_does(
    baseline: Exchange, candidate: Exchange, failed: int, over: int
) -> None:
    columns = compare(baseline, candidate)
    assert value(columns, "failures.candidate") == failed
    assert value(columns, "latency.total_over") == over
    assert not compare(baseline, candidate, route=Route(name="r")).applicable["latency.total_over"][0]


def test_delta_is_in_the_scores_own_unit_whatever_the_scores_are() -> None:
    def delta(a: list[object], b: list[object]) -> float | None:
        sides = [answer(items(list("abcd")[: len(some)], some)) for some in (a, b)]
        return value(compare(*sides), "scores.delta")

    assert delta([10, 20, 30], [11, 25, None]) == 3
    assert delta([1.7e308], [-1.7e308]) == -1e150
    assert delta([0, 0], [1.7e308, -1.7e308]) == 0
    assert math.isnan(delta([None], [1]) or 0.0)
    assert math.isnan(delta([], []) or 0.0)
    assert value(compare(GOOD, failure()), "scores.delta") is None


def test_relative_delta_by_definition() -> None:
    rng = random.Random(1)
    levels = [None, "x", True, 0, -1, 1, 2.5, -1e-300, 1.7e308, -1.7e308, 5e-324]

    def listed() -> dict[str, object]:
        ids = rng.sample("abcdefgh", rng.randint(0, 8))
        return dict(zip(ids, rng.choices(levels, k=len(ids)), strict=True))

    sides = [(listed(), listed()) for _ in range(2000)]
    made = [pair(answer(items([*a], [*a.values()])), answer(items([*b], [*b.values()]))) for a, b in sides]
    columns = Comparer([LISTS])(made)
    assert columns.applicable["scores.relative_delta"].all()
    expected = [by_definition(a, b) for a, b in sides]
    np.testing.assert_allclose(columns.values["scores.relative_delta"], expected, atol=1e-12, equal_nan=True)


def by_definition(a: dict[str, object], b: dict[str, object]) -> float:
    deltas = []
    for name in a.keys() & b.keys():
        x, y = a[name], b[name]
        if type(x) in (int, float) and type(y) in (int, float):
            p, q = Fraction(x), Fraction(y)  # type: ignore[arg-type]
            deltas.append((q - p) / (abs(p) + abs(q)) if p or q else Fraction(0))
    return float(sum(deltas) / len(deltas)) if deltas else math.nan


@pytest.mark.parametrize(
    "scores",
    ["response.body.items[*].score", "response.body.items[].score", "map(&score, response.body.items)"],
)
def test_a_null_score_stays_with_its_item(scores: str) -> None:
    route = Route(name="r", ids="response.body.items[*].id", scores=scores)
    a = answer({"items": [{"id": 1}, {"id": 2, "score": None}, {"id": 3, "score": 1}, {"id": 4, "score": "1"}]})
    b = answer(items(["4", "3", "2"], [1, 3, 5]))
    assert value(compare(a, b, route=route), "scores.relative_delta") == pytest.approx(0.5)


def test_scores_of_another_length_are_a_bad_body() -> None:
    route = Route(name="r", ids="response.body.ids", scores="response.body.scores")
    whole = answer({"ids": ["a", "b"], "scores": [1, 2]})
    for short in ({"ids": ["a", "b"], "scores": [1]}, {"ids": ["a"], "scores": [1, 2]}, {"ids": ["a"]}):
        assert compare(whole, answer(short), route=route).failure[Side.CANDIDATE] == ("bad_body",)


def test_ids_are_the_same_item_as_number_or_text_and_duplicates_count_once() -> None:
    a = answer(items([1, 2, "3"], [1, 2, 3]))
    b = answer(items(["1", "1", 2.0, 3], [1, 9, 2, 3]))
    columns = compare(a, b)
    assert value(columns, "ranking.rbo") == pytest.approx(1)
    assert value(columns, "ranking.length") == 0
    assert value(columns, "scores.relative_delta") == 0
