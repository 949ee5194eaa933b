"""What one shadow upstream may cost: copies under way, their memory, and a breaker. Decides at once, awaits nothing.

Over any bound the copy is not made, and the pair is recorded with that side's exchange as `shed`: all of it is that
side's own doing, since only its slowness keeps copies under way. Leaving such pairs out would flatter a candidate.
"""

from __future__ import annotations

import logging
from typing import Final

from shadowproxy.config import Mirror
from shadowproxy.model import Outcome
from shadowproxy.pairs.ledger import SHED
from shadowproxy.proxy.breaker import Breaker, BreakerState
from shadowproxy.proxy.upstream import Pool

log = logging.getLogger(__name__)

IN_FLIGHT: Final = "in_flight"
BYTES: Final = "bytes"
BREAKER: Final = "breaker"

OVERHEAD: Final = 4096
"""Estimated memory of a copy under way beside its bytes: the records, and the connection that it may need."""
# An enum's member by its name is a call of Python's on older versions, for every copy.
_CLOSED: Final = BreakerState.CLOSED
_OK: Final = Outcome.OK
_MEASURE_EVERY: Final = 16
"""Admissions after which the answers that are being read are measured anew, where they could matter: each measurement
walks over all copies under way."""


class GateReading:
    """One gate at the moment of a scrape.

    `transitions`: how often the breaker came into each state. `held`: bytes of copies under way, of what waits for them
    and of what has come of their answers. `shed`: copies that were not made, by reason.
    """

    __slots__ = ("breaker", "held", "shed", "transitions")

    def __init__(
        self, breaker: BreakerState, transitions: dict[BreakerState, int], held: int, shed: dict[str, int]
    ) -> None:
        self.breaker = breaker
        self.transitions = transitions
        self.held = held
        self.shed = shed

    def __repr__(self) -> str:
        return f"<GateReading {self.breaker.value}, {self.held} bytes, shed {self.shed}>"


class Gate:
    """Before the pool of one shadow side.

    `held` is the memory that this side's copies keep: of every copy under way its request (once on the wire, once for
    the pair), and the answers of other sides whose pair waits for this one. `Mirror` keeps it, by plain additions.
    What has come of the answers under way is measured apart, and only where it could exceed the budget.
    """

    __slots__ = (
        "_answers",
        "_breaker",
        "_capture_all",
        "_max_bytes",
        "_max_in_flight",
        "_reasons",
        "_shed",
        "_transitions",
        "_until_measured",
        "held",
        "pool",
        "side",
        "slot",
    )

    def __init__(self, pool: Pool, mirror: Mirror) -> None:
        self.pool = pool
        self.side = pool.side
        self.slot = pool.slot
        self.held = 0
        self._max_in_flight = mirror.max_in_flight
        self._max_bytes = mirror.max_in_flight_bytes
        self._breaker = Breaker(mirror.breaker, changed=self._changed) if mirror.breaker.enabled else None
        self._shed = dict.fromkeys(SHED, 0)
        self._reasons = {
            IN_FLIGHT: f"{mirror.max_in_flight} copies were under way",
            BYTES: f"the copies under way hold {mirror.max_in_flight_bytes} bytes",
            BREAKER: "the breaker is open",
        }
        self._transitions = dict.fromkeys(BreakerState, 0)
        self._answers = 0
        self._until_measured = 0

    @property
    def term(self) -> int:
        """Of the breaker: to be given back with the outcome of a copy that was admitted now."""
        return 0 if self._breaker is None else self._breaker.term

    def refusal(self, size: int) -> str:
        """Why a copy that holds `size` bytes is not made, in words for its exchange; empty if it may be."""
        pool, breaker = self.pool, self._breaker
        in_flight = pool.in_flight
        if in_flight >= self._max_in_flight:
            return self._refused(IN_FLIGHT)
        room = self._max_bytes - self.held - size
        if room < 0 or (room < in_flight * pool.capture and room < self._measured()):
            return self._refused(BYTES)
        # Last: a probe that it lets through must be made.
        if breaker is not None and breaker.state is not _CLOSED and not breaker.admits(pool.monotonic()):
            return self._refused(BREAKER)
        return ""

    def ended(self, outcome: Outcome, term: int) -> None:
        """A copy that was admitted in that term has ended."""
        breaker = self._breaker
        if breaker is None:
            return
        if outcome is _OK:
            breaker.succeeded(term)
        else:
            breaker.failed(term, self.pool.monotonic())

    def read(self) -> GateReading:
        """For the metrics."""
        return GateReading(
            breaker=BreakerState.CLOSED if self._breaker is None else self._breaker.state,
            transitions=dict(self._transitions),
            held=self.held + self.pool.captured,
            shed=dict(self._shed),
        )

    def _measured(self) -> int:
        """What has come of the answers under way, as of lately."""
        self._until_measured -= 1
        if self._until_measured <= 0:
            self._answers = self.pool.captured
            self._until_measured = _MEASURE_EVERY
        return self._answers

    def _refused(self, reason: str) -> str:
        self._shed[reason] += 1
        return self._reasons[reason]

    def _changed(self, breaker: Breaker) -> None:
        self._transitions[breaker.state] += 1
        side = self.side.value
        if breaker.state is BreakerState.OPEN:
            self._reasons[BREAKER] = f"the breaker is open: {side} gave no answer too often in a row"
            log.warning("%s gives no answers: its breaker is open for %g s, copies are shed", side, breaker.open_for)
        elif breaker.state is BreakerState.HALF_OPEN:
            self._reasons[BREAKER] = f"the breaker is half open: {side} is being tried with a few copies"
            log.info("%s is being tried again: its breaker is half open", side)
        else:
            log.info("%s answers again: its breaker is closed", side)

    def __repr__(self) -> str:
        return f"<Gate {self.side.value} holds {self.held} bytes, {self._breaker}>"
