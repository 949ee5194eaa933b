"""An upstream that notes when each request arrives: `python stamping.py BASELINE_PORT CANDIDATE_PORT ANSWER OUT`.

One process listens on both ports. The time of a request is the kernel's own, taken as its packet comes in
(SO_TIMESTAMPING, Documentation/networking/timestamping.rst), which over loopback is while it is being sent: how soon
this process gets to read it doesn't matter. On SIGTERM it writes {"baseline": {request id: seconds}, "candidate": {…}}.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import uvloop

_ID: Final = re.compile(rb"\r\nx-request-id: *([^\r]+)", re.IGNORECASE)
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SO_TIMESTAMPING: Final = 37
_RX_SOFTWARE: Final = 1 << 3
_SOFTWARE: Final = 1 << 4
_TIMESPEC: Final = struct.Struct("ll")
_READ: Final = 256 * 1024


class Connection:
    """Requests with a Content-Length or in chunks, one after another."""

    def __init__(self, sock: socket.socket, arrivals: dict[str, float], answer: bytes) -> None:
        self._sock = sock
        self._arrivals = arrivals
        self._answer = answer
        self._received = b""
        self._first = 0.0

    def read(self) -> bool:
        """Read what has come. False at the connection's end."""
        try:
            data, control, _, _ = self._sock.recvmsg(_READ, 256)
        except ConnectionError:
            return False
        if not data:
            return False
        if not self._received:
            self._first = _stamp(control)
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return True
        head, body = self._received[:end], self._received[end + 4 :]
        length = _LENGTH.search(head)
        if len(body) < int(length[1]) if length else not body.endswith(b"0\r\n\r\n"):
            return True
        self._received = b""
        # It fits into any socket's buffer.
        self._sock.sendall(self._answer)
        if name := _ID.search(head):
            self._arrivals[name[1].decode()] = self._first
        return True


def _stamp(control: list[tuple[int, int, bytes]]) -> float:
    """Unix seconds, by the kernel."""
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPING:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            return float(seconds + nanoseconds * 1e-9)
    raise SystemExit("the kernel gives no time stamps of what is received (SO_TIMESTAMPING)")


def listen(port: int, accept: Callable[[socket.socket], None]) -> None:
    """Take connections; what they receive is stamped from their first packet on."""
    server = socket.create_server(("127.0.0.1", port), backlog=1024)
    server.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _RX_SOFTWARE | _SOFTWARE)
    server.setblocking(False)
    asyncio.get_running_loop().add_reader(server, lambda: accept(server.accept()[0]))


async def serve(ports: dict[str, int], body: bytes) -> dict[str, dict[str, float]]:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    arrivals: dict[str, dict[str, float]] = {side: {} for side in ports}

    def accept(sock: socket.socket, side: str) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock, arrivals[side], answer)

        def readable() -> None:
            if not connection.read():
                loop.remove_reader(sock)
                sock.close()

        loop.add_reader(sock, readable)

    for side, port in ports.items():
        listen(port, lambda sock, side=side: accept(sock, side))  # type: ignore[misc]
    await stop.wait()
    return arrivals


def main() -> None:
    baseline, candidate, answer, out = sys.argv[1:]
    ports = {"baseline": int(baseline), "candidate": int(candidate)}
    arrivals = uvloop.run(serve(ports, Path(answer).read_bytes()))
    Path(out).write_text(json.dumps(arrivals))


if __name__ == "__main__":
    main()
