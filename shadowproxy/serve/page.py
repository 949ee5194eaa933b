"""The live page at `/` and what it is made of under `/assets/`: files of the package, and the charts' library.

What there is to be had is a table that is made when the process starts. A path of a request is only looked up in it, so
none can lead anywhere else. The files hold nothing of the experiment: they need no token, else nobody could enter one.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Mapping
from hashlib import blake2b
from http import HTTPStatus
from typing import Final, NamedTuple

from aiohttp import web

from shadowproxy.report.assets import WITHOUT_PLOTLY, plotly_bundle, web_files
from shadowproxy.serve.problems import explained

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
}
"""By the end of the name what is served; a template or anything else is not."""
_PLOTLY: Final = "plotly.min.js"
_INDEX: Final = "index.html"
_ALREADY_SMALL: Final = frozenset({"png"})


class Asset(NamedTuple):
    """One file, ready to be sent."""

    content: bytes
    zipped: bytes | None
    """The same by gzip; None where that makes it no smaller."""
    kind: str
    """Content-Type."""
    tag: str
    """ETag: it changes with the content."""


def asset(name: str, content: bytes) -> Asset:
    """A file of this name, whose end is one of those in the table of types."""
    end = name.rpartition(".")[2]
    zipped = None if end in _ALREADY_SMALL else gzip.compress(content, 6, mtime=0)
    if zipped is not None and len(zipped) >= len(content):
        zipped = None
    return Asset(content, zipped, _TYPES[end], f'"{blake2b(content, digest_size=9).hexdigest()}"')


class Page:
    """Serves `/`, `/assets/…` and `/assets/plotly.min.js`.

    The bundle of plotly is read and compressed when it is first asked for: a pipeline that only asks for the verdict
    pays neither the time nor the memory.
    """

    def __init__(
        self,
        files: Mapping[str, bytes] | None = None,
        bundle: Callable[[], bytes | None] = plotly_bundle,
    ) -> None:
        """`files` are those of the package unless given."""
        found = web_files() if files is None else files
        self._assets = {
            name: asset(name, content) for name, content in found.items() if name.rpartition(".")[2] in _TYPES
        }
        self._bundle = bundle
        self._reading = asyncio.Lock()

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [web.get("/", self._index), web.get("/assets/{name:.+}", self._asset)]

    async def _index(self, request: web.Request) -> web.Response:
        return _answer(request, self._assets[_INDEX])

    async def _asset(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name == _PLOTLY and name not in self._assets:
            await self._read_bundle()
        found = self._assets.get(name) if name != _INDEX else None
        if found is None:
            return explained(HTTPStatus.NOT_FOUND, "there is no such file of the page")
        return _answer(request, found)

    async def _read_bundle(self) -> None:
        async with self._reading:
            if _PLOTLY not in self._assets:
                self._assets[_PLOTLY] = await asyncio.to_thread(
                    lambda: asset(_PLOTLY, self._bundle() or WITHOUT_PLOTLY)
                )


def _answer(request: web.Request, found: Asset) -> web.Response:
    # Asked again each time, and answered with a few bytes: a page never draws with the modules of another version.
    headers = {"ETag": found.tag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    asked = request.if_none_match
    if asked is not None and any(f'"{one.value}"' == found.tag or one.value == "*" for one in asked):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    headers["Content-Type"] = found.kind
    if found.zipped is not None and accepts_gzip(request.headers.get("Accept-Encoding", "")):
        return web.Response(body=found.zipped, headers={**headers, "Content-Encoding": "gzip"})
    return web.Response(body=found.content, headers=headers)


def accepts_gzip(accept: str) -> bool:
    """Whether an Accept-Encoding header takes gzip (RFC 9110, section 12.5.3).

    >>> accepts_gzip("br, gzip;q=0.5"), accepts_gzip("gzip;q=0, *"), accepts_gzip("*"), accepts_gzip("")
    (True, False, True, False)
    """
    weights = {}
    for one in accept.split(","):
        coding, _, parameters = one.partition(";")
        name, _, weight = parameters.strip().partition("=")
        try:
            weights[coding.strip().lower()] = float(weight) if name.strip().lower() == "q" else 1.0
        except ValueError:
            weights[coding.strip().lower()] = 0.0
    return weights.get("gzip", weights.get("*", 0.0)) > 0
