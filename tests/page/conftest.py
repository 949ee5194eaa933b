"""Live systems for the page."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from page.live import System, broken, system

from shadowproxy.pairs.embedded import EmbeddedServer


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def harmed(valkey: EmbeddedServer) -> AsyncIterator[System]:
    """A candidate that is broken in one region, counted and decided. Only to be looked at."""
    async with system(valkey.url) as made:
        await made.count(broken(0, 600))
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def fresh(valkey: EmbeddedServer) -> AsyncIterator[System]:
    """An experiment of its own without any pair yet."""
    async with system(valkey.url) as made:
        yield made
