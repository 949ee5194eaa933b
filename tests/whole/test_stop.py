"""Stopping, in order and otherwise, under load: no answer is cut off, no pair is lost or counted twice.

What is promised to a client when the proxy is told to stop:

* A request of which a byte had come is answered, whole and right. So is one that had been sent before the stop, on a
  connection that was open to the client: accepted, or still with the kernel.
* The last answer on a connection says `Connection: close`, and the connection then ends without a reset.
* A connection between requests stays open for `LAST_CALL` seconds more. Then it ends without a byte, and a request
  that its client sent too late was never seen by any upstream: to send it again is safe.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from proxy.harness import client, hang, post, read_response, upstream
from servers import until
from whole.load import (
    Load,
    answer,
    busy,
    command,
    gone,
    nothing_was_lost,
    once,
    reading,
    services,
    settings,
    settled,
    under_load,
)

from shadowproxy.pairs import EmbeddedServer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_of_everything_under_load_loses_nothing(number: signal.Signals, tmp_path: Path) -> None:
    async with services() as (baseline, first, candidate, second):
        chosen = settings(tmp_path, first, second)
        with command(tmp_path, chosen, "run") as running:
            await running.ready("experiment")
            async with under_load(running.proxy) as load:
                await busy(load)
                if number == signal.SIGINT:
                    # As a terminal does it.
                    os.killpg(running.process.pid, number)
                else:
                    running.process.send_signal(number)
                assert await running.ended(within=3 * 8) == 0
            assert load.told_to_close >= 10
        async with reading(chosen) as read:
            verdict = await settled(read, lambda verdict: verdict.pairs >= len(load.answered))
        nothing_was_lost(load, baseline, candidate, verdict)


async def test_what_was_sent_before_the_stop_is_answered(valkey: EmbeddedServer, tmp_path: Path) -> None:
    """The process stands still while requests and the stop come: it finds them all at once, as a busy one does."""
    async with services() as (baseline, first, candidate, second):
        chosen = settings(tmp_path, first, second, redis=f'{{url: "{valkey.url}"}}')
        with command(tmp_path, chosen, "proxy") as running:
            await running.ready("proxy_admin")
            async with client(running.proxy) as (kept, asking), client(running.proxy) as (silent, _):
                asking.write(post(b'{"id": 0}', "/rank"))
                assert (await read_response(kept)).body == answer(0)
                os.kill(running.process.pid, signal.SIGSTOP)
                asking.write(post(b'{"id": 1}', "/rank"))
                async with client(running.proxy) as (fresh, writer):
                    writer.write(post(b'{"id": 2}', "/rank"))
                    running.process.send_signal(signal.SIGTERM)
                    os.kill(running.process.pid, signal.SIGCONT)
                    for number, reader in ((1, kept), (2, fresh)):
                        response = await read_response(reader)
                        assert (response.status, response.body) == (200, answer(number))
                        assert response.get(b"connection") == [b"close"]
                        assert await reader.read() == b""
                    assert await silent.read() == b""
            assert await running.ended(within=10) == 0
        assert baseline.seen == candidate.seen == once([0, 1, 2])
        async with reading(chosen) as read:
            account = (await read()).verdict.accounting
        assert account.balanced
        assert account.recorded == 3


async def test_what_outlives_the_grace_is_given_up_and_counted(valkey: EmbeddedServer, tmp_path: Path) -> None:
    grace = 1.0
    async with services() as (_, first, _, _), upstream(hang) as hung:
        chosen = settings(
            tmp_path,
            first,
            hung.url,
            candidate=f'{{url: "{hung.url}", deadline: 60s}}',
            proxy=f'{{listen: "127.0.0.1:0", admin: "127.0.0.1:0", grace: {grace}s}}',
            redis=f'{{url: "{valkey.url}"}}',
        )
        with command(tmp_path, chosen, "proxy") as running:
            await running.ready("proxy_admin")
            async with client(running.proxy) as (reader, writer):
                for number in (1, 2, 3):
                    writer.write(post(b'{"id": %d}' % number, "/rank"))
                    assert (await read_response(reader)).body == answer(number)
            await until(lambda: len(hung.requests) == 3)
            asked = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended(within=grace + 5) == 0
            # Not before its time, either: a copy that still comes back is a pair.
            assert time.monotonic() - asked >= grace
        async with reading(chosen) as read:
            account = (await read()).verdict.accounting
        assert account.dropped == {"proxy_stopped": 3}
        assert account.balanced
        assert (account.requests, account.eligible, account.recorded) == (3, 3, 0)


async def test_a_candidate_and_a_store_that_hang_do_not_hold_up_the_end(
    own_valkey: EmbeddedServer, tmp_path: Path
) -> None:
    async with services() as (_, first, _, _), upstream(hang) as hung:
        chosen = settings(
            tmp_path,
            first,
            hung.url,
            candidate=f'{{url: "{hung.url}", deadline: 60s}}',
            proxy='{listen: "127.0.0.1:0", admin: "127.0.0.1:0", grace: 1s}',
            redis=f'{{url: "{own_valkey.url}"}}',
        )
        with command(tmp_path, chosen, "proxy") as running:
            await running.ready("proxy_admin")
            assert own_valkey.pid is not None
            os.kill(own_valkey.pid, signal.SIGSTOP)
            try:
                async with client(running.proxy) as (reader, writer):
                    writer.write(post(b'{"id": 1}', "/rank"))
                    assert (await read_response(reader)).body == answer(1)
                await until(lambda: bool(hung.requests))
                running.process.send_signal(signal.SIGTERM)
                # Within what a supervisor with this grace allows before it kills.
                assert await running.ended(within=1 + 5) == 0
            finally:
                os.kill(own_valkey.pid, signal.SIGCONT)
            assert "Traceback" not in running.errors


async def test_the_supervisor_killed(tmp_path: Path) -> None:
    """Its parts end by themselves, in order; the next run takes over the store and goes on counting."""
    async with services() as (baseline, first, candidate, second):
        chosen = settings(tmp_path, first, second)
        loads: list[Load] = []
        with command(tmp_path, chosen, "run") as running:
            await running.ready("experiment")
            children = running.children()
            assert children.keys() == {"proxy", "compare", "serve", "valkey"}
            # The store goes on without the one that started it.
            del children["valkey"]
            async with under_load(running.proxy) as load:
                await busy(load)
                running.process.kill()
                assert await gone(list(children.values()), within=20)
            loads.append(load)
        with command(tmp_path, chosen, "run") as running:
            await running.ready("experiment")
            assert "adopted the Valkey" in running.errors
            async with under_load(running.proxy) as load:
                load.numbers = iter(range(10_000, 20_000))
                await busy(load)
                running.process.send_signal(signal.SIGTERM)
                assert await running.ended(within=20) == 0
            loads.append(load)
        both = Load(running.proxy)
        for load in loads:
            both.answered += load.answered
            both.broken += load.broken
            for kind, numbers in load.unanswered.items():
                both.unanswered[kind] += numbers
        async with reading(chosen) as read:
            verdict = await settled(read, lambda verdict: verdict.pairs >= len(both.answered))
        nothing_was_lost(both, baseline, candidate, verdict)


async def test_the_store_stopped_killed_and_back_under_load(tmp_path: Path) -> None:
    """No client notices, and the embedded server is started again by whoever started it."""
    async with services() as (baseline, first, candidate, second):
        chosen = settings(tmp_path, first, second)
        with command(tmp_path, chosen, "run") as running:
            await running.ready("experiment")
            valkey = running.children()["valkey"]
            async with under_load(running.proxy, kept=10, fresh=3) as load:
                await busy(load, 60)
                os.kill(valkey, signal.SIGSTOP)
                await busy(load, 60)
                os.kill(valkey, signal.SIGCONT)
                await busy(load, 40)
                os.kill(valkey, signal.SIGKILL)
                await until(lambda: running.children().get("valkey", valkey) != valkey, "another Valkey")
                await busy(load, 40)
                running.process.send_signal(signal.SIGTERM)
                assert await running.ended(within=25) == 0
        async with reading(chosen) as read:
            verdict = await settled(read, lambda verdict: verdict.pairs >= len(load.answered))
        nothing_was_lost(load, baseline, candidate, verdict)
