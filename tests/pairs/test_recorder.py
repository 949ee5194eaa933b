"""The recorder with real servers that come late, hang, die and lose replies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pairs.rig import Rig, entries_of, names_of, numbered
from pairs.samples import pair
from servers import debian_redis, kill_and_restart, relay_to, unique, until

from shadowproxy.errors import PayloadError, StoreUnavailable
from shadowproxy.model import Accounting, Exchange, Outcome, Pair
from shadowproxy.pairs import EmbeddedServer, Store, codec

NOWHERE = "redis://127.0.0.1:1"


@pytest.fixture
async def store(valkey: EmbeddedServer) -> AsyncIterator[Store]:
    async with await Store.open(valkey.url, unique("recorder"), max_entries=10_000) as opened:
        yield opened


@pytest.fixture(params=[True, False], ids=["at once", "in a thread"], autouse=True)
def at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(Rig, "at_once", request.param)
    return bool(request.param)


async def test_pairs_arrive_in_order_in_batches_and_are_accounted_for(store: Store) -> None:
    rig = Rig(store, batch=100)
    rig.recorder.start()
    rig.offer(*numbered(250))
    rig.ledger.skip("method")
    await rig.finish()
    entries = await entries_of(store)
    assert [entry.pairs for entry in entries] == [100, 100, 50]
    assert [found.id for entry in entries for found in codec.decode(entry.payload)] == numbered(250)
    assert rig.ledger.snapshot() == Accounting(requests=251, eligible=250, recorded=250, skipped={"method": 1})
    assert (await store.snapshot()).accounting == rig.ledger.snapshot()


async def test_a_lone_pair_does_not_wait_for_company(store: Store) -> None:
    rig = Rig(store)
    rig.recorder.start()
    rig.offer("lone")
    assert (await store.read("reader", 1, 20))[0].pairs == 1
    await until(lambda: rig.ledger.recorded == 1)
    rig.offer("second")
    assert (await store.read("reader", 1, 20))[0].pairs == 1
    await rig.finish()


async def test_a_full_batch_does_not_linger(store: Store) -> None:
    rig = Rig(store, batch=10, linger=3600)
    rig.recorder.start()
    rig.offer(*numbered(4))
    await asyncio.sleep(0)
    rig.offer(*numbered(6))
    assert (await store.read("reader", 1, 20))[0].pairs == 10
    await until(lambda: rig.ledger.recorded == 10)
    rig.offer("rest")
    await rig.finish()
    assert rig.ledger.recorded == 11


async def test_an_entry_that_arrived_is_counted_in_the_account_beside_it(store: Store) -> None:
    rig = Rig(store, batch=10)
    rig.recorder.start()
    for round_number in range(1, 4):
        rig.offer(*numbered(10))
        await store.read("reader", 1, 20)
        assert (await store.snapshot()).accounting.recorded == 10 * round_number
    await rig.finish()


async def test_accounts_are_published_when_requests_are_only_skipped(store: Store) -> None:
    rig = Rig(store)
    rig.recorder.start()
    rig.ledger.skip("sample")

    async def published() -> bool:
        return (await store.snapshot()).accounting == Accounting(requests=1, skipped={"sample": 1})

    await until(published, "the account")
    rig.ledger.skip("sample")
    await rig.finish()
    assert (await store.snapshot()).accounting.requests == 2


async def test_processes_of_one_name_do_not_take_each_other_for_repetitions(store: Store) -> None:
    for name in ("before", "after"):
        rig = Rig(store)
        rig.recorder.start()
        rig.offer(name)
        await rig.finish()
    assert await names_of(store) == ["before", "after"]
    assert (await store.snapshot()).accounting.recorded == 2


async def test_batches_are_cut_where_pairs_are_large(store: Store) -> None:
    rig = Rig(store, batch=100)
    rig.recorder.start()
    rig.offer(*numbered(5), body=os.urandom(900_000))
    await rig.finish()
    assert [entry.pairs for entry in await entries_of(store)] == [2, 2, 1]


async def test_a_pair_without_a_form_in_bytes_is_dropped_alone(store: Store) -> None:
    rig = Rig(store)
    rig.offer("first", "lone surrogate \ud800", "last")
    rig.recorder.start()
    await rig.finish()
    assert await names_of(store) == ["first", "last"]
    rig.offer("late")
    assert rig.ledger.dropped == {"recorder_unencodable": 1, "recorder_shutdown": 1}


async def test_a_batch_of_nothing_but_such_pairs_is_not_written(store: Store) -> None:
    rig = Rig(store)
    rig.offer("\ud800")
    rig.recorder.start()
    await rig.finish()
    assert (await store.snapshot()).entries == 0


async def test_memory_is_bounded_and_the_newest_are_dropped() -> None:
    async with Store(NOWHERE, "e", max_entries=10) as store:
        rig = Rig(store, max_bytes=100_000)
        rig.recorder.start()
        rig.offer(*numbered(100), body=bytes(10_000))
        assert 80_000 < rig.recorder.waiting_bytes <= 100_000
        assert rig.taken == numbered(len(rig.taken))
        assert rig.recorder.waiting_pairs == len(rig.taken) == 100 - rig.ledger.dropped["recorder_full"]
        await rig.finish(grace=0.05)
        assert rig.ledger.dropped == {"recorder_full": 100 - len(rig.taken), "recorder_shutdown": len(rig.taken)}
        assert not rig.recorder.offer(pair("late"))


@given(st.lists(st.integers(0, 4000), max_size=40), st.integers(1, 40_000))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_bound_holds_for_any_sizes(sizes: list[int], bound: int) -> None:
    async with Store(NOWHERE, "e", max_entries=10) as store:
        rig = Rig(store, max_bytes=bound)
        for size in sizes:
            rig.offer("x", body=bytes(size))
            assert rig.recorder.waiting_bytes <= bound
        assert rig.recorder.waiting_pairs == len(rig.taken)
        await rig.finish(grace=0)


class Watched(Store):
    """A store that remembers when it was asked to append."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.attempts: list[float] = []

    async def append(self, producer: str, sequence: int, payload: bytes, pairs: int, account: Accounting) -> None:
        self.attempts.append(asyncio.get_running_loop().time())
        assert account.recorded == pairs * sequence
        await super().append(producer, sequence, payload, pairs, account)


