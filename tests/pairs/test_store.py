"""The store against a real Valkey: exactly once, fenced, atomic, and honest about what was lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from servers import relay_to, unique, until

from shadowproxy.errors import Fenced, StartError, StoreUnavailable
from shadowproxy.model import Accounting
from shadowproxy.pairs import EmbeddedServer, Entry, Store, Superseded, list_experiments, scripts
from shadowproxy.pairs.client import redacted
from shadowproxy.pairs.store import GROUP


@pytest.fixture
async def store(server: str) -> AsyncIterator[Store]:
    async with await Store.open(server, unique("store"), max_entries=1000) as opened:
        yield opened


@pytest.fixture
async def raw(server: str) -> AsyncIterator[Any]:
    async with Redis.from_url(server, protocol=2) as client:
        yield client


async def another(store: Store) -> Store:
    """The same experiment as another process would open it."""
    return await Store.open(store.url, store.name, max_entries=store.max_entries)


async def fill(store: Store, entries: int, *, pairs: int = 10, producer: str = "p", first: int = 1) -> None:
    for sequence in range(first, first + entries):
        account = Accounting(requests=sequence * pairs, eligible=sequence * pairs, recorded=sequence * pairs)
        await store.append(producer, sequence, b"batch %d" % sequence, pairs, account)


def ids(entries: list[Entry]) -> list[str]:
    return [entry.id for entry in entries]


def time_of(entry: Entry) -> float:
    return int(entry.id.partition("-")[0]) / 1000


# Opening


async def test_opening_twice_keeps_what_is_there(store: Store) -> None:
    await fill(store, 2)
    async with await another(store) as again:
        assert [entry.payload for entry in await again.read("w", 10, 0)] == [b"batch 1", b"batch 2"]


async def test_nobody_listening_is_named_without_the_password() -> None:
    with pytest.raises(StoreUnavailable) as refusal:
        await Store.open("redis://me:geheim@127.0.0.1:1/0?password=geheim", "e", max_entries=10)
    assert "redis://me:***@127.0.0.1:1/0" in str(refusal.value)
    assert "geheim" not in str(refusal.value)
    assert "check that it runs" in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("unix:///tmp/a/valkey.sock", "unix:///tmp/a/valkey.sock"),
        ("unix:///a.sock?password=x&db=1", "unix:///a.sock"),
        ("redis://:secret@h:1", "redis://:***@h:1"),
        ("rediss://u@[::1]:6380/2", "rediss://u@[::1]:6380/2"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown


async def _open_against(reply: bytes | None) -> Exception:
    """Open a store at a server that says `reply` to everything; None hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while reply is not None and await reader.read(4096):
            writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        with pytest.raises((StoreUnavailable, StartError)) as refusal:
            await Store.open(f"redis://{host}:{port}", "e", max_entries=10, reply_within=0.3)
        return refusal.value
    finally:
        server.close()
        await server.wait_closed()


