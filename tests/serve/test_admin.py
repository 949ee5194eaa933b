"""Probes and problems over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest

from shadowproxy import metrics
from shadowproxy.config import Address
from shadowproxy.errors import StartError
from shadowproxy.serve.admin import AdminServer

ANYWHERE = Address("127.0.0.1", 0)


class Checks:
    """What /readyz asks."""

    def __init__(self) -> None:
        self.wrong = ""

    async def __call__(self) -> Mapping[str, str]:
        return {"redis": self.wrong}


@pytest.fixture
async def checks() -> Checks:
    return Checks()


@pytest.fixture
async def url(checks: Checks) -> AsyncIterator[str]:
    server = AdminServer("proxy", metrics.registry(), checks)
    yield f"http://{await server.start(ANYWHERE, '$.proxy.admin')}"
    await server.stop()


async def get(url: str, method: str = "GET") -> tuple[int, str, dict[str, object]]:
    async with aiohttp.ClientSession() as session, session.request(method, url) as response:
        return response.status, response.content_type, await response.json()


async def test_probes(url: str, checks: Checks) -> None:
    assert (await get(f"{url}/healthz"))[0] == 200
    assert await get(f"{url}/readyz") == (200, "application/json", {"ready": True, "checks": {"redis": "ok"}})
    checks.wrong = "not connected"
    status, _, body = await get(f"{url}/readyz")
    assert (status, body) == (503, {"ready": False, "checks": {"redis": "not connected"}})
    assert (await get(f"{url}/healthz"))[0] == 200


async def test_unknown_paths_and_methods_are_problems(url: str) -> None:
    status, content_type, body = await get(f"{url}/api/v1/none")
    assert (status, content_type, body["title"]) == (404, "application/problem+json", "Not Found")
    status, content_type, body = await get(f"{url}/healthz", "DELETE")
    assert (status, content_type) == (405, "application/problem+json")


async def test_a_port_in_use_names_the_setting(url: str) -> None:
    port = int(url.rpartition(":")[2])
    other = AdminServer("api", metrics.registry(), Checks())
    with pytest.raises(StartError, match=rf"127\.0\.0\.1:{port} is in use.*\$\.serve\.listen"):
        await other.start(Address("127.0.0.1", port), "$.serve.listen")
