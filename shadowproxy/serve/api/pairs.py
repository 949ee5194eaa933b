"""/api/v1/pairs: which pairs are worth a look. Without heads and bodies: the API does not ask who wants to know."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from aiohttp import web

from shadowproxy.errors import StoreUnavailable
from shadowproxy.serve.exemplars import Exemplar, ExemplarReader, Kept
from shadowproxy.serve.problems import problem
from shadowproxy.verdict.record import OVERALL

_MOST = 10_000


class Pairs(msgspec.Struct, frozen=True, kw_only=True):
    """Pairs that are worth a look."""

    pairs: tuple[Exemplar, ...]


class PairApi:
    """GET gives `{"pairs": […]}`, as `shadowproxy pairs worst --json` and `pairs sample --json` list them."""

    def __init__(self, reader: ExemplarReader) -> None:
        self._reader = reader

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [web.get("/api/v1/pairs/worst", self._worst), web.get("/api/v1/pairs/sample", self._sample)]

    async def _worst(self, request: web.Request) -> web.Response:
        guardrail, cohort = request.query.get("guardrail"), request.query.get("cohort", OVERALL)
        try:
            limit = _limit(request, 10)
            if guardrail is not None and guardrail not in self._reader.guardrails:
                raise ValueError(f"there is no guardrail {guardrail!r}; there are {', '.join(self._reader.guardrails)}")
            if cohort not in (known := await self._reader.cohorts()):
                raise ValueError(f"there is no cohort {cohort!r}; there are {', '.join(known)}")
            return _listed(await self._reader.worst(guardrail, cohort, limit))
        except ValueError as error:
            return problem(400, "Bad Request", str(error))
        except StoreUnavailable as error:
            return problem(503, "Service Unavailable", str(error))

    async def _sample(self, request: web.Request) -> web.Response:
        try:
            return _listed(await self._reader.sample(_limit(request, 100)))
        except ValueError as error:
            return problem(400, "Bad Request", str(error))
        except StoreUnavailable as error:
            return problem(503, "Service Unavailable", str(error))


def _limit(request: web.Request, usual: int) -> int:
    said = request.query.get("limit", str(usual))
    if not (said.isascii() and said.isdigit() and len(said) <= len(str(_MOST)) and 1 <= int(said) <= _MOST):
        raise ValueError(f"limit is a whole number from 1 to {_MOST}, not {said[:20]!r}")
    return int(said)


def _listed(found: Sequence[Kept]) -> web.Response:
    body = msgspec.json.encode(Pairs(pairs=tuple(kept.exemplar for kept in found)))
    return web.Response(body=body, content_type="application/json")
