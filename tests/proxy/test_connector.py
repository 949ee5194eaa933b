"""Upstreams with several addresses: 127.0.0.1, 127.0.0.2 and 127.0.0.3 are real ones on any Linux machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy.harness import (
    RawUpstream,
    Received,
    Running,
    answering,
    ask,
    client,
    echo,
    get,
    proxy,
    read_response,
    until,
    upstream,
)
from proxy.secure import Authority, served

from shadowproxy.model import Outcome, Side
from shadowproxy.proxy import addresses
from shadowproxy.proxy.addresses import Addresses, Endpoint

A, B, C = "127.0.0.1", "127.0.0.2", "127.0.0.3"


class Names:
    """A resolver that says what the test wants. `models` is the only name."""

    def __init__(self, *known: str) -> None:
        self.known: Sequence[str] = known
        self.asked = 0
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked += 1
        await self.free.wait()
        if host != "models" or not self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return list(self.known)


@contextlib.asynccontextmanager
async def replicas(*hosts: str, handlers: dict[str, Any] | None = None) -> AsyncIterator[list[RawUpstream]]:
    """An upstream at each of `hosts`, all on one port."""
    async with contextlib.AsyncExitStack() as stack:
        made: list[RawUpstream] = []
        for host in hosts:
            port = made[0].port if made else 0
            handler = (handlers or {}).get(host, whoami)
            made.append(await stack.enter_async_context(upstream(handler, host=host, port=port)))
        yield made


async def whoami(
    self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n" + self.host.encode())
    return True


async def free_port() -> int:
    async with upstream(echo) as one:
        return one.port


def models(port: int, **settings: Any) -> dict[str, Any]:
    return {"url": f"http://models:{port}", "max_idle": 0, **settings}


ELSEWHERE = {"enabled": False}
"""Only the baseline is of interest."""


async def answered(running: Running, times: int) -> Counter[bytes]:
    """Who answered; all must have."""
    bodies: Counter[bytes] = Counter()
    for _ in range(times):
        response = await ask(running.address, get())
        assert response.status == 200, response.body
        bodies[response.body] += 1
    return bodies


async def test_new_connections_go_to_all_addresses_in_turn() -> None:
    async with (
        replicas(A, B, C) as (one, _, _),
        proxy(models(one.port), one.url, resolve=Names(A, B, C), mirror=ELSEWHERE) as running,
    ):
        assert await answered(running, 9) == {A.encode(): 3, B.encode(): 3, C.encode(): 3}
        assert one.requests[0].get(b"host") == [f"models:{one.port}".encode()]
        assert running.server.addresses[Side.BASELINE] == (3, 3)


async def test_a_dead_address_of_two_costs_no_client_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        replicas(A) as (one,),
        proxy(models(one.port), one.url, resolve=Names(A, B), mirror=ELSEWHERE) as running,
    ):
        assert await answered(running, 10) == {A.encode(): 10}
        assert running.server.addresses[Side.BASELINE] == (2, 1)
        assert caplog.text.count("127.0.0.2 is put aside: connection refused") == 1


async def test_an_address_that_is_silent_leaves_time_for_the_next() -> None:
    with socket.socket() as silent:
        silent.bind((B, 0))
        silent.listen(0)
        port = silent.getsockname()[1]
        # A queue that is full: what else comes is not answered, as if a firewall ate it.
        with contextlib.ExitStack() as stack:
            for _ in range(2):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((B, port))
            async with (
                upstream(whoami, host=A, port=port) as one,
                proxy(models(port, connect_timeout="500ms"), one.url, resolve=Names(B, A), mirror=ELSEWHERE) as running,
            ):
                assert await answered(running, 4) == {A.encode(): 4}
                assert running.server.addresses[Side.BASELINE] == (2, 1)


async def test_an_address_that_comes_back_is_found_without_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "FIRST_REST", 0.05)
    async with (
        replicas(A) as (one,),
        proxy(models(one.port), one.url, resolve=Names(A, B), mirror=ELSEWHERE) as running,
    ):
        await answered(running, 2)
        assert running.server.addresses[Side.BASELINE] == (2, 1)
        async with upstream(whoami, host=B, port=one.port) as back:
            await until(lambda: running.server.addresses[Side.BASELINE] == (2, 2))
            assert not back.requests
            assert await answered(running, 4) == {A.encode(): 2, B.encode(): 2}


async def test_where_all_addresses_are_dead_all_are_tried_each_time(caplog: pytest.LogCaptureFixture) -> None:
    port = await free_port()
    async with (
        upstream(echo) as candidate,
        proxy(models(port), candidate.url, resolve=Names(A, B)) as running,
    ):
        for _ in range(3):
            response = await ask(running.address, get())
            assert response.status == 502
            assert json.loads(response.body)["detail"] == "baseline: connection refused"
        assert running.server.addresses[Side.BASELINE] == (2, 0)
        # Resting for a while yet; a request finds it all the same.
        async with upstream(whoami, host=B, port=port):
            assert await answered(running, 2) == {B.encode(): 2}
        pairs = await running.recorded(5)
        assert Counter(pair.baseline.outcome for pair in pairs) == {Outcome.CONNECT: 3, Outcome.OK: 2}
        assert caplog.text.count("is put aside") == 2


async def test_a_change_of_the_addresses_is_followed_and_what_is_idle_is_closed() -> None:
    names = Names(A)
    async with (
        replicas(A, B) as (one, two),
        proxy(models(one.port, max_idle=8, resolve_every="50ms"), one.url, resolve=names, mirror=ELSEWHERE) as running,
    ):
        assert await answered(running, 2) == {A.encode(): 2}
        assert (one.connections, one.open) == (1, 1)
        names.known = [B]
        await until(lambda: not one.open)
        assert await answered(running, 2) == {B.encode(): 2}
        assert two.open == 1


async def test_a_busy_connection_to_an_address_that_is_gone_ends_after_its_answer() -> None:
    async def later(self: RawUpstream, request: Received, reader: Any, writer: asyncio.StreamWriter) -> bool:
        await self.release.wait()
        return await whoami(self, request, reader, writer)

    names = Names(A)
    async with (
        replicas(A, B, handlers={A: later}) as (one, _),
        proxy(models(one.port, max_idle=8, resolve_every="50ms"), one.url, resolve=names, mirror=ELSEWHERE) as running,
    ):
        async with client(running.address) as (reader, writer):
            writer.write(get())
            await until(lambda: one.requests)
            names.known = [B]
            asked = names.asked
            await until(lambda: names.asked > asked + 1)
            assert one.open == 1
            one.release.set()
            assert (await read_response(reader)).body == A.encode()
        await until(lambda: not one.open)
        assert await answered(running, 2) == {B.encode(): 2}


async def test_addresses_stay_in_use_while_the_name_can_not_be_resolved(caplog: pytest.LogCaptureFixture) -> None:
    names = Names(A, B)
    async with (
        replicas(A, B) as (one, _),
        proxy(models(one.port, resolve_every="20ms"), one.url, resolve=names, mirror=ELSEWHERE) as running,
    ):
        await answered(running, 1)
        names.known = []
        await until(lambda: running.server.failed_lookups[Side.BASELINE] > 2)
        assert await answered(running, 4) == {A.encode(): 2, B.encode(): 2}
        assert caplog.text.count("models can't be resolved") == 1
        assert "its last addresses stay in use" in caplog.text


async def test_no_client_waits_for_a_look_up_while_an_answer_is_known() -> None:
    names = Names(A)
    async with (
        replicas(A) as (one,),
        proxy(models(one.port, resolve_every="20ms"), one.url, resolve=names, mirror=ELSEWHERE) as running,
    ):
        await answered(running, 1)
        names.free.clear()
        asked = names.asked
        await until(lambda: names.asked > asked)
        assert await answered(running, 3) == {A.encode(): 3}
        assert names.asked == asked + 1
        names.free.set()


async def test_a_first_look_up_is_waited_for_by_all_and_made_once() -> None:
    names = Names(A)
    names.free.clear()
    async with (
        replicas(A) as (one,),
        proxy(models(one.port), one.url, resolve=names, mirror=ELSEWHERE) as running,
    ):
        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(running.address, get())) for _ in range(3)]
            await until(lambda: running.server.in_flight[Side.BASELINE] == 3)
            names.free.set()
        assert [task.result().status for task in asking] == [200, 200, 200]
        assert names.asked == 1


async def test_a_name_that_nobody_knows_or_that_is_slow_is_502() -> None:
    names = Names()
    async with (
        upstream(echo) as candidate,
        proxy(models(1, connect_timeout="100ms"), candidate.url, resolve=names) as running,
    ):
        details = []
        for slow in (False, True):
            if slow:
                names.free.clear()
            response = await ask(running.address, get())
            assert response.status == 502
            details.append(json.loads(response.body)["detail"])
        assert details == [
            "baseline: the host name can't be resolved",
            "baseline: the host name was not resolved within 0.1 s",
        ]
        assert await running.server.probe() == {
            Side.BASELINE: "the host name was not resolved within 0.1 s",
            Side.CANDIDATE: "",
        }
        names.free.set()
        names.known = [A]
        await running.recorded(2)


async def test_a_real_look_up_finds_localhost() -> None:
    async with upstream(whoami) as one:
        url = one.url.replace("127.0.0.1", "localhost")
        async with proxy(url, url) as running:
            assert await answered(running, 2) == {A.encode(): 2}
            await running.recorded(2)


async def test_addresses_of_a_tls_upstream_are_each_held_to_the_name(tmp_path: Path) -> None:
    """One address with a certificate that is not the name's is like a dead one."""
    authority = Authority(tmp_path)
    async with (
        upstream(whoami, tls=served(authority.issue("good", "models"))) as good,
        upstream(whoami, tls=served(authority.issue("bad", "elsewhere")), host=B, port=good.port) as bad,
        proxy(
            {"url": f"https://models:{good.port}", "max_idle": 0, "tls": {"ca": authority.file}},
            good.url,
            resolve=Names(A, B),
            mirror=ELSEWHERE,
        ) as running,
    ):
        assert await answered(running, 6) == {A.encode(): 6}
        assert not bad.requests
        assert running.server.addresses[Side.BASELINE] == (2, 1)


