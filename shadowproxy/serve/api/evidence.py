"""/api/v1/evidence: how the e-values went on their way to the thresholds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from aiohttp import web

from shadowproxy.pairs.trail import Point
from shadowproxy.serve.answers import answered, known, whole
from shadowproxy.serve.reader import Reading, VerdictReader
from shadowproxy.verdict.record import OVERALL, Cell, cells
from shadowproxy.verdict.reported.evidence import Evidence, EvidenceCell, EvidencePoint

_USUAL: Final = 300
"""Points that are given unless more or fewer are asked for."""
_MOST: Final = 2000


class EvidenceApi:
    """GET takes `guardrail` and `cohort`, all unless given, and `points`: how many there are at the most."""

    def __init__(self, current: Callable[[], Reading], reader: VerdictReader, guardrails: Sequence[str]) -> None:
        """`current` gives the verdict that holds, or raises StoreUnavailable; `guardrails` are the configured ones."""
        self._current = current
        self._reader = reader
        self._names = guardrails

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [web.get("/api/v1/evidence", self._evidence)]

    async def _evidence(self, request: web.Request) -> web.Response:
        reading = self._current()
        guardrail, cohort = request.query.get("guardrail"), request.query.get("cohort")
        if guardrail is not None:
            known("guardrail", guardrail, self._names)
        if cohort is not None:
            known("cohort", cohort, [OVERALL, *reading.verdict.cohorts])
        most = whole(request, "points", _USUAL, least=2, most=_MOST)
        chosen = [
            cell
            for cell in cells(reading.verdict)
            if guardrail in (None, cell.guardrail) and cohort in (None, cell.cohort)
        ]
        points = thinned(await self._reader.evidence(reading), most)
        # With many cohorts these are hundreds of thousands of numbers.
        rollback_at = 1 / self._reader.settings.verdict.alpha_rollback
        return answered(await asyncio.to_thread(_evidence, chosen, points, rollback_at))


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most so many, spread evenly; the first and the last stay."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(at * step)] for at in range(most)]


def _evidence(chosen: Sequence[Cell], points: Sequence[Point], rollback_at: float) -> Evidence:
    return Evidence(
        cells=tuple(
            EvidenceCell(
                guardrail=cell.guardrail, cohort=cell.cohort, promote_at=cell.promote_at, rollback_at=cell.rollback_at
            )
            for cell in chosen
        ),
        points=tuple(_points([(cell.guardrail, cell.cohort) for cell in chosen], points)),
        rollback_at=rollback_at,
    )


def _points(chosen: Sequence[tuple[str, str]], points: Sequence[Point]) -> Iterator[EvidencePoint]:
    there: tuple[tuple[str, str], ...] = ()
    places: list[int | None] = [None] * len(chosen)
    for point in points:
        if point.cells != there:
            # Cells come with their cohorts, so this is seldom.
            there = point.cells
            at = {name: place for place, name in enumerate(there)}
            places = [at.get(name) for name in chosen]
        yield EvidencePoint(
            at=point.at,
            pairs=point.pairs,
            evidence_rollback=point.evidence,
            promote=tuple(None if place is None else point.promote[place] / 1000 for place in places),
            rollback=tuple(None if place is None else point.rollback[place] / 1000 for place in places),
        )
