"""The small HTTP server that every process has: /healthz, /readyz, /metrics, and what else it is given."""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from shadowproxy import metrics
from shadowproxy.certificates import Contexts
from shadowproxy.config import Address
from shadowproxy.errors import StartError
from shadowproxy.serve.connections import Connections
from shadowproxy.serve.problems import problems

Readiness = Callable[[], Awaitable[Mapping[str, str]]]
"""By name of what is needed: empty if it is there, else what is wrong."""

Gather = Callable[[], Awaitable[metrics.Registry]]
"""Asked at every scrape: what is to be exported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What stands between the network and the endpoints."""

    middleware: Sequence[Callable[..., Awaitable[web.StreamResponse]]] = ()
    """Outermost first."""
    prepare: Sequence[Callable[[web.Request, web.StreamResponse], Awaitable[None]]] = ()
    """Called with an answer before its head is sent."""
    shutdown: Sequence[Callable[[], None]] = ()
    """Called when the server stops, to end what would go on for ever."""
    body: int = 1024**2
    """Bytes of a request's body at the most."""
    connections: int = 512
    """At once; one more is closed."""
    contexts: Contexts | None = None
    """TLS; None: plain HTTP."""


_IDLE = 60.0
"""Seconds in which the whole head of a request must be here, of the first and of each that follows on a connection."""
_HANDSHAKE = 10.0


class _Malformed(logging.Filter):
    """Leaves out of the log what is no HTTP: whoever can connect could fill it with that."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is logged."""
        return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


_MALFORMED = _Malformed()


class AdminServer:
    """Serves probes and metrics of one process, and the routes it is given beside them."""

    def __init__(
        self,
        name: str,
        exported: metrics.Registry | Gather,
        ready: Readiness,
        routes: Sequence[web.RouteDef] = (),
        front: Front = Front(),
    ) -> None:
        self._name = name
        self._exported = exported
        self._ready = ready
        self._front = front
        app = web.Application(middlewares=[*front.middleware, problems], client_max_size=front.body)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                *routes,
            ]
        )
        app.on_response_prepare.extend(front.prepare)
        app.on_shutdown.append(self._end)
        self._app = app
        heard = logging.getLogger(f"{__name__}.http")
        heard.addFilter(_MALFORMED)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=2.0, keepalive_timeout=_IDLE, logger=heard
        )
        self._server: asyncio.Server | None = None

    @property
    def served(self) -> list[tuple[str, str]]:
        """(method, path) of all that is served; of GET the HEAD beside it is not told."""
        return [
            (route.method, route.resource.canonical)
            for route in self._app.router.routes()
            if route.resource is not None and route.method != "HEAD"
        ]

    async def start(self, listen: Address, setting: str) -> Address:
        """Listen, and return the bound address.

        Raises StartError if the address can't be had; `setting` is the key's path, to be named in it.
        """
        await self._runner.setup()
        if self._runner.server is None:
            raise StartError(f"{self._name}: the HTTP server was stopped before it was started")
        secure = None if self._front.contexts is None else _newest(self._front.contexts)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                Connections(self._runner.server, self._front.connections),
                listen.host or None,
                listen.port,
                ssl=secure,
                ssl_handshake_timeout=None if secure is None else _HANDSHAKE,
            )
        except OSError as error:
            await self._runner.cleanup()
            raise StartError(listen_error(self._name, listen, setting, error)) from None
        host, port = self._server.sockets[0].getsockname()[:2]
        return Address(host, port)

    async def stop(self) -> None:
        """Finish what is under way and close."""
        if self._server is not None:
            self._server.close()
        await self._runner.cleanup()

    async def _end(self, _app: web.Application) -> None:
        for end in self._front.shutdown:
            end()

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


def _newest(contexts: Contexts) -> ssl.SSLContext:
    """A context that has each connection go on with the newest, so that new files need no new listener."""

    def choose(connection: ssl.SSLObject, _name: str | None, _listening: ssl.SSLContext) -> None:
        connection.context = contexts.current

    listening = contexts.current
    listening.sni_callback = choose
    return listening


def listen_error(name: str, listen: Address, setting: str, error: OSError) -> str:
    """One line for an address that can't be listened on."""
    if error.errno == errno.EADDRINUSE:
        return f"{name}: {listen} is in use; end what listens there or change {setting}"
    return f"{name}: can't listen on {listen} ({error.strerror or error}); change {setting}"
