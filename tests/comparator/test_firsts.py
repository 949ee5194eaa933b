"""The first pair of each account, against a real Valkey: the one that began first, once, whatever dies on the way."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from comparator.firsting import far_ahead, settings, worker
from servers import unique, until

from shadowproxy.comparator import firsts, judge
from shadowproxy.config import Settings
from shadowproxy.errors import StoreUnavailable
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs import scripts
from shadowproxy.pairs import store as store_module
from shadowproxy.pairs.client import Script
from shadowproxy.pairs.codec import encode
from shadowproxy.pairs.controls import ControlChange
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.experiments import reset
from shadowproxy.pairs.lines import Recorded
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Store
from shadowproxy.stats.state import State
from shadowproxy.tasks import Tasks
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Facts, Verdict

SETTINGS = settings()


def pair(at: int, account: str | None, started: float, *, failed: bool = False) -> Pair:
    asked = b'{"id":%d%s}' % (at, b"" if account is None else b',"account":"%s"' % account.encode())
    request = Request("POST", "/rank", b"content-type: application/json\r\n", asked, len(asked))
    fine = Exchange(Outcome.OK, 200, b"", b"{}", 2, b"", 0.01, 0.02)
    late = Exchange(Outcome.TIMEOUT, detail="no answer within 0.1 s")
    return Pair(str(at), started, request, fine, late if failed else fine)


class Between(Store):
    """A store that lets something happen before a step, or loses the reply to it."""

    before: Callable[[], Awaitable[Any]] | None = None
    before_commit: Callable[[], Awaitable[Any]] | None = None
    lose: frozenset[str] = frozenset()

    async def settle(self, *args: Any) -> None:
        happens, self.before = self.before, None
        if happens is not None:
            await happens()
        await super().settle(*args)
        if "settle" in self.lose:
            self.lose = self.lose - {"settle"}
            raise StoreUnavailable("the reply was lost")

    async def commit(self, *args: Any, **more: Any) -> float:
        happens, self.before_commit = self.before_commit, None
        if happens is not None:
            await happens()
        watermark = await super().commit(*args, **more)
        if "commit" in self.lose:
            self.lose = self.lose - {"commit"}
            raise StoreUnavailable("the reply was lost")
        return watermark

    async def _run(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        reply = await super()._run(script, keys, *args)
        # As a client does whose connection broke before the reply.
        return await super()._run(script, keys, *args) if script is store_module.SETTLE else reply


class Bench:
    def __init__(self, url: str) -> None:
        self.url = url
        self.name = unique("firsts")
        self.store = Store(url, self.name, max_entries=1000)
        self.tasks = Tasks()
        self._sequences = itertools.count(1)
        self._others: list[Store] = []

    async def write(self, *pairs: Pair) -> None:
        at = next(self._sequences)
        await self.store.append("p", at, encode(list(pairs)), len(pairs), Accounting(at, at, at))

    async def another(self) -> Between:
        self._others.append(Between(self.url, self.name, max_entries=1000))
        return self._others[-1]

    async def work(self, name: str = "one", store: Store | None = None, chosen: Settings = SETTINGS) -> None:
        """Run a worker until it has dealt with what there is."""
        one = worker(store or self.store, name, chosen)
        one.stop()
        await one.run()

    async def verdict(self, chosen: Settings = SETTINGS) -> Verdict:
        """On all that is in the states, whatever the time is."""
        snapshot = await self.store.snapshot()
        plan = Plan(chosen)
        state = plan.empty().merge(map(State.from_bytes, snapshot.states.values())).close(math.inf)
        assert state.late == 0
        facts = Facts(at=0.0, experiment=self.name, accounting=snapshot.accounting)
        return plan.judge(state.total, snapshot.slots, facts)

    async def counted(self) -> dict[int, int]:
        """How often each request is."""
        verdict = await self.verdict()
        found = {int(name.partition("=")[2]): report.pairs for name, report in verdict.cohorts.items()}
        assert verdict.pairs == sum(found.values())
        return found

    async def standing(self) -> tuple[int, int]:
        """Accounts that are counted, and pairs that wait."""
        waiting = await self.store.command("ZCARD", "firsts:starts")
        return await self.store.command("HLEN", "firsts") - waiting, waiting

    async def close(self) -> None:
        await self.tasks.cancel()
        for store in (self.store, *self._others):
            await store.close()


@pytest.fixture
async def bench(valkey: EmbeddedServer) -> AsyncIterator[Bench]:
    made = Bench(valkey.url)
    await made.store.prepare()
    yield made
    await made.close()


def by_definition(pairs: Iterable[Pair]) -> dict[int, int]:
    first: dict[bytes, Pair] = {}
    for one in sorted(pairs, key=lambda one: one.started):
        _, told, account = one.request.body.partition(b"account")
        first.setdefault(account if told else one.id.encode(), one)
    return {int(one.id): 1 for one in first.values()}


async def test_the_pair_that_began_first_counts_though_it_ended_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it the one that ended first, a candidate that hangs on every first request would look sound."""
    now = time.time() + 1000
    await bench.write(pair(1, "a", now + 0.05), pair(2, "b", now))
    await bench.work()
    await bench.write(pair(3, "a", now + 0.01, failed=True), pair(4, "b", now + 0.02, failed=True))
    await bench.work()
    assert await bench.standing() == (0, 2)
    monkeypatch.setattr(State, "closed_before", far_ahead)
    await bench.work("later")
    assert await bench.standing() == (2, 0)
    assert await bench.counted() == {2: 1, 3: 1}


