"""A worker against a real Valkey: counted once, through restarts, takeovers, lost replies and bad payloads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable

import msgspec
import pytest
from redis.asyncio import Redis
from servers import unique, until

from shadowproxy import metrics
from shadowproxy.comparator.worker import Worker
from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.versions import VersionReader
from shadowproxy.config import Settings, loads
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs import scripts
from shadowproxy.pairs import store as store_module
from shadowproxy.pairs.client import Script
from shadowproxy.pairs.codec import encode
from shadowproxy.pairs.controls import ControlChange
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.experiments import reset, versions
from shadowproxy.pairs.partitions import Partitions, Watermarks
from shadowproxy.pairs.store import Store, Superseded
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.tasks import Tasks
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Verdict

SETTINGS = loads(
    """
baseline: {url: http://127.0.0.1:1, deadline: 0.1}
candidate: {url: http://127.0.0.1:2, deadline: 0.1}
routes:
  - {name: rank, path: /rank, ids: "response.body.ids", cohorts: {id: request.body.id}}
comparator: {read: 3, claim_idle: 0.2}
verdict:
  bucket: 0.1
  settle: 0.0
  max_cohorts: 200
  guardrails: [{metric: failures.difference, margin: 0.01}, {metric: ranking.rbo, margin: 0.1}]
"""
)


QUICK = SETTINGS.comparator.model_copy(update={"claim_idle": 0.01})


def pair(at: int, *, body: bytes = b'{"ids":["a","b"]}', head: bytes = b"") -> Pair:
    asked, answer = b'{"id":%d}' % at, b'{"ids":["a","b"]}'
    request = Request("POST", "/rank", b"content-type: application/json\r\n", asked, len(asked))
    baseline = Exchange(Outcome.OK, 200, b"", answer, len(answer), b"", 0.01, 0.02)
    candidate = Exchange(Outcome.OK, 200, head, body, len(body), b"", 0.01, 0.02)
    return Pair(str(at), 1000.0 + at / 10, request, baseline, candidate)


class Bench:
    """A store in a real Valkey, what writes to it, and workers on it."""

    def __init__(self, store: Store, url: str) -> None:
        self.store = store
        self.url = url
        self.tasks = Tasks()
        self.written = 0
        self._others: list[Store] = []

    async def write(self, pairs: Iterable[Pair]) -> None:
        batch = list(pairs)
        await self.write_raw(encode(batch), len(batch))

    async def write_raw(self, payload: bytes, pairs: int) -> None:
        self.written += 1
        account = Accounting(requests=self.written, eligible=self.written, recorded=self.written)
        await self.store.append("producer", self.written, payload, pairs, account)

    async def another_store(self) -> Store:
        other = await Store.open(self.url, self.store.name, max_entries=1000)
        self._others.append(other)
        return other

    async def close(self) -> None:
        await self.tasks.cancel()
        for store in (self.store, *self._others):
            await store.close()

    def worker(self, name: str, store: Store | None = None, settings: Settings = SETTINGS) -> Worker:
        header = settings.verdict.version_header
        return Worker(
            store or self.store,
            Comparer(settings.routes),
            Plan(settings),
            metrics.ComparatorMetrics(metrics.registry()),
            name=name,
            read=settings.comparator.read,
            claim_idle=settings.comparator.claim_idle,
            max_cohorts=settings.verdict.max_cohorts,
            versions=None if header is None else VersionReader(header),
        )

    async def verdict(self) -> Verdict:
        return (await VerdictReader(Partitions(self.store), SETTINGS).read()).verdict

    async def all_counted(self, worker: Worker) -> Verdict:
        """Run a worker until it has counted what there is."""
        worker.stop()
        await worker.run()
        return await self.verdict()


@pytest.fixture
async def bench(valkey: EmbeddedServer) -> AsyncIterator[Bench]:
    store = await Store.open(valkey.url, unique("worker"), max_entries=1000)
    made = Bench(store, valkey.url)
    yield made
    await made.close()


def counted(verdict: Verdict) -> dict[str, int]:
    return {name: report.pairs for name, report in verdict.cohorts.items()}


def once(verdict: Verdict, numbers: Iterable[int]) -> None:
    assert counted(verdict) == {f"id={at}": 1 for at in numbers}


async def test_what_is_in_the_stream_is_counted_before_a_stop(bench: Bench) -> None:
    for first in range(0, 40, 4):
        await bench.write(pair(at) for at in range(first, first + 4))
    verdict = await bench.all_counted(bench.worker("one"))
    once(verdict, range(40))
    assert (verdict.pairs, verdict.open_pairs) == (40, 0)
    snapshot = await bench.store.snapshot()
    assert (snapshot.pending, snapshot.undelivered, snapshot.lost_entries) == (0, 0, 0)


async def test_a_payload_that_cannot_be_read_is_a_dead_letter_and_harms_no_neighbour(bench: Bench) -> None:
    await bench.write([pair(0)])
    await bench.write_raw(b"not a batch", 7)
    await bench.write([pair(1, body=b"\xff{"), pair(2)])
    verdict = await bench.all_counted(bench.worker("one"))
    once(verdict, range(3))
    assert verdict.failures["candidate"]["bad_body"] == 1
    letters = await bench.store.dead_letters(10)
    assert [(entry.payload, entry.pairs) for entry, _ in letters] == [(b"not a batch", 7)]
    assert any(check.name == "no_dead_letters" and not check.passed for check in verdict.checks)


async def test_an_entry_of_a_newer_version_says_what_to_do(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("shadowproxy.pairs.store.ENTRY_VERSION", 2)
        await bench.write([pair(0)])
    await bench.write([pair(1)])
    once(await bench.all_counted(bench.worker("one")), [1])
    ((letter, reason),) = await bench.store.dead_letters(10)
    assert "version 2, this program reads 1: update shadowproxy" in reason
    assert letter.payload == encode([pair(0)])


@pytest.mark.parametrize("started", [float("nan"), float("inf"), -1.0, 1e300])
async def test_an_impossible_start_time_is_a_dead_letter(bench: Bench, started: float) -> None:
    await bench.write([msgspec.structs.replace(pair(0), started=started)])
    await bench.write([pair(1)])
    once(await bench.all_counted(bench.worker("one")), [1])
    [(_, reason)] = await bench.store.dead_letters(10)
    assert "no Unix time" in reason


async def test_an_entry_that_ends_every_worker_is_given_up(bench: Bench) -> None:
    await bench.write([pair(0)])
    store = await bench.another_store()
    assert await store.read("dead-0", 10, 0.0)
    for number in range(1, 8):
        assert await store.claim(f"dead-{number}", 0.0, 10)
    await bench.write([pair(1)])
    settings = SETTINGS.model_copy(update={"comparator": SETTINGS.comparator.model_copy(update={"claim_idle": 0.001})})
    once(await bench.all_counted(bench.worker("one", settings=settings)), [1])
    [(_, reason)] = await bench.store.dead_letters(10)
    assert "8 times" in reason


OWNERSHIP = """    if #redis.call('XPENDING', stream, group, id, id, 1, worker) == 0 then
        lost[#lost + 1] = id
    end
"""
OWN_VERSION = """if held ~= ARGV[4] then
    return {2}
end
"""
OTHERS_VERSION = " or (redis.call('HGET', versions, ARGV[at]) or '') ~= ARGV[at + 1]"


def cut(monkeypatch: pytest.MonkeyPatch, name: str, check: str) -> None:
    """Have all stores run the script `name` without a check of it. Fails where it hasn't just this one."""
    text: str = getattr(scripts, name)
    assert text.count(check) == 1
    monkeypatch.setattr(store_module, f"_{name}", Script(text.replace(check, "")))


async def thawed_after_a_takeover(bench: Bench) -> Verdict:
    """Read, frozen, entries claimed and counted by another, thawed, committed."""
    await bench.write([pair(0)])
    await bench.write([pair(1)])
    frozen_store = await bench.another_store()
    frozen = bench.worker("frozen", frozen_store)
    await frozen_store.load_state("frozen")
    entries = await frozen_store.read("frozen", 10, 0.0)
    assert len(entries) == 2

    other = bench.worker("other")
    running = bench.tasks.start(other.run(), name="other")

    async def taken() -> bool:
        return (await bench.store.snapshot()).committed_pairs == 2

    await until(taken, "the takeover")
    await frozen._count(entries)  # it goes on where it was: between reading and committing
    other.stop()
    await running
    return await bench.verdict()


async def test_a_frozen_worker_that_thaws_counts_nothing_twice(bench: Bench) -> None:
    once(await thawed_after_a_takeover(bench), range(2))


async def test_without_the_check_of_ownership_a_thawed_worker_would_count_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the race above is one: the same without the fence."""
    cut(monkeypatch, "COMMIT", OWNERSHIP)
    assert counted(await thawed_after_a_takeover(bench)) == {"id=0": 2, "id=1": 2}


async def thawed_after_it_was_absorbed(bench: Bench) -> Worker:
    """Counted a pair, frozen so long that another has its state, thawed, and given another pair."""
    frozen = bench.worker("frozen", await bench.another_store())
    await bench.write([pair(0)])
    await bench.all_counted(frozen)
    other = bench.worker("other", settings=SETTINGS.model_copy(update={"comparator": QUICK}))
    running = bench.tasks.start(other.run(), name="other")

    async def absorbed() -> bool:
        return list((await bench.store.snapshot()).states) == ["other"]

    await until(absorbed, "the end of its state")
    other.stop()
    await running
    await bench.write([pair(1)])
    return frozen


async def test_a_worker_that_thaws_after_its_state_was_absorbed_starts_over(bench: Bench) -> None:
    frozen = await thawed_after_it_was_absorbed(bench)
    with pytest.raises(Superseded):
        await frozen._count(await frozen._store.read("frozen", 10, 0.0))
    once(await bench.all_counted(frozen), range(2))


async def test_without_the_check_of_its_version_an_absorbed_state_would_count_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = await thawed_after_it_was_absorbed(bench)
    cut(monkeypatch, "COMMIT", OWN_VERSION)
    await frozen._count(await frozen._store.read("frozen", 10, 0.0))
    assert counted(await bench.verdict()) == {"id=0": 2, "id=1": 1}


async def absorbed_by_two(bench: Bench) -> list[bool]:
    """Two workers see the same dead worker, and then each takes its state over."""
    await bench.write([pair(0)])
    await bench.all_counted(bench.worker("dead", await bench.another_store()))
    heirs = [bench.worker(name, await bench.another_store()) for name in ("one", "two")]
    for heir in heirs:
        await heir._recover()
    seen = [await heir._store.silent(heir._name, 0.0, 10) for heir in heirs]
    assert [[stored.worker for stored in dead] for dead in seen] == [["dead"], ["dead"]]
    return [await heir._absorb(dead) for heir, dead in zip(heirs, seen, strict=True)]


async def test_a_dead_workers_state_is_taken_over_by_one(bench: Bench) -> None:
    assert await absorbed_by_two(bench) == [True, False]
    once(await bench.verdict(), [0])


async def test_without_the_check_of_its_version_a_dead_workers_state_would_count_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, "ABSORB", OTHERS_VERSION)
    assert await absorbed_by_two(bench) == [True, True]
    assert counted(await bench.verdict()) == {"id=0": 2}


async def absorbed_as_it_thaws(bench: Bench) -> bool:
    """A silent worker's state is read to be taken over, and before it is, the worker thaws and commits."""
    frozen = bench.worker("frozen", await bench.another_store())
    await bench.write([pair(0)])
    await bench.all_counted(frozen)
    other = bench.worker("other")
    await other._recover()
    silent = await bench.store.silent("other", 0.0, 10)
    await bench.write([pair(1)])
    await frozen._count(await frozen._store.read("frozen", 10, 0.0))
    return await other._absorb(silent)


async def test_a_worker_that_thaws_as_it_is_absorbed_loses_nothing(bench: Bench) -> None:
    assert not await absorbed_as_it_thaws(bench)
    once(await bench.verdict(), range(2))


async def test_without_the_check_of_its_version_what_a_thawed_worker_committed_would_be_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, "ABSORB", OTHERS_VERSION)
    assert await absorbed_as_it_thaws(bench)
    assert counted(await bench.verdict()) == {"id=0": 1}


async def test_a_worker_goes_on_from_its_own_state(bench: Bench) -> None:
    for at in range(6):
        await bench.write([pair(at)])
    store = await bench.another_store()
    assert len(await store.read("one", 4, 0.0)) == 4  # and dies
    once(await bench.all_counted(bench.worker("one")), range(6))
    for at in range(6, 9):
        await bench.write([pair(at)])
    once(await bench.all_counted(bench.worker("one")), range(9))


async def test_two_of_one_name_still_count_once(bench: Bench) -> None:
    """Against the rule that a worker's name is its own; the store notices and both start over."""
    stores = [await bench.another_store() for _ in range(2)]
    workers = [bench.worker("same", store) for store in stores]
    running = [bench.tasks.start(worker.run(), name="twin") for worker in workers]
    for at in range(60):
        await bench.write([pair(at)])

    async def all_committed() -> bool:
        return (await bench.store.snapshot()).committed_pairs == 60

    await until(all_committed, "all counted")
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
    once(await bench.verdict(), range(60))


async def test_the_states_of_dead_workers_count(bench: Bench) -> None:
    for number in range(3):
        for at in range(number * 5, number * 5 + 5):
            await bench.write([pair(at)])
        await bench.all_counted(bench.worker(f"worker-{number}"))
    once(await bench.verdict(), range(15))


async def test_the_states_of_workers_that_are_long_dead_are_taken_over(bench: Bench) -> None:
    for number in range(20):
        await bench.write([pair(number)])
        await bench.all_counted(bench.worker(f"worker-{number}", await bench.another_store()))
    await bench.write([pair(20)])
    last = bench.worker("last", settings=SETTINGS.model_copy(update={"comparator": QUICK}))
    running = bench.tasks.start(last.run(), name="last")

    async def alone() -> bool:
        return list((await bench.store.snapshot()).states) == ["last"]

    await until(alone, "a single state")
    last.stop()
    await running
    once(await bench.verdict(), range(21))


async def test_a_bucket_waits_for_its_pairs_in_other_partitions(valkey: EmbeddedServer) -> None:
    """Slow pairs end later, so they may be in another partition: what is there of a bucket is not all of it."""
    async with Partitions.at(valkey.url, unique("worker"), partitions=2, max_entries=100) as partitions:
        await partitions.prepare()
        marks = Watermarks(2)
        workers = [
            Worker(
                store,
                Comparer(SETTINGS.routes),
                Plan(SETTINGS),
                metrics.ComparatorMetrics(metrics.registry()),
                name="one",
                read=3,
                claim_idle=20.0,
                max_cohorts=200,
                home=partitions.home,
                watermarks=marks,
            )
            for store in partitions.stores
        ]
        began = time.time()

        def now(at: int) -> bytes:
            return encode([msgspec.structs.replace(pair(at), started=began)])

        await partitions.append("p", 1, now(1), 1, Accounting(1, 1, 1))
        await partitions.append("p", 2, now(0), 1, Accounting(2, 2, 2))
        # What is in partition 1 has been read by somebody who does not come to commit it.
        held = (await partitions.stores[1].read("stuck", 1, 0))[0]
        tasks = Tasks()
        running = [tasks.start(worker.run(), name=repr(worker)) for worker in workers]
        reader = VerdictReader(partitions, SETTINGS)

        async def committed(pairs: int) -> bool:
            return (await partitions.stores[0].snapshot()).committed_pairs == pairs

        await until(lambda: committed(1))

        async def would_be_closed() -> bool:
            return await partitions.stores[0].watermark() > began + 0.5

        await until(would_be_closed)
        # Another commit, so that what the worker has made of its state meanwhile is stored.
        await partitions.append("p", 4, now(4), 1, Accounting(4, 4, 4))
        await until(lambda: committed(2))
        verdict = (await reader.read()).verdict
        assert (verdict.pairs, verdict.open_pairs, verdict.late_pairs) == (0, 2, 0)
        assert await partitions.stores[1].claim("another", 0, 10)
        await partitions.stores[1].commit("another", [held.id], Plan(SETTINGS).empty().to_bytes())

        async def closed() -> bool:
            return (await reader.read()).verdict.pairs == 2

        await until(closed)
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)


async def test_cohorts_past_the_maximum_are_pooled(bench: Bench) -> None:
    settings = SETTINGS.model_copy(update={"verdict": SETTINGS.verdict.model_copy(update={"max_cohorts": 3})})
    await bench.write(pair(at) for at in range(8))
    worker = bench.worker("one", settings=settings)
    worker.stop()
    await worker.run()
    verdict = (await VerdictReader(Partitions(bench.store), settings).read()).verdict
    assert sorted(verdict.cohorts) == ["id=0", "id=1", "id=2", "other"]
    assert verdict.cohorts["other"].pairs == 5


async def test_a_server_that_refuses_to_be_read_is_asked_less_and_less(
    own_valkey: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    store = await Store.open(own_valkey.url, unique("worker"), max_entries=1000)
    bench = Bench(store, own_valkey.url)
    try:
        await bench.write([pair(0)])
        async with Redis.from_url(own_valkey.url) as client:
            await client.execute_command("ACL", "SETUSER", "default", "-xreadgroup")
            worker = bench.worker("one")
            running = bench.tasks.start(worker.run(), name="one")

            def pauses() -> list[float]:
                return [record.args[0] for record in caplog.records if record.msg.startswith("starting over")]

            await until(lambda: len(pauses()) >= 4, "four refusals")
            await client.execute_command("ACL", "SETUSER", "default", "+xreadgroup")
        assert pauses()[:4] == [0.05, 0.1, 0.2, 0.4]
        worker.stop()
        await running
        # Stopped in doubt or not, nothing is lost and nothing counted twice.
        once(await bench.all_counted(bench.worker("one")), [0])
    finally:
        await bench.close()


async def test_a_server_that_comes_back_is_worked_with_again(own_valkey: EmbeddedServer) -> None:
    store = await Store.open(own_valkey.url, unique("worker"), max_entries=1000, reply_within=2.0)
    bench = Bench(store, own_valkey.url)
    worker = bench.worker("one")
    running = bench.tasks.start(worker.run(), name="one")
    try:
        await bench.write([pair(0)])
        await until(lambda: worker.connected, "the worker")
        own_valkey.stop()
        await until(lambda: not worker.connected, "the worker to notice")
        own_valkey.start()
        await until(lambda: worker.connected, "the worker to come back")
        await bench.write([pair(1)])
        worker.stop()
        await running
        once(await bench.verdict(), range(2))
    finally:
        await bench.close()


async def test_slots_that_the_store_forgot_are_asked_for_again(own_valkey: EmbeddedServer) -> None:
    """A store that was emptied gives slots anew, to others first; what a worker remembers of them is wrong then."""
    store = await Store.open(own_valkey.url, unique("worker"), max_entries=1000)
    bench = Bench(store, own_valkey.url)
    worker = bench.worker("one")
    running = bench.tasks.start(worker.run(), name="one")

    async def committed() -> bool:
        snapshot = await store.snapshot()
        return snapshot.committed_pairs == snapshot.pairs > 0

    try:
        await bench.write([pair(0), pair(1)])
        await until(committed, "the first batch")
        async with Redis.from_url(own_valkey.url) as raw:
            await raw.flushall()
        assert await store.slots(["id=1"], SETTINGS.verdict.max_cohorts) == {"id=1": 1}
        bench.written = 0
        await bench.write([pair(0), pair(1), pair(1)])
        await until(committed, "the second batch")
        worker.stop()
        await running
        assert {name: report.pairs for name, report in (await bench.verdict()).cohorts.items()} == {
            "id=0": 1,
            "id=1": 2,
        }
    finally:
        await bench.close()


@pytest.mark.parametrize("partitions", [1, 3])
async def test_workers_that_idle_through_a_reset_count_every_new_pair_once_and_no_old_one(
    valkey: EmbeddedServer, partitions: int
) -> None:
    """They hold states, versions and slots of before, and nobody tells them but the store."""
    async with Partitions.at(valkey.url, unique("reset"), partitions=partitions, max_entries=1000) as home:
        await home.prepare()
        tasks, workers, others = Tasks(), [], []
        for name in ("one", "two"):
            # Each as a process of its own, with connections and versions of its own.
            own = Partitions.at(valkey.url, home.name, partitions=partitions, max_entries=1000)
            others.append(own)
            marks = Watermarks(partitions)
            workers += [
                Worker(
                    store,
                    Comparer(SETTINGS.routes),
                    Plan(SETTINGS),
                    metrics.ComparatorMetrics(metrics.registry()),
                    name=name,
                    read=1,
                    claim_idle=20.0,
                    max_cohorts=8,
                    home=own.home,
                    watermarks=marks,
                )
                for store in own.stores
            ]
        settings = SETTINGS.model_copy(update={"verdict": SETTINGS.verdict.model_copy(update={"max_cohorts": 8})})
        reader = VerdictReader(home, settings)
        running = [tasks.start(worker.run(), name=repr(worker)) for worker in workers]
        written = 0

        async def write(numbers: Iterable[int]) -> None:
            nonlocal written
            for number in numbers:
                written += 1
                account = Accounting(written, written, written)
                await home.append("producer", written, encode([pair(number)]), 1, account)

        async def counted(pairs: int) -> bool:
            return (await home.snapshot()).committed_pairs == pairs

        # Cohorts id=0 … id=7 get the slots, in some order; afterwards others get them, in another.
        await write(at % 8 for at in range(60))
        await until(lambda: counted(60))
        assert (await reader.read()).verdict.pairs == 60
        await home.home.change_controls(ControlChange(stopped=True))
        await reset(home, by="", reason="")
        verdict = (await reader.read()).verdict
        assert (verdict.pairs, verdict.open_pairs, verdict.cohorts) == (0, 0, {})
        await home.home.change_controls(ControlChange(stopped=False))
        await write([17, 16, 15, 14, 13, 12, 11, 10] * 5)
        await until(lambda: counted(40))
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)
        verdict = (await reader.read()).verdict
        assert {name: report.pairs for name, report in verdict.cohorts.items()} == {
            f"id={at}": 5 for at in range(10, 18)
        }
        assert (verdict.pairs, verdict.open_pairs, verdict.accounting.recorded) == (40, 0, 40)
        assert all(check.passed for check in verdict.checks if check.name in ("recorded", "nothing_lost"))
        await tasks.cancel()
        for own in others:
            await own.close()


async def test_slots_of_a_commit_that_failed_are_not_those_after_a_reset(bench: Bench) -> None:
    """Such a worker has no state by which the store could tell it that all is new."""
    robbed, thief = await bench.another_store(), await bench.another_store()
    worker = bench.worker("robbed", robbed)
    await bench.write([pair(0)])
    entries = await robbed.read("robbed", 10, 0.0)
    await bench.store.slots(["id=0"], 200)
    [taken] = await thief.claim("thief", 0.0, 10)
    await worker._count(entries)
    await thief.load_state("thief")
    await thief.commit("thief", [taken.id], Plan(SETTINGS).empty().to_bytes())
    await bench.store.change_controls(ControlChange(stopped=True))
    await reset(Partitions(bench.store), by="", reason="")
    assert await bench.store.slots(["id=7"], 200) == {"id=7": 1}
    await bench.write([pair(0), pair(7)])
    await worker._count(await robbed.read("robbed", 10, 0.0))
    once(await bench.verdict(), [0, 7])


class Versioned:
    """A bench whose settings name a version header."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        policy = SETTINGS.verdict.model_copy(update={"version_header": "x-model-version"})
        self.settings = SETTINGS.model_copy(update={"verdict": policy})

    async def counted(self, *versions: str) -> Verdict:
        """The verdict after another pair of each of these versions."""
        for version in versions:
            at = self.bench.written
            head = f"X-Model-Version: {version}\r\nContent-Type: application/json\r\n".encode("latin-1")
            await self.bench.write([pair(at, head=head if version else b"")])
        worker = self.bench.worker("one", settings=self.settings)
        worker.stop()
        await worker.run()
        return (await VerdictReader(Partitions(self.bench.store), self.settings).read()).verdict


def versions_check(verdict: Verdict) -> tuple[bool, str]:
    [check] = [check for check in verdict.checks if check.name == "versions"]
    return check.passed, check.detail


async def test_a_second_version_is_told_and_holds_a_promote_back(bench: Bench) -> None:
    versioned = Versioned(bench)
    assert versions_check(await versioned.counted("", "")) == (
        False,
        "no answer carries x-model-version yet; see verdict.version_header",
    )
    verdict = await versioned.counted("7", "7")
    assert versions_check(verdict) == (True, "by x-model-version the candidate is 7, all the time")
    [seen] = verdict.versions["candidate"]
    assert (seen.value, seen.first, seen.last) == ("7", 1000.2, 1000.3)
    passed, told = versions_check(await versioned.counted("7", "8"))
    assert not passed
    assert told.startswith(
        "the candidate's x-model-version changed from 7 to 8 at 1970-01-01 00:16:40 UTC: start a new experiment"
    )
    # Nobody who does not ask is told.
    assert [check for check in (await bench.verdict()).checks if check.name == "versions"] == []


async def test_versions_are_noted_before_their_pairs_are_counted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    versioned = Versioned(bench)
    commit, noted = bench.store.commit, []

    async def watched(*arguments: object, **named: object) -> float:
        noted.append(await versions(bench.store))
        return await commit(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.store, "commit", watched)
    await versioned.counted("7")
    [before] = noted
    assert [seen.value for seen in before["candidate"]] == ["7"]


async def test_workers_count_blocks_from_one_beginning_until_a_reset(bench: Bench) -> None:
    policy = SETTINGS.verdict.model_copy(update={"blocks": 0.2})
    by_blocks = SETTINGS.model_copy(update={"verdict": policy})
    reader = VerdictReader(Partitions(bench.store), by_blocks)

    async def blocks(name: str, *pairs: int) -> int | None:
        """Closed ones, after another worker has counted another batch."""
        await bench.write(map(pair, pairs))
        worker = bench.worker(name, settings=by_blocks)
        worker.stop()
        await worker.run()
        return (await reader.read()).verdict.guardrails[0].blocks

    # Two pairs a block of 0.2 s from 1002 s on; what began before is in blocks before.
    assert await blocks("one", 20, 21, 22) == 1
    assert await blocks("two", 23, 10, 11, 25) == 3
    assert await bench.store.command("GET", "origin") == b"1002.0"
    await bench.store.change_controls(ControlChange(stopped=True))
    await reset(Partitions(bench.store), by="", reason="", force=True)
    await bench.store.change_controls(ControlChange(stopped=False))
    assert await blocks("one", 33, 35, 37) == 2
    assert await bench.store.command("GET", "origin") == b"1003.0"
