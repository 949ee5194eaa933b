"""/api/v1/control over a real socket and a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import pytest
from api import guarded
from redis.asyncio import Redis
from servers import unique

from shadowproxy.config import Address, experiment_id, loads
from shadowproxy.errors import ApiUnavailable
from shadowproxy.pairs import EmbeddedServer, Store
from shadowproxy.pairs.controls import ControlChange
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.serve.api.control import ControlApi
from shadowproxy.serve.client import change_control, fetch_control
from shadowproxy.serve.reader import VerdictReader


@pytest.fixture
async def store(valkey: EmbeddedServer) -> AsyncIterator[Store]:
    async with await Store.open(valkey.url, unique("control"), max_entries=1000) as opened:
        yield opened


async def ready() -> Mapping[str, str]:
    return {}


@pytest.fixture
async def url(store: Store) -> AsyncIterator[str]:
    server = guarded(ControlApi(store).routes)
    yield f"http://{await server.start(Address('127.0.0.1', 0), '$.serve.listen')}"
    await server.stop()


async def send(url: str, body: bytes, content_type: str = "application/json") -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v1/control", data=body, headers={"Content-Type": content_type}) as response,
    ):
        return response.status, await response.json(content_type=None)


async def test_it_is_shown_changed_and_remembered(url: str, store: Store) -> None:
    assert not (await fetch_control(url)).controls.paused
    status, body = await send(url, b'{"paused": true, "reason": "too much load"}')
    assert (status, body["controls"]["paused"], body["experiment"]) == (200, True, store.name)
    assert body["controls"]["by"] == "API, from 127.0.0.1"
    await change_control(url, ControlChange(sample=0.5, by="me"))
    shown = await fetch_control(url)
    assert (shown.controls.paused, shown.controls.sample, shown.controls.by) == (True, 0.5, "me")
    assert [change.reason for change in shown.history] == ["", "too much load"]


async def test_sample_null_takes_the_share_back(url: str) -> None:
    await send(url, b'{"sample": 0.5}')
    assert (await send(url, b'{"paused": false}'))[1]["controls"]["sample"] == 0.5
    assert (await send(url, b'{"sample": null}'))[1]["controls"]["sample"] is None


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{}", "say what to change"),
        (b'{"pause": true}', "pause"),
        (b'{"paused": 1}', "bool"),
        (b'{"sample": 2}', "share"),
        (b'{"sample": "0.1"}', "float"),
        (b"paused", "JSON"),
        (b'{"paused": true, "reason": "\xff"}', "utf-8"),
        (b'{"paused": true, "reason": "%b"}' % (b"x" * 501), "500"),
    ],
)
async def test_what_cannot_be_is_400_and_changes_nothing(url: str, store: Store, body: bytes, says: str) -> None:
    status, found = await send(url, body)
    assert (status, found["title"]) == (400, "Bad Request")
    assert says.lower() in found["detail"].lower()
    assert await store.read_controls() is None


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_what_a_form_of_a_web_page_can_send_is_refused(url: str, store: Store, content_type: str) -> None:
    assert (await send(url, b'{"paused": true}', content_type))[0] == 415
    assert await store.read_controls() is None
    async with (
        aiohttp.ClientSession() as session,
        session.options(
            f"{url}/api/v1/control",
            headers={"Origin": "http://evil.test", "Access-Control-Request-Method": "POST"},
        ) as response,
    ):
        assert response.status == 405
        assert not any(name.lower().startswith("access-control") for name in response.headers)


async def test_a_script_of_a_page_whose_name_leads_here_is_refused(url: str, store: Store) -> None:
    host = url.removeprefix("http://")
    headers = {"Host": f"evil.test:{host.partition(':')[2]}", "Origin": "http://evil.test"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v1/control", json={"paused": True}, headers=headers) as response,
    ):
        assert response.status == 403
    assert await store.read_controls() is None


async def test_without_its_store_it_is_unavailable(own_valkey: EmbeddedServer) -> None:
    async with await Store.open(own_valkey.url, "gone", max_entries=10) as store:
        server = guarded(ControlApi(store).routes)
        url = f"http://{await server.start(Address('127.0.0.1', 0), '$.serve.listen')}"
        own_valkey.stop()
        with pytest.raises(ApiUnavailable, match="503"):
            await fetch_control(url)
        assert (await send(url, b'{"paused": true}'))[0] == 503
        await server.stop()


async def test_a_verdict_says_that_mirroring_is_paused(valkey: EmbeddedServer) -> None:
    settings = loads(f"experiment: {unique('note')}\nbaseline: http://a\ncandidate: http://b\n")
    async with await Store.open(valkey.url, experiment_id(settings), max_entries=10) as store:
        reader = VerdictReader(Partitions(store), settings)
        assert (await reader.read()).verdict.notes == ()
        await store.change_controls(ControlChange(paused=True, reason="too much load", by="me"))
        (note,) = (await reader.read()).verdict.notes
        assert note.startswith("mirroring is paused, since 2")
        assert note.endswith(" by me: too much load")
        async with Redis.from_url(valkey.url, protocol=2) as raw:
            await raw.set(f"shadow:{{{store.name}:0}}:controls", "garbage")
        (note,) = (await reader.read()).verdict.notes
        assert "can't be read" in note
