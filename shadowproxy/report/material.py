"""What a report is made from: the API's answers under their endpoints' names, read into records."""

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


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says of itself."""

    version: str
    """Of the shadowproxy that made it."""
    source: str
    """Where the figures come from, in words."""
    begun: float | None = None
    """When the experiment began, Unix seconds; None where that isn't known."""
    bodies: bool = True
    """Whether heads and bodies of pairs were asked for."""
    missing: tuple[str, ...] = ()
    """What could not be had, and why."""


class Material(msgspec.Struct, frozen=True, kw_only=True):
    """All that one report shows. Optional is what an older API doesn't have."""

    verdict: Verdict
    made: Made
    history: History = History()
    settings: Mapping[str, Any] | None = None
    """What was frozen when the experiment began."""
    data: Mapping[str, msgspec.Raw] = {}
    """The answers as they came, by endpoint: what the scripts of the page draw from."""
