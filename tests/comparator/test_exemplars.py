"""Exemplars in a real Valkey: kept with the commit that counts their pairs, through crashes, takeovers and resets."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import aiohttp
import msgspec
import pytest
from redis.asyncio import Redis
from servers import unique, until

from shadowproxy import metrics
from shadowproxy.comparator.worker import Worker
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Address, Settings, loads
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs.codec import encode
from shadowproxy.pairs.controls import ControlChange
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.exemplars import MOST_RECORD, Record, record_of
from shadowproxy.pairs.experiments import reset
from shadowproxy.pairs.partitions import Partitions, Watermarks
from shadowproxy.report.view import Viewer
from shadowproxy.serve.admin import AdminServer
from shadowproxy.serve.api.pairs import PairApi
from shadowproxy.serve.exemplars import ExemplarReader, Kept
from shadowproxy.serve.index import ExemplarIndex
from shadowproxy.verdict.exemplars import Boards, Limits, keys, seed_of
from shadowproxy.verdict.plan import Plan

FAIL, RBO = "failures.difference", "ranking.rbo"
BIG = 1 << 30


def configured(worst: int = 3, sample: int = 5) -> Settings:
    return loads(
        f"""
baseline: {{url: http://127.0.0.1:1, deadline: 0.1}}
candidate: {{url: http://127.0.0.1:2, deadline: 0.1}}
routes:
  - {{name: rank, path: /rank, ids: "response.body.ids", cohorts: {{id: request.body.id}}}}
comparator: {{read: 3, claim_idle: 20.0, worst: {worst}, sample: {sample}}}
verdict:
  bucket: 0.1
  settle: 0.0
  max_cohorts: 2
  guardrails: [{{metric: {FAIL}, margin: 0.01}}, {{metric: {RBO}, margin: 0.1}}]
"""
    )


SETTINGS = configured()
HEAD = b"content-type: application/json\r\n"


def pair(at: int, *, ids: Sequence[str] = ("a", "b"), fails: bool = False, filler: int = 0) -> Pair:
    asked, answer = b'{"id":%d}' % (at % 3), b'{"ids":["a","b"]}'
    theirs = json.dumps({"ids": list(ids), "filler": "x" * filler}).encode()
    candidate = (
        Exchange(Outcome.TIMEOUT, detail="no answer")
        if fails
        else Exchange(Outcome.OK, 200, HEAD, theirs, len(theirs), b"", 0.01, 0.02)
    )
    return Pair(
        f"r{at}",
        1000.0 + at / 10,
        Request("POST", "/rank", HEAD, asked, len(asked)),
        Exchange(Outcome.OK, 200, HEAD, answer, len(answer), b"", 0.01, 0.02),
        candidate,
    )


class Bench:
    """An experiment in a real Valkey, what writes to it, and workers on it."""

    def __init__(self, url: str, settings: Settings = SETTINGS, partitions: int = 1) -> None:
        self.settings = settings
        self.url = url
        self.count = partitions
        self.name = unique("exemplars")
        self.written = 0
        self.opened: list[Partitions] = []
        self.store = self.connected()

    def connected(self) -> Partitions:
        """Connections and versions of its own, as another process has."""
        made = Partitions.at(self.url, self.name, partitions=self.count, max_entries=10_000)
        self.opened.append(made)
        return made

    async def write(self, pairs: Iterable[Pair], size: int = 4) -> None:
        made = list(pairs)
        for first in range(0, len(made), size):
            self.written += 1
            batch = made[first : first + size]
            account = Accounting(self.written, self.written, self.written)
            await self.store.append("producer", self.written, encode(batch), len(batch), account)

    def workers(self, name: str, limits: Limits | None = None, store: Partitions | None = None) -> list[Worker]:
        store = store or self.connected()
        kept = self.settings.comparator
        marks = Watermarks(self.count)
        return [
            Worker(
                part,
                Comparer(self.settings.routes),
                Plan(self.settings),
                metrics.ComparatorMetrics(metrics.registry()),
                name=name,
                read=kept.read,
                claim_idle=kept.claim_idle,
                max_cohorts=self.settings.verdict.max_cohorts,
                home=store.home,
                watermarks=marks,
                exemplars=limits or Limits(kept.worst, kept.sample, BIG),
            )
            for part in store.stores
        ]

    async def count_all(self, name: str = "one", limits: Limits | None = None) -> None:
        for worker in self.workers(name, limits):
            worker.stop()
            await worker.run()

    @property
    def reader(self) -> ExemplarReader:
        return ExemplarReader(self.store, self.settings)

    async def raw(self) -> tuple[set[int], set[int], int]:
        """Keys that stand on boards, keys with a record, and the bytes of all records."""
        on_boards: set[int] = set()
        held: set[int] = set()
        size = 0
        async with Redis.from_url(self.url) as redis:
            for part in self.store.stores:
                for stored in await part.exemplars.all():
                    on_boards |= Boards.from_bytes(stored).sizes.keys()
                records = await redis.hgetall(part.key("exemplars:pairs"))
                held |= {int(key) for key in records}
                size += sum(map(len, records.values()))
        return on_boards, held, size

    async def tidy(self) -> None:
        on_boards, held, _ = await self.raw()
        assert on_boards == held

    async def close(self) -> None:
        for store in self.opened:
            await store.close()


@pytest.fixture
async def bench(valkey: EmbeddedServer, request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """Of one partition, or of as many as the test says."""
    made = Bench(valkey.url, partitions=getattr(request, "param", 1))
    await made.store.prepare()
    yield made
    await made.close()


def ids(kept: Sequence[Kept]) -> list[str]:
    return [one.exemplar.id for one in kept]


def traffic(count: int) -> list[Pair]:
    """One in 5 fails, the others rank a little worse from pair to pair."""
    lists = [("a", "b"), ("b", "a"), ("a", "x"), ("x", "y")]
    return [pair(at, fails=at % 5 == 0, ids=lists[at % 4]) for at in range(count)]


def expected(bench: Bench, made: Sequence[Pair], size: int = 4) -> tuple[list[str], list[str]]:
    """By the definition: failures and sample, worst first, of pairs written in batches of `size`."""
    by_key = {}
    for at, one in enumerate(made):
        batch, position = divmod(at, size)
        sequence = batch + 1
        partition = sequence % bench.count
        ordinal = len([number for number in range(1, sequence + 1) if number % bench.count == partition])
        key = keys(seed_of(bench.name), partition, *map(_array, (ordinal, position)))
        by_key[int(key[0])] = one
    order = sorted(by_key.items(), reverse=True)
    kept = bench.settings.comparator
    failed = [one.id for _, one in order if one.candidate.outcome is not Outcome.OK][: kept.worst]
    return failed, [one.id for _, one in order][: kept.sample]


def _array(number: int):  # type: ignore[no-untyped-def]  # (numpy is not asked for its types here)
    import numpy as np

    return np.array([number])


@pytest.mark.parametrize("bench", [1, 3], indirect=True)
async def test_the_worst_and_a_sample_are_there_when_the_stream_has_them_no_more(bench: Bench) -> None:
    made = traffic(200)
    await bench.write(made)
    await bench.count_all()
    assert [await part.browse("0", 10) for part in bench.store.stores] == [[]] * bench.count
    failed, sampled = expected(bench, made)
    worst = await bench.reader.worst(FAIL)
    assert ids(worst) == failed
    assert all(one.pair == made[int(one.exemplar.id[1:])] for one in worst)
    assert [(one.exemplar.loss, one.exemplar.value) for one in worst] == [(1.0, 1.0)] * 3
    sample = await bench.reader.sample()
    assert set(ids(sample)) == set(sampled)
    assert [one.exemplar.started for one in sample] == sorted(one.exemplar.started for one in sample)
    # Who has no answer, or one with nothing in common, ranks worst.
    ranked = await bench.reader.worst(RBO)
    assert {one.exemplar.loss for one in ranked} == {1.0}
    assert all(not one.pair.candidate.body or b'["x", "y"]' in one.pair.candidate.body for one in ranked)
    assert [one.exemplar.guardrail for one in await bench.reader.worst()] == [FAIL] * 3 + [RBO] * 3
    await bench.tidy()


async def test_cohorts_have_boards_of_their_own_and_what_has_no_slot_is_pooled(bench: Bench) -> None:
    await bench.write(traffic(200))
    await bench.count_all()
    slots = await bench.store.home.slots((), 0)
    assert len(slots) == 2
    assert await bench.reader.cohorts() == ["all", *sorted(slots), "other"]
    for name in [*slots, "other"]:
        found = await bench.reader.worst(FAIL, name)
        assert len(found) == 3
        pooled = {f"id={at}" for at in range(3)} - slots.keys()
        assert {one.exemplar.cohorts[0] for one in found} == ({name} if name in slots else pooled)
        assert {one.exemplar.cohort for one in found} == {name}
    assert await bench.reader.worst(FAIL, "id=7") == []


async def test_healthy_traffic_is_only_sampled_and_then_nothing_more_is_written(bench: Bench) -> None:
    await bench.write([pair(at) for at in range(400)], size=50)
    await bench.count_all()
    assert await bench.reader.worst() == []
    assert len(await bench.reader.sample()) == 5
    assert len((await bench.raw())[1]) == 5


async def test_a_pair_is_found_by_its_id_and_of_several_the_last(bench: Bench) -> None:
    await bench.write([pair(1, fails=True)])
    await bench.write([pair(2, fails=True), pair(1)])
    await bench.count_all()
    assert [one.pair for one in await bench.reader.find("r1")] == [pair(1, fails=True), pair(1)]
    assert await bench.reader.find("nobody") == []


def _count_and_die(url: str, name: str, entries: int) -> None:
    """Read, compare, and be killed where the commit would be sent."""

    async def work() -> None:
        bench = Bench(url)
        bench.name = name
        bench.store = bench.connected()
        [worker] = bench.workers("killed", store=bench.store)
        commits = 0
        commit = worker._store.commit

        async def dying(*args: object, **more: object) -> float:
            nonlocal commits
            commits += 1
            if commits > entries:
                os.kill(os.getpid(), signal.SIGKILL)
            return await commit(*args, **more)  # type: ignore[arg-type]  # (passed on as they came)

        worker._store.commit = dying  # type: ignore[method-assign, assignment]  # (the real one runs within)
        await worker.run()

    asyncio.run(work())


async def test_a_worker_killed_between_reading_and_committing_leaves_no_trace_and_loses_nothing(bench: Bench) -> None:
    made = traffic(60)
    await bench.write(made)
    process = multiprocessing.get_context("spawn").Process(target=_count_and_die, args=(bench.url, bench.name, 2))
    process.start()
    await asyncio.to_thread(process.join, 60)
    assert process.exitcode == -signal.SIGKILL
    snapshot = await bench.store.snapshot()
    assert (snapshot.committed_pairs, snapshot.pending) == (24, 3)
    await bench.tidy()
    # Another takes over what it held, and what it kept.
    [heir] = bench.workers("heir")
    heir._claim_idle = 0.0
    heir.stop()
    await heir.run()
    await heir._take_over()
    assert (await bench.store.snapshot()).committed_pairs == 60
    assert list((await bench.store.snapshot()).states) == ["heir"]
    failed, sampled = expected(bench, made)
    assert ids(await bench.reader.worst(FAIL)) == failed
    assert set(ids(await bench.reader.sample())) == set(sampled)
    async with Redis.from_url(bench.url) as redis:
        assert await redis.hkeys(bench.store.home.key("exemplars")) == [b"heir"]
    await bench.tidy()


async def test_what_was_taken_over_meanwhile_is_kept_once(bench: Bench) -> None:
    """Frozen between reading and committing, while another counts the entries; then it goes on where it was."""
    made = traffic(12)
    await bench.write(made)
    [frozen] = bench.workers("frozen")
    await frozen._recover()
    entries = await frozen._store.read("frozen", 10, 0.0)
    assert len(entries) == 3
    [other] = bench.workers("other")
    other._claim_idle = 0.0
    other.stop()
    await other.run()
    await frozen._count(entries)
    assert frozen._boards.boards == {}
    assert ids(await bench.reader.worst(FAIL)) == expected(bench, made)[0]
    await bench.tidy()


async def test_a_commit_whose_reply_is_lost_keeps_each_pair_once(bench: Bench) -> None:
    made = traffic(24)
    await bench.write(made)
    [worker] = bench.workers("one")
    commit, lost = worker._store.commit, 0

    async def losing(*args: object, **more: object) -> float:
        nonlocal lost
        answer = await commit(*args, **more)  # type: ignore[arg-type]  # (passed on as they came)
        if not lost:
            lost += 1
            from shadowproxy.errors import StoreUnavailable

            raise StoreUnavailable("the reply was lost")
        return answer

    worker._store.commit = losing  # type: ignore[method-assign, assignment]  # (the real one runs within)
    running = asyncio.ensure_future(worker.run())

    async def counted() -> bool:
        return (await bench.store.snapshot()).committed_pairs == 24

    await until(counted)
    worker.stop()
    await running
    assert lost == 1
    failed, sampled = expected(bench, made)
    assert (ids(await bench.reader.worst(FAIL)), set(ids(await bench.reader.sample()))) == (failed, set(sampled))
    await bench.tidy()


async def test_several_workers_and_their_heirs_keep_what_one_would(bench: Bench) -> None:
    made = traffic(120)
    await bench.write(made)
    workers = [bench.workers(f"w{number}")[0] for number in range(3)]
    for worker in workers:
        await worker._recover()
    for turn in range(10):
        worker = workers[turn % 3]
        await worker._count(await worker._store.read(worker._name, 3, 0.0))
        await bench.tidy()
    failed, sampled = expected(bench, made)

    async def kept() -> tuple[list[str], set[str]]:
        return ids(await bench.reader.worst(FAIL)), set(ids(await bench.reader.sample()))

    assert await kept() == (failed, set(sampled))
    heir = workers[0]
    assert await heir._absorb(await heir._store.silent("w0", 0.0, 10))
    assert await kept() == (failed, set(sampled))
    await bench.tidy()
    assert len((await bench.raw())[0]) == len(heir._boards.sizes)


@pytest.mark.parametrize("bench", [1, 2], indirect=True)
async def test_a_reset_forgets_them(bench: Bench) -> None:
    await bench.write(traffic(40))
    workers = bench.workers("one")
    for worker in workers:
        worker.stop()
        await worker.run()
    await bench.store.home.change_controls(ControlChange(stopped=True))
    await reset(bench.store, by="", reason="", force=True)
    assert await bench.raw() == (set(), set(), 0)
    # The same workers go on, and what they kept before is not brought back.
    new = [pair(at, fails=True) for at in range(1000, 1002)]
    await bench.write(new, size=1)
    for worker in workers:
        await worker.run()
    assert sorted(ids(await bench.reader.worst(FAIL))) == ["r1000", "r1001"]
    assert sorted(ids(await bench.reader.sample())) == ["r1000", "r1001"]
    await bench.tidy()


async def test_thousands_of_large_pairs_stay_within_the_bytes(bench: Bench) -> None:
    limits = Limits(50, 200, 100_000)
    await bench.write(
        [pair(at, ids=[os.urandom(300).hex() for _ in range(2)], fails=at % 7 == 0) for at in range(3000)], size=250
    )
    [worker] = bench.workers("one", limits)
    await worker._recover()
    while entries := await worker._store.read("one", 2, 0.0):
        await worker._count(entries)
        _, _, size = await bench.raw()
        assert 50_000 < size <= 100_000
        await bench.tidy()
    assert (await bench.store.snapshot()).committed_pairs == 3000
    # The overall boards have not been emptied for those of the cohorts.
    boards = Boards.from_bytes((await bench.store.home.exemplars.all())[0]).boards
    assert {board.slot for board in boards} == {0, 1, 2, 3}
    lengths = {board: len(kept) for board, kept in boards.items()}
    assert min(lengths.values()) > 10
    assert all(lengths[board] <= lengths[board._replace(slot=0)] for board in boards)


async def test_boards_that_cannot_be_read_harm_neither_the_count_nor_the_others(bench: Bench) -> None:
    await bench.write(traffic(8))
    await bench.count_all("old")
    async with Redis.from_url(bench.url) as redis:
        await redis.hset(bench.store.home.key("exemplars"), "old", b"\xc1")
        await redis.hset(bench.store.home.key("exemplars"), "older", b"\xc1")
    [heir] = bench.workers("heir")
    await heir._recover()
    assert await heir._absorb(await heir._store.silent("heir", 0.0, 10))
    await bench.write([pair(50, fails=True)])
    heir.stop()
    await heir.run()
    assert (await bench.store.snapshot()).committed_pairs == 9
    assert ids(await bench.reader.worst(FAIL)) == ["r50"]


async def test_the_api_lists_them_without_heads_and_bodies(bench: Bench) -> None:
    await bench.write(traffic(60))
    await bench.count_all()
    admin = AdminServer(
        "api",
        metrics.registry(),
        no_trouble,
        PairApi(ExemplarIndex(bench.store, SETTINGS), Viewer(SETTINGS.routes)).routes,
    )
    url = f"http://{await admin.start(Address('127.0.0.1', 0), '$.serve.listen')}/api/v1/pairs"
    try:
        async with aiohttp.ClientSession() as session:

            async def get(path: str) -> tuple[int, bytes]:
                async with session.get(f"{url}/{path}") as response:
                    return response.status, await response.read()

            status, body = await get(f"worst?guardrail={FAIL}&limit=2")
            shown = msgspec.json.decode(body)["pairs"]
            assert status == 200
            assert shown == [
                msgspec.to_builtins(one.exemplar, str_keys=True) | {"cohorts": list(one.exemplar.cohorts)}
                for one in await bench.reader.worst(FAIL, limit=2)
            ]
            assert not {"head", "body"} & set(shown[0])
            assert len(msgspec.json.decode((await get("sample"))[1])["pairs"]) == 5
            for unknown in ("worst?guardrail=nope", "worst?cohort=nope"):
                assert (await get(unknown))[0] == 404, unknown
            for wrong in ("worst?limit=0", "sample?limit=1e3", "sample?limit=-1"):
                assert (await get(wrong))[0] == 400, wrong
    finally:
        await admin.stop()


async def no_trouble() -> Mapping[str, str]:
    return {}


# What is kept of a pair


def test_long_bodies_are_cut_and_say_so() -> None:
    whole = pair(1, filler=300_000)
    kept = Record.of(record_of(whole, entry="1-2", position=3, route="rank", cohorts=("a=b",), most=MOST_RECORD))
    assert (kept.id, kept.entry, kept.position, kept.route, kept.cohorts) == ("r1", "1-2", 3, "rank", ("a=b",))
    candidate = kept.pair().candidate
    assert candidate.body == whole.candidate.body[: MOST_RECORD // 4]
    assert (candidate.truncated, candidate.body_size) == (True, whole.candidate.body_size)
    assert len(candidate.digest) == 16
    assert kept.pair().baseline == whole.baseline


def test_what_is_too_large_all_the_same_is_bounded() -> None:
    noise = os.urandom(1 << 20).hex()
    whole = Pair(
        "r1",
        1.0,
        Request("GET", "/" + noise, noise.encode(), noise.encode(), len(noise)),
        Exchange(Outcome.OK, 200, noise.encode(), noise.encode(), len(noise), detail=noise),
        Exchange(Outcome.OK, 200, noise.encode(), noise.encode(), len(noise)),
        annotations=noise.encode(),
    )
    record = record_of(whole, entry="1-2", position=0, route="", cohorts=[noise] * 100, most=8192)
    assert len(record) < 40_000
    assert "left out" in Record.of(record).pair().notes[0]


def test_cohorts_without_a_form_in_utf_8_do_no_harm() -> None:
    record = record_of(pair(1), entry="1-2", position=0, route="", cohorts=["a=\ud800"], most=8192)
    assert Record.of(record).cohorts == ("a=?",)
