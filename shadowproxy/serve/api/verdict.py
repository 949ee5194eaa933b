"""/api/v1: the verdict as JSON, kept fresh by a task of its own, and how it changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b

import msgspec
from aiohttp import ETag, web

from shadowproxy.errors import PayloadError, StoreUnavailable
from shadowproxy.metrics import VerdictReading
from shadowproxy.serve.answers import answered, encoded
from shadowproxy.serve.exported import exported
from shadowproxy.serve.reader import Reading, VerdictReader
from shadowproxy.tasks import Pauses

log = logging.getLogger(__name__)

_RETRY_MOST = 4.0
"""Seconds between attempts to read a verdict that can't be read, at the most."""


class VerdictApi:
    """The current verdict. `refresh` seconds apart it is read anew; requests get the last one that could be read."""

    def __init__(
        self, reader: VerdictReader, *, refresh: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._reader = reader
        self._refresh = refresh
        self._monotonic = monotonic
        self._reading: Reading | None = None
        self._read_at = 0.0
        self._changed_at: float | None = None
        self._trouble = "no verdict was worked out yet"
        self._body = b""
        self.on_update: Callable[[], None] = lambda: None
        """Called whenever the verdict was read, or couldn't be."""
        self.etag = ""
        """Of the last verdict that could be read. One that says the same at another time has the same."""

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [web.get("/api/v1/verdict", self._verdict), web.get("/api/v1/history", self._history)]

    async def run(self) -> None:
        """Keep the verdict fresh until cancelled. One that can't be read is tried less and less often."""
        pauses = Pauses(self._refresh, max(self._refresh, _RETRY_MOST))
        while True:
            await self.update()
            if self._trouble:
                await asyncio.sleep(pauses.after_failure())
            else:
                pauses.reset()
                await asyncio.sleep(self._refresh)

    async def update(self) -> None:
        """Read the verdict once. What goes wrong is kept for `ready`, logged when it changes, and never raised."""
        await self._update()
        self.on_update()

    async def _update(self) -> None:
        try:
            reading = await self._reader.read()
        except (StoreUnavailable, PayloadError) as error:
            if str(error) != self._trouble:
                log.warning("the verdict can't be read: %s", error)
            self._trouble = str(error)
            return
        if self._reading is not None and reading.verdict.state is not self._reading.verdict.state:
            log.info("verdict: %s: %s", reading.verdict.state.value, "; ".join(reading.verdict.reasons))
        self._reading, self._read_at, self._trouble = reading, self._monotonic(), ""
        self._body = msgspec.json.encode(reading.verdict)
        timeless = msgspec.json.encode(msgspec.structs.replace(reading.verdict, at=0.0))
        self.etag = blake2b(timeless, digest_size=12).hexdigest()
        self._changed_at = await self._reader.remember(reading)

    async def ready(self) -> Mapping[str, str]:
        """For /readyz."""
        return {"verdict": self._trouble}

    def current(self) -> Reading:
        """The verdict that holds. Raises StoreUnavailable where it can't be read: a stale one is not shown as a current
        one, since a pipeline would act on it."""
        if self._trouble or self._reading is None:
            raise StoreUnavailable(self._trouble)
        return self._reading

    async def _verdict(self, request: web.Request) -> web.Response:
        self.current()
        unchanged = any(known.value in (self.etag, "*") for known in request.if_none_match or ())
        response = web.Response(status=304) if unchanged else encoded(self._body)
        response.etag = ETag(self.etag, is_weak=True)
        response.headers["Cache-Control"] = "no-cache"
        return response

    async def _history(self, _request: web.Request) -> web.Response:
        return answered(await self._reader.history())

    def exported(self) -> VerdictReading | None:
        """The last verdict in the words of the metrics."""
        if self._reading is None:
            return None
        return exported(
            self._reading.verdict,
            self._reading.stream,
            alpha_rollback=self._reader.settings.verdict.alpha_rollback,
            age=self._monotonic() - self._read_at,
            changed_at=self._changed_at,
        )

    def readable(self) -> bool:
        """Whether the last attempt to read the verdict was a success."""
        return not self._trouble
