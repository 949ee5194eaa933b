"""Shadow copies: what the candidate (and the replica) gets of a request, and the pair that comes of it.

Nothing here is awaited by a client's path: a copy is started by a plain call, its end is a callback. Any number of
shadow sides is served alike; each has its own pool, deadline and bounds (see `gate`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, cast

from shadowproxy.model import Exchange, Outcome, Pair, Request, Side
from shadowproxy.pairs.controls import Controls
from shadowproxy.pairs.ledger import Ledger
from shadowproxy.proxy.admission import UPGRADE, Admission
from shadowproxy.proxy.framing import RequestHead
from shadowproxy.proxy.gate import OVERHEAD, Gate
from shadowproxy.proxy.upstream import Call, Pool

CLIENT_SLOW: Final = "client_slow"
"""The client took the response so slowly that the baseline's deadline passed: its timing would be the client's."""
STOPPED: Final = "proxy_stopped"
"""The proxy stopped before every side had answered, and its grace was over."""


class PairRecorder(Protocol):
    """What takes finished pairs, and holds the account that the proxy keeps with it (see `pairs.recorder`)."""

    @property
    def ledger(self) -> Ledger:
        """Where every request is accounted for."""
        ...

    def offer(self, pair: Pair, guarded: Sequence[bytes] | None) -> bool:
        """Take a pair without ever blocking. On False it has been counted as dropped already.

        `guarded` are all lines of its heads that may hold what must not be recorded; None where that is not known.
        """
        ...


class Mirror:
    """Decides on each request, starts the copies of those admitted, and offers their pairs to the recorder."""

    def __init__(
        self,
        admission: Admission,
        baseline: Pool,
        gates: Iterable[Gate],
        recorder: PairRecorder,
        *,
        marker_header: str,
        emptied: Callable[[], None],
    ) -> None:
        self.baseline = baseline
        self.gates = tuple(gates)
        self.marker = b"\r\n%b: 1" % marker_header.encode("ascii")
        self._admission = admission
        self._recorder = recorder
        self._emptied = emptied
        self._open: set[OpenPair] = set()

    @property
    def admission(self) -> Admission:
        """What decides now."""
        return self._admission

    def control(self, controls: Controls) -> None:
        """From here on these controls are in force. Pairs that are under way are completed and recorded."""
        self._admission = self._admission.under(controls)

    def admit(self, request: RequestHead, body: bytes | None, started: float, upload: float) -> OpenPair | None:
        """Account for a request that is about to be forwarded; an open pair if it is to be mirrored.

        `body` is None where it is streamed; `started` is Unix time; `upload` is how long the body took, seconds.
        """
        size = None if body is None else len(body)
        ledger = self._recorder.ledger
        reason = self._admission.refusal(
            request.method, request.target, request.received, request.request_id, size, upload
        )
        if request.upgrade:
            reason = UPGRADE
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
            self._recorder.offer(pair.build(self.baseline), pair.guarded)
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

    __slots__ = (
        "_body",
        "_exchanges",
        "_held",
        "_mirror",
        "_request",
        "_started",
        "_terms",
        "_waiting",
        "dropped",
        "guarded",
    )

    def __init__(self, mirror: Mirror, request: RequestHead, body: bytes, started: float) -> None:
        self.dropped = ""
        self._mirror = mirror
        self.guarded = request.guarded
        self._request = request
        self._body = body
        self._started = started
        self._exchanges: list[Exchange | None] = [None, None, None]
        self._terms = [0, 0, 0]
        self._waiting = 1 + len(mirror.gates)
        # What every copy of this pair that is under way is charged with at its gate: its request, on the wire and here,
        # and then each answer that has come and waits for it.
        self._held = OVERHEAD + 2 * (len(request.fields) + len(body))

    def copy(self) -> None:
        """Start the copies; those over a side's bounds are shed."""
        mirror = self._mirror
        for gate in mirror.gates:
            refusal = gate.refusal(self._held)
            if refusal:
                self._shed(gate, refusal)
                continue
            gate.held += self._held
            self._terms[gate.slot] = gate.term
            Call(gate.pool, self._request, self._body, extra=mirror.marker, settled=self.settled).start()

    def _shed(self, gate: Gate, detail: str) -> None:
        exchange = Exchange(Outcome.SHED, detail=detail)
        observe = gate.pool.observe
        if observe is not None:
            observe(Outcome.SHED, exchange.total, self._request)
        self._put(gate.slot, exchange)

    def settled(self, call: Call, exchange: Exchange) -> None:
        """The exchange of one side is known."""
        pool = call.pool
        if call.held and pool.side is Side.BASELINE and exchange.outcome is Outcome.TIMEOUT:
            self.dropped = self.dropped or CLIENT_SLOW
        guarded = call.guarded
        if guarded is None or guarded:
            self.guarded = _all_of(self.guarded, guarded)
        captured = len(exchange.head) + len(exchange.body)
        for gate in self._mirror.gates:
            if gate.pool is pool:
                gate.held -= self._held
                gate.ended(exchange.outcome, self._terms[gate.slot])
            elif self._exchanges[gate.slot] is None:
                gate.held += captured
        self._held += captured
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
                head=b"Host: " + baseline.authority + request.fields + request.framing + request.trace,
                body=self._body[: baseline.capture],
                body_size=len(self._body),
            ),
            baseline=cast("Exchange", first),
            candidate=cast("Exchange", second),
            replica=third,
            annotations=decode_annotations(request.annotations),
        )


def _all_of(some: list[bytes] | None, others: list[bytes] | None) -> list[bytes] | None:
    return None if some is None or others is None else some + others


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
