"""The straightforward way to write it: aiohttp on both ends, a task for each copy, each pair as JSON to Redis.

`python aiohttp_proxy.py PORT BASELINE CANDIDATE REDIS`
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import redis.asyncio
import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "content-length", "host"}
NEVER_KEPT = {"authorization", "cookie"}


def forwarded(headers: Any) -> list[tuple[str, str]]:
    return [(name, value) for name, value in headers.items() if name.lower() not in HOP_BY_HOP]


def side(status: int, headers: list[tuple[str, str]], body: bytes, took: float) -> dict[str, Any]:
    return {"status": status, "headers": headers, "body": body.decode(), "took": took}


class Proxy:
    def __init__(self, baseline: str, candidate: str, store: redis.asyncio.Redis) -> None:
        self.baseline = baseline
        self.candidate = candidate
        self.store = store
        self.tasks: set[asyncio.Task[None]] = set()
        self.session: ClientSession

    async def ask(self, url: str, request: web.Request, body: bytes) -> tuple[int, list[tuple[str, str]], bytes, float]:
        began = time.monotonic()
        async with self.session.request(
            request.method, url + request.path_qs, headers=forwarded(request.headers), data=body, allow_redirects=False
        ) as response:
            answer = await response.read()
            return response.status, forwarded(response.headers), answer, time.monotonic() - began

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        copy = asyncio.create_task(self.ask(self.candidate, request, body))
        status, headers, answer, took = await self.ask(self.baseline, request, body)
        recording = asyncio.create_task(self.record(request, body, (status, headers, answer, took), copy))
        self.tasks.add(recording)
        recording.add_done_callback(self.tasks.discard)
        return web.Response(status=status, headers=headers, body=answer)

    async def record(self, request: web.Request, body: bytes, baseline: Any, copy: asyncio.Task[Any]) -> None:
        candidate = await copy
        pair = {
            "method": request.method,
            "path": request.path_qs,
            "headers": [(name, value) for name, value in request.headers.items() if name.lower() not in NEVER_KEPT],
            "body": body.decode(),
            "baseline": side(*baseline),
            "candidate": side(*candidate),
        }
        await self.store.xadd("pairs", {"pair": json.dumps(pair)}, maxlen=20_000, approximate=True)

    async def open(self, _app: web.Application) -> None:
        self.session = ClientSession(
            connector=TCPConnector(limit=0), timeout=ClientTimeout(total=10), auto_decompress=False
        )

    async def close(self, _app: web.Application) -> None:
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.session.close()
        await self.store.aclose()


def main() -> None:
    port, baseline, candidate, store = sys.argv[1:]
    uvloop.install()
    proxy = Proxy(baseline, candidate, redis.asyncio.Redis.from_url(store))
    app = web.Application(client_max_size=2**20)
    app.router.add_route("*", "/{path:.*}", proxy.handle)
    app.on_startup.append(proxy.open)
    app.on_cleanup.append(proxy.close)
    web.run_app(app, host="127.0.0.1", port=int(port), access_log=None, print=None)


if __name__ == "__main__":
    main()
