"""The verdict as it is read from a real Valkey: merged, closed, latched, and honest about what can't be read."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec
import numpy as np
import pytest
import zstandard
from redis.asyncio import Redis
from servers import unique, until

from shadowproxy import metrics
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Address, experiment_id, loads
from shadowproxy.errors import PayloadError
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs.codec import encode
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Store
from shadowproxy.processes import run_api
from shadowproxy.serve.admin import AdminServer
from shadowproxy.serve.api.verdict import VerdictApi
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.stats.state import State, Tally
from shadowproxy.tasks import Tasks
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import State as Decision
from shadowproxy.verdict.record import Verdict

SETTINGS = loads(
    """
baseline: {url: http://127.0.0.1:1, deadline: 0.1}
candidate: {url: http://127.0.0.1:2, deadline: 0.1}
serve: {listen: "127.0.0.1:0", refresh: 0.02}
routes:
  - {name: rank, path: /rank, ids: "response.body.ids", cohorts: {region: request.body.region}}
verdict:
  bucket: 0.1
  settle: 0.0
  min_pairs: 1
  guardrails: [{metric: failures.difference, margin: 0.1}, {metric: ranking.rbo, margin: 0.2}]
"""
)
GOOD, OTHER, BROKEN = b'{"ids":["a","b","c"]}', b'{"ids":["b","a","d"]}', b"{"


def pair(at: int, body: bytes = GOOD, *, started: float | None = None) -> Pair:
    asked = b'{"region":"r%d"}' % (at % 3)
    request = Request("POST", "/rank", b"", asked, len(asked))
    baseline = Exchange(Outcome.OK, 200, b"", GOOD, len(GOOD), b"", 0.01, 0.02)
    candidate = Exchange(Outcome.OK, 200, b"", body, len(body), b"", 0.01, 0.02 + at % 7 / 1000)
    return Pair(str(at), 1000.0 + at / 10 if started is None else started, request, baseline, candidate)


class Counted:
    """One experiment in a real Valkey, and what workers have committed to it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.plan = Plan(SETTINGS)
        self.slots: dict[str, int] = {}
        self.states: dict[str, State] = {}
        self._written = 0

    async def write(self, pairs: Sequence[Pair]) -> None:
        self._written += 1
        account = Accounting(requests=self._written, eligible=self._written, recorded=self._written)
        await self.store.append("producer", self._written, encode(pairs), len(pairs), account)

    async def count(self, worker: str, pairs: Sequence[Pair]) -> None:
        """`pairs` go through the stream and into the state of `worker`."""
        columns = Comparer(SETTINGS.routes)(pairs)
        names = {name for names in columns.cohorts for name in names}
        self.slots = await self.store.slots(sorted(names), SETTINGS.verdict.max_cohorts)
        await self.write(pairs)
        entries = await self.store.read(worker, 10, 0.0)
        state = self.states.get(worker, self.plan.empty()).with_added(self.plan.tally(columns, self.slots))
        watermark = await self.store.commit(worker, [entry.id for entry in entries], state.to_bytes())
        self.states[worker] = state.close(watermark)

    async def verdict(self) -> Verdict:
        return (await VerdictReader(Partitions(self.store), SETTINGS, clock=lambda: 5000.0).read()).verdict


@pytest.fixture
async def counted(valkey: EmbeddedServer) -> AsyncIterator[Counted]:
    async with await Store.open(valkey.url, unique("reader"), max_entries=1000) as store:
        yield Counted(store)


def figures(value: Any) -> list[float]:
    """Every number of a verdict, in the order of its fields."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in figures(value[key])]
    if isinstance(value, list | tuple):
        return [number for inner in value for number in figures(inner)]
    return [value] if isinstance(value, int | float) else []


async def test_states_of_several_workers_give_equal_figures_in_any_order_and_any_split(
    counted: Counted, valkey: EmbeddedServer
) -> None:
    pairs = [pair(at, (GOOD, OTHER, BROKEN)[at % 5 % 3]) for at in range(120)]
    for first in range(0, 120, 10):
        await counted.count(f"worker-{first // 10 % 4}", pairs[first : first + 10])
    expected = await counted.verdict()
    assert expected.pairs == 120
    assert {name: report.pairs for name, report in expected.cohorts.items()} == {f"region=r{at}": 40 for at in range(3)}

    # The same pairs by other workers in other batches, and these workers' names, so their order, reversed.
    async with await Store.open(valkey.url, unique("reader"), max_entries=1000) as store:
        again = Counted(store)
        await store.slots(sorted(counted.slots, key=counted.slots.__getitem__), SETTINGS.verdict.max_cohorts)
        mixed = pairs[::-1]
        for number, first in enumerate(range(0, 120, 30)):
            await again.count(f"worker-{9 - number}", mixed[first : first + 30])
        got = await again.verdict()
    assert got.pairs == 120
    # What differs by nature: the number of batches, and which of them a worker found its bucket closed for.
    ours, theirs = (
        figures(msgspec.to_builtins(msgspec.structs.replace(verdict, accounting=Accounting(), late_pairs=0)))
        for verdict in (expected, got)
    )
    assert len(ours) == len(theirs) > 100
    wrong = [(a, b) for a, b in zip(ours, theirs, strict=True) if not math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)]
    assert wrong == []


async def test_a_rollback_is_latched_once_and_stands_when_the_evidence_falls(counted: Counted) -> None:
    await counted.count("one", [pair(at, BROKEN) for at in range(60)])
    first = await counted.verdict()
    assert first.state is Decision.ROLLBACK
    assert any("proven harmful" in reason for reason in first.reasons)
    kept = (await counted.store.snapshot()).latch
    assert kept is not None

    await counted.count("one", [pair(at) for at in range(60, 6000)])
    later = await counted.verdict()
    assert later.evidence_rollback < 1 / SETTINGS.verdict.alpha_rollback
    assert later.state is Decision.ROLLBACK
    assert first.reasons[0] in later.reasons
    assert (await counted.store.snapshot()).latch == kept


async def test_readers_that_race_latch_the_same(counted: Counted) -> None:
    await counted.count("one", [pair(at, BROKEN) for at in range(60)])
    verdicts = await asyncio.gather(*(counted.verdict() for _ in range(8)))
    assert {verdict.state for verdict in verdicts} == {Decision.ROLLBACK}
    assert (await counted.store.snapshot()).latch is not None


async def test_open_buckets_are_not_counted_before_the_watermark(counted: Counted) -> None:
    await counted.count("one", [pair(at) for at in range(5)])
    # Written, and read by nobody: the watermark stands at this entry from here on.
    await counted.write([pair(5)])
    stands = (await counted.store.snapshot()).watermark
    settle = SETTINGS.longest_deadline + SETTINGS.verdict.settle
    closed = pair(6, started=stands - settle - 2 * SETTINGS.verdict.bucket)
    still_open = pair(7, BROKEN, started=stands - settle / 2)
    columns = Comparer(SETTINGS.routes)([closed, still_open])
    state = counted.states["one"].with_added(counted.plan.tally(columns, counted.slots))
    await counted.store.commit("one", [], state.to_bytes())

    before = await counted.verdict()
    assert (before.pairs, before.open_pairs) == (6, 1)
    assert "bad_body" not in before.failures["candidate"]
    # The entry is committed: nothing is left that could be older, and the server's clock closes the bucket in time.
    [entry] = await counted.store.read("two", 10, 0.0)
    await counted.store.commit("two", [entry.id], counted.plan.empty().to_bytes())

    async def passed() -> bool:
        return (await counted.store.snapshot()).watermark >= stands + settle + 2 * SETTINGS.verdict.bucket

    await until(passed, "the watermark")
    after = await counted.verdict()
    assert (after.pairs, after.open_pairs) == (7, 0)
    assert after.failures["candidate"]["bad_body"] == 1


def newer() -> bytes:
    return zstandard.ZstdCompressor().compress(msgspec.msgpack.encode([99]))


def of_other_sums() -> bytes:
    return State(**BUCKETS).add(0, Tally({"pairs": np.zeros((1, 3), np.int64)}), 1).close(1e9).to_bytes()


BUCKETS = {"width": SETTINGS.verdict.bucket, "settle": SETTINGS.longest_deadline + SETTINGS.verdict.settle}
UNREADABLE = {
    "garbage": b"garbage",
    "newer": newer(),
    "other buckets": State(width=7.0, settle=1.0).to_bytes(),
    "other sums": of_other_sums(),
}


async def get(url: str) -> tuple[int, str, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, response.content_type, await response.json(content_type=None)


async def answers(url: str, status: int) -> dict[str, Any]:
    """What the verdict's address says as soon as it answers with `status`."""
    body: dict[str, Any] = {}

    async def so() -> bool:
        nonlocal body
        got, _, body = await get(f"{url}/api/v1/verdict")
        return got == status

    await until(so, f"an answer {status}")
    return body


@pytest.mark.parametrize("state", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_an_unreadable_state_is_a_503_that_names_it_until_it_is_gone(
    counted: Counted, valkey: EmbeddedServer, state: bytes
) -> None:
    await counted.count("one", [pair(at) for at in range(5)])
    api = VerdictApi(VerdictReader(Partitions(counted.store), SETTINGS), refresh=0.02)
    admin = AdminServer("api", metrics.registry(), api.ready, api.routes)
    tasks = Tasks()
    url = f"http://{await admin.start(Address('127.0.0.1', 0), '$.serve.listen')}"
    try:
        running = tasks.start(api.run(), name="verdict")
        assert (await answers(url, 200))["pairs"] == 5
        async with Redis.from_url(valkey.url) as raw:
            key = f"shadow:{{{counted.store.name}:0}}:states"
            await raw.hset(key, "the-dead-one", state)
            problem = await answers(url, 503)
            assert (await get(f"{url}/api/v1/verdict"))[1] == "application/problem+json"
            assert "the-dead-one" in problem["detail"]
            status, _, ready = await get(f"{url}/readyz")
            assert (status, ready["ready"]) == (503, False)
            assert (await get(f"{url}/healthz"))[0] == 200
            assert not running.done()
            await raw.hdel(key, "the-dead-one")
        assert (await answers(url, 200))["pairs"] == 5
        assert (await get(f"{url}/readyz"))[0] == 200
    finally:
        await tasks.cancel()
        await admin.stop()


async def test_a_latch_that_cannot_be_read_is_said_as_such(counted: Counted) -> None:
    await counted.count("one", [pair(0)])
    await counted.store.latch(b"not JSON")
    with pytest.raises(PayloadError, match="latch"):
        await counted.verdict()


async def test_no_verdict_is_served_by_an_api_that_reads_none_any_more(valkey: EmbeddedServer) -> None:
    settings = SETTINGS.model_copy(
        update={"experiment": unique("api"), "redis": SETTINGS.redis.model_copy(update={"url": valkey.url})}
    )
    told: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()
    tasks = Tasks()
    running = tasks.start(run_api(settings, asyncio.Event(), told.set_result), name="api")
    try:
        url = (await told)["api"]
        await answers(url, 200)
        async with Redis.from_url(valkey.url) as raw:
            # Nothing of ours writes this, and so nothing expects it: whatever ends the reading ends the process.
            await raw.hset(f"shadow:{{{experiment_id(settings)}:0}}:slots", "region=us", "first")
        with pytest.raises(ValueError, match="first"):
            await asyncio.wait_for(running, 20)
    finally:
        await tasks.cancel()


@pytest.mark.parametrize(("behind", "held"), [(0.0, False), (-60.0, False), (3.0, True), (3600.0, True)])
async def test_a_proxy_whose_clock_is_behind_holds_a_promote_back(
    valkey: EmbeddedServer, behind: float, held: bool
) -> None:
    """Its buckets are closed before their timeouts have come, and a candidate that hangs would pass."""
    policy = SETTINGS.verdict.model_copy(update={"settle": 4.0})  # 2 s allowed: more than a busy machine takes
    settings = SETTINGS.model_copy(update={"verdict": policy})
    async with await Store.open(
        valkey.url, unique("clock"), max_entries=1000, clock=lambda: time.time() - behind
    ) as store:
        counted = Counted(store)
        counted.plan = Plan(settings)
        await counted.count("one", [pair(at) for at in range(1000)])
        verdict = (await VerdictReader(Partitions(store), settings).read()).verdict
        assert [check.name for check in verdict.checks if not check.passed] == (["clocks"] if held else [])
        assert verdict.state is (Decision.CONTINUE if held else Decision.PROMOTE)
        snapshot = await store.snapshot()
        assert snapshot.clock_behind(60.0) == pytest.approx(max(behind, 0.0), abs=1.0)
        assert snapshot.clock_behind(-1.0) == 0.0
