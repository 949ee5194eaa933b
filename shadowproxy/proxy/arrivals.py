"""When bytes came, of several sockets that the loop found readable at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Arrivals:
    """One reading of the clock for all that the loop finds waiting in one look.

    What waits in several sockets is handled one after the other, and what is done with the first must not count against
    the rest. It would count against the candidate: its copy went out after the original, so its answer mostly stands
    behind the baseline's, which is passed on to the client in the meantime.
    """

    __slots__ = ("_at", "_fresh", "_loop", "_monotonic")

    def __init__(self, loop: asyncio.AbstractEventLoop, monotonic: Callable[[], float]) -> None:
        self._loop = loop
        self._monotonic = monotonic
        self._at = 0.0
        self._fresh = False

    def now(self) -> float:
        """Monotonic seconds at which the loop began to handle what it found. To be asked first thing in a callback."""
        if not self._fresh:
            self._fresh = True
            self._at = self._monotonic()
            # The loop does this before it looks again.
            self._loop.call_soon(self._forget)
        return self._at

    def _forget(self) -> None:
        self._fresh = False
