"""What each upstream gets of a request: exactly the client's bytes but for what its own settings say."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from proxy.harness import RawUpstream, Received, ask, client, echo, get, post, proxy, read_response, until, upstream

from shadowproxy.config import Limits, Upstream
from shadowproxy.config.rewriting import compile_rewrite
from shadowproxy.model import Side
from shadowproxy.proxy.framing import RequestRules
from shadowproxy.proxy.overrides import OverrideError, Overrides
from shadowproxy.proxy.shaping import CopyShaper, EditingShaper, PlainShaper, shaper
from shadowproxy.proxy.trace import copied_trace
from shadowproxy.tracing.context import derived_span

RULES = RequestRules(Limits(), annotation_header="x-shadow-annotations", marker_header="x-shadow-request")
SPAN = b"b7ad6b7169203331"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
JSON = "Content-Type: application/json"


def shape(settings: dict[str, Any], request: bytes, *, copy: bool = True, extra: bytes = b"") -> bytes:
    """The bytes for an upstream at http://up:1/base, of a whole request."""
    head, _, body = request.partition(b"\r\n\r\n")
    parsed = RULES.parse(head, b"10.0.0.1", lambda: "id")
    upstream_settings = Upstream.model_validate({"url": "http://up:1/base", **settings})
    made = shaper(upstream_settings, b"/base", b"up:1", "candidate", new_span=(lambda *_: SPAN) if copy else None)
    return made(parsed, body, extra)


def told(counts: Mapping[str, int]) -> dict[str, int]:
    return {obstacle: count for obstacle, count in counts.items() if count}


def lines(wire: bytes) -> list[bytes]:
    return wire.partition(b"\r\n\r\n")[0].split(b"\r\n")


def body_of(wire: bytes) -> bytes:
    return wire.partition(b"\r\n\r\n")[2]


class Sides:
    """A baseline and a candidate that echo, and what they got."""

    def __init__(self, baseline: RawUpstream, candidate: RawUpstream) -> None:
        self.baseline = baseline
        self.candidate = candidate

    async def got(self, count: int = 1) -> tuple[Received, Received]:
        await until(lambda: len(self.baseline.requests) >= count and len(self.candidate.requests) >= count)
        return self.baseline.requests[count - 1], self.candidate.requests[count - 1]


# The shortest way


def test_an_upstream_without_edits_takes_the_shortest_way() -> None:
    plain = Upstream(url="http://up:1")
    assert isinstance(shaper(plain, b"", b"up:1", "candidate", new_span=None), PlainShaper)
    assert isinstance(shaper(plain, b"", b"up:1", "candidate", new_span=lambda *_: SPAN), CopyShaper)
    for edit in ({"host": "a"}, {"credentials": "remove"}, {"headers": {"remove": ["a"]}}, {"json_fields": {"a": 1}}):
        edited = Upstream.model_validate({"url": "http://up:1", **edit})
        assert isinstance(shaper(edited, b"", b"up:1", "candidate", new_span=None), EditingShaper)