async def test_a_batch_under_way_counts_towards_the_bound() -> None:
    async with Watched(NOWHERE, "e", max_entries=10) as store:
        rig = Rig(store, batch=4, max_bytes=100_000)
        rig.recorder.start()
        rig.offer(*numbered(4), body=bytes(10_000))
        await until(lambda: len(store.attempts) > 0)
        rig.offer(*numbered(20), body=bytes(10_000))
        assert 80_000 < rig.recorder.waiting_bytes <= 100_000
        assert rig.recorder.waiting_pairs == len(rig.taken) < 10
        await rig.finish(grace=0)


async def test_memory_is_free_again_once_delivered(store: Store) -> None:
    rig = Rig(store, max_bytes=50_000)
    rig.recorder.start()
    for _ in range(5):
        rig.offer(*numbered(4), body=bytes(10_000))
        await until(lambda: rig.recorder.waiting_pairs == 0)
        assert rig.recorder.waiting_bytes == 0
    await rig.finish()
    assert rig.ledger.snapshot() == Accounting(requests=20, eligible=20, recorded=20)


async def test_a_store_that_comes_late_gets_everything(own_valkey: EmbeddedServer) -> None:
    own_valkey.stop()
    socket = own_valkey.data_dir / "valkey.sock"
    async with Store(f"unix://{socket}", "late", max_entries=1000) as store:
        rig = Rig(store, batch=10)
        rig.recorder.start()
        rig.offer(*numbered(55))
        with pytest.raises(StoreUnavailable):
            await store.prepare()
        assert rig.ledger.recorded == 0
        own_valkey.start()
        await rig.finish()
        assert await names_of(store) == numbered(55)


async def test_every_lost_reply_is_made_up_for(valkey: EmbeddedServer) -> None:
    async with relay_to(valkey.url) as relay:
        store = Store(relay.url, unique("replies"), max_entries=1000)
        rig = Rig(store, batch=5)
        rig.recorder.start()
        for round_number in range(20):
            relay.lose_replies += round_number % 3
            rig.offer(*numbered(5, f"round-{round_number}"))
            await until(lambda: rig.recorder.waiting_pairs == 0)
        await rig.finish()
        assert relay.lost > 10
        assert await names_of(store) == rig.taken
        assert (await store.snapshot()).accounting == rig.ledger.snapshot()
        await store.close()


async def test_a_killed_server_loses_no_acknowledged_batch_and_doubles_none(own_valkey: EmbeddedServer) -> None:
    async with Store(own_valkey.url, "kill", max_entries=10_000) as store:
        rig = Rig(store, batch=7, linger=0.001)
        rig.recorder.start()
        loop = asyncio.get_running_loop()
        for round_number in range(3):
            restarting: asyncio.Future[None] | None = None
            for number in range(300):
                rig.offer(f"{round_number}-{number}")
                if number == 150:
                    restarting = loop.run_in_executor(None, kill_and_restart, own_valkey)
                await asyncio.sleep(0.001)
            assert restarting is not None
            await restarting
        await rig.finish()
        assert rig.ledger.snapshot() == Accounting(requests=900, eligible=900, recorded=900)
        assert await names_of(store) == rig.taken
        assert (await store.snapshot()).accounting == rig.ledger.snapshot()


