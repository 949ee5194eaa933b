"""The scripts that join labels and pairs, against real servers of both kinds."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from servers import relay_to, unique, until

from shadowproxy.errors import Fenced, StoreUnavailable
from shadowproxy.model import Accounting
from shadowproxy.pairs import Entry, Store, Superseded
from shadowproxy.pairs.labels import CountedLabels, Fate, Label, Waiting
from shadowproxy.pairs.store import Gone

WAIT = 3600.0


@pytest.fixture
async def store(server: str) -> AsyncIterator[Store]:
    async with await Store.open(server, unique("labels"), max_entries=1000) as opened:
        yield opened


async def another(store: Store, url: str = "") -> Store:
    return await Store.open(url or store.url, store.name, max_entries=1000)


class Pairs:
    """Commits pairs that wait, one entry each."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.written = 0

    async def write(self, name: str) -> None:
        self.written += 1
        await self.store.append("p", self.written, name.encode(), 1, Accounting())

    async def wait(self, *names: str, until: float = WAIT) -> None:
        for name in names:
            await self.write(name)
            entries = await self.store.read("pairs", 1, 0)
            waiting = Waiting(name, time.time() + until, name.encode())
            await self.store.commit("pairs", [entry.id for entry in entries], b"pairs", unlabelled=[waiting])
            await self.store.load_state("pairs")


async def label(store: Store, *names: str) -> None:
    await store.labels.add([(name, b'["a"]') for name in names])


async def counted(store: Store) -> CountedLabels:
    return (await store.snapshot()).labels


async def test_nothing_is_made_where_nobody_uses_labels(store: Store) -> None:
    assert await counted(store) == CountedLabels()
    pairs = Pairs(store)
    await pairs.write("a")
    await store.commit("w", [entry.id for entry in await store.read("w", 1, 0)], b"")
    async with Redis.from_url(store.url, protocol=2) as raw:
        keys = {key.decode().partition("}:")[2] async for key in raw.scan_iter(f"shadow:{{{store.name}:0}}:*")}
    assert not {name for name in keys if "label" in name or "early" in name}


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_join_whose_reply_was_lost_counts_once_when_repeated(server: str, lost: int) -> None:
    async with relay_to(server) as relay, await Store.open(relay.url, unique("lost"), max_entries=100) as store:
        await Pairs(store).wait("a", "b")
        await label(store, "unknown", "a")
        unknown, first = await store.labels.read("w", 5)
        # The server knows the script from here on.
        await store.join("w", [(unknown, Fate.KEEP)], None, wait=WAIT)
        relay.lose_replies = lost
        if lost == 2:
            with pytest.raises(StoreUnavailable):
                await store.join("w", [(first, Fate.JOIN)], b"one", wait=WAIT)
        assert await store.join("w", [(first, Fate.JOIN)], b"one", wait=WAIT) == []
        assert relay.lost == lost
        found = await counted(store)
        assert (found.received, found.joined, found.waiting_pairs, found.waiting) == (2, 1, 1, 1)
        await label(store, "b")
        [second] = await store.labels.read("w", 5)
        assert await store.join("w", [(second, Fate.JOIN)], b"two", wait=WAIT) == []
        assert (await store.snapshot()).states["w"] == b"two"


async def test_what_was_not_done_the_first_time_is_said_again_when_repeated(server: str) -> None:
    async with relay_to(server) as relay, await Store.open(relay.url, unique("lost"), max_entries=100) as store:
        await Pairs(store).wait("a", "b")
        await label(store, "unknown", "a", "b")
        unknown, first, second = await store.labels.read("w", 5)
        await store.join("w", [(unknown, Fate.KEEP)], None, wait=WAIT)
        # Its pair was not there when it was looked for.
        decided = [(first, Fate.JOIN), (second, Fate.KEEP)]
        relay.lose_replies = 1
        assert await store.join("w", decided, b"one", wait=WAIT) == [second.entry]
        assert relay.lost == 1
        assert await store.join("w", [(second, Fate.JOIN)], b"two", wait=WAIT) == []
        assert (await counted(store)).joined == 2


