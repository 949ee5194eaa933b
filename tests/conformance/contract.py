"""What every real upstream of these tests does, whichever server it is made with.

/echo...          what came: method, target, size and digest of the body, headers, as JSON
/file             FILE, with its length
/chunked          PIECES, chunked
/gzip             PACKED, which says that it is gzip
/status/204       and 304, 404, 500
/redirect         302 to ELSEWHERE
/cookies          COOKIES and two of X-Dup
/sse?key          an event, and one more each time that /release?key is asked for; three in all
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import random
from typing import Any

ELSEWHERE = "/elsewhere?a=%2F&b=//"
COOKIES = ("a=1; Path=/", "b=2", "a=3")
EVENTS = 3
PIECES = [random.Random(n).randbytes(3000 + n) for n in range(30)]
PACKED = gzip.compress(b"a body that is packed " * 200, mtime=0)
STATUSES = {204: b"", 304: b"", 404: b"not here", 500: b"broken"}


@functools.cache
def file() -> bytes:
    """8 MB that compress badly."""
    return random.Random(8).randbytes(8 * 1024 * 1024)


def event(number: int) -> bytes:
    return b"id: %d\ndata: {}\n\n" % number


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def echoed(method: str, target: str, body: bytes, headers: list[tuple[str, str]]) -> bytes:
    """The body of /echo."""
    content: dict[str, Any] = {"method": method, "target": target, "size": len(body), "digest": digest(body)}
    return json.dumps({**content, "headers": [(name.lower(), value) for name, value in headers]}).encode()
