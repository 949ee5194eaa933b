"""Makes connections to one upstream: which addresses its host has, which of them work, and TLS where the URL is https.

The host is looked up again in the background; a client waits for a look-up only where no answer is known at all, and an
answer is kept for as long as no better one comes. New connections go to the addresses in turn. One that refuses or
doesn't answer is put aside and the next is tried, all within `connect_timeout`; whether it has come back is tried in
the background, never with a client's request. Where all addresses are put aside, all are tried: this fails open.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from shadowproxy.certificates import Contexts
from shadowproxy.config import Upstream
from shadowproxy.model import Side
from shadowproxy.proxy.addresses import Addresses, Endpoint, is_literal
from shadowproxy.proxy.framing import MalformedResponseError
from shadowproxy.proxy.health import ask_health
from shadowproxy.proxy.tls import Inner, TlsLayer
from shadowproxy.tasks import Tasks

log = logging.getLogger(__name__)

_COMPLAIN_EVERY = 60.0
_LOOKUP, _HEALTH = "look up", "health"
_UNRESOLVED = "the host name can't be resolved"

P = TypeVar("P", bound=Inner)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and a port to its addresses, as text. Raises OSError or UnicodeError."""


class NoConnectionError(Exception):
    """No connection could be made; the message says why, in the system's words and without addresses."""


