"""A real Chromium for tests, by Playwright: what a page must never do fails the test that drives it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from programs import missing

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
GRAVE = ("serious", "critical")
"""What axe says of a fault that keeps somebody out."""
VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) => {
  const { violatedDirective, blockedURI, sourceFile, lineNumber } = event;
  console.error(`policy violated: ${violatedDirective} by ${blockedURI} at ${sourceFile}:${lineNumber}`);
});
"""


def chromium() -> str:
    """The path of a Chromium; without one the test is skipped, and fails in CI."""
    for name in CHROMIUM:
        if (found := shutil.which(name)) is not None:
            return found
    return missing("chromium is not on the PATH (apt-get install --no-install-recommends chromium)")


@contextlib.asynccontextmanager
async def launched(*arguments: str) -> AsyncIterator[Browser]:
    """A headless browser that resolves no name: whatever a page asks for beyond this machine can't be had."""
    from playwright.async_api import async_playwright

    options = ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--disable-dev-shm-usage", *arguments]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=options)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Watch:
    """What pages did that they must not do, but for what a test allows beforehand."""

    found: list[str] = field(default_factory=list)
    allowed: list[str] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        """A regular expression: whatever it matches is what the test is about."""
        self.allowed.append(pattern)

    @property
    def faults(self) -> list[str]:
        """All that was not allowed."""
        return [fault for fault in self.found if not any(re.search(pattern, fault) for pattern in self.allowed)]

    def add_to(self, page: Page) -> None:
        """Look at everything that `page` does from now on."""
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("request", self._asked)
        page.on("requestfailed", self._failed)
        page.on("dialog", lambda dialog: self.found.append(f"dialog: {dialog.message}"))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self.found.append(f"console {message.type}: {message.text} {message.location.get('url', '')}")

    def _asked(self, request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob", "file") and url.hostname not in ("127.0.0.1", "localhost"):
            self.found.append(f"request that leaves the host: {request.url[:200]}")

    def _failed(self, request: Request) -> None:
        # A page that is left ends its stream of events, and what it asked for and no longer wants.
        if request.failure != "net::ERR_ABORTED":
            self.found.append(f"request failed: {request.url[:200]} {request.failure}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests of a process. What each test does is kept apart by its own context."""
    async with launched() as browser:
        yield browser


@pytest.fixture
def look() -> dict[str, Any]:
    """How the page is looked at, as `browser.new_context` takes it; a test may put more in."""
    return {"viewport": {"width": 1280, "height": 900}, "locale": "en-GB", "timezone_id": "UTC"}


@pytest.fixture
def watch() -> Watch:
    """What the test's page must not do."""
    return Watch()


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Browser, look: dict[str, Any]) -> AsyncIterator[BrowserContext]:
    """A browser without past, for one test."""
    context = await browser.new_context(**look)
    context.set_default_timeout(15_000)
    await context.add_init_script(VIOLATIONS)
    try:
        yield context
    finally:
        await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext, watch: Watch) -> AsyncIterator[Page]:
    """A page whose every console error, warning, failed or foreign request and violated policy fails the test."""
    page = await context.new_page()
    watch.add_to(page)
    yield page
    assert watch.faults == []


async def faults(page: Page, rules: Sequence[str] = ()) -> list[str]:
    """What axe finds on the page that is serious or critical, one line for each place."""
    from axe_playwright_python.async_playwright import Axe

    # With its own copy of axe-core, run as a tool of the browser and not as a script of the page: its policy stands.
    results = await Axe().run(
        page, options={"resultTypes": ["violations"], **({"runOnly": list(rules)} if rules else {})}
    )
    return [
        f"{violation['impact']} {violation['id']}: {node['target']} {node.get('failureSummary')} {node['html'][:200]}"
        for violation in results.response["violations"]
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
    ]
