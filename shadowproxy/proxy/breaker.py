"""A circuit breaker: when to ask a failing upstream no more, and when to try again. Pure; the clock is passed in."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from shadowproxy.config import Breaker as Settings


class BreakerState(enum.StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"
    """Everything."""
    OPEN = "open"
    """Nothing."""
    HALF_OPEN = "half_open"
    """A few probes."""


_CLOSED: Final = BreakerState.CLOSED


class Breaker:
    """Opens after `failures` failures in a row; stays open for `open_for` seconds, twice as long each time up to
    `open_at_most`; then lets `probes` calls through. All of them well closes it, the first failure opens it again.

    What is let through belongs to a *term*, which ends whenever the state changes. An outcome counts only in its own
    term: calls that were under way when the breaker opened may time out long after it has been half open, and say
    nothing about the upstream as it is then.

    All times are seconds on the caller's monotonic clock. `changed` is told of every change of the state, after it.

    >>> breaker = Breaker(Settings(failures=2, open_for=1), changed=lambda breaker: print(breaker.state.value))
    >>> term = breaker.term
    >>> breaker.failed(term, 0.0); breaker.failed(term, 0.5)
    open
    >>> breaker.admits(1.0), breaker.admits(1.6)
    half_open
    (False, True)
    """

    __slots__ = ("_changed", "_in_a_row", "_opened_for", "_passed", "_probes", "_settings", "_until", "state", "term")

    def __init__(self, settings: Settings, *, changed: Callable[[Breaker], None]) -> None:
        self.state = BreakerState.CLOSED
        self.term = 0
        self._settings = settings
        self._changed = changed
        self._in_a_row = 0
        self._opened_for = 0.0
        self._until = 0.0
        self._probes = 0
        self._passed = 0

    @property
    def open_for(self) -> float:
        """How long it stays open, or last did; 0 since it closed."""
        return self._opened_for

    def admits(self, now: float) -> bool:
        """Whether a call may be made; it then belongs to the `term` of this moment. A probe is used up by asking."""
        if self.state is BreakerState.CLOSED:
            return True
        if self.state is BreakerState.OPEN:
            if now < self._until:
                return False
            self._probes = self._passed = 0
            self._turn(BreakerState.HALF_OPEN)
        if self._probes >= self._settings.probes:
            return False
        self._probes += 1
        return True

    def succeeded(self, term: int) -> None:
        """A call of that term was answered."""
        if term != self.term:
            return
        self._in_a_row = 0
        if self.state is _CLOSED:
            return
        self._passed += 1
        if self._passed >= self._settings.probes:
            self._opened_for = 0.0
            self._turn(BreakerState.CLOSED)

    def failed(self, term: int, now: float) -> None:
        """A call of that term was not answered."""
        if term != self.term:
            return
        self._in_a_row += 1
        if self.state is BreakerState.HALF_OPEN or self._in_a_row >= self._settings.failures:
            settings = self._settings
            self._opened_for = min(max(settings.open_for, 2 * self._opened_for), settings.open_at_most)
            self._until = now + self._opened_for
            self._in_a_row = 0
            self._turn(BreakerState.OPEN)

    def _turn(self, state: BreakerState) -> None:
        self.state = state
        self.term += 1
        self._changed(self)

    def __repr__(self) -> str:
        return f"<Breaker {self.state.value}, {self._in_a_row} failures in a row>"
