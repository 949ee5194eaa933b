"""What is named never leaves the process: in any shape and encoding; where it can't be looked for, nothing does."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import brotli
import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from proxy.harness import answering, ask, client, get, post, proxy, read_response, upstream

from shadowproxy.config import Limits, Redact
from shadowproxy.model import Exchange, Outcome, Pair, Request
from shadowproxy.pairs import codec
from shadowproxy.proxy.framing import RequestRules, ResponseRules
from shadowproxy.proxy.redact import Redactor, guarded_headers
from shadowproxy.proxy.redact_json import Fields, UnreadableError

SECRET = "s3cr3t-4711-value"  # noqa: S105
KEY = "0123456789abcdef"
JSON = b"Content-Type: application/json"
CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
}


def redactor(**settings: Any) -> Redactor:
    return Redactor(Redact.model_validate({"key": KEY, **settings}))


def pair(
    *,
    target: str = "/",
    head: bytes = b"",
    request: bytes = b"",
    answer: bytes = b"",
    answer_head: bytes | None = None,
    cut: int = 0,
    annotations: bytes = b"",
) -> Pair:
    """A pair whose three answers are alike; `cut` bytes of each body were not captured."""
    exchange = Exchange(
        Outcome.OK,
        status=200,
        head=head if answer_head is None else answer_head,
        body=answer[: len(answer) - cut],
        body_size=len(answer),
        digest=b"d" * 16 if cut else b"",
    )
    asked = Request("POST", target, head, request[: len(request) - cut], len(request))
    return Pair("id", 1.0, asked, exchange, exchange, exchange, annotations)


def written(found: Pair) -> bytes:
    """Everything that would be stored, uncompressed, with all codings of bodies undone where there are any left."""
    packed = codec.encode([found], 0)
    assert codec.decode(packed) == [found]
    return packed


def both(found: Pair) -> list[bytes]:
    assert found.replica is not None
    assert found.baseline.body == found.candidate.body == found.replica.body
    return [found.request.body, found.baseline.body]


# JSON fields

LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.text("abc", max_size=4)
JUNK = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("xyz", max_size=2), inner, max_size=2)
)
AT_SECRET = st.recursive(
    st.just(SECRET) | st.just(f"mail {SECRET}"),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=2) | st.dictionaries(st.text("xyz", max_size=2), inner, min_size=1)
    ),
    max_leaves=4,
)


@st.composite
def holding(draw: st.DrawFn, steps: list[str]) -> Any:
    """A document that holds the secret only where `steps` lead, in lists or not, beside any junk."""
    if not steps:
        return draw(AT_SECRET)
    inner = holding(steps[1:])
    if steps[0] == "[*]":
        return draw(st.lists(inner, max_size=3) | inner)
    if steps[0] == "*":
        found = draw(st.dictionaries(st.text("pqr", max_size=2), inner, max_size=3))
    else:
        found = {**draw(st.dictionaries(st.text("xyz", max_size=2), JUNK, max_size=2)), steps[0]: draw(inner)}
    return draw(st.just(found) | st.lists(st.just(found), min_size=1, max_size=2)) if steps[0] != "*" else found


PATHS = {
    "user.email": ["user", "email"],
    "items[*].owner": ["items", "[*]", "owner"],
    "tokens[*]": ["tokens", "[*]"],
    "[*].user": ["[*]", "user"],
    "by_name.*.mail": ["by_name", "*", "mail"],
    '"a.b"."é"': ["a.b", "é"],
    "*": ["*"],
}


@given(
    path=st.sampled_from(sorted(PATHS)),
    mask=st.sampled_from(["drop", "hash"]),
    coding=st.sampled_from(sorted(CODINGS)),
    escaped=st.booleans(),
    data=st.data(),
)
def test_no_secret_at_a_redacted_path_survives(path: str, mask: str, coding: str, escaped: bool, data: Any) -> None:
    document = data.draw(holding(PATHS[path]))
    text = json.dumps(document, ensure_ascii=escaped, indent=data.draw(st.none() | st.just(2)))
    body = CODINGS[coding](text.encode())
    head = JSON + (b"\r\nContent-Encoding: " + coding.encode() if coding else b"") + b"\r\nX-After: 1"
    scrub = redactor(json_fields={path: mask}, annotations={path: mask})
    found = scrub(pair(head=head, request=body, answer=body, annotations=text.encode()))
    assert SECRET.encode() not in written(found)
    assert found.notes == ()
    for plain in (*both(found), found.annotations):
        orjson.loads(plain)
    assert found.baseline.head == found.request.head == JSON + b"\r\nX-After: 1"
    assert not found.baseline.truncated
    assert found.request.body_size == len(found.request.body)


@given(document=st.dictionaries(st.text("xyz", max_size=2), JUNK), mask=st.sampled_from(["drop", "hash"]))
def test_what_is_not_named_stays_equal(document: dict[str, Any], mask: str) -> None:
    scrub = redactor(json_fields={"user.email": mask})
    body = json.dumps({**document, "user": {"email": SECRET, "id": 7}}).encode()
    found = [orjson.loads(plain) for plain in both(scrub(pair(head=JSON, request=body, answer=body)))]
    for plain in found:
        email = plain["user"].pop("email", None)
        assert (email is None) is (mask == "drop")
        assert plain == {**document, "user": {"id": 7}}


def test_the_first_of_two_equal_names_does_not_slip_through() -> None:
    body = b'{"user": {"email": "%b"}, "user": {}, "x": {"email": 1, "email": 2}}' % SECRET.encode()
    scrub = redactor(json_fields={"user.email": "drop"})
    assert both(scrub(pair(request=body, answer=body))) == [b'{"user":{},"x":{"email":2}}'] * 2


def test_items_that_are_dropped_leave_their_places() -> None:
    scrub = redactor(json_fields={"tokens[*]": "drop", "ids": "hash"})
    found = scrub(pair(answer=b'{"tokens": ["a", null, ["b"]], "ids": null}'))
    assert found.baseline.body == b'{"tokens":[null,null,null],"ids":null}'


def test_a_hash_tells_accounts_apart_wherever_they_stand_and_depends_on_the_key() -> None:
    rules = {"json_fields": {"account": "hash"}, "headers": {"x-account": "hash"}, "query": {"account": "hash"}}
    first = redactor(**rules)

    def hashes(scrub: Redactor, account: str, value: Any) -> set[str]:
        body = json.dumps({"account": value}).encode()
        found = scrub(pair(target=f"/?account={quote(account)}", head=f"X-Account:  {account} ".encode(), request=body))
        return {
            found.request.target.removeprefix("/?account="),
            found.request.head.decode().removeprefix("X-Account: "),
            orjson.loads(found.request.body)["account"],
        }

    (alice,) = hashes(first, "alice b", "alice b")
    (bob,) = hashes(first, "bob", "bob")
    (number,) = hashes(first, "7", 7)
    assert {alice} == hashes(redactor(**rules), "alice b", "alice b")
    assert len({alice, bob, number, *hashes(redactor(**rules, key="another key, as long"), "bob", "bob")}) == 4
    assert alice.startswith("hash:")
    assert len(alice) == len("hash:") + 32


# Bodies that are not one document


EVENTS = (
    b': a comment {"user": {"email": "%b"}}\r\n\r\n'
    b'event: delta\r\nid: 1\r\ndata: {"user": {"email": "%b"}, "n": 1}\r\n\r\n'
    b'data: {"user":\ndata: {"email": "%b"}}\n\ndata:\n\nunknown: %b\n\n{"user": {"email": "%b"}}\n\ndata: [DONE]\n\n'
)


def test_each_event_of_a_stream_is_looked_into() -> None:
    events = EVENTS.replace(b"%b", SECRET.encode())
    scrub = redactor(json_fields={"user.email": "drop"})
    found = scrub(pair(answer_head=b"content-type: text/event-stream; charset=utf-8", answer=events))
    assert found.baseline.body == (
        b'event: delta\nid: 1\ndata: {"user":{},"n":1}\n\ndata: {"user":{}}\n\ndata: \n\ndata: [DONE]\n\n'
    )
    assert SECRET.encode() not in written(found)


def test_each_line_of_json_lines_is_looked_into() -> None:
    scrub = redactor(json_fields={"email": "drop"})
    body = b'{"email": "a", "n": 1}\n\n{"n": 2}\r\n'
    head = b"Content-Type: application/x-ndjson"
    assert scrub(pair(answer_head=head, answer=body)).baseline.body == b'{"n":1}\n{"n":2}\n'
    found = scrub(pair(answer_head=head, answer=body + b"email: a"))
    assert found.baseline.body == b""


SECRETIVE = json.dumps({"user": {"email": SECRET}}).encode()
UNREADABLE: dict[str, tuple[bytes, bytes, int, str]] = {
    "cut by the cap": (JSON, SECRETIVE, 2, "truncated"),
    "not JSON": (JSON, b"<b>" + SECRETIVE, 0, "not_json"),
    "JSON and more": (JSON, SECRETIVE + b" x", 0, "not_json"),
    "another media type": (b"Content-Type: text/html", b"<b>" + SECRETIVE, 0, "not_json"),
    "a form": (b"Content-Type: application/x-www-form-urlencoded", b"email=" + SECRET.encode(), 0, "not_json"),
    "no media type": (b"", SECRET.encode(), 0, "not_json"),
    "NaN": (JSON, b'{"x": NaN, "user": {"email": "%b"}}' % SECRET.encode(), 0, "not_json"),
    "UTF-16": (JSON, SECRETIVE.decode().encode("utf-16"), 0, "not_json"),
    "unknown coding": (JSON + b"\r\nContent-Encoding: lzma", SECRETIVE, 0, "encoding"),
    "lying coding": (JSON + b"\r\nContent-Encoding: gzip", SECRETIVE, 0, "encoding"),
    "cut coding": (JSON + b"\r\nContent-Encoding: gzip", gzip.compress(SECRETIVE)[:-1], 0, "encoding"),
    "bomb": (JSON + b"\r\nContent-Encoding: gzip", gzip.compress(SECRETIVE + b" " * 2**25), 0, "encoding"),
    "deep": (JSON, b'{"user": {"email": "%b"}, "x": %b}' % (SECRET.encode(), b"[" * 900 + b"]" * 900), 0, "not_json"),
    "deeper": (JSON, b"[" * 5000 + SECRETIVE + b"]" * 5000, 0, "not_json"),
    "events that are no JSON": (
        b"Content-Type: text/event-stream",
        b"data: " + SECRETIVE[:-1] + b"\n\n",
        0,
        "not_json",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_body_that_cannot_be_read_is_left_out_with_its_size_and_a_digest(name: str) -> None:
    head, body, cut, reason = UNREADABLE[name]
    scrub = redactor(json_fields={"user.email": "hash"})
    found = scrub(pair(head=head, request=body, answer=body, cut=cut))
    assert both(found) == [b"", b""]
    assert SECRET.encode() not in written(found)
    assert found.request.body_size == found.baseline.body_size == len(body)
    assert found.baseline.truncated
    assert len(found.baseline.digest) == 16
    assert found.baseline.digest == found.candidate.digest
    if cut:
        assert found.baseline.digest == b"d" * 16
    parts = ("request.body", "baseline.body", "candidate.body", "replica.body")
    assert found.notes == tuple(f"{part} left out: {reason}" for part in parts)
    assert scrub.left_out == Counter({reason: 4})


def test_the_digest_of_what_is_left_out_cannot_be_tried_out_without_the_key() -> None:
    one, other = (redactor(json_fields={"a": "drop"}, key=key * 20)(pair(answer=b"1234 x")) for key in "ab")
    assert one.baseline.digest != other.baseline.digest


def test_empty_bodies_and_failures_pass() -> None:
    scrub = redactor(json_fields={"a": "drop"})
    failed = Exchange(Outcome.TIMEOUT, detail="late")
    given_ = Pair("id", 1.0, Request("GET", "/"), failed, failed)
    assert scrub(given_) == given_


def test_without_json_fields_no_body_is_touched() -> None:
    for head, body, cut, _ in UNREADABLE.values():
        given_ = pair(answer_head=head, answer=body, cut=cut)
        assert redactor()(given_) == given_


def test_annotations_that_cannot_be_read_are_left_out() -> None:
    scrub = redactor(annotations={"a.b": "drop"})
    assert scrub(pair(annotations=b'{"a": {"b": 1, "c": 2}}')).annotations == b'{"a":{"c":2}}'
    found = scrub(pair(annotations=b"{" + SECRET.encode()))
    assert found.annotations == b""
    assert found.notes == ("annotations left out: not_json",)


@given(text=st.binary(max_size=60))
def test_no_bytes_do_more_than_be_left_out(text: bytes) -> None:
    fields = Fields({"a[*].b": lambda _value: "x"})
    for media_type in (b"application/json", b"text/event-stream", b"application/x-ndjson"):
        try:
            fields.body(text, media_type)
        except UnreadableError as error:
            assert error.reason == "not_json"  # noqa: PT017  (most bytes are refused, and some may not be)


# Headers and parameters


def test_headers_go_as_whole_lines_by_exact_name() -> None:
    scrub = redactor(headers={"X-Gone": "drop", "x-hash": "hash"})
    head = (
        b"AUTHORIZATION: Basic a\r\nX-Cookie: stays\r\nCookie2: stays\r\ncookie:x=1\r\nA: Cookie: stays\r\nx-gone:\r\n"
        b"Set-Cookie: a=1;\r\n\tfolded=2\r\nX-HASH: 1\r\nProxy-Authorization : b"
    )
    found = scrub(pair(head=head)).baseline.head
    assert found.startswith(b"X-Cookie: stays\r\nCookie2: stays\r\nA: Cookie: stays\r\nX-HASH: hash:")
    assert found.count(b"\r\n") == 3
    assert scrub(pair(head=b"")).baseline.head == b""


LINES = st.sampled_from(
    [
        b"Cookie: a",
        b"Cookie: ab",
        b"cookie: a",
        b"Authorization: Basic x",
        b"X-Hash: 1",
        b"X-Hash: 12",
        b"X-Via-Hash: 1",
        b"Referer: http://a/?token=S&b=1",
        b"Referer: http://a/",
        b"Accept: */*",
        b"Connection: Cookie",
        b"A: Cookie: a",
        b"Set-Cookie: a=1",
    ]
)


@pytest.mark.parametrize("more", [{}, {"connection": "drop"}, {"via": "hash", "x-forwarded-for": "hash"}])
@given(asked=st.lists(LINES, max_size=8), answered=st.lists(LINES, max_size=8))
def test_lines_told_by_who_read_the_heads_are_masked_as_those_that_are_looked_for(
    more: dict[str, str], asked: list[bytes], answered: list[bytes]
) -> None:
    settings = Redact.model_validate({"key": KEY, "headers": {"x-hash": "hash", **more}})
    names, scrub = guarded_headers(settings), Redactor(settings)
    rules = RequestRules(Limits(), annotation_header="x-ann", marker_header="x-mark", guarded=names)
    asked = [line for at, line in enumerate(asked) if not line.startswith(b"Content-Length") or line not in asked[:at]]
    answered = [
        line for at, line in enumerate(answered) if not line.startswith(b"Content-L") or line not in answered[:at]
    ]
    request = rules.parse(b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", *asked]), b"10.0.0.1", lambda: "id")
    response = ResponseRules(names).parse(b"\r\n".join([b"HTTP/1.1 200 OK", *answered]))
    found = pair(head=b"Host: a" + request.fields, answer_head=response.received.removeprefix(b"\r\n"))
    guarded = None
    if request.guarded is not None and response.guarded is not None:
        guarded = request.guarded + response.guarded
    assert (guarded is None) == bool(more)
    assert scrub(found, guarded) == scrub(found)


@pytest.mark.parametrize("name", ["Authorization", "Cookie", "Set-Cookie", "Proxy-Authorization", "X-Api-Key"])
def test_sensitive_headers_are_off_unless_they_are_asked_for(name: str) -> None:
    line = f"{name}: {SECRET}".encode()
    assert redactor()(pair(head=line)).request.head == b""
    assert redactor(headers={"x-other": "drop"})(pair(head=line)).request.head == b""
    assert redactor(headers={name: "keep"})(pair(head=line)).request.head == line


@pytest.mark.parametrize(
    ("target", "left"),
    [
        ("/a?token=S&b=1", "/a?b=1"),
        ("/a?b=1&token=S", "/a?b=1"),
        ("/a?token=S", "/a"),
        ("/a?TOKEN=S&token=S&c", "/a?c"),
        ("/a?%74oke%6e=S&c=%20", "/a?c=%20"),
        ("/a?x=1;token=S;y=2", "/a?x=1;y=2"),
        ("/a?x=?token=S", "/a?x="),
        ("/a?token", "/a?token"),
        ("/a?tokens=1&a=token=1", "/a?tokens=1&a=token=1"),
        ("/token=1", "/token=1"),
        ("/a?+token=S&a=1", "/a?a=1"),
        ("/a?token=S&&a=1", "/a?&a=1"),
    ],
)
def test_parameters_of_the_target(target: str, left: str) -> None:
    assert redactor()(pair(target=target.replace("S", SECRET))).request.target == left


@given(
    name=st.sampled_from(["token", "a b", "é"]),
    parts=st.lists(st.text("abc=%?;+é", max_size=6).map(lambda text: quote(text, safe="=?;+")), max_size=3),
    at=st.integers(0, 3),
    separator=st.sampled_from("&;"),
)
def test_a_parameter_is_found_among_any_others(name: str, parts: list[str], at: int, separator: str) -> None:
    scrub = redactor(query={name: "hash"})
    query = separator.join([*parts[:at], f"{quote(name)}={SECRET}", *parts[at:]])
    found = scrub(pair(target="/p?" + query, head=b"Referer: https://a.test/?" + query.encode()))
    assert SECRET.encode() not in written(found)
    assert "=hash:" in found.request.target


def test_urls_in_headers_and_forms_hold_parameters_too() -> None:
    form = b"Content-Type: application/x-www-form-urlencoded"
    head = form + b"\r\nReferer: https://a.test/b?password=1&c=2\r\nLocation: /cb#access_token=1&x=2"
    found = redactor()(pair(head=head, request=b"user=a&password=b+c&z=1"))
    assert found.request.head == form + b"\r\nReferer: https://a.test/b?c=2\r\nLocation: /cb#x=2"
    assert found.request.body == b"user=a&z=1"
    assert found.request.body_size == len(found.request.body)
    cut = redactor()(pair(head=form, request=b"password=abc&b=1", cut=6))
    assert (cut.request.body, cut.request.body_size) == (b"", 6)
    coded = form + b"\r\nContent-Encoding: gzip"
    found = redactor()(pair(head=coded, request=gzip.compress(b"password=1&a=2")))
    assert (found.request.body, found.request.head) == (b"a=2", form)
    assert redactor()(pair(head=coded, request=b"password=1")).request.body == b""


# Through the proxy


async def test_neither_side_of_a_pair_holds_what_was_named() -> None:
    answer = json.dumps({"items": [{"id": 1, "owner": SECRET}]}).encode()
    packed = gzip.compress(answer)
    response = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nSet-Cookie: %b\r\n"
    raw = response % SECRET.encode() + b"Content-Length: %d\r\n\r\n" % len(packed) + packed
    redact = {
        "key": KEY,
        "json_fields": {"user.email": "hash", "items[*].owner": "drop"},
        "annotations": {"who": "hash"},
    }
    note = base64.urlsafe_b64encode(json.dumps({"who": SECRET, "n": 1}).encode()).decode()
    async with upstream(answering(raw)) as one, proxy(one.url, one.url, replica=one.url, redact=redact) as running:
        body = json.dumps({"user": {"email": SECRET}}).encode()
        headers = ("Content-Type: application/json", f"Cookie: {SECRET}", f"X-Shadow-Annotations: {note}")
        got = await ask(running.address, post(body, f"/rank?token={SECRET}&k=1", *headers))
        assert got.body == packed
        assert got.get(b"set-cookie") == [SECRET.encode()]
        found = (await running.recorded(1))[0]
        assert SECRET.encode() not in written(found)
        assert found.baseline.body == found.candidate.body == b'{"items":[{"id":1}]}'
        assert found.request.target == "/rank?k=1"
        assert orjson.loads(found.request.body)["user"]["email"] == orjson.loads(found.annotations)["who"]
        assert {request.body for request in one.requests} == {body}


async def test_what_was_cut_by_the_capture_is_left_out() -> None:
    answer = json.dumps({"user": {"email": SECRET}, "x": "a" * 500}).encode()
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer
    redact = {"json_fields": {"user.email": "drop"}}
    async with (
        upstream(answering(raw)) as one,
        proxy(one.url, one.url, redact=redact, capture=100) as running,
        client(running.address) as (reader, writer),
    ):
        writer.write(get())
        assert (await read_response(reader)).body == answer
        found = (await running.recorded(1))[0]
        assert SECRET.encode() not in written(found)
        assert found.baseline.body_size == len(answer)
