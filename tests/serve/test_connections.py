"""Clients that open connections and then do nothing, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web
from servers import until

from shadowproxy.serve.connections import Connections

LARGE = b"x" * 2**23


async def large(_request: web.Request) -> web.Response:
    return web.Response(body=LARGE)


@asynccontextmanager
async def served(most: int, stalled: float) -> AsyncIterator[tuple[Connections, int]]:
    """The connections of a server at a port."""
    app = web.Application()
    app.add_routes([web.get("/", large)])
    runner = web.AppRunner(app, shutdown_timeout=1.0)
    await runner.setup()
    assert runner.server is not None
    connections = Connections(runner.server, most, stalled=stalled)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    try:
        yield connections, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await runner.cleanup()


async def test_one_more_is_closed_unheard_and_one_less_makes_room() -> None:
    async with served(1, 30.0) as (connections, port):
        _, first = await asyncio.open_connection("127.0.0.1", port)
        await until(lambda: len(connections) == 1, "the first connection")
        reader, second = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        second.close()
        first.close()
        await until(lambda: len(connections) == 0, "the end of the first")
        reader, third = await asyncio.open_connection("127.0.0.1", port)
        third.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        third.transport.abort()


async def test_who_does_not_read_is_cut_off_and_who_reads_slowly_is_not() -> None:
    async with served(5, 0.2) as (connections, port):
        idle = socket.create_connection(("127.0.0.1", port))
        idle.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await until(lambda: len(connections) == 1, "the connection")
        await until(lambda: len(connections) == 0, "the end of one who reads nothing")
        idle.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(LARGE)
        writer.close()
