"""Real servers for tests: Valkey and Redis of one's own, and a relay that loses replies."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Self

import pytest
from programs import program
from redis import Redis
from redis.exceptions import RedisError

from shadowproxy.pairs import EmbeddedServer

_SERIAL = itertools.count(1)


def unique(prefix: str) -> str:
    """A name that no other test of this run uses, such as an experiment's."""
    return f"{prefix}-{os.getpid()}-{next(_SERIAL)}"


async def until(
    condition: Callable[[], bool | Awaitable[bool]], what: str = "the condition", *, within: float = 20.0
) -> None:
    """Wait for a condition on state that has no event to wait for. Fails after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        holds = condition()
        if holds if isinstance(holds, bool) else await holds:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come within {within:g} s")
        await asyncio.sleep(0.005)


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedServer]:
    """One Valkey for the whole run. Take a `unique` experiment in it; don't stop, flush or reconfigure it."""
    with tempfile.TemporaryDirectory(prefix="sp-test-") as folder, EmbeddedServer(folder) as server:
        with Redis.from_url(server.url) as client:
            # Nobody may kill this one, so nothing is gained by waiting for the disk.
            client.config_set("appendfsync", "no")
        yield server


@pytest.fixture
def own_valkey() -> Iterator[EmbeddedServer]:
    """A Valkey for one test, which may do to it what it likes."""
    with tempfile.TemporaryDirectory(prefix="sp-test-") as folder, EmbeddedServer(folder) as server:
        yield server


@contextmanager
def debian_redis(*options: str) -> Iterator[str]:
    """A `redis-server` of the distribution; skips the test where there is none, fails it in CI. Yields its URL."""
    binary = program("redis-server")
    with tempfile.TemporaryDirectory(prefix="sp-test-") as folder:
        path = Path(folder) / "redis.sock"
        command = [binary, "--port", "0", "--unixsocket", str(path), "--dir", folder, "--save", "", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_for_server(path)
            yield f"unix://{path}"
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """URL of a server of either kind, shared by the tests of a module."""
    if request.param == "valkey":
        yield request.getfixturevalue("valkey").url
        return
    with debian_redis() as url:
        yield url


def wait_for_server(path: Path, within: float = 20.0) -> None:
    """Until a server answers PING on a Unix socket."""
    deadline = time.monotonic() + within
    with Redis(unix_socket_path=str(path)) as client:
        while True:
            try:
                client.ping()
                return
            except RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def kill_and_restart(server: EmbeddedServer) -> None:
    """SIGKILL an owned server, then start it again on the same data and the same socket."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    server.start()


class Relay:
    """TCP on loopback to a Unix socket, with faults.

    `lose_replies = n`: of the next n scripts that are run the reply is lost and the connection cut, so that the step
    was done and the client can't know. `hold` keeps all replies back.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._free = asyncio.Event()
        self._free.set()
        self.lose_replies = 0
        self.lost = 0
        self.connections = 0

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"redis://{host}:{port}"

    def hold(self) -> None:
        """Keep all replies back from now on."""
        self._free.clear()

    def release(self) -> None:
        """Let replies through again."""
        self._free.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self._free.set()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        await until(lambda: not self._writers, "the end of the relay's connections")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        up_reader, up_writer = await asyncio.open_unix_connection(self._target)
        ends = (writer, up_writer)
        script = asyncio.Event()
        self._writers.update(ends)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._requests(reader, up_writer, script))
                group.create_task(self._replies(up_reader, script, writer, up_writer))
        finally:
            for end in ends:
                end.transport.abort()
            self._writers.difference_update(ends)

    async def _requests(self, reader: asyncio.StreamReader, out: asyncio.StreamWriter, script: asyncio.Event) -> None:
        try:
            while data := await reader.read(65536):
                if b"EVALSHA" in data[:64]:
                    script.set()
                out.write(data)
                await out.drain()
        except OSError:
            pass
        out.transport.abort()

    async def _replies(self, reader: asyncio.StreamReader, script: asyncio.Event, *out: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._free.wait()
                if self.lose_replies and script.is_set():
                    self.lose_replies -= 1
                    self.lost += 1
                    break
                script.clear()
                out[0].write(data)
                await out[0].drain()
        except OSError:
            pass
        for end in out:
            end.transport.abort()


@asynccontextmanager
async def relay_to(url: str) -> AsyncIterator[Relay]:
    """A relay in front of the server at a `unix://` URL."""
    async with Relay(url.removeprefix("unix://")) as relay:
        yield relay
