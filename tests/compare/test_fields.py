"""Fields: bodies compared value by value, against the definitions written out."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
from compare.samples import answer, failure, pair, value
from hypothesis import example, given
from hypothesis import strategies as st

from shadowproxy.compare.columns import Columns
from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.families import fields as module
from shadowproxy.compare.structure.extracted import body_paths
from shadowproxy.compare.structure.places import Places, places_of
from shadowproxy.config import Route, loads
from shadowproxy.config.catalogue import TABLES
from shadowproxy.config.fields import Fields
from shadowproxy.config.paths import Each
from shadowproxy.model import Exchange, Pair

NOTHING = object()


def compare(a: Any, b: Any, replica: Any = NOTHING, *, route: Route | None = None, **rules: Any) -> Columns:
    route = route or Route(name="r", fields=Fields(**rules))
    sides = [side if isinstance(side, Exchange) else answer(side) for side in (a, b)]
    whole = pair(*sides)
    if replica is not NOTHING:
        whole = msgspec.structs.replace(whole, replica=replica if isinstance(replica, Exchange) else answer(replica))
    return Comparer([route])([whole])


def changed(a: Any, b: Any, **rules: Any) -> float | None:
    return value(compare(a, b, **rules), "fields.changed")


def table(columns: Columns) -> dict[str, dict[str, int]]:
    names = TABLES["fields"].columns
    return {
        counts.key: {names[column]: int(count) for column, count in sorted(Counter(counts.column.tolist()).items())}
        for _, counts in columns.tables
        if counts.table == "fields"
    }


PRICES = {"items": [{"id": 1, "price": 10}, {"id": 2, "price": 20}], "currency": "EUR"}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"a": 1}, {"a": 1.0}, 0),
        ({"a": 1}, {"a": True}, 1),
        ({"a": 0}, {"a": False}, 1),
        ({"a": True}, {"a": True}, 0),
        ({"a": None}, {}, 1),  # null is a value; {} is a leaf of its own
        ({"a": None, "b": 1}, {"b": 1}, 1 / 2),
        ({"a": None}, {"a": None}, 0),
        ({"a": "1"}, {"a": 1}, 1),
        ({"a": 2**53}, {"a": 2**53 + 1}, 1),
        ({"a": 2**53 + 1}, {"a": float(2**53)}, 1),
        ({"a": 2**63}, {"a": 2**63 + 1}, 1),
        ({"a": 0.1}, {"a": 0.1}, 0),
        ({"a": 0.0}, {"a": -0.0}, 0),
        ({"a": "é"}, {"a": "e\u0301"}, 1),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, 0),
        ([1, 2, 3], [1, 2, 3], 0),
        ([1, 2, 3], [1, 3, 2], 2 / 3),
        ([1, 2, 3], [1, 2], 1 / 3),
        ([], [1], 1),  # [] is there on one side, [*] on the other
        ([], [], 0),
        ([], {}, 1),
        ({}, {}, 0),
        (None, None, 0),
        (1, 2, 1),
        ("a", {"a": "a"}, 1),
        # By path: all of `currency`, none of items[*].id, half of items[*].price.
        (PRICES, {**PRICES, "currency": None, "items": [{"id": 1, "price": 10}, {"id": 2, "price": 21}]}, 1.5 / 3),
        # An object against a number: its two leaves on one side only, and the number on the other.
        ({"a": {"x": 1, "y": 2}, "b": 1}, {"a": 3, "b": 1}, 3 / 4),
        ({"a": [[1, 2], [3]]}, {"a": [[1], [2, 3]]}, 3 / 4),
    ],
)
def test_the_share_of_fields_that_differ(a: Any, b: Any, expected: float) -> None:
    assert changed(a, b) == pytest.approx(expected)
    assert changed(b, a) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rules", "a", "b", "expected"),
    [
        ({"ignore": ["took"]}, {"took": 1, "a": 1}, {"took": 2, "a": 1}, 0),
        ({"ignore": ["took"]}, {"took": 1, "a": {"took": 1}}, {"took": 2, "a": {"took": 2}}, 1),
        ({"ignore": ["**.took"]}, {"took": 1, "a": [{"took": 1}], "b": 1}, {"took": 2, "a": [{"took": 2}], "b": 1}, 0),
        ({"ignore": ["meta"]}, {"meta": {"a": [1, {"b": 2}]}, "c": 1}, {"c": 1}, 0),
        ({"ignore": ["meta.**"]}, {"meta": {"a": 1}, "c": 1}, {"meta": 4, "c": 1}, 0),
        ({"ignore": ["meta.*"]}, {"meta": {"a": 1}, "c": 1}, {"meta": {"b": 2}, "c": 1}, 0),
        ({"ignore": ["meta.*.at"]}, {"meta": {"a": {"at": 1, "x": 1}}}, {"meta": {"a": {"at": 2, "x": 1}}}, 0),
        ({"ignore": ["items[*].at"]}, {"items": [{"at": 1, "x": 1}]}, {"items": [{"at": 2, "x": 1}]}, 0),
        ({"ignore": ["items.at"]}, {"items": [{"at": 1, "x": 1}]}, {"items": [{"at": 2, "x": 1}]}, 1 / 2),
        ({"ignore": ['"a.b"']}, {"a.b": 1, "a": {"b": 1}}, {"a.b": 2, "a": {"b": 1}}, 0),
        ({"ignore": ["[*].x"]}, [{"x": 1}], [{"x": 2}], 0),
        ({"ignore": ["**"]}, {"a": 1}, [2], 0),
        ({"tolerance": {"a": {"absolute": 0.5}}}, {"a": 1}, {"a": 1.5}, 0),
        ({"tolerance": {"a": {"absolute": 0.5}}}, {"a": 1}, {"a": 1.6}, 1),
        ({"tolerance": {"a": {"relative": 0.1}}}, {"a": 90}, {"a": 100}, 0),
        ({"tolerance": {"a": {"relative": 0.1}}}, {"a": 89}, {"a": 100}, 1),
        ({"tolerance": {"a": {"relative": 0.1}}}, {"a": 0}, {"a": 1e-9}, 1),
        ({"tolerance": {"a": {"relative": 0.1}}}, {"a": -90}, {"a": -100}, 0),
        ({"tolerance": {"a": {"absolute": 9}}}, {"a": "1"}, {"a": "2"}, 1),
        ({"tolerance": {"a": {"absolute": 9}}}, {"a": True}, {"a": False}, 1),
        ({"tolerance": {"a": {"absolute": 9}}}, {"a": 1}, {"a": True}, 1),
        ({"tolerance": {"a": {"absolute": 9}}}, {"a": None}, {"a": 1}, 1),
        ({"tolerance": {"v": {"absolute": 1}}}, {"v": [{"x": 1}]}, {"v": [{"x": 2}]}, 0),  # and all beneath
        ({"tolerance": {"a": {"absolute": 1}, "**": {"absolute": 5}}}, {"a": 1, "b": 1}, {"a": 3, "b": 3}, 1 / 2),
        ({"unordered": ["tags"]}, {"tags": ["a", "b", "b"]}, {"tags": ["b", "a", "b"]}, 0),
        ({"unordered": ["tags"]}, {"tags": [1, 1, 2]}, {"tags": [1, 2, 2]}, 2 / 4),
        ({"unordered": ["tags"]}, {"tags": [1, "1"]}, {"tags": ["1", True]}, 2 / 3),
        ({"unordered": ["**"]}, [[1, 2], [3, 4]], [[4, 3], [2, 1]], 0),
        ({"unordered": ["**"]}, [[1, 2], [3, 4]], [[1, 3], [2, 4]], 1),
        ({"unordered": ["a"], "ignore": ["a[*].at"]}, {"a": [{"at": 1, "x": 1}, {"x": 2}]},
         {"a": [{"at": 5, "x": 2}, {"x": 1}]}, 0),
        ({"matched": {"items": "id"}}, PRICES, {**PRICES, "items": PRICES["items"][::-1]}, 0),
        ({"matched": {"items": "id"}}, {"items": [{"id": 1, "p": 1}]}, {"items": [{"id": "1", "p": 1}]}, 1 / 2),
        ({"matched": {"items": "id"}}, {"items": [{"id": 1, "p": 1}, {"id": 2, "p": 2}]},
         {"items": [{"id": 2, "p": 2}, {"id": 3, "p": 1}]}, 2 / 3),
        ({"matched": {"items": "id"}}, {"items": [{"id": 1, "p": 1}, {"id": 1, "p": 2}]},
         {"items": [{"id": 1, "p": 2}, {"id": 1, "p": 1}]}, 1 / 2),
        ({"matched": {"items": "k.id"}}, {"items": [{"k": {"id": 1}, "p": 1}, {"k": {"id": 2}, "p": 2}]},
         {"items": [{"k": {"id": 2}, "p": 2}, {"k": {"id": 1}, "p": 1}]}, 0),
        ({"matched": {"items": "id"}}, {"items": [{"p": 1}, 7, {"id": None, "p": 3}]},
         {"items": [{"p": 1}, 7, {"id": None, "p": 4}]}, 1 / 2 / 3),
        ({"maps": ["prices"]}, {"prices": {"a": 1, "b": 2}, "c": 1}, {"prices": {"a": 1, "b": 3}, "c": 1}, 1 / 4),
        ({"maps": ["prices"], "ignore": ["prices.*.at"]}, {"prices": {"a": {"at": 1, "x": 1}}},
         {"prices": {"a": {"at": 2, "x": 1}}}, 0),
    ],
)  # fmt: skip
def test_rules(rules: dict[str, Any], a: Any, b: Any, expected: float) -> None:
    assert changed(a, b, **rules) == pytest.approx(expected)
    assert changed(b, a, **rules) == pytest.approx(expected)


# ── the definition, written out ──


def fits(pattern: list[str], path: tuple[str, ...]) -> bool:
    if not pattern:
        return not path
    first, *rest = pattern
    if first == "**":
        return fits(rest, path) or (bool(path) and fits(pattern, path[1:]))
    return bool(path) and (first in ("*", path[0])) and fits(rest, path[1:])


def reaches(patterns: list[list[str]], path: tuple[str, ...]) -> bool:
    """Whether one of them is of the path, or of something above it."""
    return any(fits(pattern, path[:end]) for pattern in patterns for end in range(len(path) + 1))


def flat(found: Any, rules: dict[str, Any], path: tuple[str, ...] = (), where: str = "") -> dict[tuple[str, str], Any]:
    if reaches(rules["ignore"], path):
        return {}
    if isinstance(found, dict) and found:
        leaves: dict[tuple[str, str], Any] = {}
        for name, inner in found.items():
            leaves |= flat(inner, rules, (*path, name), where)
        return leaves
    if isinstance(found, list) and found:
        leaves = {}
        key = any(fits(pattern, path) for pattern in rules["matched"])
        free = any(fits(pattern, path) for pattern in rules["unordered"])
        seen: Counter[str] = Counter()
        for at, inner in enumerate(found):
            name = f"#{at}"
            if key:
                had = inner.get("id") if isinstance(inner, dict) else None
                name = f"={had}" if isinstance(had, int | str) and not isinstance(had, bool) else "?"
            elif free:
                name = json.dumps(sorted(map(repr, flat(inner, rules, (*path, "[*]")).items())))
            if key or free:
                seen[name] += 1
                name += f"/{seen[name]}"
            leaves |= flat(inner, rules, (*path, "[*]"), f"{where};{name}")
        return leaves
    return {("/".join(path), where): kind(found)}


def kind(leaf: Any) -> Any:
    """A leaf that is equal to another exactly where they are the same."""
    if isinstance(leaf, bool) or leaf is None or isinstance(leaf, dict | list):
        return json.dumps(leaf), "word"
    # The exact value, of float and integer alike.
    return (leaf, "text") if isinstance(leaf, str) else (leaf.as_integer_ratio(), "number")


def expected(a: Any, b: Any, rules: dict[str, Any]) -> float:
    ours, theirs = flat(a, rules), flat(b, rules)
    paths = {path for path, _ in ours.keys() | theirs.keys()}
    shares = []
    for path in paths:
        keys = {key for key in ours.keys() | theirs.keys() if key[0] == path}
        shares.append(sum(ours.get(key) != theirs.get(key) for key in keys) / len(keys))
    return sum(shares) / len(shares) if shares else 0.0


scalars = st.sampled_from([None, True, False, 0, 1, 1.0, 2, 0.5, "", "1", "a", 2**60, float(2**60), 2**60 + 1])
names = st.sampled_from(["a", "b", "id"])
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=3), max_leaves=14
)
steps = st.lists(st.sampled_from(["a", "b", "id", "[*]", "*", "**"]), min_size=1, max_size=3)
rulings = st.fixed_dictionaries(
    {key: st.lists(steps, max_size=2, unique_by=tuple) for key in ("ignore", "unordered", "matched")}
)


def written(pattern: list[str]) -> str:
    return "".join(step if step == "[*]" else f".{step}" for step in pattern).removeprefix(".")


def settings_of(rules: dict[str, Any]) -> dict[str, Any]:
    found = {key: [written(pattern) for pattern in patterns] for key, patterns in rules.items()}
    return {**found, "matched": dict.fromkeys(found["matched"], "id")}


@example([[[0, 0, 0, 0], 0], 0], [[[0, 0, 0, 0], [0, 0]]], {"ignore": [], "unordered": [], "matched": []})
@given(documents, documents, rulings)
def test_it_is_as_defined(a: Any, b: Any, rules: dict[str, Any]) -> None:
    found = changed(a, b, **settings_of(rules))
    assert found == pytest.approx(expected(a, b, rules), abs=1e-12)
    assert found == changed(b, a, **settings_of(rules))


@given(documents, documents)
def test_nothing_differs_exactly_where_the_documents_are_equal(a: Any, b: Any) -> None:
    def plain(found: Any) -> Any:
        if isinstance(found, dict):
            return {name: plain(inner) for name, inner in found.items()}
        return [plain(inner) for inner in found] if isinstance(found, list) else kind(found)

    assert (changed(a, b) == 0) == (plain(a) == plain(b))


@given(st.permutations([{"a": 1, "b": [1, 2]}, {"a": 2, "b": [1]}, {"b": [3]}]), documents)
def test_the_noise_is_taken_out(three: list[Any], other: Any) -> None:
    """Over all ways to deal three answers to three services the mean is 0: that is, if they are exchangeable."""
    three[0] = other
    dealt = [value(compare(*order), "fields.excess") for order in itertools.permutations(three)]
    assert sum(found for found in dealt if found is not None) == pytest.approx(0, abs=1e-12)
    assert None not in dealt


def test_the_candidate_is_held_against_the_replica_as_much_as_against_the_baseline() -> None:
    columns = compare({"x": 1, "y": 1}, {"x": 2, "y": 1}, {"x": 1, "y": 2})
    assert value(columns, "fields.excess") == (1 / 2 + 1) / 2 - 1 / 2


def test_what_differs_beyond_the_noise() -> None:
    noisy = [{"took": number, "a": "x"} for number in (1, 2, 3)]
    columns = compare(noisy[0], {**noisy[1], "a": "y"}, noisy[2])
    assert value(columns, "fields.changed") == 1
    assert value(columns, "fields.excess") == 1 / 2
    assert table(columns) == {
        "a": {"compared": 1, "candidate": 1, "with_replica": 1, "value": 1},
        "took": {"compared": 1, "candidate": 1, "with_replica": 1, "replica": 1, "value": 1},
    }


def test_the_table_says_how_and_counts_each_pair_once() -> None:
    a = {"gone": 1, "kind": 1, "many": [1, 2, 3, "x"], "same": [1, 2]}
    b = {"new": 1, "kind": "1", "many": [1, 9, 9, 9], "same": [1, 2]}
    assert table(compare(a, b)) == {
        "gone": {"compared": 1, "candidate": 1, "removed": 1},
        "kind": {"compared": 1, "candidate": 1, "type": 1},
        "many[*]": {"compared": 1, "candidate": 1, "type": 1, "value": 1},
        "new": {"compared": 1, "candidate": 1, "added": 1},
        "same[*]": {"compared": 1},
    }


def test_paths_are_written_so_that_they_can_be_ignored() -> None:
    awkward = {"a.b": 1, "c d": 2, 'q"': 3, "[*]": 4, "*": 5, "": 6, "$": 7, "x\ny": 8, "plain": [[{"é": 9}]]}
    paths = list(table(compare(awkward, awkward)))
    assert {"plain[*][*].é", '"a.b"', '""'} <= set(paths)
    assert all(path.isprintable() for path in paths)
    assert changed(awkward, {"other": 1}, ignore=paths) == 1
    assert table(compare(awkward, {"other": 1}, ignore=paths)).keys() == {"other"}
    assert table(compare(1, 2)).keys() == {"$"}
    assert changed([1, 2], [2, 1], unordered=["$"]) == 0


# ── which pairs have a value ──


def test_failed_sides() -> None:
    good = answer({"a": 1})
    for a, b in ((failure(), good), (good, failure()), (failure(), failure()), (good, answer(b"no json"))):
        columns = compare(a, b, good)
        assert value(columns, "fields.changed") == 1
        assert value(columns, "fields.excess") is None
        assert table(columns) == {}
    columns = compare(answer({}, status=404), answer({"a": 1}, status=404), good)
    assert value(columns, "fields.changed") is None


@pytest.mark.parametrize(
    "replica",
    [
        failure(),
        answer({"a": 1}, status=500),
        answer({"a": 1}, status=404),
        answer(b"no json"),
        answer(b"", status=204),
        NOTHING,
    ],
)
def test_a_replica_that_did_not_answer_leaves_the_pair_out_of_the_corrected_metric(replica: Any) -> None:
    columns = compare({"a": 1}, {"a": 2}, replica)
    assert value(columns, "fields.changed") == 1
    assert value(columns, "fields.excess") is None
    assert table(columns) == {"a": {"compared": 1, "candidate": 1, "value": 1}}
    assert not columns.failed["baseline"][0]
    assert not columns.failed["candidate"][0]


def test_without_the_section_nothing_is_read() -> None:
    columns = compare(answer(b"no json"), answer(b"none"), route=Route(name="r"))
    assert value(columns, "fields.changed") is None
    assert not columns.failed["candidate"][0]


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"a": list(range(11))}, {"a": [1]}),
        ({str(at): at for at in range(11)}, {}),
        (b"[" + b"1," * 1_000_000 + b"1]", [{}]),
        (orjson.dumps({str(at): at for at in range(50_000)}), {}),
        (nested(101), {}),
        (nested(1000), {}),
        (b"[" * 1000 + b"]" * 1000, []),
    ],
    ids=["items", "names", "million", "many names", "deep", "deepest", "lists"],
)
def test_what_is_too_large_is_undefined_and_bounded(a: Any, b: Any) -> None:
    for sides in ((a, b, {}), (b, a, {}), (b, a, NOTHING)):
        columns = compare(*sides, max_leaves=10)
        found = value(columns, "fields.changed")
        assert found is not None
        assert np.isnan(found)
        assert table(columns) == {}
    columns = compare({}, {}, a, max_leaves=10)
    assert value(columns, "fields.changed") == 0
    excess = value(columns, "fields.excess")
    assert excess is not None
    assert np.isnan(excess)


def test_what_is_just_small_enough_is_compared() -> None:
    assert changed({"a": list(range(10))}, {"a": list(range(10))}, max_leaves=10) == 0
    assert changed(nested(100), nested(100)) == 0
    assert changed(nested(100), nested(99)) == 1
    assert changed(nested(100), nested(100), unordered=["**"]) == 0
    deep = b"[" * 100 + b"1" + b"]" * 100
    assert changed(deep, deep, unordered=["**"]) == 0


def test_many_paths_are_told_apart_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PATHS", 2)
    a = {"p": 1, "q": 1, "r": 1, "s": 1}
    found = table(compare(a, {**a, "s": 2}))
    assert found == {
        "s": {"compared": 1, "candidate": 1, "value": 1},
        "p": {"compared": 1},
        "other": {"compared": 1},
    }


def test_long_names_are_cut_and_stay_apart() -> None:
    long = "n" * 100_000
    a, b = {long + "1": {"x": 1}, long + "2": {"x": 1}}, {long + "1": {"x": 1}, long + "2": {"x": 2}}
    columns = compare(a, b)
    assert value(columns, "fields.changed") == 1 / 2
    ((key, counts),) = table(columns).items()
    assert len(key) < 300
    assert counts == {"compared": 1, "candidate": 1, "value": 1}


def test_paths_that_were_met_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A candidate that makes up new names can't make a worker grow; and what is left is right."""
    monkeypatch.setattr("shadowproxy.compare.structure.places._MOST", 20)
    comparer = Comparer([Route(name="r", fields=Fields(ignore=["**.x", "z.*"]))])
    pairs = [
        pair(answer({str(at): {"x": at, "y": 1}, "z": {str(at): 1}}), answer({str(at): {"y": 1}, "z": {str(-at): 1}}))
        for at in range(50)
    ]
    columns = comparer(pairs)
    assert columns.values["fields.changed"].tolist() == [0] * 50
    root = comparer._readers[0].places.root()  # type: ignore[union-attr]
    assert len(root._children) <= 20  # type: ignore[union-attr]
    assert len(root.child("z")._children) <= 20  # type: ignore[union-attr]


