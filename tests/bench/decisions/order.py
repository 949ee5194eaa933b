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
from shadowproxy.stats.state import State, Tally

MARGIN: Final = 0.01
RATE: Final = 100.0
DEADLINE: Final = 10.0
SETTLE: Final = 1.0
BUCKET: Final = 1.0
SECONDS: Final = 120
NAIVE: Final = "over the pairs that are complete"
GRID: Final = MeanGrid(-1, 1, MARGIN)
_NAME: Final = "failures"


def simulate(failing: float, draw: Generator, experiments: int) -> dict[str, Reading]:
    """Both readings of the same pairs, looked at twice a second."""
    n = round(RATE * SECONDS)
    began = np.sort(draw.uniform(0, SECONDS, (experiments, n)), axis=1)
    failed = draw.random((experiments, n)) < failing
    ended = began + np.where(failed, DEADLINE, draw.gamma(4, 0.025, (experiments, n)))
    now = np.arange(0.5, SECONDS + 0.25, 0.5)
    looked = np.round(now * RATE).astype(np.int64)
    closed, naive = [], []
    for row in range(experiments):
        rows = GRID.rows(failed[row].astype(np.float64))
        closed.append(_closed(rows, began[row], ended[row], now))
        naive.append(_complete(rows, ended[row], now))
    return {
        OURS: crossings(*GRID.get(np.array(closed)), looked),
        NAIVE: crossings(*GRID.get(np.array(naive)), looked),
    }


def _closed(rows: FloatArray, began: FloatArray, ended: FloatArray, now: FloatArray) -> FloatArray:
    """What a worker's state has in total at each look, as pairs come in when they have ended: (looks, width).

    A bucket is closed when all that began in it has ended, whatever became of it.
    """
    bucket = np.floor(began / BUCKET).astype(np.int64)
    look = np.searchsorted(now, ended)
    state = State(width=BUCKET, settle=DEADLINE + SETTLE)
    found = np.zeros((len(now), GRID.width))
    for at, moment in enumerate(now):
        new = np.flatnonzero(look == at)
        batch = {}
        for index in np.unique(bucket[new]).tolist():
            mine = new[bucket[new] == index]
            batch[index] = Tally({_NAME: rows[mine].sum(axis=0, keepdims=True)}), len(mine)
        state = state.with_added(batch).close(float(moment))
        found[at] = state.total.rows(_NAME, 1, (GRID.width,))[0]
    return found


def _complete(rows: FloatArray, ended: FloatArray, now: FloatArray) -> FloatArray:
    """The sum over all that have ended by each look: (looks, width)."""
    look = np.searchsorted(now, ended)
    sums = np.zeros((len(now) + 1, rows.shape[1]))
    np.add.at(sums, look, rows)
    return np.cumsum(sums[:-1], axis=0)
