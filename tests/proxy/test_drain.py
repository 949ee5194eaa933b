"""Starting and stopping."""

from __future__ import annotations

import asyncio
import socket

import pytest
from proxy.harness import RawUpstream, Received, ask, client, echo, get, hang, proxy, read_response, until, upstream
from proxy.memory import MemoryRecorder

from shadowproxy.config import Settings
from shadowproxy.errors import StartError
from shadowproxy.model import Outcome, Side
from shadowproxy.proxy.server import ProxyServer
from shadowproxy.tasks import Tasks


async def when_released(
    self: RawUpstream, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    await self.release.wait()
    return await echo(self, request, reader, writer)


async def test_a_drain_cuts_nothing_that_is_under_way() -> None:
    async with (
        upstream(when_released) as baseline,
        upstream(when_released) as candidate,
        proxy(baseline.url, candidate.url) as running,
    ):
        async with client(running.address) as (idle, _), client(running.address) as (reader, writer):
            writer.write(get("/under-way"))
            await until(lambda: baseline.requests and candidate.requests)
            drained = asyncio.ensure_future(running.server.drain(8))
            assert await idle.read() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*running.address)
            baseline.release.set()
            response = await read_response(reader)
            assert response.body == b"GET /under-way HTTP/1.1\n"
            assert response.get(b"connection") == [b"close"]
            assert await reader.read() == b""
            assert not drained.done()
            candidate.release.set()
            await drained
        assert running.pairs[0].candidate.outcome is Outcome.OK


async def test_a_connection_that_waits_to_be_accepted_is_served() -> None:
    async with upstream(echo) as one, proxy(one.url, one.url) as running:
        loop = asyncio.get_running_loop()
        with socket.create_connection(running.address) as early:
            # No turn of the loop since: the kernel has the connection and its request, the proxy has neither.
            early.sendall(get("/early"))
            draining = asyncio.ensure_future(running.server.drain(8))
            early.setblocking(False)
            async with asyncio.timeout(8):
                received = b""
                while data := await loop.sock_recv(early, 4096):
                    received += data
        await draining
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in received
        assert received.endswith(b"GET /early HTTP/1.1\n")


async def test_a_request_that_was_on_its_way_when_the_drain_began_is_answered() -> None:
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url) as running,
        client(running.address) as (reader, writer),
        client(running.address) as (silent, _),
    ):
        writer.write(get("/first"))
        assert (await read_response(reader)).get(b"connection") == []
        draining = asyncio.ensure_future(running.server.drain(60))
        await until(lambda: refused(running.address))
        writer.write(get("/second"))
        response = await read_response(reader)
        assert (response.status, response.get(b"connection")) == (200, [b"close"])
        assert await reader.read() == b""
        # And it waits no longer for one that says nothing.
        assert await silent.read() == b""
        writer.close()
        async with asyncio.timeout(10):
            await draining


def refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return True
    return False


async def in_two_parts(
    self: RawUpstream, request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
    await self.release.wait()
    writer.write(b"later")
    await writer.drain()
    return True


async def test_an_answer_that_began_before_the_drain_does_not_keep_its_connection_open() -> None:
    async with (
        upstream(in_two_parts) as one,
        proxy(one.url, one.url) as running,
        client(running.address) as (reader, writer),
    ):
        writer.write(get())
        assert b"connection:" not in (await reader.readuntil(b"first")).lower()
        draining = asyncio.ensure_future(running.server.drain(60))
        await until(lambda: refused(running.address))
        one.release.set()
        assert await reader.read() == b"later"
        async with asyncio.timeout(10):
            await draining


LARGE = b"x" * 2**19
"""More than the client's kernel takes and less than the proxy's does."""


async def large(
    self: RawUpstream, request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    await self.release.wait()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(LARGE), LARGE))
    await writer.drain()
    return True


async def test_a_last_answer_reaches_a_client_that_has_sent_its_next_request() -> None:
    async with upstream(large) as baseline, upstream(echo) as candidate, proxy(baseline.url, candidate.url) as running:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(tuple(running.address))
            sock.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=sock, limit=2**12)
            writer.write(get("/one"))
            await until(lambda: baseline.requests)
            draining = asyncio.ensure_future(running.server.drain(60))
            await until(lambda: refused(running.address))
            baseline.release.set()
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"\r\nConnection: close\r\n" in head
            await running.recorded(1)
            # The proxy is done with its answer, of which this client has hardly read anything.
            writer.write(get("/two"))
            assert await reader.readexactly(len(LARGE)) == LARGE
            assert await reader.read() == b""
            writer.close()
            async with asyncio.timeout(10):
                await draining
        assert [request.line for request in baseline.requests] == [b"GET /one HTTP/1.1"]


async def test_past_the_grace_everything_is_cut_and_accounted_for() -> None:
    async with (
        upstream(hang) as baseline,
        upstream(hang) as candidate,
        proxy(baseline.url, candidate.url) as running,
    ):
        async with client(running.address) as (reader, writer):
            writer.write(get())
            await until(lambda: baseline.requests and candidate.requests)
            await running.server.drain(0.05)
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
        assert running.recorder.ledger.dropped == {"proxy_stopped": 1}
        assert not running.pairs


async def test_a_drain_of_an_idle_proxy_returns_at_once_and_may_be_repeated() -> None:
    async with upstream(echo) as one, proxy(one.url, one.url) as running:
        assert (await ask(running.address, get())).status == 200
        async with asyncio.timeout(5):
            await running.server.drain(60)
            await running.server.drain(60)


async def test_a_port_in_use_is_told_in_one_line() -> None:
    async with upstream(echo) as one:
        elsewhere = "http://localhost:1"
        settings = Settings.model_validate(
            {"baseline": elsewhere, "candidate": elsewhere, "proxy": {"listen": f"127.0.0.1:{one.port}"}}
        )
        server = ProxyServer(settings, MemoryRecorder(), tasks=Tasks())
        with pytest.raises(StartError, match=rf"^port {one.port} is in use: proxy\.listen is 127\.0\.0\.1:{one.port};"):
            await server.start()
        await server.drain(0)


async def test_probe_works_before_the_start() -> None:
    async with upstream(echo) as one:
        settings = Settings.model_validate({"baseline": one.url, "candidate": "http://name.invalid:1"})
        server = ProxyServer(settings, MemoryRecorder(), tasks=Tasks())
        reasons = await server.probe()
        assert reasons == {Side.BASELINE: "", Side.CANDIDATE: "the host name can't be resolved"}
        await server.drain(0)