async def test_what_is_not_redis_is_said_to_be_not_redis() -> None:
    refusal = await _open_against(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert isinstance(refusal, StoreUnavailable)
    assert "doesn't speak the Redis protocol" in str(refusal)


async def test_a_port_that_says_nothing_or_hangs_up_is_unavailable() -> None:
    silent = await _open_against(b"")
    assert isinstance(silent, StoreUnavailable)
    assert "doesn't answer in time" in str(silent)
    assert isinstance(await _open_against(None), StoreUnavailable)


async def test_an_old_server_is_refused_with_both_versions() -> None:
    info = b"# Server\r\nredis_version:6.2.14\r\n"
    refusal = await _open_against(b"$%d\r\n%b\r\n" % (len(info), info))
    assert isinstance(refusal, StartError)
    assert "6.2.14" in str(refusal)
    assert "Redis ≥ 7.0" in str(refusal)


def test_names_that_would_break_the_hash_tag_are_refused() -> None:
    with pytest.raises(ValueError, match="braces"):
        Store("redis://127.0.0.1", "a}b", max_entries=1)


async def test_all_keys_of_a_partition_share_one_cluster_slot(store: Store, raw: Any) -> None:
    await fill(store, 2)
    entries = await store.read("w", 2, 0)
    await store.commit("w", ids(entries), b"s", dead={entries[0].id: "bad"})
    await store.slots(["a"], 1)
    await store.latch(b"l")
    await store.experiment(b"d")
    keys = [key async for key in raw.scan_iter(f"*{store.name}*")]
    assert len(keys) == 12
    assert {key.split(b"{")[1].split(b"}")[0] for key in keys} == {f"{store.name}:0".encode()}


# Appending


async def test_a_repeated_batch_is_stored_once(store: Store) -> None:
    await fill(store, 3)
    await store.append("p", 3, b"again", 10, Accounting())
    await store.append("p", 1, b"again", 10, Accounting())
    await store.append("q", 1, b"other", 5, Accounting(requests=5, eligible=5, recorded=5))
    snapshot = await store.snapshot()
    assert (snapshot.entries, snapshot.pairs, snapshot.undelivered) == (4, 35, 4)
    assert snapshot.accounting == Accounting(requests=35, eligible=35, recorded=35)


async def test_a_lost_reply_does_not_duplicate_the_batch(server: str) -> None:
    async with relay_to(server) as relay, await Store.open(relay.url, unique("lost"), max_entries=100) as store:
        await fill(store, 1)
        relay.lose_replies = 1
        await fill(store, 1, first=2)
        relay.lose_replies = 2
        with pytest.raises(StoreUnavailable):
            await fill(store, 1, first=3)
        await fill(store, 1, first=3)
        assert relay.lost == 3
        assert [entry.payload for entry in await store.read("w", 9, 0)] == [b"batch 1", b"batch 2", b"batch 3"]
        assert (await store.snapshot()).pairs == 30


async def test_appending_survives_killed_connections(store: Store, raw: Any) -> None:
    await fill(store, 1)
    await raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await fill(store, 1, first=2)
    assert (await store.snapshot()).entries == 2


async def test_an_older_account_does_not_replace_a_newer_one(store: Store) -> None:
    await store.publish("p", Accounting(requests=5, skipped={"method": 5}))
    await store.publish("p", Accounting(requests=3, skipped={"method": 3}))
    await store.publish("q", Accounting(requests=1, eligible=1, dropped={"recorder_full": 1}))
    snapshot = await store.snapshot()
    assert snapshot.accounts["p"] == Accounting(requests=5, skipped={"method": 5})
    assert snapshot.accounting == Accounting(6, 1, 0, {"method": 5}, {"recorder_full": 1})


async def test_an_entry_holds_as_many_pairs_as_its_id_can_say(store: Store) -> None:
    await store.append("p", 1, b"x", scripts.MAX_PAIRS, Accounting())
    await store.append("p", 2, b"x", 1, Accounting())
    for wrong in (0, scripts.MAX_PAIRS + 1):
        with pytest.raises(ValueError, match="holds 1 to"):
            await store.append("p", 3, b"x", wrong, Accounting())
    entries = await store.read("w", 2, 0)
    assert [entry.pairs for entry in entries] == [scripts.MAX_PAIRS, 1]
    await store.commit("w", ids(entries), b"")
    assert (await store.snapshot()).committed_pairs == scripts.MAX_PAIRS + 1


async def test_a_full_server_refuses_batches_but_not_commits(own_valkey: EmbeddedServer) -> None:
    async with (
        await Store.open(own_valkey.url, "full", max_entries=100) as store,
        Redis.from_url(own_valkey.url, protocol=2) as raw,
    ):
        await fill(store, 2)
        await raw.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await fill(store, 1, first=3)
        assert (await store.snapshot()).entries == 2
        await store.commit("w", ids(await store.read("w", 2, 0)), b"state", dead={})
        snapshot = await store.snapshot()
        assert (snapshot.committed_entries, snapshot.states) == (2, {"w": b"state"})


# Reading


async def test_a_blocking_read_waits_for_the_first_entry(store: Store) -> None:
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(store.read("w", 10, 30))
        await until(lambda: _blocked(store), "the blocked reader")
        await fill(store, 1)
    assert [entry.payload for entry in reading.result()] == [b"batch 1"]


async def _blocked(store: Store) -> bool:
    async with Redis.from_url(store.url, protocol=2) as raw:
        return any(client["cmd"] == "xreadgroup" and "b" in client["flags"] for client in await raw.client_list())


async def test_a_read_outlasts_the_time_allowed_for_replies(server: str) -> None:
    async with await Store.open(server, unique("slow"), max_entries=10, reply_within=0.2) as store:
        assert await store.read("w", 1, 0.7) == []
        assert await store.read("w", 1, 0) == []


async def test_a_hung_server_ends_a_read(own_valkey: EmbeddedServer) -> None:
    assert own_valkey.pid is not None
    async with await Store.open(own_valkey.url, "hung", max_entries=10, reply_within=0.3) as store:
        await fill(store, 1)
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable, match="in time"):
                await store.read("w", 1, 0.1)
            with pytest.raises(StoreUnavailable, match="in time"):
                await fill(store, 1, first=2)
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)
        await fill(store, 1, first=2)
        # The read that nobody waited for was served all the same.
        found = await store.own_pending("w", 5) + await store.read("w", 5, 0)
        assert sorted(entry.payload for entry in found) == [b"batch 1", b"batch 2"]


