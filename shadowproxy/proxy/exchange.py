"""What is observed of one exchange while it goes on: two clock readings, the status, the head, a bounded body."""

from __future__ import annotations

import math

from shadowproxy.model import Exchange, Outcome
from shadowproxy.proxy.capture import Capture


class Observation:
    """Grows with an exchange; `conclude` makes it an `Exchange`.

    Three readings in monotonic seconds: `sent`, when the last byte of the request had been given to the kernel;
    `first`, when the first byte of the final response came; `last`, when the latest byte came. They are taken as
    bytes arrive, before anything is done with them: passing them to a client must not count against the baseline. A
    response that begins before its request is fully sent counts from its own first byte: no duration is negative.
    """

    __slots__ = ("capture", "first", "head", "last", "sent", "status")

    def __init__(self, cap: int) -> None:
        self.sent: float | None = None
        self.first: float | None = None
        self.last = 0.0
        self.status = 0
        self.head = b""
        self.capture = Capture(cap)

    def conclude(self, outcome: Outcome, detail: str) -> Exchange:
        """The exchange as it ended."""
        first = self.first
        sent = self.sent if self.sent is not None else first
        capture = self.capture
        return Exchange(
            outcome=outcome,
            status=self.status,
            head=self.head,
            body=capture.body,
            body_size=capture.size,
            digest=capture.digest,
            ttfb=math.inf if first is None or sent is None else max(0.0, first - sent),
            total=max(0.0, self.last - sent) if outcome is Outcome.OK and sent is not None else math.inf,
            detail=detail,
        )
