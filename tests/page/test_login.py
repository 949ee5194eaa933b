"""Coming in with a token, in a real Chromium, over a real API under its own policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from api import CONTROL, READ, TOKENS, configured, counted, running
from browser import Watch, faults

from shadowproxy.pairs.embedded import EmbeddedServer

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_token_is_shown_once_and_kept_nowhere(page: Page, watch: Watch, valkey: EmbeddedServer) -> None:
    # The console tells of every answer that is an error, and these are what the test is about.
    watch.allow(r"status of 401")
    settings = configured(valkey.url, TOKENS)
    async with counted(settings, 60), running(settings) as url:
        await page.goto(url)
        token = page.get_by_label("Token")
        await token.fill("wrong-" + "w" * 16)
        await page.keyboard.press("Enter")
        await page.get_by_text("That token is not known.").wait_for()
        assert await faults(page) == []
        await token.fill(CONTROL)
        await page.keyboard.press("Enter")
        await page.locator("#verdict[data-state=continue]").wait_for()
        await token.wait_for(state="detached")
        # The stream of events has the session too, and a look through a script's eyes finds no secret.
        seen = await page.evaluate(
            """async () => {
              const first = new Promise((done, failed) => {
                const stream = new EventSource("/api/v1/events");
                stream.addEventListener("verdict", (event) => { stream.close(); done(JSON.parse(event.data).pairs); });
                stream.onerror = () => failed(new Error("no stream"));
              });
              const change = await fetch("/api/v1/control", {
                method: "POST", headers: { "Content-Type": "application/json" }, body: '{"paused": true}',
              }).catch(() => ({ status: 0 }));
              return { pairs: await first, change: change.status, cookie: document.cookie,
                kept: JSON.stringify(localStorage) + JSON.stringify(sessionStorage) };
            }"""
        )
        assert (seen["pairs"], seen["change"], seen["cookie"]) == (60, 403, "")
        assert not any(secret in seen["kept"] for secret in (CONTROL, READ))
        watch.allow(r"status of 403")
        await page.reload()
        await page.locator("#verdict[data-state=continue]").wait_for()
        await page.goto("about:blank")