async def test_a_cancelled_read_loses_nothing(store: Store) -> None:
    for round_number in range(1, 11):
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(store.read("w", 10, 30))
            await until(lambda: _blocked(store), "the blocked reader")
            writing = group.create_task(fill(store, 1, first=round_number))
            if round_number % 2:
                await writing
            reading.cancel()
    found = await store.own_pending("w", 100) + await store.read("w", 100, 0)
    assert {entry.payload for entry in found} == {b"batch %d" % number for number in range(1, 11)}


async def test_what_a_worker_did_not_commit_is_there_after_its_restart(store: Store) -> None:
    await fill(store, 5)
    first = await store.read("w", 4, 0)
    await store.commit("w", ids(first[:1]), b"one")
    async with await another(store) as restarted:
        assert await restarted.load_state("w") == b"one"
        pending = await restarted.own_pending("w", 2)
        assert [(entry.payload, entry.deliveries) for entry in pending] == [(b"batch 2", 1), (b"batch 3", 1)]
        # However often a worker starts over, it is the same delivery.
        assert await restarted.own_pending("w", 2) == pending
        assert await restarted.own_pending("other", 5) == []
        await restarted.commit("w", ids(pending), b"three")
        assert [entry.payload for entry in await restarted.own_pending("w", 5)] == [b"batch 4"]


# Committing


async def test_a_worker_that_lost_its_entries_cannot_count_them(store: Store) -> None:
    await fill(store, 3)
    async with await another(store) as other:
        mine = await store.read("a", 3, 0)
        assert ids(await other.claim("b", 0, 2)) == ids(mine[:2])
        with pytest.raises(Fenced) as refusal:
            await store.commit("a", ids(mine), b"all three")
        assert refusal.value.lost == tuple(ids(mine[:2]))
        snapshot = await store.snapshot()
        assert (snapshot.committed_entries, snapshot.states, snapshot.pending) == (0, {}, 3)
        await other.commit("b", ids(mine[:2]), b"two")
        await store.commit("a", ids(mine[2:]), b"one")
        snapshot = await store.snapshot()
        assert snapshot.states == {"a": b"one", "b": b"two"}
        assert (snapshot.committed_entries, snapshot.committed_pairs, snapshot.pending) == (3, 30, 0)


async def test_a_commit_whose_reply_was_lost_counts_once_when_repeated(server: str) -> None:
    async with relay_to(server) as relay, await Store.open(relay.url, unique("lost"), max_entries=100) as store:
        await fill(store, 2)
        entries = ids(await store.read("w", 2, 0))
        relay.lose_replies = 2
        with pytest.raises(StoreUnavailable):
            await store.commit("w", entries, b"state", dead={entries[0]: "bad"})
        await store.commit("w", entries, b"state", dead={entries[0]: "bad"})
        snapshot = await store.snapshot()
        assert (snapshot.committed_entries, snapshot.committed_pairs, snapshot.dead_entries) == (2, 20, 1)
        await fill(store, 1, first=3)
        await store.commit("w", ids(await store.read("w", 1, 0)), b"state 3")
        assert (await store.snapshot()).committed_entries == 3


async def test_a_different_commit_after_a_lost_reply_does_not_forget_the_first(server: str) -> None:
    async with relay_to(server) as relay, await Store.open(relay.url, unique("lost"), max_entries=100) as store:
        await fill(store, 2)
        first, second = await store.read("w", 2, 0)
        relay.lose_replies = 2
        with pytest.raises(StoreUnavailable):
            await store.commit("w", [first.id], b"first")
        with pytest.raises(Superseded):
            await store.commit("w", [second.id], b"second without first")
        assert await store.load_state("w") == b"first"
        assert ids(await store.own_pending("w", 5)) == [second.id]
        await store.commit("w", [second.id], b"first and second")
        assert (await store.snapshot()).states == {"w": b"first and second"}


async def test_two_processes_under_one_name_cannot_overwrite_each_other(store: Store) -> None:
    await fill(store, 4)
    async with await another(store) as twin:
        mine, theirs = await store.read("w", 2, 0), await twin.read("w", 2, 0)
        await store.commit("w", ids(mine), b"mine")
        with pytest.raises(Superseded, match="a name of its own") as refusal:
            await twin.commit("w", ids(theirs), b"theirs")
        assert refusal.value.lost == tuple(ids(theirs))
        assert (await store.snapshot()).states == {"w": b"mine"}
        assert await twin.load_state("w") == b"mine"
        await twin.commit("w", ids(theirs), b"mine and theirs")
        with pytest.raises(Superseded):
            await store.commit("w", [], b"mine")
        assert (await store.snapshot()).states == {"w": b"mine and theirs"}


