"""The contract under aiohttp.web, on the listening socket whose descriptor is the argument.

More than the contract: /early answers 103 first, /ws is a WebSocket that echoes, /ws-refused refuses to be one, and
/ws-code?name says with which code the client closed that was at /ws?name.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter

from aiohttp import WSMsgType, web
from conformance import contract

_released: Counter[str] = Counter()
_change = asyncio.Condition()
_codes: dict[str, int | None] = {}


async def plain(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    path = request.path
    if path == "/file":
        return web.Response(body=contract.file())
    if path == "/gzip":
        return web.Response(body=contract.PACKED, headers={"Content-Encoding": "gzip"})
    if path.startswith("/status/"):
        status = int(path[8:])
        return web.Response(status=status, body=contract.STATUSES[status])
    if path == "/redirect":
        return web.Response(status=302, headers={"Location": contract.ELSEWHERE})
    if path == "/cookies":
        response = web.Response(body=b"cookies")
        for cookie in contract.COOKIES:
            response.headers.add("Set-Cookie", cookie)
        response.headers.add("X-Dup", "1")
        response.headers.add("X-Dup", "2")
        return response
    if path == "/ws-refused":
        return web.Response(status=403, body=b"no")
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers]
    target = request.raw_path.encode("utf-8", "surrogateescape").decode("latin-1")
    return web.Response(body=contract.echoed(request.method, target, body, headers))


async def chunked(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    if request.version.minor:
        response.enable_chunked_encoding()
    await response.prepare(request)
    if request.method != "HEAD":
        for piece in contract.PIECES:
            await response.write(piece)
    return response


async def sse(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(contract.EVENTS):
        async with _change:
            await _change.wait_for(lambda number=number: _released[request.query_string] >= number)
        await response.write(contract.event(number))
    return response


async def release(request: web.Request) -> web.StreamResponse:
    async with _change:
        _released[request.query_string] += 1
        _change.notify_all()
    return web.Response(body=b"released")


async def early(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    for name in (b"a", b"b"):
        # aiohttp has no words for it.
        request.transport.write(b"HTTP/1.1 103 Early Hints\r\nLink: </%b.css>; rel=preload\r\n\r\n" % name)  # type: ignore[attr-defined]
    return web.Response(body=b"late")


async def websocket(request: web.Request) -> web.StreamResponse:
    socket_ = web.WebSocketResponse(protocols=("chat",), max_msg_size=4 * 1024 * 1024)
    await socket_.prepare(request)
    if "greet" in request.query:
        await socket_.send_str("hello")
    async for message in socket_:
        if message.type is WSMsgType.TEXT and message.data == "die":
            assert request.transport is not None
            request.transport.abort()  # type: ignore[attr-defined]
        elif message.type is WSMsgType.TEXT and message.data.startswith("close "):
            await socket_.close(code=int(message.data[6:]), message=b"as asked")
        elif message.type is WSMsgType.TEXT:
            await socket_.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket_.send_bytes(message.data)
    async with _change:
        _codes[request.query_string] = socket_.close_code
        _change.notify_all()
    return socket_


async def code(request: web.Request) -> web.StreamResponse:
    async with _change:
        await _change.wait_for(lambda: request.query_string in _codes)
    return web.Response(body=str(_codes[request.query_string]).encode())


def main() -> None:
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/chunked", chunked)
    app.router.add_get("/sse", sse, allow_head=False)
    app.router.add_get("/release", release)
    app.router.add_route("*", "/early", early)
    app.router.add_get("/ws", websocket, allow_head=False)
    app.router.add_get("/ws-code", code)
    app.router.add_route("*", "/{rest:.*}", plain)
    web.run_app(app, sock=socket.socket(fileno=int(sys.argv[1])), print=None)


if __name__ == "__main__":
    main()
