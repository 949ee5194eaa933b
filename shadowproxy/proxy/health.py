"""Asking an address whether it works: one GET, of which only the head of the answer is read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from shadowproxy.proxy.framing import RESPONSE_HEAD_LIMIT, MalformedResponseError, ResponseRules


class _Question(asyncio.Protocol):
    """Sends a request and tells `answer` the status of the response."""

    def __init__(self, request: bytes, answer: asyncio.Future[int]) -> None:
        self._request = request
        self._answer = answer
        self._partial = b""
        self._rules = ResponseRules()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._partial += data
        try:
            while (end := self._partial.find(b"\r\n\r\n")) >= 0 and not self._answer.done():
                status = self._rules.parse(self._partial[:end]).status
                self._partial = self._partial[end + 4 :]
                # What is below 200 announces the answer (RFC 9110, section 15.2).
                if status >= 200:
                    self._answer.set_result(status)
            if len(self._partial) > RESPONSE_HEAD_LIMIT:
                raise MalformedResponseError("the head is too large")
        except MalformedResponseError as error:
            if not self._answer.done():
                self._answer.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(ConnectionResetError("closed without an answer"))

    def close(self) -> None:
        """What else is sent is of no interest."""
        self._transport.abort()


async def ask_health(
    connect: Callable[[Callable[[], _Question]], Awaitable[_Question]], path: str, authority: bytes
) -> str:
    """Ask for `path` on a connection made by `connect`. Empty if the status is 200 to 399, else what it is.

    Raises what `connect` raises, OSError, and MalformedResponseError for what is not HTTP.
    """
    answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    request = b"GET %b HTTP/1.1\r\nHost: %b\r\nUser-Agent: shadowproxy-health\r\nConnection: close\r\n\r\n" % (
        path.encode("ascii"),
        authority,
    )
    question = await connect(lambda: _Question(request, answer))
    try:
        status = await answer
    finally:
        question.close()
    return "" if status < 400 else f"it answers {status}"
