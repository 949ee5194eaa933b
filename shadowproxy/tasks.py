"""The only place that creates asyncio tasks: keeps a reference, reports what dies, drains on the way out."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, TypeVar

log = logging.getLogger(__name__)

_ASK_AGAIN = 1.0
_MOST_MISSED = 600
"""Looks at the loop's lag that are made up for after a halt: one of a day must not be followed by another."""

T = TypeVar("T")


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until they have ended, however they do.

    A task that goes on is cancelled again after a second: before Python 3.12, `asyncio.wait_for`, in which redis-py
    sends every command, forgets a cancellation that comes in the turn in which its own work is done.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_ASK_AGAIN)


async def first(attempts: Sequence[Callable[[], Coroutine[Any, Any, T]]], stagger: float) -> T:
    """What the first of several attempts gives that succeeds; the others are cancelled.

    Each next one begins when all before it have failed, or `stagger` seconds after the last. Where all fail, the last
    failure is raised.
    """
    loop = asyncio.get_running_loop()
    left = list(reversed(attempts))
    running: set[asyncio.Task[T]] = set()
    failure: BaseException = ValueError("nothing to attempt")
    try:
        while left or running:
            if left:
                running.add(loop.create_task(left.pop()()))
            done, running = await asyncio.wait(
                running, timeout=stagger if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for ended in done:
                error = ended.exception()
                if error is None:
                    return ended.result()
                failure = error
        raise failure
    finally:
        await end(running)


async def watch_lag(
    tell: Callable[[float], object],
    *,
    every: float = 0.1,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Tell, for as long as it runs, how many seconds a callback waits for its turn of the event loop.

    It looks `every` so many seconds. A loop that stands still is not looked at meanwhile: what those would have waited
    who came then is told when it goes on, so that one long halt is no single small figure among many.
    """
    while True:
        due = monotonic() + every
        await sleep(every)
        lag = max(0.0, monotonic() - due)
        tell(lag)
        for missed in range(1, min(int(lag / every), _MOST_MISSED) + 1):
            tell(lag - missed * every)


class Pauses:
    """How long to wait between attempts at what fails: ever longer, and by chance, so that processes don't ask at once.

    The first pause is `first` seconds at the most, each next twice the last up to `most`, and none is less than half.
    """

    def __init__(self, first: float, most: float, jitter: Callable[[], float] = random.random) -> None:
        self._first = self._next = first
        self._most = most
        self._jitter = jitter

    def after_failure(self) -> float:
        """Seconds to wait now."""
        pause, self._next = self._next, min(2 * self._next, self._most)
        return pause * (0.5 + 0.5 * self._jitter())

    def reset(self) -> None:
        """It has succeeded."""
        self._next = self._first


class Tasks:
    """A set of tasks that belong together.

    A task that ends with an exception is logged and handed to `on_crash`; it is never lost in a warning at interpreter
    exit. `drain` waits for what still runs and cancels what outlives the grace.
    """

    def __init__(self, on_crash: Callable[[str, BaseException], None] | None = None) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._on_crash = on_crash

    def start(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run `work` as a task named `name` (shown in logs) and hold it until it ends."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        crash = task.exception()
        if crash is not None:
            log.error("task %s died", task.get_name(), exc_info=crash)
            if self._on_crash is not None:
                self._on_crash(task.get_name(), crash)

    async def drain(self, grace: float) -> int:
        """Wait up to `grace` seconds for the running tasks, then cancel the rest. Returns how many were cancelled."""
        if not self._running:
            return 0
        _, late = await asyncio.wait(set(self._running), timeout=grace)
        return await self._cancel(late)

    async def cancel(self) -> None:
        """Cancel everything at once and wait until it has ended."""
        await self._cancel(set(self._running))

    @staticmethod
    async def _cancel(tasks: set[asyncio.Task[Any]]) -> int:
        await end(tasks)
        return len(tasks)

    def __len__(self) -> int:
        return len(self._running)

    def __repr__(self) -> str:
        return f"<Tasks {sorted(task.get_name() for task in self._running)}>"
