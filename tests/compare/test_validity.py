"""Validity: what must hold of any single answer."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest
from compare.samples import answer, failure, pair, value
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.compare.columns import Columns
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Route, experiment_id, frozen, load, loads, thawed
from shadowproxy.config.catalogue import TABLES
from shadowproxy.config.validity import KINDS
from shadowproxy.errors import ConfigError
from shadowproxy.model import Exchange
from shadowproxy.verdict.guardrails.rules import rules as guardrails

TWO = "baseline: http://127.0.0.1:8001\ncandidate: http://127.0.0.1:8002\n"
RANKED = {"ids": "response.body.items[*].id", "scores": "response.body.items[*].score"}
GOOD = {"items": [{"id": "a", "score": 0.9}, {"id": 2, "score": 0.9}, {"id": "c", "score": 0.1}], "total": 3}


def compare(
    a: Any, b: Any, *rules: dict[str, Any], request: Any = b"", replica: Exchange | None = None, **keys: Any
) -> Columns:
    route = Route.model_validate({"name": "r", "valid": rules, **keys})
    sides = [side if isinstance(side, Exchange) else answer(side) for side in (a, b)]
    return Comparer([route])([msgspec.structs.replace(pair(*sides, body=request), replica=replica)])


def broken(columns: Columns) -> dict[str, dict[str, int]]:
    names = TABLES["validity"].columns
    return {
        counts.key: dict(sorted(Counter(names[column] for column in counts.column.tolist()).items()))
        for _, counts in columns.tables
        if counts.table == "validity"
    }


def breaks(body: Any, rule: dict[str, Any], request: Any = b"") -> bool:
    """Whether the candidate's answer breaks the rule; a null body without rules to mind stands on the other side."""
    found = broken(compare(body, body, rule, request=request, **RANKED))
    assert found in ({}, {next(iter(found), ""): {"baseline": 1, "candidate": 1}})
    return bool(found)


def scored(*scores: Any) -> dict[str, Any]:
    return {"items": [{"id": at, "score": score} for at, score in enumerate(scores)]}


def named(*ids: Any) -> dict[str, Any]:
    return {"items": [{"id": name, "score": 1 - at / 10} for at, name in enumerate(ids)]}


OBJECT = {"type": "object", "required": ["total"], "properties": {"total": {"type": "integer", "minimum": 0}}}
LISTS: dict[str, Any] = {"length": {"of": "response.body.x", "min": 1, "max": 2}}


