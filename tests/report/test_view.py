"""A pair as a record: everything that was recorded, bounded, and nothing of it but text and numbers."""

from __future__ import annotations

import base64
import gzip
import json
import math
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pairs.samples import PAIRS

from shadowproxy.config import loads
from shadowproxy.model import Exchange, Outcome, Pair, Request
from shadowproxy.report.view import MOST_DIFFERENCES, MOST_ITEMS, MOST_TEXT, Exemplar, Viewer, body_view, ended

ROUTES = loads(
    """
baseline: http://a:1
candidate: http://b:1
routes:
  - {name: rank, path: /rank, ids: "response.body.items[].id", scores: "response.body.items[].score"}
  - {name: shop, path: /shop, ids: request.body.ids, scores: response.body.scores}
  - {name: plain, path: /plain}
"""
).routes
VIEWER = Viewer(ROUTES)
HEAD = b"Content-Type: application/json\r\nX-A: 1\r\nx-a: 2\r\n"
HOSTILE = "</script><img src=x onerror=alert(1)>\u202e"


def answer(value: Any, head: bytes = HEAD, **more: Any) -> Exchange:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return Exchange(Outcome.OK, 200, head, body, len(body), b"", 0.01, 0.02, **more)


def of(baseline: Exchange, candidate: Exchange, path: str = "/rank", asked: bytes = b"{}") -> Pair:
    return Pair("id", 1.0, Request("POST", path, HEAD, asked, len(asked)), baseline, candidate)


def exemplar(pair: Pair) -> Exemplar:
    return Exemplar(
        guardrail=None, cohort="all", loss=None, value=None, id=pair.id, started=pair.started, route="", cohorts=(),
        method=pair.request.method, target=pair.request.target, baseline=ended(pair.baseline),
        candidate=ended(pair.candidate), partition=0, entry="1-1", position=0,
    )  # fmt: skip


def view(pair: Pair, **more: Any) -> dict[str, Any]:
    """As a browser gets it."""
    return json.loads(msgspec.json.encode(VIEWER(pair, exemplar(pair), **more)))


def items(*found: tuple[str, float | None]) -> dict[str, Any]:
    return {"items": [{"id": name, "score": score} for name, score in found]}


def test_rankings_stand_side_by_side_with_each_items_move() -> None:
    got = view(
        of(answer(items(("a", 3.0), ("b", 2.0), (HOSTILE, None))), answer(items(("b", 9.5), ("c", 1), ("a", 0))))
    )
    assert got["ranking"] == {
        "items": [
            {"id": "a", "baseline": 1, "candidate": 3, "baseline_score": 3.0, "candidate_score": 0.0},
            {"id": "b", "baseline": 2, "candidate": 1, "baseline_score": 2.0, "candidate_score": 9.5},
            {"id": HOSTILE, "baseline": 3, "candidate": None, "baseline_score": None, "candidate_score": None},
            {"id": "c", "baseline": None, "candidate": 2, "baseline_score": None, "candidate_score": 1.0},
        ],
        "more": 0,
    }
    assert got["values"]["ranking.top1"] == 0.0
    assert all(math.isfinite(value) for value in got["values"].values())


def test_ids_in_the_request_are_ranked_by_their_scores() -> None:
    pair = of(answer({"scores": [1, 3]}), answer({"scores": [5, 4]}), "/shop", b'{"ids": ["x", "y"]}')
    found = [(item["id"], item["baseline"], item["candidate"]) for item in view(pair)["ranking"]["items"]]
    assert found == [("y", 1, 2), ("x", 2, 1)]


def test_without_rankings_there_is_none() -> None:
    assert view(of(answer(items()), answer(b"{")))["ranking"] == {"items": [], "more": 0}
    for pair in (
        of(answer({}), answer({}), "/plain"),
        of(answer({}), answer({}), "/nowhere"),
        of(answer(1), answer(2)),
    ):
        assert view(pair)["ranking"] is None


