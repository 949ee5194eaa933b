"""The contract under uvicorn."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from conformance import contract

_released: Counter[str] = Counter()
_change = asyncio.Condition()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    path, query = scope["path"], scope["query_string"].decode("latin-1")

    async def answer(status: int, content: bytes, *headers: tuple[bytes, bytes]) -> None:
        length = () if status in (204, 304) else ((b"content-length", str(len(content)).encode()),)
        await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
        await send({"type": "http.response.body", "body": content})

    async def stream(pieces: Any, kind: bytes) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        async for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    if path == "/file":
        await answer(200, contract.file())
    elif path == "/chunked":
        await stream(_each(contract.PIECES), b"application/octet-stream")
    elif path == "/gzip":
        await answer(200, contract.PACKED, (b"content-encoding", b"gzip"))
    elif path.startswith("/status/"):
        status = int(path[8:])
        await answer(status, contract.STATUSES[status])
    elif path == "/redirect":
        await answer(302, b"", (b"location", contract.ELSEWHERE.encode()))
    elif path == "/cookies":
        cookies = [(b"set-cookie", cookie.encode()) for cookie in contract.COOKIES]
        await answer(200, b"cookies", *cookies, (b"x-dup", b"1"), (b"x-dup", b"2"))
    elif path == "/sse":
        await stream(_events(query), b"text/event-stream")
    elif path == "/release":
        async with _change:
            _released[query] += 1
            _change.notify_all()
        await answer(200, b"released")
    else:
        target = scope["raw_path"].decode("latin-1") + ("?" + query if query else "")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        await answer(200, contract.echoed(scope["method"], target, body, headers))


async def _each(pieces: list[bytes]) -> Any:
    for piece in pieces:
        yield piece


async def _events(key: str) -> Any:
    for number in range(contract.EVENTS):
        async with _change:
            await _change.wait_for(lambda number=number: _released[key] >= number)
        yield contract.event(number)
