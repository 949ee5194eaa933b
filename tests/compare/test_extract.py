from __future__ import annotations

import re
from typing import Any

import jmespath
import pytest
from compare.samples import answer, pair

from shadowproxy.compare.extraction.documents import request_document, response_document
from shadowproxy.compare.extraction.extract import Expression, ExtractError

BODY = {
    "items": [{"id": "a", "s": 1, "t": ["x"]}, {"id": "b", "s": None}, {"id": None, "s": 3}, {"s": 4}, "junk", None],
    "groups": [{"items": [{"id": 1, "s": 1}]}, {}, {"items": None}, {"items": [{"id": 2}, {"id": 3, "s": 9}]}],
    "by_name": {"x": {"s": 1}, "y": {}, "z": 5},
    "rows": [[1, 2], [3], [], None],
    "flat": [1, None, 3],
    "empty": [],
}


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("items[*].id", ["a", "b", None, None, None, None]),
        ("items[*].s", [1, None, 3, 4, None, None]),
        ("items[].s", [1, None, 3, 4, None, None]),
        ("items[*].s | reverse(@)", [None, None, 4, 3, None, 1]),
        ("reverse(items[*].s)", [None, None, 4, 3, None, 1]),
        ("items[1:4].s", [None, 3, 4]),
        ("items[?id].s", [1, None]),
        ("items[?t[0]=='x'].s", [1]),
        ("items[*].t[0]", ["x", None, None, None, None, None]),
        ("items[*].[s][]", [1, None, 3, 4, None, None]),
        ("groups[].items[].s", [1, None, 9]),
        ("groups[*].items[].id", [1, 2, 3]),
        ("by_name.*.s", [1, None, None]),
        ("rows[*][0]", [1, 3, None, None]),
        ("rows[]", [1, 2, 3, None]),
        ("flat[*]", [1, None, 3]),
        ("flat", [1, None, 3]),
        ("missing[*].id || items[:2].id", ["a", "b"]),
        ("map(&s, items[:2])", [1, None]),
        ("empty[*].id", []),
        ("missing[*].id", None),
        ("max(groups[].items[].s)", 9),
    ],
)
def test_aligned_projections_keep_every_place(expression: str, result: Any) -> None:
    assert Expression(expression, aligned=True)(BODY) == result


@pytest.mark.parametrize(
    "expression",
    [
        "items[*].id",
        "items[].s",
        "groups[].items[].s",
        "groups[*].items[*].s",
        "items[?id].s",
        "by_name.*.s",
        "rows[]",
        "rows[][]",
        "rows[*][0]",
        "flat[*]",
        "items[0:2].t[]",
        "missing || flat",
        "empty || items[0].id",
        "by_name.z || `0`",
        "length(items[*].id)",
        "items[?s > `2`] | [0].s",
        "sort_by(groups[].items[], &id)[*].id",
        "{a: items[0].id, b: flat[-1]}",
        "by_name.x.s.deeper",
        "@",
        "items[*].{i: id}",
        "!missing && items[0].s",
        "keys(by_name)",
    ],
)
def test_the_standard_reading_is_jmespaths(expression: str) -> None:
    assert Expression(expression)(BODY) == jmespath.search(expression, BODY)


@pytest.mark.parametrize("value", [None, 1, "text", [], ["text"], [[1]], {}, {"items": {}}, {"items": [[]]}, True])
@pytest.mark.parametrize("expression", ["items[*].id", "items[].id", "items.*.id", "a.b.c", "[0]", "[*].id", "items[]"])
def test_the_standard_reading_is_jmespaths_on_odd_values(expression: str, value: Any) -> None:
    assert Expression(expression)(value) == jmespath.search(expression, value)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("expression", ["length(flat[0])", "sort(items)", "sum(items[*].id)", "items[?id > `1`].s"])
def test_what_jmespath_or_python_refuses_is_one_kind_of_error(expression: str, aligned: bool) -> None:
    with pytest.raises(ExtractError, match="^" + re.escape(expression)):
        Expression(expression, aligned=aligned)(BODY)


@pytest.mark.parametrize(
    ("expression", "reads"),
    [
        ("response.body.items[*].id", {"response.body"}),
        ("request.body.ids", {"request.body"}),
        ("request.body.items[?response].id", {"request.body"}),
        ("map(&to_string(@), request.body.ids)", {"request.body"}),
        ('request.headers."x-user" || annotations.user', {"request.headers", "annotations"}),
        ("response.status", {"response.status"}),
        ("request | keys(@)", {f"request.{part}" for part in ("method", "path", "query", "headers", "body")}),
        ("`1`", set()),
    ],
)
def test_reads(expression: str, reads: set[str]) -> None:
    assert Expression(expression).reads == reads


@pytest.mark.parametrize("expression", ["@", "*.body", "keys(@)", "@.request.body"])
def test_whoever_reads_the_whole_document_reads_every_part(expression: str) -> None:
    assert {"request.body", "response.body", "response.status", "annotations"} <= Expression(expression).reads


def test_the_document() -> None:
    made = pair(
        answer({"a": 1}, status=201, head=b"X-Model: m1\r\nX-Model: m2\r\n"),
        answer(),
        target="/rank/a%20b?x=1&x=2&y=&z=%C3%A9",
        head=b"X-User: u\r\nX-USER: v\r\n",
        body={"q": 1},
        annotations={"cohort": "new"},
    )
    everything = Expression("@").reads
    assert request_document(made, everything) == {
        "request": {
            "method": "POST",
            "path": "/rank/a%20b",
            "query": {"x": "1", "y": "", "z": "é"},
            "headers": {"x-user": "u"},
            "body": {"q": 1},
        },
        "annotations": {"cohort": "new"},
    }
    assert response_document(made.baseline, everything) == {
        "status": 201,
        "headers": {"x-model": "m1"},
        "body": {"a": 1},
    }


def test_only_what_is_read_is_built() -> None:
    made = pair(answer(b"no json"), answer(), body=b"no json", annotations=b"no json")
    assert request_document(made, {"request.method"}) == {"request": {"method": "POST"}}
    assert response_document(made.baseline, {"response.status"}) == {"status": 200}
    assert request_document(made, {"request.body", "annotations"}) == {"request": {"body": None}, "annotations": None}
