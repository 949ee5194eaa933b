"""The whole path on each kind of store: from a recorder over the workers to the verdict, and what may happen on it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from cluster import Cluster, Server, Watched, cluster, slot_of, wait_for, watched
from comparator.test_worker import SETTINGS, pair
from msgspec.structs import replace
from redis.crc import key_slot
from servers import unique, until

from shadowproxy import metrics
from shadowproxy.comparator.worker import Worker
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Recorder as RecorderSettings
from shadowproxy.errors import StoreUnavailable
from shadowproxy.model import Accounting
from shadowproxy.pairs import EmbeddedServer, Ledger, Recorder
from shadowproxy.pairs.client import Client
from shadowproxy.pairs.partitions import Partitions, Watermarks
from shadowproxy.pairs.store import Store, list_experiments
from shadowproxy.pairs.trail import trail
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.tasks import Tasks
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Verdict

PARTITIONS = 6
CHOSEN = SETTINGS.model_copy(update={"verdict": SETTINGS.verdict.model_copy(update={"max_cohorts": 20_000})})


@pytest.fixture
def servers() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
def service() -> Iterator[Watched]:
    with watched() as made:
        yield made


@pytest.fixture(params=["unix", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    match request.param:
        case "sentinel":
            return str(request.getfixturevalue("service").url)
        case "cluster":
            return str(request.getfixturevalue("servers").url)
    return str(request.getfixturevalue("valkey").url)


class Whole:
    """A recorder that is offered pairs all the while, a worker for each partition, and each pair a cohort of its own.

    Producer, workers and reader have connections of their own, as in processes of their own.
    """

    def __init__(self, url: str) -> None:
        self.name = unique("kinds")
        self.producing, self.working, self.reading = (
            Partitions.at(url, self.name, partitions=PARTITIONS, max_entries=100_000, reply_within=1.0)
            for _ in range(3)
        )
        self.tasks = Tasks()
        self.ledger = Ledger()
        self.taken: list[int] = []
        wishes = RecorderSettings.model_validate({"linger": 0.01, "batch": 4})
        self.recorder = Recorder(self.producing, wishes, self.ledger, unique("proxy"), self.tasks)
        marks, name = Watermarks(PARTITIONS), unique("worker")
        self.counted = metrics.ComparatorMetrics(metrics.registry())
        self.workers = [
            Worker(
                store, Comparer(CHOSEN.routes), Plan(CHOSEN), self.counted, name=name, read=3, claim_idle=5.0,
                max_cohorts=CHOSEN.verdict.max_cohorts, home=self.working.home, watermarks=marks,
            )
            for store in self.working.stores
        ]  # fmt: skip
        self._over = asyncio.Event()
        self.held = asyncio.Event()
        """Cleared, no more pairs are offered."""
        self.held.set()

    async def begin(self) -> None:
        await self.working.prepare()
        await self.working.home.experiment(b"{}")
        self.recorder.start()
        self._running = [self.tasks.start(worker.run(), name=repr(worker)) for worker in self.workers]
        self._offering = self.tasks.start(self._offer(), name="offering")

    async def _offer(self) -> None:
        for at in itertools.count():
            if self._over.is_set():
                return
            await self.held.wait()
            self.ledger.admit()
            assert self.recorder.offer(replace(pair(at), started=time.time()))
            self.taken.append(at)
            await asyncio.sleep(0.004)

    async def more(self, pairs: int = 200) -> None:
        """Until so many more pairs have been recorded."""
        before = self.ledger.snapshot().recorded
        await until(lambda: self.ledger.snapshot().recorded >= before + pairs, "more pairs")

    async def idle(self) -> None:
        """Until all that was offered has been counted, and its account is known."""

        async def counted() -> bool:
            snapshot = await self.reading.snapshot()
            return snapshot.committed_pairs == snapshot.accounting.recorded == len(self.taken)

        await until(counted, "all pairs")

    async def verdict(self) -> Verdict:
        return (await VerdictReader(self.reading, CHOSEN).read()).verdict

    async def end(self, *, lost: bool = False) -> Verdict:
        """Everything is recorded and counted; nothing was lost, unless it may be, and nothing is counted twice."""
        self._over.set()
        await self._offering
        await self.recorder.drain(20)
        await until(lambda: all(worker.connected for worker in self.workers), "all workers")

        async def all_committed() -> bool:
            snapshot = await self.reading.snapshot()
            return (snapshot.undelivered, snapshot.pending) == (0, 0)

        # Before they are told to stop: one that is in doubt then leaves the rest to others.
        await until(all_committed, "empty streams")
        for worker in self.workers:
            worker.stop()
        await asyncio.gather(*self._running)
        verdict = await self.verdict()
        account = self.ledger.snapshot()
        assert (account.recorded, account.dropped) == (len(self.taken), {})
        counted = {name: report.pairs for name, report in verdict.cohorts.items()}
        snapshot = await self.reading.snapshot()
        assert set(counted.values()) == {1}
        assert verdict.pairs == len(counted) == snapshot.pairs == snapshot.committed_pairs
        if lost:
            return verdict
        assert counted.keys() == {f"id={at}" for at in self.taken}
        assert (snapshot.pairs, snapshot.committed_pairs) == (len(self.taken), len(self.taken))
        assert (snapshot.lost_pairs, snapshot.missing_pairs, snapshot.dead_entries, snapshot.pending) == (0, 0, 0, 0)
        return verdict

    async def close(self) -> None:
        await self.tasks.cancel()
        for store in (self.producing, self.working, self.reading):
            await store.close()


@asynccontextmanager
async def whole(url: str) -> AsyncIterator[Whole]:
    made = Whole(url)
    try:
        await made.begin()
        yield made
    finally:
        await made.close()


async def test_every_pair_is_counted_once(url: str) -> None:
    async with whole(url) as path:
        await path.more()
        verdict = await path.end()
        reader = VerdictReader(path.reading, CHOSEN)
        await reader.remember(await reader.read())
        assert [point.pairs for point in await trail(path.reading.home)] == [verdict.pairs]
        assert path.name in await list_experiments(url)
        assert all(store.partition == number for number, store in enumerate(path.working.stores))


async def test_a_cluster_loses_a_master_and_moves_slots_and_every_pair_is_counted_once(servers: Cluster) -> None:
    async with whole(servers.url) as path:
        slots = [slot_of(path.name, partition) for partition in range(PARTITIONS)]
        await path.more()
        victim = servers.owner(slots[3])
        await asyncio.to_thread(victim.kill)
        await until(lambda: not all(worker.connected for worker in path.workers), "the loss")
        await asyncio.to_thread(victim.start)
        await asyncio.to_thread(servers.wait)
        await path.more()
        for slot in (slots[0], slots[5]):
            source, target = await asyncio.to_thread(_move_under_load, servers, slot)
            assert servers.owner(slot) is target
            assert source is not target
            await path.more()
        await path.end()


def _move_under_load(servers: Cluster, slot: int) -> tuple[Server, Server]:
    """Holds the move where some keys are here and some there, until somebody has met it."""

    def met() -> int:
        stats = b"".join(node.ask("INFO", "errorstats") for node in servers.nodes)
        found = [line for line in stats.split() if line.startswith((b"errorstat_TRYAGAIN", b"errorstat_ASK"))]
        return sum(int(line.partition(b"count=")[2]) for line in found)

    before = met()

    def halfway() -> None:
        deadline = time.monotonic() + 20
        while met() < before + 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert met() >= before + 3

    return servers.move(slot, halfway)


async def test_a_master_dies_and_every_pair_is_counted_once(service: Watched) -> None:
    async with whole(service.url) as path:
        await path.more()
        # Replication may lose what was acknowledged last; that is not what is tested here.
        path.held.clear()
        await path.idle()
        await asyncio.to_thread(_replicated, service)
        await asyncio.to_thread(service.master.kill)
        path.held.set()
        await asyncio.to_thread(service.wait_for_master, service.replica)
        await path.more()
        verdict = await path.end()
    assert verdict.pairs == len(path.taken)


def _replicated(service: Watched) -> None:
    def equal() -> bool:
        role = service.replica.ask("ROLE")
        return role[0] == b"slave" and role[4] == service.master.ask("ROLE")[1]

    wait_for(equal, "the replica")


async def test_what_a_fail_over_loses_is_said_and_nothing_is_counted_twice(service: Watched) -> None:
    async with whole(service.url) as path:
        await path.more()
        # The old master goes on to take pairs until it is told that it is none any more.
        await asyncio.to_thread(service.sentinel.ask, "SENTINEL", "FAILOVER", "models")
        await asyncio.to_thread(service.wait_for_master, service.replica)
        await path.more()
        verdict = await path.end(lost=True)
        missing = (await path.reading.snapshot()).missing_pairs
        assert verdict.pairs + missing == len(path.taken)
        assert (missing == 0) == next(check for check in verdict.checks if check.name == "nothing_lost").passed


async def test_a_dead_master_is_replaced_by_the_one_that_sentinels_name(service: Watched) -> None:
    async with Partitions.at(service.url, unique("dead"), max_entries=100, reply_within=1.0) as store:
        await store.prepare()
        await store.append("p", 1, b"one", 1, Accounting(1, 1, 1))
        await asyncio.to_thread(service.master.ask, "WAIT", 1, 0)
        await asyncio.to_thread(service.master.kill)
        with pytest.raises(StoreUnavailable):
            await store.snapshot()
        await asyncio.to_thread(service.wait_for_master, service.replica)
        assert (await store.snapshot()).pairs == 1
        await asyncio.to_thread(service.sentinel.kill)
        # Those that serve may be well while those that watch them are not.
        await store.append("p", 2, b"two", 1, Accounting(2, 2, 2))
        assert [entry.payload for entry in await store.home.browse("0", 10)] == [b"one", b"two"]


async def test_a_service_that_sentinels_do_not_know_is_said(service: Watched) -> None:
    async with Partitions.at(service.url.replace("models", "others"), "e", max_entries=1) as store:
        with pytest.raises(StoreUnavailable, match="doesn't know the service 'others'"):
            await store.prepare()


# What a Cluster may answer


async def test_one_node_that_answers_is_enough_to_begin_with(servers: Cluster) -> None:
    slot = slot_of("e", 0)
    first = next(node for node in servers.nodes if node is not servers.owner(slot))
    others = [node for node in servers.nodes if node is not first]
    third = next(node for node in others if node is not servers.owner(slot))
    # Of three one is frozen and one has never been.
    third.freeze()
    try:
        places = [third.port, 1, first.port]
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in places)
        async with Store(url, "e", max_entries=1, reply_within=1.0) as store:
            await store.prepare()
            await store.append("p", 1, b"one", 1, Accounting(1, 1, 1))
    finally:
        third.thaw()


async def test_tasks_that_share_connections_each_reach_a_slot_that_is_on_its_way(servers: Cluster) -> None:
    keys = [f"{{moving}}:{number}" for number in range(100)]
    slot, values = key_slot(b"moving"), [key.encode() for key in keys]
    loop = asyncio.get_running_loop()
    async with aclosing(Client(servers.url, reply_within=5, connect_within=5, attempts=1)) as client:

        async def ask_all() -> None:
            for _ in range(5):
                assert await asyncio.gather(*(client.command("GET", key) for key in keys)) == values

        def halfway() -> None:
            # Some of the keys are here and some there; each of the latter needs an ASKING of its own.
            asyncio.run_coroutine_threadsafe(ask_all(), loop).result(30)

        await asyncio.gather(*(client.command("SET", key, key) for key in keys))
        source, target = await asyncio.to_thread(servers.move, slot, halfway, after=50)
        assert b"errorstat_ASK:count=250" in source.ask("INFO", "errorstats")
        # It would send away whoever is not announced.
        assert b"errorstat_MOVED" not in target.ask("INFO", "errorstats")
        await ask_all()


@asynccontextmanager
async def aclosing(client: Client) -> AsyncIterator[Client]:
    try:
        yield client
    finally:
        await client.close()


async def test_a_slot_that_was_moved_unseen_is_found_though_its_old_master_is_dead(servers: Cluster) -> None:
    async with Store(servers.url, "e", max_entries=10, reply_within=1.0) as store:
        await store.prepare()
        source, target = await asyncio.to_thread(servers.move, slot_of("e", 0))
        source.kill()
        await store.append("p", 1, b"one", 1, Accounting(1, 1, 1))
        assert target.ask("EXISTS", "shadow:{e:0}:totals") == 1


async def test_slots_that_nobody_serves_or_that_nodes_disagree_on_are_a_store_that_is_unavailable(
    servers: Cluster,
) -> None:
    slot = slot_of("e", 0)
    owner = servers.owner(slot)
    other = next(node for node in servers.nodes if node is not owner)
    async with Store(servers.url, "e", max_entries=1, reply_within=1.0) as store:
        owner.ask("CLUSTER", "SETSLOT", slot, "NODE", other.ask("CLUSTER", "MYID"))
        with pytest.raises(StoreUnavailable, match="Cluster"):
            await store.prepare()
        for node in servers.nodes:
            node.ask("CLUSTER", "DELSLOTS", slot)
        with pytest.raises(StoreUnavailable, match="Cluster"):
            await store.prepare()
        owner.ask("CLUSTER", "ADDSLOTS", slot)
        await until(_works(store.prepare), "the slot")


def _works(ask: Callable[[], object]) -> Callable[[], object]:
    async def works() -> bool:
        try:
            await ask()  # type: ignore[misc]
        except StoreUnavailable:
            return False
        return True

    return works


async def test_a_node_that_is_frozen_holds_up_its_own_partitions_alone(servers: Cluster) -> None:
    async with Partitions.at(
        servers.url, unique("frozen"), partitions=PARTITIONS, max_entries=100, reply_within=0.5
    ) as store:
        await store.prepare()
        frozen = servers.owner(slot_of(store.name, 2))
        theirs = {n for n in range(PARTITIONS) if servers.owner(slot_of(store.name, n)) is frozen}
        frozen.freeze()
        try:
            outcomes = await asyncio.gather(
                *(one.append("p", 1, b"x", 1, Accounting(1, 1, 1)) for one in store.stores), return_exceptions=True
            )
        finally:
            frozen.thaw()
        assert {n for n, outcome in enumerate(outcomes) if isinstance(outcome, StoreUnavailable)} == theirs
        assert [outcome for n, outcome in enumerate(outcomes) if n not in theirs] == [None] * (PARTITIONS - len(theirs))
        for one in store.stores:
            await until(_works(lambda one=one: one.append("p", 1, b"x", 1, Accounting(1, 1, 1))), "the node")
        assert (await store.snapshot()).entries == PARTITIONS


async def test_all_nodes_gone_is_a_store_that_is_unavailable_and_comes_back(servers: Cluster) -> None:
    async with Store(servers.url, "e", max_entries=10, reply_within=1.0) as store:
        await store.prepare()
        for node in servers.nodes:
            node.kill()
        outcomes = await asyncio.gather(*(store.watermark() for _ in range(20)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
        for node in servers.nodes:
            node.start()
        await until(_works(store.watermark), "the Cluster")


async def test_the_kind_must_be_right(servers: Cluster, valkey: EmbeddedServer, service: Watched) -> None:
    wrong = {
        # Any but the one that serves the slot.
        **{f"redis://127.0.0.1:{node.port}": r"write redis\+cluster://" for node in servers.nodes[:1]},
        service.url.replace("sentinel", "cluster").removesuffix("/models"): "a redis.url of its kind",
        f"redis+sentinel://127.0.0.1:{service.master.port}/models": "a redis.url of its kind",
        f"redis+cluster://127.0.0.1:{service.master.port}": "a redis.url of its kind",
    }
    for url, advice in wrong.items():
        name = next(name for name in map(str, range(100)) if servers.owner(slot_of(name, 0)) is not servers.nodes[0])
        async with Store(url, name, max_entries=1) as store:
            with pytest.raises(StoreUnavailable, match=advice):
                await store.prepare()


# Reads that wait


async def test_a_read_outlasts_the_time_for_replies(url: str) -> None:
    async with Store(url, unique("block"), max_entries=1, reply_within=0.3) as store:
        await store.prepare()
        began = time.monotonic()
        assert await store.read("w", 1, 1.0) == []
        assert await store.follow("$", 1, 1.0) == []
        assert time.monotonic() - began >= 2.0


async def test_a_read_of_six_seconds_takes_six_where_replies_have_five(servers: Cluster) -> None:
    async with Store(servers.url, unique("block"), max_entries=1) as store:
        await store.prepare()
        began = time.monotonic()
        # Were it cut off and begun again, it would end as unavailable.
        assert await store.read("w", 1, 6.0) == []
        assert time.monotonic() - began >= 6.0
