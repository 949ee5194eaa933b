"""Mean and deviation as sums about a fixed centre."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shadowproxy.stats.additive import Additive, FloatArray, Grouping, State


@dataclass(frozen=True)
class Moments(Additive):
    """n, Σ(x − c) and Σ(x − c)², NaN left out. A centre c near the values keeps the deviation from cancelling away.

    >>> moments = Moments(centre=1.0)
    >>> n, mean, deviation = moments.get(moments.fold(np.array([1.0, 2.0, 3.0]), Grouping.single(3)))
    >>> float(n[0]), float(mean[0]), round(float(deviation[0]), 4)
    (3.0, 2.0, 1.0)
    """

    centre: float = 0.0

    @property
    def width(self) -> int:
        """Length of a slot's state."""
        return 3

    def fold(self, values: FloatArray, grouping: Grouping) -> State:
        """The sums of each group: (n,) → (groups, 3)."""
        known = ~np.isnan(values)
        shifted = np.where(known, values - self.centre, 0.0)
        return grouping.sum(np.stack([known.astype(np.float64), shifted, shifted * shifted], axis=1))

    def get(self, state: State) -> tuple[FloatArray, FloatArray, FloatArray]:
        """n, mean and standard deviation (n − 1 in the denominator) by slot; NaN where n is below 1 and 2."""
        n = state[..., 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = np.where(n >= 1, state[..., 1] / n, np.nan)
            squares = np.maximum(state[..., 2] - state[..., 1] ** 2 / n, 0.0)
            deviation = np.where(n >= 2, np.sqrt(squares / (n - 1)), np.nan)
        return n, mean + self.centre, deviation
