"""Many timeouts of one length on a single event-loop timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """Items that expire a fixed time after they were added.

    As the time is the same for all, the order of adding is the order of expiry: a dict keeps it, and one timer waits
    for the oldest. Adding and discarding, which every request does, cost a dict operation instead of a timer each.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, expire: Callable[[T], None]) -> None:
        self.seconds = seconds
        self._loop = loop
        self._expire = expire
        self._due: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: T) -> None:
        """(Re)start the time of `item`."""
        self._due.pop(item, None)
        due = self._due[item] = self._loop.time() + self.seconds
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._fire)

    def start(self, item: T) -> None:
        """Start the time of an `item` that is not in it."""
        due = self._due[item] = self._loop.time() + self.seconds
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._fire)

    def pop(self) -> T | None:
        """Take out the item that was added last, if there is any."""
        return self._due.popitem()[0] if self._due else None

    def discard(self, item: T) -> None:
        """Forget `item`; it will not expire. Unknown items are ignored."""
        self._due.pop(item, None)

    def close(self) -> None:
        """Forget everything."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        late: list[T] = []
        for item, due in self._due.items():
            if due > now:
                break
            late.append(item)
        for item in late:
            if self._due.get(item, now + 1) <= now:
                del self._due[item]
                self._expire(item)
        self._rearm()

    def _rearm(self) -> None:
        # What was added by an expiry has armed the timer for itself, and may not be the next.
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(next(iter(self._due.values())), self._fire) if self._due else None

    def __contains__(self, item: T) -> bool:
        return item in self._due

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._due))

    def __len__(self) -> int:
        return len(self._due)
