"""A timer without the event loop's grain.

uvloop's timers have a grain of one millisecond, and so has epoll, in which asyncio's own loop sleeps: a request that
is to leave at 3.3 ms would leave at 4. The kernel's timerfd has none; it becomes readable at the nanosecond that was
asked for, give or take the scheduler (about 0.06 ms on an idle machine).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import heapq
import itertools
import os
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


class Alarms:
    """Calls at points of `time.perf_counter`, which on Linux is CLOCK_MONOTONIC. Belongs to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = itertools.count()
        self._set_to = float("inf")
        self._handle: int = _LIBC.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._handle < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        loop.add_reader(self._handle, self._fire)

    def at(self, when: float, call: Callable[[], object]) -> None:
        """Call at `when`, or at once if that has passed; what is due at one moment, in the order of asking."""
        heapq.heappush(self._due, (when, next(self._serial), call))
        if when < self._set_to:
            self._set(when)

    def close(self) -> None:
        """Forget everything."""
        self._due.clear()
        if self._handle >= 0:
            self._loop.remove_reader(self._handle)
            os.close(self._handle)
            self._handle = -1

    def _set(self, when: float) -> None:
        self._set_to = when
        # A value of zero would disarm it.
        nanoseconds = max(1, round(when * 1e9))
        value = _Itimerspec(_Timespec(0, 0), _Timespec(nanoseconds // 10**9, nanoseconds % 10**9))
        if _LIBC.timerfd_settime(self._handle, _ABSOLUTE, ctypes.byref(value), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _fire(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._handle, 8)
        self._set_to = float("inf")
        while self._due and self._due[0][0] <= time.perf_counter():
            heapq.heappop(self._due)[2]()
        if self._handle >= 0 and self._due and self._due[0][0] < self._set_to:
            self._set(self._due[0][0])
