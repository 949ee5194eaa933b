"""One pair of a batch may hold anything: the others' columns stay the same bit for bit, and it is counted itself.

Written over whatever `Columns` has, so that it holds for every family and table that is added.
"""

from __future__ import annotations

import dataclasses
import gzip
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pytest
from compare.samples import answer, failure, pair

from shadowproxy.compare.columns import Columns, Table
from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.families.failures import KINDS
from shadowproxy.compare.unlabelled import Unlabelled
from shadowproxy.config import CATALOGUE, Settings
from shadowproxy.model import Exchange, Outcome, Pair, Request, Side
from shadowproxy.verdict.plan import Plan

SIDES = (Side.BASELINE, Side.CANDIDATE)
SETTINGS = Settings.model_validate(
    {
        "experiment": "poison",
        "baseline": "http://127.0.0.1:1",
        "candidate": "http://127.0.0.1:2",
        "routes": [
            {
                "name": "lists",
                "path": "/lists",
                "ids": "response.body.items[*].id",
                "scores": "response.body.items[*].score",
                "truth": "annotations.truth",
                "account": "annotations.account",
                "cohorts": {"region": "annotations.region"},
                "slow": "20ms",
            },
            {
                "name": "plain",
                "path": "/plain",
                "ids": "response.body.groups[].items[].id",
                "truth": "request.body.truth",
            },
            {
                "name": "scored",
                "path": "/scored",
                "ids": "request.body.ids",
                "scores": "response.body.scores",
                "truth": "annotations.truth",
                "labels": "1h",
            },
            {
                "name": "labels",
                "path": "/labels",
                "label": "response.body.label",
                "probabilities": "response.body.probabilities",
                "truth": "annotations.label",
            },
            {
                "name": "text",
                "path": "/text",
                "text": "response.body.choices[0].text",
                "finish": "response.body.choices[0].finish",
            },
            {
                "name": "whole",
                "path": "/whole",
                "ids": "response.body.items[*].id",
                "scores": "response.body.items[*].score",
                "weight": "annotations.weight",
                "fields": {"extracted": True, "unordered": ["scores"]},
                "valid": [
                    {"schema": {"type": "object", "required": ["items"]}},
                    {"unique": True},
                    {"descending": True},
                    {"length": {"min": 1, "max": 1000}},
                    {"holds": "sum(response.body.scores) > `0`"},
                ],
            },
        ],
        "verdict": {"guardrails": [{"metric": "failures.difference", "margin": 0.02}]},
    }
)
ROUTES = tuple(route.path for route in SETTINGS.routes)
COMPARER, PLAN = Comparer(SETTINGS.routes), Plan(SETTINGS)


def body(ids: Sequence[Any], scores: Sequence[Any], label: Any = "spam", text: Any = "some words") -> dict[str, Any]:
    """What every route finds something in."""
    found = [{"id": name, "score": score} for name, score in zip(ids, scores, strict=True)]
    return {
        "items": found,
        "groups": [{"items": found}],
        "scores": list(scores),
        "label": label,
        "probabilities": {"spam": 0.75, "ham": 0.25},
        "choices": [{"text": text, "finish": "stop"}],
    }


def healthy() -> list[Pair]:
    """Pairs of all routes, in no order, some of them failed."""
    draw = random.Random(1)
    made = []
    for route in [*ROUTES * 3, "/none"]:
        ids = [f"i{at}" for at in range(draw.choice([1, 6, 6, 23, 40]))]
        sides = []
        for _ in SIDES:
            draw.shuffle(ids)
            scores = [draw.choice([0.1, 0.5, 1, 2.5, None]) for _ in ids]
            sides.append(answer(body(ids, scores, draw.choice(["spam", "ham"]), f"some words {draw.random()}")))
        if draw.random() < 0.2:
            sides[draw.randrange(2)] = failure()
        notes = {"truth": ids[:2], "label": "spam", "account": draw.randrange(5), "region": draw.choice(["us", "eu"])}
        if draw.random() < 0.3:
            del notes["truth"]
        made.append(pair(*sides, target=route, body={"ids": sorted(ids), "truth": ids[:1]}, annotations=notes))
    draw.shuffle(made)
    return named(made)


def named(pairs: Sequence[Pair]) -> list[Pair]:
    """Each with an id and a start of its own."""
    return [
        Pair(f"{at}", 1e9 + at, one.request, one.baseline, one.candidate, annotations=one.annotations)
        for at, one in enumerate(pairs)
    ]


GOOD = body(["a", "b", "c"], [3, 2, 1])


def with_value(literal: bytes) -> bytes:
    """A body in which this stands for every id, score, label, text and probability."""
    return orjson.dumps(body(["@", "b"], ["@", 1], "@", "@") | {"probabilities": ["@", 0.5]}).replace(b'"@"', literal)


