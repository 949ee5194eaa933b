"""The whole, batch by batch: isolation of rows, order, symmetry, and any content at all."""

from __future__ import annotations

import gzip
import math
import random
from typing import Any

import numpy as np
import orjson
import pytest
from compare.samples import LISTS, A, B, answer, failure, items, pair, value
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowproxy.compare.columns import Columns
from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.families.table import FAMILIES
from shadowproxy.config import CATALOGUE, Route
from shadowproxy.model import Exchange, Outcome, Pair, Request, Side

ROUTES = (
    Route(
        name="scored",
        path="/scored",
        ids="request.body.ids",
        scores="response.body.scores",
        truth="annotations.truth",
        account="request.headers.user",
        cohorts={"region": "request.query.region", "kind": "annotations.kind"},
        k=3,
    ),
    Route(
        name="classified",
        path="/classified",
        label="response.body.ids",
        probabilities="response.body.scores || response.body",
        text="response.body.ids[0] || response.body.id",
        finish="response.body.truth[0]",
        truth="annotations.truth || request.body.ids",
    ),
    Route.model_validate(
        {
            "name": "grouped",
            "path": "/grouped",
            "ids": "response.body.groups[].items[].id",
            "rbo_p": 0.5,
            "slow": 0.1,
            "valid": [{"status": [200]}, {"length": {"max": 2}}],
        }
    ),
    Route(
        name="lists",
        path="/**",
        ids="response.body.items[*].id",
        scores="response.body.items[*].score",
        truth="request.body.truth || annotations.truth",
        account="annotations.account",
        cohorts={"odd": "sort_by(request.body.a, &b)[0].c", "size": "length(request.body.truth)"},
        slow=0.5,
    ),
)
COMPARER = Comparer(ROUTES)

scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "score", "items", "groups", "ids", "scores", "truth", "a", "b"]), inner
        )
    ),
    max_leaves=12,
)
ids = st.lists(st.sampled_from(["a", "b", "c", 1, 2, "1", "2", "longer"]), max_size=6)
good = st.builds(
    lambda names, levels: {
        **items(names, [level for level, _ in zip(levels * 6, names, strict=False)]),
        "groups": [items(names), {}],
        "scores": [level for level, _ in zip(levels * 6, names, strict=False)],
        "ids": names,
        "truth": names[:2],
    },
    ids,
    st.lists(st.sampled_from([0, 1, -1.5, 2.0, None]), min_size=1, max_size=6),
)
bodies = st.one_of(
    good.map(orjson.dumps),
    good.map(orjson.dumps),
    anything.map(lambda value: orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS)),
    st.binary(max_size=40),
    st.binary(max_size=20).map(gzip.compress),
    st.sampled_from(
        [b"", b"[NaN]", b'{"items": [{"id": NaN}]}', b'["\xff"]', b'{"items":' + b"[" * 1500, b"\xef\xbb\xbf{}"]
    ),
)
heads = st.sampled_from(
    [b"", b"", b"Content-Encoding: gzip\r\n", b"content-encoding: br\r\n", b"user: u1\r\n", b":\r\n\xff: \xff\r\nnone"]
)
times = st.sampled_from([0.0, 0.01, 0.3, 1.0, -1.0, math.inf, math.nan, 1e308])
exchanges = st.builds(
    lambda outcome, status, head, body, more, ttfb, total: Exchange(
        outcome, status, head, body, len(body) + more, ttfb=ttfb, total=total
    ),
    st.sampled_from([*[Outcome.OK] * 8, *Outcome]),
    st.sampled_from([200, 200, 200, 200, 200, 204, 301, 400, 404, 500, 0, -1, 10**6]),
    heads,
    bodies,
    st.sampled_from([0, 0, 0, 0, 1]),
    times,
    times,
)
pairs_of_any_kind = st.builds(
    lambda started, method, target, head, body, baseline, candidate, annotations, replica: Pair(
        "id", started, Request(method, target, head, body, len(body)), baseline, candidate, replica, annotations
    ),
    st.floats(),
    st.sampled_from(["GET", "HEAD", "POST", ""]),
    st.sampled_from(
        [
            "/scored?region=us",
            "/scored?region=%00%ff&a",
            "/grouped",
            "/classified",
            "/classified",
            "/",
            "",
            "*",
            "http://h/x",
            "\x00?\udcff",
        ]
    ),
    heads,
    bodies,
    exchanges,
    exchanges,
    bodies,
    st.none() | exchanges,
)


