"""Histograms on fixed logarithmic grids, so that they can be added: of latencies, and of scores of any unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shadowproxy.stats.additive import Additive, FloatArray, Grouping, IntArray, State


@dataclass(frozen=True)
class LatencyHistogram(Additive):
    """Counts of durations (seconds) in bins of constant ratio; +∞, an answer that never came, in a bin of its own.

    A quantile is given as the geometric middle of its bin: off by at most `error` (4.9%) for durations between `low`
    and `high`. Shorter ones are read as `low`, longer finite ones as `high`. NaN is no observation.

    >>> histogram = LatencyHistogram()
    >>> seconds = np.array([0.010, 0.012, 0.011, math.inf])
    >>> p50, p99 = histogram.quantiles(histogram.fold(seconds, Grouping.single(4)), (0.5, 0.99))
    >>> bool(abs(p50[0] / 0.011 - 1) <= histogram.error), float(p99[0])
    (True, inf)
    """

    dtype: ClassVar[type[np.int64]] = np.int64
    low: float = 1e-4
    high: float = 1e3
    ratio: float = 1.1

    @property
    def bins(self) -> int:
        """Bins between `low` and `high`."""
        return math.ceil(math.log(self.high / self.low) / math.log(self.ratio))

    @property
    def width(self) -> int:
        """Length of a slot's state: one bin below, `bins`, one above, one for +∞."""
        return self.bins + 3

    @property
    def error(self) -> float:
        """Largest relative error of a quantile between `low` and `high`."""
        return math.sqrt(self.ratio) - 1

    def index(self, seconds: FloatArray) -> IntArray:
        """The bin of each duration, −1 for NaN: (n,) → (n,)."""
        finite = np.isfinite(seconds)
        safe = np.where(finite, np.maximum(seconds, self.low), self.low)
        steps = np.floor(np.log(safe / self.low) / math.log(self.ratio)).astype(np.int64) + 1
        steps = np.where(seconds < self.low, 0, np.minimum(steps, self.bins + 1))
        return np.where(finite, steps, np.where(np.isnan(seconds), -1, self.width - 1))

    def fold(self, values: FloatArray, grouping: Grouping) -> State:
        """The counts of each group: (n,) → (groups, width)."""
        return grouping.count(self.index(values), self.width)

    def get(self, state: State) -> tuple[FloatArray, ...]:
        """p50, p90 and p99 by slot; see `quantiles`."""
        return self.quantiles(state, (0.5, 0.9, 0.99))

    def quantiles(self, state: State, levels: tuple[float, ...]) -> tuple[FloatArray, ...]:
        """For each level p the smallest duration that a share p does not exceed: (..., width) → (...) each.

        +∞ where it lies among the failures, NaN where there is no observation.
        """
        return _quantiles(state, levels, self._middles())

    def _middles(self) -> FloatArray:
        inner = self.low * self.ratio ** (np.arange(self.bins) + 0.5)
        return np.concatenate([[self.low], np.minimum(inner, self.high), [self.high, math.inf]])


@dataclass(frozen=True)
class ScoreHistogram(Additive):
    """Counts of numbers of any unit and sign, in bins of constant ratio on either side of 0 (symmetric logarithmic).

    A number is read as its bin's representative, 2ab/(a + b) of the bin's ends a and b, which is off by at most `error`
    (1.5%) of the number wherever in the bin that is (as in DDSketch: Masson, Rim & Lee 2019). Numbers nearer to 0 than
    `low` are read as 0, and those beyond ±`high` as ±`high`. NaN and infinities are no observations.

    >>> histogram = ScoreHistogram()
    >>> state = histogram.fold(np.array([-2.0, 0.0, 0.5, 0.5]), Grouping.single(4))
    >>> p50, = histogram.quantiles(state, (0.75,))
    >>> bool(abs(p50[0] / 0.5 - 1) <= histogram.error)
    True
    """

    dtype: ClassVar[type[np.int64]] = np.int64
    low: float = 1e-12
    high: float = 1e12
    ratio: float = 1.03

    @property
    def bins(self) -> int:
        """Bins between `low` and `high`."""
        return math.ceil(math.log(self.high / self.low) / math.log(self.ratio))

    @property
    def width(self) -> int:
        """Length of a slot's state: beyond −`high`, `bins` below 0, one about 0, `bins` above it, beyond `high`."""
        return 2 * self.bins + 3

    @property
    def error(self) -> float:
        """Largest relative error of what a number between `low` and `high` is read as."""
        return (self.ratio - 1) / (self.ratio + 1)

    def index(self, values: FloatArray) -> IntArray:
        """The bin of each number in ascending order, −1 for what is no finite number: (n,) → (n,)."""
        finite = np.isfinite(values)
        size = np.abs(np.where(finite, values, 0.0))
        on_grid = np.clip(size, self.low, self.high)
        steps = np.floor(np.log(on_grid / self.low) / math.log(self.ratio)).astype(np.int64) + 1
        steps = np.where(size < self.low, 0, np.minimum(steps, self.bins))
        steps = np.where(size > self.high, self.bins + 1, steps)
        return np.where(finite, self.bins + 1 + np.where(values < 0, -steps, steps), -1)

    def fold(self, values: FloatArray, grouping: Grouping) -> State:
        """The counts of each group: (n,) → (groups, width)."""
        return grouping.count(self.index(values), self.width)

    def get(self, state: State) -> tuple[FloatArray, ...]:
        """p10, p50 and p90 by slot; see `quantiles`."""
        return self.quantiles(state, (0.1, 0.5, 0.9))

    def quantiles(self, state: State, levels: tuple[float, ...]) -> tuple[FloatArray, ...]:
        """For each level p what the smallest number is read as that a share p does not exceed: (..., width) → (...).

        NaN where there is no observation.
        """
        return _quantiles(state, levels, self.values())

    def values(self) -> FloatArray:
        """What the numbers of each bin are read as, ascending: (width,)."""
        begin = self.low * self.ratio ** np.arange(self.bins)
        end = np.minimum(begin * self.ratio, self.high)
        above = np.append(2 * begin * end / (begin + end), self.high)
        return np.concatenate([-above[::-1], [0.0], above])

    def edges(self) -> FloatArray:
        """Where the bins end, ascending: (width + 1,), the first −∞ and the last +∞."""
        above = np.append(self.low * self.ratio ** np.arange(self.bins), [self.high, math.inf])
        return np.concatenate([-above[::-1], above])


def _quantiles(state: State, levels: tuple[float, ...], values: FloatArray) -> tuple[FloatArray, ...]:
    """By level, of counts (..., width) in bins whose numbers are read as `values`, ascending."""
    cumulative = state.cumsum(axis=-1)
    n = cumulative[..., -1]
    found = []
    for level in levels:
        # A hair below the product, so that 0.9 of 10 is the ninth and not, by rounding, the tenth.
        rank = np.maximum(np.ceil(n * level - 1e-9 * np.maximum(n, 1)), 1)
        at = (cumulative < rank[..., None]).sum(axis=-1)
        found.append(np.where(n > 0, values[np.minimum(at, len(values) - 1)], math.nan))
    return tuple(found)
