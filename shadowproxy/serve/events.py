"""/api/v1/events: tells whoever listens that the verdict is another, as server-sent events.

A listener is told what holds now, never what held in between: for one who reads slowly, events that were overtaken are
left out, so nothing piles up, and one who was away has missed nothing when he has read the next. Who reads nothing at
all is cut off by `Connections`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import web

from shadowproxy.errors import StoreUnavailable
from shadowproxy.serve.problems import Problem, explained
from shadowproxy.serve.reader import Reading

HEARTBEAT: Final = 15.0
"""Seconds without an event after which a comment says that the connection lives."""
_RETRY: Final = 2000
"""Milliseconds after which a browser that was cut off tries again."""


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """Data of the event `verdict`: there is another one to be fetched, at /api/v1/verdict."""

    state: str
    pairs: int
    at: float
    """Unix seconds at which it was worked out."""
    etag: str
    """Of that verdict, for If-None-Match."""


class Events:
    """GET streams the events `verdict` (see `Changed`) and `trouble` (a problem), the present one first."""

    def __init__(
        self,
        current: Callable[[], Reading],
        etag: Callable[[], str],
        *,
        listeners: int,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        """`current` gives the verdict that holds, or raises StoreUnavailable; `etag` is of its answer."""
        self._current = current
        self._etag = etag
        self._most = listeners
        self._heartbeat = heartbeat
        self._listeners = 0
        self._event = b""
        self._key = ""
        self._serial = 0
        self._change = asyncio.Event()
        self._ended = False

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [web.get("/api/v1/events", self._listen, allow_head=False)]

    @property
    def listeners(self) -> int:
        """How many there are."""
        return self._listeners

    def look(self) -> None:
        """To be called when the verdict was read anew, or couldn't be: tells the listeners if anything has changed."""
        try:
            verdict = self._current().verdict
            key = f"verdict {self._etag()}"
            changed = Changed(state=verdict.state.value, pairs=verdict.pairs, at=verdict.at, etag=self._etag())
            self._event = _event("verdict", changed)
        except StoreUnavailable as error:
            key = f"trouble {error}"
            status = HTTPStatus.SERVICE_UNAVAILABLE
            self._event = _event("trouble", Problem(title=status.phrase, status=status, detail=str(error)))
        if key != self._key:
            self._key = key
            self._serial += 1
            self._wake()

    def end(self) -> None:
        """Ends all streams, for the process is about to stop."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        if self._listeners >= self._most or self._ended:
            refusal = explained(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the API is stopping"
                if self._ended
                else f"{self._most} are listening already (serve.limits.listeners)",
            )
            refusal.headers["Retry-After"] = "5"
            return refusal
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        self._listeners += 1
        try:
            await response.prepare(request)
            await response.write(b"retry: %d\n\n" % _RETRY)
            await self._tell(response)
        except ConnectionError:
            # He has gone, which is how it ends mostly.
            pass
        finally:
            self._listeners -= 1
        return response

    async def _tell(self, response: web.StreamResponse) -> None:
        told = 0
        while not self._ended:
            # Before what there is to tell is looked at: a change in between then ends the wait at once.
            change = self._change
            if told != self._serial:
                told = self._serial
                await response.write(b"id: %d\n%b" % (told, self._event))
            try:
                async with asyncio.timeout(self._heartbeat):
                    await change.wait()
            except TimeoutError:
                await response.write(b": still here\n\n")


def _event(name: str, data: msgspec.Struct) -> bytes:
    # JSON has no line breaks of its own, so one line holds it.
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))
