"""Shadow copies: what the candidate (and the replica) gets of a request, and the pair that comes of it.

Nothing here is awaited by a client's path: a copy is started by a plain call, its end is a callback. Any number of
shadow sides is served alike; each has its own pool, deadline and in-flight cap.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Protocol, cast

from shadowproxy.model import Exchange, Outcome, Pair, Request, Side
from shadowproxy.pairs.ledger import Ledger
from shadowproxy.proxy.admission import Admission
from shadowproxy.proxy.framing import RequestHead
from shadowproxy.proxy.upstream import SLOTS, Call, Observe, Pool

CLIENT_SLOW = "client_slow"
"""The client took the response so slowly that the baseline's deadline passed: its timing would be the client's."""
STOPPED = "proxy_stopped"
"""The proxy stopped before every side had answered, and its grace was over."""


class PairRecorder(Protocol):
    """What takes finished pairs, and holds the account that the proxy keeps with it (see `pairs.recorder`)."""

    @property
    def ledger(self) -> Ledger:
        """Where every request is accounted for."""
        ...

    def offer(self, pair: Pair) -> bool:
        """Take a pair without ever blocking. On False it has been counted as dropped already."""
        ...


class Mirror:
    """Decides on each request, starts the copies of those admitted, and offers their pairs to the recorder."""

    def __init__(
        self,
        admission: Admission,
        baseline: Pool,
        shadows: Mapping[Side, Pool],
        recorder: PairRecorder,
        *,
        max_in_flight: int,
        marker_header: str,
        observe: Observe | None,
        emptied: Callable[[], None],
    ) -> None:
        self.baseline = baseline
        self.shadows = dict(shadows)
        self.max_in_flight = max_in_flight
        self.marker = b"\r\n%b: 1" % marker_header.encode("ascii")
        self.observe = observe
        self._admission = admission
        self._recorder = recorder
        self._emptied = emptied
        self._open: set[OpenPair] = set()

    def admit(self, request: RequestHead, body: bytes | None, started: float, upload: float) -> OpenPair | None:
        """Account for a request that is about to be forwarded; an open pair if it is to be mirrored.

        `body` is None where it is streamed; `started` is Unix time; `upload` is how long the body took, seconds.
        """
        size = None if body is None else len(body)
        ledger = self._recorder.ledger
        reason = self._admission.refusal(request.method, request.received, request.request_id, size, upload)
        if reason or body is None:
            ledger.skip(reason)
            return None
        ledger.admit()
        pair = OpenPair(self, request, body, started)
        self._open.add(pair)
        return pair

    def finish(self, pair: OpenPair) -> None:
        """Every side of `pair` has settled: offer it."""
        self._open.discard(pair)
        if pair.dropped:
            self._recorder.ledger.drop(pair.dropped)
        else:
            self._recorder.offer(pair.build(self.baseline))
        if not self._open:
            self._emptied()

    def drop_open(self) -> None:
        """Give up every open pair, counted as dropped."""
        for pair in self._open:
            pair.dropped = pair.dropped or STOPPED

    def __len__(self) -> int:
        return len(self._open)


class OpenPair:
    """A pair whose exchanges are not all known yet."""

    __slots__ = ("_body", "_exchanges", "_mirror", "_request", "_started", "_waiting", "dropped")

    def __init__(self, mirror: Mirror, request: RequestHead, body: bytes, started: float) -> None:
        self.dropped = ""
        self._mirror = mirror
        self._request = request
        self._body = body
        self._started = started
        self._exchanges: list[Exchange | None] = [None] * len(SLOTS)
        self._waiting = 1 + len(mirror.shadows)

    def copy(self) -> None:
        """Start the copies; those over a side's cap are shed."""
        mirror = self._mirror
        for side, pool in mirror.shadows.items():
            if pool.in_flight < mirror.max_in_flight:
                Call(pool, self._request, self._body, extra=mirror.marker, settled=self.settled).start()
            else:
                self._shed(side)

    def _shed(self, side: Side) -> None:
        exchange = Exchange(Outcome.SHED, detail=f"{self._mirror.max_in_flight} copies were under way")
        if self._mirror.observe is not None:
            self._mirror.observe(side, Outcome.SHED, exchange.total)
        self._put(SLOTS[side], exchange)

    def settled(self, call: Call, exchange: Exchange) -> None:
        """The exchange of one side is known."""
        pool = call.pool
        if pool.side is Side.BASELINE and call.held and exchange.outcome is Outcome.TIMEOUT:
            self.dropped = self.dropped or CLIENT_SLOW
        self._put(pool.slot, exchange)

    def _put(self, slot: int, exchange: Exchange) -> None:
        self._exchanges[slot] = exchange
        self._waiting -= 1
        if not self._waiting:
            self._mirror.finish(self)

    def build(self, baseline: Pool) -> Pair:
        """The pair, not redacted yet. The request is the client's as it is forwarded, before any upstream's own edits;
        its Host is that of the baseline's URL."""
        request = self._request
        first, second, third = self._exchanges
        return Pair(
            id=request.request_id.decode("latin-1"),
            started=self._started,
            request=Request(
                method=request.method.decode("ascii"),
                target=request.target.decode("latin-1"),
                head=b"Host: " + baseline.authority + request.fields,
                body=self._body[: baseline.capture],
                body_size=len(self._body),
            ),
            baseline=cast("Exchange", first),
            candidate=cast("Exchange", second),
            replica=third,
            annotations=decode_annotations(request.annotations),
        )


def decode_annotations(value: bytes) -> bytes:
    """The JSON in an annotation header, or empty where it is not base64url. Padding may be left out.

    >>> decode_annotations(b"eyJhIjoxfQ")
    b'{"a":1}'
    """
    if not value:
        return b""
    try:
        return base64.b64decode(
            value.rstrip(b"=") + b"=" * (-len(value.rstrip(b"=")) % 4), altchars=b"-_", validate=True
        )
    except binascii.Error:
        return b""
