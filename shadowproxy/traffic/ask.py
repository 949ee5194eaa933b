"""One request sent to a service, and what came back as an exchange: raw, as a proxy would have captured it."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from shadowproxy.encodings import DECODED_LIMIT
from shadowproxy.errors import StartError
from shadowproxy.model import Exchange, Outcome, Request


async def ask(
    url: str, *, method: str, headers: Iterable[tuple[str, str]], body: bytes, patience: float
) -> tuple[Request, Exchange]:
    """Send one request; redirects are not followed, and content codings are left as they are.

    A body past `DECODED_LIMIT` is cut, and shows as truncated. Raises StartError where the URL is none, or no answer
    comes within `patience` seconds.
    """
    where = _checked(url)
    sent = {"accept": "application/json, text/event-stream, */*", "accept-encoding": "gzip, deflate"}
    sent |= {"content-type": "application/json"} if body else {}
    sent |= {name.lower(): value for name, value in headers}
    try:
        async with (
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(patience)) as session,
            session.request(method, where, headers=sent, data=body or None, allow_redirects=False) as response,
        ):
            captured = bytearray()
            async for chunk in response.content.iter_any():
                captured += chunk
                if len(captured) > DECODED_LIMIT:
                    break
            raw = response.raw_headers
            status = response.status
    except TimeoutError:
        raise StartError(f"{url}: no whole answer within {patience:g} s; wait longer with --timeout") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise StartError(f"{url}: {str(error) or type(error).__name__}; is the service running there?") from None
    head = b"\r\n".join(name + b": " + value for name, value in raw)
    kept = bytes(captured[:DECODED_LIMIT])
    request_head = "\r\n".join(f"{name}: {value}" for name, value in sent.items()).encode("latin-1", "replace")
    request = Request(method, where.raw_path_qs, request_head, body, len(body))
    return request, Exchange(Outcome.OK, status, head, kept, len(captured), ttfb=0.0, total=0.0)


def _checked(url: str) -> URL:
    try:
        parts = urlsplit(url)
        parsed = URL(url)
    except ValueError as error:
        raise StartError(f"{url}: is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parsed.host:
        raise StartError(f"{url}: is no http:// or https:// URL")
    return parsed
