"""Decoding only what is looked at finds what decoding the whole finds, whatever the body."""

from __future__ import annotations

from typing import Any

import pytest
from compare.bodies import ODD, bodies
from hypothesis import example, given, settings

from shadowproxy.compare.extraction.bodies import BodyError, Decode, decode
from shadowproxy.compare.extraction.extract import Expression, ExtractError
from shadowproxy.compare.extraction.typed import TypedDecode, typed_decode

PATHS: dict[str, tuple[str, ...]] = {
    "ranking": ("items[*].id", "items[*].score"),
    "paths": ("a.b", "a.items[*].id", "score"),
    "lists": ("ids[*]", "a.b[*]"),
    "values": ("ids", "score", "a.b"),
    "groups": ("groups[].items[].id", "groups[].items[].score"),
    "flat": ("items[].id", "ids[]"),
    "place": ("items[0].a.b", "items[-1].id", "groups[0].items[1]"),
    "either": ("items[*].id || ids || id", "score || a.score"),
    "piped": ("items[*].id | [0]", "groups[*].items[*].id | []", "items[*].a.b"),
    "odd names": ('"it-s"', '""', "id.class"),
    "root": ("",),
    "root list": ("[*].id", "[*].score"),
}


def expressions(paths: tuple[str, ...], *, aligned: bool) -> list[Expression]:
    return [
        Expression("response.body" + (path if path.startswith("[") or not path else f".{path}"), aligned=aligned)
        for path in (part.replace("|| ", "|| response.body.") for part in paths)
    ]


COMPILED = {
    (name, aligned): expressions(paths, aligned=aligned) for name, paths in PATHS.items() for aligned in (False, True)
}
DECODERS = {key: typed_decode(found) for key, found in COMPILED.items()}


def found(read: Decode, over: list[Expression], body: bytes) -> Any:
    """All that the expressions find, told apart to the type and the sign of a zero; or whose fault it is."""
    try:
        document = {"response": {"body": read(b"", body)}}
    except BodyError as error:
        return error.kind
    values = []
    for expression in over:
        try:
            values.append(repr(expression(document)))
        except ExtractError:
            values.append("ExtractError")
    return values


@settings(max_examples=600, deadline=None)
@given(bodies)
@example(b'{"items": [{"id": 1, "id": "1"}], "items": null, "items": [{"id": 2, "score": -0}, {}, null]}')
@example(b'{"a": {"other": 1}, "score": null, "items": 3}')
@example(b'{"items": [{"id": 1, "score": 1e400}], "other": 1e400, "x": "1e400"}')
@example(b"[null, {}, 1]")
@example(b"")
def test_what_is_found_is_the_same(body: bytes) -> None:
    for key, typed in DECODERS.items():
        assert typed is not None, key
        assert found(typed, COMPILED[key], body) == found(decode, COMPILED[key], body), key


@pytest.mark.parametrize("value", ODD, ids=lambda value: ascii(value[:12]) + f" {len(value)}")
@pytest.mark.parametrize("key", ["id", "other"])
def test_odd_values_are_the_same_fault_where_nobody_looks_and_where_somebody_does(key: str, value: bytes) -> None:
    body = b'{"items": [{"id": 1, "score": 2, "%s": %s}]}' % (key.encode(), value)
    for aligned in (False, True):
        name = ("ranking", aligned)
        typed = DECODERS[name]
        assert typed is not None
        assert found(typed, COMPILED[name], body) == found(decode, COMPILED[name], body)


def test_only_what_is_looked_at_is_built() -> None:
    typed = DECODERS["ranking", True]
    assert typed is not None
    body = b'{"model": "m", "items": [{"id": 1, "title": "one", "tags": []}, {"score": 0.5, "more": {"id": 3}}]}'
    assert typed(b"", body) == {"items": [{"id": 1}, {"score": 0.5}]}


def test_nesting_is_bounded_also_where_the_decoder_would_allow_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.getrecursionlimit", lambda: 10_000)
    typed = typed_decode(COMPILED["ranking", True])
    assert typed is not None
    monkeypatch.setattr(typed, "_decoder", _Lenient())
    shallow, deep = (b'{"other": %s}' % (b"[" * depth + b"]" * depth) for depth in (900, 1100))
    assert typed(b"", shallow) == "lenient"
    with pytest.raises(BodyError, match="bad_body"):
        typed(b"", deep)


class _Lenient:
    def decode(self, _data: bytes) -> str:
        return "lenient"


@pytest.mark.parametrize(
    "paths",
    [
        ["response.body.items[*].id", "response.body.items"],
        ["length(response.body.items)"],
        ["response.body.items[?a].id"],
        ["response.body.items[0:1].id"],
        ["response.body.*.id"],
        ["(response.body.a || response.body.b).id"],
        ["response.body.items[*].{id: id}"],
        ["response"],
        ["@"],
        ["response.status"],
        ["request.body.id"],
        ['response.body."\\ud800"'],
        ['response.body."é"'],
    ],
    ids=" ".join,
)
def test_what_is_no_path_is_decoded_as_a_whole(paths: list[str]) -> None:
    assert typed_decode([Expression(path) for path in paths]) is None


def test_what_is_looked_at_elsewhere_does_not_matter() -> None:
    mixed = [Expression(text) for text in ("request.body.*", "response.status", "response.body.ids")]
    assert isinstance(typed_decode(mixed), TypedDecode)
