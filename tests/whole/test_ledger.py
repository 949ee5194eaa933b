"""The whole path with real processes: every pair is counted exactly once, whatever dies on the way.

The ledger: every request is a cohort of its own, so the verdict itself tells how often each id was counted.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from shadowproxy.config import Settings, loads
from shadowproxy.demo.run import StackUrls
from shadowproxy.demo.stack import ProcessStack
from shadowproxy.tasks import Tasks
from shadowproxy.verdict.record import State, Verdict

Upstream = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def ranking(request: web.Request) -> web.Response:
    body = await request.json()
    items = [{"id": item, "score": 1 / (1 + place)} for place, item in enumerate(body["items"])]
    return web.json_response({"items": items})


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/rank", ranking)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def settings(upstream: str, folder: Path, cohorts: int) -> Settings:
    return loads(
        f"""
baseline: {{url: "{upstream}", deadline: 1s}}
candidate: {{url: "{upstream}", deadline: 1s}}
proxy: {{listen: "127.0.0.1:0", admin: "127.0.0.1:0", grace: 5s}}
recorder: {{batch: 5, linger: 20ms}}
redis: {{data_dir: "{folder}/data"}}
routes:
  - {{name: rank, path: /rank, ids: "response.body.items[*].id", cohorts: {{id: request.body.id}}}}
comparator: {{admin: "127.0.0.1:0", read: 2, claim_idle: 500ms}}
verdict:
  bucket: 500ms
  settle: 200ms
  max_cohorts: {cohorts}
  guardrails: [{{metric: failures.difference, margin: 0.01}}, {{metric: ranking.rbo, margin: 0.1}}]
serve: {{listen: "127.0.0.1:0", refresh: 200ms}}
log_level: warning
"""
    )


async def send(session: aiohttp.ClientSession, proxy: str, at: int) -> None:
    async with session.post(f"{proxy}/rank", json={"id": at, "items": ["a", "b", str(at)]}) as response:
        assert response.status == 200
        assert [item["id"] for item in (await response.json())["items"]] == ["a", "b", str(at)]


async def until(stack: ProcessStack, met: Callable[[Verdict], bool], patience: float = 40.0) -> Verdict:
    """The first verdict that meets a condition; the last one read if none does in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience
    while True:
        verdict = await stack.verdict()
        if met(verdict) or loop.time() > deadline:
            return verdict
        await asyncio.sleep(0.1)


def counted(verdict: Verdict) -> dict[str, int]:
    return {name: report.pairs for name, report in verdict.cohorts.items()}


async def started(stack: ProcessStack, upstream: str, folder: Path, cohorts: int) -> StackUrls:
    return await stack.start(settings(upstream, folder, cohorts))


async def kill_comparators(stack: ProcessStack, times: int) -> None:
    """kill -9 whatever comparator runs, `times` times, each as soon as it has counted something."""
    killed: set[int] = set()
    for _ in range(times):

        def ready(_: Verdict) -> bool:
            part = stack.supervisor.parts["compare"]
            return part.pid not in killed and bool(part.urls)

        before = (await until(stack, ready)).pairs
        await until(stack, lambda verdict, before=before: verdict.pairs > before)  # type: ignore[misc]
        pid = stack.supervisor.parts["compare"].pid
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)


async def test_kill_9_of_the_comparator_counts_every_pair_once(upstream: str, tmp_path: Path) -> None:
    most = 1000
    stack = ProcessStack(tmp_path)
    tasks = Tasks()
    try:
        urls = await started(stack, upstream, tmp_path, most)
        killing = tasks.start(kill_comparators(stack, 3), name="killing")
        sent = 0
        async with aiohttp.ClientSession() as session:
            # Paced, so that entries are read, compared and committed all the while that comparators die.
            while not killing.done() and sent < most:
                await send(session, urls.proxy, sent)
                sent += 1
                await asyncio.sleep(0.015)
        assert killing.done(), f"fewer than three comparators counted something before {most} requests were sent"
        killing.result()
        verdict = await until(stack, lambda verdict: verdict.pairs >= sent and verdict.accounting.balanced)
        assert counted(verdict) == {f"id={at}": 1 for at in range(sent)}
        assert (verdict.pairs, verdict.open_pairs, verdict.accounting.dropped) == (sent, 0, {})
        assert verdict.accounting.recorded == verdict.accounting.requests == sent
    finally:
        await tasks.cancel()
        await stack.stop()


async def test_a_restart_of_everything_goes_on_where_it_was(upstream: str, tmp_path: Path) -> None:
    half = 30
    for run in (0, 1):
        stack = ProcessStack(tmp_path)
        try:
            urls = await started(stack, upstream, tmp_path, 2 * half)
            async with aiohttp.ClientSession() as session:
                for at in range(run * half, (run + 1) * half):
                    await send(session, urls.proxy, at)
            if run == 0:
                # Stopped at once: what the proxy had accepted must be recorded on its way out.
                continue
            verdict = await until(stack, lambda verdict: verdict.pairs >= 2 * half)
            assert counted(verdict) == {f"id={at}": 1 for at in range(2 * half)}
            assert verdict.accounting.requests == verdict.accounting.recorded == 2 * half
        finally:
            await stack.stop()


async def test_the_proxy_killed_counts_what_it_recorded_and_nothing_twice(upstream: str, tmp_path: Path) -> None:
    requests = 60
    stack = ProcessStack(tmp_path)
    try:
        urls = await started(stack, upstream, tmp_path, requests)
        async with aiohttp.ClientSession() as session:
            for at in range(requests):
                await send(session, urls.proxy, at)
        await until(stack, lambda verdict: verdict.accounting.recorded == requests)
        os.kill(stack.supervisor.parts["proxy"].pid, signal.SIGKILL)
        verdict = await until(stack, lambda verdict: verdict.pairs >= requests)
        assert counted(verdict) == {f"id={at}": 1 for at in range(requests)}
        assert verdict.state in (State.CONTINUE, State.PROMOTE)
    finally:
        await stack.stop()
