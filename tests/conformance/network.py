"""A network in memory and a clock that is turned by hand: an event loop on which the real proxy runs without sockets.

The proxy is told nothing: it calls `create_server`, `create_connection` and `call_at` as on any loop. What differs: a
scene takes a millisecond, a deadline passes at once, and a wait for what can never come is an error (`StuckError`)
instead of a hang. Transports behave as those of asyncio where a protocol can tell: a read per callback, no read after
`close`, marks for back-pressure, `connection_lost` in a later turn, an error on writing after `write_eof`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, cast

STEPS = 200_000
"""Turns of the loop that a scene may take; more is taken for an endless loop."""
READ = 64 * 1024
"""Bytes that one read gives at most."""

Factory = Callable[[], asyncio.BaseProtocol]


class StuckError(AssertionError):
    """What is awaited can't come: nothing is ready, and no timer is set."""


class EndlessError(AssertionError):
    """The loop has taken more turns than any scene needs."""


class _Clock:
    """Stands where a loop has its selector: instead of waiting, it turns the clock."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        loop = self._loop
        loop.steps += 1
        if loop.steps > STEPS:
            raise EndlessError(f"{STEPS} turns of the loop, at {loop.now:g} s")
        if timeout == 0:
            return []
        if loop.settling and (timeout is None or loop.now + timeout > loop.until):
            loop.stop()
        elif timeout is None:
            raise StuckError(f"nothing will ever happen, at {loop.now:g} s")
        else:
            loop.now += timeout
        return []

    def close(self) -> None:
        pass


class Loop(asyncio.BaseEventLoop):
    """Virtual time, and connections between protocols of the proxy and `Remote` ends held by the test."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Clock(self)
        self.now = 1.0
        self.steps = 0
        self.settling = False
        self.until = 0.0
        self.errors: list[dict[str, Any]] = []
        self.listening: dict[int, Factory] = {}
        self.services: dict[int, Callable[[], Remote]] = {}
        self.set_exception_handler(lambda _loop, context: self.errors.append(context))

    def time(self) -> float:
        return self.now

    def settle(self, seconds: float = 0.0) -> None:
        """Run until nothing more happens within `seconds`; the clock then stands `seconds` later."""
        self.settling, self.until = True, self.now + seconds
        try:
            self.run_forever()
        finally:
            self.settling = False
        self.now = max(self.now, self.until)

    @property
    def timers(self) -> int:
        """Timers that are set."""
        return sum(not handle.cancelled() for handle in self._scheduled)  # type: ignore[attr-defined]

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    # The network

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **_options: Any) -> Any:
        number = port or 8080
        self.listening[number] = protocol_factory
        return _Server(self, number)

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        number = options["sock"].getpeername()[1] if options.get("sock") is not None else port
        await asyncio.sleep(0)
        if number not in self.services:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed {host}")
        remote = self.services[number]()
        protocol = protocol_factory()
        return Transport(self, protocol, remote), protocol

    async def getaddrinfo(self, host: Any, port: Any, **_hints: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", int(port)))]

    def connect(self, remote: Remote, port: int = 8080) -> None:
        """A client connects to what listens on `port`."""
        Transport(self, self.listening[port](), remote)


class _Server:
    def __init__(self, loop: Loop, port: int) -> None:
        self._loop = loop
        self._port = port
        self.sockets = [self]

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    def is_serving(self) -> bool:
        return self._port in self._loop.listening

    def close(self) -> None:
        self._loop.listening.pop(self._port, None)

    async def wait_closed(self) -> None:
        await asyncio.sleep(0)


class Remote:
    """The far end of one connection: what it got, how that ended, and what it sends."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.end = ""
        """"" while the proxy's side is open; "half" after its EOF; then "closed", or "reset"."""
        self.room: int | None = None
        """Bytes that are taken before the proxy must wait; None is no bound."""
        self.transport: Transport | None = None
        self._before: list[Any] = []

    def changed(self) -> None:
        """More was got, or the end. To be overridden by what reacts."""

    def send(self, data: bytes) -> None:
        """Bytes that the proxy gets in one read (or in reads of READ bytes)."""
        for at in range(0, len(data), READ):
            self._give(data[at : at + READ])

    def send_eof(self) -> None:
        """No more will come."""
        self._give(None)

    def reset(self) -> None:
        """Cut the connection."""
        self._give(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))

    @property
    def unread(self) -> int:
        """Bytes sent that the proxy has not read."""
        return 0 if self.transport is None else self.transport.unread

    def take(self, size: int | None) -> None:
        """Read `size` bytes more of what the proxy has written; None: all, and go on so."""
        self.room = size
        if self.transport is not None:
            self.transport.flush()

    def _give(self, item: Any) -> None:
        if self.transport is None:
            self._before.append(item)
        else:
            self.transport.arrive(item)

    def attached(self, transport: Transport) -> None:
        self.transport = transport
        for item in self._before:
            transport.arrive(item)


