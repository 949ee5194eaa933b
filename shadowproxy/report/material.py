"""What a report is made from: the API's answers under their endpoints' names, read into records.

The records have of each answer what is shown where no script runs; the scripts get the answers as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shadowproxy.verdict.record import Verdict


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the verdict, or a reset; as `GET history` tells of it."""

    what: str
    at: float
    exhausted: bool = False
    pairs: int = 0
    evidence: float = 0.0
    reasons: tuple[str, ...] = ()
    by: str = ""


class History(msgspec.Struct, frozen=True, kw_only=True):
    """How the verdict changed, newest first."""

    history: tuple[Change, ...] = ()


class TrailCell(msgspec.Struct, frozen=True, kw_only=True):
    """Whose e-values stand at one place of each point."""

    guardrail: str
    cohort: str
    promote_at: float
    rollback_at: float


class TrailPoint(msgspec.Struct, frozen=True, kw_only=True):
    """The e-values at one number of pairs, as logarithms to base 10; None where a cell wasn't there yet."""

    at: float
    pairs: int
    evidence_rollback: float
    promote: tuple[float | None, ...]
    rollback: tuple[float | None, ...]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """How the e-values went, as `GET evidence` tells of it."""

    cells: tuple[TrailCell, ...] = ()
    points: tuple[TrailPoint, ...] = ()
    rollback_at: float | None = None
    """What the evidence of harm over all cells takes."""


class LatencyCurve(msgspec.Struct, frozen=True, kw_only=True):
    """The quantiles of one upstream's latency; None for those among the failures."""

    side: str
    timing: str
    route: str
    cohort: str
    pairs: int
    probabilities: tuple[float, ...]
    seconds: tuple[float | None, ...]


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """As `GET latencies` answers."""

    latencies: tuple[LatencyCurve, ...] = ()


class ScoreCurves(msgspec.Struct, frozen=True, kw_only=True):
    """Both sides' scores, counted in the same bins; `edges` are one more than these."""

    route: str
    cohort: str
    edges: tuple[float, ...]
    baseline: tuple[float, ...]
    candidate: tuple[float, ...]
    ks: float | None = None
    psi: float | None = None
    wasserstein: float | None = None
    jensen_shannon: float | None = None


class Distributions(msgspec.Struct, frozen=True, kw_only=True):
    """As `GET distributions` answers."""

    distributions: tuple[ScoreCurves, ...] = ()


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """A captured body: text, or base64 where it is none."""

    text: str | None = None
    base64: str | None = None
    bytes: int = 0
    truncated: bool = False


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked. Heads and bodies are None where they are withheld."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...] | None = None
    body: Body | None = None


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    """How one upstream answered. Durations in seconds, None where it never ended."""

    outcome: str
    status: int = 0
    ttfb: float | None = None
    total: float | None = None
    detail: str = ""
    headers: tuple[tuple[str, str], ...] | None = None
    body: Body | None = None


class RankedItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item and its ranks, from 1; None where a list doesn't have it."""

    id: str
    baseline: int | None = None
    candidate: int | None = None
    baseline_score: float | None = None
    candidate_score: float | None = None


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """Both lists."""

    items: tuple[RankedItem, ...] = ()


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A place where the two answers differ; None where a side has nothing there."""

    where: str
    baseline: str | None = None
    candidate: str | None = None


class Exemplar(msgspec.Struct, frozen=True, kw_only=True):
    """Which pair it is, and why it is shown."""

    id: str
    started: float
    guardrail: str | None = None
    cohort: str = ""
    loss: float | None = None
    value: float | None = None
    route: str = ""
    cohorts: tuple[str, ...] = ()


class PairView(msgspec.Struct, frozen=True, kw_only=True):
    """One pair in full, as `GET pairs/{id}` answers."""

    exemplar: Exemplar
    request: Request
    baseline: Exchange
    candidate: Exchange
    replica: Exchange | None = None
    ranking: Ranking | None = None
    differences: tuple[Difference, ...] | None = None
    more: int | bool = 0
    values: Mapping[str, float | None] = {}
    notes: tuple[str, ...] = ()
    withheld: bool = False


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says of itself."""

    version: str
    """Of the shadowproxy that made it."""
    source: str
    """Where the figures come from, in words."""
    missing: tuple[str, ...] = ()
    """What could not be had, and why."""


class Frozen(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the experiment as a whole, as `GET experiments/{id}` answers."""

    begun: float
    """Unix seconds."""
    settings: Mapping[str, Any]
    """What was frozen then."""


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """All that one report shows. Empty is what the API that was asked doesn't have."""

    verdict: Verdict
    made: Made
    history: History = History()
    evidence: Evidence = Evidence()
    latencies: Latencies = Latencies()
    distributions: Distributions = Distributions()
    worst: Mapping[str, tuple[PairView, ...]] = {}
    """By guardrail, worst first."""
    experiment: Frozen | None = None
    data: Mapping[str, Any] = {}
    """The answers as they came (`msgspec.Raw`), by endpoint: what the scripts of the page draw from."""
