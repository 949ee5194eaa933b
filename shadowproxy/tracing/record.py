"""What spans need of a pair, and which pairs get spans. Runs where pairs are redacted: it must be quick."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from shadowproxy.model import Exchange, Outcome, Pair, Side
from shadowproxy.tracing.context import Context, own_trace, read_traceparent

_PARENT: Final = b"\r\ntraceparent:"
_STATE: Final = b"\r\ntracestate:"
_WHOLE: Final = 1 << 64


class Ended(msgspec.Struct, frozen=True, gc=False):
    """One exchange, as far as its span tells of it."""

    side: Side
    outcome: Outcome
    status: int
    body_size: int
    ttfb: float
    """Seconds; infinite if no answer came."""
    seconds: float
    """How long it took, or is taken to have taken: what came to no end has no length that anybody measured."""
    detail: str


class Traced(msgspec.Struct, frozen=True, gc=False):
    """One request that is to have spans. Without heads and bodies: it may wait for long."""

    trace: bytes
    parent: bytes
    """The client's span, 16 hexadecimal digits; empty where the trace is our own."""
    state: bytes
    """The client's `tracestate`."""
    request_id: str
    started: float
    """Unix time."""
    method: str
    path: str
    exchanges: tuple[Ended, ...]
    """The baseline's first."""


class Picker:
    """Says which pairs get spans: of a client's trace those that the client has `sampled`, of others a share.

    `share` is of the requests without a valid `traceparent`, by the lower half of their trace's id, as samplers of
    OpenTelemetry have it. `deadlines` are seconds, by side. `clock` gives Unix time.
    """

    def __init__(self, share: float, deadlines: Mapping[Side, float], clock: Callable[[], float]) -> None:
        self._below = round(share * _WHOLE)
        self._deadlines = deadlines
        self._clock = clock

    def __call__(self, pair: Pair) -> Traced | None:
        """What its spans need; None where it gets none."""
        context = _context(pair.request.head)
        if context is None:
            trace, parent, state = own_trace(pair.id, pair.started), b"", b""
            if int(trace[16:], 16) >= self._below:
                return None
        elif context.sampled:
            trace, parent, state = context.trace, context.parent, _found(_STATE, pair.request.head)
        else:
            return None
        return Traced(
            trace,
            parent,
            state,
            pair.id,
            pair.started,
            pair.request.method,
            pair.request.path,
            tuple(self._ended(pair)),
        )

    def _ended(self, pair: Pair) -> Iterator[Ended]:
        # All sides have settled by now.
        most = max(0.0, self._clock() - pair.started)
        for side, exchange in (
            (Side.BASELINE, pair.baseline),
            (Side.CANDIDATE, pair.candidate),
            (Side.REPLICA, pair.replica),
        ):
            if exchange is not None:
                seconds = _seconds(exchange, min(most, self._deadlines.get(side, math.inf)))
                yield Ended(
                    side,
                    exchange.outcome,
                    exchange.status,
                    exchange.body_size,
                    exchange.ttfb,
                    seconds,
                    exchange.detail,
                )


def _seconds(exchange: Exchange, most: float) -> float:
    if exchange.outcome is Outcome.SHED:
        return 0.0
    return exchange.total if math.isfinite(exchange.total) else most


def _context(head: bytes) -> Context | None:
    value = _found(_PARENT, head)
    return read_traceparent(value) if value else None


def _found(name: bytes, head: bytes) -> bytes:
    """The value of the first line of that name, with what stands around the name; empty where there is none.

    For every pair: a pattern that ignores case takes ten times as long.
    """
    lines = b"\r\n" + head
    at = lines.lower().find(name)
    return b"" if at < 0 else lines[at + len(name) :].partition(b"\r\n")[0].strip(b" \t")