async def test_a_commit_without_entries_stores_the_state(store: Store) -> None:
    assert await store.load_state("w") is None
    await store.commit("w", [], b"one")
    await store.commit("w", [], b"")
    assert await store.load_state("w") == b""


async def test_a_commit_must_name_each_entry_once_and_its_dead_among_them(store: Store) -> None:
    await fill(store, 1)
    [entry] = await store.read("w", 1, 0)
    with pytest.raises(ValueError, match="each entry once"):
        await store.commit("w", [entry.id, entry.id], b"")
    with pytest.raises(ValueError, match="dead letters among them"):
        await store.commit("w", [], b"", dead={entry.id: "bad"})
    assert (await store.snapshot()).pending == 1


async def test_dead_letters_keep_reason_id_and_payload(store: Store) -> None:
    await fill(store, 3)
    entries = await store.read("w", 3, 0)
    await store.commit("w", ids(entries), b"s", dead={entries[1].id: "damaged batch: größe"})
    assert await store.dead_letters(10) == [(entries[1], "damaged batch: größe")]
    snapshot = await store.snapshot()
    assert (snapshot.dead_entries, snapshot.dead_pairs) == (1, 10)
    assert (snapshot.committed_entries, snapshot.lost_entries, snapshot.pending) == (3, 0, 0)


async def test_claiming_takes_idle_entries_of_others_only(store: Store) -> None:
    await fill(store, 4)
    mine = await store.read("a", 2, 0)
    theirs = await store.read("b", 2, 0)
    assert await store.claim("a", 60, 10) == []
    claimed = await store.claim("a", 0, 10)
    assert ids(claimed) == ids(theirs)
    assert [entry.deliveries for entry in claimed] == [2, 2]
    assert ids(await store.own_pending("a", 10)) == ids(mine) + ids(theirs)


async def test_what_was_claimed_by_a_lost_reply_is_found_again(server: str) -> None:
    async with relay_to(server) as relay, await Store.open(relay.url, unique("lost"), max_entries=100) as store:
        await fill(store, 3)
        await store.read("dead", 3, 0)
        await store.claim("another", 60.0, 1)
        relay.lose_replies = 1
        with pytest.raises(StoreUnavailable):
            await store.claim("w", 0, 3)
        assert relay.lost == 1
        assert len(await store.own_pending("w", 10)) == 3


async def test_many_entries_can_be_claimed_and_committed_at_once(store: Store) -> None:
    await fill(store, 450, pairs=1)
    await store.read("dead", 450, 0)
    claimed = await store.claim("w", 0, 400)
    assert len(claimed) == 400
    await store.commit("w", ids(claimed), b"s")
    assert (await store.snapshot()).pending == 50


# Losses


async def test_unread_entries_that_were_trimmed_are_counted_exactly(server: str, raw: Any) -> None:
    async with await Store.open(server, unique("trim"), max_entries=1000) as store:
        key = f"shadow:{{{store.name}:0}}:pairs"
        await fill(store, 10, pairs=7)
        entries = await store.read("w", 4, 0)
        await store.commit("w", ids(entries[:1]), b"1")
        assert (await store.snapshot()).lost_entries == 0
        # 3 pending and 6 undelivered are in the stream; 5 go: the 3 that a worker holds, and 2 that nobody read.
        await raw.xtrim(key, maxlen=4, approximate=False)
        snapshot = await store.snapshot()
        assert (snapshot.lost_entries, snapshot.lost_pairs) == (2, 14)
        assert (snapshot.pending, snapshot.undelivered) == (3, 4)
        # What the worker still holds in memory it can commit; what nobody holds any more is lost.
        await store.commit("w", ids(entries[1:2]), b"2")
        assert await store.own_pending("w", 10) == []
        snapshot = await store.snapshot()
        assert (snapshot.lost_entries, snapshot.lost_pairs) == (4, 28)
        assert (snapshot.pending, snapshot.undelivered) == (0, 4)
        await store.commit("w", ids(await store.read("w", 10, 0)), b"6")
        snapshot = await store.snapshot()
        assert (snapshot.committed_entries, snapshot.committed_pairs) == (6, 42)
        assert (snapshot.lost_entries, snapshot.lost_pairs) == (4, 28)


async def test_trimmed_entries_of_a_dead_worker_are_not_claimed_but_lost(store: Store, raw: Any) -> None:
    await fill(store, 3)
    await store.read("dead", 2, 0)
    await raw.xtrim(f"shadow:{{{store.name}:0}}:pairs", maxlen=2, approximate=False)
    assert [entry.payload for entry in await store.claim("w", 0, 10)] == [b"batch 2"]
    snapshot = await store.snapshot()
    assert (snapshot.lost_entries, snapshot.lost_pairs, snapshot.pending, snapshot.undelivered) == (1, 10, 1, 1)