async def test_what_was_given_out_with_a_lost_reply_is_found_again(server: str) -> None:
    """Asking again would be answered with other labels, and nobody would come back to these."""
    async with relay_to(server) as relay, Store(relay.url, unique("lost"), max_entries=9, reply_within=0.5) as store:
        await store.prepare()
        await label(store, "a", "b")
        assert [one.id for one in await store.labels.read("other", 1)] == ["a"]
        relay.hold()
        with pytest.raises(StoreUnavailable):
            await store.labels.read("w", 1)
        relay.release()
        assert [one.id for one in await store.labels.own_pending("w", 5)] == ["b"]
        assert await store.labels.claim("w", 100.0, 5) == []
        relay.lose_replies = 1
        with pytest.raises(StoreUnavailable):
            await store.labels.claim("w", 0.0, 5)
        assert [one.id for one in await store.labels.own_pending("w", 5)] == ["a", "b"]


async def test_dead_workers_leave_no_consumers_behind(store: Store) -> None:
    await Pairs(store).wait("a")
    await label(store, "a", "b")
    async with await another(store) as dead:
        [one] = await dead.labels.read("dead", 1)
        await dead.join("dead", [(one, Fate.JOIN)], b"a", wait=WAIT)
        await dead.labels.read("holding", 1)
        await dead.commit("holding", [], b"nothing")
    silent = await store.silent("w", 0.0, 10)
    assert {stored.worker for stored in silent} == {"pairs", "dead", "holding"}
    assert await store.absorb("w", b"all", silent)
    async with Redis.from_url(store.url, protocol=2) as raw:
        consumers = {found["name"] for found in await raw.xinfo_consumers(store.labels.stream, "comparators")}
    assert consumers == {b"holding"}
    assert [one.id for one in await store.labels.claim("w", 0.0, 5)] == ["b"]


async def test_a_join_is_fenced_by_the_state_the_entries_and_the_pair(store: Store) -> None:
    await Pairs(store).wait("a", "b", "c")
    await label(store, "a", "b", "b")
    async with await another(store) as other:
        a, b, again = await store.labels.read("w", 5)
        taken = await other.labels.claim("other", 0, 1)
        assert [one.entry for one in taken] == [a.entry]
        with pytest.raises(Fenced) as fenced:
            await store.join("w", [(a, Fate.JOIN), (b, Fate.JOIN)], b"both", wait=WAIT)
        assert fenced.value.lost == (a.entry,)
        with pytest.raises(Fenced):
            await store.join("w", [(a, Fate.LATE), (b, Fate.KEEP)], None, wait=WAIT)
        await other.join("other", taken_as(taken, Fate.JOIN), b"a", wait=WAIT)

        await other.load_state("w")
        await other.commit("w", [], b"of a twin")
        with pytest.raises(Superseded):
            await store.join("w", [(b, Fate.JOIN)], b"b", wait=WAIT)
        assert await store.load_state("w") == b"of a twin"
        await store.join("w", [(b, Fate.JOIN)], b"b", wait=WAIT)
        with pytest.raises(Gone):
            await store.join("w", [(again, Fate.JOIN)], b"b twice", wait=WAIT)
        assert await store.join("w", [(again, Fate.KEEP)], None, wait=WAIT) == []
    found = await counted(store)
    assert (found.received, found.joined, found.duplicates, found.waiting_pairs) == (3, 2, 1, 1)
    assert (await store.snapshot()).states == {"pairs": b"pairs", "other": b"a", "w": b"b"}


def taken_as(labels: list[Label], fate: Fate) -> list[tuple[Label, Fate]]:
    return [(one, fate) for one in labels]


async def test_a_state_is_stored_where_labels_are_joined_and_only_there(store: Store) -> None:
    await label(store, "a")
    [one] = await store.labels.read("w", 1)
    for fate, state in ((Fate.JOIN, None), (Fate.KEEP, b"state")):
        with pytest.raises(ValueError, match="only there"):
            await store.join("w", [(one, fate)], state, wait=WAIT)


