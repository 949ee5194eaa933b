"""The client's path: the baseline's bytes as they are, as they come, and its failures told apart."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest
from proxy.harness import (
    RawUpstream,
    Received,
    answering,
    ask,
    client,
    echo,
    get,
    go_away,
    hang,
    post,
    proxy,
    read_response,
    reset,
    sides,
    talk,
    until,
    upstream,
)

from shadowproxy.model import Outcome, Side

BODY = random.Random(1).randbytes(5000)
CHUNKS = b"7;ext=1\r\nabcdefg\r\n1388\r\n" + BODY + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
GOOD = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")


@pytest.mark.parametrize(
    ("request_", "response", "body", "bodiless"),
    [
        (get(), b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + BODY, BODY, False),
        (get(), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, b"abcdefg" + BODY, False),
        (get(), b"HTTP/1.1 200 OK\r\nX: 1\r\n\r\n" + BODY, BODY, False),
        (get(), b"HTTP/1.0 200 OK\r\n\r\n" + BODY, BODY, False),
        (get().replace(b"GET", b"HEAD"), b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", b"", True),
        (get().replace(b"GET", b"HEAD"), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"", True),
        (get(), b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n", b"", True),
        (get(), b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: a\r\n\r\n", b"", True),
        (get(), b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", b"", False),
        (get(), b"HTTP/1.1 404\r\nContent-Length: 2\r\n\r\nno", b"no", False),
    ],
)
async def test_status_and_body_are_those_of_the_baseline(
    request_: bytes, response: bytes, body: bytes, bodiless: bool
) -> None:
    keep = b"Length" in response or b"chunked" in response or b" 204 " in response
    async with (
        upstream(answering(response, keep=keep)) as baseline,
        upstream(answering(response, keep=keep)) as candidate,
        proxy(baseline.url, candidate.url, mirror={"methods": ["GET", "HEAD"]}) as running,
        client(running.address) as (reader, writer),
    ):
        for number in range(2):
            writer.write(request_)
            got = await read_response(reader, bodiless=bodiless)
            assert got.status == int(response.split(b" ")[1][:3])
            assert got.body == body
            pair = (await running.recorded(number + 1))[-1]
            for exchange in (pair.baseline, pair.candidate):
                assert exchange.outcome is Outcome.OK
                assert exchange.status == got.status
                assert exchange.body == body
                assert exchange.body_size == len(body)
                assert 0 <= exchange.ttfb <= exchange.total < 10


async def test_a_chunked_response_keeps_its_chunks_and_trailers() -> None:
    async with (
        upstream(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS)) as one,
        proxy(one.url, one.url) as running,
    ):
        assert (await ask(running.address, get())).raw_body == CHUNKS
        plain = await talk(running.address, b"GET / HTTP/1.0\r\n\r\n")
        head, _, body = plain.partition(b"\r\n\r\n")
        assert body == b"abcdefg" + BODY
        assert b"chunked" not in head
        await running.recorded(2)


async def test_headers_keep_their_order_and_hop_by_hop_ones_stay_behind() -> None:
    response = (
        b"HTTP/1.1 299 Quite Fine\r\nSet-Cookie: a=1\r\nConnection: X-Hop, Content-Length\r\nx-HOP: 1\r\n"
        b"Keep-Alive: 5\r\nSET-cookie:b=2\r\nUpgrade: h2c\r\nContent-Length: 2\r\nX-Odd:  \xe9 \r\n\r\nok"
    )
    async with upstream(answering(response)) as one, proxy(one.url, one.url) as running:
        async with client(running.address) as (reader, writer):
            writer.write(get())
            head = await reader.readuntil(b"\r\n\r\n")
        assert head == (
            b"HTTP/1.1 299 Quite Fine\r\nSet-Cookie: a=1\r\nSET-cookie:b=2\r\nContent-Length: 2\r\n"
            b"X-Odd:  \xe9 \r\n\r\n"
        )
        pair = (await running.recorded(1))[0]
        assert b"x-HOP: 1" in pair.baseline.head
        assert b"ookie" not in pair.baseline.head + pair.candidate.head


async def test_events_reach_the_client_one_by_one() -> None:
    seen = asyncio.Event()

    async def sse(
        _self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"9\r\ndata: 1\n\n\r\n")
        await seen.wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n")
        return True

    async with upstream(sse) as baseline, upstream(GOOD) as candidate, proxy(baseline.url, candidate.url) as running:
        async with client(running.address) as (reader, writer):
            writer.write(get())
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readuntil(b"1\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
            seen.set()
            assert await reader.readuntil(b"0\r\n\r\n") == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
        assert (await running.recorded(1))[0].baseline.body == b"data: 1\n\ndata: 2\n\n"


async def test_interim_responses_pass_to_those_who_understand_them() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    response = b"HTTP/1.1 100 Continue\r\n\r\n" + hints + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    async with upstream(answering(response)) as one, proxy(one.url, one.url) as running:
        async with client(running.address) as (reader, writer):
            writer.write(get())
            assert await reader.readuntil(b"\r\n\r\n") == hints
            assert (await read_response(reader)).body == b"ok"
        assert (await talk(running.address, b"GET / HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")
        assert [pair.candidate.status for pair in await running.recorded(2)] == [200, 200]


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_bodies_pass_both_ways_within_bounded_memory(chunked: bool) -> None:
    size = 24 * 1024 * 1024
    piece = b"0123456789abcdef" * 4096
    held = asyncio.Event()

    async def count(
        self: RawUpstream, request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        assert request.body == piece * (size // len(piece))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        sent = 0
        while sent < size:
            writer.write(piece)
            sent += len(piece)
            self.bytes_seen = sent
            if sent > size // 2 and not held.is_set():
                held.set()
            await writer.drain()
        return True

    async with upstream(count) as baseline, upstream(GOOD) as candidate, proxy(baseline.url, candidate.url) as running:
        async with client(running.address) as (reader, writer):
            framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % size
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n")
            for _ in range(size // len(piece)):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                await writer.drain()
            if chunked:
                writer.write(b"0\r\n\r\n")
            response = await read_response(reader)
            assert response.body == piece * (size // len(piece))
        await running.balanced()
        assert running.recorder.ledger.skipped == {"request_too_large": 1}
        assert not candidate.requests


async def test_a_client_that_does_not_read_holds_the_baseline() -> None:
    size = 64 * 1024 * 1024

    async def pour(
        self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while self.bytes_seen < size:
            writer.write(bytes(65536))
            self.bytes_seen += 65536
            await writer.drain()
        return True

    async with upstream(pour) as baseline, upstream(GOOD) as candidate, proxy(baseline.url, candidate.url) as running:
        async with client(running.address) as (reader, writer):
            writer.write(get())
            await reader.readuntil(b"\r\n\r\n")
            before = -1
            while before != baseline.bytes_seen:
                before = baseline.bytes_seen
                await asyncio.sleep(0.1)
            assert before < size
            assert len(await reader.readexactly(size)) == size
        pair = (await running.recorded(1))[0]
        assert pair.baseline.truncated
        assert pair.baseline.body_size == size
        assert len(pair.baseline.body) == 1024**2


FAILING: dict[str, tuple[Any, Outcome]] = {
    "reset": (reset, Outcome.RESET),
    "garbage": (answering(b"SSH-2.0-OpenSSH_9\r\n", keep=False), Outcome.PROTOCOL),
    "bare LF": (answering(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", keep=False), Outcome.RESET),
    "two framings": (
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        Outcome.PROTOCOL,
    ),
    "gzip coding": (answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"), Outcome.PROTOCOL),
    "upgrade": (answering(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), Outcome.PROTOCOL),
    "half a head": (answering(b"HTTP/1.1 200 OK\r\nContent-Le", keep=False), Outcome.RESET),
}


@pytest.mark.parametrize("name", FAILING)
async def test_a_baseline_that_fails_before_its_head_is_502_and_recorded(name: str) -> None:
    handler, outcome = FAILING[name]
    async with (
        upstream(handler) as baseline,
        upstream(GOOD) as candidate,
        proxy(baseline.url, candidate.url) as running,
    ):
        async with client(running.address) as (reader, writer):
            writer.write(post(b"a", "/", "X-Request-Id: r-1"))
            response = await read_response(reader)
            assert response.status == 502
            content = json.loads(response.body)
            assert content["where"] == "baseline"
            assert content["request_id"] == "r-1"
            assert content["detail"].startswith("baseline: ")
        pair = (await running.recorded(1))[0]
        assert sides(pair) == {Side.BASELINE: outcome, Side.CANDIDATE: Outcome.OK}


async def test_an_unreachable_baseline_is_502_and_the_connection_stays() -> None:
    async with upstream(GOOD) as gone:
        url = gone.url
    async with upstream(GOOD) as candidate, proxy(url, candidate.url) as running:
        reasons = await running.server.probe()
        assert reasons == {Side.BASELINE: "connection refused", Side.CANDIDATE: ""}
        async with client(running.address) as (reader, writer):
            for _ in range(2):
                writer.write(get())
                response = await read_response(reader)
                assert response.status == 502
                assert json.loads(response.body)["detail"] == "baseline: connection refused"
        assert {pair.baseline.outcome for pair in await running.recorded(2)} == {Outcome.CONNECT}


async def test_a_baseline_past_its_deadline_is_504() -> None:
    async with (
        upstream(hang) as baseline,
        upstream(GOOD) as candidate,
        proxy({"url": baseline.url, "deadline": "100ms"}, candidate.url) as running,
    ):
        assert (await ask(running.address, get())).status == 504
        assert sides((await running.recorded(1))[0])[Side.BASELINE] is Outcome.TIMEOUT
        await until(lambda: running.server.in_flight[Side.BASELINE] == 0)


TRUNCATED = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc",
    "between chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc|\r\nxx\r\n",
}


async def in_two_parts(
    self: RawUpstream, request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Sends what the request's body says, up to a bar and, when released, after it; then closes."""
    first, _, second = request.body.partition(b"|")
    writer.write(first)
    await self.release.wait()
    writer.write(second)
    await writer.drain()
    return False


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("name", TRUNCATED)
async def test_a_truncated_response_is_never_passed_off_as_complete(name: str, version: bytes) -> None:
    async with (
        upstream(in_two_parts) as baseline,
        upstream(GOOD) as candidate,
        proxy(baseline.url, candidate.url) as running,
    ):
        async with client(running.address) as (reader, writer):
            writer.write(post(TRUNCATED[name]).replace(b"HTTP/1.1", b"HTTP/" + version, 1))
            await reader.readuntil(b"abc")
            baseline.release.set()
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1000)
        outcome = Outcome.PROTOCOL if name == "bad chunk" else Outcome.RESET
        pair = (await running.recorded(1))[0]
        assert sides(pair) == {Side.BASELINE: outcome, Side.CANDIDATE: Outcome.OK}
        assert pair.baseline.status == 200


