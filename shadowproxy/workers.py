"""A proxy on several cores: worker processes that listen on one port (SO_REUSEPORT), and their parent.

The parent carries no traffic. It holds the port, starts the workers and starts again what dies, answers at the admin
address for all of them, and on the way out drains them all at once, within one grace. It holds the store's URL too:
an embedded server must outlive every worker.

Each worker is a proxy of its own, with its own pools, account and name as a producer. A worker that dies takes along
what it had under way (its clients see a reset); the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from shadowproxy import metrics
from shadowproxy.children import MARGIN, Children, Role, Stop, on_hangup
from shadowproxy.config import Address, Settings, worker_count
from shadowproxy.errors import Unfinished
from shadowproxy.pairs.connect import resolve
from shadowproxy.proxy.reserve import reserved
from shadowproxy.serve.admin import AdminServer
from shadowproxy.serve.gather import pages, unready

log = logging.getLogger(__name__)

_READY_WITHIN: Final = 14.0
"""Seconds. They start in two turns, and a supervisor waits 30 s for both."""
_SCRAPE_WITHIN: Final = 2.0
"""Seconds for a worker to answer a scrape; Prometheus itself waits 10."""


class Workers(Children):
    """`count` workers on the port of `address`, writing to the store at `redis_url`."""

    def __init__(self, config: Path, settings: Settings, count: int, address: Address, redis_url: str) -> None:
        self._names = [f"worker {index}" for index in range(count)]
        roles = [
            Role(
                name=name,
                arguments=(
                    *("proxy", "--config", str(config), "--supervised"),
                    *("--worker", str(index), str(count), str(address.port)),
                ),
                grace=settings.proxy.grace + MARGIN,
            )
            for index, name in enumerate(self._names)
        ]
        super().__init__([roles], {"SHADOWPROXY_REDIS_URL": redis_url}, ready_within=_READY_WITHIN)

    async def start_all(self) -> None:
        """Start them and wait until all are ready. Raises as `start` does."""
        # The first by itself: what it can't do none of them can, and that is then said once.
        await self.start(self._names[:1])
        await self.start(self._names[1:])

    def _admins(self) -> dict[str, str]:
        """By number, the admin URLs of those that are up."""
        found = {}
        for index, name in enumerate(self._names):
            part = self.parts.get(name)
            if part is not None and part.up:
                found[str(index)] = part.urls["proxy_admin"]
        return found

    async def exported(self, own: metrics.Registry) -> metrics.Registry:
        """The metrics of all workers, and `own` of the parent."""
        return metrics.of_workers(
            own,
            await pages(self._admins(), _SCRAPE_WITHIN),
            configured=len(self._names),
            restarts=self.restarts,
        )

    async def unready(self) -> str:
        """Empty if any of them is ready, else what is wrong with each."""
        return await unready({f"worker {index}": url for index, url in self._admins().items()}, _SCRAPE_WITHIN)


async def run_workers(
    config: Path, settings: Settings, stop: Stop, announce: Callable[[Mapping[str, str]], None]
) -> None:
    """The proxy of the configuration file `config` as several processes. Returns when all have drained.

    Raises StartError where it can't begin (PartFailed where a worker has said why), Unfinished where a worker did not
    end in order.
    """
    with reserved(settings.proxy.listen) as address:
        async with resolve(settings.redis) as url:
            workers = Workers(config, settings, worker_count(settings), address, url)
            stop.at_once.append(workers.end_at_once)
            registry = metrics.registry()

            async def exported() -> metrics.Registry:
                return await workers.exported(registry)

            async def ready() -> Mapping[str, str]:
                return {"draining": "stopping" if stop.is_set() else "", "workers": await workers.unready()}

            admin = AdminServer("proxy", exported, ready)
            admin_address = await admin.start(settings.proxy.admin, "$.proxy.admin")
            try:
                await workers.start_all()
                with on_hangup(settings.tls_files, workers.hang_up):
                    announce({"proxy": workers.urls["proxy"], "proxy_admin": f"http://{admin_address}"})
                    await stop.wait()
                    log.info("draining %d workers, for %.0f s at most", len(workers.parts), settings.proxy.grace)
                    failed = await workers.stop()
            finally:
                await admin.stop()
    if failed:
        raise Unfinished(failed)
