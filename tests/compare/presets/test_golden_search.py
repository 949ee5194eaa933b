"""Bodies as the protocols' documentation prints them, or as servers wrote them: what is found, and why it is known."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from shadowproxy.compare.inspecting.inspection import detect
from shadowproxy.compare.presets import PRESETS
from shadowproxy.compare.reader import RouteReader
from shadowproxy.config import Route
from shadowproxy.config.presets import PRESETS as EXPRESSIONS
from shadowproxy.model import Exchange, Outcome, Pair, Request, Side

GOLDEN = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for kind in ("search-*.json", "openai-*.json") for path in GOLDEN.glob(kind))
OURS = ("elasticsearch", "solr", "openai-chat", "openai-completions")


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    return found


def exchange_of(case: dict[str, Any], *, packed: bool = False) -> Exchange:
    body = (GOLDEN / case["stream"]).read_bytes() if "stream" in case else orjson.dumps(case["body"])
    head = f"Content-Type: {'text/event-stream; charset=utf-8' if 'stream' in case else 'application/json'}".encode()
    if packed:
        head, body = head + b"\r\nContent-Encoding: gzip", gzip.compress(body)
    return Exchange(Outcome.OK, 200, head, body, len(body), ttfb=0.01, total=0.02)


def pair_of(case: dict[str, Any], *, packed: bool = False) -> Pair:
    exchange = exchange_of(case, packed=packed)
    return Pair("id", 1e9, Request("POST", case["path"]), exchange, exchange)


def test_the_page_has_every_expression() -> None:
    page = (Path(__file__).parents[3] / "docs" / "presets.md").read_text()
    for preset in ("elasticsearch", "solr", "openai-chat"):
        section = page.partition(f"`preset: {preset}`")[2].partition("\n## ")[0]
        for key, expression in EXPRESSIONS[preset].items():
            assert f"| `{key}` | `{expression}` |" in section


def test_every_preset_has_one() -> None:
    assert {golden(name)["preset"] for name in NAMES} == set(OURS)
    assert set(OURS) <= PRESETS.keys() & EXPRESSIONS.keys()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_found(name: str, packed: bool) -> None:
    case = golden(name)
    reading = RouteReader(Route(name="r", preset=case["preset"])).read(pair_of(case, packed=packed))
    assert not any(reading.failure.values())
    for side in (Side.BASELINE, Side.CANDIDATE):
        answer = reading.answers[side]
        found: dict[str, Any] = {"text": answer.text, "finish": answer.finish}
        if answer.ranking is not None:
            assert answer.ranking.scores is not None
            scores = [None if math.isnan(score) else score for score in answer.ranking.scores]
            found |= {"ids": answer.ranking.ids, "scores": scores}
        assert {key: value for key, value in found.items() if value is not None} == case["finds"]


@pytest.mark.parametrize("name", [name for name in NAMES if "document" in golden(name)])
def test_the_document_of_a_stream(name: str) -> None:
    case = golden(name)
    exchange = exchange_of(case)
    assert PRESETS[case["preset"]].response(exchange.head, exchange.body) == case["document"]


@pytest.mark.parametrize("name", NAMES)
def test_only_its_own_protocol_is_detected(name: str) -> None:
    case = golden(name)
    pair = pair_of(case)
    found = {preset: reason for preset, reason in detect(pair, pair.baseline) if preset in OURS}
    assert found == {case["preset"]: case["detected"]}


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        {"hits": []},
        {"hits": {"hits": []}},
        {"hits": {"hits": [{"id": 1}]}},
        {"hits": {"hits": [1]}},
        {"hits": {"hits": [{"_id": "1"}, {}]}},
        {"responses": [{"hits": {"hits": [{"_id": "1"}]}, "_shards": {}}]},
        {"response": {"docs": []}},
        {"response": "text"},
        {"choices": [1]},
        {"choices": []},
        {"choices": [{}]},
        {"choices": {"message": 1}},
        {"error": {"type": "index_not_found_exception"}, "status": 404},
        None,
    ],
    ids=str,
)
def test_what_only_looks_like_it_is_not_detected(body: Any) -> None:
    raw = orjson.dumps(body)
    exchange = Exchange(Outcome.OK, 200, b"", raw, len(raw))
    pair = Pair("id", 1e9, Request("POST", "/"), exchange, exchange)
    assert [preset for preset, _ in detect(pair, exchange) if preset in OURS] == []