@pytest.mark.parametrize(
    "request_",
    [
        get("/a?b=%20c"),
        post(b'{"a": 1}', "/", JSON),
        post(b"", "/", JSON),
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
def test_all_shapers_agree_where_no_edit_applies(request_: bytes) -> None:
    head, _, body = request_.partition(b"\r\n\r\n")
    parsed = RULES.parse(head, b"10.0.0.1", lambda: "id")
    settings = {"url": "http://up:1", "headers": {"remove": ["x-none"]}, "rewrite": [{"match": "^/none", "to": "/x"}]}
    edited = EditingShaper(Upstream.model_validate(settings), b"/base", b"up:1", "candidate", new_span=None)
    plain = PlainShaper(b"/base", b"up:1")
    copy = CopyShaper(b"/base", b"up:1", "candidate", lambda *_: SPAN)
    for whole in (body, None):
        assert (
            plain(parsed, whole, b"\r\nM: 1") == edited(parsed, whole, b"\r\nM: 1") == copy(parsed, whole, b"\r\nM: 1")
        )


# Host


@pytest.mark.parametrize(
    ("host", "sent"), [(None, b"up:1"), ("client", b"client.test"), ("models.internal:80", b"models.internal:80")]
)
def test_the_host_is_the_urls_the_clients_or_a_literal(host: str | None, sent: bytes) -> None:
    wire = shape({"host": host}, get())
    assert lines(wire)[1] == b"Host: " + sent
    assert b"X-Forwarded-Host: client.test" in lines(wire)


def test_the_host_of_an_absolute_target_goes_before_the_header() -> None:
    request = b"GET http://real.test/a HTTP/1.1\r\nHost: other.test\r\nX-Forwarded-Host: outer.test\r\n\r\n"
    assert lines(shape({"host": "client"}, request))[:2] == [b"GET /base/a HTTP/1.1", b"Host: real.test"]


def test_a_client_without_a_host_gets_the_urls() -> None:
    assert lines(shape({"host": "client"}, b"GET / HTTP/1.0\r\n\r\n"))[1] == b"Host: up:1"


# Paths


@pytest.mark.parametrize(
    ("target", "sent"),
    [
        ("/v1/rank?a=/v1/&b=%20", b"/base/v2/rank?a=/v1/&b=%20"),
        ("/models/de/v3:predict", b"/base/candidate/de"),
        ("/other", b"/base/other"),
        ("/strip", b"/base/"),
        ("/strip/more?x", b"/base/more?x"),
        ("/v1/models/us/v1:predict", b"/base/v2/models/us/v1:predict"),
    ],
)
def test_the_first_rule_that_matches_rewrites_the_path_and_never_the_query(target: str, sent: bytes) -> None:
    rules = [
        {"match": "^/v1/", "to": "/v2/"},
        {"match": "^/models/(?P<region>[a-z]+)/.*$", "to": r"/candidate/\g<region>"},
        {"match": "^/strip/?", "to": ""},
    ]
    assert lines(shape({"rewrite": rules}, get(target)))[0] == b"GET " + sent + b" HTTP/1.1"


def test_the_server_itself_has_no_path_to_rewrite() -> None:
    wire = shape({"rewrite": [{"match": ".*", "to": "/x"}]}, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n")
    assert lines(wire)[0] == b"OPTIONS * HTTP/1.1"


LITERAL = st.text(st.sampled_from("/ab.%2F-_~!$&'()*+,;=:@[]{}|^`\"<>"), max_size=8)
PIECES = LITERAL | st.sampled_from([r"\0", r"\1", r"\g<x>", r"\\"])


@given(
    pattern=st.sampled_from(["^/(?P<x>[^/]*)", "(?P<x>.)", "(?P<x>a)|b", "(?P<x>.*)", "/(?P<x>)", "(?P<x>[^/]+)$"]),
    to=st.lists(PIECES, max_size=4).map("".join),
    path=st.binary(max_size=30).map(lambda raw: b"/" + re.sub(rb"[\x00-\x20\x7f?#]", b"", raw)),
    query=st.sampled_from([b"", b"?", b"?a=/b?c"]),
)
def test_a_rewrite_makes_a_valid_target_of_any_valid_one(pattern: str, to: str, path: bytes, query: bytes) -> None:
    request = b"GET " + path + query + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    line = lines(shape({"rewrite": [{"match": pattern, "to": to}]}, request))[0]
    match = re.fullmatch(rb"GET /base(/[\x21-\x7e\x80-\xff]*) HTTP/1.1", line)
    assert match is not None
    assert b"#" not in match[1]
    assert match[1].partition(b"?")[2] == query[1:]


def test_a_pattern_that_backtracking_would_die_of_takes_no_time() -> None:
    rewrite = compile_rewrite("^/(a+)+$", "/x")
    assert rewrite(b"/" + b"a" * 5000 + b"!") is None


# Headers and credentials


def test_headers_are_set_and_removed_on_one_side_only() -> None:
    request = get("/", "X-Keep: 1", "X-GONE: 2", "x-model: client's", "X-Model: twice", "X-Goner: stays")
    wire = shape(
        {"headers": {"set": {"X-Model": "v2", "X-Empty": ""}, "remove": ["x-gone"]}}, request, extra=b"\r\nM: 1"
    )
    names = [line.split(b":")[0].lower() for line in lines(wire)[2:]]
    assert names.count(b"x-model") == 1
    assert b"x-model: v2" in lines(wire)
    assert b"x-empty: " in lines(wire)
    assert b"x-gone" not in names
    assert {b"X-Keep: 1", b"X-Goner: stays", b"M: 1"} <= set(lines(wire))


@pytest.mark.parametrize(
    ("credentials", "sent"),
    [
        ("keep", {b"authorization: client", b"cookie: client", b"x-api-key: client", b"proxy-authorization: client"}),
        ("remove", set()),
        ({"client": "remove", "headers": ["cookie"]},
         {b"authorization: client", b"x-api-key: client", b"proxy-authorization: client"}),
        ({"authorization": "Bearer ours"}, {b"authorization: Bearer ours"}),
        ({"authorization": "Bearer ours", "client": "keep"},
         {b"authorization: Bearer ours", b"cookie: client", b"x-api-key: client", b"proxy-authorization: client"}),
    ],
)  # fmt: skip
def test_credentials_are_kept_removed_or_replaced(credentials: Any, sent: set[bytes]) -> None:
    names = ("authorization", "cookie", "x-api-key", "proxy-authorization")
    wire = shape({"credentials": credentials}, get("/", *(f"{name}: client" for name in names)))
    assert {line for line in lines(wire) if line.split(b":")[0].decode() in names} == sent


# JSON


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


def quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def expected(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    inner = {} if document is None else document
    return {**inner, path[0]: expected(inner.get(path[0]), path[1:], value)}


def fits(document: Any, path: list[str]) -> bool:
    if not path or document is None:
        return True
    return isinstance(document, dict) and fits(document.get(path[0]), path[1:])


@given(document=st.dictionaries(NAMES, VALUES, max_size=4), data=st.data(), value=VALUES, ascii_=st.booleans())
def test_a_field_is_set_and_everything_else_is_equal(document: Any, data: Any, value: Any, ascii_: bool) -> None:
    path = data.draw(st.lists(st.sampled_from(sorted(document)) | NAMES if document else NAMES, min_size=1, max_size=3))
    overrides = Overrides({".".join(map(quoted, path)): value})
    text = json.dumps(document, ensure_ascii=ascii_).encode()
    if fits(document, path):
        assert json.loads(overrides.set_in(text)) == expected(document, path, value)
    else:
        with pytest.raises(OverrideError) as caught:
            overrides.set_in(text)
        assert caught.value.obstacle == "not_an_object"


def test_what_is_not_overridden_keeps_its_bytes() -> None:
    body = (
        b'{"big": 123456789012345678901234567890, "exact": 0.10000000000000000001, "e": 1E5, "z": -0, '
        b'"u": "\\u00e9\\ud83d\\ude00", "raw": [1,  2], "model": "v1"}'
    )
    wire = shape({"json_fields": {"model": "v2", "parameters.temperature": 0}}, post(body, "/", JSON))
    assert body_of(wire) == (
        b'{"big":123456789012345678901234567890,"exact":0.10000000000000000001,"e":1E5,"z":-0,"u":"\\u00e9\\ud83d\\ude00",'
        b'"raw":[1,  2],"model":"v2","parameters":{"temperature":0}}'
    )
    assert b"Content-Length: %d" % len(body_of(wire)) in lines(wire)
    assert sum(line.lower().startswith(b"content-length") for line in lines(wire)) == 1


def test_several_fields_of_one_object_and_a_null_in_the_way() -> None:
    overrides = Overrides({"a.b": 1, "a.c.d": [2], '"x.y"': {"z": None}})
    assert json.loads(overrides.set_in(b'{"a": null, "x.y": 1}')) == {
        "a": {"b": 1, "c": {"d": [2]}},
        "x.y": {"z": None},
    }


@pytest.mark.parametrize(
    ("coding", "encode"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("br", brotli.compress), ("zstd", zstandard.compress)],
)
def test_a_coded_body_is_changed_and_sent_without_its_coding(coding: str, encode: Any) -> None:
    request = post(
        encode(b'{"model": "v1", "n": 1}'), "/", JSON, f"Content-Encoding: {coding}", "Content-MD5: x", "Digest: y"
    )
    wire = shape({"json_fields": {"model": "v2"}}, request)
    assert body_of(wire) == b'{"model":"v2","n":1}'
    names = {line.split(b":")[0].lower() for line in lines(wire)}
    assert not names & {b"content-encoding", b"content-md5", b"digest"}
    assert b"Content-Length: 20" in lines(wire)


def test_a_chunked_request_stays_chunked() -> None:
    request = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + JSON.encode() + b'\r\n\r\n{"model":"v1"}'
    )
    wire = shape({"json_fields": {"model": "version 2"}}, request)
    assert body_of(wire) == b'15\r\n{"model":"version 2"}\r\n0\r\n\r\n'
    assert not any(line.lower().startswith(b"content-length") for line in lines(wire))


BOMB = gzip.compress(b'{"model": "v1", "x": "%b"}' % bytes(8 * 1024**2).replace(b"\0", b"a"))


@pytest.mark.parametrize(
    ("body", "headers", "obstacle"),
    [
        (b'{"model": 1}', ["Content-Type: text/plain"], "media_type"),
        (b'{"model": 1}', [], "media_type"),
        (b"model=1", [JSON], "not_json"),
        (b'{"model": 1', [JSON], "not_json"),
        (b'{"model": NaN}', [JSON], "not_json"),
        ('{"model": "é"}'.encode("utf-16"), [JSON], "not_json"),
        (b"[" * 100_000, [JSON], "not_an_object"),
        (b'{"a":' + b"[" * 100_000, [JSON], "not_json"),
        (b'{"a": "\\ud800"}', [JSON], "not_json"),
        (b"[1]", ["Content-Type: application/vnd.api+json; charset=utf-8"], "not_an_object"),
        (b'{"model": "v1"}', [JSON, "Content-Encoding: gzip"], "encoding"),
        (gzip.compress(b"{}")[:-1], [JSON, "Content-Encoding: gzip"], "encoding"),
        (b"{}", [JSON, "Content-Encoding: lzma"], "encoding"),
        (BOMB, [JSON, "Content-Encoding: gzip"], "encoding"),
    ],
)
def test_a_body_in_which_nothing_can_be_set_goes_out_as_it_came_and_is_counted(
    body: bytes, headers: list[str], obstacle: str
) -> None:
    head, _, _ = post(body, "/", *headers).partition(b"\r\n\r\n")
    parsed = RULES.parse(head, b"10.0.0.1", lambda: "id")
    settings = Upstream.model_validate({"url": "http://up:1", "json_fields": {"model": "v2"}})
    made = shaper(settings, b"", b"up:1", "candidate", new_span=None)
    assert made(parsed, body, b"") == PlainShaper(b"", b"up:1")(parsed, body, b"")
    assert told(made.unapplied) == {obstacle: 1}


def test_a_request_without_a_body_has_nothing_to_set() -> None:
    settings = Upstream.model_validate({"url": "http://up:1", "json_fields": {"model": "v2"}})
    made = shaper(settings, b"", b"up:1", "candidate", new_span=None)
    parsed = RULES.parse(get().partition(b"\r\n\r\n")[0], b"10.0.0.1", lambda: "id")
    assert made(parsed, b"", b"") == PlainShaper(b"", b"up:1")(parsed, b"", b"")
    assert told(made.unapplied) == {}


# Trace context


@pytest.mark.parametrize(
    ("given_", "copied"),
    [
        (PARENT, "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01"),
        (PARENT[:-2] + "03", "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-03"),
        (PARENT + "  ", "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01"),
        ("cc" + PARENT[2:] + "-what-comes", "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01"),
        ("01" + PARENT[2:-2] + "08", "00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-00"),
        ("ff" + PARENT[2:], None),
        (PARENT + "-more", None),
        (PARENT.upper(), None),
        ("cc" + PARENT[2:] + "more", None),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", None),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", None),
        (PARENT[:-1], None),
        ("nonsense", None),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"headers": {"remove": ["x-none"]}}])
def test_a_copy_has_a_span_of_its_own_in_the_clients_trace(
    given_: str, copied: str | None, settings: dict[str, Any]
) -> None:
    request = get("/", f"TraceParent: {given_}", "tracestate: a=1,b=2", "X-After: 1")
    own = lines(shape(settings, request, copy=False))
    assert b"tracestate: a=1,b=2" in own
    assert b"traceparent: " + given_.strip().encode() in own
    copy = lines(shape(settings, request))
    trace = sorted(line for line in copy if line.lower().startswith(b"trace"))
    assert trace == ([] if copied is None else [b"traceparent: " + copied.encode(), b"tracestate: a=1,b=2"])
    assert b"X-After: 1" in copy


def test_two_parents_are_none_and_without_one_none_is_made() -> None:
    twice = get("/", f"traceparent: {PARENT}", f"Traceparent: {PARENT}", "tracestate: a=1")
    assert not [line for line in lines(shape({}, twice)) if line.lower().startswith(b"trace")]
    assert not [line for line in lines(shape({}, get())) if line.lower().startswith(b"trace")]


@given(value=st.binary(max_size=60).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"")))
def test_no_value_of_traceparent_breaks_a_head(value: bytes) -> None:
    fields, trace = copied_trace(b"\r\nA: 1\r\nTraceState: a=1\r\nB: 2", value, 0.0, "candidate", lambda *_: SPAN)
    if trace:
        assert re.fullmatch(rb"\r\ntraceparent: 00-[0-9a-f]{32}-%b-[0-9a-f]{2}" % SPAN, trace)
    else:
        assert fields == b"\r\nA: 1\r\nB: 2"