# Health


class Patient:
    """Answers health checks as the test wants, and anything else always."""

    def __init__(self) -> None:
        self.status = 200
        self.checks: list[Received] = []

    async def __call__(
        self, one: RawUpstream, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        if request.line == b"GET /healthz?deep HTTP/1.1":
            self.checks.append(request)
            writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 %d Any\r\nContent-Length: 0\r\n\r\n" % self.status)
            return False
        return await whoami(one, request, reader, writer)


HEALTH = {"path": "/healthz?deep", "every": "20ms", "timeout": "5s", "failures": 2}


async def test_an_unhealthy_address_gets_no_connections_until_it_is_healthy_again() -> None:
    first, second = Patient(), Patient()
    async with (
        replicas(A, B, handlers={A: first, B: second}) as (one, _),
        proxy(models(one.port, health=HEALTH, max_idle=8), one.url, resolve=Names(A, B), mirror=ELSEWHERE) as running,
    ):
        await until(lambda: first.checks and second.checks)
        assert first.checks[0].get(b"host") == [f"models:{one.port}".encode()]
        second.status = 503
        await until(lambda: running.server.addresses[Side.BASELINE] == (2, 1))
        assert len(second.checks) >= 2
        assert await answered(running, 4) == {A.encode(): 4}
        # Where none is healthy, all are used.
        first.status = 500
        await until(lambda: running.server.addresses[Side.BASELINE] == (2, 0))
        assert (await answered(running, 4)).total() == 4
        first.status = second.status = 399
        await until(lambda: running.server.addresses[Side.BASELINE] == (2, 2))


async def test_what_is_idle_at_an_address_that_becomes_unhealthy_is_closed() -> None:
    first, second = Patient(), Patient()
    async with (
        replicas(A, B, handlers={A: first, B: second}) as (one, two),
        proxy(models(one.port, health=HEALTH, max_idle=8), one.url, resolve=Names(A, B), mirror=ELSEWHERE) as running,
    ):
        # One connection to each, kept.
        async with client(running.address) as (a, first_client), client(running.address) as (b, second_client):
            first_client.write(get())
            second_client.write(get())
            bodies = {(await read_response(a)).body, (await read_response(b)).body}
            assert bodies == {A.encode(), B.encode()}
            second.status = 503
            await until(lambda: running.server.addresses[Side.BASELINE] == (2, 1))
            for _ in range(3):
                for reader, writer in ((a, first_client), (b, second_client)):
                    writer.write(get())
                    assert (await read_response(reader)).body == A.encode()
        assert len(two.requests) == len(second.checks) + 1


UNFIT = {
    "no http": answering(b"SSH-2.0-nothing\r\n\r\n"),
    "nothing": answering(b"", keep=False),
    "endless": answering(b"x" * (1 << 20)),
    "not found": answering(b"HTTP/1.1 404 No\r\n\r\n"),
}


@pytest.mark.parametrize("handler", UNFIT.values(), ids=UNFIT)
async def test_whatever_is_no_good_answer_is_no_health(handler: Any) -> None:
    async with (
        replicas(A, B, handlers={B: handler}) as (one, _),
        proxy(models(one.port, health=HEALTH), one.url, resolve=Names(A, B), mirror=ELSEWHERE) as running,
    ):
        await until(lambda: running.server.addresses[Side.BASELINE] == (2, 1))
        assert await answered(running, 3) == {A.encode(): 3}


async def test_health_is_not_asked_unless_it_is_configured() -> None:
    async with (
        replicas(A) as (one,),
        proxy(models(one.port), one.url, resolve=Names(A), mirror=ELSEWHERE) as running,
    ):
        await answered(running, 2)
        assert [request.line for request in one.requests] == [b"GET / HTTP/1.1"] * 2


# The order


@given(
    known=st.lists(st.integers(0, 5), min_size=1, max_size=6),
    aside=st.sets(st.integers(0, 5)),
    ill=st.sets(st.integers(0, 5)),
)
def test_every_address_is_in_every_order_and_the_good_ones_share_the_first_place(
    known: list[int], aside: set[int], ill: set[int]
) -> None:
    table = Addresses()
    table.update(f"10.0.0.{n}" for n in known)
    for endpoint in table:
        last = int(endpoint.address[-1])
        endpoint.resting, endpoint.ill = last in aside, last in ill
    good = {endpoint for endpoint in table if endpoint.good}
    first: Counter[Any] = Counter()
    for _ in range(len(good or list(table)) * 3):
        order = table.order()
        assert set(order) == set(table)
        assert len(order) == len(table)
        assert set(order[: len(good)]) == good
        first[order[0]] += 1
    assert set(first.values()) == {3}
    assert table.good == len(good)


def test_an_update_keeps_the_state_of_what_stays_and_forgets_the_rest() -> None:
    table = Addresses()
    assert table.update([A, B, A]) == []
    kept, gone = table
    kept.failures, kept.resting = 3, True
    assert table.update([C, A]) == [gone]
    assert [(one.address, one.failures) for one in table] == [(C, 0), (A, 3)]
    assert gone not in table
    table.update([A, B])
    assert gone not in table  # the same address, and known anew
    assert table.others(kept)


def test_rests_grow_to_a_bound() -> None:
    endpoint = Endpoint(A)
    rests = []
    for endpoint.failures in range(1, 40):
        rests.append(endpoint.rest)
    assert rests[:6] == [1, 2, 4, 8, 16, 30]
    assert set(rests[6:]) == {30}
