"""How the e-values went on their way to the thresholds, as a record."""

from __future__ import annotations

import math
from typing import Final

import msgspec


class EvidenceCell(msgspec.Struct, frozen=True, kw_only=True):
    """One guardrail × one cohort, and the e-values that decide it."""

    guardrail: str
    cohort: str
    promote_at: float
    rollback_at: float


class EvidencePoint(msgspec.Struct, frozen=True, kw_only=True):
    """The evidence when so many pairs were counted."""

    at: float
    """Unix seconds."""
    pairs: int
    evidence_rollback: float
    """The weighted mean of the e-values for harm."""
    promote: tuple[float | None, ...]
    """By cell, the decimal logarithm of its e-value, at least −300; None where the cell had no pairs yet."""
    rollback: tuple[float | None, ...]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The way of the evidence."""

    cells: tuple[EvidenceCell, ...]
    """Overall first."""
    points: tuple[EvidencePoint, ...]
    """Oldest first; the last is now."""
    rollback_at: float
    """What the weighted mean has to reach for a rollback."""


NO_EVIDENCE: Final = Evidence(cells=(), points=(), rollback_at=math.inf)
"""Where nobody has kept any."""
