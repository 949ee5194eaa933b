"""One request and its answer, as a preset looks at them to tell whether they are of its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Sample(NamedTuple):
    """One exchange. Header names are in lower case; bodies are decoded by the preset's own readers."""

    path: str
    request_headers: Mapping[str, str]
    request: Any | None
    """None where it is unreadable or not there."""
    response_headers: Mapping[str, str]
    response: Any | None
    """None where it is unreadable or not there."""
    status: int
