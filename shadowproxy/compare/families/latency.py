"""Latency of the candidate, most of it against that of the baseline, pair by pair. Always applicable, never undefined.

A failed exchange takes forever: +inf, on either side alike (a fast 500 is not fast; STATISTICS §1). So does one whose
recorded time is not a number.

* `latency.ttfb_log2`, `latency.total_log2` = clip(log2(candidate / baseline), −1, 1): first byte, last byte. Both
  infinite: 0; only the candidate: 1; only the baseline: −1. Times below a nanosecond count as one nanosecond: no
  clock resolves less, and 0/0 must be 0.
* `latency.total_slow` = 1{candidate > slow} − 1{baseline > slow}, with the route's limit `slow`.
* `latency.total_over` = 1{candidate > slow}, however slow the baseline is: for a promise that is absolute.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shadowproxy.compare.lists.ragged import Bools, Floats
from shadowproxy.compare.view import Values, View
from shadowproxy.model import Side

_SHORTEST = 1e-9


def times(seconds: Floats, failed: Bools) -> Floats:
    """Recorded durations as they are compared: +inf where the exchange failed or the time is NaN, else at least 0."""
    return np.where(failed | np.isnan(seconds), np.inf, np.maximum(seconds, 0.0))


def latency(view: View) -> Mapping[str, Values]:
    """The family `latency`; `total_slow` and `total_over` only where the route has a limit."""
    always = np.ones(len(view), np.bool_)
    found = {
        "latency.ttfb_log2": Values(_log2(view.ttfb), always),
        "latency.total_log2": Values(_log2(view.total), always),
    }
    if view.slow is not None:
        late = {side: total > view.slow for side, total in view.total.items()}
        candidate = late[Side.CANDIDATE].astype(np.float64)
        found["latency.total_slow"] = Values(candidate - late[Side.BASELINE], always)
        found["latency.total_over"] = Values(candidate, always)
    return found


def _log2(seconds: Mapping[Side, Floats]) -> Floats:
    # +inf is capped at the largest float, so that a difference of logarithms is defined everywhere.
    logs = {side: np.log2(np.clip(time, _SHORTEST, np.finfo(np.float64).max)) for side, time in seconds.items()}
    ratio: Floats = np.clip(logs[Side.CANDIDATE] - logs[Side.BASELINE], -1.0, 1.0)
    return ratio
