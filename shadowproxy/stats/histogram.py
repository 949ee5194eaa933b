"""Latency quantiles from a histogram on a fixed logarithmic grid."""

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
        cumulative = state.cumsum(axis=-1)
        n = cumulative[..., -1]
        found = []
        for level in levels:
            # A hair below the product, so that 0.9 of 10 is the ninth and not, by rounding, the tenth.
            rank = np.maximum(np.ceil(n * level - 1e-9 * np.maximum(n, 1)), 1)
            at = (cumulative < rank[..., None]).sum(axis=-1)
            found.append(np.where(n > 0, self._middles()[np.minimum(at, self.width - 1)], math.nan))
        return tuple(found)

    def _middles(self) -> FloatArray:
        inner = self.low * self.ratio ** (np.arange(self.bins) + 0.5)
        return np.concatenate([[self.low], np.minimum(inner, self.high), [self.high, math.inf]])
