"""Upgrade: a WebSocket passes through as a tunnel, live-only; an offer of h2c is ignored."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from conformance.conftest import Services
from conformance.test_clients import address_of
from proxy.harness import (
    RawUpstream,
    Received,
    Running,
    answering,
    ask,
    client,
    echo,
    get,
    go_away,
    parse_head,
    post,
    proxy,
    read_response,
    until,
    upstream,
)

OFFER = get("/ws", "Connection: Upgrade", "Upgrade: raw")
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\nX-One: 1\r\n\r\n"


async def shout(
    self: RawUpstream, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """Answers ordinary requests as `echo`; an Upgrade by a tunnel in which every byte comes back in capitals."""
    if not request.get(b"upgrade"):
        return await echo(self, request, reader, writer)
    writer.write(SWITCHING)
    while data := await reader.read(65536):
        self.bytes_seen += len(data)
        writer.write(data.upper())
        await writer.drain()
    writer.write(b"THE END")
    await writer.drain()
    return False


@contextlib.asynccontextmanager
async def between(handler: object = shout) -> AsyncIterator[tuple[Running, RawUpstream, RawUpstream]]:
    async with (
        upstream(handler) as baseline,  # type: ignore[arg-type]
        upstream(echo) as candidate,
        proxy(baseline.url, candidate.url, tolerate=(ConnectionError,)) as running,
    ):
        yield running, baseline, candidate


async def live_only(running: Running, candidate: RawUpstream, count: int = 1) -> None:
    await until(lambda: running.server.connections == 0)
    await running.balanced()
    assert running.recorder.ledger.skipped == {"upgrade": count}
    assert not candidate.requests
    assert not running.pairs


@contextlib.asynccontextmanager
async def websocket(services: Services, path: str = "/ws") -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with upstream(echo) as candidate, proxy(services.aiohttp, candidate.url) as running:
        async with aiohttp.ClientSession() as session:
            url = f"http://{running.address}{path}"
            async with session.ws_connect(url, protocols=("chat",), max_msg_size=4 * 1024 * 1024) as socket:
                yield socket
        await live_only(running, candidate)


async def test_a_websocket_carries_text_bytes_and_pings(services: Services) -> None:
    async with websocket(services) as socket:
        assert socket.protocol == "chat"
        await socket.send_str("héllo")
        assert await socket.receive_str() == "héllo"
        await socket.send_bytes(b"\0\r\n\r\n\xff")
        assert await socket.receive_bytes() == b"\0\r\n\r\n\xff"
        await socket.ping(b"are you there")
        await socket.send_str("after the ping")
        assert await socket.receive_str() == "after the ping"


@pytest.mark.parametrize("code", [1000, 1001, 4321])
async def test_a_websocket_closes_with_the_code_of_either_side(services: Services, code: int) -> None:
    async with websocket(services) as socket:
        await socket.send_str(f"close {code}")
        message = await socket.receive()
        assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, code, "as asked")
    async with websocket(services, f"/ws?{code}") as socket:
        assert await socket.close(code=code)
    assert (await ask(address_of(services.aiohttp), get(f"/ws-code?{code}"))).body == str(code).encode()


async def test_large_messages_pass_both_ways_at_once(services: Services) -> None:
    messages = [random.Random(n).randbytes(1024 * 1024) for n in range(8)]
    async with websocket(services) as socket:

        async def send() -> None:
            for message in messages:
                await socket.send_bytes(message)

        sending = asyncio.get_running_loop().create_task(send())
        for message in messages:
            assert await socket.receive_bytes() == message
        await sending


async def test_what_the_server_says_first_arrives(services: Services) -> None:
    async with websocket(services, "/ws?greet=1") as socket:
        assert await socket.receive_str() == "hello"


async def test_a_server_that_dies_ends_the_websocket(services: Services) -> None:
    async with websocket(services) as socket:
        await socket.send_str("die")
        assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        assert socket.close_code == 1006


async def test_many_websockets_stand_beside_ordinary_requests(services: Services) -> None:
    async with proxy(services.aiohttp, services.aiohttp) as running, aiohttp.ClientSession() as session:
        url = f"http://{running.address}"
        async with contextlib.AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(session.ws_connect(f"{url}/ws")) for _ in range(20)]
            for number, socket in enumerate(sockets):
                await socket.send_str(str(number))
                async with session.get(f"{url}/echo?{number}") as response:
                    assert response.status == 200
            for number, socket in enumerate(sockets):
                assert await socket.receive_str() == str(number)
        await running.recorded(20)
        assert running.recorder.ledger.skipped == {"upgrade": 20}


async def test_a_refused_upgrade_is_an_ordinary_answer(services: Services) -> None:
    async with proxy(services.aiohttp, services.aiohttp) as running:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await session.ws_connect(f"http://{running.address}/ws-refused")
            assert error.value.status == 403
        async with client(running.address) as (reader, writer):
            for _ in range(2):
                writer.write(get("/ws-refused", "Connection: Upgrade", "Upgrade: websocket"))
                response = await read_response(reader)
                assert (response.status, response.body) == (403, b"no")
            writer.write(get("/echo"))
            assert (await read_response(reader)).status == 200
        await running.recorded(1)
        assert running.recorder.ledger.skipped == {"upgrade": 3}


async def test_the_handshake_is_forwarded_as_it_is() -> None:
    async with between() as (running, baseline, candidate):
        async with client(running.address) as (reader, writer):
            writer.write(
                get("/ws?a=%2F", "Upgrade: raw", "connection: keep-alive, upgrade, X-Hop", "X-Hop: 1", "X-Own: 2")
            )
            line, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
            assert line == b"HTTP/1.1 101 Switching Protocols"
            assert {(name.lower(), value.lower()) for name, value in headers} == {
                (b"connection", b"upgrade"),
                (b"upgrade", b"raw"),
                (b"x-one", b"1"),
            }
        request = baseline.requests[0]
        assert request.line == b"GET /ws?a=%2F HTTP/1.1"
        assert request.get(b"upgrade") == [b"raw"]
        assert [value.lower() for value in request.get(b"connection")] == [b"upgrade"]
        assert request.get(b"x-own") == [b"2"]
        assert not request.get(b"x-hop")
        assert len(request.get(b"x-request-id")) == 1
        await live_only(running, candidate)


async def test_bytes_right_behind_the_handshake_reach_the_upstream() -> None:
    async with between() as (running, baseline, candidate):
        async with client(running.address) as (reader, writer):
            # In the same write: the proxy has them before it knows whether there will be a tunnel.
            writer.write(OFFER + b"early\r\n\r\nbird")
            assert await reader.readuntil(b"\r\n\r\n") == SWITCHING
            assert await reader.readexactly(13) == b"EARLY\r\n\r\nBIRD"
        assert baseline.connections == 1
        await live_only(running, candidate)


async def test_bytes_behind_a_refused_handshake_are_the_next_request() -> None:
    refusing = answering(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
    async with between(refusing) as (running, baseline, candidate):
        async with client(running.address) as (reader, writer):
            writer.write(OFFER + post(b"abc", "/next"))
            assert (await read_response(reader)).status == 403
            assert (await read_response(reader)).status == 403
        assert [request.line.split()[1] for request in baseline.requests] == [b"/ws", b"/next"]
        assert baseline.requests[1].body == b"abc"
        await running.recorded(1)
        assert [request.line.split()[1] for request in candidate.requests] == [b"/next"]


async def test_a_request_in_the_tunnel_is_bytes() -> None:
    async with between() as (running, baseline, candidate):
        async with client(running.address) as (reader, writer):
            writer.write(OFFER)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(get("/smuggled") + b"GET / HTTP/1.1\nbad")
            expected = (get("/smuggled") + b"GET / HTTP/1.1\nbad").upper()
            assert await reader.readexactly(len(expected)) == expected
        assert len(baseline.requests) == 1
        await live_only(running, candidate)


async def test_a_client_that_closes_its_half_gets_the_rest() -> None:
    async with between() as (running, _, candidate):
        async with client(running.address) as (reader, writer):
            writer.write(OFFER)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"last words")
            writer.write_eof()
            assert await reader.read() == b"LAST WORDSTHE END"
        await live_only(running, candidate)


async def test_an_upstream_that_closes_its_half_ends_the_tunnel_after_its_last_byte() -> None:
    async def farewell(
        _self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(SWITCHING + b"x" * 300_000)
        await writer.drain()
        return False

    async with between(farewell) as (running, _, candidate):
        async with client(running.address) as (reader, writer):
            writer.write(OFFER)
            await reader.readuntil(b"\r\n\r\n")
            assert len(await reader.read()) == 300_000
        await live_only(running, candidate)


async def test_an_upstream_that_dies_cuts_the_client() -> None:
    async def die(
        self: RawUpstream, _request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(SWITCHING)
        await reader.readexactly(2)
        go_away(writer)
        return False

    async with between(die) as (running, _, candidate):
        async with client(running.address) as (reader, writer):
            writer.write(OFFER)
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"go")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        await live_only(running, candidate)


async def test_a_client_that_dies_frees_the_upstream() -> None:
    async with between() as (running, baseline, candidate):
        reader, writer = await asyncio.open_connection(*running.address)
        writer.write(OFFER)
        await reader.readuntil(b"\r\n\r\n")
        go_away(writer)
        await until(lambda: baseline.open == 0)
        await live_only(running, candidate)


async def test_a_side_that_does_not_read_holds_the_other() -> None:
    async with between() as (running, baseline, candidate):
        async with client(running.address) as (reader, writer):
            writer.write(OFFER)
            await reader.readuntil(b"\r\n\r\n")
            # More than all buffers on the way hold together: the kernel's grow to some 32 MB each, but for this one.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            size = 128 * 1024 * 1024
            writer.write(b"x" * size)
            before = -1
            while before != baseline.bytes_seen:
                before = baseline.bytes_seen
                await asyncio.sleep(0.1)
            # The client reads nothing: its own answers stop the upstream, and that its sending.
            assert before < size
            assert (await reader.readexactly(size)).count(b"X") == size
        await live_only(running, candidate)


async def test_a_tunnel_outlives_the_deadline() -> None:
    async with (
        upstream(shout) as baseline,
        upstream(echo) as candidate,
        proxy({"url": baseline.url, "deadline": "50ms"}, candidate.url) as running,
    ):
        async with client(running.address) as (reader, writer):
            writer.write(OFFER)
            await reader.readuntil(b"\r\n\r\n")
            for _ in range(5):
                await asyncio.sleep(0.03)
                writer.write(b"a")
                assert await reader.readexactly(1) == b"A"
        await live_only(running, candidate)


async def test_a_baseline_that_is_gone_is_502() -> None:
    async with upstream(echo) as gone:
        url = gone.url
    async with upstream(echo) as candidate, proxy(url, candidate.url) as running:
        assert (await ask(running.address, OFFER)).status == 502
        await live_only(running, candidate)


async def test_a_101_that_nobody_asked_for_is_no_tunnel() -> None:
    async with between(answering(SWITCHING + b"evil")) as (running, _, _candidate):
        assert (await ask(running.address, get())).status == 502
        await running.recorded(1)


@pytest.mark.parametrize(
    "lines",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        ("Connection: upgrade", "Upgrade: H2C"),
        ("Upgrade: h2c",),
        ("Upgrade: raw",),
        ("Connection: Upgrade",),
    ],
)
async def test_an_offer_that_is_ignored_is_an_ordinary_request(lines: tuple[str, ...]) -> None:
    async with between() as (running, baseline, candidate):
        async with client(running.address) as (reader, writer):
            for _ in range(2):
                writer.write(post(b"abc", "/p", *lines))
                assert (await read_response(reader)).body == b"POST /p HTTP/1.1\nabc"
        await running.recorded(2)
        for request in (*baseline.requests, *candidate.requests):
            assert not request.get(b"upgrade")
            assert not request.get(b"http2-settings")
            assert not request.get(b"connection")
