"""However many workers count, in however many partitions, and whoever of them dies: the figures are the same."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from comparator.test_worker import SETTINGS
from servers import unique, until
from verdict.synthetic import facts
from verdict.test_merge import assert_same

from shadowproxy import metrics
from shadowproxy.comparator.worker import Worker
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Settings
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs.codec import encode
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.partitions import Partitions, Watermarks
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.tasks import Tasks
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Verdict

QUICK = SETTINGS.model_copy(update={"comparator": SETTINGS.comparator.model_copy(update={"claim_idle": 0.25})})
FIGURES = ("state", "pairs", "guardrails", "cohorts", "failures", "summaries", "latencies", "evidence_rollback")


def pairs(count: int, seed: int) -> list[Pair]:
    draw = random.Random(seed)

    def exchange() -> Exchange:
        if draw.random() < 0.1:
            return Exchange(Outcome.TIMEOUT, detail="no answer within 0.1 s")
        body = msgspec.json.encode({"ids": draw.sample("abcdefgh", 5)})
        return Exchange(Outcome.OK, 200, b"", body, len(body), b"", draw.uniform(0.01, 0.02), draw.uniform(0.02, 0.1))

    asked = [b'{"id":%d}' % draw.randrange(5) for _ in range(count)]
    return [
        Pair(
            str(at),
            1000.0 + draw.random() * 20,
            Request("POST", "/rank", b"content-type: application/json\r\n", body, len(body)),
            exchange(),
            exchange(),
        )
        for at, body in enumerate(asked)
    ]


def figures(verdict: Verdict) -> dict[str, Any]:
    told = msgspec.to_builtins(verdict)
    return {name: told[name] for name in FIGURES}


def by_hand(of: Sequence[Pair]) -> dict[str, Any]:
    """Of one worker that reads all at once, without any store."""
    plan, columns = Plan(SETTINGS), Comparer(SETTINGS.routes)(of)
    slots = {name: at for at, name in enumerate(sorted({name for names in columns.cohorts for name in names}), 1)}
    total = plan.empty().with_added(plan.tally(columns, slots)).close(math.inf).total
    return figures(plan.judge(total, slots, facts(accounting=Accounting(len(of), len(of), len(of)))))


class Group:
    """A comparator: one worker for each partition."""

    def __init__(self, partitions: Partitions, name: str, settings: Settings, tasks: Tasks) -> None:
        marks = Watermarks(len(partitions.stores))
        self.workers = [
            Worker(
                store,
                Comparer(settings.routes),
                Plan(settings),
                metrics.ComparatorMetrics(metrics.registry()),
                name=name,
                read=settings.comparator.read,
                claim_idle=settings.comparator.claim_idle,
                max_cohorts=settings.verdict.max_cohorts,
                home=partitions.home,
                watermarks=marks,
            )
            for store in partitions.stores
        ]
        self._running = [tasks.start(worker.run(), name=repr(worker)) for worker in self.workers]

    async def stop(self) -> None:
        for worker in self.workers:
            worker.stop()
        for running in self._running:
            await running


@pytest.mark.parametrize(("workers", "partitions"), [(1, 1), (2, 1), (7, 1), (2, 3), (7, 3)])
async def test_the_figures_are_the_same_whoever_counts(valkey: EmbeddedServer, workers: int, partitions: int) -> None:
    made = pairs(240, seed=3)
    expected = by_hand(made)
    assert expected["pairs"] == 240
    assert len(expected["cohorts"]) == 5
    tasks = Tasks()
    async with Partitions.at(valkey.url, unique("merge"), partitions=partitions, max_entries=1000) as store:
        await store.prepare()

        async def write(first: int, last: int) -> None:
            for sequence in range(first, last):
                batch = made[4 * (sequence - 1) : 4 * sequence]
                account = Accounting(4 * sequence, 4 * sequence, 4 * sequence)
                await store.append("producer", sequence, encode(batch), len(batch), account)

        async def committed(count: int) -> bool:
            return (await store.snapshot()).committed_pairs == count

        await write(1, 31)
        early = [Group(store, f"early-{number}", SETTINGS, tasks) for number in range(workers)]
        await until(lambda: committed(120))
        for group in early:
            await group.stop()
        # Who counts the rest takes over what the first have counted, and they are gone.
        late = [Group(store, f"late-{number}", QUICK, tasks) for number in range(workers)]
        await write(31, 61)

        async def taken_over() -> bool:
            states = (await store.snapshot()).states
            return await committed(240) and not any(name.startswith("early") for name in states)

        await until(taken_over)
        for group in late:
            await group.stop()
        assert_same(figures((await VerdictReader(store, SETTINGS).read()).verdict), expected)
    await tasks.cancel()