async def test_the_stream_is_bounded_and_says_what_it_lost(server: str) -> None:
    async with await Store.open(server, unique("bound"), max_entries=50) as store:
        for sequence in range(1, 401):
            await store.append("p", sequence, b"x" * 1000, 3, Accounting())
        snapshot = await store.snapshot()
        assert snapshot.undelivered < 200
        assert snapshot.lost_entries == 400 - snapshot.undelivered
        assert snapshot.lost_pairs == 3 * snapshot.lost_entries


async def test_acknowledged_batches_that_a_server_forgot_are_missed(store: Store) -> None:
    await fill(store, 2)
    assert (await store.snapshot()).missing_pairs == 0
    # What a fail-over looks like: the third batch was acknowledged by a server whose replica never got it.
    await store.publish("p", Accounting(requests=35, eligible=35, recorded=30))
    assert (await store.snapshot()).missing_pairs == 10


async def test_a_deleted_stream_is_a_loss_and_not_the_end(store: Store, raw: Any) -> None:
    await fill(store, 3)
    entries = await store.read("w", 1, 0)
    await raw.delete(f"shadow:{{{store.name}:0}}:pairs")
    with pytest.raises(Fenced):
        await store.commit("w", ids(entries), b"s")
    assert (await store.snapshot()).lost_pairs == 30
    await fill(store, 1, first=4)
    assert [entry.payload for entry in await store.read("w", 5, 0)] == [b"batch 4"]
    await raw.xgroup_destroy(f"shadow:{{{store.name}:0}}:pairs", GROUP)
    assert [entry.payload for entry in await store.read("w", 5, 0)] == [b"batch 4"]


# What is kept after it was counted, and how much room there is


@pytest.fixture
async def keeping(server: str) -> AsyncIterator[Store]:
    """A store that keeps three entries of the size that `fill` writes."""
    async with await Store.open(server, unique("keep"), max_entries=1000, keep=3 * len(b"batch 1")) as opened:
        yield opened


async def commit_all(store: Store, worker: str = "w") -> list[Entry]:
    entries = await store.read(worker, 1000, 0)
    await store.commit(worker, ids(entries), b"state %s" % entries[-1].id.encode())
    return entries


async def payloads(store: Store) -> list[bytes]:
    return [entry.payload for entry in await store.browse("0", 1000)]


async def test_the_last_that_were_counted_are_kept_and_never_given_out_again(keeping: Store) -> None:
    await fill(keeping, 5)
    await commit_all(keeping)
    assert await payloads(keeping) == [b"batch 3", b"batch 4", b"batch 5"]
    await fill(keeping, 1, first=6)
    snapshot = await keeping.snapshot()
    assert (snapshot.undelivered, snapshot.pending, snapshot.lost_entries) == (1, 0, 0)
    assert (snapshot.waiting_bytes, snapshot.kept_bytes) == (7, 21)
    assert await keeping.own_pending("w", 10) == await keeping.claim("w", 0, 10) == []
    await commit_all(keeping)
    assert await payloads(keeping) == [b"batch 4", b"batch 5", b"batch 6"]
    assert (await keeping.snapshot()).kept_bytes == 21


async def test_a_group_that_is_made_anew_gets_nothing_that_was_counted(keeping: Store, raw: Any) -> None:
    await fill(keeping, 2)
    await commit_all(keeping)
    await fill(keeping, 1, first=3)
    await raw.xgroup_destroy(f"shadow:{{{keeping.name}:0}}:pairs", GROUP)
    assert [entry.payload for entry in await keeping.read("w", 10, 0)] == [b"batch 3"]
    assert (await keeping.snapshot()).kept_bytes == 0


async def test_what_cannot_be_read_is_not_kept_beside_its_dead_letter(keeping: Store) -> None:
    await fill(keeping, 2)
    entries = await keeping.read("w", 10, 0)
    await keeping.commit("w", ids(entries), b"s", dead={entries[0].id: "no batch"})
    assert await payloads(keeping) == [b"batch 2"]


async def test_what_is_kept_goes_before_anything_unread_does(server: str) -> None:
    async with await Store.open(server, unique("keep"), max_entries=4, keep=10_000) as store:
        await fill(store, 3)
        await commit_all(store)
        await fill(store, 4, first=4)
        snapshot = await store.snapshot()
        assert (snapshot.undelivered, snapshot.lost_entries, snapshot.kept_bytes) == (4, 0, 0)
        await fill(store, 2, first=8)
        snapshot = await store.snapshot()
        assert (snapshot.undelivered, snapshot.lost_entries, snapshot.lost_pairs) == (4, 2, 20)
        assert await payloads(store) == [b"batch 6", b"batch 7", b"batch 8", b"batch 9"]