@given(st.lists(st.tuples(documents, documents, documents), min_size=1, max_size=4), rulings)
def test_a_row_depends_on_its_pair_alone(threes: list[tuple[Any, Any, Any]], rules: dict[str, Any]) -> None:
    comparer = Comparer([Route(name="r", fields=Fields(**settings_of(rules)))])
    pairs: list[Pair] = [msgspec.structs.replace(pair(answer(a), answer(b)), replica=answer(c)) for a, b, c in threes]
    together = comparer(pairs)
    for at, one in enumerate(pairs):
        alone = comparer([one])
        for metric in ("fields.changed", "fields.excess"):
            assert alone.values[metric][0] == together.values[metric][at]


# ── what the route extracts is left out ──

ROUTE = {"ids": "response.body.items[*].id", "scores": "response.body.items[*].score"}


def shop(*items: tuple[str, float, float], currency: str = "EUR") -> dict[str, Any]:
    return {"items": [{"id": i, "score": s, "price": p} for i, s, p in items], "currency": currency}


def test_what_is_ranked_is_compared_item_by_item_whatever_its_place_and_score() -> None:
    route = Route(name="r", fields=Fields(), **ROUTE)
    a = shop(("a", 0.9, 1), ("b", 0.8, 2), ("c", 0.7, 3))
    assert value(compare(a, shop(("c", 0.3, 3), ("a", 0.2, 1)), route=route), "fields.changed") == 0
    # b has another price; d is new and c is gone, which the ranking says.
    columns = compare(a, shop(("b", 1, 9), ("d", 1, 4), ("a", 1, 1)), route=route)
    assert value(columns, "fields.changed") == pytest.approx(1 / 2 / 2)
    assert table(columns).keys() == {"items[*].price", "currency"}
    assert value(compare(a, shop(("x", 1, 1)), route=route), "fields.changed") == 0
    assert value(compare(a, shop(), route=route), "fields.changed") == 0


