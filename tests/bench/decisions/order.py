"""Timeouts finish last: what is judged over all that began before a moment, and over what happens to have ended by it.

100 requests a second begin at random moments. The baseline answers in about 0.1 s; the candidate does too, or fails at
the deadline of 10 s. The margin of the difference in failures is 1%.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from bench.decisions.means import OURS, crossings
from bench.decisions.reading import FloatArray, Reading
from numpy.random import Generator

from shadowproxy.stats.betting import MeanGrid

MARGIN: Final = 0.01
RATE: Final = 100.0
DEADLINE: Final = 10.0
SETTLE: Final = 1.0
BUCKET: Final = 1.0
SECONDS: Final = 120
NAIVE: Final = "over the pairs that are complete"
GRID: Final = MeanGrid(-1, 1, MARGIN)


def simulate(failing: float, draw: Generator, experiments: int) -> dict[str, Reading]:
    """Both readings of the same pairs, looked at twice a second."""
    n = round(RATE * SECONDS)
    began = np.sort(draw.uniform(0, SECONDS, (experiments, n)), axis=1)
    failed = draw.random((experiments, n)) < failing
    ended = began + np.where(failed, DEADLINE, draw.gamma(4, 0.025, (experiments, n)))
    now = np.arange(0.5, SECONDS + 0.25, 0.5)
    # A bucket is closed when all that began in it has ended, whatever became of it.
    closed = np.floor((now - DEADLINE - SETTLE) / BUCKET) * BUCKET
    looked = np.round(now * RATE).astype(np.int64)
    ones = failed.astype(np.float64)
    return {
        OURS: crossings(*_evidence(began, ones, closed), looked),
        NAIVE: crossings(*_evidence(ended, ones, now), looked),
    }


def _evidence(moments: FloatArray, losses: FloatArray, until: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Log e-values of those whose moment is before each of `until`: (experiments, n) → (experiments, looks) twice."""
    rows = []
    for when, of_one in zip(moments, losses, strict=True):
        order = np.argsort(when, kind="stable")
        capitals = np.cumsum(GRID.increments(of_one[order]), axis=0)
        count = np.searchsorted(when[order], until)
        rows.append(np.where((count > 0)[:, None], capitals[count - 1], 0.0))
    return GRID.log_e(np.array(rows))