async def test_who_was_counted_is_not_counted_again_however_early_a_pair_began(bench: Bench) -> None:
    await bench.write(pair(1, "a", 1000.0))
    await bench.work()
    await bench.write(pair(2, "a", 1001.0), pair(3, "a", 999.0), pair(4, "b", 998.0))
    await bench.work("two")
    assert await bench.counted() == {1: 1, 4: 1}


async def test_every_pair_of_no_known_account_counts(bench: Bench) -> None:
    await bench.write(pair(1, None, 1000.0), pair(2, None, 1000.0), pair(3, "a", 1000.0))
    await bench.write(pair(4, None, 1000.0), pair(5, "a", 1000.5))
    await bench.work()
    assert await bench.counted() == {1: 1, 2: 1, 3: 1, 4: 1}
    assert await bench.standing() == (1, 0)


async def test_past_the_most_accounts_only_pairs_of_no_account_count(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firsts, "_AT_ONCE", 3)
    one = worker(bench.store, "one", SETTINGS)
    assert one._settler is not None
    one._settler._most = 2
    await bench.write(*(pair(at, "abcd"[at], 1000.0 + at) for at in range(4)), pair(4, None, 1010.0))
    one.stop()
    await one.run()
    assert await bench.counted() == {0: 1, 1: 1, 4: 1}
    assert await bench.standing() == (2, 0)


@pytest.mark.parametrize("step", ["commit", "settle"])
async def test_a_lost_reply_counts_nothing_twice(bench: Bench, step: str) -> None:
    await bench.write(pair(1, "a", 1000.0), pair(2, None, 1000.0), pair(3, "a", 1001.0))
    store = await bench.another()
    store.lose = frozenset({step})
    running = bench.tasks.start(worker(store, "one", SETTINGS).run(), name="one")

    async def done() -> bool:
        return not store.lose and await bench.standing() == (1, 0)

    await until(done)
    running.cancel()
    assert await bench.counted() == {1: 1, 2: 1}


async def test_two_workers_at_once_count_once(bench: Bench) -> None:
    await bench.write(pair(1, "a", 1000.0), pair(2, "b", 1001.0))
    slow = await bench.another()
    slow.before = lambda: bench.work("quick", bench.store)
    await bench.work("slow", slow)
    assert slow.before is None
    assert await bench.counted() == {1: 1, 2: 1}


async def test_an_account_that_is_counted_while_its_next_pair_is_compared_counts_no_more(bench: Bench) -> None:
    await bench.write(pair(1, "a", 1001.0))
    slow = await bench.another()
    reading = worker(slow, "slow", SETTINGS)
    entries = await slow.read("slow", 10, 0.0)
    await bench.write(pair(2, "a", 1000.0))
    slow.before_commit = lambda: bench.work("quick", bench.store)
    await slow.load_state("slow")
    await reading._count(entries)
    await bench.work("last")
    assert await bench.counted() == {2: 1}


