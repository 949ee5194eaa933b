"""A guardrail that is calibrated, through workers, the store and whoever reads the verdict."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import orjson
import pytest
from servers import unique

from shadowproxy import metrics
from shadowproxy.comparator.judge import Judge
from shadowproxy.comparator.worker import Worker
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Settings, loads
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs import EmbeddedServer, Store
from shadowproxy.pairs.calibrations import calibrations
from shadowproxy.pairs.codec import encode
from shadowproxy.pairs.controls import ControlChange
from shadowproxy.pairs.experiments import reset
from shadowproxy.pairs.lines import Recorded
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.stats.betting import COUNT
from shadowproxy.stats.state import State, Tally
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.planning import cases, unplanned
from shadowproxy.verdict.record import Verdict

SETTINGS = loads(
    """
baseline: {url: http://127.0.0.1:1, deadline: 0.1}
candidate: {url: http://127.0.0.1:2, deadline: 0.1}
routes: [{name: rank, ids: "response.body.ids", scores: "response.body.scores"}]
verdict:
  bucket: 0.1
  settle: 0.0
  guardrails: [{metric: scores.delta, margin: 0.5, worse: higher}]
"""
)
NAME = "scores.delta.higher"


def pair(at: int, started: float) -> Pair:
    """The baseline's score is 10 or 30, by turns: 2 deviations are 20. The candidate's is higher by 1."""
    level = 10 + 20 * (at % 2)
    sides = [orjson.dumps({"ids": ["a"], "scores": [score]}) for score in (level, level + 1)]
    exchanges = [Exchange(Outcome.OK, 200, b"", body, len(body), b"", 0.01, 0.02) for body in sides]
    return Pair(str(at), started, Request("GET", "/"), *exchanges)


class Rig:
    """A store, one worker, and who reads."""

    def __init__(self, store: Store, settings: Settings = SETTINGS) -> None:
        self.store = store
        self.settings = settings
        self.written = 0
        self.reader = VerdictReader(Partitions(store), settings)
        self.worker = self.a_worker("one")

    def a_worker(self, name: str) -> Worker:
        registered = metrics.ComparatorMetrics(metrics.registry())
        comparer, plan = Comparer(self.settings.routes), Plan(self.settings)
        return Worker(self.store, comparer, plan, registered, name=name, read=20, claim_idle=9.0, max_cohorts=4)

    async def write(self, pairs: Iterable[Pair]) -> None:
        batch = list(pairs)
        self.written += 1
        account = Accounting(requests=self.written, eligible=self.written, recorded=self.written)
        await self.store.append("producer", self.written, encode(batch), len(batch), account)

    async def count(self, pairs: Iterable[Pair], by: Worker | None = None) -> None:
        await self.write(pairs)
        worker = by or self.worker
        await worker._count(await self.store.read(worker._name, 20, 0.0))

    async def verdict(self) -> Verdict:
        return (await self.reader.read()).verdict

    async def since(self) -> float:
        return (await calibrations(self.store))[NAME][0]

    async def counted(self) -> dict[str, int]:
        """By the name of the guardrail's sums, the pairs in them, of open buckets too."""
        snapshot = await self.store.snapshot()
        states = [State.from_bytes(stored) for stored in snapshot.states.values()]
        total: Tally = states[0].merge(states[1:]).close(1e12).total
        return {name: int(total[name][0, COUNT]) for name in total if name.startswith("guardrail/")}


@pytest.fixture
async def rig(valkey: EmbeddedServer) -> AsyncIterator[Rig]:
    async with await Store.open(valkey.url, unique("calibration"), max_entries=1000) as store:
        yield Rig(store)


def checks(verdict: Verdict) -> dict[str, tuple[bool, str]]:
    return {check.name: (check.passed, check.detail) for check in verdict.checks}


async def test_the_first_pairs_calibrate_and_only_later_ones_count(rig: Rig) -> None:
    await rig.count(pair(at, 1000.0 + at / 10) for at in range(199))
    verdict = await rig.verdict()
    assert checks(verdict)["calibrated"] == (
        False, f"{NAME} is calibrated by the first 200 pairs with scores; 199 are counted"
    )  # fmt: skip
    assert await calibrations(rig.store) == {}
    await rig.count([pair(199, 1020.0)])
    verdict = await rig.verdict()
    assert checks(verdict)["calibrated"] == (True, f"{NAME} is clipped at ±20")
    assert [cell.pairs for cell in verdict.guardrails] == [0]

    # The same worker goes on, and a new one comes: both know it by now, and what started before counts for neither.
    since = await rig.since()
    sums = f"guardrail/{NAME}#{round(since * 1000)}"
    await rig.count(pair(at, since - 0.001 * (at + 1)) for at in range(30))
    assert (await rig.counted()).get(sums, 0) == 0
    await rig.count(pair(at, since + at / 100) for at in range(12))
    another = rig.a_worker("two")
    await another._recover()
    await rig.count([pair(1, since), pair(2, 1000.0)], by=another)
    assert await rig.counted() == {sums: 13}
    assert await rig.since() == since


async def test_who_only_looks_on_writes_nothing(rig: Rig) -> None:
    await rig.count(pair(at, 1000.0) for at in range(300))
    verdict = (await VerdictReader(Partitions(rig.store), SETTINGS, looks_on=True).read()).verdict
    assert not checks(verdict)["calibrated"][0]
    assert await calibrations(rig.store) == {}


async def test_a_proxy_whose_clock_is_ahead_is_waited_for(rig: Rig) -> None:
    await rig.count(pair(at, 1000.0) for at in range(250))
    ahead = (await rig.store.snapshot()).time + 100
    await rig.count([pair(0, ahead)])
    await rig.verdict()
    assert ahead < await rig.since() < ahead + 1


async def test_a_clock_that_is_years_ahead_puts_nothing_off(rig: Rig) -> None:
    await rig.count([pair(at, 1000.0) for at in range(250)] + [pair(0, 4e9)])
    await rig.verdict()
    assert await rig.since() < (await rig.store.snapshot()).time + 4000


async def test_after_a_reset_the_same_worker_calibrates_anew(rig: Rig) -> None:
    await rig.count(pair(at, 1000.0) for at in range(200))
    await rig.verdict()
    first = await rig.since()
    await rig.count([pair(0, first + 1)])
    assert len(await rig.counted()) == 1
    await rig.store.change_controls(ControlChange(stopped=True))
    await reset(Partitions(rig.store), by="", reason="", force=True)
    verdict = await rig.verdict()
    assert not checks(verdict)["calibrated"][0]

    # It finds out by what it may not commit any more.
    await rig.write([pair(0, first + 2)])
    rig.worker.stop()
    await rig.worker.run()
    assert await rig.counted() == {}
    await rig.count(pair(at, 1000.0) for at in range(200))
    await rig.verdict()
    assert await rig.since() > first


async def test_where_only_first_pairs_count_they_count_by_the_calibration(valkey: EmbeddedServer) -> None:
    policy = SETTINGS.verdict.model_copy(update={"first_per_account": True})
    settings = SETTINGS.model_copy(update={"verdict": policy})
    async with await Store.open(valkey.url, unique("calibration"), max_entries=1000) as store:
        rig = Rig(store, settings)
        await rig.count(pair(at, 1000.0 + at / 10) for at in range(220))
        rig.worker.stop()
        await rig.worker.run()
        assert checks(await rig.verdict())["calibrated"][0]
        since = await rig.since()
        await rig.count(pair(at, since - 0.5 + at / 10) for at in range(10))
        firsts = await store.due_firsts(1e12, 100, 1000)
        counted = [State.from_bytes(one.record).close(1e12).total for one in firsts]
        sums = f"guardrail/{NAME}#{round(since * 1000)}"
        assert sorted(int(total[sums][0, COUNT]) for total in counted) == [0] * 5 + [1] * 5


def test_recorded_pairs_calibrate_what_is_judged_offline() -> None:
    judge = Judge(SETTINGS)
    for at in range(1000):
        started = 1000.0 + at / 10
        judge.add(Recorded(0, f"{round((started + 0.1) * 1000)}-{at + 1}", 0, pair(at, started)))
    verdict = judge.verdict(5000.0)
    assert checks(verdict)["calibrated"] == (True, f"{NAME} is clipped at ±20")
    # The first 200 are all closed when the second 200 have come, and pairs count from there on.
    (cell,) = verdict.guardrails
    assert (cell.pairs, cell.estimate) == (600, pytest.approx(1.0))


def test_a_recording_that_is_too_short_leaves_it_open() -> None:
    judge = Judge(SETTINGS)
    for at in range(150):
        judge.add(Recorded(0, f"{1_000_000 + at}-{at + 1}", 0, pair(at, 1000.0)))
    verdict = judge.verdict(5000.0)
    assert not checks(verdict)["calibrated"][0]
    assert verdict.guardrails[0].pairs == 0


def test_what_has_no_bounds_yet_is_not_planned() -> None:
    found, left_out = cases(SETTINGS), unplanned(SETTINGS)
    assert (found, left_out) == ((), (NAME,))
