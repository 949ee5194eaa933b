"""What is observed of one exchange while it goes on: two clock readings, the status, the head, a bounded body."""

from __future__ import annotations

import math
from typing import Final

from shadowproxy.model import Exchange, Outcome
from shadowproxy.proxy.capture import Capture

_OK: Final = Outcome.OK


class Observation:
    """Grows with an exchange; `conclude` makes it an `Exchange`.

    Three readings in monotonic seconds: `sent`, when the last byte of the request had been given to the kernel;
    `first`, when the first byte of the final response came; `last`, when the latest byte came. They are taken as
    bytes arrive, before anything is done with them (see `Arrivals`): passing them to a client must not count against
    the baseline. A response that begins before its request is fully sent counts from its own first byte: no duration
    is negative.
    """

    __slots__ = ("_body", "_cap", "_capture", "first", "head", "last", "sent", "status")

    def __init__(self, cap: int) -> None:
        self.sent: float | None = None
        self.first: float | None = None
        self.last = 0.0
        self.status = 0
        self.head = b""
        self._cap = cap
        self._body = b""
        self._capture: Capture | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the body. Most bodies come in one, which is kept as it is."""
        capture = self._capture
        if capture is None:
            if not self._body and len(piece) <= self._cap:
                self._body = piece
                return
            capture = self._capture = Capture(self._cap)
            if self._body:
                capture.feed(self._body)
                self._body = b""
        capture.feed(piece)

    @property
    def held(self) -> int:
        """Bytes of the body that are kept by now."""
        return len(self._body) if self._capture is None else self._capture.held

    @property
    def overflowed(self) -> bool:
        """Whether the body has outgrown its capture."""
        return self._capture is not None and self._capture.overflowed

    def conclude(self, outcome: Outcome, detail: str) -> Exchange:
        """The exchange as it ended."""
        first, sent, capture, body = self.first, self.sent, self._capture, self._body
        if sent is None:
            sent = first
        ttfb = total = math.inf
        if first is not None and sent is not None:
            ttfb = max(0.0, first - sent)
        if outcome is _OK and sent is not None:
            total = max(0.0, self.last - sent)
        head = self.head
        if capture is None:
            return Exchange(outcome, self.status, head, body, len(body), b"", ttfb, total, detail)
        return Exchange(outcome, self.status, head, capture.body, capture.size, capture.digest, ttfb, total, detail)
