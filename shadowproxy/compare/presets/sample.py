"""One exchange as those see it who look for its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Sample(NamedTuple):
    """A request and its answer; bodies decoded by the preset's own reader, None where unreadable.

    Headers by lower-case name; `path` as sent, without the query.
    """

    path: str
    request_headers: Mapping[str, str]
    request: Any | None
    response_headers: Mapping[str, str]
    response: Any | None
    status: int
