"""A port that is held for workers: they get it, nobody else does."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from shadowproxy.config import Address
from shadowproxy.errors import StartError
from shadowproxy.proxy.reserve import reserved

ANYWHERE = Address("127.0.0.1", 0)


def listener(address: Address, *, shared: bool) -> socket.socket:
    """As a server makes it; raises OSError where the port can't be had."""
    made = socket.socket()
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
        made.bind(address)
        made.listen()
    except BaseException:
        made.close()
        raise
    return made


def test_the_workers_get_every_connection_and_a_stranger_none() -> None:
    with reserved(ANYWHERE) as address, ExitStack() as held:
        assert address.port
        workers = [held.enter_context(listener(address, shared=True)) for _ in range(2)]
        with pytest.raises(OSError, match="in use"):
            listener(address, shared=False)
        clients = [held.enter_context(socket.create_connection(address)) for _ in range(100)]
        accepted = [0, 0]
        for at, worker in enumerate(workers):
            worker.setblocking(False)
            while True:
                try:
                    held.enter_context(worker.accept()[0])
                except BlockingIOError:
                    break
                accepted[at] += 1
        # One that reached the socket of the parent would be in neither.
        assert sum(accepted) == len(clients)
        assert min(accepted) > 0


def test_the_port_is_held_while_no_worker_listens() -> None:
    with reserved(ANYWHERE) as address:
        for _ in range(2):
            with pytest.raises(OSError, match="in use"):
                listener(address, shared=False)
            with pytest.raises(StartError, match="in use"), reserved(address):
                pytest.fail("reserved twice")
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            listener(address, shared=True).close()
    listener(address, shared=False).close()


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_on_which_somebody_listens_is_in_use(shared: bool) -> None:
    with (
        listener(ANYWHERE, shared=shared) as taken,
        pytest.raises(StartError, match=r"port [0-9]+ is in use: proxy\.listen is 127\.0\.0\.1:[0-9]+; stop what"),
        reserved(Address(*taken.getsockname())),
    ):
        pytest.fail("reserved what is taken")


def test_a_port_is_had_again_while_the_connections_of_the_last_run_end() -> None:
    with ExitStack() as last:
        with reserved(ANYWHERE) as address, listener(address, shared=True) as worker:
            client = socket.create_connection(address)
            # Who closes first keeps the port in TIME_WAIT.
            worker.accept()[0].close()
            client.close()
            # And a worker whose parent is gone still answers this one.
            last.enter_context(socket.create_connection(address))
            last.enter_context(worker.accept()[0])
        with reserved(address) as again, listener(again, shared=True):
            assert again == address


def test_every_interface_has_the_same_port() -> None:
    with reserved(Address("", 0)) as address, listener(address, shared=True):
        assert address.port
        if socket.has_ipv6:
            with socket.socket(socket.AF_INET6) as sock:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                with pytest.raises(OSError, match="in use"):
                    sock.bind(("::", address.port))


def test_an_address_that_is_not_ours_is_named() -> None:
    with (
        pytest.raises(StartError, match=r"can't listen on 192\.0\.2\.1:0 \(proxy\.listen\)"),
        reserved(Address("192.0.2.1", 0)),
    ):
        pytest.fail("reserved what is not ours")