async def system_resolver(host: str, port: int) -> Sequence[str]:
    """All A and AAAA addresses, by getaddrinfo in a thread."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [_scoped(sockaddr) for *_, sockaddr in found]


def _scoped(sockaddr: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    address = str(sockaddr[0])
    return f"{address}%{sockaddr[3]}" if len(sockaddr) == 4 and sockaddr[3] and "%" not in address else address


class Connector:
    """Opens connections to one upstream. `contexts` is needed where its URL is https."""

    def __init__(
        self,
        side: Side,
        upstream: Upstream,
        contexts: Contexts | None,
        *,
        loop: asyncio.AbstractEventLoop,
        tasks: Tasks,
        resolve: Resolve = system_resolver,
    ) -> None:
        parts = urlsplit(upstream.url)
        self.side = side
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if parts.scheme == "https" else 80)
        self.authority = parts.netloc.encode("ascii") if parts.netloc.isascii() else parts.netloc.encode("idna")
        self.timeout = upstream.connect_timeout
        self.left: Callable[[str], None] = _ignore
        """Told of an address that is not to be used any more: gone from the DNS, or put aside while others are good."""
        self._contexts = contexts
        self._server_name = upstream.tls.server_name or self.host
        self._latest: tuple[ssl.SSLContext, TlsLayer] | None = None
        """The newest connection and its context: its session may be resumed."""
        self._complained = -_COMPLAIN_EVERY
        self._loop = loop
        self._tasks = tasks
        self._resolve = resolve
        self._resolve_every = upstream.resolve_every
        self._health = upstream.health
        self._addresses = Addresses()
        self._literal = is_literal(self.host)
        if self._literal:
            self._addresses.update([self.host])
        self.failed_lookups = 0
        self._unresolved = False
        self._lookup: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._timers: dict[object, asyncio.TimerHandle] = {}
        self._closed = False

    # What a pool asks for

    def start(self) -> None:
        """Begin to look up the host, and to check health where that is configured."""
        if not self._literal and not self._addresses:
            self._look_up()
        if self._health.path is not None:
            self._later(_HEALTH, 0.0, self._check_health)

    async def connect(self, make: Callable[[], P]) -> P:
        """A protocol made by `make` on a new connection, its handshake done. Raises NoConnectionError."""
        until = self._loop.time() + self.timeout
        reason = f"no connection within {self.timeout:g} s"
        if not self._addresses:
            await self._first_lookup(until)
        order = self._addresses.order()
        good = sum(endpoint.good for endpoint in order)
        for at, endpoint in enumerate(order):
            left = until - self._loop.time()
            if left <= 0:
                break
            try:
                # The good ones share the time; what is put aside is tried with what they leave.
                async with asyncio.timeout(left / max(1, good - at)):
                    made = await self._open(endpoint, make)
            except TimeoutError:
                reason = f"no connection within {self.timeout:g} s"
            except (OSError, ValueError) as error:
                reason = why(error)
            else:
                self._works(endpoint)
                return made
            self._fails(endpoint, reason)
        raise NoConnectionError(reason)

    async def probe(self) -> str:
        """Empty if a connection can be made, else why not."""
        try:
            made = await self.connect(_Probe)
        except NoConnectionError as error:
            return str(error)
        made.close()
        return ""

    @property
    def known(self) -> tuple[int, int]:
        """(addresses, those of them that are not put aside)."""
        return len(self._addresses), self._addresses.good

    def close(self) -> None:
        """End what runs in the background."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in tuple(self._background):
            task.cancel()

    def __repr__(self) -> str:
        return f"<Connector {self.side} {self.host}:{self.port} {self._addresses}>"

    # One connection

    async def _open(self, endpoint: Endpoint, make: Callable[[], P]) -> P:
        if self._contexts is None:
            factory: Any = make  # the types of asyncio ask for a subclass of its Protocol
            plain: P
            _, plain = await self._loop.create_connection(factory, endpoint.address, self.port)
            return plain
        return await self._open_tls(endpoint, make(), self._contexts.current)

    async def _open_tls(self, endpoint: Endpoint, inner: P, context: ssl.SSLContext) -> P:
        done: asyncio.Future[None] = self._loop.create_future()

        def opened(_: TlsLayer) -> None:
            if not done.done():
                done.set_result(None)

        def failed(_: TlsLayer, error: Exception) -> None:
            if not done.done():
                done.set_exception(error)
            elif not done.cancelled() and done.exception() is None:
                self._complain(error)

        latest = self._latest
        layer = TlsLayer(
            self._loop,
            context,
            inner,
            server_name=self._server_name,
            session=latest[1].session if latest is not None and latest[0] is context else None,
            opened=opened,
            failed=failed,
        )
        made = False
        try:
            await self._loop.create_connection(lambda: layer, endpoint.address, self.port)
            made = True
            await done
        except BaseException:
            # Not to be told of as an exception that nobody fetched.
            if not done.cancel() and not done.cancelled():
                done.exception()
            if made:
                layer.abort()
            raise
        self._latest = (context, layer)
        return inner

    def _complain(self, error: Exception) -> None:
        """TLS broke on a connection that is in use: with TLS 1.3, how a refusal of our certificate shows."""
        now = self._loop.time()
        if now - self._complained > _COMPLAIN_EVERY:
            self._complained = now
            log.warning("%s: an open connection broke off: %s", self.side.value, why(error))

    # Addresses

    async def _first_lookup(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await asyncio.shield(self._look_up())
        except TimeoutError:
            raise NoConnectionError(f"the host name was not resolved within {self.timeout:g} s") from None
        if not self._addresses:
            raise NoConnectionError(_UNRESOLVED)

    def _look_up(self) -> asyncio.Task[None]:
        if self._lookup is None:
            self._lookup = self._run(self._one_lookup(), "look up")
        return self._lookup

    async def _one_lookup(self) -> None:
        try:
            found = await self._resolve(self.host, self.port)
            if not found:
                raise OSError(_UNRESOLVED)
            gone = self._addresses.update(found)
        except (OSError, ValueError) as error:
            self.failed_lookups += 1
            if not self._unresolved:
                log.warning(
                    "%s: %s can't be resolved: %s; %s",
                    self.side.value,
                    self.host,
                    error,
                    "its last addresses stay in use" if self._addresses else "requests to it fail until it can",
                )
            self._unresolved = True
        else:
            self._unresolved = False
            for endpoint in gone:
                self._cancel(endpoint)
                self.left(endpoint.address)
        finally:
            self._lookup = None
            self._later(_LOOKUP, self._resolve_every, self._look_up)

    def _fails(self, endpoint: Endpoint, reason: str) -> None:
        """No connection could be made to `endpoint`. The only one there is, is never left alone."""
        if endpoint.resting or endpoint not in self._addresses or len(self._addresses) == 1:
            return
        endpoint.resting = True
        endpoint.failures += 1
        log.warning("%s: %s is put aside: %s", self.side.value, endpoint.address, reason)
        self._leave(endpoint)
        self._later(endpoint, endpoint.rest, lambda: self._run(self._try_again(endpoint), "try again"))

    def _works(self, endpoint: Endpoint) -> None:
        """A connection was made to `endpoint`."""
        if endpoint.resting:
            log.info("%s: %s is back", self.side.value, endpoint.address)
            self._cancel(endpoint)
        endpoint.resting = False
        endpoint.failures = 0

    def _leave(self, endpoint: Endpoint) -> None:
        """What is open to `endpoint` is given up, but only for something better."""
        if self._addresses.others(endpoint):
            self.left(endpoint.address)

    async def _try_again(self, endpoint: Endpoint) -> None:
        if endpoint not in self._addresses:
            return
        try:
            async with asyncio.timeout(self.timeout):
                made = await self._open(endpoint, _Probe)
        except (OSError, ValueError):
            endpoint.failures += 1
            self._later(endpoint, endpoint.rest, lambda: self._run(self._try_again(endpoint), "try again"))
        else:
            made.close()
            self._works(endpoint)

    # Health

    def _check_health(self) -> None:
        self._run(self._check_all(), "health")

    async def _check_all(self) -> None:
        try:
            if not self._addresses:
                await self._look_up()
            await asyncio.gather(*map(self._check, self._addresses))
        finally:
            self._later(_HEALTH, self._health.every, self._check_health)

    async def _check(self, endpoint: Endpoint) -> None:
        try:
            async with asyncio.timeout(self._health.timeout):
                wrong = await ask_health(
                    lambda make: self._open(endpoint, make), self._health.path or "/", self.authority
                )
        except TimeoutError:
            wrong = f"no answer within {self._health.timeout:g} s"
        except MalformedResponseError as error:
            wrong = str(error)
        except (OSError, ValueError) as error:
            wrong = why(error)
        if not wrong:
            if endpoint.ill:
                log.info("%s: %s is healthy again", self.side.value, endpoint.address)
            endpoint.ill, endpoint.ill_checks = False, 0
            self._works(endpoint)
            return
        endpoint.ill_checks += 1
        if endpoint.ill_checks >= self._health.failures and not endpoint.ill:
            endpoint.ill = True
            log.warning("%s: %s is unhealthy: %s", self.side.value, endpoint.address, wrong)
            self._leave(endpoint)

    # What runs in the background

    def _run(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        task = self._tasks.start(work, name=f"{what} ({self.side.value})")
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def _later(self, key: object, delay: float, act: Callable[[], object]) -> None:
        """Let `act` be called after `delay` seconds; one timer for each `key`."""
        self._cancel(key)
        if not self._closed:
            self._timers[key] = self._loop.call_later(delay, self._due, key, act)

    def _due(self, key: object, act: Callable[[], object]) -> None:
        del self._timers[key]
        act()

    def _cancel(self, key: object) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()


class _Probe(asyncio.Protocol):
    """A connection that is only made."""

    _transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def _ignore(_: str) -> None:
    """What nobody listens to."""


def why(error: Exception) -> str:
    """What went wrong, in the system's words and without addresses.

    >>> import errno
    >>> why(OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"))
    'connection refused'
    """
    if isinstance(error, socket.gaierror):
        return _UNRESOLVED
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with it: {(error.reason or str(error)).replace('_', ' ').lower()}"
    if not isinstance(error, OSError) or error.errno is None:
        # Several addresses that all failed are told in one error without a number of its own.
        number = re.search(r"\[Errno ([0-9]+)\]", str(error))
        return os.strerror(int(number[1])).lower() if number is not None else str(error)
    return os.strerror(error.errno).lower()
