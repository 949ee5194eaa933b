"""What the API says of itself is what it does: its document is valid, checked in, and holds for a running API."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest
from aiohttp import web
from api import CONTROL, TOKENS, configured, counted, ready, running
from openapi_spec_validator import validate

from shadowproxy import metrics
from shadowproxy.config import experiment_id
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.serve.admin import AdminServer
from shadowproxy.serve.endpoint import Undocumented, table
from shadowproxy.serve.endpoints import ENDPOINTS
from shadowproxy.serve.openapi import document

CONFIG = Path(__file__).parent.parent / "schemathesis.toml"
SECONDS = os.environ.get("SHADOWPROXY_FUZZ_SECONDS")
"""How long schemathesis goes on; by default it ends with its examples."""


def test_the_document_is_valid() -> None:
    validate(document(ENDPOINTS))


def test_an_endpoint_that_is_not_described_is_not_served() -> None:
    async def handler(_request: web.Request) -> web.Response:
        raise NotImplementedError

    server = AdminServer("api", metrics.registry(), ready, [web.get("/api/v1/more", handler)])
    with pytest.raises(Undocumented, match="/api/v1/more"):
        table(ENDPOINTS, server.served)


async def test_schemathesis_finds_nothing(valkey: EmbeddedServer, tmp_path: Path) -> None:
    settings = configured(valkey.url, f"{TOKENS}, limits: {{rate: 1000000, burst: 1000000}}")
    async with counted(settings), running(settings) as url:
        # The stream without end is tested by itself.
        command = [
            "--config-file", str(CONFIG), "run", f"{url}/api/v1/openapi.json",
            "--header", f"Authorization: Bearer {CONTROL}",
            "--exclude-path", "/api/v1/events", "--checks", "all", "--no-color", "--generation-database", "none",
            "--request-timeout", "20", "--max-examples", "200" if SECONDS else "8", "--continue-on-failure",
            *(["--max-time", SECONDS] if SECONDS else ["--seed", "7", "--phases", "examples,coverage,fuzzing"]),
        ]  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("schemathesis")), *command,
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "EXPERIMENT": experiment_id(settings)},
        )  # fmt: skip
        said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said[-6000:]
    described = sum(one.documented for one in ENDPOINTS)
    assert re.search(rf"Tested: +{described - 1}\n", said), said[-2000:]
