"""/api/v1/control: whether and how much is mirrored, read and changed while the proxies run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec
from aiohttp import web

from shadowproxy.errors import PayloadError, Refused, StoreUnavailable
from shadowproxy.pairs.controls import ControlChange, Controls, ControlStatus
from shadowproxy.serve.problems import problem


class ControlStore(Protocol):
    """What is needed of a store."""

    async def change_controls(self, change: ControlChange) -> Controls:
        """Put a change in force. Raises StoreUnavailable, ValueError for what can't be, Refused for not now."""

    async def control_status(self) -> ControlStatus:
        """What is in force, and who goes by it. Raises StoreUnavailable or PayloadError."""


class ControlApi:
    """GET shows the controls with their history and which proxies go by them; POST changes them."""

    def __init__(self, store: ControlStore) -> None:
        self._store = store

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [web.get("/api/v1/control", self._show), web.post("/api/v1/control", self._change)]

    async def _show(self, _request: web.Request) -> web.Response:
        return await _answer(self._store.control_status)

    async def _change(self, request: web.Request) -> web.Response:
        try:
            change = msgspec.json.decode(await request.read(), type=ControlChange)
            if msgspec.UNSET is change.paused is change.stopped is change.sample:
                raise ValueError(
                    'say what to change, such as {"paused": true, "reason": "the candidate is overloaded"}'
                )
            if not change.by:
                change = msgspec.structs.replace(change, by=f"API, from {request.remote or 'unknown'}")

            async def done() -> ControlStatus:
                await self._store.change_controls(change)
                return await self._store.control_status()

            return await _answer(done)
        except (msgspec.MsgspecError, ValueError) as error:
            return problem(400, "Bad Request", str(error))
        except Refused as error:
            return problem(409, "Conflict", str(error))


async def _answer(ask: Callable[[], Awaitable[ControlStatus]]) -> web.Response:
    try:
        return web.Response(body=msgspec.json.encode(await ask()), content_type="application/json")
    except (StoreUnavailable, PayloadError) as error:
        return problem(503, "Service Unavailable", str(error))
