"""A live system for the page: pairs that a test wrote, counted by a real comparator's worker, shown by a real API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from servers import unique

from shadowproxy import metrics
from shadowproxy.comparator.worker import Worker
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Settings, experiment_id, loads
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs.codec import encode
from shadowproxy.pairs.partitions import Partitions, Watermarks
from shadowproxy.processes import run_api
from shadowproxy.tasks import Tasks
from shadowproxy.verdict.exemplars import Limits
from shadowproxy.verdict.plan import Plan

CONFIGURATION = """
experiment: {experiment}
baseline: {{url: http://127.0.0.1:1, deadline: 0.1}}
candidate: {{url: http://127.0.0.1:2, deadline: 0.1}}
redis: {{url: "{redis}"}}
serve: {{listen: "127.0.0.1:0", refresh: 0.1}}
routes:
  - name: rank
    path: /rank
    ids: response.body.items[*].id
    scores: response.body.items[*].score
    cohorts: {{region: request.body.region}}
verdict:
  bucket: 0.1
  settle: 0.0
  min_pairs: 50
  min_duration: 0
  guardrails:
    - {{metric: failures.difference, margin: 0.1}}
    - {{metric: ranking.rbo, margin: 0.2}}
    - {{metric: latency.total_p90, margin: 0.5}}
"""
HEAD = b"content-type: application/json\r\nserver: one\r\n"
REGIONS = ("eu", "us", "apac")
BROKEN, WORST = "apac", "the-planted-worst"
TURNED = ("h", "x", "g", "y", "f", "z", "e", "d")
MOVED = ("a", "b", "c", "d", "e", "f", "g", "h")


def answer(ids: Sequence[str], *, more: Mapping[str, object] | None = None) -> bytes:
    """A ranked list with falling scores."""
    items = [{"id": name, "score": round(1 - at / 20, 3)} for at, name in enumerate(ids)]
    return json.dumps({"items": items, **(more or {})}).encode()


def pair(
    at: int, region: str, candidate: Sequence[str] = MOVED, *, id_: str | None = None, fails: bool = False
) -> Pair:
    """Both sides rank MOVED alike, unless the candidate's list is given, or it has no answer."""
    asked = json.dumps({"region": region, "user": at}).encode()
    body = answer(MOVED)
    theirs = answer(candidate, more={"model": "v2"} if tuple(candidate) != MOVED else None)
    total = 0.020 + at % 7 / 1000
    exchange = (
        Exchange(Outcome.TIMEOUT, detail="no answer within 0.1 s")
        if fails
        else Exchange(Outcome.OK, 200, HEAD.replace(b"one", b"two"), theirs, len(theirs), b"", 0.012, total + 0.001)
    )
    return Pair(
        id_ or f"r{at}",
        1_700_000_000.0 + at / 10,
        Request("POST", "/rank", HEAD, asked, len(asked)),
        Exchange(Outcome.OK, 200, HEAD, body, len(body), b"", 0.010, total),
        exchange,
    )


def healthy(first: int, count: int) -> list[Pair]:
    """Pairs of all regions whose sides agree."""
    return [pair(at, REGIONS[at % 3]) for at in range(first, first + count)]


def broken(first: int, count: int) -> list[Pair]:
    """The candidate turns the list around in one region; in one pair only its last item is the baseline's."""
    made = [
        pair(at, REGIONS[at % 3], TURNED if REGIONS[at % 3] == BROKEN else MOVED) for at in range(first, first + count)
    ]
    planted = next(at for at, one in enumerate(made) if json.loads(one.request.body)["region"] == BROKEN)
    made[planted] = pair(first + planted, BROKEN, ("x", "y", "z", "h"), id_=WORST)
    return made


@dataclass
class System:
    """An experiment, where its API is, and what feeds it."""

    url: str
    settings: Settings
    store: Partitions
    worker: Worker
    stop: asyncio.Event
    running: asyncio.Task[None]
    written: int = 0
    entries: int = 0

    async def end_api(self) -> None:
        """From here on nobody answers."""
        self.stop.set()
        await self.running

    async def count(self, pairs: Iterable[Pair], size: int = 100) -> None:
        """Write pairs, and have them counted."""
        made = list(pairs)
        for first in range(0, len(made), size):
            batch = made[first : first + size]
            self.entries += 1
            self.written += len(batch)
            account = Accounting(self.written, self.written, self.written)
            await self.store.append("producer", self.entries, encode(batch), len(batch), account)
        self.worker.stop()
        await self.worker.run()


@asynccontextmanager
async def system(redis: str, configuration: str = CONFIGURATION) -> AsyncIterator[System]:
    """A new experiment on a server, with its API."""
    settings = loads(configuration.format(experiment=unique("page"), redis=redis))
    told: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()
    tasks, stop = Tasks(), asyncio.Event()
    running = tasks.start(run_api(settings, stop, told.set_result), name="api")
    store = Partitions.at(redis, experiment_id(settings), partitions=1, max_entries=100_000)
    try:
        await store.prepare()
        kept = settings.comparator
        worker = Worker(
            store.home,
            Comparer(settings.routes),
            Plan(settings),
            metrics.ComparatorMetrics(metrics.registry()),
            name="one",
            read=kept.read,
            claim_idle=kept.claim_idle,
            max_cohorts=settings.verdict.max_cohorts,
            home=store.home,
            watermarks=Watermarks(1),
            exemplars=Limits(kept.worst, kept.sample, kept.exemplar_bytes),
        )
        await asyncio.wait({told, running}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running
        made = System((await told)["api"], settings, store, worker, stop, running)
        yield made
        await made.end_api()
    finally:
        await tasks.cancel()
        await store.close()
