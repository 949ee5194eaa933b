"""From the recorder to the collector: a bounded queue, and one thread that makes spans of what is in it and sends them.

Nobody waits for it. What the queue has no room for, and what the collector doesn't take, is dropped and counted: spans
are for looking at single requests, and nothing is concluded from them.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from shadowproxy.model import Pair
from shadowproxy.tracing.record import Picker, Traced

log = logging.getLogger(__name__)

MOST_WAITING: Final = 4096
"""Requests; each takes about 1 KB."""
BATCH: Final = 256
"""Requests whose spans are sent at once."""
_EVERY: Final = 0.5
"""Seconds that a request waits for others at most."""

OVER: Final = "over_rate"
FULL: Final = "queue_full"
FAILED: Final = "export_failed"
SHUTDOWN: Final = "shutdown"
DROPPED: Final[Mapping[str, str]] = {
    OVER: "There were `tracing.rate` requests in this second already.",
    FULL: f"{MOST_WAITING} requests wait: the collector is slow or away, or more come than one thread makes spans of.",
    FAILED: "The collector refused the spans, or had not taken them within `tracing.timeout`.",
    SHUTDOWN: "The proxy ended before the collector had taken them.",
}
"""Why a request that was to have spans has none."""

_Scrub = Callable[[Pair, "Sequence[bytes] | None"], Pair]


class Sender(Protocol):
    """Makes spans and sends them. Called in the outbox's thread."""

    def __call__(self, requests: Sequence[Traced]) -> str:
        """Empty once the collector has taken the spans of these requests, else why it has not. May take seconds."""
        ...

    def give_up(self) -> None:
        """Don't try again. Called from another thread."""
        ...


class Outbox:
    """Takes pairs that are to be traced, `rate` of those offered in a second at most, and has their spans sent.

    `clock` gives seconds. The rate is what keeps the cost bounded where clients trace every request: spans are made by
    the interpreter that also answers the clients.
    """

    def __init__(
        self, pick: Picker, send: Sender, *, rate: int, clock: Callable[[], float], most: int = MOST_WAITING
    ) -> None:
        self._pick = pick
        self._send = send
        self._rate = rate
        self._clock = clock
        self._most = most
        self._second = -1
        self._taken = 0
        self._queue: deque[Traced] = deque()
        self._some = threading.Event()
        self._enough = threading.Event()
        self._closing = threading.Event()
        self._failing = False
        self._under_way = 0
        # A daemon: a collector that hangs must not hold the process beyond its grace.
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        self.sent = 0
        """Requests whose spans the collector has taken."""
        self.dropped = dict.fromkeys(DROPPED, 0)
        """Requests whose spans it never gets, by reason."""

    def after(self, scrub: _Scrub) -> _Scrub:
        """`scrub`, which then also offers what it has scrubbed: spans show nothing that a pair may not."""

        def scrubbed(pair: Pair, guarded: Sequence[bytes] | None = None) -> Pair:
            left = scrub(pair, guarded)
            self.offer(left)
            return left

        return scrubbed

    def offer(self, pair: Pair) -> None:
        """Take a pair if it is to be traced and there is room. Never waits. By one thread at a time."""
        request = self._pick(pair)
        if request is None:
            return
        second = int(self._clock())
        if second != self._second:
            self._second, self._taken = second, 0
        if self._taken >= self._rate:
            self.dropped[OVER] += 1
            return
        self._taken += 1
        queue = self._queue
        if len(queue) >= self._most:
            self.dropped[FULL] += 1
            return
        queue.append(request)
        waiting = len(queue)
        if waiting == 1:
            self._some.set()
        elif waiting == BATCH:
            self._enough.set()

    @property
    def waiting(self) -> int:
        """Requests that wait or are being sent."""
        return len(self._queue) + self._under_way

    def start(self) -> None:
        """Begin to send. Pairs may have been offered before."""
        self._thread.start()

    def close(self, grace: float) -> None:
        """Send what waits, for `grace` seconds at most; the rest is dropped and counted. Blocks so long."""
        self._closing.set()
        self._some.set()
        self._enough.set()
        self._thread.join(grace)
        if self._thread.is_alive():
            left = self.waiting
            self._queue.clear()
            self._send.give_up()
            self.dropped[SHUTDOWN] += left
            log.warning("the spans of %d requests were not sent within %.1f s and are dropped", left, grace)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._some.wait()
            self._some.clear()
            self._enough.wait(_EVERY)
            self._enough.clear()
            while batch := self._take():
                self._deliver(batch)

    def _take(self) -> list[Traced]:
        queue = self._queue
        try:
            return [queue.popleft() for _ in range(min(BATCH, len(queue)))]
        except IndexError:
            # Cleared meanwhile, by `close`.
            return []

    def _deliver(self, batch: Sequence[Traced]) -> None:
        self._under_way = len(batch)
        try:
            wrong = self._send(batch)
        except Exception as error:  # noqa: BLE001  (whatever a span does to what encodes it, the next are sent)
            wrong = f"{type(error).__name__}: {error}"
        self._under_way = 0
        if wrong:
            self.dropped[FAILED] += len(batch)
            if not self._failing:
                log.warning("no spans reach the collector, and they are dropped until it takes them again: %s", wrong)
        else:
            self.sent += len(batch)
            if self._failing:
                log.info("the collector takes spans again")
        self._failing = bool(wrong)

    def __repr__(self) -> str:
        return f"<Outbox sent={self.sent} dropped={sum(self.dropped.values())} waiting={self.waiting}>"
