"""The candidate can do what it likes: clients get the baseline's status and bytes; the pair says what it did."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import pytest
from proxy.harness import (
    RawUpstream,
    Received,
    answering,
    ask,
    client,
    echo,
    get,
    hang,
    post,
    proxy,
    read_response,
    reset,
    sides,
    until,
    upstream,
)
from proxy.memory import MemoryRecorder

from shadowproxy.model import Outcome, Pair, Side


async def endless(
    self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while not writer.is_closing():
        writer.write(bytes(65536))
        self.bytes_seen += 65536
        await writer.drain()
    return False


CANDIDATES: dict[str, tuple[Any, Outcome]] = {
    "hung": (hang, Outcome.TIMEOUT),
    "resetting": (reset, Outcome.RESET),
    "garbage": (answering(b"\x00\xff\x01 nonsense\r\n\r\n", keep=False), Outcome.PROTOCOL),
    "endless head": (answering(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000), Outcome.PROTOCOL),
    "endless": (endless, Outcome.TIMEOUT),
    "truncated": (answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", keep=False), Outcome.RESET),
    "closing": (answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), Outcome.OK),
    "failing": (answering(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"), Outcome.OK),
}


@pytest.mark.parametrize("name", CANDIDATES)
async def test_no_candidate_changes_the_clients_answer(name: str) -> None:
    handler, outcome = CANDIDATES[name]
    async with upstream(echo) as baseline, upstream(handler) as candidate:
        async with proxy(baseline.url, {"url": candidate.url, "deadline": "150ms"}, capture="100kB") as running:
            async with client(running.address) as (reader, writer):
                for number in range(5):
                    body = b"%d" % number * 100
                    writer.write(post(body))
                    response = await read_response(reader)
                    assert response.status == 200
                    assert response.body == b"POST / HTTP/1.1\n" + body
                    assert response.get(b"x-one") == [b"1"]
            for pair in await running.recorded(5):
                assert sides(pair) == {Side.BASELINE: Outcome.OK, Side.CANDIDATE: outcome}
                assert len(pair.candidate.body) <= 100_000
                assert (pair.candidate.total < math.inf) is (outcome is Outcome.OK)
                assert bool(pair.candidate.detail) is (outcome is not Outcome.OK)
        assert sorted(running.observed) == sorted(
            [("baseline", Outcome.OK, pair.baseline.total) for pair in running.pairs]
            + [("candidate", outcome, pair.candidate.total) for pair in running.pairs]
        )


async def test_a_refusing_candidate_is_recorded_as_connect() -> None:
    async with upstream(echo) as gone:
        url = gone.url
    async with upstream(echo) as baseline, proxy(baseline.url, url) as running:
        assert (await ask(running.address, get())).status == 200
        pair = (await running.recorded(1))[0]
        assert sides(pair) == {Side.BASELINE: Outcome.OK, Side.CANDIDATE: Outcome.CONNECT}
        assert pair.candidate.detail == "connection refused"
        assert pair.candidate.ttfb == math.inf


async def test_over_the_in_flight_cap_copies_are_shed_and_recorded() -> None:
    async with (
        upstream(echo) as baseline,
        upstream(hang) as candidate,
        proxy(baseline.url, candidate.url, mirror={"max_in_flight": 3}) as running,
    ):
        for _ in range(8):
            assert (await ask(running.address, get())).status == 200
        pairs = await running.recorded(5)
        assert {pair.candidate.outcome for pair in pairs} == {Outcome.SHED}
        assert running.server.in_flight[Side.CANDIDATE] == 3
        candidate.release.set()
        assert len(await running.recorded(8)) == 8
        assert len(candidate.requests) == 3


async def test_the_replica_is_one_more_shadow() -> None:
    async with (
        upstream(echo) as baseline,
        upstream(hang) as candidate,
        upstream(echo) as replica,
        proxy(baseline.url, {"url": candidate.url, "deadline": "50ms"}, replica=replica.url + "/r") as running,
    ):
        assert (await ask(running.address, post(b"abc"))).status == 200
        pair = (await running.recorded(1))[0]
        assert pair.replica is not None
        assert pair.replica.body == b"POST /r/ HTTP/1.1\nabc"
        assert pair.candidate.outcome is Outcome.TIMEOUT
        assert replica.requests[0].get(b"x-shadow-request") == [b"1"]
        assert set(running.server.in_flight) == {Side.BASELINE, Side.CANDIDATE, Side.REPLICA}


async def test_bodies_beyond_the_capture_keep_size_and_digest() -> None:
    large = bytes(range(256)) * 1000
    response = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(large) + large)
    async with upstream(response) as one, proxy(one.url, one.url, capture=1000) as running:
        assert (await ask(running.address, post(b"x" * 3000))).body == large
        pair = (await running.recorded(1))[0]
        for exchange in (pair.baseline, pair.candidate):
            assert exchange.body == large[:1000]
            assert exchange.body_size == len(large)
            assert exchange.digest == hashlib.blake2b(large, digest_size=16).digest()
        assert pair.request.body == b"x" * 1000
        assert pair.request.body_size == 3000


async def test_a_chunked_request_is_copied_as_the_baseline_got_it() -> None:
    request = (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3;x\r\ndef\r\n0\r\nT: 1\r\n\r\n"
    )
    start = request[: request.index(b"\r\n\r\n") + 4]
    start = request[: request.index(b"\r\n\r\n") + 4]
    async with upstream(echo) as baseline, upstream(echo) as candidate, proxy(baseline.url, candidate.url) as running:
        assert (await ask(running.address, request)).body == b"POST / HTTP/1.1\nabcdef"
        assert (await running.recorded(1))[0].request.body == b"abcdef"
        assert baseline.requests[0].raw_body == candidate.requests[0].raw_body == b"6\r\nabcdef\r\n0\r\n\r\n"
        assert (await ask(running.address, start + b"0\r\n\r\n")).status == 200
        assert (await running.recorded(2))[1].request.body == b""


async def test_every_request_is_accounted_for() -> None:
    async with (
        upstream(echo) as one,
        proxy(
            one.url, one.url, mirror={"max_body": 10, "methods": ["GET", "POST"]}, recorder=MemoryRecorder(limit=2)
        ) as running,
    ):
        for request in (get(), post(b"a" * 10), get(), post(b"a" * 11), get().replace(b"GET", b"PUT")):
            assert (await ask(running.address, request)).status == 200
        await running.balanced()
        ledger = running.recorder.ledger
        assert ledger.skipped == {"request_too_large": 1, "method": 1}
        assert ledger.dropped == {"recorder_full": 1}
        assert (ledger.requests, ledger.eligible, ledger.recorded) == (5, 3, 2)


async def test_a_sampled_account_is_in_or_out_as_a_whole() -> None:
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url, mirror={"sample": 0.5, "sample_by": "header:x-account"}) as running,
    ):
        for number in range(40):
            for _ in range(2):
                await ask(running.address, get("/", f"X-Account: {number}"))
        await running.balanced()
        accounts = [pair.request.head.partition(b"X-Account: ")[2].split(b"\r\n")[0] for pair in running.pairs]
        assert all(accounts.count(account) == 2 for account in accounts)
        assert 0 < len(set(accounts)) < 40


async def test_started_is_the_time_of_the_head() -> None:
    async with upstream(echo) as one, proxy(one.url, one.url) as running:
        async with client(running.address) as (reader, writer):
            writer.write(post(b"abc")[:-1])
            await asyncio.sleep(0.05)
            await until(lambda: running.server.connections == 1)
            writer.write(b"c")
            await read_response(reader)
        pair = (await running.recorded(1))[0]
        assert pair.started > 1.5e9
        assert pair.baseline.total < 5


async def test_a_disabled_mirror_only_proxies() -> None:
    async with (
        upstream(echo) as baseline,
        upstream(echo) as candidate,
        proxy(baseline.url, candidate.url, mirror={"enabled": False}) as running,
    ):
        assert (await ask(running.address, get())).status == 200
        await running.balanced()
        assert running.recorder.ledger.skipped == {"disabled": 1}
        assert candidate.connections == 0


async def test_a_recorder_that_raises_does_not_reach_the_client() -> None:
    class Broken(MemoryRecorder):
        def offer(self, pair: Pair, guarded: Sequence[bytes] | None) -> bool:
            super().offer(pair, guarded)
            raise RuntimeError("broken")

    async with (
        upstream(echo) as baseline,
        upstream(echo) as candidate,
        proxy(baseline.url, candidate.url, recorder=Broken(), tolerate=(RuntimeError,)) as running,
        client(running.address) as (reader, writer),
    ):
        for _ in range(4):
            writer.write(get())
            assert (await read_response(reader)).status == 200
        await running.recorded(4)


async def test_a_slow_client_is_not_held_against_the_baseline() -> None:
    size = 64 * 1024 * 1024  # more than the kernel ever buffers on the way
    large = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    async with (
        upstream(large) as baseline,
        upstream(echo) as candidate,
        proxy({"url": baseline.url, "deadline": "200ms"}, candidate.url) as running,
        client(running.address) as (reader, writer),
    ):
        writer.write(get())
        await reader.readuntil(b"\r\n\r\n")
        await running.balanced()
        assert running.recorder.ledger.dropped == {"client_slow": 1}
        assert await reader.readexactly(size) == bytes(size)


async def test_a_client_that_takes_nothing_is_cut_after_the_idle_time() -> None:
    size = 16 * 1024 * 1024
    large = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    async with (
        upstream(large) as baseline,
        upstream(echo) as candidate,
        proxy(baseline.url, candidate.url, limits={"idle_timeout": 0.2}) as running,
        client(running.address) as (reader, writer),
    ):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(get())
        await until(lambda: baseline.requests)
        await until(lambda: running.server.connections == 0)
        assert (await running.recorded(1))[0].baseline.body_size == size
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(size + 1000)


async def test_idle_upstream_connections_are_bounded_in_number_and_time() -> None:
    async with upstream(echo) as one, upstream(echo) as candidate:
        side = {"url": one.url, "max_idle": 2, "idle_timeout": "100ms"}
        async with proxy(side, candidate.url) as running:
            await asyncio.gather(*(ask(running.address, get()) for _ in range(6)))
            await running.recorded(6)
            assert one.connections > 2
            await until(lambda: one.open <= 2)
            await until(lambda: one.open == 0)
            assert (await ask(running.address, get())).status == 200