class _Socket:
    """What a protocol may ask its transport's socket: options are taken, and a linger of 0 is remembered."""

    def __init__(self) -> None:
        self.resets = False
        self.family = socket.AF_INET
        self.type = socket.SOCK_STREAM

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        if (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER):
            self.resets = struct.unpack("ii", value) == (1, 0)

    def getsockopt(self, *_: int) -> int:
        return 0

    def fileno(self) -> int:
        return -1


class Transport(asyncio.Transport):
    """The proxy's end of a connection to a `Remote`."""

    def __init__(self, loop: Loop, protocol: asyncio.BaseProtocol, remote: Remote) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._remote = remote
        self._socket = _Socket()
        self._inbound: deque[Any] = deque()
        self._outbound = bytearray()
        self._high, self._low = 64 * 1024, 16 * 1024
        self._paused = False
        self._protocol_paused = False
        self._delivering = False
        self._closing = False
        self._eof = False
        self._lost = False
        protocol.connection_made(self)
        remote.attached(self)

    # From the remote end

    def arrive(self, item: Any) -> None:
        if not self._lost:
            self._inbound.append(item)
            self._deliver_soon()

    @property
    def unread(self) -> int:
        return sum(len(item) for item in self._inbound if isinstance(item, bytes))

    def _deliver_soon(self) -> None:
        if self._inbound and not self._paused and not self._closing and not self._delivering:
            self._delivering = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        if self._paused or self._closing or not self._inbound:
            return
        item = self._inbound.popleft()
        if isinstance(item, bytes):
            self._read(item)
        elif item is None:
            if not cast("asyncio.Protocol", self._protocol).eof_received():
                self.close()
        else:
            self._end("reset", item)
        self._deliver_soon()

    def _read(self, data: bytes) -> None:
        protocol = self._protocol
        if not isinstance(protocol, asyncio.BufferedProtocol):
            cast("asyncio.Protocol", protocol).data_received(data)
            return
        while data and not self._closing:
            buffer = memoryview(protocol.get_buffer(len(data)))
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            protocol.buffer_updated(size)
            data = data[size:]

    def flush(self) -> None:
        remote = self._remote
        size = len(self._outbound) if remote.room is None else min(len(self._outbound), remote.room)
        if size and not self._lost:
            remote.got += self._outbound[:size]
            del self._outbound[:size]
            if remote.room is not None:
                remote.room -= size
            self._loop.call_soon(remote.changed)
        if self._protocol_paused and len(self._outbound) <= self._low:
            self._protocol_paused = False
            self._loop.call_soon(self._protocol.resume_writing)
        if not self._outbound and not self._lost:
            if self._closing:
                self._end("closed", None)
            elif self._eof and not remote.end:
                remote.end = "half"
                self._loop.call_soon(remote.changed)

    def _end(self, how: str, error: Exception | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        self._remote.end = how
        self._inbound.clear()
        self._outbound.clear()
        self._loop.call_soon(self._protocol.connection_lost, error)
        self._loop.call_soon(self._remote.changed)

    # asyncio.Transport

    def write(self, data: Any) -> None:
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._lost or not data:
            return
        self._outbound += data
        self.flush()
        if len(self._outbound) > self._high and not self._protocol_paused:
            self._protocol_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        if not self._eof and not self._closing:
            self._eof = True
            self.flush()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.flush()

    def abort(self) -> None:
        # Without a linger of 0 the kernel ends what it was given in the ordinary way.
        self._end("reset" if self._socket.resets else "closed", None)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._deliver_soon()

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    def get_write_buffer_size(self) -> int:
        return len(self._outbound)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        known = {"peername": ("127.0.0.1", 40000), "sockname": ("127.0.0.1", 8080), "socket": self._socket}
        return known.get(name, default)


@contextlib.contextmanager
def running() -> Any:
    """A loop that is closed at the end."""
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()
