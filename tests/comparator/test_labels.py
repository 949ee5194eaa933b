"""Labels against a real Valkey: joined exactly once, whoever comes first, dies, or is asked twice."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Self

import msgspec
import pytest
from redis.asyncio import Redis
from servers import relay_to, unique, until

from shadowproxy import metrics
from shadowproxy.comparator.worker import Worker
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Settings, loads
from shadowproxy.errors import StoreUnavailable
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs.codec import encode
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.partitions import Partitions, Watermarks
from shadowproxy.pairs.store import Store
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.tasks import Tasks
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Labels, Verdict


def settings(labels: str = "1h") -> Settings:
    return loads(
        f"""
baseline: {{url: http://127.0.0.1:1, deadline: 0.1}}
candidate: {{url: http://127.0.0.1:2, deadline: 0.1}}
routes:
  - {{name: rank, path: /rank, ids: "response.body.ids", labels: {labels}, cohorts: {{id: request.body.id}}}}
comparator: {{read: 3, claim_idle: 0.2}}
verdict:
  bucket: 0.1
  settle: 0.0
  max_cohorts: 200
  guardrails: [{{metric: failures.difference, margin: 0.01}}, {{metric: quality.reciprocal_rank, margin: 0.1}}]
"""
    )


HOUR = settings()


def pair(at: int, *, started: float | None = None) -> Pair:
    """The right answer, `a`, is the baseline's first and the candidate's second: a loss of a half."""
    asked = b'{"id":%d}' % at
    request = Request("POST", "/rank", b"content-type: application/json\r\n", asked, len(asked))
    sides = [
        Exchange(Outcome.OK, 200, b"", body, len(body), b"", 0.01, 0.02)
        for body in (b'{"ids":["a","b"]}', b'{"ids":["b","a"]}')
    ]
    return Pair(str(at), time.time() if started is None else started, request, *sides)


def label(at: int, truth: Any = ("a",)) -> tuple[str, bytes]:
    return str(at), json.dumps(truth).encode()


class Between(Store):
    """A store that lets something happen between what a worker looks at and what it stores."""

    before_join: Callable[[], Awaitable[Any]] | None = None
    before_commit: Callable[[], Awaitable[Any]] | None = None

    async def join(self, *args: Any, **more: Any) -> list[str]:
        happens, self.before_join = self.before_join, None
        if happens is not None:
            await happens()
        return await super().join(*args, **more)

    async def commit(self, *args: Any, **more: Any) -> float:
        happens, self.before_commit = self.before_commit, None
        if happens is not None:
            await happens()
        return await super().commit(*args, **more)


class Bench:
    """An experiment in a real Valkey, what writes to it, and workers on it."""

    def __init__(self, url: str, *, chosen: Settings = HOUR, partitions: int = 1, max_labels: int = 1000) -> None:
        self.url = url
        self.name = unique("labels")
        self.chosen = chosen
        self.max_labels = max_labels
        self.partitions = Partitions.at(url, self.name, partitions=partitions, max_entries=1000, max_labels=max_labels)
        self.store = self.partitions.home
        self.tasks = Tasks()
        self._sequences = itertools.count(1)
        self._others: list[Store] = []

    async def __aenter__(self) -> Self:
        await self.partitions.prepare()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.tasks.cancel()
        await self.partitions.close()
        for store in self._others:
            await store.close()

    async def write(self, *pairs: Pair) -> None:
        at = next(self._sequences)
        await self.partitions.append("p", at, encode(list(pairs)), len(pairs), Accounting(at, at, at))

    async def label(self, *labels: tuple[str, bytes]) -> None:
        await self.partitions.add_labels(labels)

    async def another(self, url: str = "") -> Between:
        other = Between(url or self.url, self.name, max_entries=1000, max_labels=self.max_labels)
        self._others.append(other)
        return other

    def worker(self, name: str = "one", store: Store | None = None, **more: Any) -> Worker:
        return Worker(
            store or self.store,
            Comparer(self.chosen.routes),
            Plan(self.chosen),
            metrics.ComparatorMetrics(metrics.registry()),
            name=name,
            read=self.chosen.comparator.read,
            claim_idle=self.chosen.comparator.claim_idle,
            max_cohorts=self.chosen.verdict.max_cohorts,
            **more,
        )

    async def work(self, name: str = "one", store: Store | None = None) -> None:
        """Run a worker until it has dealt with what there is."""
        worker = self.worker(name, store)
        worker.stop()
        await worker.run()

    def start(self, worker: Worker) -> asyncio.Task[None]:
        return self.tasks.start(worker.run(), name="worker")

    async def verdict(self) -> Verdict:
        return (await VerdictReader(self.partitions, self.chosen).read()).verdict

    async def labels(self) -> Labels:
        found = (await self.verdict()).labels
        assert found is not None
        return found

    async def until_labels(self, **figures: int) -> None:
        async def are() -> bool:
            found = await self.labels()
            return all(getattr(found, name) == value for name, value in figures.items())

        await until(are, f"labels {figures}")

    async def once(self, numbers: Iterable[int], labelled: Iterable[int]) -> None:
        """Each of these pairs is counted once, and the quality of those that are labelled once."""

        async def closed() -> bool:
            return not (await self.verdict()).open_pairs

        await until(closed, "the buckets to close")
        verdict = await self.verdict()
        counted, judged = set(numbers), set(labelled)
        assert {name: report.pairs for name, report in verdict.cohorts.items()} == {f"id={at}": 1 for at in counted}
        quality = {
            name: cell.pairs
            for name, report in verdict.cohorts.items()
            for cell in report.guardrails
            if cell.metric == "quality.reciprocal_rank"
        }
        assert {name for name, pairs in quality.items() if pairs} == {f"id={at}" for at in judged}
        cell = next(cell for cell in verdict.guardrails if cell.metric == "quality.reciprocal_rank")
        assert (cell.pairs, cell.undefined) == (len(judged), 0)
        assert cell.estimate == (pytest.approx(0.5) if judged else None)
        assert (verdict.pairs, verdict.late_pairs) == (len(counted), 0)


@pytest.fixture
async def bench(valkey: EmbeddedServer) -> AsyncIterator[Bench]:
    async with Bench(valkey.url) as made:
        yield made


async def test_a_label_after_its_pair(bench: Bench) -> None:
    await bench.write(pair(0), pair(1))
    await bench.work()
    assert (await bench.labels()).waiting_pairs == 2
    await bench.once([0, 1], [])
    await bench.label(label(1))
    await bench.work()
    found = await bench.labels()
    assert (found.received, found.joined, found.waiting_pairs, found.waiting, found.unmatched) == (1, 1, 1, 0, 0)
    await bench.once([0, 1], [1])


async def test_a_label_before_its_pair(bench: Bench) -> None:
    await bench.label(label(0), label(7))
    await bench.work()
    found = await bench.labels()
    assert (found.received, found.joined, found.waiting, found.unmatched) == (2, 0, 2, 0)
    await bench.write(pair(0), pair(1))
    await bench.work("another")
    found = await bench.labels()
    assert (found.received, found.joined, found.waiting_pairs, found.waiting) == (2, 1, 1, 1)
    await bench.once([0, 1], [0])


async def test_a_label_counts_once(bench: Bench) -> None:
    await bench.label(label(0), label(0, ["b"]))
    await bench.work()
    await bench.write(pair(0), pair(1))
    await bench.label(label(1), label(1, ["b"]))
    await bench.work()
    await bench.label(label(0, ["b"]), label(1, ["b"]))
    await bench.work("another")
    found = await bench.labels()
    assert (found.received, found.joined, found.duplicates, found.unmatched) == (6, 2, 4, 0)
    await bench.once([0, 1], [0, 1])


async def test_what_is_no_label_harms_none(bench: Bench) -> None:
    await bench.write(pair(0))
    async with Redis.from_url(bench.url) as raw:
        for fields in (
            {"id": "0"},
            {"truth": '["a"]'},
            {"id": "0", "truth": "["},
            {"id": "0", "truth": "[]"},
            {"id": b"\xff", "truth": b"\xff"},
            {"what": "else"},
            {"id": "0", "truth": '["a"]'},
        ):
            await raw.xadd(f"shadow:{{{bench.name}:0}}:labels", fields)
    await bench.work()
    found = await bench.labels()
    assert (found.received, found.joined, found.invalid, found.waiting) == (7, 1, 5, 1)
    await bench.once([0], [0])


async def test_pairs_that_share_a_request_id_have_one_label(bench: Bench) -> None:
    await bench.write(pair(0), msgspec.structs.replace(pair(1), id="0"))
    await bench.label(label(0), label(0))
    await bench.work()
    await bench.write(msgspec.structs.replace(pair(2), id="0"))
    await bench.work()
    found = await bench.labels()
    assert (found.joined, found.duplicates, found.overflow, found.waiting_pairs) == (1, 1, 2, 0)
    await bench.once([0, 1, 2], [0])


async def test_several_workers_join_each_once(bench: Bench) -> None:
    workers = [bench.worker(f"worker-{number}", await bench.another()) for number in range(3)]
    running = [bench.start(worker) for worker in workers]
    for first in range(0, 60, 6):
        early, late = range(first, first + 3), range(first + 3, first + 6)
        await bench.label(*map(label, early))
        await bench.write(*map(pair, [*early, *late]))
        await bench.label(*map(label, [*late, *early]))
    await bench.until_labels(joined=60, waiting=0, duplicates=30, waiting_pairs=0)
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
    await bench.once(range(60), range(60))


async def test_a_pair_that_is_committed_while_its_label_is_looked_up(bench: Bench) -> None:
    await bench.label(label(0))
    store = await bench.another()

    async def pair_comes() -> None:
        await bench.write(pair(0))
        entries = await bench.store.read("two", 10, 0)
        await bench.worker("two")._count(entries)

    store.before_join = pair_comes
    await bench.work("one", store)
    assert store.before_join is None
    assert (await bench.labels()).joined == 1
    await bench.once([0], [0])


async def test_a_label_that_is_dealt_with_while_its_pair_is_compared(bench: Bench) -> None:
    await bench.write(pair(0))
    store = await bench.another()

    async def label_comes() -> None:
        await bench.label(label(0))
        await bench.work("two")
        assert (await bench.labels()).waiting == 1

    store.before_commit = label_comes
    await bench.work("one", store)
    assert store.before_commit is None
    assert (await bench.labels()).joined == 1
    await bench.once([0], [0])


async def test_two_workers_with_a_label_each_for_one_pair(bench: Bench) -> None:
    await bench.write(pair(0), pair(1))
    await bench.work("none")
    await bench.label(label(0), label(1))
    store = await bench.another()

    async def another_is_first() -> None:
        await bench.label(label(0), label(1, ["b"]))
        await bench.work("two")

    store.before_join = another_is_first
    await bench.work("one", store)
    found = await bench.labels()
    # Those of the second were joined first; of the truth for 1 it said `b`, a gain of a half for the candidate.
    assert (found.received, found.joined, found.duplicates, found.waiting) == (4, 2, 2, 0)

    async def closed() -> bool:
        return not (await bench.verdict()).open_pairs

    await until(closed, "the buckets to close")
    cell = next(cell for cell in (await bench.verdict()).guardrails if cell.metric == "quality.reciprocal_rank")
    assert (cell.pairs, cell.estimate) == (2, 0)


async def test_what_a_dead_worker_was_given_is_taken_over(bench: Bench) -> None:
    await bench.label(label(0), label(1))
    assert len(await bench.store.labels.read("dead", 1)) == 1
    await bench.write(pair(0), pair(1))
    worker = bench.worker("heir")
    running = bench.start(worker)
    await bench.until_labels(joined=2, waiting=0)
    worker.stop()
    await running
    await bench.once([0, 1], [0, 1])


async def test_a_worker_goes_on_with_what_it_was_given(bench: Bench) -> None:
    await bench.write(pair(0))
    await bench.work("one")
    await bench.label(label(0))
    assert len(await (await bench.another()).labels.read("one", 10)) == 1  # and dies
    await bench.work("one", await bench.another())
    assert (await bench.labels()).joined == 1
    await bench.once([0], [0])


async def test_a_frozen_worker_that_thaws_joins_nothing_twice(bench: Bench) -> None:
    await bench.write(pair(0))
    await bench.work("none")
    await bench.label(label(0))
    frozen = await bench.another()

    async def taken_over() -> None:
        worker = bench.worker("heir")
        running = bench.start(worker)
        await bench.until_labels(joined=1)
        worker.stop()
        await running

    frozen.before_join = taken_over
    await bench.work("frozen", frozen)
    assert frozen.before_join is None
    assert ((await bench.labels()).joined, (await bench.labels()).duplicates) == (1, 0)
    await bench.once([0], [0])


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("first", ["pair", "label"])
async def test_a_lost_reply_counts_nothing_twice(bench: Bench, first: str, lost: int) -> None:
    """One is asked again by the connection; after two the worker starts over."""
    async with relay_to(bench.url) as relay:
        store = await bench.another(relay.url)

        async def lose() -> None:
            relay.lose_replies = lost

        if first == "pair":
            await bench.write(pair(0), pair(1))
            await bench.work("none")
        else:
            await bench.label(label(0), label(1))
            await bench.work("none")
        for loses in ("before_join", "before_commit"):
            setattr(store, loses, lose)
        worker = bench.worker("one", store)
        running = bench.start(worker)
        await (bench.label(label(0), label(1)) if first == "pair" else bench.write(pair(0), pair(1)))
        await bench.until_labels(joined=2, waiting=0)
        worker.stop()
        await running
        assert relay.lost >= lost
        found = await bench.labels()
        assert (found.received, found.joined, found.duplicates, found.unmatched) == (2, 2, 0, 0)
        await bench.once([0, 1], [0, 1])


async def test_the_label_states_of_dead_workers_are_taken_over(bench: Bench) -> None:
    await bench.write(pair(0), pair(1))
    await bench.work("pairs")
    await bench.label(label(0), label(1))
    await bench.work("labels")
    quick = bench.chosen.comparator.model_copy(update={"claim_idle": 0.01})
    bench.chosen = bench.chosen.model_copy(update={"comparator": quick})
    last = bench.worker("last")
    running = bench.start(last)

    async def alone() -> bool:
        return list((await bench.store.snapshot()).states) == ["last"]

    await until(alone, "a single state")
    last.stop()
    await running
    await bench.once([0, 1], [0, 1])


async def test_a_label_that_came_in_time_is_joined_however_late_the_workers_are(valkey: EmbeddedServer) -> None:
    async with Bench(valkey.url, chosen=settings("200ms")) as bench:
        # They start a second from now, so that the label is in time on the slowest machine.
        started = time.time() + 1
        await bench.write(pair(0, started=started), pair(1, started=started))
        await bench.label(label(0))
        over = started + 0.3
        await until(lambda: time.time() > over)
        await bench.label(label(1))
        await bench.work()
        found = await bench.labels()
        assert (found.received, found.joined, found.unmatched, found.waiting) == (2, 1, 1, 0)
        await bench.work()
        await bench.until_labels(waiting_pairs=0, expired_pairs=1)
        await bench.once([0, 1], [0])


async def test_an_early_label_that_came_in_time_is_joined_however_late_its_pair_is_read(valkey: EmbeddedServer) -> None:
    async with Bench(valkey.url, chosen=settings("200ms")) as bench:
        started = time.time() + 1
        await bench.write(pair(0, started=started))
        # By one who does not come to commit it, and from whom nobody takes it over yet.
        assert await bench.store.read("stuck", 1, 0)
        await bench.label(label(0))
        await bench.work()
        over = started + 0.5
        await until(lambda: time.time() > over)
        await bench.store.labels.expire(100)
        assert (await bench.labels()).waiting == 1
        worker = bench.worker()
        running = bench.start(worker)
        await bench.until_labels(joined=1)
        worker.stop()
        await running
        await bench.once([0], [0])


async def test_what_waited_for_long_enough_is_forgotten_and_counted(valkey: EmbeddedServer) -> None:
    async with Bench(valkey.url, chosen=settings("200ms")) as bench:
        worker = bench.worker()
        running = bench.start(worker)
        await bench.write(pair(0), pair(1))
        await bench.label(label(8), label(9))
        await bench.until_labels(waiting_pairs=0, expired_pairs=2, waiting=0, unmatched=2)
        await bench.label(label(0))
        await bench.until_labels(waiting=0, unmatched=3)
        worker.stop()
        await running
        async with Redis.from_url(bench.url) as raw:
            left = {key.decode().rpartition(":")[2] async for key in raw.scan_iter(f"shadow:{{{bench.name}:0}}:*")}
        assert not left & {"unlabelled", "early", "labelled", "expiry"}
        await bench.once([0, 1], [])


async def test_pairs_and_labels_that_wait_are_bounded(valkey: EmbeddedServer) -> None:
    async with Bench(valkey.url, max_labels=3) as bench:
        await bench.write(*map(pair, range(5)))
        await bench.work()
        found = await bench.labels()
        assert (found.waiting_pairs, found.overflow) == (3, 2)
        for at in range(10, 15):
            await bench.label(label(at))
            await bench.work()
        found = await bench.labels()
        assert (found.received, found.waiting, found.unmatched) == (5, 3, 2)
        await bench.label(*map(label, range(20, 30)))
        assert (await bench.store.snapshot()).labels.waiting == 6
        await bench.label(*map(label, range(3)))
        await bench.work()
        await bench.write(*map(pair, range(10, 15)))
        await bench.work()
        found = await bench.labels()
        # Of the three that found room one had its label already.
        assert (found.joined, found.waiting_pairs, found.overflow) == (4, 2, 4)
        await bench.once([*range(5), *range(10, 15)], [0, 1, 2, 12])


async def test_with_several_partitions_a_label_is_unknown_if_none_joins_it(valkey: EmbeddedServer) -> None:
    # Long enough for a machine that is busy; in time or late is decided by when a label came, not by when it is read.
    async with Bench(valkey.url, chosen=settings("4s"), partitions=3) as bench:
        marks = Watermarks(3)
        workers = [bench.worker("one", store, home=bench.store, watermarks=marks) for store in bench.partitions.stores]
        running = [bench.start(worker) for worker in workers]
        await bench.label(*map(label, range(0, 12, 2)))
        for at in range(12):
            await bench.write(pair(at))
        await bench.label(*map(label, range(1, 12, 2)), label(99), label(3))
        await bench.until_labels(received=14, joined=12, duplicates=1, waiting_pairs=0)
        found = await bench.labels()
        assert found.waiting + found.unmatched == 1
        await bench.until_labels(received=14, joined=12, duplicates=1, waiting=0, unmatched=1)
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)
        await bench.once(range(12), range(12))


async def test_with_several_partitions_a_label_that_one_has_joined_waits_in_no_other(valkey: EmbeddedServer) -> None:
    async with Bench(valkey.url, partitions=2) as bench:
        for at in range(6):
            await bench.write(pair(at))
        await bench.label(*map(label, range(6)), label(99))
        for store in bench.partitions.stores:
            await bench.work("one", store)
        home = (await bench.store.snapshot()).labels
        assert (home.joined, home.waiting) == (3, 4)
        found = await bench.labels()
        assert (found.received, found.joined, found.waiting, found.unmatched) == (7, 6, 1, 0)


async def test_a_store_that_is_away_is_waited_for(own_valkey: EmbeddedServer) -> None:
    async with Bench(own_valkey.url) as bench:
        await bench.write(pair(0))
        worker = bench.worker()
        running = bench.start(worker)
        await bench.until_labels(waiting_pairs=1)
        own_valkey.stop()
        await until(lambda: not worker.connected, "the worker to notice")
        with pytest.raises(StoreUnavailable):
            await bench.label(label(0))
        own_valkey.start()
        await until(lambda: worker.connected, "the worker to come back")
        await bench.label(label(0))
        await bench.until_labels(joined=1)
        worker.stop()
        await running
        await bench.once([0], [0])
