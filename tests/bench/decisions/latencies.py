"""Latencies of both sides, pair by pair, whose quantiles stand in an exact ratio, and what says how they stand.

A law gives both sides the same distribution; the candidate's latencies are then multiplied. So the ratio of any two
quantiles is that factor exactly, with atoms, gaps and rounding too; but for timeouts, which stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from bench.decisions import peers, sequences
from bench.decisions.means import KAYENTA, OURS
from bench.decisions.reading import FEWEST_PROMOTE, FEWEST_ROLLBACK, PROVEN, FloatArray, Reading, first, looks
from numpy.random import Generator
from numpy.typing import NDArray

from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.quantiles import RatioGrid

MARGIN: Final = 1.1
DEADLINE: Final = 10.0
MEDIAN: Final = 0.1
SIGMA: Final = 0.6
GRID: Final = RatioGrid(MARGIN, deadline=DEADLINE)

LOG_RATIO: Final = "z-test of log ratios, peeked"
FIXED: Final = "two sequences, beta-binomial"
STITCHED: Final = "two sequences, double stitching"
LIL: Final = "two sequences, empirical process"
SEQUENCES: Final[Mapping[str, sequences.Radius]] = {
    FIXED: sequences.beta_binomial,
    STITCHED: sequences.double_stitching,
    LIL: sequences.lil,
}
PEER_EVERY: Final = 250
PEER_LOOKS: Final = 40

Law = Callable[[Generator, tuple[int, int]], tuple[FloatArray, FloatArray]]
"""Of a shape (experiments, pairs): seconds of the baseline, and of the candidate before they are multiplied."""


def lognormal(correlation: float) -> Law:
    """Medians of 0.1 s, a deviation of 0.6 of the logarithms, which are correlated within a pair."""

    def draw(generator: Generator, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        common, a, b = (generator.standard_normal(shape) for _ in range(3))
        shared, own = math.sqrt(correlation), math.sqrt(1 - correlation)
        return (
            MEDIAN * np.exp(SIGMA * (shared * common + own * a)),
            MEDIAN * np.exp(SIGMA * (shared * common + own * b)),
        )

    return draw


def rounded(generator: Generator, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Whole milliseconds."""
    a, b = lognormal(0.5)(generator, shape)
    return np.round(a, 3), np.round(b, 3)


