"""The live page in a real browser, before a real API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from browser import Watch, faults
from page.live import WORST, System, broken, healthy

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_it(page: Page, harmed: System, watch: Watch) -> None:
    print(harmed.url)
    await page.goto(harmed.url)
    await page.wait_for_timeout(3000)
    await page.screenshot(path="/tmp/explorer/page.png", full_page=True)
    print(watch.found)
    print(await faults(page))
