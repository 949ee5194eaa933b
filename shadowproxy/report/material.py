"""What a report is made from: the API's answers under their endpoints' names, read into records.

The records have of each answer what is shown where no script runs; the scripts get the answers as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shadowproxy.report.view import PairView
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