def atoms(generator: Generator, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """0.1 s exactly in 60% of the baseline's and 65% of the candidate's, and all three quantiles there."""

    def side(below: float) -> FloatArray:
        u, x = generator.random(shape), generator.random(shape)
        return np.where(u < below, 0.02 + 0.07 * x, np.where(u < 0.995, MEDIAN, 0.2 + 0.3 * x))

    return side(0.395), side(0.345)


def bimodal(hits: float) -> Law:
    """A cache that answers so many in about 20 ms, both sides alike in nine of ten pairs, and 200 ms without.

    With half of them the median lies where hardly any latency does.
    """

    def draw(generator: Generator, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
        hit = generator.random(shape) < hits
        apart = generator.random(shape) < 0.1
        other = np.where(apart, generator.random(shape) < hits, hit)
        one, two = (
            np.where(fast, 0.02, 0.2) * np.exp(0.25 * generator.standard_normal(shape)) for fast in (hit, other)
        )
        return one, two

    return draw


def wandering(generator: Generator, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Both sides twice as slow and back again, eight times: the baseline's quantile doesn't stay in one bucket."""
    a, b = lognormal(0.9)(generator, shape)
    factor = np.exp(math.log(2) * np.sin(np.linspace(0, 8 * math.pi, shape[1])) ** 2)
    return a * factor, b * factor


def constant(_generator: Generator, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """Always 0.1 s."""
    return np.full(shape, MEDIAN), np.full(shape, MEDIAN)


def timeouts(generator: Generator, shape: tuple[int, int]) -> tuple[FloatArray, FloatArray]:
    """2% of each side never answer: both 99% quantiles are infinite, and a promote of them would be false."""
    a, b = lognormal(0.9)(generator, shape)
    return np.where(generator.random(shape) < 0.02, math.inf, a), np.where(generator.random(shape) < 0.02, math.inf, b)


@dataclass(frozen=True)
class Case:
    """A law and the factor of the candidate's latencies; for each quantile how many pairs, and how often one looks."""

    law: Law
    ratio: float
    plan: Mapping[float, tuple[int, int]]
    """By quantile: pairs, and from one look to the next."""
    sequences: Sequence[str] = (FIXED,)
    means: bool = False
    """Whether a test of the mean of the logarithms and Kayenta's judge take part."""
    kayenta: bool = False


def simulate(case: Case, draw: Generator, experiments: int) -> dict[str, dict[float, Reading]]:
    """All methods on the same pairs, by method and quantile."""
    pairs = max(pairs for pairs, _ in case.plan.values())
    baseline, candidate = case.law(draw, (experiments, pairs))
    candidate = candidate * case.ratio
    found: dict[str, dict[float, Reading]] = {OURS: _ours(case, baseline, candidate)}
    for p, (of, every) in case.plan.items():
        at = looks(of, max(every, PEER_EVERY, of // PEER_LOOKS))
        for name, reading in _two_sequences(case.sequences, p, baseline, candidate, at).items():
            found.setdefault(name, {})[p] = reading
    p = min(case.plan)
    of, every = case.plan[p]
    if case.means:
        found[LOG_RATIO] = {p: _log_ratio(baseline[:, :of], candidate[:, :of], looks(of, every))}
    if case.kayenta:
        at = looks(of, PEER_EVERY)
        finite = (np.minimum(side, DEADLINE) for side in (baseline, candidate))
        found[KAYENTA] = {p: Reading(*peers.kayenta(*finite, at, MARGIN))}
    return found


def _ours(case: Case, baseline: FloatArray, candidate: FloatArray) -> dict[float, Reading]:
    experiments = len(baseline)
    ends = sorted({at for pairs, every in case.plan.values() for at in range(every, pairs + 1, every)})
    times = {p: np.full((2, experiments), math.inf) for p in case.plan}
    state, since = GRID.empty(experiments), 0
    for at in ends:
        new = np.stack([baseline[:, since:at], candidate[:, since:at]], axis=-1).reshape(-1, 2)
        group = np.repeat(np.arange(experiments), at - since)
        state += GRID.fold(new, Grouping(np.arange(len(new)), group, len(new), experiments))
        since = at
        for p, (pairs, every) in case.plan.items():
            if at <= pairs and at % every == 0:
                _look(state, p, at, times[p])
    return {p: Reading(promote=found[0], rollback=found[1]) for p, found in times.items()}


def _look(state: NDArray[np.int64], p: float, at: int, times: FloatArray) -> None:
    """Write down `at` for those that cross for the first time. What has crossed both ways needs no further look."""
    open_ = np.isinf(times).any(axis=0)
    if not open_.any():
        return
    rows = np.flatnonzero(open_)
    for which, (log_e, fewest) in enumerate(
        zip(GRID.log_e(state[rows], p), (FEWEST_PROMOTE, FEWEST_ROLLBACK), strict=True)
    ):
        crossed = rows[(log_e >= PROVEN) & (at >= fewest)]
        times[which, crossed] = np.minimum(times[which, crossed], at)


def _two_sequences(
    names: Sequence[str], p: float, baseline: FloatArray, candidate: FloatArray, at: NDArray[np.int64]
) -> dict[str, Reading]:
    """Where the upper end of one side's sequence is below the margin times the lower end of the other's."""
    below, above = np.zeros((2, len(names), len(baseline), len(at)), np.bool_)
    for look, pairs in enumerate(at):
        bounds = [sequences.ranks(SEQUENCES[name], p, int(pairs)) for name in names]
        both = (sequences.ends(side[:, :pairs], bounds) for side in (baseline, candidate))
        for which, ((a_low, a_high), (b_low, b_high)) in enumerate(zip(*both, strict=True)):
            below[which, :, look] = b_high < MARGIN * a_low
            above[which, :, look] = b_low > MARGIN * a_high
    return {
        name: Reading(
            first(below[which] & (at >= FEWEST_PROMOTE), at), first(above[which] & (at >= FEWEST_ROLLBACK), at)
        )
        for which, name in enumerate(names)
    }


def _log_ratio(baseline: FloatArray, candidate: FloatArray, at: NDArray[np.int64]) -> Reading:
    """Of the logarithms of those pairs that both sides answered, others at the deadline."""
    losses = np.log(np.minimum(candidate, DEADLINE)) - np.log(np.minimum(baseline, DEADLINE))
    promote, rollback = peers.z_margin(losses, math.log(MARGIN), at)
    return Reading(first(promote & (at >= FEWEST_PROMOTE), at), first(rollback & (at >= FEWEST_ROLLBACK), at))
