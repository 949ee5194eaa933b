"""Client connections over TLS, up to the moment from which they are like any other."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from typing import cast

from shadowproxy.certificates import Contexts
from shadowproxy.proxy.timers import Deadlines
from shadowproxy.proxy.tls import HANDSHAKE_FAILURES, Inner, TlsLayer, why_no_handshake

log = logging.getLogger(__name__)

LAST_HANDSHAKE = 0.5
"""Seconds that a stop leaves to handshakes that are under way."""


def _in_plain() -> bytes:
    content = {
        "source": "shadowproxy",
        "status": 400,
        "error": "Bad Request",
        "where": "request",
        "detail": "plain HTTP was sent to a port that speaks TLS: write https",
    }
    body = json.dumps(content).encode() + b"\n"
    fields = b"Content-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n" % len(body)
    return b"HTTP/1.1 400 Bad Request\r\n%b\r\n%b" % (fields, body)


_SPEAK_TLS = _in_plain()


class Acceptor:
    """Makes the protocol of each accepted socket: `make()`'s within TLS.

    A handshake has `seconds`, and there are at most `most` at once, whose sockets come on top of the connections that
    the listener itself counts: past it a socket is closed before any work is done for it. A handshake that fails is
    counted and logged for debugging: anyone can make them fail. `emptied` is called when the last one has ended.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        contexts: Contexts,
        make: Callable[[], Inner],
        *,
        seconds: float,
        most: int,
        emptied: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._contexts = contexts
        self._make = make
        self._most = most
        self._emptied = emptied
        self._failures: Counter[str] = Counter()
        self._seconds = seconds
        self._under_way: set[TlsLayer] = set()
        self._late: Deadlines[TlsLayer] = Deadlines(loop, seconds, self._too_late)
        self._last: asyncio.TimerHandle | None = None

    def __call__(self) -> asyncio.Protocol:
        """A protocol for one socket."""
        if len(self._under_way) >= self._most:
            self._failures["shed"] += 1
            return _Refusal()
        layer = TlsLayer(
            self._loop,
            self._contexts.current,
            self._make(),
            server_name=None,
            opened=self._opened,
            failed=self._failed,
        )
        self._under_way.add(layer)
        self._late.add(layer)
        return layer

    @property
    def under_way(self) -> int:
        """Handshakes that have begun and not ended."""
        return len(self._under_way)

    @property
    def failures(self) -> Mapping[str, int]:
        """Handshakes that failed, by why."""
        return {reason: self._failures[reason] for reason in (*HANDSHAKE_FAILURES, "shed")}

    def drain(self) -> None:
        """Give the handshakes that are under way a last moment."""
        if self._last is None:
            self._last = self._loop.call_later(LAST_HANDSHAKE, self.close)

    def close(self) -> None:
        """End every handshake."""
        if self._last is not None:
            self._last.cancel()
        self._late.close()
        for layer in tuple(self._under_way):
            layer.give_up(ConnectionAbortedError("the proxy is stopping"))

    def _opened(self, layer: TlsLayer) -> None:
        self._under_way.discard(layer)
        self._late.discard(layer)
        # The connection is not yet among the listener's: it will be in this very turn.
        if not self._under_way:
            self._loop.call_soon(self._emptied)

    def _failed(self, layer: TlsLayer, error: Exception) -> None:
        reason = why_no_handshake(error)
        if layer not in self._under_way:
            log.debug("TLS with a client broke off: %s", error)
            return
        self._under_way.discard(layer)
        self._late.discard(layer)
        self._failures[reason] += 1
        log.debug("no TLS handshake with a client (%s): %s", reason, error)
        if reason == "plain_http":
            layer.say_in_plain(_SPEAK_TLS)
        if not self._under_way:
            self._emptied()

    def _too_late(self, layer: TlsLayer) -> None:
        layer.give_up(TimeoutError(f"not complete within {self._seconds:g} s"))

    def __repr__(self) -> str:
        return f"<Acceptor {self.under_way} under way, {dict(self._failures)} failed>"


class _Refusal(asyncio.Protocol):
    """Closes at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).abort()