VALUES = {
    "null": b"null",
    "true": b"true",
    "object": b'{"a": 1}',
    "list": b"[[1], [2]]",
    "NaN": b"NaN",
    "-Infinity": b"-Infinity",
    "10^400": b"1" + b"0" * 400,
    "1e400": b"1e400",
    "10^5000": b"1" + b"0" * 5000,
    "1e308": b"1e308",
    "-1e308": b"-1e308",
    "1e-320": b"1e-320",
    "-0.0": b"-0.0",
    "2^64": b"18446744073709551616",
    "bad UTF-8": b'"\xff\xfe"',
    "lone surrogate": b'"\\ud800"',
    "control": b'"\\u0000\\n"',
    "long text": b'"' + b"x" * 300_000 + b'"',
    "empty": b'""',
}
BODIES: dict[str, bytes] = {
    **{f"value {name}": with_value(literal) for name, literal in VALUES.items()},
    "nothing": b"",
    "blank": b"  ",
    "truncated": orjson.dumps(GOOD)[:-7],
    "trailing": orjson.dumps(GOOD) + b"}",
    "html": b"<html>",
    "null": b"null",
    "number": b"1e400",
    "string": b'"items"',
    "empty": b"{}",
    "empty lists": orjson.dumps(body([], [])),
    "deep lists": b"[" * 100_000,
    "deep in it": b'{"items":' * 2000 + b"[]" + b"}" * 2000,
    "deep within bounds": b'{"items":' * 500 + b"[]" + b"}" * 500,
    "duplicates": orjson.dumps(body(["a", "a", "b", "a"], [1, 2, 3, 4])),
    "1 and '1'": orjson.dumps(body([1, "1", 1.0, "01"], [1, 2, 3, 4])),
    "same key twice": b'{"items": 1, "items": [{"id": 1, "id": 2, "score": 1}], "label": [], "label": "a"}',
    "lengths differ": orjson.dumps({**GOOD, "scores": [1, 2]}),
    "scores tied": orjson.dumps(body(["a", "b", "c"], [1, 1.0, 1])),
    "one item": orjson.dumps(body(["a"], [1])),
    "wrong all over": orjson.dumps({"items": {"id": [1]}, "groups": 3, "scores": "x", "label": {}, "choices": [[]]}),
    "many labels": orjson.dumps({**GOOD, "label": ["a", None, 1, 2.5, {}], "probabilities": [[0.5], [2, 3], [1]]}),
    "BOM": b"\xef\xbb\xbf" + orjson.dumps(GOOD),
    "UTF-16": '{"items": []}'.encode("utf-16"),
    "bytes": bytes(range(256)),
}
ANSWERS: dict[str, Exchange] = {
    **{name: answer(raw) for name, raw in BODIES.items()},
    "gzip that is none": answer(b"no gzip", head=b"Content-Encoding: gzip\r\n"),
    "gzip cut short": answer(gzip.compress(orjson.dumps(GOOD))[:-9], head=b"content-encoding: gzip\r\n"),
    "gzip bomb": answer(gzip.compress(b" " * 2**25), head=b"content-encoding: gzip\r\n"),
    "unknown coding": answer(GOOD, head=b"Content-Encoding: rot13\r\n"),
    "head of bytes": answer(GOOD, head=bytes(range(256))),
    "not captured whole": Exchange(Outcome.OK, 200, b"", b'{"items": [', 10**12, ttfb=0.01, total=0.02),
    "no status": answer(GOOD, status=-1),
    "status of many digits": answer(GOOD, status=10**15),
    "404": answer(b"", status=404),
    "204": answer(b"", status=204),
    "no times": Exchange(Outcome.OK, 200, b"", orjson.dumps(GOOD), 0, ttfb=math.nan, total=-math.inf),
    "timeout": failure(),
}
LONG = {
    "100,000 items": orjson.dumps(body([f"i{at}" for at in range(100_000)], [at / 7 for at in range(100_000)])),
    "one more": orjson.dumps(body(list(range(100_001)), [1] * 100_001, ["a"] * 100_001, "x" * 10**6)),
}


def rows(columns: Columns, skip: int = -1) -> list[list[Any]]:
    """All that a batch says of each pair, but for the one at `skip`; numbers as their bytes."""
    kept = [at for at in range(len(columns)) if at != skip]
    found: list[list[Any]] = [[] for _ in kept]
    for field in dataclasses.fields(columns):
        parts = getattr(columns, field.name)
        if field.name == "tables":
            by_pair = _by_pair(parts)
            for row, at in zip(found, kept, strict=True):
                row.append(sorted(by_pair.get(at, ())))
        elif field.name == "scores":
            for row, at in zip(found, kept, strict=True):
                row.append([parts[side].value[parts[side].pair == at].tobytes() if parts else b"" for side in SIDES])
        elif field.name == "unlabelled":
            by_id: dict[str, Unlabelled] = {one.id: one for one in parts}
            for row, at in zip(found, kept, strict=True):
                row.append(repr(by_id.get(_id(columns, at))))
        else:
            for name, part in parts.items() if isinstance(parts, Mapping) else (("", parts),):
                assert len(part) == len(columns), field.name
                for row, at in zip(found, kept, strict=True):
                    row.append((field.name, name, part[at].tobytes() if isinstance(part, np.ndarray) else part[at]))
    return found


