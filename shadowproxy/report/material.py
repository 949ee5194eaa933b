"""What a report is made from: the API's answers under their endpoints' names, read into records.

The records have of each answer what is shown where no script runs; the scripts get the answers as they came.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shadowproxy.report.view import PairView
from shadowproxy.verdict.record import Verdict
from shadowproxy.verdict.reported.curves import Distributions, Latencies
from shadowproxy.verdict.reported.evidence import NO_EVIDENCE, Evidence


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
    evidence: Evidence = NO_EVIDENCE
    latencies: Latencies = Latencies(latencies=())
    distributions: Distributions = Distributions(distributions=())
    worst: Mapping[str, tuple[PairView, ...]] = {}
    """By guardrail, worst first."""
    experiment: Frozen | None = None
    data: Mapping[str, Any] = {}
    """The answers as they came (`msgspec.Raw`), by endpoint: what the scripts of the page draw from."""
