"""Variance inflation: by how much dependence between pairs widens their mean.

The e-processes take each pair's loss as news. Where losses come in runs (a slow minute, an account that returns), n
pairs are worth fewer, and the stated error rates don't hold. Sums over groups of pairs that may depend on each other
show it:

    VIF = Σ_g (S_g − n_g x̄)² / (t s²),    t = n − Σ_g n_g² / n,    se = √(2 (n − G) / ((G − 1) (n + 1)))
    G = 1 + t² / (Σ_g n_g² − 2 Σ_g n_g³ / n + (Σ_g n_g²)² / n²)

with n_g values of sum S_g in group g, and x̄ the mean and s² the variance (over n − 1) of all. Of independent values it
is 1 on average, exactly; 3 means that the mean varies as if there were a third of the pairs. With groups of one size
t = n (1 − 1/G), and G is their number, which may be far less where a few accounts ask most of what is asked: the figure
then rests on those few, and its error must say so. Both are the exact moments of a ratio of two quadratic forms, of
which the first has the trace t and G − 1 degrees of freedom, for normal values; rare events are more skew than that.

Which pairs may depend on each other is said by a key: the time block ⌊start/τ⌋, or the account. A state can't hold
every key that there ever was, so keys are taken modulo 256. That leaves the figure what it is where keys don't depend
on each other: the expected square of a sum of independent sums is the sum of their expected squares, whatever is put
together. Of accounts 256 hash classes remain. Of time blocks each group is a union of blocks 256τ apart: what depends
on its neighbour over less than that is seen as without the modulo. What it can't see, and mustn't:

- a drift that is slow against 256τ is in every group alike and leaves the figure at 1. The e-processes are valid under
  drift of the conditional mean, and a plain division into blocks would call it dependence;
- dependence over much longer than τ is seen by less than all of it: hence several τ;
- an account's pairs in different time blocks, which only its own key shows, and the other way round.

A period of 256τ piles up in single groups and reads higher than it is; it holds back, and lets nothing through.

Sources: Kish 1965, Survey sampling (the design effect of clusters); Searle 1971, Linear models, ch. 2 (moments of
quadratic forms).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shadowproxy.stats.additive import Additive, FloatArray, Grouping, State

GROUPS: Final = 256
_SQUARES: Final = 0
_FIRST_COUNT: Final = 1
_FIRST_SUM: Final = _FIRST_COUNT + GROUPS
_TELLS: Final = 1e-12
"""Share of the mean square below which a variance is rounding."""


@dataclass(frozen=True)
class VarianceInflation(Additive):
    """Variance inflation of values by one key, for any number of slots.

    A value is a pair (x, key), so `fold` takes (n, 2); `time_keys` and `account_keys` give the second column. Where
    either is NaN the pair is left out, and where the key is infinite: an account that isn't known may be another every
    time. A state row is [Σx², n_g × 256, S_g × 256].

    >>> runs = np.repeat([1.0, -1.0, -1.0, 1.0] * 10, 50)
    >>> values = np.column_stack([runs, np.arange(2000) // 50])
    >>> vif, se, groups = VarianceInflation().get(VarianceInflation().fold(values, Grouping.single(2000)))
    >>> float(vif[0].round(2)), float(se[0].round(2)), float(groups[0].round(2))
    (51.26, 0.22, 40.0)
    """

    @property
    def width(self) -> int:
        """Length of a state row, 513."""
        return _FIRST_SUM + GROUPS

    def fold(self, values: FloatArray, grouping: Grouping) -> State:
        """The state of each group: (n, 2) → (groups, width)."""
        x, key = values.reshape(-1, 2).T
        known = ~np.isnan(x) & np.isfinite(key)
        chosen = known[grouping.members]
        members, row = grouping.members[chosen], grouping.group[chosen]
        place = row * GROUPS + np.mod(key[members], GROUPS).astype(np.int64)
        state = self.empty(grouping.groups)
        state[:, _SQUARES] = np.bincount(row, np.square(x[members]), grouping.groups)
        state[:, _FIRST_COUNT:_FIRST_SUM] = _by_place(place, None, grouping.groups)
        state[:, _FIRST_SUM:] = _by_place(place, x[members], grouping.groups)
        return state

    def get(self, state: State) -> tuple[FloatArray, FloatArray, FloatArray]:
        """By slot (VIF, its standard error, groups in effect): (..., width) → (...) each.

        NaN for the first two where nothing can be said: fewer than two groups, or values that are all the same.
        """
        counts, sums = state[..., _FIRST_COUNT:_FIRST_SUM], state[..., _FIRST_SUM:]
        with np.errstate(divide="ignore", invalid="ignore"):
            n = counts.sum(-1)
            squares, cubes = np.square(counts).sum(-1), (counts**3).sum(-1)
            trace = n - squares / n
            groups = np.where(n > 0, 1 + trace**2 / (squares - 2 * cubes / n + squares**2 / n**2), 0.0)
            mean, square = sums.sum(-1) / n, state[..., _SQUARES] / n
            variance = (square - mean**2) * n / (n - 1)
            between = np.square(sums - counts * mean[..., np.newaxis]).sum(-1)
            tells = (trace > _TELLS * n) & (variance > _TELLS * square)
            groups = np.where(trace > _TELLS * n, groups, np.sign(n))
            vif = np.where(tells, between / (trace * variance), np.nan)
            error = np.where(tells, np.sqrt(np.maximum(0, 2 * (n - groups) / ((groups - 1) * (n + 1)))), np.nan)
        return vif, error, groups


def time_keys(started: FloatArray, tau: float) -> FloatArray:
    """The time block of each start (Unix seconds), for blocks of `tau` seconds: (n,)."""
    return np.asarray(np.floor(started / tau), np.float64)


def account_keys(hashes: NDArray[np.uint64]) -> FloatArray:
    """The hash class of each account; NaN for 0, an account that isn't known: (n,)."""
    return np.where(hashes == 0, np.nan, (hashes % np.uint64(GROUPS)).astype(np.float64))


def _by_place(place: NDArray[np.int64], weights: FloatArray | None, groups: int) -> FloatArray:
    return np.bincount(place, weights, groups * GROUPS).reshape(groups, GROUPS).astype(np.float64, copy=False)