@pytest.mark.parametrize(
    ("rule", "body", "holds"),
    [
        ({"schema": OBJECT}, GOOD, True),
        ({"schema": OBJECT}, {**GOOD, "total": 3.0}, True),
        ({"schema": OBJECT}, {**GOOD, "total": "3"}, False),
        ({"schema": OBJECT}, {**GOOD, "total": -1}, False),
        ({"schema": OBJECT}, named("a"), False),
        ({"schema": False}, GOOD, False),
        ({"schema": {"properties": {"items": {"uniqueItems": True, "maxItems": 2}}}}, GOOD, False),
        ({"schema": {"$ref": "#/$defs/o", "$defs": {"o": OBJECT}}}, GOOD, True),
        # A draft of its own: `items` of a list of schemas is no longer known in 2020-12.
        ({"schema": {"$schema": "http://json-schema.org/draft-07/schema#",
                     "properties": {"items": {"items": [{"required": ["name"]}]}}}}, GOOD, False),
        ({"length": {"min": 3, "max": 3}}, GOOD, True),
        ({"length": {"min": 4}}, GOOD, False),
        ({"length": {"max": 2}}, GOOD, False),
        ({"length": {"max": 2}}, named("a", "a", "a"), False),  # as sent, the copies included
        (LISTS, {**GOOD, "x": []}, False),
        (LISTS, {**GOOD, "x": [None, None]}, True),
        (LISTS, {**GOOD, "x": {"a": 1}}, True),
        (LISTS, {**GOOD, "x": "abc"}, False),
        (LISTS, {**GOOD, "x": 2}, False),
        (LISTS, GOOD, False),
        ({"unique": True}, GOOD, True),
        ({"unique": True}, named(), True),
        ({"unique": True}, named("a", "b", "a"), False),
        ({"unique": True}, named(1, "1"), False),
        ({"unique": "response.body.x"}, {**GOOD, "x": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}, False),
        ({"unique": "response.body.x"}, {**GOOD, "x": [None, True, "null", [], {}]}, True),
        ({"unique": "response.body.x"}, GOOD, False),
        ({"range": {"min": 0, "max": 1}}, GOOD, True),
        ({"range": {"min": 0, "max": 1}}, scored(0, 1), True),
        ({"range": {"min": 0, "max": 1}}, scored(0.5, 1.1), False),
        ({"range": {"min": 0}}, scored(1e300), True),
        ({"range": {"min": 0}}, scored(-0.1), False),
        ({"range": {"min": 0}}, scored(None), False),
        ({"range": {"min": 0}}, scored("1"), False),
        ({"range": {"min": 0}}, scored(True), False),
        ({"range": {"min": 0}}, scored(), True),
        ({"range": {"of": "response.body.total", "max": 3}}, GOOD, True),
        ({"range": {"of": "response.body.total", "max": 2}}, GOOD, False),
        ({"range": {"of": "response.body.none", "max": 2}}, GOOD, False),
        ({"descending": True}, GOOD, True),
        ({"descending": True}, scored(0.1, 0.2), False),
        ({"descending": True}, scored(0.2, None), False),
        ({"descending": True}, scored(), True),
        ({"descending": "response.body.x"}, {**GOOD, "x": [3, 2.5, -1]}, True),
        ({"descending": "response.body.x"}, {**GOOD, "x": 3}, False),
        ({"forbidden": ["x", 7]}, GOOD, True),
        ({"forbidden": ["x", 2]}, GOOD, False),
        ({"forbidden": ["x", "2"]}, GOOD, False),
        ({"forbidden": "request.body.seen"}, GOOD, False),
        ({"forbidden": "request.body.one"}, GOOD, False),
        ({"forbidden": "request.body.none"}, GOOD, True),
        ({"forbidden": "length(request.body.none)"}, GOOD, True),
        ({"required": ["a", "2"]}, GOOD, True),
        ({"required": ["a", "z"]}, GOOD, False),
        ({"required": "request.body.seen"}, GOOD, False),
        ({"required": "request.body.one"}, GOOD, True),
        ({"required": "request.body.none"}, GOOD, True),
        ({"holds": "response.body.total == length(response.body.items)"}, GOOD, True),
        ({"holds": "response.body.total > request.body.limit"}, GOOD, True),
        ({"holds": "response.body.total > `3`"}, GOOD, False),
        ({"holds": "response.body.none"}, GOOD, False),
        ({"holds": "response.body.items"}, named(), False),
        ({"holds": "`0`"}, GOOD, True),  # 0 is true in JMESPath
        ({"holds": "length(response.body.total)"}, GOOD, False),  # can't be evaluated
        ({"status": [200]}, GOOD, True),
        ({"status": [201, 404]}, GOOD, False),
    ],
)  # fmt: skip
def test_rules(rule: dict[str, Any], body: Any, holds: bool) -> None:
    request = {"seen": ["z", "c"], "one": 2, "limit": 2}
    assert breaks(body, rule, request) is not holds


@pytest.mark.parametrize(
    ("pattern", "holds"),
    [("application/json", False), ("application/json*", True), ("*", True), ("text/*", False), ("*utf-8", True)],
)
def test_headers(pattern: str, holds: bool) -> None:
    one = answer({}, head=b"Content-Type: application/json; charset=utf-8\r\nX: 1")
    assert (broken(compare(one, one, {"header": {"content-type": pattern}})) == {}) is holds
    assert broken(compare(one, one, {"header": {"x-model": "*"}})) != {}


def test_rules_that_need_no_body_read_none() -> None:
    columns = compare(answer(b"hello"), answer(b"", status=200), {"status": [200]})
    assert value(columns, "validity.violations") == 0
    assert not columns.failed["baseline"][0]
    columns = compare(answer(b"hello"), answer(b"{}"), {"schema": {"type": "object"}})
    assert columns.failure["baseline"] == ("bad_body",)


BAD = named("a", "a")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (GOOD, GOOD, 0),
        (GOOD, BAD, 1),
        (BAD, GOOD, -1),
        (BAD, BAD, 0),
        (failure(), BAD, 1),
        (failure(), GOOD, 0),
        (BAD, failure(), -1),
        (failure(), failure(), 0),
        (GOOD, answer(b"none"), 0),
        (BAD, answer(b"none"), -1),
        (answer({}, status=404), answer({}, status=404), None),
    ],
)
def test_the_value_of_a_pair(a: Any, b: Any, expected: float | None) -> None:
    columns = compare(a, b, {"unique": True}, **RANKED)
    assert value(columns, "validity.violations") == expected
    assert value(columns, "validity.candidate") == (None if expected is None else float(b is BAD))


def test_each_broken_rule_is_named_and_the_replica_is_reported() -> None:
    rules = ({"unique": True}, {"name": "few", "length": {"max": 1}}, {"length": {"min": 3}}, {"status": [200]})
    columns = compare(GOOD, BAD, *rules, replica=answer(BAD), **RANKED)
    assert broken(columns) == {
        "few": {"baseline": 1, "candidate": 1, "replica": 1},
        "length": {"candidate": 1, "replica": 1},
        "unique": {"candidate": 1, "replica": 1},
    }
    assert value(columns, "validity.violations") == 0  # the baseline breaks one too
    assert broken(compare(GOOD, GOOD, *rules[:1], replica=failure(), **RANKED)) == {}


