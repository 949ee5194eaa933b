"""A port that several workers listen on together, held by their parent, which never listens itself.

SO_REUSEPORT alone would let a second shadowproxy join in silently, each answering a part of the clients; and between
the death of one worker and the start of another the port would be anybody's.

The kernel spreads connections over the workers' sockets by a hash of their addresses. What waits in the accept queue of
a worker that dies is reset, and nothing can be done about it from outside; a worker that stops in order accepts first
what waits (see `ProxyServer.drain`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from typing import Final

from shadowproxy.config import Address
from shadowproxy.errors import StartError

_ATTEMPTS: Final = 16
"""To get hold of a free port that the kernel has named, for each of our addresses."""


def listen_error(listen: Address, error: OSError) -> StartError:
    """What to tell where the clients' address can't be had."""
    if error.errno == errno.EADDRINUSE:
        return StartError(
            f"port {listen.port} is in use: proxy.listen is {listen}; stop what listens there or choose another"
        )
    return StartError(f"can't listen on {listen} (proxy.listen): {error}")


@contextlib.contextmanager
def reserved(listen: Address) -> Iterator[Address]:
    """Hold the port, so that only sockets of this user with SO_REUSEPORT can listen on it. Yields the address, with the
    port that was found for port 0.

    Raises StartError where the address can't be had, such as for a port that anybody listens on already.
    """
    with contextlib.ExitStack() as held:
        try:
            port = _hold(listen, held)
        except OSError as error:
            raise listen_error(listen, error) from None
        yield Address(listen.host, port)


def _hold(listen: Address, held: contextlib.ExitStack) -> int:
    for attempt in range(1, _ATTEMPTS + 1):
        port = listen.port
        with contextlib.ExitStack() as holding:
            try:
                for family, address in _resolved(listen):
                    port = port or _free(family, address)
                    holding.enter_context(_reservation(family, address, port))
            except OSError as error:
                # Another process was quicker to take the port that was free.
                if listen.port or error.errno != errno.EADDRINUSE or attempt == _ATTEMPTS:
                    raise
            else:
                held.push(holding.pop_all())
                return port
    raise OSError(errno.EADDRINUSE, "no free port")


def _resolved(listen: Address) -> list[tuple[socket.AddressFamily, str]]:
    """Family and address of each interface that is meant, as `create_server` of asyncio finds them."""
    found = socket.getaddrinfo(listen.host or None, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found)
    return [(family, host) for family, host in addresses if _has(family)]


def _has(family: socket.AddressFamily) -> bool:
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _bound(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        # For what the last run left in TIME_WAIT; it lets nobody have a port on which somebody listens.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
    except BaseException:
        made.close()
        raise
    return made


def _free(family: socket.AddressFamily, host: str) -> int:
    with _bound(family, host, 0) as made:
        port: int = made.getsockname()[1]
        return port


def _reservation(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    """A socket bound to the port that takes no connection, and that only SO_REUSEPORT can be bound beside.

    To listen for an instant is what makes it exclusive: two sockets may be bound to one port with SO_REUSEADDR, but not
    where one listens. When it has stopped to, the kernel keeps the port for it (one that was asked for by its number),
    and the options that are set by then decide who may come beside it.
    """
    made = _bound(family, host, port)
    try:
        made.listen()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        made.shutdown(socket.SHUT_RD)
    except BaseException:
        made.close()
        raise
    return made