def test_it_is_compared_too_where_asked_for() -> None:
    route = Route(name="r", fields=Fields(extracted=True), **ROUTE)
    columns = compare(shop(("a", 0.9, 1), ("b", 0.8, 2)), shop(("b", 0.8, 2), ("a", 0.9, 1)), route=route)
    assert value(columns, "fields.changed") == 3 / 4
    assert table(columns).keys() == {"items[*].id", "items[*].score", "items[*].price", "currency"}


def test_a_rule_of_ones_own_goes_before() -> None:
    route = Route(name="r", fields=Fields(matched={"items": "price"}), **ROUTE)
    columns = compare(shop(("a", 0.9, 1)), shop(("a", 0.9, 2)), route=route)
    assert value(columns, "fields.changed") == 1 / 2


@pytest.mark.parametrize(
    ("expression", "paths"),
    [
        ("response.body.items[*].id", [("items", Each.ITEM, "id")]),
        ("response.body[*].id", [(Each.ITEM, "id")]),
        ("response.body.groups[].items[].id", [("groups", Each.ITEM, "items", Each.ITEM, "id")]),
        ("response.body.a[1:3].id", [("a", Each.ITEM, "id")]),
        ("response.body.hits.hits[?a==`1`]._id", [("hits", "hits", Each.ITEM, "_id")]),
        ("response.body.choices[0].message.content", [("choices", Each.ITEM, "message", "content")]),
        ("response.body.a | [0].x", [("a", Each.ITEM, "x")]),
        ("response.body.p.*.x", [("p", Each.CHILD, "x")]),
        ("response.body.p || response.body.q[*].x", [("p",), ("q", Each.ITEM, "x")]),
        ('response.body."a.b"', [("a.b",)]),
        ("response.body", [()]),
        ("request.body.ids", []),
        ("map(&id, response.body.x)", []),
        ("[response.body.x]", []),
        ("response.status", []),
    ],
)
def test_where_expressions_look(expression: str, paths: list[Any]) -> None:
    assert list(body_paths(expression)) == paths


