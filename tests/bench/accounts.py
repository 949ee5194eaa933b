"""shadowproxy's own account of a benchmark, held against the upstreams' counts and what the store has."""

from __future__ import annotations

import asyncio
import time
import urllib.request
from collections.abc import Callable, Mapping

from bench.peers import Running
from bench.report import Check
from prometheus_client.parser import text_string_to_metric_families

from shadowproxy.config import experiment_id, load
from shadowproxy.pairs.store import Snapshot, Store

_COUNTERS = ("requests", "eligible", "recorded", "skipped", "dropped")


def read(side: Running) -> dict[str, float]:
    """The counters of the identity, from /metrics; those with reasons summed up. Empty for a side without /metrics."""
    if side.admin is None:
        return {}
    with urllib.request.urlopen(f"http://127.0.0.1:{side.admin}/metrics", timeout=10) as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    return {
        name: sum(
            sample.value
            for family in families
            if family.name == f"shadowproxy_{name}"
            for sample in family.samples
            if sample.name.endswith("_total")
        )
        for name in _COUNTERS
    }


def balanced(account: Mapping[str, float]) -> bool:
    """requests = skipped + eligible, and eligible = recorded + dropped."""
    return (
        account["requests"] == account["skipped"] + account["eligible"]
        and account["eligible"] == account["recorded"] + account["dropped"]
    )


def checks(side: Running, redis: str, asked: int) -> list[Check]:
    """That the account balances, nothing was dropped, the upstream got as many requests, and the store every pair.

    `asked`: what the baseline got from this side since the side began.
    """
    _eventually(lambda: balanced(read(side)))
    account = read(side)
    stored, kept = asyncio.run(_stored(side, redis))
    words = ", ".join(f"{name} {count:.0f}" for name, count in account.items())
    trimmed = f"{kept} entries kept, the rest trimmed" if kept < stored.entries else "all kept"
    return [
        Check("requests = skipped + eligible, eligible = recorded + dropped", balanced(account), words),
        Check(
            "shadowproxy's requests are the baseline's",
            account["requests"] == asked,
            f"{account['requests']:.0f} and {asked}",
        ),
        Check("nothing was skipped or dropped", account["recorded"] == account["requests"], words),
        Check(
            "the stream got every pair",
            stored.pairs == account["recorded"],
            f"{stored.pairs} pairs in {stored.entries} entries ({trimmed})",
        ),
    ]


async def _stored(side: Running, url: str) -> tuple[Snapshot, int]:
    """What the store says was written, and how many entries it still has."""
    assert side.config is not None
    settings = load(side.config)
    async with await Store.open(url, experiment_id(settings), max_entries=settings.redis.max_entries) as store:
        snapshot = await store.snapshot()
    return snapshot, snapshot.undelivered + snapshot.pending


def _eventually(condition: Callable[[], bool], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
