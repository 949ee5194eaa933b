"""The whole way of a label: proxy, comparator and API as real processes, and a guardrail on quality in the end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from proxy.harness import RawUpstream, Received, upstream
from servers import until
from whole.load import ROOT, Command, command, settings

PAIRS = 60
ROUTE = "[{name: rank, path: /rank, ids: 'response.body.items', labels: 10m}]"
VERDICT = (
    "{bucket: 100ms, settle: 100ms, min_pairs_rollback: 10, guardrails: [{metric: failures.difference, margin: 0.01}, "
    "{metric: quality.reciprocal_rank, margin: 0.02}]}"
)


@asynccontextmanager
async def service(*items: str) -> AsyncIterator[str]:
    """One that ranks alike for everybody."""
    body = json.dumps({"items": items}).encode()

    async def answer(_: RawUpstream, __: Received, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        return True

    async with upstream(answer) as running:
        yield running.url


async def test_labels_that_come_later_decide_by_quality(tmp_path: Path) -> None:
    async with service("bought", "other") as baseline, service("other", "bought") as candidate:
        # Two partitions: whoever sends labels needs not know where a pair is.
        redis = f'{{data_dir: "{tmp_path}/data", partitions: 2}}'
        chosen = settings(tmp_path, baseline, candidate, routes=ROUTE, verdict=VERDICT, redis=redis)
        with command(tmp_path, chosen, "run") as running:
            await running.ready("experiment")
            async with aiohttp.ClientSession() as session:

                async def verdict() -> dict[str, Any]:
                    async with session.get(f"{running.urls['api']}/api/v1/verdict") as response:
                        return dict(await response.json()) if response.status == 200 else {}

                async def send(*labels: dict[str, Any]) -> None:
                    async with session.post(f"{running.urls['api']}/api/v1/labels", json=labels) as response:
                        assert (response.status, await response.json()) == (202, {"taken": len(labels)})

                async def labels_are(**figures: int) -> None:
                    async def are() -> bool:
                        found = (await verdict()).get("labels") or {}
                        return figures.items() <= found.items()

                    await until(are, f"labels {figures}", within=40)

                # The first half of the labels is sent before the requests are made, the rest when all is counted.
                truth = {"truth": ["bought"]}
                await send(*({"id": f"r{at}", **truth} for at in range(PAIRS // 2)))
                for at in range(PAIRS):
                    headers = {"X-Request-Id": f"r{at}"}
                    async with session.post(f"{running.urls['proxy']}/rank", json={}, headers=headers) as response:
                        assert response.status == 200
                await labels_are(received=PAIRS // 2, joined=PAIRS // 2, waiting_pairs=PAIRS // 2)

                late = [{"id": f"r{at}", **truth} for at in range(PAIRS // 2, PAIRS)]
                await send(*late)
                # In the midst of them, or before: whoever joins the rest did not see these pairs.
                os.kill(running.children()["compare"], signal.SIGKILL)
                await send(*late[:5], {"id": "nobody", **truth})
                await labels_are(received=PAIRS + 6, joined=PAIRS, duplicates=5, waiting_pairs=0, unmatched=0)

                async def rolled_back() -> bool:
                    return (await verdict()).get("state") == "rollback"

                await until(rolled_back, "a rollback", within=40)
                found = await verdict()
                assert (found["pairs"], found["late_pairs"]) == (PAIRS, 0)
                cell = next(cell for cell in found["guardrails"] if cell["metric"] == "quality.reciprocal_rank")
                assert (cell["pairs"], cell["estimate"], cell["finding"]) == (PAIRS, 0.5, "harmful")
                async with session.get(f"{running.urls['api']}/metrics") as response:
                    assert f"shadowproxy_labels_joined {PAIRS}.0" in (await response.text()).splitlines()
                assert f"{PAIRS + 6} received = {PAIRS} joined + 5 repeated" in await shown(running)


async def shown(running: Command) -> str:
    """What `shadowproxy verdict` says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shadowproxy", "verdict", "--url", running.urls["api"]),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )
    output, _ = await process.communicate()
    return output.decode()
