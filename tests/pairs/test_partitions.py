"""Several partitions as one experiment, against a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from servers import unique

from shadowproxy.model import Accounting
from shadowproxy.pairs import EmbeddedServer
from shadowproxy.pairs.partitions import Partitions, Watermarks
from shadowproxy.pairs.store import GROUP

COUNT = 3


@pytest.fixture
async def three(valkey: EmbeddedServer) -> AsyncIterator[Partitions]:
    async with Partitions.at(valkey.url, unique("three"), partitions=COUNT, max_entries=1000) as made:
        await made.prepare()
        yield made


async def fill(partitions: Partitions, batches: int, *, first: int = 1, producer: str = "p") -> None:
    for sequence in range(first, first + batches):
        account = Accounting(requests=10 * sequence, eligible=10 * sequence, recorded=10 * sequence)
        await partitions.append(producer, sequence, b"batch %d" % sequence, 10, account)


async def test_batches_are_spread_and_each_is_stored_once(three: Partitions) -> None:
    await fill(three, 7)
    await fill(three, 7)
    found = [[entry.payload for entry in await store.read("w", 10, 0)] for store in three.stores]
    assert found == [
        [b"batch 3", b"batch 6"],
        [b"batch 1", b"batch 4", b"batch 7"],
        [b"batch 2", b"batch 5"],
    ]


async def test_what_a_producer_has_stored_is_the_last_of_all_partitions(three: Partitions) -> None:
    assert (await three.standing("p")).sequence == 0
    await fill(three, 4)
    standing = await three.standing("p")
    assert (standing.sequence, standing.account) == (4, Accounting(40, 40, 40))
    await three.publish("p", Accounting(45, 45, 40))
    assert (await three.standing("p")).account == Accounting(45, 45, 40)


async def test_all_partitions_add_up(three: Partitions) -> None:
    await fill(three, 6)
    for store in three.stores:
        entries = await store.read("w", 1, 0)
        await store.commit("w", [entry.id for entry in entries], b"state %d" % store.partition)
    await three.home.latch(b"latched")
    await three.home.slots(["a", "b"], 10)
    snapshot = await three.snapshot()
    assert (snapshot.entries, snapshot.pairs, snapshot.committed_entries, snapshot.committed_pairs) == (6, 60, 3, 30)
    assert (snapshot.pending, snapshot.undelivered, snapshot.lost_entries, snapshot.missing_pairs) == (0, 3, 0, 0)
    assert snapshot.waiting_bytes == 3 * len(b"batch 1")
    assert sorted(snapshot.states.values()) == [b"state 0", b"state 1", b"state 2"]
    assert snapshot.accounting == Accounting(60, 60, 60)
    assert (snapshot.latch, snapshot.slots) == (b"latched", {"a": 1, "b": 2})
    assert len(snapshot.clocks) == COUNT


async def test_the_watermark_is_that_of_the_partition_that_is_furthest_behind(three: Partitions) -> None:
    await fill(three, 3)
    entries = {store.partition: (await store.read("w", 10, 0))[0] for store in three.stores}
    for partition in (0, 1):
        await three.stores[partition].commit("w", [entries[partition].id], b"s")
    snapshot = await three.snapshot()
    assert snapshot.watermark == int(entries[2].id.partition("-")[0]) / 1000
    assert await three.stores[0].watermark() > snapshot.watermark
    await three.stores[2].commit("w", [entries[2].id], b"s")
    assert (await three.snapshot()).watermark > snapshot.watermark


async def test_what_comes_while_the_partitions_are_read_is_not_missed(three: Partitions) -> None:
    """An account read behind the pairs it accounts for would show acknowledged pairs as forgotten by the server."""
    await fill(three, 3)
    home = three.home
    once = home.snapshot

    async def meanwhile() -> object:
        found = await once()
        await fill(three, 3, first=4)
        return found

    home.snapshot = meanwhile  # type: ignore[method-assign, assignment]
    assert (await three.snapshot()).missing_pairs == 0


def test_watermarks_wait_for_the_slowest() -> None:
    marks = Watermarks(3)
    assert marks.hear(0, 10.0) == float("-inf")
    marks.hear(1, 12.0)
    assert marks.hear(2, 11.0) == 10.0
    assert marks.hear(0, 13.0) == 11.0
    assert marks.hear(2, 9.0) == 11.0, "they never go back"


async def test_one_partition_that_lost_its_group_is_made_anew(three: Partitions) -> None:
    await fill(three, 3)
    store = three.stores[1]
    await store.connections.usual.command("XGROUP", "DESTROY", f"shadow:{{{three.name}:1}}:pairs", GROUP)
    assert [entry.payload for entry in await store.read("w", 10, 0)] == [b"batch 1"]
