"""One request sent to a service, and what came back as an exchange: raw, as a proxy would have captured it."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

import aiohttp

from shadowproxy.config.units import without_passwords
from shadowproxy.encodings import DECODED_LIMIT
from shadowproxy.errors import StartError
from shadowproxy.model import Exchange, Outcome, Request


async def ask(
    url: str, *, method: str, headers: Iterable[tuple[str, str]], body: bytes, patience: float
) -> tuple[Request, Exchange]:
    """Send one request; redirects are not followed, and content codings are left as they are.

    A body past `DECODED_LIMIT` is cut, and shows as truncated. Raises StartError where no answer comes within
    `patience` seconds.
    """
    sent = {"accept": "application/json, text/event-stream, */*", "accept-encoding": "gzip, deflate"}
    sent |= {"content-type": "application/json"} if body else {}
    sent |= {name.lower(): value for name, value in headers}
    shown = without_passwords(url)
    try:
        async with (
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(patience)) as session,
            session.request(method, url, headers=sent, data=body or None, allow_redirects=False) as response,
        ):
            captured = bytearray()
            async for chunk in response.content.iter_any():
                captured += chunk
                if len(captured) > DECODED_LIMIT:
                    break
            raw = response.raw_headers
            status = response.status
            target = response.request_info.url.raw_path_qs
    except TimeoutError:
        raise StartError(f"{shown}: no whole answer within {patience:g} s; wait longer with --timeout") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        # What was no HTTP is part of what is said of it.
        why = without_passwords(" ".join(ascii(str(error) or type(error).__name__)[1:-1].replace("\\n", " ").split()))
        raise StartError(f"{shown}: {why:.200}; is an HTTP service running there?") from None
    head = b"\r\n".join(name + b": " + value for name, value in raw)
    kept = bytes(captured[:DECODED_LIMIT])
    request_head = "\r\n".join(f"{name}: {value}" for name, value in sent.items()).encode("latin-1", "replace")
    request = Request(method, target, request_head, body, len(body))
    return request, Exchange(Outcome.OK, status, head, kept, len(captured), ttfb=0.0, total=0.0)


def origin_of(url: str) -> str:
    """Scheme, host and port, without a user. Raises StartError where it is no URL that can be asked.

    >>> origin_of("http://me:secret@host:80/a?b")
    'http://host:80'
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise StartError(f"{without_passwords(url)}: is no URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise StartError(f"{without_passwords(url)}: is no http:// or https:// URL")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
