"""/api/v1/distributions and /api/v1/latencies: the curves of what the verdict rests on."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from shadowproxy.serve.answers import answered, known
from shadowproxy.serve.reader import Reading
from shadowproxy.verdict.record import OVERALL
from shadowproxy.verdict.reported.curves import Curves, Distributions, Latencies
from shadowproxy.verdict.reported.summaries import ALL_ROUTES


class CurveApi:
    """Both take `route`, all unless it is given, and `cohort`, `all` unless it is given. Of latencies an empty `route`
    means the curve over all of them."""

    def __init__(self, current: Callable[[], Reading]) -> None:
        """`current` gives the verdict that holds, or raises StoreUnavailable."""
        self._current = current

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [
            web.get("/api/v1/distributions", self._distributions),
            web.get("/api/v1/latencies", self._latencies),
        ]

    async def _distributions(self, request: web.Request) -> web.Response:
        curves = self._current().curves
        route, cohort = _asked(request, curves)
        return answered(Distributions(distributions=tuple(curves.scores(route or None, cohort))))

    async def _latencies(self, request: web.Request) -> web.Response:
        curves = self._current().curves
        route, cohort = _asked(request, curves)
        return answered(Latencies(latencies=tuple(curves.latencies(route, cohort))))


def _asked(request: web.Request, curves: Curves) -> tuple[str | None, str]:
    """Route and cohort. Raises Unknown."""
    route, cohort = request.query.get("route"), request.query.get("cohort", OVERALL)
    if route is not None and route != ALL_ROUTES:
        known("route", route, curves.routes)
    return route, known("cohort", cohort, curves.cohorts)
