"""What a method said in each of many simulated experiments, and when; rates of it with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from shadowproxy.config.judging import Verdict

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

ALPHA: Final = 0.05
PROVEN: Final = math.log(1 / ALPHA)
"""Log of the e-value that proves something."""
EVERY: Final = 50
"""Pairs from one look to the next."""
FEWEST_PROMOTE: Final[int] = Verdict().min_pairs
FEWEST_ROLLBACK: Final[int] = Verdict().min_pairs_rollback


@dataclass(frozen=True)
class Reading:
    """One method on some experiments: pairs at which each said it first, inf where it never did.

    None where the method can't say it, or where the experiments don't ask. `shares` are further things that hold in an
    experiment or don't, by name.
    """

    promote: FloatArray | None = None
    rollback: FloatArray | None = None
    shares: Mapping[str, BoolArray] = field(default_factory=dict)


def joined(parts: Sequence[Reading]) -> Reading:
    """Of the experiments of all parts, in their order."""

    def both(arrays: Sequence[FloatArray | None]) -> FloatArray | None:
        known = [array for array in arrays if array is not None]
        return np.concatenate(known) if known else None

    names = parts[0].shares if parts else ()
    return Reading(
        promote=both([part.promote for part in parts]),
        rollback=both([part.rollback for part in parts]),
        shares={name: np.concatenate([part.shares[name] for part in parts]) for name in names},
    )


def looks(pairs: int, every: int = EVERY) -> NDArray[np.int64]:
    """How many pairs there are at each look: (looks,)."""
    return np.arange(every, pairs + 1, every)


def first(said: BoolArray, at: NDArray[np.int64]) -> FloatArray:
    """Pairs at the first look at which it was said, inf for never: (experiments, looks), (looks,) → (experiments,).

    >>> first(np.array([[False, True, True], [False, False, False]]), looks(150))
    array([100.,  inf])
    """
    return np.where(said.any(axis=1), at[said.argmax(axis=1)].astype(np.float64), math.inf)


@dataclass(frozen=True)
class Rate:
    """How many of so many experiments."""

    hits: int
    of: int

    @classmethod
    def of_times(cls, times: FloatArray) -> Rate:
        """Of those in which it was ever said."""
        return cls(int(np.isfinite(times).sum()), len(times))

    @property
    def share(self) -> float:
        """The rate itself."""
        return self.hits / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper–Pearson, 95%."""
        found = stats.binomtest(self.hits, self.of).proportion_ci(0.95, "exact")
        return float(found.low), float(found.high)

    def text(self) -> str:
        """`3.1% (2.1–4.4)`

        >>> Rate(31, 1000).text()
        '3.1% (2.1–4.4)'
        """
        low, high = self.interval
        return f"{self.share:.1%} ({low * 100:.1f}–{high * 100:.1f})"


def middle(times: FloatArray) -> float:
    """Median number of pairs, of all experiments: inf where half of them or more never said it."""
    return float(np.median(times))