def row(columns: Columns, at: int) -> Any:
    """All that a batch says of one pair, fit for comparison (NaN equals NaN in repr)."""
    return (
        repr(columns.started[at]),
        columns.route[at],
        columns.cohorts[at],
        columns.account[at],
        {name: repr(column[at]) for name, column in columns.values.items()},
        {name: column[at] for name, column in columns.applicable.items()},
        {side: (columns.failed[side][at], columns.failure[side][at]) for side in (A, B)},
        {side: (columns.ttfb[side][at], columns.total[side][at]) for side in (A, B)},
    )


def test_the_catalogue_is_what_is_computed() -> None:
    columns = COMPARER([])
    assert set(columns.values) == set(columns.applicable) == set(CATALOGUE)
    assert len(columns) == 0
    assert len(FAMILIES) == len({name.split(".")[0] for name in CATALOGUE})


@pytest.mark.parametrize(
    "offers",
    [set(), {"ids"}, {"slow"}, {"ids", "scores"}, {"ids", "truth"}, {"ids", "scores", "truth", "slow"}],
    ids=lambda offers: "+".join(sorted(offers)) or "nothing",
)
def test_what_is_applicable_is_what_the_catalogue_says_a_route_offers(offers: set[str]) -> None:
    parts = {name: part for name, part in LISTS.model_dump().items() if name in offers}
    route = Route(name="r", **parts)
    assert route.offers == offers
    good = answer(items(["a", "b"], [2, 1]))
    columns = Comparer([route])([pair(good, good, annotations={"truth": ["a"]})])
    for name, metric in CATALOGUE.items():
        assert bool(columns.applicable[name][0]) == (metric.needs <= route.offers and not metric.replicated), name
        assert bool(np.isnan(columns.values[name][0])) != bool(columns.applicable[name][0]), name


@settings(max_examples=150, deadline=None)
@given(st.lists(pairs_of_any_kind, max_size=6), st.randoms(use_true_random=False))
def test_any_content_is_compared_and_changes_no_other_row(pairs: list[Pair], rng: random.Random) -> None:
    whole = COMPARER(pairs)
    alone = [row(COMPARER([made]), 0) for made in pairs]
    assert [row(whole, at) for at in range(len(pairs))] == alone
    order = list(range(len(pairs)))
    rng.shuffle(order)
    shuffled = COMPARER([pairs[at] for at in order])
    assert [row(shuffled, at) for at in range(len(pairs))] == [alone[at] for at in order]


@settings(max_examples=150, deadline=None)
@given(pairs_of_any_kind)
def test_values_are_in_the_catalogues_range_and_undefined_only_where_they_may_be(made: Pair) -> None:
    columns = COMPARER([made])
    may_be_undefined = {
        "ranking.kendall",
        "ranking.spearman",
        "ranking.weighted_tau",
        "ranking.ndcg",
        "ranking.displacement",
        "scores.relative_delta",
        "scores.relative_change",
        "scores.undefined",
        "scores.delta",
        "scores.noise",
    }
    may_be_undefined |= {"labels.agreement", "labels.probability_shift"}
    may_be_undefined |= {f"{name}_excess" for name in may_be_undefined} | {"fields.excess"}
    shared_ids = columns.route[0] == 0
    for name, metric in CATALOGUE.items():
        found = columns.values[name][0]
        if not columns.applicable[name][0]:
            assert math.isnan(found)
        elif math.isnan(found):
            assert name in may_be_undefined or (shared_ids and metric.needs), name
        else:
            assert metric.low <= found <= metric.high, name
    for side in (A, B):
        assert bool(columns.failure[side][0]) == bool(columns.failed[side][0])
        for column in (columns.ttfb[side], columns.total[side]):
            assert column[0] >= 0
            assert column[0] == math.inf or not columns.failed[side][0]


