"""How far two distributions are apart, from their counts in the bins of one grid.

`a` and `b`, shape (w,), are counts (of the baseline and the candidate), both with at least one observation; `values`,
shape (w,), ascending, is what the numbers of each bin are read as. All four are 0 for equal shares. None depends on a
model, and none is decided on: with a hundred observations PSI is above its customary 0.1 between two samples of one
distribution more often than not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shadowproxy.stats.additive import FloatArray, IntArray

_PSI_BINS = 10
_PSI_PRIOR = 0.5
_JS_BINS = 20
_ROUNDING = 1e-12


class Distances(NamedTuple):
    """All four of one pair of histograms."""

    ks: float
    psi: float
    wasserstein: float
    jensen_shannon: float


def distances(a: IntArray, b: IntArray, values: FloatArray) -> Distances | None:
    """All four; None where either is without observations."""
    if not (a.any() and b.any()):
        return None
    return Distances(ks(a, b), psi(a, b), wasserstein(a, b, values), jensen_shannon(a, b))


def ks(a: IntArray, b: IntArray) -> float:
    """The two-sample Kolmogorov–Smirnov statistic sup |F_a − F_b|, in [0, 1] (Smirnov 1939).

    Looked at between bins only, it is never above that of the numbers themselves, and below it by at most
    max_j min(a_j/n_a, b_j/n_b): what both have of one bin may stand in any order there.
    """
    return float(_between(a, b).max())


def psi(a: IntArray, b: IntArray) -> float:
    """The population stability index Σ (p_i − q_i) ln(p_i/q_i), 0 or more (Lewis 1994; it is Kullback's divergence J).

    Over 10 bins of about equal mass of `a`: cut where its cumulated share reaches 10%, 20%, …, 90%; where one bin of
    the grid holds more than 10%, there are fewer. Smoothed: half an observation is added to each bin of either side
    (Krichevsky & Trofimov 1981), so an empty bin costs as much as the number of observations warrants, and not
    infinity. Binning only decides where the cuts are, to within one bin of the grid.
    """
    cumulative = a.cumsum()
    # In whole numbers, so that 0.3 of 10 is exactly the third.
    cuts = np.searchsorted(_PSI_BINS * cumulative, np.arange(1, _PSI_BINS) * cumulative[-1])
    starts = _starts(cuts, len(a))
    p, q = (_smoothed(np.add.reduceat(counts, starts)) for counts in (a, b))
    return float(((p - q) * np.log(p / q)).sum())


def wasserstein(a: IntArray, b: IntArray, values: FloatArray) -> float:
    """The Wasserstein-1 distance ∫ |F_a − F_b| dx, in the unit of `values` (Vallender 1974).

    What a number is read as is off by at most a share e of it, so this is off by at most e · (mean |a| + mean |b|), if
    none is beyond the ends of the grid.
    """
    return float((_between(a, b)[:-1] * np.diff(values)).sum())


def jensen_shannon(a: IntArray, b: IntArray) -> float:
    """The Jensen–Shannon divergence in bits, in [0, 1] (Lin 1991); its root is the distance of that name.

    Over 20 bins of about equal mass of the two together, each side weighing as much as the other; fewer where one bin
    of the grid holds more than 5%. Never above the divergence of the numbers themselves (data processing), and 1 where
    all of one side lies above all of the other. Two samples of one distribution give about
    19/(8 ln 2) · (1/n_a + 1/n_b), not 0; over the bins of the grid it would be many times that, and near 1 for a
    hundred observations.
    """
    p, q = _shares(a), _shares(b)
    levels = np.arange(1, _JS_BINS) / _JS_BINS - _ROUNDING
    starts = _starts(np.searchsorted(((p + q) / 2).cumsum(), levels), len(a))
    p, q = np.add.reduceat(p, starts), np.add.reduceat(q, starts)
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    return min(max(divergence, 0.0), 1.0)


def _between(a: IntArray, b: IntArray) -> FloatArray:
    """|F_a − F_b| at the upper end of each bin.

    Whole numbers are summed and then divided, so that equal shares are equal to the last digit: what rounding leaves of
    them would be multiplied by the widths of the farthest bins.
    """
    difference: FloatArray = np.abs(a.cumsum() / a.sum() - b.cumsum() / b.sum())
    return difference


def _starts(cuts: IntArray, width: int) -> IntArray:
    """Where groups of bins begin, each of which but the last ends with a bin of `cuts`."""
    starts: IntArray = np.unique(np.concatenate(([0], cuts + 1)))
    return starts[starts < width]


def _relative_entropy(p: FloatArray, q: FloatArray) -> float:
    there = p > 0
    return float((p[there] * np.log2(p[there] / q[there])).sum())


def _shares(counts: IntArray) -> FloatArray:
    shares: FloatArray = counts / counts.sum()
    return shares


def _smoothed(counts: IntArray) -> FloatArray:
    smoothed: FloatArray = (counts + _PSI_PRIOR) / (counts.sum() + _PSI_PRIOR * len(counts))
    return smoothed