def test_spans_are_distinct_and_of_the_right_form() -> None:
    trace, parent = PARENT[3:35].encode(), PARENT[36:52].encode()
    moments = [1.7e9 + at * 2.5e-7 for at in range(500)]
    spans = [derived_span(trace, parent, at, side) for at in moments for side in ("candidate", "replica")]
    assert len(set(spans)) == 1000
    assert all(re.fullmatch(rb"[0-9a-f]{16}", span) for span in spans)


# Through the proxy


async def test_every_edit_at_once_reaches_the_candidate_and_nothing_of_it_anyone_else() -> None:
    async with upstream(echo) as baseline, upstream(echo) as candidate, upstream(echo) as replica:
        settings = {
            "url": candidate.url + "/c",
            "host": "models.internal",
            "rewrite": [{"match": "^/v1", "to": "/v2"}],
            "headers": {"set": {"X-Variant": "b"}, "remove": ["x-debug"]},
            "credentials": {"authorization": "Bearer ours"},
            "json_fields": {"model": "v2"},
        }
        async with proxy(baseline.url, settings, replica=replica.url) as running:
            body = b'{"model": "v1", "n": 1.50}'
            headers = (JSON, "Authorization: client", "X-Debug: 1", f"traceparent: {PARENT}", "Cookie: c=1")
            response = await ask(running.address, post(body, "/v1/rank?q=1", *headers))
            assert response.body == b"POST /v1/rank?q=1 HTTP/1.1\n" + body
            pair = (await running.recorded(1))[0]
            assert pair.candidate.body == b'POST /c/v2/rank?q=1 HTTP/1.1\n{"model":"v2","n":1.50}'
            assert pair.request.target == "/v1/rank?q=1"
            assert pair.request.body == body
        first, second, third = baseline.requests[0], candidate.requests[0], replica.requests[0]
        assert first.get(b"authorization") == third.get(b"authorization") == [b"client"]
        assert second.get(b"authorization") == [b"Bearer ours"]
        assert first.get(b"x-debug") == third.get(b"x-debug") == [b"1"]
        assert first.get(b"cookie") == [b"c=1"]
        assert second.get(b"x-debug") == second.get(b"cookie") == []
        assert second.get(b"host") == [b"models.internal"]
        assert second.get(b"x-variant") == [b"b"]
        assert first.get(b"x-variant") == first.get(b"x-shadow-request") == []
        assert second.get(b"x-shadow-request") == third.get(b"x-shadow-request") == [b"1"]
        assert third.body == body
        assert (
            first.get(b"x-request-id")
            == second.get(b"x-request-id")
            == third.get(b"x-request-id")
            == [pair.id.encode()]
        )
        parents = [received.get(b"traceparent")[0] for received in (first, second, third)]
        assert parents[0] == PARENT.encode()
        assert len(set(parents)) == 3
        assert {parent[:36] for parent in parents} == {PARENT[:36].encode()}


