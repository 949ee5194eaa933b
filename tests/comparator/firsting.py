"""A worker by itself, to be killed: `python firsting.py URL EXPERIMENT WORKER [late]`."""

from __future__ import annotations

import asyncio
import math
import sys

from shadowproxy import metrics
from shadowproxy.comparator import firsts
from shadowproxy.comparator.worker import Worker
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Settings, loads
from shadowproxy.pairs.store import Store
from shadowproxy.stats.state import State
from shadowproxy.verdict.plan import Plan


def settings(more: str = "") -> Settings:
    """Every request is a cohort of its own, so that the verdict tells which are counted, and how often."""
    return loads(
        f"""
baseline: {{url: http://127.0.0.1:1, deadline: 0.1}}
candidate: {{url: http://127.0.0.1:2, deadline: 0.1}}
routes:
  - {{name: rank, path: /rank, account: request.body.account, cohorts: {{id: request.body.id}}}}
comparator: {{read: 3, claim_idle: 0.2}}
verdict:
  bucket: 0.1
  settle: 0.0
  max_cohorts: 500
  first_per_account: true
  guardrails: [{{metric: failures.difference, margin: 0.01}}]
{more}"""
    )


def worker(store: Store, name: str, chosen: Settings) -> Worker:
    return Worker(
        store,
        Comparer(chosen.routes),
        Plan(chosen),
        metrics.ComparatorMetrics(metrics.registry()),
        name=name,
        read=chosen.comparator.read,
        claim_idle=chosen.comparator.claim_idle,
        max_cohorts=chosen.verdict.max_cohorts,
    )


def far_ahead(state: State, watermark: float) -> float:
    """For a worker of a time when every bucket is closed."""
    return math.inf


async def main(url: str, experiment: str, name: str, *late: str) -> None:
    # Small steps, so that there are many to be killed between.
    firsts._AT_ONCE = 2
    if late:
        State.closed_before = far_ahead  # type: ignore[method-assign]
    await worker(await Store.open(url, experiment, max_entries=1000), name, settings()).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
