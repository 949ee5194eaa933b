"""`make screenshots`: draws docs/images from the page of a live demo, in a real browser."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from browser import launched
from PIL import Image

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

ROOT = Path(__file__).parent.parent.parent
IMAGES = ROOT / "docs" / "images"
MOST = 150 * 1024
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@contextmanager
def demo() -> Iterator[str]:
    """A demo that was left running after its verdict; gives the API's URL."""
    command = [sys.executable, "-m", "shadowproxy", "demo", "--scenario", "cohort-regression", "--seed", "7"]
    process = subprocess.Popen(
        [*command, "--json", "--keep"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["urls"]["api"]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


async def opened(browser: Browser, url: str, scheme: str, size: dict[str, int], scale: float = 1) -> Page:
    """The page with all that it shows."""
    look: Any = {"color_scheme": scheme, "viewport": size, "device_scale_factor": scale, "reduced_motion": "reduce"}
    page = await (await browser.new_context(**look, locale="en-GB", timezone_id="UTC")).new_page()
    await page.goto(url)
    await page.locator(".pairs tbody tr").first.wait_for()
    for chart in ("#evidence", "#latency", "#distributions"):
        await page.locator(f"{chart} .main-svg").first.wait_for()
    return page


async def worst(page: Page) -> None:
    """Open the worst pair of the first row of the forest plot."""
    await page.locator(".forest .pick").first.click()
    await page.locator(".pairs tbody small").first.wait_for()
    await page.locator(".pairs .pair-id").first.click()
    await page.locator(".pair .part").first.wait_for()
    await calm(page)


async def moved(page: Page) -> None:
    """Open a sampled pair whose sides rank differently."""
    await page.goto(page.url.partition("#")[0] + "#pairs&board=sample")
    await page.get_by_text("sampled").first.wait_for()
    await page.locator(".pairs .pair-id").first.click()
    await page.locator(".pair .part").first.wait_for()
    for _ in range(40):
        if await page.locator(".moves line.up").count() >= 4 and await page.locator(".moves line.new").count() >= 1:
            break
        before = await page.locator(".pair-dialog h2").inner_text()
        await page.get_by_role("button", name="Next pair").click()
        await page.locator(".pair-dialog h2").filter(has_not_text=before).wait_for()
        await page.locator(".pair:not([aria-busy]) .part").first.wait_for()
    await calm(page)


async def calm(page: Page) -> None:
    """Without what shows somebody who uses the page where he is."""
    await page.mouse.move(0, 0)
    await page.evaluate("document.activeElement.blur()")


async def draw(url: str) -> None:
    """All pictures."""
    async with launched() as browser:
        for scheme in ("light", "dark"):
            page = await opened(browser, url, scheme, WIDE)
            await save(page, f"page-{scheme}")
            await moved(page)
            await save(page, f"pair-{scheme}")
            await page.context.close()
        page = await opened(browser, url, "light", PHONE, 1.5)
        await save(page, "page-phone")
        await worst(page)
        await page.locator(".ranking-said").scroll_into_view_if_needed()
        await save(page, "pair-phone")


async def save(page: Page, name: str) -> None:
    """Few colours take little space, and are all that the page has."""
    drawn = Image.open(io.BytesIO(await page.screenshot())).convert("RGB")
    image = drawn.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    path = IMAGES / f"{name}.png"
    image.save(path, optimize=True)
    size = path.stat().st_size
    if size > MOST:
        raise SystemExit(f"{path} has {size:,} bytes; {MOST:,} are allowed")
    sys.stdout.write(f"{path.relative_to(ROOT)}: {size:,} bytes\n")


if __name__ == "__main__":
    IMAGES.mkdir(parents=True, exist_ok=True)
    with demo() as api:
        asyncio.run(draw(api))
