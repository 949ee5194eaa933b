"""Upstreams in a process of their own, whose behaviour is changed while they run: `python -m bench.upstreams SIDE...`.

Every SIDE gets a port; `baseline candidate` are two ports of one process, with service times of one distribution and
streams of random numbers of their own. `Upstreams` is the handle by which a benchmark starts and steers it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import math
import random
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Self, cast

import uvloop
from bench import wire
from bench.alarm import Alarms
from bench.remote import Remote, Reply, obey

BLOCK = b"0123456789abcdef" * 4096
"""What large bodies are made of."""
SLUGGISH = 0.005
"""Seconds that a sluggish reader rests after every read."""
DRIP = 1.0
LARGE = 1024**2
_RST = struct.pack("ii", 1, 0)
_GARBAGE = b"\x16\x03\x01\x02\x00 \x00 this is not HTTP\r\n\r\n" * 8


@dataclass
class Counts:
    """What one port has seen. `requests` counts those that were read to their last byte."""

    requests: int = 0
    answered: int = 0
    connections: int = 0
    open: int = 0
    most_open: int = 0
    bytes_read: int = 0
    kept: float = 0.0
    """Seconds from a request read to its answer made, summed over healthy answers: what the upstream itself took."""


class Port:
    """One upstream. `mode` names a row of `MODES`."""

    def __init__(self, side: str, alarms: Alarms, service: float, spread: float) -> None:
        self.side = side
        self.alarms = alarms
        self.counts = Counts()
        self.mode = "healthy"
        self.slow = 1.0
        self.size: int | None = 10_000_000
        self.sluggish = False
        self.connections: set[Served] = set()
        self._service = service
        self._spread = spread
        self._random = random.Random(side)
        self._server: asyncio.Server | None = None
        self.number = 0

    async def listen(self) -> None:
        """Take connections, at the same port as before."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Served(self), "127.0.0.1", self.number, backlog=1024)
        self.number = self._server.sockets[0].getsockname()[1]

    async def switch(self, mode: str, slow: float, size: int | None) -> None:
        """Behave in another way from the next request on."""
        if mode not in MODES:
            raise ValueError(f"there is no mode {mode!r}; there are {', '.join(MODES)}")
        self.slow, self.size = slow, size
        was, self.mode = self.mode, mode
        if mode == "refusing" and self._server is not None:
            self._server.close()
            self._server = None
            for connection in tuple(self.connections):
                connection.transport.close()
        elif was == "refusing" and mode != "refusing":
            await self.listen()

    def seed(self, seed: int) -> None:
        """Draw the same service times again."""
        self._random = random.Random(f"{self.side} {seed}")

    def service_time(self) -> float:
        """Seconds: log-normal about its median, `spread` being the standard deviation of the logarithm."""
        return self._service * math.exp(self._random.gauss(0.0, self._spread)) if self._spread else self._service


