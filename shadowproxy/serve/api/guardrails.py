"""/api/v1/guardrails and /api/v1/cohorts: the verdict's cells, chosen, and counted by cohort."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec
from aiohttp import web

from shadowproxy.serve.answers import answered, known, one_of
from shadowproxy.serve.reader import Reading
from shadowproxy.verdict.record import OVERALL, Cell, Finding, cells


class GuardrailCell(Cell, frozen=True, kw_only=True):
    """A cell of the verdict, and the pair to look at first."""

    worst: str | None = None
    """Request id of the pair with the greatest loss; None where no pair that did harm is kept."""


class Guardrails(msgspec.Struct, frozen=True, kw_only=True):
    """Cells of the verdict."""

    guardrails: tuple[GuardrailCell, ...]
    """Overall first, then cohort by cohort; within each in the order of the configuration."""


class CohortFindings(msgspec.Struct, frozen=True, kw_only=True):
    """How many guardrails say what of one cohort."""

    cohort: str
    pairs: int
    safe: int
    harmful: int
    undecided: int


class Cohorts(msgspec.Struct, frozen=True, kw_only=True):
    """All cohorts that have pairs."""

    cohorts: tuple[CohortFindings, ...]
    """`all` first."""


Worst = Callable[[], Awaitable[Mapping[tuple[str, str], str]]]
"""By guardrail and cohort, the request id of the worst pair. Raises StoreUnavailable."""


class GuardrailApi:
    """GET /api/v1/guardrails takes `guardrail`, `cohort` and `finding`; what isn't given chooses all."""

    def __init__(self, current: Callable[[], Reading], guardrails: Sequence[str], worst: Worst | None = None) -> None:
        """`current` gives the verdict that holds, or raises StoreUnavailable; `guardrails` are the configured ones;
        `worst` says which pairs are the worst."""
        self._current = current
        self._names = guardrails
        self._worst = worst

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [web.get("/api/v1/guardrails", self._guardrails), web.get("/api/v1/cohorts", self._cohorts)]

    async def _guardrails(self, request: web.Request) -> web.Response:
        verdict = self._current().verdict
        guardrail, cohort = request.query.get("guardrail"), request.query.get("cohort")
        finding = one_of(request, "finding", Finding)
        if guardrail is not None:
            known("guardrail", guardrail, self._names)
        if cohort is not None:
            known("cohort", cohort, [OVERALL, *verdict.cohorts])
        worst = {} if self._worst is None else await self._worst()
        return answered(
            Guardrails(
                guardrails=tuple(
                    GuardrailCell(**msgspec.structs.asdict(cell), worst=worst.get((cell.guardrail, cell.cohort)))
                    for cell in cells(verdict)
                    if guardrail in (None, cell.guardrail)
                    and cohort in (None, cell.cohort)
                    and finding in (None, cell.finding)
                )
            )
        )

    async def _cohorts(self, _request: web.Request) -> web.Response:
        verdict = self._current().verdict
        rows = [_findings(OVERALL, verdict.pairs, verdict.guardrails)]
        rows += (_findings(name, report.pairs, report.guardrails) for name, report in verdict.cohorts.items())
        return answered(Cohorts(cohorts=tuple(rows)))


def _findings(cohort: str, pairs: int, found: Sequence[Cell]) -> CohortFindings:
    said = [cell.finding for cell in found]
    return CohortFindings(
        cohort=cohort,
        pairs=pairs,
        safe=said.count(Finding.SAFE),
        harmful=said.count(Finding.HARMFUL),
        undecided=said.count(Finding.UNDECIDED),
    )