async def test_without_the_check_that_it_waits_a_pair_would_count_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = "~= ARGV[at + 1] then"
    assert scripts.SETTLE.count(check) == 1
    monkeypatch.setattr(store_module, "SETTLE", Script(scripts.SETTLE.replace(check, "== 0 then")))
    await bench.write(pair(1, "a", 1000.0), pair(2, "b", 1001.0))
    slow = await bench.another()
    slow.before = lambda: bench.work("quick", bench.store)
    await bench.work("slow", slow)
    assert await bench.counted() == {1: 2, 2: 2}


async def test_a_pair_that_began_earlier_and_comes_while_another_is_being_counted_takes_its_place(bench: Bench) -> None:
    await bench.write(pair(1, "a", 1000.0))

    async def earlier() -> None:
        await bench.write(pair(2, "a", 999.0))
        other = worker(await bench.another(), "other", SETTINGS)
        await other._count(await bench.store.read("other", 10, 0.0))

    slow = await bench.another()
    slow.before = earlier
    await bench.work("slow", slow)
    assert await bench.counted() == {2: 1}


async def test_a_reset_forgets_who_was_counted(bench: Bench) -> None:
    await bench.write(pair(1, "a", 1000.0), pair(2, "b", time.time() + 1000))
    await bench.work()
    await bench.store.change_controls(ControlChange(stopped=True))
    await reset(Partitions(bench.store), by="", reason="", force=True)
    await bench.store.change_controls(ControlChange(stopped=False))
    assert await bench.standing() == (0, 0)
    await bench.write(pair(3, "a", 1001.0))
    await bench.work("two")
    assert await bench.counted() == {3: 1}


async def test_blocks_are_made_of_first_pairs(bench: Bench) -> None:
    chosen = settings("  blocks: 1s\n")
    await bench.write(*(pair(at, "ab"[at % 2], 1000.0 + at) for at in range(6)), pair(6, None, 1010.0))
    await bench.work(chosen=chosen)
    (cell,) = (await bench.verdict(chosen)).guardrails
    assert (cell.pairs, cell.blocks) == (3, 2)


async def test_workers_that_are_killed_count_the_first_pair_of_each_account_once(bench: Bench) -> None:
    rng = random.Random(1)
    begin = time.time() + 1000
    pairs = [
        pair(at, rng.choice([None, *"abcdefghijklmnopqrstuvwxyz"]), begin + round(rng.uniform(0, 0.5), 6))
        for at in range(150)
    ]
    for first in range(0, len(pairs), 3):
        await bench.write(*pairs[first : first + 3])
    script = Path(__file__).with_name("firsting.py")

    async def until_killed(name: str, met: Callable[[], Awaitable[bool]], *late: str) -> None:
        child = await asyncio.create_subprocess_exec(sys.executable, script, bench.url, bench.name, name, *late)
        try:
            await until(met, within=60)
        finally:
            child.kill()
            await child.wait()

    async def left() -> int:
        snapshot = await bench.store.snapshot()
        return snapshot.pending + snapshot.undelivered

    async def lag_below(most: int) -> bool:
        return await left() < most

    for at, most in enumerate((25, 1)):
        await until_killed(f"committing-{at}", lambda most=most: lag_below(most))
    expected = by_definition(pairs)
    assert await bench.standing() == (0, len(expected))
    accounts = 26

    async def settled(least: int) -> bool:
        return (await bench.standing())[0] >= least

    for at, least in enumerate((8, 16)):
        await until_killed(f"settling-{at}", lambda least=least: settled(least), "late")
    await until_killed("last", lambda: _nothing_waits(bench), "late")
    assert await bench.counted() == expected
    assert (await bench.standing())[0] == accounts


async def _nothing_waits(bench: Bench) -> bool:
    return (await bench.standing())[1] == 0


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_a_recording_is_judged_by_the_same_pairs(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_MOST_PAIRS", batch)
    rng = random.Random(2)
    pairs = [pair(at, rng.choice([None, *"abcdefghij"]), 1000 + rng.uniform(0, 3)) for at in range(200)]
    written = sorted(((one.started + rng.uniform(0, 0.1), one) for one in pairs), key=lambda each: each[0])
    recording = judge.Judge(SETTINGS)
    for position, (at, one) in enumerate(written):
        recording.add(Recorded(0, f"{at * 1000:.0f}-{position}", 0, one))
    verdict = recording.verdict(0.0)
    found = {int(name.partition("=")[2]): report.pairs for name, report in verdict.cohorts.items()}
    assert found == by_definition(pairs)
    assert verdict.late_pairs == 0
