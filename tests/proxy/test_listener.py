"""What clients meet: framing, keep-alive, pipelining, limits, refusals."""

from __future__ import annotations

import asyncio
import itertools
import json

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy.harness import (
    answering,
    ask,
    client,
    echo,
    get,
    hang,
    parse_head,
    post,
    proxy,
    read_response,
    talk,
    until,
    upstream,
)

H = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CLOSE = b"\r\nConnection: close"
MALFORMED = {
    "length and chunked": (H + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and length": (H + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "two equal lengths": (H + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "two lengths": (H + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "list of lengths": (H + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "signed length": (H + b"Content-Length: +3\r\n\r\nabc", 400),
    "negative length": (H + b"Content-Length: -3\r\n\r\nabc", 400),
    "hexadecimal length": (H + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "empty length": (H + b"Content-Length:\r\n\r\nabc", 400),
    "huge length": (H + b"Content-Length: 99999999999999999999\r\n\r\nabc", 400),
    "underscore in length": (H + b"Content-Length: 1_0\r\n\r\nabc", 400),
    "space before colon": (H + b"Content-Length : 3\r\n\r\nabc", 400),
    "space before colon of TE": (H + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "vertical tab in TE": (H + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "gzip coding": (H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "identity coding": (H + b"Transfer-Encoding: identity\r\n\r\n", 501),
    "twice chunked": (H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked on 1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "bad chunk size": (H + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    "prefixed chunk size": (H + b"Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n", 400),
    "negative chunk size": (H + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk size with a space": (H + b"Transfer-Encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n", 400),
    "huge chunk size": (H + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400),
    "bare LF after chunk size": (H + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400),
    "chunk longer than its size": (H + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n0\r\n\r\n", 400),
    "bad second chunk": (H + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n", 400),
    "bad trailer": (H + b"Transfer-Encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n", 400),
    "bare LF everywhere": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "bare LF after a field": (b"GET / HTTP/1.1\r\nHost: a\r\nX: b\nY: c\r\n\r\n", 400),
    "bare CR in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rContent-Length: 5\r\n\r\n", 400),
    "folded line": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
    "folded first line": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "folded first line on 1.0": (b"GET / HTTP/1.0\r\n Content-Length: 5\r\n\r\n", 400),
    "NUL in a value": (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nHost: a\r\njunk\r\n\r\n", 400),
    "empty name": (b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
    "bad name": (b"GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\nX: a\r\n\r\n", 400),
    "no header at all": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    "Host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "Host with a comma": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "space in target": (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "tab": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "fragment": (b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "relative target": (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "other scheme": (b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501),
    "an upgrade with a body": (
        H + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nhi",
        501,
    ),
    "unknown expectation": (H + b"Expect: miracles\r\nContent-Length: 0\r\n\r\n", 417),
}


@pytest.mark.parametrize("name", MALFORMED)
async def test_what_is_ambiguous_is_refused_before_any_upstream_sees_a_byte(name: str) -> None:
    request, status = MALFORMED[name]
    async with (
        upstream(echo) as baseline,
        upstream(echo) as candidate,
        proxy(baseline.url, candidate.url) as running,
    ):
        answer = await talk(running.address, request + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        line, headers = parse_head(answer[: answer.index(b"\r\n\r\n") + 4])
        assert int(line.split()[1]) == status, answer
        assert (b"Connection", b"close") in headers
        content = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert content["source"] == "shadowproxy"
        assert content["where"] == "request"
        assert content["detail"]
        assert answer.count(b"\r\n\r\n") == 1
        assert baseline.connections == candidate.connections == 0
        assert running.recorder.ledger.requests == 0


async def test_limits_have_their_statuses() -> None:
    limits = {"target": 100, "header_bytes": 1000, "header_count": 10, "body": 2000}
    cases = [
        (get("/" + "a" * 100), 414),
        (b"GET /" + b"a" * 300, 414),
        (get("/", "X: " + "a" * 1000), 431),
        (get()[:-2] + b"X: " + b"a" * 2000, 431),
        (get("/", *[f"X-{i}: 1" for i in range(12)]), 431),
        (post(b"a" * 2001), 413),
        (H + b"Transfer-Encoding: chunked\r\n\r\n7d1\r\n" + b"a" * 2001 + b"\r\n0\r\n\r\n", 413),
    ]
    async with upstream(echo) as one, proxy(one.url, one.url, limits=limits) as running:
        for request, status in cases:
            response = await ask(running.address, request)
            assert response.status == status, request[:60]
        assert one.connections == 0
        assert (await ask(running.address, get("/" + "a" * 99))).status == 200
        assert (await ask(running.address, post(b"a" * 2000))).status == 200
        await running.balanced()


async def test_a_body_beyond_the_mirrors_cap_is_still_limited_while_it_streams() -> None:
    chunked = H + b"Transfer-Encoding: chunked\r\n\r\n" + (b"3e8\r\n" + b"a" * 1000 + b"\r\n") * 5
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url, limits={"body": 4000}, mirror={"max_body": 1500}) as running,
    ):
        assert (await ask(running.address, chunked + b"0\r\n\r\n")).status == 413
        await until(lambda: running.server.in_flight["baseline"] == 0)


async def test_slow_heads_and_stalled_bodies_are_408_and_idle_connections_close() -> None:
    limits = {"header_timeout": 0.1, "idle_timeout": 0.15}
    async with upstream(echo) as one, proxy(one.url, one.url, limits=limits) as running:
        assert b" 408 " in await talk(running.address, b"GET / HT")
        assert b" 408 " in await talk(running.address, post(b"abc")[:-1])
        assert await talk(running.address, b"") == b""
        async with client(running.address) as (reader, writer):
            writer.write(get())
            assert (await read_response(reader)).status == 200
            assert await reader.read() == b""
        assert one.connections <= 2


async def test_too_many_connections_are_503() -> None:
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url, limits={"connections": 1}) as running,
        client(running.address) as (reader, writer),
    ):
        writer.write(get())
        await read_response(reader)
        assert b" 503 " in await talk(running.address, get())
        writer.write(get())
        assert (await read_response(reader)).status == 200


async def test_connections_are_kept_on_both_sides() -> None:
    async with upstream(echo) as baseline, upstream(echo) as candidate, proxy(baseline.url, candidate.url) as running:
        async with client(running.address) as (reader, writer):
            for number in range(5):
                writer.write(post(b"%d" % number, f"/{number}"))
                response = await read_response(reader)
                assert response.body == b"POST /%d HTTP/1.1\n%d" % (number, number)
                await running.recorded(number + 1)
        assert baseline.connections == candidate.connections == 1
        assert running.server.connections <= 1


@pytest.mark.parametrize(
    ("request_", "kept"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nconnection: Foo, CLOSE\r\n\r\n", False),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
    ],
)
async def test_persistence_follows_version_and_connection(request_: bytes, kept: bool) -> None:
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url) as running,
        client(running.address) as (reader, writer),
    ):
        writer.write(request_)
        response = await read_response(reader)
        assert response.status == 200
        if kept:
            assert response.get(b"connection") in ([], [b"keep-alive"])
            writer.write(request_)
            assert (await read_response(reader)).status == 200
        else:
            assert response.get(b"connection") == [b"close"]
            assert await reader.read() == b""


async def test_pipelined_requests_are_answered_in_order_even_after_a_half_close() -> None:
    async with upstream(echo) as one, proxy(one.url, one.url) as running:
        many = b"".join(post(b"body %d" % n, f"/{n}") if n % 2 else get(f"/{n}") for n in range(40))
        answer = await talk(running.address, many, half_close=True)
        order = [int(part.split(b" ")[0]) for part in answer.split(b" /")[1:]]
        assert order == list(range(40))
        await running.recorded(40)


async def test_one_pipelined_request_at_a_time_reaches_the_baseline() -> None:
    async with (
        upstream(hang) as slow,
        upstream(echo) as candidate,
        proxy(slow.url, candidate.url) as running,
        client(running.address) as (_, writer),
    ):
        writer.write(get() * 3)
        await until(lambda: slow.requests)
        await until(lambda: candidate.requests)
        assert running.server.in_flight["baseline"] == 1
        slow.release.set()
        await running.recorded(3)


async def test_expect_100_continue_is_answered_and_not_forwarded() -> None:
    async with upstream(echo) as one, proxy(one.url, one.url) as running:
        async with client(running.address) as (reader, writer):
            writer.write(H + b"Expect: 100-Continue\r\nContent-Length: 3\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert not one.requests
            writer.write(b"abc")
            assert (await read_response(reader)).body.endswith(b"\nabc")
        assert one.requests[0].get(b"expect") == []
        refused = H + b"Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n"
        assert (await talk(running.address, refused)).startswith(b"HTTP/1.1 413 ")
        await running.balanced()


async def test_h2c_offers_are_ignored_and_unknown_methods_pass() -> None:
    async with upstream(echo) as one, proxy(one.url, one.url) as running:
        offer = get("/", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
        assert (await ask(running.address, offer)).status == 200
        for method in ("PURGE", "get", "X-Y", "PATCH", "OPTIONS", "DELETE"):
            response = await ask(running.address, get().replace(b"GET", method.encode()))
            assert response.body.startswith(method.encode() + b" / ")
        assert all(not r.get(b"upgrade") and not r.get(b"http2-settings") for r in one.requests)
        await running.balanced()
        assert running.recorder.ledger.skipped == {"method": 6}


async def test_an_ordinary_client_is_content() -> None:
    async with upstream(echo) as one, proxy(one.url, one.url) as running:
        url = f"http://{running.address}"
        async with aiohttp.ClientSession(url) as session:
            async with session.post("/p?q=1", data=b"x" * 70_000, chunked=True, compress=None) as response:
                assert (await response.read()).endswith(b"\n" + b"x" * 70_000)
            async with session.get("/g") as response:
                assert response.status == 200
            async with session.head("/h") as response:
                assert response.status == 200
                assert await response.read() == b""
            async with session.post("/e", data=b"abc", expect100=True) as response:
                assert (await response.read()).endswith(b"\nabc")
        await running.balanced()


REQUESTS = [
    get("/a"),
    post(b"hello", "/b"),
    H + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n00a\r\n0123456789\r\n0\r\nT: 1\r\n\r\n",
    H + b"transfer-encoding: Chunked\r\n\r\n0\r\n\r\n",
    b"\r\nHEAD /h HTTP/1.1\r\nHost: a\r\n\r\n",
    post(b"", "/empty"),
    post(b"z" * 50, "/large"),
]
ENDINGS = [
    b"",
    H + b"X-Request-Id: fixed\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloo",
    b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    which=st.lists(st.integers(0, len(REQUESTS) - 1), min_size=1, max_size=6),
    ending=st.integers(0, len(ENDINGS) - 1),
    cuts=st.lists(st.integers(0, 1000), max_size=12),
)
async def test_any_split_of_a_stream_of_requests_gives_the_same(which: list[int], ending: int, cuts: list[int]) -> None:
    stream = b"".join(REQUESTS[n] for n in which) + ENDINGS[ending]
    edges = sorted({cut % len(stream) for cut in cuts} | {0, len(stream)})
    async with upstream(echo) as one, proxy(one.url, one.url, mirror={"max_body": 40}) as running:
        whole = await talk(running.address, stream, half_close=True)
        async with client(running.address) as (reader, writer):
            sock = writer.get_extra_info("socket")
            sock.setsockopt(6, 1, 1)
            for start, stop in itertools.pairwise(edges):
                writer.write(stream[start:stop])
                await writer.drain()
                await asyncio.sleep(0)
            writer.write_eof()
            pieces = await reader.read()
        # Whether the end of the client's half is seen before or after an answer begins is a matter of timing.
        assert pieces.replace(CLOSE, b"") == whole.replace(CLOSE, b"")
        assert whole.count(b"HTTP/1.1 200 OK") == len(which)
        await running.balanced()
        assert running.recorder.ledger.requests == 2 * len(which)


async def test_refusals_do_not_disturb_what_was_asked_before() -> None:
    async with (
        upstream(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")) as one,
        proxy(one.url, one.url) as running,
    ):
        answer = await talk(running.address, get() + b"junk\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 400 ")
        await running.recorded(1)
