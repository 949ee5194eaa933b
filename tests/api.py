"""The API for tests: its guard before some routes, and the whole of it over a store with pairs that were counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from servers import unique, until

from shadowproxy import metrics
from shadowproxy.config import Serve, Settings, loads
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs.codec import encode
from shadowproxy.processes import open_store, run_api, run_comparator
from shadowproxy.serve.access import Access
from shadowproxy.serve.admin import AdminServer, Front
from shadowproxy.serve.endpoints import ENDPOINTS
from shadowproxy.tasks import Tasks

READ, CONTROL = "read-" + "r" * 16, "control-" + "c" * 16
TOKENS = f"tokens: [{{token: {READ}}}, {{token: {CONTROL}, may: control}}]"


async def ready() -> Mapping[str, str]:
    return {}


def guarded(routes: Sequence[web.RouteDef], serve: Serve | None = None) -> AdminServer:
    """Some routes behind the guard; by default one that listens on loopback and knows no tokens."""
    serve = serve or Serve()
    access = Access(serve, {one.key: one for one in ENDPOINTS}, clock=time.time, monotonic=time.monotonic)
    front = Front(middleware=[access.middleware], prepare=[access.protect], body=serve.limits.body)
    return AdminServer("api", metrics.registry(), ready, [*access.routes, *routes], front)


def configured(redis_url: str, serve: str = "", *, listen: str = "127.0.0.1:0") -> Settings:
    """A configuration with every kind of thing that the API shows; `serve` are more keys of that section."""
    return loads(
        f"""
experiment: {unique("api")}
baseline: {{url: http://127.0.0.1:1, deadline: 0.1}}
candidate: {{url: http://127.0.0.1:2, deadline: 0.1}}
redis: {{url: "{redis_url}"}}
comparator: {{admin: "127.0.0.1:0"}}
serve: {{listen: "{listen}", refresh: 0.05{", " + serve if serve else ""}}}
routes:
  - name: rank
    path: /rank
    ids: response.body.items[].id
    scores: response.body.items[].score
    labels: 1h
    cohorts: {{region: request.body.region}}
verdict:
  bucket: 0.1
  settle: 0.0
  min_pairs: 1
"""
    )


def pair(at: int) -> Pair:
    """The `at`-th pair: a candidate that orders otherwise now and then, and fails now and then."""
    asked = b'{"region":"r%d"}' % (at % 3)
    request = Request("POST", "/rank", b"content-type: application/json\r\n", asked, len(asked))
    good = b'{"items":[{"id":"a","score":0.9},{"id":"b","score":0.%d},{"id":"c","score":0.1}]}' % (at % 8 + 1)
    other = b'{"items":[{"id":"b","score":0.95},{"id":"a","score":0.5},{"id":"<b>d</b>","score":0.2}]}'
    body = other if at % 5 == 0 else good
    head = b"content-type: application/json\r\n"
    baseline = Exchange(Outcome.OK, 200, head, good, len(good), b"", 0.01, 0.02)
    if at % 17 == 0:
        candidate = Exchange(Outcome.OK, 500, head, b"", 0, b"", 0.01, 0.02)
    else:
        candidate = Exchange(Outcome.OK, 200, head, body, len(body), b"", 0.01, 0.02 + at % 7 / 1000)
    return Pair(f"id-{at}", time.time() - 600 + at / 10, request, baseline, candidate)


@asynccontextmanager
async def counted(settings: Settings, pairs: int = 200) -> AsyncIterator[None]:
    """So many pairs are in the store of `settings`, and a comparator has counted them."""
    stop, tasks = asyncio.Event(), Tasks()
    async with open_store(settings) as store:
        account = Accounting(requests=pairs, eligible=pairs, recorded=pairs)
        await store.home.append("producer", 1, encode([pair(at) for at in range(pairs)]), pairs, account)
        comparing = tasks.start(run_comparator(settings, stop, lambda _urls: None), name="comparator")

        async def all_counted() -> bool:
            return (await store.snapshot()).committed_pairs == pairs

        try:
            await until(all_counted, "the counting of all pairs")
            stop.set()
            await comparing
            yield
        finally:
            await tasks.cancel()


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[str]:
    """The API of these settings; yields its URL when it has a verdict."""
    stop, tasks = asyncio.Event(), Tasks()
    announced: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = tasks.start(run_api(settings, stop, lambda urls: announced.set_result(urls["api"])), name="api")
    try:
        await asyncio.wait({serving, announced}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        yield await announced
        stop.set()
        await serving
    finally:
        await tasks.cancel()


async def ask(url: str, method: str = "GET", token: str = "", **more: object) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of an answer."""
    headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **more.pop("headers", {})}  # type: ignore[dict-item]
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers, **more) as response,  # type: ignore[arg-type]
    ):
        return response.status, response.headers, await response.read()
