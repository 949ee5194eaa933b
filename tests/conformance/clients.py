"""Real clients under one face: several requests on as few connections as the client makes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import httpx
import requests
import yarl
from programs import program
from proxy.harness import client, read_response

from shadowproxy.config import Address

PIECE = 7000


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    target: str
    body: bytes | None = None
    chunked: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def pieces(self) -> list[bytes]:
        body = self.body or b""
        return [body[at : at + PIECE] for at in range(0, len(body), PIECE)]


@dataclass(frozen=True)
class Reply:
    """What came back: the body as it was sent, its content-encoding untouched."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def get(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Client(Protocol):
    """A client; `exact` if it sends any target as it is given, `version` of HTTP, `chunks` if it can send them."""

    exact: bool
    version: str
    chunks: bool

    async def ask(self, address: Address, calls: list[Call]) -> tuple[list[Reply], int]:
        """The replies in order, and how many connections were made."""
        ...


def _reply(status: int, headers: Any, body: bytes) -> Reply:
    def text(value: str | bytes) -> str:
        return value.decode("latin-1") if isinstance(value, bytes) else value

    return Reply(status, tuple((text(name).lower(), text(value)) for name, value in headers), body)


class Raw:
    """A socket; all requests are sent before the first answer is read."""

    exact, version, chunks = True, "1.1", True

    async def ask(self, address: Address, calls: list[Call]) -> tuple[list[Reply], int]:
        replies = []
        async with client(address) as (reader, writer):
            sending = asyncio.get_running_loop().create_task(self._send(writer, calls))
            for call in calls:
                while (response := await read_response(reader, bodiless=call.method == "HEAD")).status < 200:
                    pass
                replies.append(_reply(response.status, response.headers, response.body))
            await sending
        return replies, 1

    async def _send(self, writer: asyncio.StreamWriter, calls: list[Call]) -> None:
        for call in calls:
            lines = [f"{call.method} {call.target} HTTP/1.1", "Host: client.test"]
            lines += [f"{name}: {value}" for name, value in call.headers]
            if call.chunked:
                lines.append("Transfer-Encoding: chunked")
            elif call.body is not None:
                lines.append(f"Content-Length: {len(call.body)}")
            writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
            for piece in call.pieces:
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if call.chunked else piece)
            if call.chunked:
                writer.write(b"0\r\n\r\n")
            await writer.drain()


class Curl:
    """The program; further requests by `--next`, so that it keeps its connection."""

    exact, chunks = True, True

    def __init__(self, version: str) -> None:
        self.version = version
        self.chunks = version == "1.1"

    async def ask(self, address: Address, calls: list[Call]) -> tuple[list[Reply], int]:
        binary = program("curl")
        with tempfile.TemporaryDirectory(prefix="sp-curl-") as folder:
            place = Path(folder)
            command: list[str | bytes] = [binary]
            for number, call in enumerate(calls):
                command += ["--next"] if number else []
                command += self._options(place, number, call)
                command.append(f"http://{address}{call.target}".encode("latin-1"))
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
            )
            out, error = await process.communicate()
            assert process.returncode == 0, error
            replies = [self._reply(place, number, call) for number, call in enumerate(calls)]
        return replies, sum(map(int, out.split()))

    def _options(self, place: Path, number: int, call: Call) -> Iterator[str]:
        yield from ("-sS", "-q", f"--http{self.version}", "--path-as-is", "--globoff", "--max-time", "30")
        yield from ("-o", f"{place}/{number}.body", "-D", f"{place}/{number}.head", "-w", "%{num_connects}\n")
        for name, value in call.headers:
            yield from ("-H", f"{name}: {value}")
        if call.chunked:
            yield from ("-H", "Transfer-Encoding: chunked")
        if call.method == "HEAD":
            yield "--head"
        elif call.body is None:
            yield from ("-X", call.method)
        else:
            source = place / f"{number}.up"
            source.write_bytes(call.body)
            if call.method == "PUT":
                yield from ("-T", str(source))
            else:
                yield from ("-X", call.method, "--data-binary", f"@{source}")

    @staticmethod
    def _reply(place: Path, number: int, call: Call) -> Reply:
        final = (place / f"{number}.head").read_bytes().strip().split(b"\r\n\r\n")[-1]
        line, *lines = final.split(b"\r\n")
        headers = [(name, value.strip()) for name, _, value in (one.partition(b":") for one in lines)]
        body = place / f"{number}.body"
        return _reply(
            int(line.split()[1]), headers, body.read_bytes() if call.method != "HEAD" and body.exists() else b""
        )