def test_heads_bodies_and_differences() -> None:
    coded = gzip.compress(b'{"a": 1, "<b>": [1]}')
    failed = Exchange(Outcome.TIMEOUT, detail="no answer")
    got = view(of(answer(coded, b"Content-Encoding: gzip\r\n"), answer({"a": 2}), asked=b"\xff\xfe"))
    assert got["request"]["headers"] == [["content-type", "application/json"], ["x-a", "1"], ["x-a", "2"]]
    assert got["request"]["body"] == {
        "text": None, "base64": base64.b64encode(b"\xff\xfe").decode(), "bytes": 2, "truncated": False, "coding": "",
        "fault": "",
    }  # fmt: skip
    body = got["baseline"]["body"]
    assert (body["text"], body["json"], body["coding"]) == ('{"a": 1, "<b>": [1]}', {"a": 1, "<b>": [1]}, "gzip")
    assert body["bytes"] == len(coded)
    assert [(one["where"], one["baseline"], one["candidate"]) for one in got["differences"]] == [
        ("header content-encoding", "gzip", None),
        ("header content-type", None, "application/json"),
        ("header x-a", None, "1, 2"),
        ("$.a", "1", "2"),
        ('$["<b>"]', "[1]", None),
    ]
    got = view(
        replace(of(answer({}), failed, "/plain"), replica=answer({}), notes=("left out",), annotations=b'{"a":"\xff"}')
    )
    assert got["candidate"] == {
        "outcome": "timeout", "status": 0, "ttfb": None, "total": None, "detail": "no answer", "headers": [],
        "body": {"text": "", "base64": None, "bytes": 0, "truncated": False, "coding": "", "fault": ""},
    }  # fmt: skip
    assert got["replica"]["status"] == 200
    assert (got["notes"], got["annotations"]) == (["left out"], '{"a":"\ufffd"}')
    assert got["values"]["failures.difference"] == 1.0


def test_who_may_not_see_heads_and_bodies_gets_nothing_of_them() -> None:
    secret = "opensesame"  # noqa: S105  (so that it is known when it is seen)
    said = answer({"items": [{"id": secret, "score": 1}], secret: secret}, f"X-{secret}: {secret}\r\n".encode())
    pair = replace(of(said, said, asked=secret.encode()), annotations=b'"opensesame"', replica=said)
    pair = replace(pair, candidate=answer(items((secret, 2))))
    assert secret in json.dumps(view(pair))
    got = view(pair, withhold=True)
    assert secret not in json.dumps(got)
    assert got["withheld"] is True
    assert [got[side]["body"] for side in ("request", "baseline", "candidate", "replica")] == [None] * 4
    assert got["values"]["failures.difference"] == 0.0


def test_sizes_are_bounded_and_what_is_left_out_is_counted() -> None:
    many = answer(items(*((f"i{at}", at) for at in range(3000))))
    got = view(of(many, answer(items())))
    assert (len(got["ranking"]["items"]), got["ranking"]["more"]) == (MOST_ITEMS, 3000 - MOST_ITEMS)
    assert len(got["differences"]) == MOST_DIFFERENCES
    assert got["more"] == 3000 - MOST_DIFFERENCES
    bomb = gzip.compress(b"[" + b"1," * 10**7 + b"1]")
    shown = body_view(b"Content-Encoding: gzip", bomb, len(bomb))
    assert (shown.text, shown.fault) == (None, "too_large")
    long = "ä" * MOST_TEXT
    shown = body_view(b"", long.encode(), 2 * MOST_TEXT)
    assert shown.text == "ä" * (MOST_TEXT // 2)
    assert (shown.truncated, shown.json) == (True, msgspec.UNSET)
    assert len(view(of(answer(["x" * 10**5]), answer([1])))["differences"][0]["baseline"]) < 3000


def test_a_body_that_was_cut_is_shown_as_far_as_it_goes_and_not_judged() -> None:
    cut = replace(answer(b'{"items": [{"id": "\xc3'), body_size=5000)
    got = view(of(answer(items(("a", 1))), cut))
    assert got["candidate"]["body"]["text"] == '{"items": [{"id": "'
    assert got["candidate"]["body"]["truncated"] is True
    assert got["values"] == {}
    assert "not here as a whole" in got["notes"][0]
    assert got["ranking"]["items"][0]["candidate"] is None


def test_halves_of_characters_do_no_harm() -> None:
    got = view(of(answer(b'{"\\ud800": "\\ud800", "a": 1e999}'), answer({})))
    assert got["differences"][0]["where"] == '$["?"]'


@settings(max_examples=60)
@given(PAIRS, st.booleans())
def test_any_pair_has_a_view(pair: Pair, withhold: bool) -> None:
    got = view(pair, withhold=withhold)
    assert got["exemplar"]["id"] == pair.id
    assert (got["baseline"]["body"] is None) == withhold
