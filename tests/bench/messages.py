"""What clients send: requests as a Python or Go client writes them, each different.

Request id, trace context and body vary, so that nothing is gained by remembering a whole head.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Final

COUNT: Final = 4096
BODY_BYTES: Final = 900
ANSWER_BYTES: Final = 2200

_AGENTS: Final = (
    ("python-requests/2.32.3", "*/*", "gzip, deflate, br"),
    ("Go-http-client/1.1", "application/json", "gzip"),
)


def requests(count: int = COUNT, *, seed: int = 7, host: str = "models.internal:8080") -> list[bytes]:
    """`count` POST requests with about 0.9 KB of JSON each; the same for the same seed."""
    draw = random.Random(seed)
    return [_request(draw, host) for _ in range(count)]


def request_id(request: bytes) -> str:
    """Its X-Request-Id."""
    return request.partition(b"X-Request-Id: ")[2].partition(b"\r\n")[0].decode()


def _request(draw: random.Random, host: str) -> bytes:
    body = _body(draw)
    agent, accept, encoding = draw.choice(_AGENTS)
    head = (
        "POST /recommend HTTP/1.1",
        f"Host: {host}",
        f"User-Agent: {agent}",
        f"Accept: {accept}",
        f"Accept-Encoding: {encoding}",
        "Content-Type: application/json",
        f"Authorization: Bearer {draw.randbytes(32).hex()}",
        f"X-Request-Id: {draw.randbytes(16).hex()}",
        f"traceparent: 00-{draw.randbytes(16).hex()}-{draw.randbytes(8).hex()}-01",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*head, "", "")).encode() + body


def _body(draw: random.Random) -> bytes:
    history: list[int] = []
    asked = {"user_id": draw.randrange(10**6), "k": 20, "session": draw.randbytes(16).hex(), "history": history}
    while len(json.dumps(asked)) < BODY_BYTES - 8:
        history.append(draw.randrange(10**5, 10**6))
    return json.dumps(asked).encode()


def answer(*, seed: int = 7) -> bytes:
    """About 2.2 KB of JSON: what an upstream answers to every request."""
    draw = random.Random(seed)
    items: list[dict[str, object]] = []
    while len(json.dumps({"model": "ranker", "items": items})) < ANSWER_BYTES - 40:
        items.append({"id": draw.randrange(10**5, 10**6), "score": round(draw.random(), 12)})
    return json.dumps({"model": "ranker", "items": items}).encode()


def write(path: Path, made: list[bytes]) -> None:
    """For `wrk.lua`: each request after its length in eight digits."""
    path.write_bytes(b"".join(b"%08d" % len(one) + one for one in made))
