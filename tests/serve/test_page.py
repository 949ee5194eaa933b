"""The live page's files over a real socket."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import plotly
import pytest

from shadowproxy import metrics
from shadowproxy.config import Address
from shadowproxy.report.assets import web_files
from shadowproxy.serve.admin import AdminServer
from shadowproxy.serve.page import Page


async def ready() -> Mapping[str, str]:
    return {}


@asynccontextmanager
async def served(page: Page) -> AsyncIterator[str]:
    server = AdminServer("api", metrics.registry(), ready, page.routes)
    yield f"http://{await server.start(Address('127.0.0.1', 0), '$.serve.listen')}"
    await server.stop()


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with served(Page()) as url:
        yield url


async def get(url: str, headers: Mapping[str, str] | None = None) -> tuple[int, Mapping[str, str], bytes]:
    # As it comes over the wire: aiohttp would unpack it.
    async with (
        aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding"]) as session,
        session.get(url, headers=headers) as response,
    ):
        return response.status, response.headers, await response.read()


async def test_every_file_that_a_page_needs_is_served_as_what_it_is(url: str) -> None:
    kinds = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
    files = web_files()
    assert "index.html" in files
    for name, content in files.items():
        kind = kinds.get(name.rpartition(".")[2])
        if kind is not None:
            status, headers, body = await get(f"{url}/assets/{name}")
            assert (status, headers["Content-Type"], body) == (200, kind, content)
    status, headers, body = await get(url)
    assert (status, headers["Content-Type"], body) == (200, "text/html; charset=utf-8", files["index.html"])


async def test_a_file_is_sent_once_and_small() -> None:
    script = b"export const a = 1;\n" * 100
    async with served(Page({"index.html": b"", "js/a.js": script})) as url:
        status, headers, body = await get(f"{url}/assets/js/a.js", {"Accept-Encoding": "gzip"})
        assert (status, headers["Content-Encoding"], gzip.decompress(body)) == (200, "gzip", script)
        assert len(body) < 100
        status, again, body = await get(f"{url}/assets/js/a.js", {"If-None-Match": headers["ETag"]})
        assert (status, again["ETag"], body) == (304, headers["ETag"], b"")
    async with served(Page({"index.html": b"", "js/a.js": script + b"\n"})) as url:
        status, changed, _ = await get(f"{url}/assets/js/a.js", {"If-None-Match": headers["ETag"]})
        assert (status, changed["ETag"] == headers["ETag"]) == (200, False)


async def test_the_charts_library_is_that_of_the_package(url: str) -> None:
    _, headers, zipped = await get(f"{url}/assets/plotly.min.js", {"Accept-Encoding": "gzip"})
    assert gzip.decompress(zipped).decode() == plotly.offline.get_plotlyjs()
    assert headers["Content-Type"] == "text/javascript; charset=utf-8"


async def test_without_plotly_a_script_says_what_to_install() -> None:
    async with served(Page(bundle=lambda: None)) as url:
        status, headers, body = await get(f"{url}/assets/plotly.min.js")
        assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
        assert b"pip install 'shadowproxy[plots]'" in body


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../index.html", "/assets/..%2f..%2fassets.py", "/assets/%2e%2e/__init__.py", "/assets//etc/passwd",
        "/assets/js/../../words.py", "/assets/report.html.j2", "/assets/index.html", "/assets/js", "/assets/",
        "/assets/js/main.js%00.css", "/assets/js\\..\\..\\words.py",
    ],
)  # fmt: skip
async def test_no_path_leads_to_another_file(url: str, path: str) -> None:
    # By hand: clients straighten a path before they send it.
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), family=socket.AF_INET)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"application/problem+json" in answer
