"""Reading what nobody waits for, in turn: bodies of shadow sides that have outgrown their capture.

They are read on for their size and digest only, and a service may send without end. So all such bodies of one upstream
share a budget, and every connection that has read stands in a queue until its turn comes again. Its receive buffer is
made small: what one read brings is bounded by it, and so is what the kernel holds while it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Final, Protocol

BUDGET: Final = 512 * 1024
"""Bytes that are read for nobody in each TICK: 25 MB a second."""
TICK: Final = 0.02
"""Seconds."""
AT_ONCE: Final = 2
"""Connections that are let read at the same time: one that sends nothing must not hold up the others for long."""
RECEIVE_BUFFER: Final = 64 * 1024


class Reader(Protocol):
    """A connection to a shadow side."""

    def hold_for_turn(self, hold: bool) -> None:
        """Stop, or go on, reading."""
        ...


class Turns:
    """The queue of one upstream."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._budget = BUDGET
        self._waiting: deque[Reader] = deque()
        self._refill: asyncio.TimerHandle | None = None

    def took(self, reader: Reader, size: int) -> None:
        """`reader` has read `size` bytes; it is held until its turn."""
        self._budget -= size
        reader.hold_for_turn(True)
        self._waiting.append(reader)
        if self._budget > 0:
            self._waiting.popleft().hold_for_turn(False)
        elif self._refill is None:
            self._refill = self._loop.call_later(TICK, self._refilled)

    def _refilled(self) -> None:
        self._refill = None
        # What was read beyond the last budget is made up for.
        self._budget = min(BUDGET, self._budget + BUDGET)
        if self._budget > 0:
            for _ in range(min(AT_ONCE, len(self._waiting))):
                self._waiting.popleft().hold_for_turn(False)
        if self._waiting:
            self._refill = self._loop.call_later(TICK, self._refilled)

    def leave(self, reader: Reader) -> None:
        """`reader` will not read any more."""
        with contextlib.suppress(ValueError):
            self._waiting.remove(reader)

    def close(self) -> None:
        """Forget everything."""
        self._waiting.clear()
        if self._refill is not None:
            self._refill.cancel()

    def __len__(self) -> int:
        return len(self._waiting)