async def test_a_hung_server_gets_each_batch_once_when_it_wakes(own_valkey: EmbeddedServer) -> None:
    assert own_valkey.pid is not None
    async with Watched(own_valkey.url, "hang", max_entries=1000, reply_within=0.1) as store:
        rig = Rig(store, batch=5)
        rig.recorder.start()
        rig.offer(*numbered(5, "before"))
        await until(lambda: rig.ledger.recorded == 5)
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            rig.offer(*numbered(20, "during"))
            # Several attempts, each of which the server will find when it wakes.
            before = len(store.attempts)
            await until(lambda: len(store.attempts) >= before + 3)
            assert rig.recorder.waiting_pairs == 20
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)
        await rig.finish()
        assert await names_of(store) == rig.taken


async def test_attempts_back_off_and_drain_ends_within_its_grace() -> None:
    async with Watched(NOWHERE, "e", max_entries=10) as store:
        rig = Rig(store, batch=1)
        rig.recorder.start()
        rig.offer("a", "b")
        await until(lambda: len(store.attempts) >= 5)
        gaps = [after - before for before, after in zip(store.attempts, store.attempts[1:], strict=False)]
        # 50, 100, 200, 400 ms, each less up to half of it.
        assert all(gap >= 0.025 * 2**number * 0.9 for number, gap in enumerate(gaps))
        await rig.finish(grace=0)
        assert rig.ledger.dropped == {"recorder_shutdown": 2}


async def test_what_is_given_up_is_told_to_a_store_that_was_only_slow(valkey: EmbeddedServer) -> None:
    async with relay_to(valkey.url) as relay, Store(relay.url, unique("slow"), max_entries=1000) as store:
        rig = Rig(store, batch=5)
        rig.recorder.start()
        relay.hold()
        rig.offer(*numbered(20))
        finishing = asyncio.ensure_future(rig.finish(grace=0))
        await until(lambda: rig.recorder.waiting_pairs == 0)
        relay.release()
        await finishing
        assert rig.ledger.dropped == {"recorder_shutdown": 20}
        assert (await store.snapshot()).accounting == rig.ledger.snapshot()


async def test_a_recorder_that_never_started_drops_and_says_so() -> None:
    async with Store(NOWHERE, "e", max_entries=10) as store:
        rig = Rig(store)
        rig.offer(*numbered(3))
        await rig.finish(grace=0)
        assert rig.ledger.dropped == {"recorder_shutdown": 3}


async def test_the_size_of_every_part_is_counted(at_once: bool) -> None:
    plain = pair("x", body=b"")
    big = bytes(1000)
    variants: list[Pair] = [
        plain,
        replace(plain, baseline=replace(plain.baseline, body=big)),
        replace(plain, candidate=replace(plain.candidate, body=big)),
        replace(plain, annotations=big),
        replace(plain, request=replace(plain.request, body=plain.request.body + big)),
        replace(plain, replica=Exchange(Outcome.OK, head=big[:400], body=big[:600])),
    ]
    async with Store(NOWHERE, "e", max_entries=10) as store:
        sizes = []
        for variant in variants:
            rig = Rig(store)
            rig.recorder.offer(variant)
            sizes.append(rig.recorder.waiting_bytes)
    # Encoded, each part has a few bytes that say how long it is, and a third exchange has numbers of its own.
    more = 40 if at_once else 0
    assert sizes[0]
    assert all(1000 <= size - sizes[0] <= 1000 + more for size in sizes[1:])


async def test_the_whole_path_on_a_redis_of_the_distribution() -> None:
    with debian_redis("--appendonly", "yes") as url:
        async with await Store.open(url, "whole", max_entries=1000) as store:
            rig = Rig(store, batch=10)
            rig.recorder.start()
            rig.offer(*numbered(95))
            await rig.finish()
            await store.append("vandal", 1, b"not a batch", 1, Accounting())
            seen: list[str] = []
            while entries := await store.read("w", 3, 0):
                dead = {}
                for entry in entries:
                    try:
                        seen += [found.id for found in codec.decode(entry.payload)]
                    except PayloadError as error:
                        dead[entry.id] = str(error)
                await store.commit("w", [entry.id for entry in entries], "\n".join(seen).encode(), dead=dead)
            snapshot = await store.snapshot()
            assert snapshot.states["w"].decode().split("\n") == rig.taken == numbered(95)
            assert (snapshot.committed_pairs, snapshot.dead_pairs, snapshot.lost_pairs) == (96, 1, 0)
            assert snapshot.accounting == rig.ledger.snapshot()
            [(letter, reason)] = await store.dead_letters(10)
            assert letter.payload == b"not a batch"
            assert "not a batch of pairs" in reason
