"""Reading pairs beside the comparators, against a real Valkey: in order, once, and with every gap counted."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import pytest
from pairs.samples import pair
from redis.asyncio import Redis
from servers import kill_and_restart, unique, until

from shadowproxy.model import Accounting
from shadowproxy.pairs import EmbeddedServer, Store, encode
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.reading import Batch, Reading, Tally, described, newest


async def write(store: Store | Partitions, entries: int, *, first: int = 1, pairs: int = 10) -> list[str]:
    """Entries `first`, …; returns the ids of their pairs."""
    written = []
    for sequence in range(first, first + entries):
        ids = [f"{sequence}-{number}" for number in range(pairs)]
        count = sequence * pairs
        account = Accounting(requests=count, eligible=count, recorded=count)
        await store.append("p", sequence, encode([pair(name) for name in ids]), pairs, account)
        written += ids
    return written


async def commit(store: Store, entries: int) -> None:
    """As a comparator does: the next entries are counted, and deleted where nothing is kept."""
    taken = await store.read("w", entries, 0)
    assert len(taken) == entries
    await store.commit("w", [entry.id for entry in taken], b"state")


def ids(batches: list[Batch]) -> list[str]:
    return [pair.id for batch in batches for pair in batch.pairs]


async def read(reading: Reading) -> list[str]:
    return ids([batch async for batch in reading.stored()])


def ledger(tally: Tally) -> tuple[int, int]:
    """Entries and pairs that the tally knows of: all that were ever written."""
    return (
        tally.entries + tally.earlier_entries + tally.gone_entries + tally.damaged_entries + tally.unread_entries,
        tally.pairs + tally.earlier_pairs + tally.gone_pairs + tally.damaged_pairs + tally.unread_pairs,
    )


@pytest.fixture
async def one(valkey: EmbeddedServer) -> AsyncIterator[Partitions]:
    async with Partitions.at(valkey.url, unique("one"), max_entries=1000) as made:
        await made.prepare()
        yield made


@pytest.fixture
async def three(valkey: EmbeddedServer) -> AsyncIterator[Partitions]:
    async with Partitions.at(valkey.url, unique("three"), partitions=3, max_entries=1000) as made:
        await made.prepare()
        yield made


async def contents(store: Partitions) -> dict[bytes, bytes]:
    async with Redis.from_url(store.url, protocol=2) as raw:
        keys = sorted([key async for key in raw.scan_iter(f"*{{{store.name}:*")])
        return {key: await raw.dump(key) for key in keys}


@pytest.mark.parametrize("page_bytes", [1, 3000, 8 * 1024**2])
async def test_the_pairs_of_all_partitions_are_read_once_in_the_order_of_their_writing(
    three: Partitions, page_bytes: int
) -> None:
    expected = await write(three, 40)
    reading = Reading(three, page_bytes=page_bytes)
    found = await read(reading)
    assert sorted(found) == sorted(expected)
    # Entries of the same millisecond may stand either way round; of one partition never.
    for partition in range(3):
        mine = [name for name in expected if int(name.partition("-")[0]) % 3 == partition]
        assert [name for name in found if name in set(mine)] == mine
    assert reading.tally == Tally(entries=40, pairs=400, size=reading.tally.size)
    assert reading.tally.size > 0


async def test_reading_changes_nothing_in_the_store(three: Partitions) -> None:
    await write(three, 12)
    await commit(three.stores[1], 2)
    before = await contents(three)
    assert len(before) > 10
    await read(Reading(three))
    await read(Reading(three, positions=await newest(three, 25)))
    stop = asyncio.Event()
    reading = Reading(three)
    async with aclosing(reading.followed(stop)) as followed:
        async for _ in followed:
            stop.set()
    assert await contents(three) == before


async def test_an_experiment_that_is_not_there_is_empty_and_is_not_made(valkey: EmbeddedServer) -> None:
    async with Partitions.at(valkey.url, unique("nowhere"), partitions=2, max_entries=10) as nothing:
        assert await read(Reading(nothing)) == []
        assert await read(Reading(nothing, positions=await newest(nothing, 10))) == []
        assert await contents(nothing) == {}


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 25, 119, 120, 121])
async def test_the_newest(one: Partitions, count: int) -> None:
    expected = await write(one, 12)
    for page_bytes in (1, 8 * 1024**2):
        reading = Reading(one, positions=await newest(one, count, page_bytes=page_bytes))
        assert await read(reading) == (expected[-count:] if count else [])
        assert reading.tally.gone_entries == 0


async def test_the_newest_of_all_partitions_together(three: Partitions) -> None:
    expected = await write(three, 12)
    assert len(await read(Reading(three, positions=await newest(three, 35)))) == 35
    assert set(await read(Reading(three, positions=await newest(three, 1000)))) == set(expected)


async def test_what_comes_after_the_newest_is_followed_without_a_gap(three: Partitions) -> None:
    await write(three, 6)
    reading = Reading(three, positions=await newest(three, 0))
    assert await read(reading) == []
    expected = await write(three, 3, first=7)
    assert sorted(await read(reading)) == sorted(expected)
    assert reading.tally == Tally(entries=3, pairs=30, size=reading.tally.size)


async def test_what_was_deleted_before_the_reading_began_is_no_gap(one: Partitions) -> None:
    expected = await write(one, 5)
    await commit(one.home, 2)
    reading = Reading(one)
    assert await read(reading) == expected[20:]
    assert (reading.tally.earlier_entries, reading.tally.earlier_pairs) == (2, 20)
    assert list(described(reading.tally)) == []
    assert ledger(reading.tally) == (5, 50)


async def test_what_is_deleted_meanwhile_is_counted_exactly(one: Partitions) -> None:
    await write(one, 3, pairs=10)
    await write(one, 3, first=4, pairs=7)
    reading = Reading(one, page_bytes=1)
    found = []
    async for batch in reading.stored():
        found.append(batch.entry)
        if len(found) == 1:
            await commit(one.home, 5)
    assert len(found) == 2
    assert (reading.tally.gone_entries, reading.tally.gone_pairs) == (4, 34)
    assert list(described(reading.tally)) == ["4 entries (34 pairs) had been deleted before they were read"]
    assert ledger(reading.tally) == (6, 51)


async def test_what_is_deleted_up_to_the_end_is_counted_too(three: Partitions) -> None:
    await write(three, 30)
    reading = Reading(three, page_bytes=1)
    async for _ in reading.stored():
        if reading.tally.entries == 1:
            for store in three.stores:
                await commit(store, 10)
    assert reading.tally.gone_entries == 30 - reading.tally.entries > 20
    assert ledger(reading.tally) == (30, 300)
    # And only once, if it goes on.
    await write(three, 3, first=31)
    assert len(await read(reading)) == 30
    assert ledger(reading.tally) == (33, 330)


async def test_what_can_not_be_read_is_counted_and_passed_over(one: Partitions) -> None:
    await write(one, 1)
    await one.append("p", 2, b"garbage", 10, Accounting(20, 20, 20))
    async with Redis.from_url(one.url, protocol=2) as raw:
        await raw.xadd(f"shadow:{{{one.name}:0}}:pairs", {"somebody": "else"})
    await write(one, 1, first=3)
    reading = Reading(one)
    assert [name.partition("-")[0] for name in await read(reading)] == ["1"] * 10 + ["3"] * 10
    assert (reading.tally.damaged_entries, reading.tally.damaged_pairs) == (2, 10)
    assert reading.tally.gone_entries == 0
    [line] = described(reading.tally)
    assert line.startswith("2 entries (10 pairs) can't be read: not a batch of pairs")


async def test_a_store_that_was_emptied_is_read_from_its_new_beginning(one: Partitions) -> None:
    await write(one, 3)
    reading = Reading(one)
    await read(reading)
    async with Redis.from_url(one.url, protocol=2) as raw:
        await raw.delete(*(await contents(one)))
    await one.prepare()
    await write(one, 1)
    await commit(one.home, 1)
    expected = await write(one, 1, first=2)
    again = Reading(one, positions=reading.positions)
    assert await read(again) == expected
    assert (again.tally.gone_entries, again.tally.gone_pairs) == (1, 10)


async def test_it_ends_with_what_was_written_when_it_began(three: Partitions) -> None:
    expected = await write(three, 3)
    reading, found = Reading(three), []
    async for batch in reading.stored():
        found += ids([batch])
        await write(three, 3, first=4)
    assert sorted(found) == sorted(expected)
    assert len(await read(reading)) == 30


@pytest.mark.parametrize("cut", [1, 9, 10, 11, 29, 30])
async def test_reading_goes_on_within_an_entry(one: Partitions, cut: int) -> None:
    expected = await write(one, 4)
    first = Reading(one)
    taken: list[Batch] = []
    async with aclosing(first.stored()) as batches:
        async for batch in batches:
            taken.append(batch.head(cut - len(ids(taken))))
            if len(ids(taken)) == cut:
                break
    second = Reading(one, positions={0: taken[-1].position})
    rest = [batch async for batch in second.stored()]
    assert ids(taken) + ids(rest) == expected
    assert rest[0].first == cut % 10
    assert second.tally.gone_entries == second.tally.earlier_entries == 0


async def test_of_an_entry_that_is_gone_only_the_rest_counts(one: Partitions) -> None:
    expected = await write(one, 4)
    async with aclosing(Reading(one).stored()) as batches:
        taken = (await anext(batches)).head(4)
    await commit(one.home, 2)
    second = Reading(one, positions={0: taken.position})
    assert await read(second) == expected[20:]
    assert (second.tally.gone_entries, second.tally.gone_pairs) == (2, 16)


# Following


async def test_following_gets_what_comes_in_every_partition_until_it_is_stopped(three: Partitions) -> None:
    expected = await write(three, 2)
    reading, stop = Reading(three), asyncio.Event()
    found: list[Batch] = []

    async def follow() -> None:
        nonlocal found
        async for batch in reading.stored():
            found += [batch]
        async for batch in reading.followed(stop):
            found += [batch]

    def came(pairs: int) -> bool:
        return len(ids(found)) >= pairs

    following = asyncio.ensure_future(follow())
    for first in (3, 6, 9):
        expected += await write(three, 3, first=first)
        await until(partial(came, len(expected)), "what was written")
        assert sorted(ids(found)) == sorted(expected)
    stop.set()
    await asyncio.wait_for(following, 20)
    assert reading.tally == Tally(entries=11, pairs=110, size=reading.tally.size)


async def test_what_had_come_and_was_not_read_when_it_stopped_is_counted(three: Partitions) -> None:
    await write(three, 9)
    reading, stop = Reading(three, page_bytes=1), asyncio.Event()
    async for _ in reading.followed(stop):
        stop.set()
    assert (reading.tally.entries, reading.tally.unread_entries, reading.tally.unread_pairs) == (1, 8, 80)
    assert "8 entries (80 pairs) had come and were not read" in "".join(described(reading.tally))


async def test_entries_that_are_deleted_before_the_follower_gets_to_them_are_counted(one: Partitions) -> None:
    await write(one, 1)
    reading, stop = Reading(one, page_bytes=1), asyncio.Event()
    async for batch in reading.followed(stop):
        if batch.entry.endswith(f"-{16384 + 10}"):
            await write(one, 4, first=2)
            await commit(one.home, 4)
        else:
            stop.set()
    assert (reading.tally.gone_entries, reading.tally.gone_pairs) == (3, 30)
    assert ledger(reading.tally) == (5, 50)


async def test_following_outlasts_a_restart_of_the_store(own_valkey: EmbeddedServer) -> None:
    async with Partitions.at(own_valkey.url, unique("restart"), max_entries=100) as store:
        await store.prepare()
        await write(store, 1)
        reading, stop = Reading(store), asyncio.Event()
        found: list[Batch] = []

        async def follow() -> None:
            nonlocal found
            async for batch in reading.followed(stop):
                found += [batch]

        following = asyncio.ensure_future(follow())
        await until(lambda: len(found) == 1, "the first")
        await asyncio.to_thread(kill_and_restart, own_valkey)
        await write(store, 1, first=2)
        await until(lambda: len(found) == 2, "the second")
        stop.set()
        await asyncio.wait_for(following, 20)
    assert reading.tally == Tally(entries=2, pairs=20, size=reading.tally.size)


async def test_memory_is_bounded_by_the_page(one: Partitions) -> None:
    size, entries = 1024**2, 32
    payload = encode([pair("large", body=random.Random(1).randbytes(size))])
    for sequence in range(1, entries + 1):
        await one.append("p", sequence, payload, 1, Accounting(sequence, sequence, sequence))
    reading = Reading(one, page_bytes=2 * size)
    tracemalloc.start()
    try:
        async for batch in reading.stored():
            assert len(batch.pairs[0].baseline.body) == size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reading.tally == replace(Tally(), entries=entries, pairs=entries, size=entries * len(payload))
    assert peak < 12 * size