def test_places_of_presets_and_texts() -> None:
    route = Route(name="r", text="response.body.choices[0].message.content", fields=Fields())
    columns = compare(
        {"choices": [{"message": {"content": "a"}}], "model": "m"},
        {"choices": [{"message": {"content": "b"}}], "model": "m"},
        route=route,
    )
    assert value(columns, "fields.changed") == 0
    assert table(columns).keys() == {"model"}
    assert isinstance(places_of(route, Fields()), Places)


anything = st.binary(max_size=30) | st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
).map(orjson.dumps)


@given(anything, anything, anything, rulings, st.sampled_from([1, 5, 10_000]))
def test_nothing_raises_and_the_sides_are_alike(a: bytes, b: bytes, c: bytes, rules: dict[str, Any], most: int) -> None:
    given_rules = {**settings_of(rules), "tolerance": {"**": {"relative": 0.1}}, "maps": ["a"], "max_leaves": most}
    one, other = compare(a, b, c, **given_rules), compare(b, a, c, **given_rules)
    x, y = value(one, "fields.changed"), value(other, "fields.changed")
    assert x == y or (np.isnan(x) and np.isnan(y))  # type: ignore[arg-type]
    assert x is None or np.isnan(x) or 0 <= x <= 1
    excess = value(one, "fields.excess")
    assert excess is None or np.isnan(excess) or -1 <= excess <= 1


def test_the_example_of_the_page_loads_and_judges() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "fields.md").read_text()
    (example,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    settings = loads(example)
    assert settings.routes[0].fields is not None
    noise = {"request_id": "1", "took": 3, "facets": ["a", "b"], "stock": {"x": 1}, "bundles": [{"id": 1}, {"id": 2}]}
    other = {"request_id": "2", "took": 4, "facets": ["b", "a"], "stock": {"x": 1}, "bundles": [{"id": 2}, {"id": 1}]}
    a = {**noise, "items": [{"id": 1, "score": 1, "price": 9.99, "distance": 1000, "tags": ["x", "y"]}]}
    b = {**other, "items": [{"id": 1, "score": 2, "price": 9.98, "distance": 1001, "tags": ["y", "x"]}]}
    whole = msgspec.structs.replace(pair(answer(a), answer(b), target="/search"), replica=answer(b))
    columns = Comparer(settings.routes)([whole])
    assert value(columns, "fields.changed") == 0
    assert value(columns, "fields.excess") == 0
    assert table(columns).keys() == {
        "facets[*]",
        "stock.*",
        "bundles[*].id",
        "items[*].price",
        "items[*].distance",
        "items[*].tags[*]",
    }
