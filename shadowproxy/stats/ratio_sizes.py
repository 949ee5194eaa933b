"""How many pairs a ratio of latency quantiles takes to be decided, before there are any: by drawing pairs.

Latencies are lognormal, which services' are roughly, and those of a pair are correlated. What is drawn is counted and
judged by `quantiles.RatioGrid` itself, so nothing is approximated but the moments at which one looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shadowproxy.stats.additive import FloatArray, Grouping
from shadowproxy.stats.quantiles import RatioGrid
from shadowproxy.stats.sizes import NEVER, Side, Sizes

_SAMPLE = 100_000
_RUNS, _LEAST_RUNS = 50, 12
_LOOKS = 26
_SPAN = (0.3, 4.0)
"""Of the average, between which one looks."""
_MOST_DRAWN = 6_000_000
"""Pairs drawn for one figure."""
_FOREVER = 1e9


@dataclass(frozen=True, slots=True)
class Latencies:
    """Paired latencies, lognormal: ln baseline has deviation `sigma`, and so has ln candidate."""

    sigma: float
    correlation: float
    """Of the two logarithms."""
    ratio: float = 1.0
    """Candidate's quantiles over the baseline's."""
    median: float = 0.05
    """Of the baseline, seconds."""

    def drawn(self, rng: np.random.Generator, n: int, deadline: float) -> FloatArray:
        """(n, 2) seconds; what is past the deadline never came."""
        first, second = rng.standard_normal((2, n))
        other = self.correlation * first + math.sqrt(1 - self.correlation**2) * second
        logs = np.stack([first, other + math.log(self.ratio) / self.sigma], axis=1)
        seconds = self.median * np.exp(self.sigma * logs)
        seconds[seconds > deadline] = math.inf
        return np.asarray(seconds, np.float64)


def ratio_average(
    grid: RatioGrid, p: float, law: Latencies, side: Side, log_threshold: float, rng: np.random.Generator
) -> float:
    """Pairs at which a sample that is typical reaches the threshold; infinite where it never does."""
    row = grid.fold(law.drawn(rng, _SAMPLE, grid.deadline), Grouping.single(_SAMPLE))
    column = 0 if side == "safe" else 1

    def short(pairs: float) -> bool:
        return bool(grid.log_e(row * (pairs / _SAMPLE), p)[column][0] < log_threshold)

    above = 16.0
    while short(above):
        above *= 2
        if above > _FOREVER:
            return math.inf
    below = above / 2
    while above - below > 0.01 * below:
        middle = (below + above) / 2
        below, above = (middle, above) if short(middle) else (below, middle)
    return above


def ratio_sizes(
    grid: RatioGrid, p: float, law: Latencies, side: Side, log_threshold: float, rng: np.random.Generator
) -> Sizes:
    """How many pairs it takes to prove that the p-quantile's ratio is below the grid's margin, or above it.

    Where so many pairs are needed that experiments can't be drawn in a few seconds, the typical sample's figure stands
    for both quantiles.

    >>> found = ratio_sizes(RatioGrid(1.25, 10.0), 0.5, Latencies(0.4, 0.5), "safe", 3.0, np.random.default_rng(1))
    >>> 100 < found.median <= found.most < 1000
    True
    """
    average = ratio_average(grid, p, law, side, log_threshold, rng)
    if not math.isfinite(average):
        return NEVER
    pairs = math.ceil(average * _SPAN[1])
    runs = min(_RUNS, _MOST_DRAWN // pairs)
    if runs < _LEAST_RUNS:
        return Sizes(math.ceil(average), math.ceil(average))
    looks = np.unique(np.ceil(average * np.geomspace(*_SPAN, _LOOKS)).astype(np.int64))
    part = np.searchsorted(looks, np.arange(pairs), side="right")
    inside = np.flatnonzero(part < len(looks))
    grouping = Grouping(inside, part[inside], pairs, len(looks))
    column = 0 if side == "safe" else 1
    took = []
    for _ in range(runs):
        states = np.cumsum(grid.fold(law.drawn(rng, pairs, grid.deadline), grouping), axis=0)
        won = grid.log_e(states, p)[column] >= log_threshold
        took.append(float(looks[won.argmax()]) if won.any() else math.inf)
    return Sizes(*(float(np.quantile(took, q, method="higher")) for q in (0.5, 0.9)))
