"""The verdict's cells over HTTP: chosen, counted by cohort, and unchanged until there is something new."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import aiohttp
import msgspec
import pytest
from aiohttp import web
from serve.test_reader import BROKEN, GOOD, OTHER, SETTINGS, Counted, pair
from servers import unique

from shadowproxy import metrics
from shadowproxy.config import Address
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Store
from shadowproxy.serve.admin import AdminServer
from shadowproxy.serve.api.guardrails import GuardrailApi
from shadowproxy.serve.api.verdict import VerdictApi
from shadowproxy.serve.reader import VerdictReader

NAMES = ["failures.difference", "ranking.rbo"]


class Routed(Protocol):
    @property
    def routes(self) -> list[web.RouteDef]: ...


class Asked:
    """What an address of the API answers."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def __call__(self, path: str, status: int = 200, **headers: str) -> Any:
        async with self._session.get(f"{self._url}/{path}", headers=headers) as response:
            body = await response.read()
            assert response.status == status, body[:500]
            assert response.content_type == f"application/{'json' if status == 200 else 'problem+json'}"
            self.headers = response.headers
            return msgspec.json.decode(body)


@contextlib.asynccontextmanager
async def served(*groups: Routed) -> AsyncIterator[Asked]:
    async def ready() -> Mapping[str, str]:
        return {}

    admin = AdminServer("api", metrics.registry(), ready, [route for group in groups for route in group.routes])
    url = f"http://{await admin.start(Address('127.0.0.1', 0), '$.serve.listen')}/api/v1"
    try:
        async with aiohttp.ClientSession() as session:
            yield Asked(url, session)
    finally:
        await admin.stop()


@pytest.fixture
async def counted(valkey: EmbeddedServer) -> AsyncIterator[Counted]:
    async with await Store.open(valkey.url, unique("guardrails"), max_entries=1000) as store:
        yield Counted(store)


def api_of(counted: Counted) -> VerdictApi:
    return VerdictApi(VerdictReader(Partitions(counted.store), SETTINGS), refresh=60.0)


async def test_cells_are_chosen_by_guardrail_cohort_and_finding(counted: Counted) -> None:
    # Only one region's answers are broken.
    await counted.count("one", [pair(at, BROKEN if at % 3 == 1 else GOOD) for at in range(900)])
    api = api_of(counted)
    await api.update()
    verdict = msgspec.to_builtins(await counted.verdict())
    async with served(api, GuardrailApi(api.current, NAMES)) as get:
        every = (await get("guardrails"))["guardrails"]
        assert [(cell["cohort"], cell["guardrail"]) for cell in every] == [
            (cohort, name) for cohort in ("all", "region=r0", "region=r1", "region=r2") for name in NAMES
        ]
        overall = msgspec.json.decode(msgspec.json.encode(verdict["guardrails"]))
        assert every[:2] == [{**cell, "worst": None} for cell in overall]
        chosen = (await get(f"guardrails?guardrail={NAMES[0]}&cohort=region%3Dr1"))["guardrails"]
        assert chosen == [every[4]]
        harmful = (await get("guardrails?finding=harmful"))["guardrails"]
        assert {cell["cohort"] for cell in harmful} == {"all", "region=r1"}
        assert harmful == [cell for cell in every if cell["finding"] == "harmful"]
        cohorts = (await get("cohorts"))["cohorts"]
        assert [(row["cohort"], row["pairs"]) for row in cohorts] == [
            ("all", 900),
            *((f"region=r{at}", 300) for at in range(3)),
        ]
        for row in cohorts:
            for finding in ("safe", "harmful", "undecided"):
                own = [cell for cell in every if (cell["cohort"], cell["finding"]) == (row["cohort"], finding)]
                assert row[finding] == len(own)
        assert cohorts[2]["harmful"] == 2


async def test_what_is_not_there_is_404_and_what_cannot_be_400(counted: Counted) -> None:
    await counted.count("one", [pair(0)])
    api = api_of(counted)
    async with served(api, GuardrailApi(api.current, NAMES)) as get:
        for path in ("guardrails", "cohorts", "verdict"):
            assert "no verdict" in (await get(path, 503))["detail"]
        await api.update()
        problem = await get("guardrails?guardrail=%3Cscript%3E", 404)
        assert problem["status"] == 404
        assert "'<script>'; there are failures.difference, ranking.rbo" in problem["detail"]
        assert "region=r0" in (await get("guardrails?cohort=moon", 404))["detail"]
        assert "undecided" in (await get("guardrails?finding=bad", 400))["detail"]
        assert len((await get(f"guardrails?guardrail={'x' * 5000}", 404))["detail"]) < 300
        await get("nothing", 404)


async def test_a_verdict_that_says_the_same_is_not_sent_again(counted: Counted) -> None:
    await counted.count("one", [pair(at) for at in range(30)])
    api, other = api_of(counted), api_of(counted)
    await api.update()
    await other.update()
    async with served(api) as get, served(other) as too:
        await get("verdict")
        etag = get.headers["ETag"]
        await too("verdict")
        assert too.headers["ETag"] == etag
        assert etag.startswith("W/")
        await api.update()
        for said in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
            async with get._session.get(f"{get._url}/verdict", headers={"If-None-Match": said}) as response:
                assert (response.status, await response.read()) == (304, b"")
                assert response.headers["ETag"] == etag
        await counted.count("one", [pair(at, OTHER) for at in range(30, 60)])
        await api.update()
        assert (await get("verdict", **{"If-None-Match": etag}))["pairs"] == 60
        assert get.headers["ETag"] != etag


async def test_large_answers_are_compressed_for_those_who_take_it(counted: Counted) -> None:
    await counted.count("one", [pair(at) for at in range(30)])
    api = api_of(counted)
    await api.update()
    async with served(api) as get, aiohttp.ClientSession(auto_decompress=False) as raw:
        whole = await get("verdict")
        async with raw.get(f"{get._url}/verdict", headers={"Accept-Encoding": "gzip"}) as response:
            small = await response.read()
            assert response.headers["Content-Encoding"] == "gzip"
        async with raw.get(f"{get._url}/verdict", headers={"Accept-Encoding": "identity"}) as response:
            assert "Content-Encoding" not in response.headers
            plain = await response.read()
    assert msgspec.json.decode(gzip.decompress(small)) == whole == msgspec.json.decode(plain)
    assert len(small) < len(plain) / 2
