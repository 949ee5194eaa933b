"""How many pairs a bounded mean takes to be decided, before there are any.

Given the mean and the deviation of a loss, each bet's log-capital after n pairs is n·L on average, with L the expected
gain of a pair, and it fluctuates as a random walk. The bets of one side all win and lose on the same pairs, so one walk
W moves them all: log E(n) ≈ logsumexp(log w + n·L + s·W(n)), with s the deviation of a pair's gain. So log E reaches
its threshold where W first meets a boundary that is computed for each n, and the number of pairs is a first passage of
Brownian motion, whose quantiles are read off paths that are drawn once.

Without the walk (n alone in logsumexp(log w + n·L)) the figure is the pairs at which the *average* evidence suffices.
The median is a fifth to a half below that where noise decides, for luck ends an experiment early more than it can
prolong the typical one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.special import logsumexp, roots_hermitenorm, roots_jacobi

from shadowproxy.stats.additive import FloatArray
from shadowproxy.stats.betting import MeanGrid

Side = Literal["safe", "harm"]

_NODES = 48
_FAR = 6.0
"""Deviations from either bound from which a bounded loss is as good as normal."""
_PARAMETER = 0.01
"""Least parameter of a Beta distribution for which the quadrature is sound."""
_MOST = 1e12
"""Pairs past which nothing is planned."""
_STEPS, _PATHS = 240, 1500
_SPAN = (0.02, 40.0)
_HALVINGS = 40
_OVERSHOOT = 0.5826
"""−ζ(1/2)/√(2π): what moves the boundary of a walk in steps to that of the continuous one (Broadie, Glasserman & Kou
1997, A continuity correction for discrete barrier options)."""
_WIDEST = 12.0
"""Deviations: no path goes further."""


class Law(NamedTuple):
    """A distribution of losses as a few values and their probabilities, (k,) each."""

    values: FloatArray
    weights: FloatArray


def most_deviation(mean: float, lo: float, hi: float) -> float:
    """The largest standard deviation that a loss in [lo, hi] with this mean can have: all of it at the two ends."""
    return math.sqrt(max(0.0, (mean - lo) * (hi - mean)))


def bell(mean: float, sd: float, lo: float, hi: float) -> Law:
    """A Beta distribution on [lo, hi] with this mean and deviation, by Gauss–Jacobi quadrature: both are exact.

    Nearly normal where the bounds are far, skewed near one of them, and two points in the limit. Raises ValueError for
    a mean that is not inside the range, and a deviation that no loss in it can have.

    >>> law = bell(0.0, 0.15, -1, 1)
    >>> round(float(law.values @ law.weights), 9), round(float(law.values**2 @ law.weights) ** 0.5, 9)
    (0.0, 0.15)
    """
    _feasible(mean, sd, lo, hi)
    if sd == 0:
        return Law(np.array([mean]), np.ones(1))
    if min(mean - lo, hi - mean) > _FAR * sd:
        nodes, weights = roots_hermitenorm(_NODES)
        return Law(np.clip(mean + sd * nodes, lo, hi), weights / weights.sum())
    share = (mean - lo) / (hi - lo)
    spread = (mean - lo) * (hi - mean) / sd**2 - 1
    if spread * min(share, 1 - share) < _PARAMETER:
        # Nearly all of it at the two ends: so much of it as gives the deviation, and the rest at the mean.
        ends = min(1.0, (sd / most_deviation(mean, lo, hi)) ** 2)
        return Law(np.array([lo, mean, hi]), np.array([ends * (1 - share), 1 - ends, ends * share]))
    nodes, weights = roots_jacobi(_NODES, (1 - share) * spread - 1, share * spread - 1)
    return Law(lo + (hi - lo) * (nodes + 1) / 2, weights / weights.sum())


def counts(mean: float, sd: float, lo: float, hi: float) -> Law:
    """Losses that are lo, 0 or hi, such as a failure on one side alone. Where lo or hi is 0 they are 0 or the other.

    There is no less noise than the mean itself makes: a deviation below that is taken for it. Raises ValueError as
    `bell`.

    >>> counts(0.0, 0.1, -1, 1).weights.round(4).tolist()
    [0.005, 0.99, 0.005]
    """
    _feasible(mean, sd, lo, hi)
    if lo >= 0 or hi <= 0:
        share = (mean - lo) / (hi - lo)
        return Law(np.array([lo, hi], float), np.array([1 - share, share]))
    square = max(sd**2 + mean**2, mean * hi, mean * lo)
    up = (square - mean * lo) / (hi * (hi - lo))
    down = (square - mean * hi) / (lo * (lo - hi))
    if up + down > 1:
        return bell(mean, most_deviation(mean, lo, hi), lo, hi)
    return Law(np.array([lo, 0.0, hi], float), np.array([down, 1 - up - down, up]))


class Sizes(NamedTuple):
    """Pairs until something is decided; infinite where it never is."""

    median: float
    most: float
    """In nine experiments of ten it takes no more."""


NEVER = Sizes(math.inf, math.inf)


@dataclass(frozen=True, eq=False)
class Paths:
    """Brownian paths at points of time that are evenly spread in their logarithm."""

    at: FloatArray
    """(k,), of a time that is scaled; 1 is one of them."""
    value: FloatArray
    """(paths, k)"""

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Paths:
        """By this generator, so that the same seed gives the same figures."""
        at = np.unique(np.append(np.geomspace(*_SPAN, _STEPS), 1.0))
        steps = rng.standard_normal((_PATHS, len(at))) * np.sqrt(np.diff(at, prepend=0.0))
        return cls(at, np.cumsum(steps, axis=1))


def on_average(grid: MeanGrid, law: Law, side: Side, log_threshold: float) -> float:
    """Pairs at which the average log-capitals reach the threshold; infinite where no bet wins."""
    weights, gain, _ = _gains(grid, law, side)
    if not gain.max() > 0:
        return math.inf
    above = 1.0
    while logsumexp(weights + above * gain) < log_threshold:
        above *= 2
        if above > _MOST:
            return math.inf
    below = above / 2 if above > 1 else 0.0
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        below, above = (below, middle) if logsumexp(weights + middle * gain) >= log_threshold else (middle, above)
    return above


def sizes(grid: MeanGrid, law: Law, side: Side, log_threshold: float, paths: Paths) -> Sizes:
    """How many pairs it takes to prove a guardrail safe, or harmful, where losses are like `law`.

    `log_threshold` is the natural logarithm of the e-value that is needed. Against simulated experiments the median is
    within a quarter over margins from 0.001 to 0.3 (see the tests).

    >>> paths = Paths.drawn(np.random.default_rng(1))
    >>> found = sizes(MeanGrid(-1, 1, 0.02), bell(0, 0.05, -1, 1), "safe", math.log(20), paths)
    >>> 190 < found.median < 215 < found.most < 280
    True
    """
    average = on_average(grid, law, side, log_threshold)
    if not math.isfinite(average):
        return NEVER
    weights, gain, deviation = _gains(grid, law, side)
    drift = weights + np.multiply.outer(average * paths.at, gain)
    root = math.sqrt(average)
    low, high = (np.full(len(paths.at), end * _WIDEST) * np.sqrt(paths.at) for end in (-1, 1))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = logsumexp(drift + np.multiply.outer(root * middle, deviation), axis=1) >= log_threshold
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    # A walk that is looked at more seldom than pairs come is met late, by this much on average.
    unseen = np.sqrt(np.diff(paths.at, prepend=0.0)) - 1 / root
    met = paths.value >= high - _OVERSHOOT * np.maximum(unseen, 0.0)
    first = np.where(met.any(axis=1), paths.at[met.argmax(axis=1)], math.inf)
    median, most = (float(np.quantile(first, q, method="higher")) for q in (0.5, 0.9))
    return Sizes(*(math.ceil(average * share) if math.isfinite(share) else math.inf for share in (median, most)))


def _gains(grid: MeanGrid, law: Law, side: Side) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Of every bet: log weight, mean and deviation of what a pair adds to its log-capital."""
    place = slice(0, grid.size) if side == "safe" else slice(grid.size, 2 * grid.size)
    added = grid.increments(law.values)[:, place]
    gain = law.weights @ added
    deviation = np.sqrt(law.weights @ np.square(added - gain))
    return grid.log_weights[place], gain, deviation


def _feasible(mean: float, sd: float, lo: float, hi: float) -> None:
    if not lo <= mean <= hi:
        raise ValueError(f"a mean loss of {mean:g} is outside its range, {lo:g} to {hi:g}")
    most = most_deviation(mean, lo, hi)
    if not 0 <= sd <= most * (1 + 1e-9):
        raise ValueError(
            f"a loss between {lo:g} and {hi:g} with a mean of {mean:g} can't deviate by {sd:g}; at most by {most:.3g}"
        )