async def test_the_baseline_can_be_shaped_too_and_a_streamed_body_is_passed_on_and_counted() -> None:
    async with upstream(echo) as baseline, upstream(echo) as candidate:
        settings = {"url": baseline.url, "json_fields": {"model": "v1"}, "headers": {"set": {"x-a": "1"}}}
        async with proxy(settings, candidate.url, mirror={"max_body": 100}) as running:
            assert (await ask(running.address, post(b'{"model":0}', "/", JSON))).body.endswith(b'{"model":"v1"}')
            await running.recorded(1)
            assert candidate.requests[0].body == b'{"model":0}'
            large = b'{"model":0, "x": "%b"}' % (b"a" * 200)
            assert (await ask(running.address, post(large, "/", JSON))).body.endswith(large)
            assert baseline.requests[1].get(b"x-a") == [b"1"]
            found = {side: told(counts) for side, counts in running.server.unapplied.items()}
            assert found == {Side.BASELINE: {"streamed": 1}, Side.CANDIDATE: {}}


async def test_bodies_of_any_kind_leave_the_client_unharmed_by_the_candidates_rules() -> None:
    async with upstream(echo) as baseline, upstream(echo) as candidate:
        settings = {"url": candidate.url, "json_fields": {"a.b": 1}, "rewrite": [{"match": ".*", "to": "x"}]}
        async with proxy(baseline.url, settings) as running, client(running.address) as (reader, writer):
            bodies = [b"", b"{}", b'{"a": 1}', b"[", b"\xff\xfe", b'{"a": {"b": 2}}']
            for body in bodies:
                writer.write(post(body, "/p", JSON))
                assert (await read_response(reader)).body == b"POST /p HTTP/1.1\n" + body
            await running.recorded(len(bodies))
            changed = {b'{"a":{"b":1}}', b"", b'{"a": 1}', b"[", b"\xff\xfe"}
            assert {received.body for received in candidate.requests} == changed
            assert {received.line for received in candidate.requests} == {b"POST /x HTTP/1.1"}
            assert told(running.server.unapplied[Side.CANDIDATE]) == {"not_an_object": 2, "not_json": 1}


async def test_a_request_id_is_made_where_there_is_none_and_goes_to_all() -> None:
    async with upstream(echo) as baseline, upstream(echo) as candidate, proxy(baseline.url, candidate.url) as running:
        await asyncio.gather(*(ask(running.address, get()) for _ in range(3)))
        pairs = await running.recorded(3)
        ids = {pair.id.encode() for pair in pairs}
        assert len(ids) == 3
        assert {r.get(b"x-request-id")[0] for r in baseline.requests} == ids
        assert {r.get(b"x-request-id")[0] for r in candidate.requests} == ids