def test_scores_that_are_sent_for_the_requests_ids() -> None:
    keys = {"ids": "request.body.ids", "scores": "response.body.scores"}
    columns = compare(
        {"scores": [0.1, 2]}, {"scores": [0.1, 0.2]}, {"range": {"max": 1}}, request={"ids": [1, 2]}, **keys
    )
    assert value(columns, "validity.violations") == -1


anything = st.binary(max_size=30) | st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["items", "id", "score", "x"]), inner, max_size=4)
    ),
    max_leaves=20,
).map(orjson.dumps)
EVERY: tuple[dict[str, Any], ...] = (
    {"schema": {"properties": {"x": {"enum": [1, "a"]}, "items": {"items": {"pattern": "^(a+)+$"}}}}},
    {"length": {"of": "response.body.x", "min": 1}},
    {"unique": "response.body.items[*].id"},
    {"range": {"of": "response.body.items[*].score", "max": 1}},
    {"descending": "response.body.items[].score"},
    {"forbidden": "request.body.x"},
    {"required": "sort_by(response.body.items, &id)[*].id"},
    {"holds": "sum(response.body.items[*].score) > `1`"},
    {"status": [200]},
    {"header": {"a": "*a*b*c"}},
)


@given(anything, anything, anything)
def test_nothing_raises_and_the_sides_are_alike(a: bytes, b: bytes, request: bytes) -> None:
    assert {next(iter(rule)) for rule in EVERY} == set(KINDS)
    one = compare(answer(a), answer(b), *EVERY, request=request, ids="response.body.items[*].id")
    other = compare(answer(b), answer(a), *EVERY, request=request, ids="response.body.items[*].id")
    found = value(one, "validity.violations")
    assert found in (-1, 0, 1)
    assert value(other, "validity.violations") == -found  # type: ignore[operator]


def test_deep_and_large_answers_are_checked_too() -> None:
    node = {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}
    deep, large = answer(b"[" * 1000 + b"]" * 1000), answer(orjson.dumps([[]] * 200_000))
    columns = compare(deep, large, {"schema": node}, {"unique": "response.body"}, {"holds": "response.body"})
    assert broken(columns) == {"unique": {"baseline": 1, "candidate": 1}}  # so deep can't be told
    assert broken(compare(answer(b"[1]"), large, {"schema": node})) == {"schema": {"baseline": 1}}


# ── the configuration checks itself ──


