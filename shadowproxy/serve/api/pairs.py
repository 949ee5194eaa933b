"""/api/v1/pairs: the pairs that were kept to be looked at, found, listed, and one of them side by side."""

from __future__ import annotations

import asyncio
import enum
import ipaddress
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from aiohttp import web

from shadowproxy.report.view import Exemplar, Viewer
from shadowproxy.serve.answers import answered, known, one_of, quoted, whole
from shadowproxy.serve.index import ExemplarIndex, Wanted
from shadowproxy.serve.problems import Unfit, Unknown
from shadowproxy.verdict.record import OVERALL

_MOST: Final = 10_000
_LONGEST: Final = 200
"""Characters of a text that is looked for."""


class BoardName(enum.StrEnum):
    """Which exemplars."""

    WORST = "worst"
    SAMPLE = "sample"


class AnswerKind(enum.StrEnum):
    """How a candidate answered: transport's outcome, or the class of the status."""

    OK = "ok"
    TIMEOUT = "timeout"
    CONNECT = "connect"
    RESET = "reset"
    PROTOCOL = "protocol"
    SHED = "shed"
    SUCCESSFUL = "2xx"
    REDIRECTING = "3xx"
    CLIENT_ERROR = "4xx"
    SERVER_ERROR = "5xx"


class Exemplars(msgspec.Struct, frozen=True, kw_only=True):
    """Pairs without heads and bodies."""

    pairs: tuple[Exemplar, ...]


class FoundPairs(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the pairs that were found."""

    pairs: tuple[Exemplar, ...]
    total: int
    """How many there are, listed here or not."""


def from_loopback(request: web.Request) -> bool:
    """Whether the request came from this machine."""
    try:
        return ipaddress.ip_address(request.remote or "").is_loopback
    except ValueError:
        return False


class PairApi:
    """GET /api/v1/pairs finds exemplars (see `index.Wanted`); `worst` and `sample` list them as the commands of that
    name do with `--json`; /api/v1/pairs/ID shows the newest one of a request id."""

    def __init__(
        self, index: ExemplarIndex, viewer: Viewer, *, may_see: Callable[[web.Request], bool] = from_loopback
    ) -> None:
        """`may_see`: whether somebody may see what heads and bodies hold."""
        self._index = index
        self._viewer = viewer
        self._may_see = may_see

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [
            web.get("/api/v1/pairs", self._find),
            web.get("/api/v1/pairs/worst", self._worst),
            web.get("/api/v1/pairs/sample", self._sample),
            web.get("/api/v1/pairs/{id:.+}", self._one),
        ]

    async def _find(self, request: web.Request) -> web.Response:
        query = request.query
        board, answer = one_of(request, "board", BoardName), one_of(request, "outcome", AnswerKind)
        limit, offset = whole(request, "limit", 50, least=1, most=1000), whole(request, "offset", 0, most=1_000_000)
        text = query.get("text") or None
        if text is not None and len(text) > _LONGEST:
            raise Unfit(f"text is of at most {_LONGEST} characters, not {len(text):,}")
        if (route := query.get("route")) is not None:
            known("route", route, ["", *self._index.routes])
        found = await self._index.found(
            Wanted(
                guardrail=self._guardrail(request),
                cohort=await self._cohort(request),
                route=route,
                answer=None if answer is None else answer.value,
                id=query.get("id"),
                text=text,
                worst=board is not BoardName.SAMPLE,
                sample=board is not BoardName.WORST,
            )
        )
        return answered(FoundPairs(pairs=tuple(found[offset : offset + limit]), total=len(found)))

    async def _worst(self, request: web.Request) -> web.Response:
        limit = whole(request, "limit", 10, least=1, most=_MOST)
        guardrail, cohort = self._guardrail(request), await self._cohort(request)
        names = self._index.guardrails if guardrail is None else [guardrail]
        found: list[Exemplar] = []
        for name in names:
            found += (await self._index.found(Wanted(guardrail=name, cohort=cohort, sample=False)))[:limit]
        return _listed(found)

    async def _sample(self, request: web.Request) -> web.Response:
        limit = whole(request, "limit", 100, least=1, most=_MOST)
        return _listed(await self._index.sample(limit))

    async def _one(self, request: web.Request) -> web.Response:
        id_ = request.match_info["id"]
        query = request.query
        found = await self._index.one(
            id_,
            partition=whole(request, "partition", 0, most=1023) if "partition" in query else None,
            entry=query.get("entry"),
            position=whole(request, "position", 0, most=16_383) if "position" in query else None,
        )
        if found is None:
            raise Unknown(f"no pair {quoted(id_)} is kept to be looked at, or it is no more; see /api/v1/pairs")
        exemplar, pair, standings, of_this_id = found
        # Milliseconds for large bodies.
        view = await asyncio.to_thread(
            self._viewer, pair, exemplar, standings=standings, withhold=not self._may_see(request)
        )
        if of_this_id > 1 and not {"partition", "entry", "position"} & query.keys():
            note = f"{of_this_id:,} pairs that are kept have this id; this is the newest"
            view = msgspec.structs.replace(view, notes=(*view.notes, note))
        response = answered(view)
        response.headers["Cache-Control"] = "no-store"
        return response

    def _guardrail(self, request: web.Request) -> str | None:
        name = request.query.get("guardrail")
        return None if name is None else known("guardrail", name, self._index.guardrails)

    async def _cohort(self, request: web.Request) -> str | None:
        name = request.query.get("cohort")
        return None if name in (None, OVERALL) else known("cohort", str(name), await self._index.cohorts())


def _listed(found: Sequence[Exemplar]) -> web.Response:
    return answered(Exemplars(pairs=tuple(found)))
