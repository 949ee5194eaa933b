"""One request and its answer, as a preset looks at them to tell whether they are of its protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Sample(NamedTuple):
    """One exchange, its bodies decoded by the preset's own readers; None where they are unreadable or not there."""

    path: str
    request_headers: Mapping[str, str]
    """By lower-case name."""
    request: Any | None
    response_headers: Mapping[str, str]
    """By lower-case name."""
    response: Any | None
    status: int


Detect = Callable[[Sample], str | None]
"""A short reason why the sample is of the protocol, in words; None where it is not."""


def undetected(_sample: Sample) -> str | None:
    """Of a preset whose protocol can't be told from its bodies."""
    return None