def _by_pair(tables: Sequence[Table]) -> dict[int, list[Any]]:
    entries: dict[int, list[Any]] = {}
    for route, counts in tables:
        for at, column in zip(counts.pair.tolist(), counts.column.tolist(), strict=True):
            entries.setdefault(at, []).append((route, counts.table, counts.key, column, counts.width))
    return entries


def _id(columns: Columns, at: int) -> str:
    return f"{columns.started[at] - 1e9:.0f}"


def poisoned(route: str, exchange: Exchange, side: Side, at: int) -> Pair:
    other = answer(GOOD)
    sides = (exchange, other) if side is Side.BASELINE else (other, exchange)
    made = pair(*sides, target=route, body={"ids": ["a", "b", "c"]}, annotations={"truth": ["a"], "label": "spam"})
    return Pair(f"p{at}", 1e9 - 7, made.request, made.baseline, made.candidate, annotations=made.annotations)


HEALTHY = healthy()
EXPECTED = rows(COMPARER(HEALTHY))


def check(poison: Pair, place: int) -> None:
    """The batch with one more pair at this place: the others are as ever, and it is what it would be alone."""
    batch = [*HEALTHY[:place], poison, *HEALTHY[place:]]
    columns = COMPARER(batch)
    assert rows(columns, skip=place) == EXPECTED
    alone = COMPARER([poison])
    assert rows(columns)[place] == rows(alone)[0]
    for side in SIDES:
        kind = columns.failure[side][place]
        assert bool(kind) == bool(columns.failed[side][place])
        assert kind in ("", *KINDS)
        assert columns.ttfb[side][place] >= 0
        assert columns.total[side][place] >= 0
    for name, metric in CATALOGUE.items():
        value, applicable = float(columns.values[name][place]), bool(columns.applicable[name][place])
        assert math.isnan(value) or (applicable and metric.low <= value <= metric.high), name
    tallies = PLAN.tally(columns, {"region=us": 1})
    assert sum(pairs for _, pairs in tallies.values()) == len(batch)
    assert all(np.isfinite(array).all() for tally, _ in tallies.values() for array in tally.values())


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_of_any_kind_changes_no_other_pair(name: str) -> None:
    first = list(ANSWERS).index(name)
    for at, route in enumerate(ROUTES):
        place = (first + 4 * at) % (len(HEALTHY) + 1)
        check(poisoned(route, ANSWERS[name], SIDES[(first + at) % 2], place), place)


@pytest.mark.parametrize("place", [0, len(HEALTHY) // 2, len(HEALTHY)])
@pytest.mark.parametrize("name", LONG)
def test_a_list_of_any_length_changes_no_other_pair(name: str, place: int) -> None:
    for route in ROUTES:
        check(poisoned(route, answer(LONG[name]), SIDES[place % 2], place), place)


@pytest.mark.parametrize("name", BODIES)
def test_a_request_of_any_kind_changes_no_other_pair(name: str) -> None:
    raw, good = BODIES[name], answer(GOOD)
    for place, route in enumerate(ROUTES):
        request = Request("POST", f"{route}?\x00\udcff", bytes(range(256)), raw, len(raw))
        check(Pair(f"p{place}", 1e9 - 7, request, good, good, annotations=raw), place)


def test_a_batch_of_nothing_but_poison_is_counted() -> None:
    batch = [
        poisoned(route, exchange, SIDES[(at + first) % 2], 0)
        for first, exchange in enumerate(ANSWERS.values())
        for at, route in enumerate(ROUTES)
    ]
    columns = COMPARER(batch)
    assert sum(pairs for _, pairs in PLAN.tally(columns, {}).values()) == len(batch)
    assert rows(columns) == [rows(COMPARER([one]))[0] for one in batch]


def test_the_check_sees_a_single_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a family that lets one pair touch another's value."""
    from shadowproxy.compare import comparer
    from shadowproxy.compare.families.table import FAMILIES
    from shadowproxy.compare.view import Values, View

    def leaking(view: View) -> Mapping[str, Values]:
        found = dict(FAMILIES[0](view))
        values, applicable = found["failures.difference"]
        found["failures.difference"] = Values(np.nextafter(values, float(view.failed[Side.BASELINE].sum())), applicable)
        return found

    monkeypatch.setattr(comparer, "FAMILIES", (leaking, *FAMILIES[1:]))
    with pytest.raises(AssertionError):
        check(poisoned("/lists", ANSWERS["html"], Side.BASELINE, 0), 0)
