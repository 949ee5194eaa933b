"""Streams of one bounded loss: at the margin in the ways that break tests, and far inside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from bench.decisions import peers
from bench.decisions.reading import (
    ALPHA,
    EVERY,
    FEWEST_PROMOTE,
    FEWEST_ROLLBACK,
    PROVEN,
    BoolArray,
    FloatArray,
    Reading,
    first,
    looks,
)
from numpy.random import Generator
from numpy.typing import NDArray

from shadowproxy.stats.betting import MeanGrid

MARGIN: Final = 0.02
SPREAD: Final = 0.15
MEAN: Final = 0.5
"""Of the baseline's scores, where two samples are compared."""
GRID: Final = MeanGrid(-1, 1, MARGIN)

OURS: Final = "shadowproxy"
Z_MARGIN: Final = "z-test at the margin, peeked"
Z_SAME: Final = "z-test of no difference, peeked"
ADAPTIVE: Final = "betting, adaptive"
KAYENTA: Final = "Kayenta's Mann–Whitney"

KAYENTA_EVERY: Final = 500


@dataclass(frozen=True)
class Stream:
    """How losses come, (experiments, pairs) of them, and from which pair on a crossing counts.

    Before `judged` the running mean is on the other side of the margin, and what is said then is right.
    """

    draw: Callable[[Generator, int, int], FloatArray]
    pairs: int
    every: int = EVERY
    judged: int = 0
    equal: bool = False
    """Whether there is no difference, so that a test of that may be wrong."""
    kayenta: bool = False


def iid(draw: Generator, experiments: int, pairs: int) -> FloatArray:
    """Normal about the margin; clipped at seven deviations, so that the mean is the margin's to 1e-12."""
    return np.clip(draw.normal(MARGIN, SPREAD, (experiments, pairs)), -1, 1)


def rare(draw: Generator, experiments: int, pairs: int) -> FloatArray:
    """Nothing at all, but for a catastrophe in one pair of 50."""
    return (draw.random((experiments, pairs)) < MARGIN).astype(np.float64)


def rare_both_ways(draw: Generator, experiments: int, pairs: int) -> FloatArray:
    """Catastrophes on either side: +1 in 3% of pairs, −1 in 1%."""
    u = draw.random((experiments, pairs))
    return (u < 0.03).astype(np.float64) - (u > 0.99)


def heavy(draw: Generator, experiments: int, pairs: int) -> FloatArray:
    """Student's t of two degrees of freedom about the margin, clipped evenly on both sides of it."""
    most = 1 - MARGIN
    return MARGIN + np.clip(0.1 * draw.standard_t(2, (experiments, pairs)), -most, most)


def good_then_bad(draw: Generator, experiments: int, pairs: int) -> FloatArray:
    """No loss, and from the middle of the first four fifths on twice the margin, which is where the mean then comes."""
    means = np.where(np.arange(pairs) < 2 * pairs // 5, 0.0, 2 * MARGIN)
    return np.clip(draw.normal(means, SPREAD, (experiments, pairs)), -1, 1)


def bad_then_good(draw: Generator, experiments: int, pairs: int) -> FloatArray:
    """The other way round."""
    means = np.where(np.arange(pairs) < 2 * pairs // 5, 2 * MARGIN, 0.0)
    return np.clip(draw.normal(means, SPREAD, (experiments, pairs)), -1, 1)


def falling(draw: Generator, experiments: int, pairs: int) -> FloatArray:
    """From twice the margin evenly down to none: the running mean stays above the margin and ends at it."""
    means = np.linspace(2 * MARGIN, 0.0, pairs)
    return np.clip(draw.normal(means, SPREAD, (experiments, pairs)), -1, 1)


def rising(draw: Generator, experiments: int, pairs: int) -> FloatArray:
    """The other way round: it stays below and ends at it."""
    means = np.linspace(0.0, 2 * MARGIN, pairs)
    return np.clip(draw.normal(means, SPREAD, (experiments, pairs)), -1, 1)


def same(draw: Generator, experiments: int, pairs: int) -> FloatArray:
    """No loss on average."""
    return np.clip(draw.normal(0.0, SPREAD, (experiments, pairs)), -1, 1)


def evidence(grid: MeanGrid, losses: FloatArray, every: int = EVERY) -> tuple[FloatArray, FloatArray]:
    """Log e-values at every look: (experiments, n) → (non-inferiority, harm), (experiments, looks) each."""
    experiments, n = losses.shape
    count = n // every
    capitals = np.empty((experiments, count, 2 * grid.size))
    for row, of_one in enumerate(losses):
        capitals[row] = grid.increments(of_one[: count * every]).reshape(count, every, -1).sum(axis=1)
    return grid.log_e(np.cumsum(capitals, axis=1, out=capitals))


def crossings(ni: FloatArray, harm: FloatArray, at: NDArray[np.int64], judged: int = 0) -> Reading:
    """From log e-values at the looks."""
    return said(ni >= PROVEN, harm >= PROVEN, at, judged)


def said(promote: BoolArray, rollback: BoolArray, at: NDArray[np.int64], judged: int = 0) -> Reading:
    """With the fewest pairs that either needs, and from `judged` on."""
    return Reading(
        promote=first(promote & (at >= max(judged, FEWEST_PROMOTE)), at),
        rollback=first(rollback & (at >= max(judged, FEWEST_ROLLBACK)), at),
    )


def simulate(stream: Stream, draw: Generator, experiments: int) -> dict[str, Reading]:
    """All methods on the same streams."""
    losses = stream.draw(draw, experiments, stream.pairs)
    at = looks(stream.pairs, stream.every)
    below, above = peers.adaptive(losses, -1, 1, MARGIN)
    readings = {
        OURS: crossings(*evidence(GRID, losses, stream.every), at, stream.judged),
        Z_MARGIN: said(*peers.z_margin(losses, MARGIN, at, ALPHA), at, stream.judged),
        ADAPTIVE: crossings(below[:, at - 1], above[:, at - 1], at, stream.judged),
    }
    if stream.equal:
        readings[Z_SAME] = Reading(rollback=first(peers.z_same(losses, at) & (at >= FEWEST_ROLLBACK), at))
    if stream.kayenta:
        # Scores of the baseline that spread as much again: the judge sees two samples and no pairs.
        baseline = draw.normal(MEAN, SPREAD, losses.shape)
        allowed = (MEAN + MARGIN) / MEAN
        promote, rollback = peers.kayenta(baseline, baseline + losses, looks(stream.pairs, KAYENTA_EVERY), allowed)
        readings[KAYENTA] = Reading(promote, rollback)
    return readings
