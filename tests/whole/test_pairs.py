"""Exporting pairs beside real proxies and comparators: all of them accounted for, and nobody the worse for it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from servers import until
from whole.load import (
    PATIENCE,
    ROOT,
    Command,
    answer,
    busy,
    command,
    nothing_was_lost,
    services,
    settings,
    settled,
    under_load,
)

from shadowproxy.pairs.lines import read_line
from shadowproxy.processes import open_store
from shadowproxy.serve.reader import VerdictReader


async def recorded(running: Command) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{running.urls['proxy_admin']}/metrics") as response:
        [count] = re.findall(r"^shadowproxy_recorded_total (\S+)", await response.text(), re.MULTILINE)
        return int(float(count))


def said(pattern: str, text: str) -> int:
    """The pairs that a line of the export tells of; 0 where it has no such line."""
    found = re.search(pattern, text)
    return int(found[1].replace(",", "")) if found else 0


@pytest.mark.parametrize("keep", ["0", "64MiB"])
async def test_an_export_beside_comparators_accounts_for_every_pair(keep: str, tmp_path: Path) -> None:
    target = tmp_path / "pairs.jsonl"
    async with services() as (baseline, first, candidate, second):
        redis = f'{{data_dir: "{tmp_path}/data", partitions: 3, keep: {keep}}}'
        chosen = settings(tmp_path, first, second, redis=redis)
        with command(tmp_path, chosen, "run") as running:
            await running.ready("experiment")
            words = ["pairs", "export", str(target), "--follow", "--config", str(tmp_path / "shadowproxy.yaml")]
            exporter = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "shadowproxy", *words, stderr=subprocess.PIPE, cwd=ROOT
            )
            try:
                async with under_load(running.proxy, kept=8, fresh=2) as load:
                    await busy(load)
                    await until(lambda: bool(list(tmp_path.glob(".pairs.jsonl.*"))), "the export", within=PATIENCE)
                    await busy(load)

                async def all_recorded() -> bool:
                    return await recorded(running) == len(load.answered)

                await until(all_recorded, "all pairs in the store", within=PATIENCE)
                exporter.send_signal(signal.SIGINT)
                _, errors = await exporter.communicate()
                report = errors.decode()
                assert exporter.returncode == 0, report
            finally:
                if exporter.returncode is None:
                    exporter.kill()
                    await exporter.wait()
            running.process.send_signal(signal.SIGTERM)
            assert await running.ended(within=3 * 8) == 0
        async with open_store(chosen) as store:
            reader = VerdictReader(store, chosen)
            verdict = await settled(reader.read, lambda verdict: verdict.pairs >= baseline.seen.total())
    nothing_was_lost(load, baseline, candidate, verdict)

    exported = [read_line(line) for line in target.read_text().splitlines()]
    numbers = [json.loads(pair.request.body)["id"] for pair in exported]
    assert len(set(numbers)) == len(numbers)
    for number, pair in zip(numbers, exported, strict=True):
        assert pair.baseline.body == pair.candidate.body == answer(number)
    earlier = said(r"([\d,]+) earlier pair", report)
    gone = said(r"\(([\d,]+) pairs?\) had been deleted", report)
    unread = said(r"\(([\d,]+) pairs?\) had come", report)
    assert said(r"([\d,]+) pairs? written", report) == len(numbers) > 0
    assert "can't be read" not in report
    assert len(numbers) + earlier + gone + unread == len(load.answered), report
    if keep != "0":
        assert earlier == gone == 0, report