class Aiohttp:
    exact, version, chunks = True, "1.1", True

    async def ask(self, address: Address, calls: list[Call]) -> tuple[list[Reply], int]:
        made = []
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(_append_to(made))
        connector = aiohttp.TCPConnector(limit=1)
        replies = []
        async with aiohttp.ClientSession(
            connector=connector, trace_configs=[trace], auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            for call in calls:
                url = yarl.URL(f"http://{address}{call.target}", encoded=True)
                headers = [(name, value) for name, value in call.headers if name.lower() != "expect"]
                async with session.request(
                    call.method,
                    url,
                    headers=headers,
                    data=_each(call.pieces) if call.chunked else _file(call.body),
                    expect100=len(headers) < len(call.headers),
                    allow_redirects=False,
                ) as response:
                    replies.append(_reply(response.status, response.raw_headers, await response.read()))
        return replies, len(made)


def _file(body: bytes | None) -> io.BytesIO | bytes | None:
    """aiohttp warns of bytes that are large."""
    return io.BytesIO(body) if body else body


def _append_to(made: list[Any]) -> Any:
    async def note(*event: Any) -> None:
        made.append(event)

    return note


async def _each(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Httpx:
    exact, version, chunks = False, "1.1", True

    async def ask(self, address: Address, calls: list[Call]) -> tuple[list[Reply], int]:
        made = []
        replies = []

        async def note(name: str, _info: Any) -> None:
            if name == "connection.connect_tcp.complete":
                made.append(name)

        async with httpx.AsyncClient(timeout=30, trust_env=False) as session:
            for call in calls:
                async with session.stream(
                    call.method,
                    f"http://{address}{call.target}",
                    headers=list(call.headers),
                    content=_each(call.pieces) if call.chunked else call.body,
                    extensions={"trace": note},
                ) as response:
                    body = b"".join([piece async for piece in response.aiter_raw()])
                    replies.append(_reply(response.status_code, response.headers.raw, body))
        return replies, len(made)


class Requests:
    exact, version, chunks = False, "1.1", True

    async def ask(self, address: Address, calls: list[Call]) -> tuple[list[Reply], int]:
        return await asyncio.to_thread(self._ask, address, calls)

    @staticmethod
    def _ask(address: Address, calls: list[Call]) -> tuple[list[Reply], int]:
        replies = []
        with requests.Session() as session:
            session.trust_env = False
            for call in calls:
                response = session.request(
                    call.method,
                    f"http://{address}{call.target}",
                    headers=dict(call.headers),
                    data=iter(call.pieces) if call.chunked else call.body,
                    allow_redirects=False,
                    stream=True,
                    timeout=30,
                )
                with contextlib.closing(response):
                    body = response.raw.read(decode_content=False)
                    replies.append(_reply(response.status_code, response.raw.headers.iteritems(), body))
            adapter: Any = session.get_adapter(f"http://{address}")
            pools = adapter.poolmanager.pools
            made = sum(pools[key].num_connections for key in pools.keys())  # noqa: SIM118  (no iteration over a container)
        return replies, made


CLIENTS: dict[str, Client] = {
    "raw": Raw(),
    "curl": Curl("1.1"),
    "curl --http1.0": Curl("1.0"),
    "aiohttp": Aiohttp(),
    "httpx": Httpx(),
    "requests": Requests(),
}
