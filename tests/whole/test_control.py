"""Pausing, resuming and sampling with real processes: clients notice nothing, and what is said outlives a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
from proxy.harness import Response, ask, get, upstream
from proxy.harness import echo as echoing
from servers import until
from whole.load import (
    ROOT,
    Command,
    command,
    once,
    reading,
    services,
    settings,
    settled,
    under_load,
)

from shadowproxy.pairs import EmbeddedServer

FREE = 'listen: "127.0.0.1:0", admin: "127.0.0.1:0", grace: 5s'


async def said(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What a command of ours says, as a person at a shell gives it."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "shadowproxy", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


async def metric(running: Command, name: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{running.urls['proxy_admin']}/metrics") as response:
        lines = (await response.text()).splitlines()
    return next((line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")), "")


async def test_a_pause_under_load_is_noticed_by_the_candidate_alone(tmp_path: Path) -> None:
    async with services() as (baseline, first, candidate, second):
        chosen = settings(tmp_path, first, second)
        config = str(tmp_path / "shadowproxy.yaml")
        with command(tmp_path, chosen, "run") as running:
            await running.ready("experiment")
            async with under_load(running.proxy, kept=8, fresh=2) as load:

                async def more(answers: int) -> None:
                    before = len(load.answered)
                    await until(lambda: len(load.answered) >= before + answers, f"{answers} answers")

                async def nothing_is_mirrored() -> None:
                    # What began before the pause has long been seen when these are answered.
                    await more(40)
                    before = candidate.seen.total()
                    await more(60)
                    assert candidate.seen.total() == before

                async def resumed() -> None:
                    before = candidate.seen.total()
                    await until(lambda: candidate.seen.total() >= before + 40, "40 copies")

                await more(60)
                done = await said("pause", "--config", config, "--reason", "too much load")
                assert done.returncode == 0, done.stderr
                assert ": too much load\n1 of 1 proxies of this experiment go by it\n" in done.stdout
                await nothing_is_mirrored()
                assert await metric(running, "shadowproxy_mirroring_paused") == "1.0"

                api = running.urls["api"]
                async with aiohttp.ClientSession() as session:
                    async with session.get(f"{api}/api/v1/verdict") as response:
                        assert "mirroring is paused" in (await response.json())["notes"][0]
                    async with session.post(f"{api}/api/v1/control", json={"paused": False}) as response:
                        assert response.status == 200
                await resumed()

                async with aiohttp.ClientSession() as session:
                    change = {"paused": True, "reason": "once more"}
                    async with session.post(f"{api}/api/v1/control", json=change) as response:
                        assert response.status == 200
                await until(lambda: paused(running))
                await nothing_is_mirrored()
                done = await said("resume", "--url", api)
                assert done.returncode == 0, done.stderr
                await resumed()

                shown = json.loads((await said("control", "--url", api, "--json")).stdout)
                reasons = [(change["version"], change["paused"], change["reason"]) for change in shown["history"]]
                assert reasons == [(4, False, ""), (3, True, "once more"), (2, False, ""), (1, True, "too much load")]
                assert "  1: mirroring is paused, since 2" in (await said("control", "--config", config)).stdout
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended(within=3 * 8) == 0
        assert not load.broken
        assert not any(load.unanswered.values())
        assert baseline.seen == once(load.answered)
        async with reading(chosen) as read:
            verdict = await settled(read, lambda verdict: verdict.pairs >= candidate.seen.total())
        account = verdict.accounting
        assert account.balanced
        assert account.requests == len(load.answered)
        assert account.skipped.keys() == {"paused"}
        assert set(candidate.seen.values()) == {1}
        assert verdict.pairs == account.recorded == candidate.seen.total() < len(load.answered)


async def paused(running: Command) -> bool:
    return await metric(running, "shadowproxy_mirroring_paused") == "1.0"


async def test_a_proxy_that_restarts_while_paused_starts_paused(valkey: EmbeddedServer, tmp_path: Path) -> None:
    async with upstream(echoing) as baseline, upstream(echoing) as candidate:
        chosen = settings(tmp_path, baseline.url, candidate.url, redis=f'{{url: "{valkey.url}"}}')
        config = str(tmp_path / "shadowproxy.yaml")
        with command(tmp_path, chosen, "proxy") as running:
            await running.ready("proxy_admin")
            assert (await ask(running.proxy, get("/1"))).status == 200
            assert (await said("pause", "--config", config)).returncode == 0
            running.process.kill()
            await running.ended(within=10)
        with command(tmp_path, chosen, "proxy") as running:
            await running.ready("proxy_admin")
            for _ in range(5):
                assert (await ask(running.proxy, get("/2"))).status == 200
            assert await paused(running)
            done = await said("resume", "--config", config)
            # The one that was killed could not say that it is gone, and is waited for in vain.
            assert (done.returncode, done.stderr.count("has not confirmed it")) == (4, 1)
            assert (await ask(running.proxy, get("/3"))).status == 200
            await until(lambda: len(candidate.requests) == 2)
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended(within=20) == 0
        assert [request.line for request in candidate.requests] == [b"GET /1 HTTP/1.1", b"GET /3 HTTP/1.1"]
        assert len(baseline.requests) == 7


async def test_the_share_is_set_while_it_runs_and_each_account_is_in_or_out(
    valkey: EmbeddedServer, tmp_path: Path
) -> None:
    async with upstream(echoing) as baseline, upstream(echoing) as candidate:
        chosen = settings(
            tmp_path,
            baseline.url,
            candidate.url,
            redis=f'{{url: "{valkey.url}"}}',
            proxy=f'{{{FREE}, mirror: {{sample_by: "query:user"}}}}',
        )
        config = str(tmp_path / "shadowproxy.yaml")
        with command(tmp_path, chosen, "proxy") as running:
            await running.ready("proxy_admin")

            async def mirrored() -> set[bytes]:
                before = len(candidate.requests)
                answers: list[Response] = [await ask(running.proxy, get(f"/?user={number}")) for number in range(40)]
                assert {answer.status for answer in answers} == {200}
                await until(idle)
                return {request.line for request in candidate.requests[before:]}

            async def idle() -> bool:
                return await metric(running, 'shadowproxy_in_flight_requests{side="candidate"}') == "0.0"

            assert len(await mirrored()) == 40
            done = await said("sample", "0.5", "--config", config, "--reason", "half will do")
            assert done.returncode == 0, done.stderr
            assert "the sampling share is set to 0.5" in done.stdout
            half = await mirrored()
            assert 0 < len(half) < 40
            assert await mirrored() == half
            assert await metric(running, "shadowproxy_mirroring_sample_ratio") == "0.5"
            assert (await said("sample", "0.8", "--config", config)).returncode == 0
            more = await mirrored()
            assert half < more
            assert (await said("sample", "--reset", "--config", config)).returncode == 0
            assert len(await mirrored()) == 40
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended(within=20) == 0
        async with reading(chosen) as read:
            account: Any = (await read()).verdict.accounting
        assert account.balanced
        assert account.skipped == {"not_sampled": 200 - 2 * 40 - 2 * len(half) - len(more)}


async def test_a_change_is_taken_over_when_the_store_is_back(own_valkey: EmbeddedServer, tmp_path: Path) -> None:
    async with upstream(echoing) as baseline, upstream(echoing) as candidate:
        chosen = settings(tmp_path, baseline.url, candidate.url, redis=f'{{url: "{own_valkey.url}"}}')
        config = str(tmp_path / "shadowproxy.yaml")
        with command(tmp_path, chosen, "proxy") as running:
            await running.ready("proxy_admin")
            assert (await said("pause", "--config", config)).returncode == 0
            assert own_valkey.pid is not None
            os.kill(own_valkey.pid, signal.SIGKILL)
            own_valkey.stop()
            done = await said("resume", "--config", config)
            assert done.returncode == 4, done.stderr
            # Whom nobody tells otherwise stays paused.
            assert (await ask(running.proxy, get("/1"))).status == 200
            own_valkey.start()
            assert (await said("resume", "--config", config)).returncode == 0
            assert (await ask(running.proxy, get("/2"))).status == 200
            await until(lambda: len(candidate.requests) == 1)
            assert candidate.requests[0].line == b"GET /2 HTTP/1.1"
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended(within=20) == 0