async def test_a_response_that_is_broken_from_the_start_is_502() -> None:
    broken = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n")
    async with upstream(broken) as baseline, upstream(GOOD) as candidate, proxy(baseline.url, candidate.url) as running:
        assert (await ask(running.address, get())).status == 502
        pair = (await running.recorded(1))[0]
        assert (pair.baseline.outcome, pair.baseline.status) == (Outcome.PROTOCOL, 200)


async def test_a_long_stream_outlives_the_deadline_for_the_client_but_is_recorded_as_late() -> None:
    async def drip(
        _self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            writer.write(b".")
            await asyncio.sleep(0.03)
        return True

    async with (
        upstream(drip) as baseline,
        upstream(GOOD) as candidate,
        proxy({"url": baseline.url, "deadline": "200ms"}, candidate.url) as running,
    ):
        assert (await ask(running.address, get())).body == b"." * 20
        assert (await running.recorded(1))[0].baseline.outcome is Outcome.TIMEOUT


async def test_a_stream_that_falls_silent_is_cut() -> None:
    async def silent(
        self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n.")
        await self.release.wait()
        return False

    async with (
        upstream(silent) as baseline,
        upstream(GOOD) as candidate,
        proxy({"url": baseline.url, "deadline": "100ms"}, candidate.url) as running,
    ):
        async with client(running.address) as (reader, writer):
            writer.write(get())
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1000)
        assert (await running.recorded(1))[0].baseline.outcome is Outcome.TIMEOUT


class _Stale:
    """Answers the first request of each connection, and ends the connection on reading the second."""

    def __init__(self) -> None:
        self.seen = 0

    async def __call__(
        self, raw: RawUpstream, request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        self.seen += 1
        if self.seen == 2:
            writer.transport.abort()
            return False
        return await GOOD(raw, request, _reader, writer)


async def test_a_stale_connection_is_retried_once_where_that_is_safe() -> None:
    for request, status, seen in ((get(), 200, 3), (post(b"a"), 502, 2)):
        stale = _Stale()
        async with (
            upstream(stale) as baseline,
            upstream(GOOD) as candidate,
            proxy(baseline.url, candidate.url) as running,
        ):
            assert (await ask(running.address, get())).status == 200
            assert (await ask(running.address, request)).status == status
            assert stale.seen == seen
            await running.recorded(2)


async def test_a_fresh_connection_that_is_reset_is_not_retried() -> None:
    async with (
        upstream(reset) as baseline,
        upstream(GOOD) as candidate,
        proxy(baseline.url, candidate.url) as running,
    ):
        assert (await ask(running.address, get())).status == 502
        assert len(baseline.requests) == 1


async def test_a_connection_with_surplus_bytes_is_not_used_again() -> None:
    surplus = answering(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    )
    async with upstream(surplus) as one, proxy(one.url, one.url) as running:
        for _ in range(3):
            assert (await ask(running.address, get())).body == b"ok"
        await running.recorded(3)
        assert one.connections == 6


async def test_an_answer_before_the_end_of_a_large_request_reaches_the_client() -> None:
    async def early(
        _self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        return True

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 429 Slow Down\r\nContent-Length: 4\r\n\r\nwait")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with upstream(early) as candidate, proxy(url, candidate.url) as running:
        async with client(running.address) as (reader, writer):
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n" + bytes(100_000))
            response = await read_response(reader)
            assert response.status == 429
            assert response.body == b"wait"
            assert response.get(b"connection") == [b"close"]
            assert await reader.read() == b""
        await running.balanced()
    server.close()


async def test_a_client_that_goes_away_amid_a_mirrored_request_leaves_a_whole_pair() -> None:
    async with upstream(hang) as baseline, upstream(GOOD) as candidate, proxy(baseline.url, candidate.url) as running:
        _, writer = await asyncio.open_connection(*running.address)
        writer.write(get())
        await until(lambda: baseline.requests)
        go_away(writer)
        await until(lambda: running.server.connections == 0)
        assert running.server.in_flight[Side.BASELINE] == 1
        baseline.release.set()
        pair = (await running.recorded(1))[0]
        assert sides(pair) == {Side.BASELINE: Outcome.RESET, Side.CANDIDATE: Outcome.OK}


async def test_a_client_that_goes_away_amid_an_unmirrored_request_frees_the_baseline() -> None:
    async with upstream(hang) as baseline, proxy(baseline.url, baseline.url, mirror={"enabled": False}) as running:
        _, writer = await asyncio.open_connection(*running.address)
        writer.write(get())
        await until(lambda: baseline.requests)
        go_away(writer)
        await until(lambda: running.server.in_flight[Side.BASELINE] == 0)
        await running.balanced()


async def test_what_is_forwarded() -> None:
    async with (
        upstream(echo) as baseline,
        upstream(echo) as candidate,
        proxy(baseline.url + "/v1/", candidate.url + "/v2") as running,
    ):
        request = post(
            b"hello",
            "http://other.test/a%2Fb?q=1&q=2",
            "Accept:  */*",
            "Connection: keep-alive, X-Private",
            "X-Private: 1",
            "TE: trailers",
            "Proxy-Connection: x",
            "X-Forwarded-For: 10.0.0.1",
            "x-forwarded-for: 10.0.0.2",
            "X-Forwarded-Proto: https",
            "Via: 1.0 edge",
            "X-Shadow-Annotations: eyJhIjoxfQ",
            "X-Shadow-Request: 1",
            "Cookie: secret=1",
            "Cookie: secret=2",
            "X-Request-Id: abc",
        )
        response = await ask(running.address, request)
        assert response.body == b"POST /v1/a%2Fb?q=1&q=2 HTTP/1.1\nhello"
        pair = (await running.recorded(1))[0]
        first, second = baseline.requests[0], candidate.requests[0]
        assert second.line == b"POST /v2/a%2Fb?q=1&q=2 HTTP/1.1"
        assert first.headers == [
            (b"Host", baseline.url[7:].encode()),
            (b"Accept", b"*/*"),
            (b"Cookie", b"secret=1"),
            (b"Cookie", b"secret=2"),
            (b"X-Request-Id", b"abc"),
            (b"X-Forwarded-For", b"10.0.0.1, 10.0.0.2, 127.0.0.1"),
            (b"Via", b"1.0 edge, 1.1 shadowproxy"),
            (b"X-Forwarded-Proto", b"https"),
            (b"X-Forwarded-Host", b"other.test"),
            (b"Content-Length", b"5"),
        ]
        own = [(b"Host", candidate.url[7:].encode())]
        assert second.headers == own + first.headers[1:] + [(b"x-shadow-request", b"1")]
        assert pair.id == "abc"
        assert pair.annotations == b'{"a":1}'
        assert pair.request.target == "/a%2Fb?q=1&q=2"
        assert pair.request.body == b"hello"
        assert b"secret" not in pair.request.head
        assert b"X-Forwarded-Host: other.test" in pair.request.head


async def test_unusable_request_ids_are_replaced() -> None:
    async with upstream(echo) as one, proxy(one.url, one.url) as running:
        for headers in ([], ["X-Request-Id: "], ["X-Request-Id: a b"], ["X-Request-Id: " + "x" * 129]):
            assert (await ask(running.address, get("/", *headers))).status == 200
        pairs = await running.recorded(4)
        assert len({pair.id for pair in pairs}) == 4
        assert {len(pair.id) for pair in pairs} == {32}
        ids = [request.get(b"x-request-id") for request in one.requests]
        assert all(len(values) == 1 for values in ids)
        assert {values[0].decode() for values in ids} == {pair.id for pair in pairs}


async def test_a_long_upload_is_not_held_against_the_baseline() -> None:
    async with (
        upstream(echo) as one,
        proxy({"url": one.url, "deadline": "200ms"}, one.url, mirror={"max_body": 10}) as running,
        client(running.address) as (reader, writer),
    ):
        request = post(b"0123456789" * 5)
        writer.write(request[:-50])
        for part in range(5):
            await asyncio.sleep(0.07)
            writer.write(request[len(request) - 50 + part * 10 :][:10])
        assert (await read_response(reader)).body == b"POST / HTTP/1.1\n" + b"0123456789" * 5
        await running.balanced()


async def test_a_response_without_any_header_is_one_of_its_body_to_the_end() -> None:
    bare = answering(b"HTTP/1.1 200 OK\r\n\r\nall of it", keep=False)
    async with upstream(bare) as baseline, upstream(bare) as candidate, proxy(baseline.url, candidate.url) as running:
        assert (await ask(running.address, get())).body == b"all of it"
        pair = (await running.recorded(1))[0]
        assert (
            (pair.baseline.head, pair.baseline.body)
            == (pair.candidate.head, pair.candidate.body)
            == (b"", b"all of it")
        )
