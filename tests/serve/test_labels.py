"""/api/v1/labels over a real socket and a real Valkey."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from api import guarded
from redis.asyncio import Redis
from servers import unique

from shadowproxy.config import Address, Serve
from shadowproxy.pairs import EmbeddedServer
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.serve.admin import AdminServer
from shadowproxy.serve.api.labels import LabelApi

JSON, LINES = "application/json", "application/x-ndjson"


MOST_BYTES = Serve().limits.body


@pytest.fixture
async def store(valkey: EmbeddedServer) -> AsyncIterator[Partitions]:
    async with Partitions.at(valkey.url, unique("labels"), partitions=2, max_entries=10) as partitions:
        await partitions.prepare()
        yield partitions


async def serve(store: Partitions, *, awaited: bool = True) -> tuple[AdminServer, str]:
    server = guarded(LabelApi(store, awaited=awaited).routes)
    return server, f"http://{await server.start(Address('127.0.0.1', 0), '$.serve.listen')}"


@pytest.fixture
async def url(store: Partitions) -> AsyncIterator[str]:
    server, url = await serve(store)
    yield url
    await server.stop()


async def send(url: str, body: Any, content_type: str = JSON, **headers: str) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v1/labels", data=body, headers={"Content-Type": content_type, **headers}) as response,
    ):
        return response.status, await response.json(content_type=None)


async def stored(store: Partitions) -> list[list[tuple[str, Any]]]:
    """By partition, what stands in its stream."""
    found = []
    async with Redis.from_url(store.url) as raw:
        for partition in store.stores:
            entries = await raw.xrange(partition.labels.stream)
            found.append([(fields[b"id"].decode(), json.loads(fields[b"truth"])) for _, fields in entries])
    return found


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'[{"id": "1", "truth": ["a", 7]}, {"id": "2", "truth": {"b": 0.5}}]', JSON),
        (b'{"id": "1", "truth": ["a", 7]}\n{"id": "2", "truth": {"b": 0.5}}\n', LINES),
        (b'{"id": "1", "truth": ["a", 7]}\r\n\n{"truth": {"b": 0.5}, "id": "2"}', "application/jsonl"),
        (b'{"id": "1", "truth": ["a", 7]}\n{"id": "2", "truth": {"b": 0.5}}', JSON),
    ],
)
async def test_labels_go_to_every_partition(url: str, store: Partitions, body: bytes, content_type: str) -> None:
    assert await send(url, body, content_type) == (202, {"taken": 2})
    assert await stored(store) == [[("1", ["a", 7]), ("2", {"b": 0.5})]] * 2


async def test_the_example_of_the_documentation(url: str, store: Partitions) -> None:
    page = (Path(__file__).parents[2] / "docs" / "labels.md").read_bytes()
    example = page.partition(b"```json\n")[2].partition(b"```")[0]
    assert await send(url, example, LINES) == (202, {"taken": 2})
    assert [name for name, _ in (await stored(store))[0]] == ["4f8a1c", "4f8a1d"]


async def test_one_label_alone(url: str, store: Partitions) -> None:
    assert await send(url, b'{\n  "id": "1",\n  "truth": ["a"]\n}') == (202, {"taken": 1})
    assert await send(url, b'{"id": "2", "truth": ["b"]}', LINES) == (202, {"taken": 1})
    assert await send(url, b'{"id": "3", "truth": [true, null]}') == (202, {"taken": 1})
    assert (await stored(store))[1] == [("1", ["a"]), ("2", ["b"]), ("3", [True, None])]


async def test_many_labels(url: str, store: Partitions) -> None:
    many = [{"id": f"r{at}", "truth": [f"i{at}"]} for at in range(2500)]
    assert await send(url, json.dumps(many)) == (202, {"taken": 2500})
    assert await stored(store) == [[(one["id"], one["truth"]) for one in many]] * 2
    assert await send(url, b"[]") == (202, {"taken": 0})


GOOD = b'{"id": "1", "truth": ["a"]}'


@pytest.mark.parametrize(
    ("body", "content_type", "says"),
    [
        (b"", JSON, "the body is no JSON"),
        (b"labels", JSON, "the body is no JSON"),
        (b"\xff", JSON, "the body is no JSON"),
        (b"[%b, 3]" % GOOD, JSON, "$[1]"),
        (b"[%b" % GOOD, JSON, "the body is no JSON"),
        (b'{"id": "1"}', JSON, '$: write {"id"'),
        (b'{"id": "1", "truth": ["a"], "more": 1}', JSON, "nothing beside"),
        (b'{"id": 1, "truth": ["a"]}', JSON, "$.id"),
        (b'{"id": "", "truth": ["a"]}', JSON, "$.id"),
        (b'{"id": "%b", "truth": ["a"]}' % (b"x" * 129), JSON, "$.id"),
        (b'{"id": "1", "truth": "a"}', JSON, "$.truth"),
        (b'{"id": "1", "truth": []}', JSON, "leave out requests"),
        (b'{"id": "1", "truth": {"a": 0}}', JSON, "$.truth"),
        (b'{"id": "1", "truth": [1.5, null]}', JSON, "$.truth"),
        (b"%b\n\n%b\n{" % (GOOD, GOOD), LINES, "line 4 is no JSON"),
        (b'%b\n{"id": "2", "truth": 1}\n' % GOOD, LINES, "line 2.truth"),
        (b"%b\n%b]" % (GOOD, GOOD), JSON, "line 2 is no JSON"),
        (b"[" * 100_000, JSON, "no JSON"),
    ],
)
async def test_one_thing_wrong_and_nothing_is_taken(
    url: str, store: Partitions, body: bytes, content_type: str, says: str
) -> None:
    status, found = await send(url, body, content_type)
    assert (status, found["title"]) == (400, "Bad Request")
    assert says in found["detail"]
    assert await stored(store) == [[], []]


async def test_what_is_too_large_is_refused(url: str, store: Partitions) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(MOST_BYTES // 2**16 + 1):
            yield b" " * 2**16

    for body in (io.BytesIO(b" " * MOST_BYTES + GOOD), pieces()):
        status, found = await send(url, body)
        assert (status, found["title"]) == (413, "Content Too Large")
    assert await send(url, io.BytesIO(b" " * (MOST_BYTES - len(GOOD)) + GOOD)) == (202, {"taken": 1})
    assert len((await stored(store))[0]) == 1


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_what_a_form_of_a_web_page_can_send_is_refused(url: str, store: Partitions, content_type: str) -> None:
    assert (await send(url, GOOD, content_type))[0] == 415
    assert await stored(store) == [[], []]


@pytest.mark.parametrize("content_type", [JSON, LINES])
async def test_a_script_of_a_web_page_is_refused(url: str, store: Partitions, content_type: str) -> None:
    assert (await send(url, GOOD, content_type, Origin="http://evil.test"))[0] == 403
    assert await stored(store) == [[], []]


async def test_where_nobody_waits_for_labels_it_says_so(store: Partitions) -> None:
    server, url = await serve(store, awaited=False)
    status, found = await send(url, GOOD)
    assert (status, "`labels`" in found["detail"]) == (409, True)
    await server.stop()


async def test_without_its_store_it_is_unavailable_and_later_takes_them_again(own_valkey: EmbeddedServer) -> None:
    async with Partitions.at(own_valkey.url, "gone", max_entries=10) as store:
        server, url = await serve(store)
        own_valkey.stop()
        status, found = await send(url, GOOD)
        assert (status, "send the labels again" in found["detail"]) == (503, True)
        own_valkey.start()
        assert (await send(url, GOOD))[0] == 202
        await server.stop()