def faults(route: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        loads(f"{TWO}routes: [{{name: r, {route}}}]\n")
    return {fault.path.removeprefix("$.routes[0]."): fault.message for fault in caught.value.faults}


@pytest.mark.parametrize(
    ("route", "path", "says"),
    [
        ("valid: [{unique: true}]", "valid[0].unique", "`ids`"),
        ("valid: [{status: [200]}, {length: {min: 1}}]", "valid[1].length", "`ids`"),
        ("valid: [{required: [a]}]", "valid[0].required", "`ids`"),
        ("ids: response.body.x, valid: [{range: {min: 1}}]", "valid[0].range", "`scores`"),
        ("ids: response.body.x, valid: [{descending: true}]", "valid[0].descending", "`scores`"),
        ("scores: response.body.x, valid: [{unique: true}]", "valid[0].unique", "`ids`"),
        ("valid: [{unique: false}]", "valid[0].unique", "write true"),
        ("valid: [{unique: '[['}]", "valid[0].unique", "is not a JMESPath expression"),
        ("valid: [{holds: '[['}]", "valid[0].holds", "is not a JMESPath expression"),
        ("valid: [{length: {of: '[[', min: 1}}]", "valid[0].length.of", "is not a JMESPath expression"),
        ("valid: [{length: {}}]", "valid[0].length", "give `min` or `max`"),
        ("valid: [{length: {min: 2, max: 1}}]", "valid[0].length", "at least 2 and at most 1"),
        ("valid: [{forbidden: [1.5]}]", "valid[0].forbidden", "strings or integers"),
        ("valid: [{schema: {type: strin}}]", "valid[0].schema", "is no JSON Schema"),
        ("valid: [{schema: {pattern: '('}}]", "valid[0].schema", "is no JSON Schema"),
        ("valid: [{schema: {$ref: 'https://example.com/a.json'}}]", "valid[0].schema", "is not fetched"),
        ("valid: [{schema: {$ref: 'file:///etc/hostname'}}]", "valid[0].schema", "is not fetched"),
        ("valid: [{schema: no/such.json}]", "valid[0].schema", "can't be read"),
        ("valid: [{}]", "valid[0]", "a rule is one of schema, length"),
        ("valid: [{status: [200], holds: a}]", "valid[0]", "not holds and status at once"),
        ("valid: [{name: x, status: [200]}, {name: x, holds: a}]", "valid", "'x' stands twice"),
        ("valid: [{status: [99]}]", "valid[0].status[0]", "200"),
        ("valid: [{statuses: [200], holds: a}]", "valid[0].statuses", "no such key"),
        ("fields: {ignore: ['a..b']}", "fields.ignore[0]", "is not a path"),
        ("fields: {tolerance: {a: {}}}", "fields.tolerance.a", "give `absolute` or `relative`"),
        ("fields: {matched: {items: 'a[*]'}}", "fields.matched.items", "name one field"),
    ],
)
def test_what_could_not_work_is_a_fault_at_its_key(route: str, path: str, says: str) -> None:
    found = faults(route)
    assert path in found, found
    assert says in found[path]


def test_a_guardrail_on_what_is_beyond_the_noise_needs_a_replica() -> None:
    text = TWO + "routes: [{name: r, fields: {}}]\nverdict: {guardrails: [{metric: fields.excess, margin: 0.1}]}\n"
    with pytest.raises(ConfigError, match=r"fields\.excess needs a `replica`"):
        loads(text)
    assert loads(text + "replica: http://127.0.0.1:8003\n").verdict.guardrails[0].metric == "fields.excess"


def test_rules_are_guarded_by_default_and_fields_are_not() -> None:
    settings = loads(TWO + "routes: [{name: r, fields: {}, valid: [{status: [200]}]}]")
    found = {rule.name: rule.margin for rule in guardrails(settings)}
    assert found["validity.violations"] == 0.01
    assert not any(name.startswith("fields.") for name in found)
    assert settings.routes[0].offers == {"fields", "valid"}


def test_names_are_made_from_the_kinds() -> None:
    rules = [{"holds": "a"}, {"name": "holds_2", "holds": "b"}, {"holds": "c"}, {"status": [200]}]
    route = Route.model_validate({"name": "r", "valid": rules})
    assert [rule.name for rule in route.valid or ()] == ["holds", "holds_2", "holds_3", "status"]


def test_a_schema_in_a_file_is_found_beside_the_configuration_and_kept_with_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "a.json").write_text(json.dumps(OBJECT))
    config = tmp_path / "shadowproxy.yaml"
    config.write_text(TWO + "routes: [{name: r, valid: [{schema: schemas/a.json}]}]\n")
    settings = load(config, environ={})
    inline = loads(f"{TWO}routes: [{{name: r, valid: [{{schema: {json.dumps(OBJECT)}}}]}}]\n")
    assert settings == inline
    assert experiment_id(settings) == experiment_id(inline)
    # What the file said then is what old evidence is judged by, wherever it is read.
    (tmp_path / "schemas" / "a.json").write_text("{}")
    assert experiment_id(load(config, environ={})) != experiment_id(settings)
    assert thawed(orjson.dumps(frozen(settings)), experiment_id(settings)).routes == settings.routes
    (tmp_path / "schemas" / "a.json").write_text("[1]")
    with pytest.raises(ConfigError, match="neither an object"):
        load(config, environ={})
    (tmp_path / "schemas" / "a.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        load(config, environ={})


def test_neither_section_leaves_the_experiment_as_it_was() -> None:
    plain = loads(TWO + "routes: [{name: r}]")
    assert {"fields", "valid"}.isdisjoint(frozen(plain)["routes"][0])
    for route in ("valid: []", "valid: null", "fields: null"):
        assert experiment_id(loads(f"{TWO}routes: [{{name: r, {route}}}]")) == experiment_id(plain)
    for route in ("valid: [{status: [200]}]", "fields: {}"):
        found = loads(f"{TWO}routes: [{{name: r, {route}}}]")
        assert experiment_id(found) != experiment_id(plain)
        assert thawed(orjson.dumps(frozen(found)), experiment_id(found)).routes == found.routes


def test_the_example_of_the_page_loads_and_judges() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "validity.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    settings = loads(example)
    items = [{"id": "pinned-1", "score": 0.9, "shipping": 5}, {"id": 2, "score": 0.1, "shipping": 0}]
    good = answer({"items": items, "total": 2}, head=b"content-type: application/json")
    bad = answer(
        {"items": [{"id": 3, "score": 0.1, "shipping": 99}, {"id": 3, "score": 7, "shipping": None}]}, status=201
    )
    columns = Comparer(settings.routes)([pair(good, bad, target="/recommend", body={"seen": [3]})])
    assert value(columns, "validity.violations") == 1
    names = {str(rule.name) for rule in settings.routes[0].valid or ()}
    assert broken(columns) == {name: {"candidate": 1} for name in names - {"length"}}
