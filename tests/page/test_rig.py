"""The rig itself: what a page must not do is noticed, so that a test which finds nothing means something."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from aiohttp import web
from browser import Watch, faults

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

BAD = """<!doctype html><html lang="en"><title>bad</title><link rel="icon" href="data:,">
<main><h1>Bad</h1><p style="color:#bbb">hardly to be seen</p><input></main><script src="/bad.js"></script></html>"""
SCRIPT = """
console.warn("said");
fetch("http://example.com/asked").catch(() => {});
fetch("/gone");
const inline = document.createElement("script");
inline.textContent = "1";
document.body.append(inline);
setTimeout(() => { document.title = "done"; thrown(); });
"""


@pytest_asyncio.fixture(loop_scope="session")
async def bad() -> AsyncIterator[str]:
    """A page that does all that a page must not do."""

    async def shell(_request: web.Request) -> web.Response:
        policy = {"Content-Security-Policy": "script-src 'self'"}
        return web.Response(text=BAD, content_type="text/html", headers=policy)

    async def script(_request: web.Request) -> web.Response:
        return web.Response(text=SCRIPT, content_type="text/javascript")

    app = web.Application()
    app.add_routes([web.get("/", shell), web.get("/bad.js", script)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def test_what_a_page_must_not_do_is_noticed(page: Page, watch: Watch, bad: str) -> None:
    async with page.expect_event("pageerror"):
        await page.goto(bad, wait_until="networkidle")
    found = "\n".join(watch.found)
    for pattern in (
        "console warning: said",
        "request that leaves the host: http://example.com/asked",
        "request failed: http://example.com/asked",
        "404",
        "policy violated: script-src",
        "error: .*thrown is not defined",
    ):
        watch.allow(pattern)
        assert pattern.split(".*")[-1] in found
    watch.allow("violates the following Content Security Policy|Failed to load resource")
    assert {line.split()[1] for line in await faults(page)} == {"color-contrast:", "label:"}
