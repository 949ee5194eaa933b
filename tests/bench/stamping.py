"""An upstream that notes when each request arrives: `python stamping.py BASELINE_PORT CANDIDATE_PORT ANSWER OUT`.

One process listens on both ports, so that a request's original and its copy are stamped by the same loop and clock
(time.perf_counter), at the request's first byte. What comes while it is at work with another request is stamped up to
some 30 µs late: that is the resolution. On SIGTERM it writes {"baseline": {request id: seconds}, "candidate": {…}}.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import cast

import uvloop

_ID = re.compile(rb"\r\nx-request-id: *([^\r]+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Upstream(asyncio.Protocol):
    """One connection; requests with a Content-Length or in chunks, one after another."""

    def __init__(self, arrivals: dict[str, float], answer: bytes) -> None:
        self._arrivals = arrivals
        self._answer = answer
        self._received = b""
        self._first = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports descend from nothing of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if not self._received:
            self._first = now
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head, body = self._received[:end], self._received[end + 4 :]
        length = _LENGTH.search(head)
        if len(body) < int(length[1]) if length else not body.endswith(b"0\r\n\r\n"):
            return
        self._received = b""
        self._transport.write(self._answer)
        if name := _ID.search(head):
            self._arrivals[name[1].decode()] = self._first


async def serve(ports: dict[str, int], body: bytes) -> dict[str, dict[str, float]]:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    arrivals: dict[str, dict[str, float]] = {side: {} for side in ports}
    for side, port in ports.items():
        await loop.create_server(lambda side=side: Upstream(arrivals[side], answer), "127.0.0.1", port)  # type: ignore[misc]
    await stop.wait()
    return arrivals


def main() -> None:
    baseline, candidate, answer, out = sys.argv[1:]
    ports = {"baseline": int(baseline), "candidate": int(candidate)}
    arrivals = uvloop.run(serve(ports, Path(answer).read_bytes()))
    Path(out).write_text(json.dumps(arrivals))


if __name__ == "__main__":
    main()
