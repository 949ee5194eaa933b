"""Metrics and readiness of several processes, asked together over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from shadowproxy import metrics
from shadowproxy.config import Address
from shadowproxy.model import Outcome, Side
from shadowproxy.serve.admin import AdminServer
from shadowproxy.serve.gather import pages, unready

ANYWHERE = Address("127.0.0.1", 0)


@asynccontextmanager
async def process(wrong: str = "") -> AsyncIterator[str]:
    """The admin URL of one, with some metrics."""
    registry = metrics.registry()
    metrics.ProxyMetrics(registry).observer(Side.CANDIDATE)(Outcome.OK, 0.02)

    async def ready() -> Mapping[str, str]:
        return {"baseline": wrong}

    server = AdminServer("proxy", registry, ready)
    try:
        yield f"http://{await server.start(ANYWHERE, '$.proxy.admin')}"
    finally:
        await server.stop()


@asynccontextmanager
async def answering(said: bytes) -> AsyncIterator[str]:
    """The URL of one that says this to every connection and then nothing more."""
    over = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await over.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"http://{host}:{port}"
    finally:
        over.set()
        server.close()


HANGS = b""
BREAKS_OFF = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n# TYPE a gauge\n"
IS_OTHER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
NOBODY = "http://127.0.0.1:9"


async def test_who_does_not_answer_whole_is_left_out() -> None:
    async with process() as one, process() as two, answering(HANGS) as hangs, answering(BREAKS_OFF) as breaks_off:
        urls = {"0": one, "1": hangs, "2": breaks_off, "3": NOBODY, "4": two}
        found = await pages(urls, 1.0)
    assert list(found) == ["0", "4"]
    for page in found.values():
        assert 'shadowproxy_exchanges_total{outcome="ok",side="candidate"} 1.0' in page
        assert page.endswith("# EOF\n")


async def test_what_answers_something_else_is_not_up() -> None:
    async with process() as one, answering(IS_OTHER) as other:
        found = await pages({"0": one, "1": other}, 5.0)
    merged = metrics.of_workers(metrics.registry(), found, configured=2, restarts=0)
    assert merged.get_sample_value("shadowproxy_workers", {"state": "up"}) == 1


async def test_one_that_is_ready_is_enough_and_the_others_are_not_waited_for() -> None:
    async with process() as one, process("connection refused") as two, answering(HANGS) as hangs:
        async with asyncio.timeout(30):
            assert await unready({"worker 0": hangs, "worker 1": two, "worker 2": one}, 3600) == ""


async def test_where_none_is_ready_each_says_why() -> None:
    async with process("connection refused") as one:
        said = await unready({"worker 0": one, "worker 1": NOBODY}, 5.0)
    assert said == "worker 0: baseline: connection refused; worker 1: no answer"
    assert await unready({}, 5.0) == "none is up"
