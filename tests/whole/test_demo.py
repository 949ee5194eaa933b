"""The demo as a user runs it: every scenario reaches the verdict it must, and what runs can be looked at."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from programs import program

from shadowproxy.demo.scenarios import SCENARIOS
from shadowproxy.verdict.record import EXIT_CODES

ROOT = Path(__file__).parent.parent.parent


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "shadowproxy", "demo", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_reaches_its_verdict(name: str) -> None:
    scenario = SCENARIOS[name]
    done = subprocess.run(
        command("--scenario", name, "--seed", "5", "--rate", "200", "--json"),
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
        env=environment(),
    )
    # One object and nothing else on standard output.
    said = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert said["state"] == scenario.expected.value, said["verdict"]["reasons"]
    assert said["reached"] is True
    assert done.returncode == EXIT_CODES[scenario.expected]
    assert set(said["traffic"]["statuses"]) == {"200"}
    if scenario.cohort is not None:
        assert any(scenario.cohort in reason for reason in said["verdict"]["reasons"])


@contextmanager
def kept(*arguments: str) -> Iterator[dict[str, Any]]:
    """A demo that is left running after its verdict, and the JSON it printed."""
    process = subprocess.Popen(
        command("--json", "--keep", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors


def fetched(url: str, body: bytes | None = None) -> bytes:
    """What is at a URL: GET, or POST with a JSON body. Raises HTTPError unless it is a 2xx."""
    headers = {"content-type": "application/json"} if body else {}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
        return bytes(answer.read())


def test_a_running_demo_can_be_looked_at() -> None:
    with kept("--scenario", "truncated", "--seed", "9") as said:
        urls = said["urls"]
        asked = b'{"user_id": "42", "k": 20}'
        through = fetched(f"{urls['proxy']}/recommend", asked)
        direct = fetched(f"{urls['baseline']}/recommend", asked)
        assert through == direct
        assert len(json.loads(through)["items"]) == 20

        verdict = json.loads(fetched(f"{urls['api']}/api/v1/verdict"))
        assert {"state", "reasons", "guardrails", "cohorts", "pairs", "accounting"} <= verdict.keys()
        assert verdict["state"] == "rollback"
        assert re.search("list length", " ".join(verdict["reasons"]))

        for process in ("api", "proxy_admin", "comparator_admin"):
            body = fetched(f"{urls[process]}/metrics")
            assert b"shadowproxy_" in body
            checked = subprocess.run([program("promtool"), "check", "metrics"], input=body, capture_output=True)
            assert checked.returncode == 0, checked.stderr.decode()
            assert json.loads(fetched(f"{urls[process]}/healthz"))["status"] == "ok"
            assert json.loads(fetched(f"{urls[process]}/readyz"))["ready"] is True

        asked_again = subprocess.run(
            [sys.executable, "-m", "shadowproxy", "verdict", "--url", urls["api"], "--json"],
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert asked_again.returncode == 1
        assert json.loads(asked_again.stdout)["state"] == "rollback"
