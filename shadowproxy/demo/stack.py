"""The whole of shadowproxy as a user runs it: the parts as processes of their own, on a store of their own."""

from __future__ import annotations

import contextlib
from pathlib import Path

from shadowproxy.config import Settings
from shadowproxy.demo.run import StackUrls
from shadowproxy.pairs.connect import resolve
from shadowproxy.serve.client import fetch_verdict
from shadowproxy.supervisor import Supervisor
from shadowproxy.verdict.record import Verdict


class ProcessStack:
    """Proxy, comparator and API of one configuration, as `shadowproxy run` has them, with the store they share.

    `folder` takes the configuration file and, without a `redis.url`, the embedded server's data.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held = contextlib.AsyncExitStack()
        self._supervisor: Supervisor | None = None

    @property
    def supervisor(self) -> Supervisor:
        """What runs the processes. Raises RuntimeError before `start`."""
        if self._supervisor is None:
            raise RuntimeError("the stack is not started")
        return self._supervisor

    @property
    def config(self) -> Path:
        """The configuration file that the parts read."""
        return self._folder / "shadowproxy.yaml"

    async def start(self, settings: Settings) -> StackUrls:
        """Start the store and the parts; all of them are ready on return.

        Raises StartError or StoreUnavailable where one of them can't start.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        # JSON is YAML, and the loader reads back exactly what the settings say.
        self.config.write_text(settings.model_dump_json(indent=2), encoding="utf-8")
        url = await self._held.enter_async_context(resolve(settings.redis))
        self._supervisor = Supervisor(self.config, settings, url)
        self._held.push_async_callback(self._supervisor.stop)
        await self._supervisor.start()
        return StackUrls(**self._supervisor.urls)

    async def verdict(self) -> Verdict:
        """The verdict, asked of the API. Raises ApiUnavailable."""
        return await fetch_verdict(self.supervisor.urls["api"])

    async def stop(self) -> None:
        """Drain and end everything."""
        await self._held.aclose()
