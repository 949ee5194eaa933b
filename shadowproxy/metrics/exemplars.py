"""Exemplars: one request by its id, and by its trace where it has one, beside a figure that it is part of.

They are in OpenMetrics alone: the older text format has no place for them. OpenMetrics bounds the labels of an exemplar
to 128 characters, names and all; a scraper may refuse the whole page for one that is longer.
"""

from __future__ import annotations

import re
from typing import Final

from prometheus_client.core import Exemplar

MOST: Final = 128
_TRACE: Final = re.compile(r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-[0-9a-f]{16}-")


def exemplar(request_id: str, traceparent: str, value: float, at: float) -> Exemplar | None:
    """Of a request with this id and W3C `traceparent` (empty for none); None where the id has no place in an exemplar.

    `at` is Unix time, seconds. Where there is no room for both, the trace is left out.

    >>> exemplar("a", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", 0.5, 1.0).labels
    {'request_id': 'a', 'trace_id': '4bf92f3577b34da6a3ce929d0e0e4736'}
    >>> exemplar("a" * 119, "", 0.5, 1.0)
    """
    labels = {"request_id": request_id}
    if not request_id.isprintable() or _size(labels) > MOST:
        return None
    if trace := _TRACE.match(traceparent):
        traced = {**labels, "trace_id": trace[1]}
        labels = traced if _size(traced) <= MOST else labels
    return Exemplar(labels, value, at)


def _size(labels: dict[str, str]) -> int:
    return sum(len(name) + len(value) for name, value in labels.items())
