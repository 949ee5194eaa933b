"""The real processes on a Cluster: all is counted once, also where it goes away, and while it does nobody is busy."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from cluster import cluster
from servers import until
from whole.load import busy, command, counted, nothing_was_lost, once, services, settings, settled, under_load

from shadowproxy.config import experiment_id
from shadowproxy.errors import StoreUnavailable
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.serve.reader import VerdictReader

PARTITIONS = 6
OUTAGE = 4.0
"""Seconds for which the processes are watched."""


def cpu_seconds(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_cluster_that_goes_away_and_comes_back_loses_nothing_and_keeps_nobody_busy(tmp_path: Path) -> None:
    with cluster() as servers:
        async with services() as (baseline, first, candidate, second):
            chosen = settings(tmp_path, first, second, redis=f'{{url: "{servers.url}", partitions: {PARTITIONS}}}')
            async with Partitions.at(servers.url, experiment_id(chosen), partitions=PARTITIONS, max_entries=1) as store:
                read = VerdictReader(store, chosen).read
                with command(tmp_path, chosen, "run") as running:
                    await running.ready("api")
                    async with under_load(running.proxy) as load:
                        await busy(load)
                        for node in servers.nodes:
                            node.kill()
                        await until(lambda: _unready(running.urls["api"]), "the API's word on it")
                        await busy(load, 40)
                    pids = running.children()
                    assert len(pids) == 3
                    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
                    await asyncio.sleep(OUTAGE)
                    used = {name: cpu_seconds(pid) - before[name] for name, pid in pids.items()}
                    # Whoever is busy uses all of it.
                    assert max(used.values()) < OUTAGE / 4, used
                    for node in servers.nodes:
                        node.start()
                    await asyncio.to_thread(servers.wait)
                    # Of a restarted node the first connection may still be refused.
                    await until(_answers(store), "the Cluster")
                    await settled(read, lambda found: found.pairs >= len(load.answered))
                    running.process.terminate()
                    assert await running.ended(within=30) == 0
                verdict = (await read()).verdict
                assert all([(await one.snapshot()).entries for one in store.stores])
            assert counted(verdict) == once(load.answered)
            nothing_was_lost(load, baseline, candidate, verdict)


def _answers(store: Partitions) -> Callable[[], Awaitable[bool]]:
    async def answers() -> bool:
        try:
            await store.snapshot()
        except StoreUnavailable:
            return False
        return True

    return answers


async def _unready(api: str) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"{api}/readyz") as response:
        return response.status == 503