SYMMETRIC = {
    "ranking.rbo",
    "ranking.top1",
    "ranking.kendall",
    "ranking.spearman",
    "ranking.weighted_tau",
    "ranking.displacement",
    "scores.relative_change",
} | ({name for name in CATALOGUE if name.startswith(("labels.", "text."))} - {"text.length"})
BEYOND_NOISE = {name for name, metric in CATALOGUE.items() if metric.replicated}
"""Of these it is baseline and replica that may change places."""
SYMMETRIC -= BEYOND_NOISE
ALONE = {
    "failures.candidate": "failures.difference",
    "latency.total_over": "latency.total_slow",
    "validity.candidate": "validity.violations",
}
"""What only the candidate's answer says, with the difference of that between the sides."""
ANTISYMMETRIC = set(CATALOGUE) - SYMMETRIC - {"ranking.overlap", "ranking.ndcg", "ranking.new"} - set(ALONE)
ANTISYMMETRIC -= BEYOND_NOISE


@settings(max_examples=150, deadline=None)
@given(pairs_of_any_kind)
def test_swapping_the_sides_swaps_the_result(made: Pair) -> None:
    swapped = Pair(
        made.id, made.started, made.request, made.candidate, made.baseline, made.replica, annotations=made.annotations
    )
    there, back = COMPARER([made]), COMPARER([swapped])
    assert there.failure[A] == back.failure[B]
    assert there.failure[B] == back.failure[A]
    for name in CATALOGUE:
        assert there.applicable[name] == back.applicable[name]
        if name in SYMMETRIC:
            np.testing.assert_allclose(there.values[name], back.values[name], atol=1e-12)
        if name in ANTISYMMETRIC:
            np.testing.assert_allclose(there.values[name], -back.values[name], atol=1e-12)
        if name in ALONE:
            np.testing.assert_array_equal(there.values[name] - back.values[name], there.values[ALONE[name]])


def test_the_batch_can_be_large_and_mixed() -> None:
    rng = random.Random(1)
    pool = [f"i{at}" for at in range(40)]
    made = []
    for _ in range(3000):
        a, b = (rng.sample(pool, rng.randint(0, 30)) for _ in range(2))
        sides = [answer(items(names, [rng.random() for _ in names])) for names in (a, b)]
        if rng.random() < 0.1:
            sides[rng.randrange(2)] = failure()
        target = rng.choice(["/scored", "/grouped", "/lists", "/classified"])
        made.append(pair(*sides, target=target, annotations={"truth": rng.sample(pool, 3)}))
    whole = COMPARER(made)
    for at in rng.sample(range(3000), 200):
        assert row(whole, at) == row(COMPARER([made[at]]), 0)


def test_long_lists_are_compared_in_parts_and_put_together_in_order() -> None:
    rng = random.Random(2)
    pool = [f"i{at}" for at in range(3000)]
    made = []
    for at in range(40):
        sides = [answer(items(names, [rng.random() for _ in names])) for names in (rng.sample(pool, 2000), pool[:2000])]
        if at % 7 == 3:
            sides[at % 2] = failure()
        made.append(pair(*sides, target=f"/lists?{at}", annotations={"account": at, "truth": pool[:2]}))
    whole = COMPARER(made)
    assert [row(whole, at) for at in range(40)] == [row(COMPARER([one]), 0) for one in made]


