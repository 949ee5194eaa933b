"""Raw upstreams that record every byte of every connection, on real sockets, and judge it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import cast

from conformance import oracle

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Connection(asyncio.Protocol):
    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._at = 0
        self._transport = cast("asyncio.Transport", None)
        self.got = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._witness.connections.append(self)
        self._witness.open.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._witness.open.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self.got += data
        with contextlib.suppress(oracle.IncompleteError, oracle.ViolationError):
            while self._at < len(self.got):
                message = oracle.read_request(bytes(self.got[self._at :]))
                self._at += message.size
                self._transport.write(ANSWER if message.first != b"HEAD" else ANSWER[:-2])


class Witness:
    """All connections that were made to one upstream, and their bytes."""

    def __init__(self) -> None:
        self.connections: list[_Connection] = []
        self.open: set[asyncio.BaseTransport] = set()
        self.url = ""

    @property
    def requests(self) -> list[oracle.Message]:
        """The requests that came. Fails where a byte came that belongs to none."""
        found = []
        for connection in self.connections:
            requests, rest = oracle.read_requests(bytes(connection.got))
            assert not rest, rest
            found += requests
        return found

    @property
    def targets(self) -> list[bytes]:
        return [message.second for message in self.requests]


@contextlib.asynccontextmanager
async def witness() -> AsyncIterator[Witness]:
    seen = Witness()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(seen), "127.0.0.1", 0)
    seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield seen
    finally:
        server.close()
        for transport in tuple(seen.open):
            cast("asyncio.Transport", transport).abort()
