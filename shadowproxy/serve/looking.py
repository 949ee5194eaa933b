"""An experiment of a store, asked through the API's own endpoints without an API that runs, and without writing."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from shadowproxy.config import Settings
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.report.view import Viewer
from shadowproxy.serve.api.curves import CurveApi
from shadowproxy.serve.api.evidence import EvidenceApi
from shadowproxy.serve.api.experiments import ExperimentApi
from shadowproxy.serve.api.pairs import PairApi
from shadowproxy.serve.api.verdict import VerdictApi
from shadowproxy.serve.collect import Answers
from shadowproxy.serve.index import ExemplarIndex
from shadowproxy.serve.problems import problems
from shadowproxy.serve.reader import VerdictReader


@asynccontextmanager
async def looked_into(store: Partitions, settings: Settings, *, patience: float = 60.0) -> AsyncIterator[Answers]:
    """What the API of this store would answer, all of one reading.

    The endpoints are asked through a socket in a folder that nobody else may enter, so that there is one way in which
    figures come to be, and nothing of the pairs is to be had from outside meanwhile.
    """
    reader = VerdictReader(store, settings, looks_on=True)
    verdict = VerdictApi(reader, refresh=settings.serve.refresh)
    await verdict.update()
    app = web.Application(middlewares=[problems])
    # Nobody else gets to this socket: whoever may read the store may see what is in it.
    index = ExemplarIndex(store, settings)
    groups = (
        verdict,
        CurveApi(verdict.current),
        EvidenceApi(verdict.current, reader, index.guardrails),
        ExperimentApi(store.home.url, settings),
        PairApi(index, Viewer(settings.routes), may_see=lambda _request: True),
    )
    for group in groups:
        app.add_routes(group.routes)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    try:
        with tempfile.TemporaryDirectory(prefix="shadowproxy-") as folder:
            path = str(Path(folder) / "api")
            await web.UnixSite(runner, path).start()
            async with aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path), timeout=aiohttp.ClientTimeout(patience)
            ) as session:
                yield Answers(session, "http://store")
    finally:
        await runner.cleanup()
