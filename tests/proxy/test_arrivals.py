"""What the loop finds in one look has one time of arrival."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable

import pytest
import uvloop

from shadowproxy.proxy.arrivals import Arrivals


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_sockets_that_are_readable_at_once_have_one_time(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    loop = new_loop()
    clock = itertools.count(1.0)
    arrivals = Arrivals(loop, lambda: next(clock))
    pairs = [socket.socketpair() for _ in range(3)]
    seen: list[tuple[str, float]] = []

    def readable(at: int) -> None:
        seen.append((pairs[at][1].recv(10).decode(), arrivals.now()))
        assert arrivals.now() == seen[-1][1]
        if at == 0:
            # What comes now was not there when the loop looked.
            pairs[2][0].send(b"late")
        if len(seen) == len(pairs):
            loop.stop()

    try:
        for at, (_, here) in enumerate(pairs):
            here.setblocking(False)
            loop.add_reader(here, readable, at)
        for at in range(2):
            pairs[at][0].send(b"soon")
        loop.run_forever()
        assert sorted(seen[:2]) == [("soon", 1.0), ("soon", 1.0)]
        assert seen[2] == ("late", 2.0)
    finally:
        for both in pairs:
            for end in both:
                loop.remove_reader(end)
                end.close()
        loop.close()