async def test_the_stream_is_bounded_by_its_bytes(server: str) -> None:
    async with await Store.open(server, unique("bytes"), max_entries=1000, max_bytes=10_000, keep=2000) as store:
        for sequence in range(1, 31):
            await store.append("p", sequence, b"x" * 1000, 3, Accounting())
        snapshot = await store.snapshot()
        assert (snapshot.undelivered, snapshot.waiting_bytes, snapshot.lost_pairs) == (10, 10_000, 60)
        await commit_all(store)
        snapshot = await store.snapshot()
        assert (snapshot.waiting_bytes, snapshot.kept_bytes, snapshot.lost_pairs) == (0, 2000, 60)
        # One that is larger than all the room there is takes the place of everything, itself excepted.
        await store.append("p", 31, b"x" * 20_000, 3, Accounting())
        snapshot = await store.snapshot()
        assert (snapshot.undelivered, snapshot.waiting_bytes, snapshot.kept_bytes) == (1, 20_000, 0)
        assert snapshot.lost_pairs == 60


async def test_bytes_that_somebody_else_trimmed_are_not_counted_for_ever(server: str, raw: Any) -> None:
    async with await Store.open(server, unique("bytes"), max_entries=1000, max_bytes=10_000, keep=3000) as store:
        for sequence in range(1, 10):
            await store.append("p", sequence, b"x" * 1000, 3, Accounting())
            if sequence == 3:
                await commit_all(store)
        await raw.xtrim(f"shadow:{{{store.name}:0}}:pairs", maxlen=2, approximate=False)
        await store.append("p", 10, b"x" * 1000, 3, Accounting())
        snapshot = await store.snapshot()
        assert (snapshot.waiting_bytes, snapshot.kept_bytes) == (3000, 0)
        assert (snapshot.undelivered, snapshot.lost_entries, snapshot.lost_pairs) == (3, 4, 12)


async def test_a_worker_s_trimmed_entries_are_counted_but_not_kept(keeping: Store, raw: Any) -> None:
    await fill(keeping, 3)
    entries = await keeping.read("w", 2, 0)
    await raw.xtrim(f"shadow:{{{keeping.name}:0}}:pairs", maxlen=2, approximate=False)
    await keeping.commit("w", ids(entries), b"s")
    assert await payloads(keeping) == [b"batch 2", b"batch 3"]
    snapshot = await keeping.snapshot()
    assert (snapshot.lost_entries, snapshot.undelivered, snapshot.kept_bytes) == (0, 1, 7)


async def test_what_is_kept_makes_room_where_memory_is_out(own_valkey: EmbeddedServer) -> None:
    async with (
        await Store.open(own_valkey.url, "oom", max_entries=1000, keep=1_000_000) as store,
        Redis.from_url(own_valkey.url, protocol=2) as client,
    ):
        for sequence in range(1, 11):
            await store.append("p", sequence, b"x" * 50_000, 1, Accounting())
        await commit_all(store)
        await client.config_set("maxmemory", (await client.info("memory"))["used_memory"] - 10_000)
        await store.append("p", 11, b"x" * 50_000, 1, Accounting())
        assert len(await payloads(store)) <= 10
        assert (await store.snapshot()).undelivered == 1


async def test_dead_letters_are_bounded_by_their_bytes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowproxy.pairs.store._MAX_DEAD_BYTES", 5000)
    for sequence in range(1, 11):
        await store.append("p", sequence, b"%d" % sequence + b"x" * 1000, 1, Accounting())
        entry = (await store.read("w", 1, 0))[0]
        await store.commit("w", [entry.id], b"s%d" % sequence, dead={entry.id: "why"})
    letters = await store.dead_letters(100)
    assert [letter.payload[:2] for letter, _ in letters] == [b"10", b"9x", b"8x", b"7x"]
    assert (await store.snapshot()).dead_entries == 10


async def test_whoever_looks_takes_nothing_away(keeping: Store) -> None:
    await fill(keeping, 3)
    assert [entry.payload for entry in await keeping.newest(2)] == [b"batch 2", b"batch 3"]
    first = await keeping.follow("0", 1, 1.0)
    rest = await keeping.follow(first[0].id, 10, 1.0)
    assert [entry.payload for entry in first + rest] == [b"batch 1", b"batch 2", b"batch 3"]
    assert await keeping.follow(rest[-1].id, 10, 0.05) == []
    coming = asyncio.ensure_future(keeping.follow(rest[-1].id, 10, 20.0))
    await fill(keeping, 1, first=4)
    assert [entry.payload for entry in await coming] == [b"batch 4"]
    assert len(await keeping.read("w", 10, 0)) == 4


