"""What is found in answers of no known protocol, and how it is said: guesses hold, outlines are whole."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from compare.samples import answer
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowproxy.compare.extraction.extract import Expression
from shadowproxy.compare.inspecting.captures import body_alone, capture, pair_of, request_of
from shadowproxy.compare.inspecting.findings import described
from shadowproxy.compare.inspecting.guessing import guess
from shadowproxy.compare.inspecting.inspection import given_keys, inspect
from shadowproxy.compare.inspecting.outline import outline
from shadowproxy.config import Route, loads
from shadowproxy.config.written import as_yaml
from shadowproxy.model import Exchange, Outcome, Pair, Request, Side

KEYS = st.sampled_from(
    ["id", "_id", "item_id", "score", "scores", "ids", "items", "label", "labels", "probabilities", "text", "name",
     "a b", "é", "${X}", 'q"', "", "predictions", "value", "hits", "choices", "message", "docs", "response", "data"]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(0, 1) | st.text("ab \x1b", max_size=3)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)


def seen(body: Any, request: Any = None) -> Any:
    asked = None if request is None else request_of(orjson.dumps(request))
    return inspect([(pair_of(asked, answer(body)), Side.BASELINE)])


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"items": [{"id": 1, "score": 0.9}, {"id": 2, "score": 0.5}]}, ("body.items[*].id", "body.items[*].score")),
        ([{"doc_id": "a", "relevance": 1}], ("body[*].doc_id", "body[*].relevance")),
        # The longer list, and the one with scores, is the ranking.
        (
            {"filters": [{"id": "x"}], "rows": [{"userId": 1, "x": 0.9}, {"userId": 2, "x": 0.8}]},
            ("body.rows[*].userId", "body.rows[*].x"),
        ),
        # An id that repeats is none; one that is missing somewhere neither.
        ({"r": [{"id": 1, "sku": "a"}, {"id": 1, "sku": "b"}]}, ("body.r[*].sku", None)),
        ({"r": [{"id": 1, "sku": "a"}, {"sku": "b"}]}, ("body.r[*].sku", None)),
        # Rising integers are no scores.
        ({"r": [{"id": 4, "year": 1999}, {"id": 5, "year": 1998}]}, ("body.r[*].id", None)),
        ({"ids": ["a", "b"], "scores": [0.5, 0.1]}, ("body.ids", "body.scores")),
        ({"ids": ["a", "b"], "scores": [0.5]}, ("body.ids", None)),
        ({"recommendations": [3, 1, 2]}, ("body.recommendations", None)),
        ({"predictions": [0.3, 0.7, 0.9]}, (None, "body.predictions")),
        ({"data": [{"hits": [{"key": "a"}, {"key": "b"}]}]}, ("body.data[0].hits[*].key", None)),
        ({"a b": [{"id": 1}, {"id": 2}]}, ('body."a b"[*].id', None)),
        ([{"label": "POS", "score": 0.9}, {"label": "NEG", "score": 0.1}], ("body[*].label", "body[*].score")),
    ],
    ids=str,
)
def test_a_ranking_is_guessed(body: Any, found: tuple[str | None, str | None]) -> None:
    expected = {key: f"response.{text}" for key, text in zip(("ids", "scores"), found, strict=True) if text}
    assert guess(body) == expected


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"label": "spam"}, {"label": "body.label"}),
        ({"label": 3, "message": "done"}, {"label": "body.label"}),
        ({"result": {"predicted_class": True}}, {"label": "body.result.predicted_class"}),
        ({"predictions": ["a", "b", "a"]}, {"label": "body.predictions"}),
        (
            {"class": "a", "probabilities": {"a": 0.75, "b": 0.25}},
            {"label": "body.class", "probabilities": "body.probabilities"},
        ),
        ({"probabilities": [[0.5, 0.5], [0.1, 0.9]]}, {"probabilities": "body.probabilities"}),
        ({"probabilities": [0.5, 0.6]}, {}),
        ({"generated_text": "Hi"}, {"text": "body.generated_text"}),
        ([{"generated_text": "Hi"}], {"text": "body[0].generated_text"}),
        ({"status": "ok"}, {}),
        ({"label": 0.5}, {}),
        ({"label": ""}, {}),
        ({"text": ""}, {}),
        ([], {}),
        (7, {}),
        (None, {}),
    ],
    ids=str,
)
def test_labels_probabilities_and_texts_are_guessed(body: Any, found: dict[str, str]) -> None:
    assert guess(body) == {key: f"response.{text}" for key, text in found.items()}


def test_ids_may_stand_in_the_request() -> None:
    for asked, path in (
        ({"candidates": ["x", "y"]}, "request.body.candidates"),
        ({"items": [{"id": 1}, {"id": 2}]}, "request.body.items[*].id"),
        ([3, 4], "request.body"),
    ):
        assert guess({"out": [0.1, 0.9]}, asked) == {"ids": path, "scores": "response.body.out"}
    assert guess({"out": [0.1, 0.9]}, {"candidates": ["x", "y", "z"]}) == {}


@settings(max_examples=300)
@given(body=JSON, request=st.none() | JSON)
def test_a_proposal_finds_what_it_was_made_for_and_can_be_pasted(body: Any, request: Any) -> None:
    found = seen(body, request)
    assert found.outline is not None
    if found.route is None:
        assert found.found == 0
        return
    upstreams = {"baseline": "http://a", "candidate": "http://b"}
    written = as_yaml({**upstreams, "routes": [given_keys(found.route)]})
    assert loads(written, environ={}).routes == (found.route,)
    assert written.isascii()
    if not found.detected:
        assert [one for one in found.findings if not one.good] == []
        assert (found.found, found.failed) == (1, {})


@settings(max_examples=200)
@given(JSON)
def test_an_outline_has_every_value_under_a_path_that_finds_it(body: Any) -> None:
    made = outline(body, "body")
    assert not made.cut
    total = 0
    for line in made.lines:
        values = [Expression(line.path)({"body": body})]
        for _ in range(line.path.count("[*]")):
            values = [inner for value in values if value is not None for inner in value]
        kept = [value for value in values if value is not None]
        assert len(kept) == sum(line.types.values()) - line.types["null"]
        total += sum(line.types.values())
    assert total == _values(body)


def _values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_values, inner))


@pytest.mark.parametrize(
    "body",
    [{f"k{at}": at for at in range(1000)}, [[0] * 1000] * 1000, orjson.loads(b"[" * 1000 + b"]" * 1000),
     [{f"k{at}": at} for at in range(1000)]],
    ids=["keys", "values", "depth", "paths"],
)  # fmt: skip
def test_a_large_document_is_cut(body: Any) -> None:
    made = outline(body, "body")
    assert made.cut
    assert len(made.lines) <= 200
    assert sum(sum(line.types.values()) for line in made.lines) <= 200_000
    assert isinstance(guess(body), dict)


ROUTE = Route(name="r", ids="response.body.items[*].id", scores="response.body.items[*].score")


@pytest.mark.parametrize(
    ("key", "expression", "body", "says"),
    [
        ("ids", "body.a.b", {"a": {}}, "nothing: `body.a.b` is not there; there is nothing"),
        ("ids", "body.a.b", {"a": {"c": 1, "d": 2}}, 'nothing: `body.a.b` is not there; there are "c", "d"'),
        ("ids", "body.a.b", {"a": {"b": None}}, "nothing: `body.a.b` is null"),
        ("ids", "body.a.b", {"a": [1]}, "nothing: `body.a.b`: `body.a` is list of 1"),
        ("ids", "body.a[3].id", {"a": [1]}, "nothing: `body.a[3]`: `body.a` is list of 1"),
        ("ids", 'body."ä b"', {"a": 1}, 'nothing: `body."ä b"` is not there; there is "a"'),
        ("ids", "body.a || body.b", {}, "nothing: the expression gives null"),
        ("ids", "body.a", {"a": "x"}, 'string "x", where a list belongs'),
        ("ids", "body.a", {"a": []}, "0 ids"),
        ("ids", "body.a", {"a": [1, "1", 2]}, '3 ids: "1", "1", "2"; 1 repeated, of which the first counts'),
        ("ids", "body.a", {"a": [1, 0.5]}, "element 1 is number 0.5, which is no id"),
        ("scores", "body.a", {"a": [None, True]}, "2 numbers; 2 undefined"),
        ("scores", "body.a", {"a": {}}, "object of 0, where a list belongs"),
        ("label", "body.a", {"a": [None, "x"]}, '2 labels: "x"; 1 undefined'),
        ("label", "body.a", {"a": 0.5}, "number 0.5, which can't be used"),
        ("probabilities", "body.a", {"a": {"x": 0.5}}, '1 distribution over 1 label: "x" 0.5'),
        ("probabilities", "body.a", {"a": "x"}, 'string "x", which can\'t be used'),
        ("text", "body.a", {"a": {}}, "object of 0, which can't be used"),
        ("text", "body.a", {"a": "hey"}, '3 characters: "hey"'),
        ("truth", "body.a", {"a": ["x"]}, '1 id or label: "x"'),
        ("account", "body.a", {"a": 7}, "account 7"),
        ("account", "body.a", {"a": [7]}, "list of 1, which can't be used"),
        ("cohorts.x", "body.a", {"a": True}, '"true"'),
    ],
)  # fmt: skip
def test_what_an_expression_finds_is_said(key: str, expression: str, body: Any, says: str) -> None:
    document = {"body": body}
    found = described(key, expression, Expression(expression)(document), document)
    assert found.says == says
    assert found.good == (not says.startswith("nothing") and "can't" not in says and "belongs" not in says
                          and "no id" not in says)  # fmt: skip


def test_lists_that_do_not_stand_side_by_side() -> None:
    assert described("scores", "body", [1], {}, ids=["a", "b"]).says == (
        "1 value for 2 ids: they don't stand side by side"
    )


def test_of_several_answers_it_is_counted_where_something_is_found() -> None:
    good, bad = answer({"items": [{"id": 1, "score": 2}]}), answer(b"{")
    exchanges = [Exchange(Outcome.TIMEOUT), bad, good, answer(status=204), answer({}, status=404)]
    found = inspect([(pair_of(None, exchange), Side.BASELINE) for exchange in exchanges], ROUTE)
    assert (found.answers, found.found) == (5, 1)
    assert found.failed == {"timeout": 1, "bad_body": 1, "not_compared": 2}
    # The first with a body is the one that is shown.
    assert found.fault == "bad_body"


def test_a_side_is_looked_at_on_its_own() -> None:
    good = answer({"items": [{"id": 1, "score": 2}]})
    pair = Pair("id", 0.0, Request("GET", "/"), answer({}, status=500), good)
    assert inspect([(pair, Side.CANDIDATE)], ROUTE).found == 1
    assert inspect([(pair, Side.BASELINE)], ROUTE).failed == {"http_5xx": 1}


@settings(max_examples=300)
@given(
    st.binary(max_size=100)
    | st.lists(
        st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"HTTP/2 100\n", b"Content-Encoding: gzip\r\n", b"\r\n", b"\n",
                         b"{}",
                         b'{"request":1,"baseline":2,"candidate":3}', b"Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n",
                         b"0\r\n\r\n", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"[",
                         b"data: {}\n\n", b"POST / HTTP/1.1\r\n"]),
        max_size=8,
    ).map(b"".join)
)  # fmt: skip
def test_any_file_is_looked_into(data: bytes) -> None:
    found = capture(data)
    assert found.form in ("response", "body", "lines", "pairs")
    assert bool(found.exchanges) == (found.form != "pairs")
    answers = [(pair_of(request_of(data), exchange), Side.BASELINE) for exchange in found.exchanges]
    if answers:
        inspect(answers)
        inspect(answers, ROUTE)


def test_a_body_that_only_begins_like_a_chunked_one_is_left() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    for body in (b"5\r\nab\r\n0\r\n\r\n", b"zz\r\n{}", b"2\r\n{}\r\n", b"", b"2\r\n{}", b"2\r\n{}XX0\r\n\r\n"):
        assert capture(head + body).exchanges[0].body == body
    assert capture(head + b"2\r\n{}\r\n0\r\nTrailer: x\r\n\r\n").exchanges[0].body == b"{}"


def test_a_request_is_its_body_or_raw() -> None:
    assert request_of(b'{"a": 1}') == Request("POST", "/", b"", b'{"a": 1}', 8)
    raw = b"PUT /x?y HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n{}"
    assert request_of(raw) == Request("PUT", "/x?y", b"Host: h\r\nA: b", b"{}", 2)


def test_a_body_alone_has_a_good_status() -> None:
    assert body_alone(b"{}") == Exchange(Outcome.OK, 200, b"", b"{}", 2)