class Served(asyncio.Protocol):
    """One connection of a port. Requests are answered in the order in which they come, one at a time."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.transport = cast("asyncio.Transport", None)
        self._buffer = b""
        self._left = 0
        self._more: Callable[[], bool] | None = None
        self._held = False
        self._read_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        counts = self.port.counts
        counts.connections += 1
        counts.open += 1
        counts.most_open = max(counts.most_open, counts.open)
        self.port.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.port.counts.open -= 1
        self.port.connections.discard(self)
        self._more = None

    def data_received(self, data: bytes) -> None:
        self.port.counts.bytes_read += len(data)
        if self.port.sluggish:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(SLUGGISH, self._read_on)
        if self._left:
            self._left -= len(data)
            if self._left <= 0:
                self._requested(b"POST /upload", b"")
            return
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            whole = end + 4 + wire.length(head)
            if len(self._buffer) < whole:
                if whole > LARGE:
                    self._left, self._buffer = whole - len(self._buffer), b""
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            self._requested(head, body)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _requested(self, head: bytes, body: bytes) -> None:
        self._read_at = time.perf_counter()
        self.port.counts.requests += 1
        if head.startswith(b"GET /bytes/"):
            self.stream(int(head[11:].split(b" ", 1)[0]))
        else:
            MODES[self.port.mode](self, wire.number_of(body))

    # What the modes are made of

    def later(self, seconds: float, digits: bytes) -> None:
        """Answer as one should, after a while."""
        self.port.alarms.at(self._read_at + seconds, functools.partial(self._answer, digits))

    def _answer(self, digits: bytes) -> None:
        if not self.transport.is_closing():
            answer = wire.answer(digits, self.port.side)
            counts = self.port.counts
            counts.answered += 1
            counts.kept += time.perf_counter() - self._read_at
            self.transport.write(answer)

    def reset(self) -> None:
        """Cut the connection with a RST."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self.transport.abort()

    def half(self, digits: bytes) -> None:
        """Half an answer, then the end."""
        whole = wire.answer(digits, self.port.side)
        self.transport.write(whole[: len(whole) // 2])
        self.transport.close()

    def drip(self, digits: bytes) -> None:
        """A head, then one byte of the body a second."""
        head, _, body = wire.answer(digits, self.port.side).partition(b"\r\n\r\n")
        self.transport.write(head + b"\r\n\r\n")
        loop = asyncio.get_running_loop()

        def drop(at: int) -> None:
            if at < len(body) and not self.transport.is_closing():
                self.transport.write(body[at : at + 1])
                loop.call_later(DRIP, drop, at + 1)

        loop.call_later(DRIP, drop, 0)

    def stream(self, size: int | None) -> None:
        """A body of `size` bytes as fast as it is taken; without a size, one that never ends."""
        if size is None:
            self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        else:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        left = math.inf if size is None else size

        def more() -> bool:
            nonlocal left
            piece = BLOCK if left >= len(BLOCK) else BLOCK[: int(left)]
            left -= len(piece)
            self.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if size is None else piece)
            if not left:
                self.port.counts.answered += 1
            return left > 0

        self._more = more
        self._pump()

    def pause_writing(self) -> None:
        self._held = True

    def resume_writing(self) -> None:
        self._held = False
        self._pump()

    def _pump(self) -> None:
        while self._more is not None and not self._held and not self.transport.is_closing():
            if not self._more():
                self._more = None


MODES: dict[str, Callable[[Served, bytes], None]] = {
    "healthy": lambda served, digits: served.later(served.port.service_time(), digits),
    "slow": lambda served, digits: served.later(served.port.slow, digits),
    "hung": lambda _served, _digits: None,
    "refusing": lambda served, _digits: served.transport.close(),
    "resetting": lambda served, _digits: served.reset(),
    "dripping": Served.drip,
    "garbage": lambda served, _digits: served.transport.write(_GARBAGE),
    "huge": lambda served, _digits: served.stream(served.port.size),
    "half": Served.half,
}


class Upstreams:
    """The process, with one port per side."""

    def __init__(self, *sides: str, service: float = 0.003, spread: float = 0.1, niceness: int = 0) -> None:
        self._remote = Remote(
            "bench.upstreams", *sides, "--service", str(service), "--spread", str(spread), niceness=niceness
        )
        self.urls: dict[str, str] = self._remote.hello["urls"]

    def switch(self, side: str, mode: str, *, slow: float = 1.0, size: int | None = 10_000_000) -> None:
        """Let one side behave in another way from its next request on. `size` is of `huge`; None never ends."""
        self._remote.ask(do="switch", side=side, mode=mode, slow=slow, size=size)

    def sluggish(self, side: str, sluggish: bool) -> None:
        """Let one side rest for SLUGGISH seconds after every read."""
        self._remote.ask(do="sluggish", side=side, sluggish=sluggish)

    def seed(self, seed: int) -> None:
        """Draw the service times from here anew: the same seed gives the same times."""
        self._remote.ask(do="seed", seed=seed)

    def counts(self, side: str) -> Counts:
        """What a side has seen since it began."""
        return Counts(**self._remote.ask(do="counts", side=side))

    def close(self) -> None:
        self._remote.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def serve(sides: list[str], service: float, spread: float) -> None:
    """The process itself."""
    alarms = Alarms(asyncio.get_running_loop())
    ports = {side: Port(side, alarms, service, spread) for side in sides}
    for port in ports.values():
        await port.listen()

    async def handle(command: Reply) -> Reply:
        what: Any = command["do"]
        if what == "switch":
            await ports[command["side"]].switch(command["mode"], command["slow"], command["size"])
        elif what == "sluggish":
            ports[command["side"]].sluggish = command["sluggish"]
        elif what == "seed":
            for port in ports.values():
                port.seed(command["seed"])
        elif what == "counts":
            return asdict(ports[command["side"]].counts)
        else:
            raise ValueError(f"there is no command {what!r}")
        return {}

    await obey({"urls": {side: f"http://127.0.0.1:{port.number}" for side, port in ports.items()}}, handle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sides", nargs="+")
    parser.add_argument("--service", type=float, required=True, help="median service time, seconds")
    parser.add_argument("--spread", type=float, required=True, help="standard deviation of its logarithm")
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(given.sides, given.service, given.spread))


if __name__ == "__main__":
    main()