def test_cohorts_and_accounts() -> None:
    route = Route(
        name="r",
        account="request.headers.user",
        cohorts={"region": "request.query.region", "new": "annotations.new", "age": "annotations.age"},
    )
    good = answer({})
    made = [
        pair(good, good, target="/?region=us", head=b"User: 7\r\n", annotations={"new": True, "age": 3}),
        pair(good, good, target="/?region=a%00b%0a" + "x" * 100, annotations={"new": ["x"], "age": {}}),
        pair(good, good, target="/?region=", head=b"user: 7\r\nuser: 8\r\n", annotations={"new": None, "age": 1.5}),
        pair(good, good, annotations=b"\xff", head=b"User: 8\r\n"),
    ]
    columns = Comparer([route])(made)
    assert columns.cohorts == (("region=us", "new=true", "age=3"), ("region=a_b_" + "x" * 60,), (), ())
    first, second, third, fourth = columns.account.tolist()
    assert first == third != fourth
    assert second == 0
    assert columns.account.dtype == np.uint64


def test_an_account_is_the_same_as_number_or_text() -> None:
    route = Route(name="r", account="annotations.a")
    made = [pair(answer(), answer(), annotations={"a": given}) for given in (12, "12", "", None, True, [12])]
    accounts = Comparer([route])(made).account.tolist()
    assert accounts[0] == accounts[1] != 0
    assert accounts[2:] == [0, 0, 0, 0]


def test_cohorts_do_not_depend_on_the_answers() -> None:
    route = Route(name="r", ids="response.body", cohorts={"c": "annotations.c"}, account="response.body[0]")
    sides = [answer(["a"]), answer(b"<"), failure(), answer(b"", status=404)]
    columns = Comparer([route])([pair(a, b, annotations={"c": 1}) for a in sides for b in sides])
    assert set(columns.cohorts) == {("c=1",)}
    assert not columns.account.any()


def test_the_truth_may_stand_in_the_request_and_never_in_the_response() -> None:
    good = answer({**items(["a"]), "truth": ["a"]})
    by_request = Route(name="r", ids="response.body.items[*].id", truth="request.body.truth")
    columns = Comparer([by_request])([pair(answer(items([])), good, body={"truth": "a"})])
    assert value(columns, "quality.recall") == 1
    by_response = Route(name="r", ids="response.body.items[*].id", truth="response.body.truth")
    assert value(Comparer([by_response])([pair(good, good)]), "quality.recall") is None


def test_a_request_body_that_was_not_captured_whole_is_null() -> None:
    route = Route(name="r", cohorts={"c": "request.body.c"})
    made = pair(answer(), answer(), body={"c": 1})
    cut = Request("POST", "/", b"", made.request.body, made.request.body_size + 1)
    columns = Comparer([route])([made, Pair("id", 1.0, cut, made.baseline, made.candidate)])
    assert columns.cohorts == (("c=1",), ())


@pytest.mark.parametrize("text", ["9" * 400, "9" * 4300, "1e400", "-1e400", "nan", "inf", "1e308"])
def test_numbers_that_an_expression_makes_may_be_beyond_any_float(text: str) -> None:
    route = Route(
        name="r",
        ids="map(&to_number(@), response.body.ids)",
        scores="map(&to_number(@), response.body.scores)",
        truth="{a: to_number(annotations.n), b: sum([to_number(annotations.n), to_number(annotations.n)])}",
        account="sum([to_number(annotations.n), to_number(annotations.n)])",
        cohorts={"c": "sum([to_number(annotations.n), to_number(annotations.n)])"},
    )
    small = answer({"ids": ["1", "2"], "scores": ["1", "2"]})
    odd = answer({"ids": ["1", "2"], "scores": [text, "2"]})
    worse = answer({"ids": [text, "2"], "scores": ["1", "2"]})
    columns = Comparer([route])([pair(small, odd, annotations={"n": text}), pair(odd, worse, annotations={"n": text})])
    assert columns.failure == {A: ("", ""), B: ("", "bad_body")}
    expected = 0.0 if text != "1e308" else 0.5
    assert value(columns, "scores.relative_delta") == pytest.approx(expected)


def test_the_replica_is_left_alone() -> None:
    good = answer(items(["a"]))
    made = Pair("id", 1.0, Request("GET", "/"), good, good, replica=failure())
    columns = Comparer([LISTS])([made])
    assert set(columns.failed) == {Side.BASELINE, Side.CANDIDATE}
    assert value(columns, "ranking.rbo") == pytest.approx(1)
