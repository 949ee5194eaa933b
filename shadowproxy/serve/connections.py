"""What aiohttp leaves open: how many connections there may be, and how long one may take to read its answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, cast

log = logging.getLogger(__name__)

STALLED: Final = 30.0
"""Seconds in which a client must have read some of what waits for it."""


class Connections:
    """Makes the protocol of each new connection: `make`'s own, watched. Beyond `most` at once they are closed unheard,
    which costs those that are there nothing."""

    def __init__(self, make: Callable[[], asyncio.Protocol], most: int, *, stalled: float = STALLED) -> None:
        self._make = make
        self._most = most
        self._stalled = stalled
        self._open = 0

    def __call__(self) -> asyncio.Protocol:
        """The protocol of one more."""
        return _Watched(self, self._make())

    def opened(self) -> bool:
        """Whether there is room for one more, which is then counted."""
        if self._open >= self._most:
            log.warning("a connection is closed unheard: there are %d already (serve.limits.connections)", self._open)
            return False
        self._open += 1
        return True

    def closed(self) -> None:
        """One less."""
        self._open -= 1

    @property
    def stalled(self) -> float:
        """Seconds after which who doesn't read is cut off."""
        return self._stalled

    def __len__(self) -> int:
        return self._open


class _Watched(asyncio.Protocol):
    """Passes everything on to the protocol that it watches."""

    def __init__(self, among: Connections, inner: asyncio.Protocol) -> None:
        self._among = among
        self._inner = inner
        self._heard = False
        self._transport: asyncio.Transport | None = None
        self._cut: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._heard = self._among.opened()
        if self._heard:
            self._inner.connection_made(transport)
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._heard:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._heard else None

    def pause_writing(self) -> None:
        self._inner.pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        self._stop_timer()
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._heard:
            self._heard = False
            self._among.closed()
            self._inner.connection_lost(exc)

    def _look_again(self) -> None:
        if self._transport is not None:
            waiting = self._transport.get_write_buffer_size()
            self._cut = asyncio.get_running_loop().call_later(self._among.stalled, self._judge, waiting)

    def _judge(self, before: int) -> None:
        """Cut off who has taken nothing since `before` bytes waited; slow is not still."""
        if self._transport is None:
            return
        if self._transport.get_write_buffer_size() < before:
            self._look_again()
        else:
            self._transport.abort()

    def _stop_timer(self) -> None:
        if self._cut is not None:
            self._cut.cancel()
            self._cut = None