# Dead workers' states


async def test_a_dead_worker_s_state_becomes_another_s_in_one_step(store: Store) -> None:
    await fill(store, 2)
    await store.commit("dead", ids(await store.read("dead", 1, 0)), b"1")
    await store.commit("busy", [], b"b")
    await store.read("busy", 1, 0)
    silent = await store.silent("w", 0.0, 10)
    assert [(stored.worker, stored.state) for stored in silent] == [("dead", b"1")], (
        "one that holds entries is not dead"
    )
    assert await store.silent("w", 60.0, 10) == []
    assert await store.absorb("w", b"1+", silent)
    assert (await store.snapshot()).states == {"w": b"1+", "busy": b"b"}
    assert await store.silent("w", 0.0, 10) == []


async def test_a_worker_that_lives_after_all_is_told_that_its_state_is_gone(store: Store) -> None:
    await fill(store, 2)
    async with await another(store) as other:
        await other.commit("slow", ids(await other.read("slow", 1, 0)), b"1")
        assert await store.absorb("w", b"1+", await store.silent("w", 0.0, 10))
        late = await other.read("slow", 1, 0)
        with pytest.raises(Superseded):
            await other.commit("slow", ids(late), b"1,2")
        assert await other.load_state("slow") is None
        assert ids(await other.own_pending("slow", 10)) == ids(late)
        await other.commit("slow", ids(late), b"2")
    assert (await store.snapshot()).states == {"w": b"1+", "slow": b"2"}


async def test_a_state_that_has_changed_since_is_not_absorbed(store: Store) -> None:
    await fill(store, 2)
    await store.commit("other", ids(await store.read("other", 1, 0)), b"1")
    silent = await store.silent("w", 0.0, 10)
    await store.commit("other", ids(await store.read("other", 1, 0)), b"1,2")
    assert not await store.absorb("w", b"1+", silent)
    assert (await store.snapshot()).states == {"other": b"1,2"}
    async with await another(store) as second:
        await store.commit("w", [], b"mine")
        with pytest.raises(Superseded):
            await second.absorb("w", b"theirs", silent)


async def test_absorbing_twice_because_a_reply_was_lost_counts_once(server: str) -> None:
    async with relay_to(server) as relay, await Store.open(relay.url, unique("lost"), max_entries=100) as store:
        await store.commit("dead", [], b"1")
        silent = await store.silent("w", 0.0, 10)
        relay.lose_replies = 1
        assert await store.absorb("w", b"1+", silent)
        assert relay.lost == 1
        assert (await store.snapshot()).states == {"w": b"1+"}


