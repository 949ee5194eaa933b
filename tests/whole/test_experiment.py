"""Experiments with real processes: ended, begun anew and looked at, while clients notice nothing."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from proxy.harness import RawUpstream, Received, ask, get, upstream
from proxy.harness import echo as echoing
from servers import until
from whole.load import Command, Service, answer, command, once, reading, services, settings, settled, under_load
from whole.test_control import metric, paused, said

from shadowproxy.config import Settings, experiment_id
from shadowproxy.config import load as load_settings
from shadowproxy.pairs import EmbeddedServer


async def told(*arguments: str) -> dict[str, Any]:
    done = await said("experiment", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def row(chosen: Settings, config: str) -> dict[str, Any]:
    listed = (await told("list", "--config", config))["experiments"]
    [found] = [one for one in listed if one["experiment"] == experiment_id(chosen)]
    return dict(found)


async def test_an_experiment_is_stopped_reset_and_started_under_load(tmp_path: Path) -> None:
    async with services() as (baseline, first, candidate, second):
        chosen = settings(tmp_path, first, second)
        config = str(tmp_path / "shadowproxy.yaml")
        with command(tmp_path, chosen, "run") as running:
            await running.ready("experiment")
            async with under_load(running.proxy, kept=8, fresh=2) as load:

                async def mirrored(copies: int) -> None:
                    before = candidate.seen.total()
                    await until(lambda: candidate.seen.total() >= before + copies, f"{copies} copies")

                async def answered(more: int) -> None:
                    before = len(load.answered)
                    await until(lambda: len(load.answered) >= before + more, f"{more} answers")

                async def nothing_is_mirrored() -> None:
                    # What began before the stop has long been seen when these are answered.
                    await answered(40)
                    before = candidate.seen.total()
                    await answered(60)
                    assert candidate.seen.total() == before

                await mirrored(60)
                refused = await said("experiment", "reset", "--yes", "--config", config)
                assert (refused.returncode, "is not stopped" in refused.stderr) == (2, True)
                done = await said("experiment", "stop", "--config", config, "--reason", "a new build")
                assert done.returncode == 0, done.stderr
                assert done.stdout.splitlines()[1:] == ["1 of 1 proxies of this experiment go by it"]
                await nothing_is_mirrored()
                assert await paused(running)

                api = running.urls["api"]
                for where in (("--url", api), ("--config", config)):
                    refused = await said("resume", *where)
                    assert refused.returncode == 2
                    assert "`shadowproxy experiment start` makes it run again" in refused.stderr
                await nothing_is_mirrored()

                async def all_counted() -> bool:
                    found = await row(chosen, config)
                    return found["recorded"] == found["counted"] == candidate.seen.total()

                await until(all_counted)
                old = candidate.seen.total()
                found = await row(chosen, config)
                assert (found["state"], found["configured"], found["last"]["what"]) == ("stopped", True, "continue")
                done = await said("experiment", "reset", "--yes", "--config", config, "--reason", "a new build")
                assert done.returncode == 0, done.stderr
                assert f"{old:,} pairs are forgotten" in done.stdout
                found = await row(chosen, config)
                assert (found["counted"], found["recorded"]) == (0, 0)

                done = await said("experiment", "start", "--url", api, "--reason", "it is deployed")
                assert done.returncode == 0, done.stderr
                await mirrored(60)
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended(within=3 * 8) == 0
        assert not load.broken
        assert not any(load.unanswered.values())
        assert baseline.seen == once(load.answered)
        fresh = candidate.seen.total() - old
        async with reading(chosen) as read:
            verdict = await settled(read, lambda verdict: verdict.pairs >= fresh)
        # Every pair since the reset once, and none from before it.
        assert verdict.pairs == verdict.accounting.recorded == fresh
        assert verdict.accounting.balanced
        assert [check.name for check in verdict.checks if check.name == "nothing_lost" and not check.passed] == []
        assert verdict.accounting.skipped.keys() <= {"stopped"}
        shown = await told("show", "--config", config)
        assert [moment["what"] for moment in shown["history"]][-3:] == ["continue", "reset", "continue"]
        assert [change["stopped"] for change in shown["controls"]["history"]] == [False, True]


async def test_a_proxy_that_starts_while_stopped_mirrors_nothing_and_says_why(
    valkey: EmbeddedServer, tmp_path: Path
) -> None:
    async with upstream(echoing) as baseline, upstream(echoing) as candidate:
        chosen = settings(tmp_path, baseline.url, candidate.url, redis=f'{{url: "{valkey.url}"}}')
        config = str(tmp_path / "shadowproxy.yaml")
        (tmp_path / "shadowproxy.yaml").write_text(chosen.model_dump_json(), encoding="utf-8")
        # An experiment that has not begun is registered, and can be stopped before it does.
        assert (await said("experiment", "start", "--config", config)).returncode == 0
        assert (await row(chosen, config))["state"] == "idle"
        assert (await said("experiment", "stop", "--config", config)).returncode == 0
        with command(tmp_path, chosen, "proxy") as running:
            await running.ready("proxy_admin")
            assert (await ask(running.proxy, get("/1"))).status == 200
            assert await skipped(running) == "1.0"
            assert (await said("experiment", "start", "--config", config)).returncode == 0
            assert (await row(chosen, config))["state"] == "running"
            assert (await ask(running.proxy, get("/2"))).status == 200
            await until(lambda: len(candidate.requests) == 1)
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended(within=20) == 0
        assert [request.line for request in candidate.requests] == [b"GET /2 HTTP/1.1"]
        assert len(baseline.requests) == 2


async def skipped(running: Command) -> str:
    return await metric(running, 'shadowproxy_skipped_total{reason="stopped"}')


class Versioned(Service):
    """Says which version it is."""

    version = b"7"

    async def __call__(
        self, _raw: RawUpstream, request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        number = json.loads(request.body)["id"]
        self.seen[number] += 1
        body = answer(number)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body))
        writer.write(b"X-Model-Version: %b\r\n\r\n%b" % (self.version, body))
        await writer.drain()
        return True


async def test_an_experiment_of_another_configuration_stays_readable(valkey: EmbeddedServer, tmp_path: Path) -> None:
    """Counted under one configuration, shown under another; the candidate was replaced in the middle of it."""
    model = Versioned()
    async with upstream(Versioned()) as baseline, upstream(model) as candidate:
        policy = "{bucket: 500ms, settle: 200ms, version_header: x-model-version, guardrails: "
        chosen = settings(
            tmp_path,
            baseline.url,
            candidate.url,
            redis=f'{{url: "{valkey.url}", partitions: 2}}',
            verdict=f"{policy} [{{metric: failures.difference, margin: 0.5}}]}}",
        )
        config = tmp_path / "shadowproxy.yaml"
        name = experiment_id(chosen)
        with command(tmp_path, chosen, "run") as running:
            await running.ready("experiment")
            async with under_load(running.proxy, kept=4) as load:
                await until(lambda: len(load.answered) >= 200)
                model.version = b"8"
                await until(lambda: len(load.answered) >= 400)
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended(within=3 * 8) == 0
        config.write_text(config.read_text().replace('"partitions": 2', '"partitions": 1'))
        assert experiment_id(load_settings(config)) != name

        async def shown() -> dict[str, Any]:
            return await told("show", name, "--config", str(config))

        found: dict[str, Any] = {}

        async def all_closed() -> bool:
            nonlocal found
            found = await shown()
            return found["verdict"]["open_pairs"] == 0

        await until(all_closed)
        assert (found["experiment"], found["configured"], found["state"], found["problem"]) == (name, False, "idle", "")
        assert found["settings"]["partitions"] == 2
        assert found["verdict"]["pairs"] == found["accounting"]["recorded"] == len(load.answered)
        [check] = [check for check in found["verdict"]["checks"] if check["name"] == "versions"]
        assert not check["passed"]
        assert "the candidate's x-model-version changed from 7 to 8 at 20" in check["detail"]
        assert found["verdict"]["state"] == "continue"
        assert [seen["value"] for seen in found["versions"]["candidate"]] == ["7", "8"]
        assert [seen["value"] for seen in found["versions"]["baseline"]] == ["7"]

        plain = await said("experiment", "show", name, "--redis", valkey.url, "--history")
        assert plain.returncode == 0, plain.stderr
        for word in (f"{name}: idle, begun 20", "frozen settings:", "version of the candidate: 8", "CONTINUE"):
            assert word in plain.stdout
        assert plain.stdout.count(" UTC  continue, ") == len(found["history"]) > 0
        unknown = await said("experiment", "show", "nobody-00000000", "--redis", valkey.url)
        assert (unknown.returncode, "there is no experiment 'nobody-00000000'" in unknown.stderr) == (2, True)
