"""An open-loop client whose clock is good to a few microseconds: `python paced.py PORT RATE SECONDS SEED REQUESTS OUT`.

It is a process of its own with one thread, plain sockets and no event loop. The timers of asyncio and uvloop have a
grain of a millisecond, several times what is measured here; and an answer should be stamped when it comes, not when a
loop gets to it. So: wait in select(2), whose timeout is in microseconds and which an answer ends at once, then spin for
the last 60 µs. Requests go out at random moments (Poisson), the same for every side in a round, over a pool of
connections that are kept; one is added where all are busy, so that no request waits for an answer to another. Of each
request three moments are kept: when it was due, when it was written, when its answer's last byte was read. Latency runs
from the writing, and lateness says how far the client can be trusted.
"""

from __future__ import annotations

import ctypes
import gc
import json
import random
import select
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_SPIN: Final = 60e-6
_POOL: Final = 16
_MOST: Final = 256
_TIMER_SLACK: Final = 29
"""PR_SET_TIMERSLACK: the kernel otherwise adds up to 50 µs to a timeout, to wake up less often."""
_PATIENCE: Final = 10.0


@dataclass
class Connection:
    """One of the pool, and the request under way on it."""

    socket: socket.socket
    number: int = -1
    received: bytearray = field(default_factory=bytearray)


def complete(received: bytes | bytearray) -> bool:
    """Whether an answer has come whole. Raises RuntimeError for one that isn't a 200 with a Content-Length."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return False
    head = bytes(received[:end]).lower()
    if not head.startswith(b"http/1.1 200 "):
        raise RuntimeError(f"not a 200: {bytes(received)!r}")
    _, found, length = head.partition(b"\r\ncontent-length:")
    if not found:
        raise RuntimeError(f"no Content-Length: {head!r}")
    return len(received) >= end + 4 + int(length.split(b"\r\n")[0])


class Client:
    """Sends requests at the moments given."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self._port = port
        self._requests = requests
        self._busy: dict[int, Connection] = {}
        self._idle = deque(self._connect() for _ in range(_POOL))
        self.sent = [0.0] * len(requests)
        self.done = [0.0] * len(requests)

    def run(self, due: list[float]) -> None:
        """Send request i at `due[i]`, on the clock of time.perf_counter, and wait for all answers."""
        for number, moment in enumerate(due):
            while (left := moment - time.perf_counter()) > 0:
                self._receive(max(0.0, left - _SPIN))
            self._send(number)
        deadline = time.perf_counter() + _PATIENCE
        while self._busy and time.perf_counter() < deadline:
            self._receive(0.1)
        if self._busy:
            raise RuntimeError(f"{len(self._busy)} requests were not answered within {_PATIENCE:g} s")

    def _send(self, number: int) -> None:
        connection = self._idle.popleft() if self._idle else self._connect()
        connection.number = number
        connection.received.clear()
        self._busy[connection.socket.fileno()] = connection
        self.sent[number] = time.perf_counter()
        connection.socket.sendall(self._requests[number])

    def _receive(self, within: float) -> None:
        for ready in select.select(list(self._busy), (), (), within)[0]:
            connection = self._busy[ready]
            data = connection.socket.recv(65536)
            now = time.perf_counter()
            if not data:
                raise RuntimeError("the connection was closed before the answer was complete")
            connection.received += data
            if complete(connection.received):
                self.done[connection.number] = now
                del self._busy[ready]
                self._idle.append(connection)

    def _connect(self) -> Connection:
        if len(self._busy) >= _MOST:
            raise RuntimeError(f"{_MOST} requests are under way: the side doesn't keep up")
        made = socket.create_connection(("127.0.0.1", self._port), timeout=_PATIENCE)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(made)


def schedule(count: int, rate: float, seed: int) -> list[float]:
    """`count` moments in seconds from 0, a Poisson process of `rate` a second."""
    draw = random.Random(seed)
    moments, at = [], 0.0
    for _ in range(count):
        at += draw.expovariate(rate)
        moments.append(at)
    return moments


def read(path: Path) -> list[bytes]:
    """Requests as `messages.write` leaves them."""
    data, made, at = path.read_bytes(), [], 0
    while at < len(data):
        length = int(data[at : at + 8])
        made.append(data[at + 8 : at + 8 + length])
        at += 8 + length
    return made


def main() -> None:
    """Write {"due": […], "sent": […], "done": […]} to OUT, in seconds of time.perf_counter."""
    port, rate, seconds, seed, requests, out = sys.argv[1:]
    made = read(Path(requests))[: max(1, round(float(rate) * float(seconds)))]
    ctypes.CDLL(None).prctl(_TIMER_SLACK, 1)
    client = Client(int(port), made)
    gc.freeze()
    gc.disable()
    began = time.perf_counter() + 0.1
    due = [began + moment for moment in schedule(len(made), float(rate), int(seed))]
    client.run(due)
    Path(out).write_text(json.dumps({"due": due, "sent": client.sent, "done": client.done}))


if __name__ == "__main__":
    main()