@given(
    st.lists(
        st.sampled_from(["append", "read a", "read b", "commit a", "commit b", "claim a", "trim", "restart b"]),
        max_size=30,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_pair_is_counted_twice_or_lost_silently(server: str, steps: list[str]) -> None:
    """Whatever workers do, in whatever order: written = committed once + lost + still there."""
    async with (
        await Store.open(server, unique("any"), max_entries=1000) as store,
        Redis.from_url(server, protocol=2) as raw,
    ):
        sequence, counted = 0, dict[str, list[str]](a=[], b=[])
        held = dict[str, dict[str, Entry]](a={}, b={})
        mark = 0.0
        for step in [*steps, "restart a", "restart b", "commit a", "commit b", "drain a", "commit a"]:
            action, _, worker = step.partition(" ")
            if action == "append":
                sequence += 1
                await store.append("p", sequence, b"%d" % sequence, sequence % 5 + 1, Accounting())
            elif action == "trim":
                await raw.xtrim(f"shadow:{{{store.name}:0}}:pairs", maxlen=2, approximate=False)
            elif action in ("read", "drain"):
                count = 1000 if action == "drain" else 3
                held[worker] |= {entry.id: entry for entry in await store.read(worker, count, 0)}
            elif action == "claim":
                held[worker] |= {entry.id: entry for entry in await store.claim(worker, 0, 2)}
            elif action == "restart":
                held[worker] = {entry.id: entry for entry in await store.own_pending(worker, 100)}
            else:
                try:
                    await store.commit(worker, list(held[worker]), ",".join([*counted[worker], *held[worker]]).encode())
                except Fenced as fenced:
                    held[worker] = {name: held[worker][name] for name in held[worker] if name not in fenced.lost}
                else:
                    counted[worker] += held[worker]
                    held[worker] = {}
            snapshot = await store.snapshot()
            assert snapshot.watermark >= mark
            mark = snapshot.watermark
            assert snapshot.entries == (
                snapshot.committed_entries + snapshot.lost_entries + snapshot.pending + snapshot.undelivered
            )
        stored = [name for state in snapshot.states.values() for name in state.decode().split(",") if name]
        assert len(stored) == len(set(stored)) == snapshot.committed_entries
        assert sum(int(name.split("-")[1]) % 16384 for name in stored) == snapshot.committed_pairs
        assert (snapshot.pending, snapshot.undelivered) == (0, 0)
        assert snapshot.pairs == snapshot.committed_pairs + snapshot.lost_pairs


# The watermark


async def test_the_watermark_is_the_clock_where_nothing_waits(store: Store) -> None:
    first = await store.snapshot()
    assert first.watermark == pytest.approx(first.time, abs=0.01)
    await fill(store, 1)
    committed = await store.commit("w", ids(await store.read("w", 1, 0)), b"")
    second = await store.snapshot()
    assert first.watermark <= committed <= second.watermark
    assert second.watermark == pytest.approx(second.time, abs=0.01)


async def _distinct_milliseconds(store: Store, entries: int) -> None:
    for sequence in range(1, entries + 1):
        await fill(store, 1, first=sequence)
        before = (await store.snapshot()).time
        while (await store.snapshot()).time < before + 0.002:
            pass


async def test_the_watermark_is_the_oldest_entry_that_waits(store: Store) -> None:
    await _distinct_milliseconds(store, 4)
    async with await another(store) as other:
        a = await store.read("a", 2, 0)
        assert (await store.snapshot()).watermark == time_of(a[0])
        b = await other.read("b", 1, 0)
        assert await store.commit("a", [a[1].id], b"") == time_of(a[0])
        assert await store.commit("a", [a[0].id], b"") == time_of(b[0])
        [claimed] = await store.claim("a", 0, 5)
        assert claimed.id == b[0].id
        assert (await store.snapshot()).watermark == time_of(b[0])
        undelivered = await store.commit("a", [claimed.id], b"")
        [last] = await store.read("a", 1, 0)
        assert undelivered == time_of(last)
        assert await store.commit("a", [last.id], b"") > time_of(last)


async def test_a_clock_that_is_set_back_does_not_move_the_watermark_back(store: Store, raw: Any) -> None:
    await store.snapshot()
    ahead = 10 * 365 * 86400
    key = f"shadow:{{{store.name}:0}}:totals"
    clock = int(await raw.hget(key, "clock")) + 1000 * ahead
    await raw.hset(key, "clock", clock)
    assert (await store.snapshot()).watermark == clock / 1000
    await fill(store, 2)
    entries = await store.read("w", 2, 0)
    assert time_of(entries[0]) == clock / 1000
    assert await store.commit("w", ids(entries), b"") == clock / 1000


# What concerns the whole experiment


async def test_many_ask_for_slots_at_once_and_agree(store: Store) -> None:
    names = [f"cohort-{number}" for number in range(12)]
    stores = await asyncio.gather(*(another(store) for _ in range(12)))
    try:
        answers = await asyncio.gather(
            *(each.slots(names[number:] + names[:number], 5) for number, each in enumerate(stores))
        )
    finally:
        await asyncio.gather(*(each.close() for each in stores))
    assigned = await store.slots([], 5)
    assert sorted(assigned.values()) == [1, 2, 3, 4, 5]
    for answer in answers:
        assert answer.items() <= assigned.items()
    assert (await store.snapshot()).slots == assigned


async def test_a_slot_is_kept_and_any_text_can_have_one(store: Store) -> None:
    assert await store.slots(["größe", "\ud800", ""], 3) == {"größe": 1, "\ud800": 2, "": 3}
    assert await store.slots(["late", "größe"], 3) == {"größe": 1, "\ud800": 2, "": 3}
    assert (await store.slots(["late"], 4))["late"] == 4


async def test_the_first_latch_holds(store: Store) -> None:
    assert (await store.snapshot()).latch is None
    assert await store.latch(b"rollback at 12:00")
    assert not await store.latch(b"rollback at 12:01")
    assert (await store.snapshot()).latch == b"rollback at 12:00"


async def test_an_experiment_keeps_its_first_description_and_is_listed(store: Store) -> None:
    assert await store.experiment(b"first") == b"first"
    assert await store.experiment(b"second") == b"first"
    begun = (await list_experiments(store.url))[store.name]
    assert 0 <= (await store.snapshot()).time - begun < 60


async def test_nothing_is_left_of_a_relay(server: str) -> None:
    async with relay_to(server) as relay, Store(relay.url, "e", max_entries=1) as store:
        await store.publish("p", Accounting())
        assert relay.connections == 1
