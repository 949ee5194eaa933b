"""What several processes answer at their admin addresses, asked together: a slow one holds up nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp

from shadowproxy.metrics import OPENMETRICS
from shadowproxy.tasks import Tasks


async def pages(urls: Mapping[str, str], within: float) -> dict[str, str]:
    """By name, the metrics (OpenMetrics) of the processes at these admin URLs.

    Left out is who doesn't answer whole within `within` seconds.
    """
    async with _session(within) as session:
        found = await asyncio.gather(*(_page(session, url) for url in urls.values()))
    return {name: page for name, page in zip(urls, found, strict=True) if page}


async def _page(session: aiohttp.ClientSession, url: str) -> str:
    try:
        async with session.get(f"{url}/metrics", headers={"Accept": OPENMETRICS}) as response:
            return await response.text() if response.status == 200 else ""
    except (aiohttp.ClientError, TimeoutError):
        return ""


async def unready(urls: Mapping[str, str], within: float) -> str:
    """Empty as soon as one of the processes at these admin URLs says that it is ready; else what each of them says."""
    tasks = Tasks()
    async with _session(within) as session:
        try:
            asked = [tasks.start(_unready(session, name, url), name=f"ready {name}") for name, url in urls.items()]
            said = []
            for answer in asyncio.as_completed(asked):
                wrong = await answer
                if not wrong:
                    return ""
                said.append(wrong)
            return "; ".join(sorted(said)) or "none is up"
        finally:
            await tasks.cancel()


async def _unready(session: aiohttp.ClientSession, name: str, url: str) -> str:
    try:
        async with session.get(f"{url}/readyz") as response:
            if response.status == 200:
                return ""
            checks: Mapping[str, str] = (await response.json())["checks"]
    except (aiohttp.ClientError, TimeoutError):
        return f"{name}: no answer"
    wrong = ", ".join(f"{what}: {why}" for what, why in checks.items() if why != "ok")
    return f"{name}: {wrong}"


def _session(within: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=within))
