"""Real small upstreams, raw clients, and a proxy whose account must balance at the end of every test."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from proxy.memory import MemoryRecorder

from shadowproxy.config import Address, Settings
from shadowproxy.model import Outcome, Pair, Side
from shadowproxy.pairs.ledger import DROPPED, SKIPPED
from shadowproxy.proxy.connector import Resolve, system_resolver
from shadowproxy.proxy.redact import Redactor
from shadowproxy.proxy.server import ProxyServer
from shadowproxy.tasks import Tasks

DEADLINE = 10.0


async def until(condition: Callable[[], Any]) -> None:
    """Wait for a condition; fails the test past DEADLINE."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  (what is waited for is the proxy's state, which has no events)
            await asyncio.sleep(0.002)


@dataclass
class Received:
    """A request as an upstream read it off the wire."""

    line: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    raw_body: bytes

    def get(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


async def read_request(reader: asyncio.StreamReader) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    line, headers = parse_head(head)
    names = {key.lower(): value for key, value in headers}
    if b"transfer-encoding" in names:
        body, raw = await read_chunked(reader)
    else:
        body = raw = await reader.readexactly(int(names.get(b"content-length", b"0")))
    return Received(line, headers, body, raw)


def parse_head(head: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    line, *lines = head[:-4].split(b"\r\n")
    pairs = [one.partition(b":") for one in lines]
    return line, [(key, value.strip()) for key, _, value in pairs]


async def read_chunked(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    body = raw = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        raw += line
        if not size:
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                raw += line
            return body, raw + line
        data = await reader.readexactly(size + 2)
        body += data[:-2]
        raw += data


Handler = Callable[["RawUpstream", Received, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bool]]


@dataclass
class RawUpstream:
    """Reads requests and lets a handler answer on the bare connection; a handler returns whether to go on."""

    handler: Handler
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    bytes_seen: int = 0
    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while (request := await read_request(reader)) is not None:
                    self.requests.append(request)
                    if not await self.handler(self, request, reader, writer):
                        break
        finally:
            self.open -= 1
            await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextlib.asynccontextmanager
async def upstream(
    handler: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[RawUpstream]:
    raw = RawUpstream(handler, scheme="http" if tls is None else "https", host=host)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(raw.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, host, port, limit=2**22, ssl=tls)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()
        running = set(tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def answering(response: bytes, *, keep: bool = True) -> Handler:
    """Always these bytes."""

    async def handler(
        _self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(response)
        await writer.drain()
        return keep

    return handler


async def echo(
    _self: RawUpstream, request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    """The request line and body come back as the body."""
    body = request.line + b"\n" + request.body
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-One: 1\r\n\r\n" % len(body)
    writer.write(head if request.line.startswith(b"HEAD ") else head + body)
    await writer.drain()
    return True


async def hang(
    self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter
) -> bool:
    await self.release.wait()
    return False


async def reset(
    _self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    writer.transport.abort()
    return False


@dataclass
class Running:
    server: ProxyServer
    address: Address
    recorder: MemoryRecorder
    observed: list[tuple[Side, Outcome, float]]

    @property
    def pairs(self) -> list[Pair]:
        return self.recorder.pairs

    async def recorded(self, count: int) -> list[Pair]:
        await until(lambda: len(self.pairs) >= count)
        assert len(self.pairs) == count
        return self.pairs

    async def balanced(self) -> None:
        await until(lambda: self.recorder.ledger.snapshot().balanced)


@contextlib.asynccontextmanager
async def proxy(
    baseline: str | dict[str, Any],
    candidate: str | dict[str, Any],
    *,
    replica: str | dict[str, Any] | None = None,
    mirror: dict[str, Any] | None = None,
    limits: dict[str, Any] | None = None,
    recorder: MemoryRecorder | None = None,
    grace: float = 5.0,
    tolerate: tuple[type[Exception], ...] = (),
    resolve: Resolve = system_resolver,
    **section: Any,
) -> AsyncIterator[Running]:
    """A proxy that runs; at the end it is drained, and the accounting identity must hold.

    Errors that reach the event loop fail the test, but for those of a kind in `tolerate`.
    """
    settings = Settings.model_validate(
        {
            "baseline": baseline,
            "candidate": candidate,
            "replica": replica,
            "proxy": {"listen": "127.0.0.1:0", "mirror": mirror or {}, "limits": limits or {}, **section},
        }
    )
    recorder = recorder or MemoryRecorder()
    recorder.scrub = Redactor(settings.proxy.redact)
    crashes: list[BaseException] = []
    tasks = Tasks(lambda _name, crash: crashes.append(crash))
    observed: list[tuple[Side, Outcome, float]] = []
    server = ProxyServer(
        settings,
        recorder,
        tasks=tasks,
        observer=lambda side: lambda outcome, total, _request: observed.append((side, outcome, total)),
        resolve=resolve,
    )
    errors: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: errors.append(context))
    address = await server.start()
    try:
        yield Running(server, address, recorder, observed)
    finally:
        await server.drain(grace)
        await tasks.drain(1)
        await until(lambda: not server.connections)
        assert recorder.ledger.snapshot().balanced, recorder
        assert set(server.in_flight.values()) == {0}
        assert all(gate.held == 0 for gate in server.gates.values()), server.gates
        assert recorder.ledger.skipped.keys() <= SKIPPED.keys()
        assert recorder.ledger.dropped.keys() <= DROPPED.keys()
        assert not crashes
        assert all(isinstance(error.get("exception"), tolerate) for error in errors), errors


@contextlib.asynccontextmanager
async def client(address: Address) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address, limit=2**22)
    try:
        async with asyncio.timeout(DEADLINE * 2):
            yield reader, writer
    finally:
        await closed(writer)


def go_away(writer: asyncio.StreamWriter) -> None:
    """Cut a client's connection with a reset: it will not read an answer."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def talk(address: Address, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes, read until the proxy closes."""
    async with client(address) as (reader, writer):
        writer.write(data)
        if half_close:
            writer.write_eof()
        return await reader.read()


@dataclass
class Response:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    raw_body: bytes = b""

    def get(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


async def read_response(reader: asyncio.StreamReader, *, bodiless: bool = False) -> Response:
    line, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
    names = {key.lower(): value for key, value in headers}
    status = int(line.split(b" ")[1])
    if bodiless or status < 200 or status in (204, 304):
        return Response(status, headers, b"")
    if b"transfer-encoding" in names:
        body, raw = await read_chunked(reader)
        return Response(status, headers, body, raw)
    if b"content-length" in names:
        body = await reader.readexactly(int(names[b"content-length"]))
    else:
        body = await reader.read()
    return Response(status, headers, body)


async def ask(address: Address, request: bytes, *, bodiless: bool = False) -> Response:
    """One request on a connection of its own."""
    async with client(address) as (reader, writer):
        writer.write(request)
        return await read_response(reader, bodiless=bodiless)


def get(target: str = "/", *headers: str) -> bytes:
    return "\r\n".join([f"GET {target} HTTP/1.1", "Host: client.test", *headers, "", ""]).encode("latin-1")


def post(body: bytes, target: str = "/", *headers: str) -> bytes:
    lines = [f"POST {target} HTTP/1.1", "Host: client.test", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def sides(pair: Pair) -> dict[Side, Outcome]:
    exchanges = {Side.BASELINE: pair.baseline, Side.CANDIDATE: pair.candidate, Side.REPLICA: pair.replica}
    return {side: exchange.outcome for side, exchange in exchanges.items() if exchange is not None}