async def test_a_pair_is_not_forgotten_while_a_label_that_came_in_time_is_unread(store: Store) -> None:
    await Pairs(store).wait("a", until=0.5)
    await label(store, "a")
    [held] = await store.labels.read("slow", 1)
    over = time.time() + 0.6
    await until(lambda: time.time() > over)
    assert await store.labels.expire(10) == 0
    waiting = (await store.labels.find(["a", "b"]))["a"]
    assert (waiting.record, list(await store.labels.find(["b"]))) == (b"a", [])
    assert held.arrived <= waiting.expires
    await store.join("slow", [(held, Fate.JOIN)], b"a", wait=WAIT)
    assert (await counted(store)).joined == 1


async def test_a_label_that_was_late_for_its_pair_is_late_though_it_was_read_first(store: Store) -> None:
    await label(store, "late", "in time")
    labels = await store.labels.read("w", 5)
    await store.join("w", taken_as(labels, Fate.KEEP), None, wait=WAIT)
    pairs = Pairs(store)
    await pairs.wait("late", until=-1.0)
    await pairs.wait("in time")
    found = await counted(store)
    assert (found.received, found.unmatched, found.waiting, found.waiting_pairs) == (2, 1, 1, 2)
    assert [one.id for one in await store.labels.read("w", 5)] == ["in time"]


async def test_forgetting_is_bounded_and_counted(store: Store) -> None:
    pairs = Pairs(store)
    await pairs.wait(*(f"p{at}" for at in range(5)), until=-1.0)
    await label(store, *(f"l{at}" for at in range(3)))
    labels = await store.labels.read("w", 5)
    await store.join("w", taken_as(labels, Fate.KEEP), None, wait=-1.0)
    assert (await counted(store)).waiting == 3
    assert await store.labels.expire(2) == 4
    assert await store.labels.expire(2) == 3
    assert await store.labels.expire(2) == 1
    assert await store.labels.expire(2) == 0
    found = await counted(store)
    assert (found.expired_pairs, found.waiting_pairs, found.waiting, found.unmatched) == (5, 0, 0, 3)


async def test_labels_that_nobody_reads_are_bounded_and_known(server: str) -> None:
    async with await Store.open(server, unique("bound"), max_entries=10, max_labels=4) as store:
        await label(store, *(f"l{at}" for at in range(10)))
        found = await counted(store)
        assert (found.received, found.waiting, found.unmatched) == (10, 4, 6)
        assert [one.id for one in await store.labels.read("w", 10)] == ["l6", "l7", "l8", "l9"]


async def test_a_stream_that_was_deleted_is_made_anew(store: Store) -> None:
    await label(store, "a")
    [one] = await store.labels.read("w", 5)
    async with Redis.from_url(store.url, protocol=2) as raw:
        await raw.delete(store.labels.stream)
    with pytest.raises(Fenced):
        await store.join("w", [(one, Fate.KEEP)], None, wait=WAIT)
    await label(store, "b")
    assert [found.id for found in await store.labels.read("w", 5)] == ["b"]


COUNTS = st.builds(
    CountedLabels,
    **{name: st.integers(0, 100) for name in CountedLabels.__dataclass_fields__},
)


@given(COUNTS)
def test_one_partition_alone_is_the_whole(one: CountedLabels) -> None:
    assert CountedLabels.over([one]) == one


STEPS = [
    *("pair 0", "pair 1", "pair 2", "label 0", "label 1", "label 2", "expire"),
    *(
        f"{action} {worker}"
        for action in ("read", "commit", "labels", "find", "join", "crash", "claim")
        for worker in "ab"
    ),
]


