"""Starting and stopping."""

from __future__ import annotations

import asyncio

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
