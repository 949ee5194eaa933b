"""The small HTTP server that every process has: /healthz, /readyz, /metrics, and what else it is given."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping, Sequence

from aiohttp import web

from shadowproxy import metrics
from shadowproxy.config import Address
from shadowproxy.errors import StartError
from shadowproxy.serve.problems import problems

Readiness = Callable[[], Awaitable[Mapping[str, str]]]
"""By name of what is needed: empty if it is there, else what is wrong."""

Gather = Callable[[], Awaitable[metrics.Registry]]
"""Asked at every scrape: what is to be exported."""


class AdminServer:
    """Serves probes and metrics of one process, and the routes it is given beside them."""

    def __init__(
        self, name: str, exported: metrics.Registry | Gather, ready: Readiness, routes: Sequence[web.RouteDef] = ()
    ) -> None:
        self._name = name
        self._exported = exported
        self._ready = ready
        app = web.Application(middlewares=[problems])
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                *routes,
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)

    async def start(self, listen: Address, setting: str) -> Address:
        """Listen, and return the bound address.

        Raises StartError if the address can't be had; `setting` is the key's path, to be named in it.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, listen.host or None, listen.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise StartError(listen_error(self._name, listen, setting, error)) from None
        host, port = self._runner.addresses[0][:2]
        return Address(host, port)

    async def stop(self) -> None:
        """Finish what is under way and close."""
        await self._runner.cleanup()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok", "process": self._name})

    async def _readyz(self, _request: web.Request) -> web.Response:
        checks = await self._ready()
        ready = not any(checks.values())
        return web.json_response(
            {"ready": ready, "checks": {name: wrong or "ok" for name, wrong in checks.items()}},
            status=200 if ready else 503,
        )

    async def _metrics(self, request: web.Request) -> web.Response:
        exported = self._exported
        registry = exported if isinstance(exported, metrics.Registry) else await exported()
        body, content_type = metrics.render(registry, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})


def listen_error(name: str, listen: Address, setting: str, error: OSError) -> str:
    """One line for an address that can't be listened on."""
    if error.errno == errno.EADDRINUSE:
        return f"{name}: {listen} is in use; end what listens there or change {setting}"
    return f"{name}: can't listen on {listen} ({error.strerror or error}); change {setting}"
