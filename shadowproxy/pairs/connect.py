"""From the settings to a store's URL: the one that is configured, or that of an embedded server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shadowproxy.config.settings import Redis
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.tasks import Tasks


@asynccontextmanager
async def resolve(settings: Redis) -> AsyncIterator[str]:
    """The URL of the store. Without `redis.url` an embedded Valkey runs in `redis.data_dir` while this is held.

    One that dies is started again.

    Raises StartError if that one can't be started.
    """
    if settings.url is not None:
        yield settings.url
        return
    async with EmbeddedServer(settings.data_dir) as server:
        tasks = Tasks()
        tasks.start(server.keep(), name="valkey")
        try:
            yield server.url
        finally:
            await tasks.cancel()
