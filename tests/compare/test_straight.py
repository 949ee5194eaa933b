"""Ids and scores read straight are those that the long way finds, or it is the long way that is taken."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from compare.bodies import ODD, bodies
from compare.samples import LISTS, A, B, answer, pair
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shadowproxy.compare.extraction.answer import spelled
from shadowproxy.compare.extraction.bodies import BodyError, decode
from shadowproxy.compare.extraction.extract import Expression, ExtractError
from shadowproxy.compare.extraction.readings import LONGEST, ids_of, scores_of
from shadowproxy.compare.extraction.straight import Listed, StraightRead, straight_read
from shadowproxy.compare.reader import RouteReader
from shadowproxy.config import Route

Paths = tuple[str | None, str | None]
PATHS: dict[str, Paths] = {
    "items": ("items[*].id", "items[*].score"),
    "flattened": ("items[].id", "items[].score"),
    "columns": ("ids", "score"),
    "columns[*]": ("ids[*]", "items[].score"),
    "deeper": ("items[*].a.id", "items[*].a.b"),
    "of different depth": ("items[*].a.id", "items[*].score"),
    "below a name": ("a.items[*].id", "a.b"),
    "piped": ("items[*].id | @", "items | [*].score"),
    "root": ("[*].id", "[*].score"),
    "root of ids": ("[*]", None),
    "ids alone": ("items[*].id", None),
    "scores alone": (None, "items[*].score"),
}


def compiled(paths: Paths) -> tuple[Expression | None, Expression | None]:
    ids, scores = (
        None if path is None else Expression(f"response.body{'' if path[0] == '[' else '.'}{path}", aligned=True)
        for path in paths
    )
    return ids, scores


COMPILED = {name: compiled(paths) for name, paths in PATHS.items()}


def straight(name: str) -> StraightRead:
    read = straight_read(*COMPILED[name])
    assert read is not None
    return read


def long_way(name: str, body: bytes) -> Any:
    """The columns, or the kind of fault."""
    ids, scores = COMPILED[name]
    try:
        document = {"response": {"body": decode(b"", body)}}
        found = None if ids is None else ids_of(ids(document))
        values = None if scores is None else scores(document)
        length = len(found) if found is not None else len(values) if isinstance(values, list) else 0
        return Listed(found, None if scores is None else list(map(float, scores_of(values, length))))
    except (BodyError, ExtractError) as error:
        return error


@settings(max_examples=600, deadline=None)
@given(st.lists(bodies, min_size=1, max_size=3))
@example([b'{"items": [{"id": "a", "score": 1}, {"id": "b", "score": -0.5}]}'])
@example([b'{"items": [{"id": 1, "score": 9007199254740993}]}', b'{"items": [{"id": "1", "score": 1e308}]}'])
@example([b'{"items": [{"id": 1.0, "score": 0}]}', b'{"items": [{"id": 18446744073709551615, "score": true}]}'])
@example([b'{"items": [{"id": 1, "id": "2", "score": 3, "score": 4}], "items": [{"id": "x", "score": 1}]}'])
@example([b'{"items": null}', b'{"items": []}', b"[]"])
def test_the_same_is_found_or_nothing(texts: list[bytes]) -> None:
    for name in COMPILED:
        read = straight(name)  # (of all of them, one after the other: what came before must not matter)
        for body in texts:
            found = read(b"", body)
            if found is not None:
                assert _spelled(found) == repr(long_way(name, body)), (name, body)


def _spelled(found: Listed) -> str:
    return repr(Listed(None if found.ids is None else spelled(found.ids), _floats(found.scores)))


def _floats(scores: list[float] | None) -> list[float] | None:
    assert scores is None or all(type(score) is float for score in scores)
    return scores


@pytest.mark.parametrize("value", ODD, ids=lambda value: ascii(value[:12]) + f" {len(value)}")
@pytest.mark.parametrize("key", ["id", "score", "other"])
def test_odd_values(key: str, value: bytes) -> None:
    fields = {"id": b'"a"', "score": b"2", "other": b"0"} | {key: value}
    body = b'{"items": [{%s}]}' % b", ".join(b'"%s": %s' % (name.encode(), text) for name, text in fields.items())
    found = straight("items")(b"", body)
    assert found is None or _spelled(found) == repr(long_way("items", body))


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("items", {"items": [{"id": "a", "score": 1, "more": {}}]}, Listed(["a"], [1.0])),
        ("items", {"items": [{"id": 2**63 - 1, "score": 0.5}]}, Listed([2**63 - 1], [0.5])),
        ("items", {"items": []}, Listed([], [])),
        ("columns", {"ids": ["a", "b"], "score": [1, 2]}, Listed(["a", "b"], [1.0, 2.0])),
        ("deeper", {"items": [{"a": {"id": 1, "b": 2}}]}, Listed([1], [2.0])),
        ("root", [{"id": "x", "score": 0}], Listed(["x"], [0.0])),
        ("ids alone", {"items": [{"id": "x"}]}, Listed(["x"], None)),
        ("scores alone", {"items": [{"score": 3}]}, Listed(None, [3.0])),
    ],
)
def test_plain_bodies_are_read(name: str, body: Any, expected: Listed) -> None:
    assert straight(name)(b"", orjson.dumps(body)) == expected


@pytest.mark.parametrize(
    "body",
    [
        {"items": [{"id": "a"}]},
        {"items": [{"id": "a", "score": None}]},
        {"items": [{"id": "a", "score": "1"}]},
        {"items": [{"id": "a", "score": 1}, {"id": 1, "score": 1}]},
        {"items": [None]},
        {"items": {}},
        [],
    ],
    ids=str,
)
def test_others_take_the_long_way(body: Any) -> None:
    assert straight("items")(b"", orjson.dumps(body)) is None


def test_a_list_that_is_too_long_takes_the_long_way() -> None:
    body = {"items": [{"id": at, "score": 0} for at in range(LONGEST + 1)]}
    assert straight("items")(b"", orjson.dumps(body)) is None
    body["items"].pop()
    assert straight("items")(b"", orjson.dumps(body)) is not None


def test_columns_of_different_lengths_take_the_long_way() -> None:
    assert straight("columns")(b"", b'{"ids": ["a", "b"], "score": [1]}') is None


@pytest.mark.parametrize(
    "paths",
    [
        ("items[?a].id", "items[*].score"),
        ("items[0:1].id", "items[*].score"),
        ("groups[*].items[*].id", None),
        ("groups[].items[].id", None),
        ("items[0].id", None),
        ("ids || items[*].id", None),
        ("keys(items)", None),
        ("*.id", None),
        ("items[*].id", "items[*].id"),
        ("items[*].id", "items"),
        ("items[*].id", "items[*].id.score"),
        ('items[*]."é"', None),
        (None, None),
    ],
    ids=str,
)
def test_what_is_no_plain_path_is_not_read_straight(paths: Paths) -> None:
    assert straight_read(*compiled(paths)) is None


@pytest.mark.parametrize("text", ["request.body.ids", "response.headers.ids", "response.status", "response", "@"])
def test_what_looks_elsewhere_is_not_read_straight(text: str) -> None:
    assert straight_read(Expression(text, aligned=True), None) is None


ROUTES = (
    LISTS,
    Route(name="in-request", ids="request.body.ids", scores="response.body.items[*].score"),
    Route(name="by-place", scores="response.body.items[*].score"),
)


@settings(max_examples=200, deadline=None)
@given(bodies, bodies)
@example(b'{"items": [{"id": "a", "score": 1}, {"id": "a", "score": 2}]}', b'{"items": []}')
def test_a_route_reads_the_same_either_way(baseline: bytes, candidate: bytes) -> None:
    one = answer(baseline)
    asked = pair(one, answer(candidate), body={"ids": ["a", "b"]}, annotations={"truth": ["a"]})
    for route in ROUTES:
        short, long = RouteReader(route), RouteReader(route)
        assert short._straight is not None
        long._straight = None
        found, expected = short.read(asked), long.read(asked)
        assert found.failure == expected.failure
        for side in (A, B):
            assert repr(_plain(found.answers[side].ranking)) == repr(_plain(expected.answers[side].ranking))


def _plain(ranking: Any) -> Any:
    return ranking and (spelled(ranking.ids), ranking.scores and list(map(float, ranking.scores)))