class Simulated:
    """A worker in slow motion: each step it takes is one that others may come before."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self.entries: dict[str, Entry] = {}
        self.labels: dict[str, Label] = {}
        self.found: dict[str, Waiting] = {}
        self.joined: list[str] = []

    async def step(self, action: str) -> None:
        await getattr(self, action)()

    async def read(self) -> None:
        self.entries |= {entry.id: entry for entry in await self.store.read(self.name, 2, 0)}

    async def labels_read(self, most: int = 2) -> None:
        self.labels |= {one.entry: one for one in await self.store.labels.read(self.name, most)}

    async def find(self) -> None:
        self.found = await self.store.labels.find(sorted({one.id for one in self.labels.values()}))

    async def claim(self) -> None:
        self.entries |= {entry.id: entry for entry in await self.store.claim(self.name, 0, 2)}
        self.labels |= {one.entry: one for one in await self.store.labels.claim(self.name, 0, 2)}

    async def crash(self) -> None:
        stored = await self.store.load_state(self.name)
        self.joined = (stored or b"").decode().split()
        self.found = {}
        self.entries = {entry.id: entry for entry in await self.store.own_pending(self.name, 100)}
        self.labels = {one.entry: one for one in await self.store.labels.own_pending(self.name, 100)}

    async def commit(self) -> None:
        entries = list(self.entries.values())
        waiting = [Waiting(entry.payload.decode(), time.time() + WAIT, b"record") for entry in entries]
        state = " ".join(self.joined).encode()
        try:
            await self.store.commit(self.name, list(self.entries), state, unlabelled=waiting)
        except Fenced as fenced:
            self.entries = {name: entry for name, entry in self.entries.items() if name not in fenced.lost}
        else:
            self.entries = {}

    async def join(self) -> None:
        decided: list[tuple[Label, Fate]] = []
        joins: list[str] = []
        for one in self.labels.values():
            joins_now = one.id in self.found and one.id not in joins
            decided.append((one, Fate.JOIN if joins_now else Fate.KEEP))
            joins += [one.id] if joins_now else []
        after = [*self.joined, *joins]
        try:
            again = await self.store.join(self.name, decided, " ".join(after).encode() if joins else None, wait=WAIT)
        except Fenced as fenced:
            self.labels = {name: one for name, one in self.labels.items() if name not in fenced.lost}
        except Gone:
            await self.find()
        else:
            self.joined = after
            self.labels = {name: one for name, one in self.labels.items() if name in again}


@given(st.lists(st.sampled_from(STEPS), max_size=40))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whoever_comes_first_and_whoever_dies_each_label_is_joined_once(server: str, steps: list[str]) -> None:
    async with (
        await Store.open(server, unique("any"), max_entries=1000) as store,
        await Store.open(server, store.name, max_entries=1000) as second,
    ):
        workers = {"a": Simulated(store, "a"), "b": Simulated(second, "b")}
        written: set[str] = set()
        told: list[str] = []
        pairs = Pairs(store)
        end = ["crash a", "crash b"]
        # Twice: what the one has kept the other's commit may send back.
        end += [f"{action} {worker}" for worker in "abab" for action in ("read", "commit") for _ in range(2)]
        end += [f"{action} {worker}" for _ in range(3) for worker in "ab" for action in ("all", "find", "join", "join")]
        for step in [*steps, *end]:
            action, _, of = step.partition(" ")
            if action == "pair":
                if of not in written:
                    written.add(of)
                    await pairs.write(of)
            elif action == "label":
                told.append(of)
                await label(store, of)
            elif action == "expire":
                assert await store.labels.expire(10) == 0
            elif action == "labels":
                await workers[of].labels_read()
            elif action == "all":
                await workers[of].labels_read(1000)
            else:
                await workers[of].step(action)
        snapshot = await store.snapshot()
        joined = [name for state in snapshot.states.values() for name in state.decode().split()]
        assert sorted(joined) == sorted(written & set(told))
        found = snapshot.labels
        assert (found.received, found.joined, found.unmatched) == (len(told), len(joined), 0)
        assert found.duplicates == len(told) - len(set(told))
        assert (found.waiting, found.waiting_pairs) == (len(set(told) - written), len(written - set(told)))
