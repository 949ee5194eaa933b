"""What others decide by, on the same arrays: tests looked at again and again, bets that adapt, Kayenta's judge.

All take one row per experiment and say at which looks they would promote or roll back.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from bench.decisions.reading import ALPHA, BoolArray, FloatArray
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE: Final = 0.98
TOLERANCE: Final = 0.25
_STEPS: Final = 40
_ROUNDING: Final = 1e-12


def z_margin(
    losses: FloatArray, margin: float, at: NDArray[np.int64], alpha: float = ALPHA
) -> tuple[BoolArray, BoolArray]:
    """One-sided z-tests at the margin, each way: (experiments, n) → two of (experiments, looks)."""
    return z_crossed(*_moments(losses, at), margin, alpha)


def z_crossed(
    n: FloatArray, mean: FloatArray, error: FloatArray, margin: float, alpha: float
) -> tuple[BoolArray, BoolArray]:
    """Below and above the margin, from means and their standard errors. Without spread the mean counts as certain."""
    most = stats.norm.isf(alpha) * error + _ROUNDING
    return (n > 1) & (mean - margin <= -most), (n > 1) & (mean - margin >= most)


def z_same(losses: FloatArray, at: NDArray[np.int64]) -> BoolArray:
    """The two-sided z-test of a mean of zero: (experiments, n) → (experiments, looks)."""
    _, mean, error = _moments(losses, at)
    return np.abs(mean) >= stats.norm.isf(ALPHA / 2) * error + _ROUNDING


def _moments(losses: FloatArray, at: NDArray[np.int64]) -> tuple[FloatArray, FloatArray, FloatArray]:
    n = at.astype(np.float64)
    mean = np.cumsum(losses, axis=1)[:, at - 1] / n
    squares = np.cumsum(losses * losses, axis=1)[:, at - 1] / n
    return n, mean, np.sqrt(np.maximum(squares - mean * mean, 0) / np.maximum(n - 1, 1))


def adaptive(losses: FloatArray, lo: float, hi: float, margin: float) -> tuple[FloatArray, FloatArray]:
    """Log-capital of predictable plug-in bets against both sides of the margin: (experiments, n) → two of the same.

    λ_t = √(2 ln(2/α) / (σ̂²_{t−1} t ln(1 + t))), at most half of what may be staked. Source: Waudby-Smith & Ramdas 2024,
    Estimating means of bounded random variables by betting, equations (26) and (27).
    """
    z = (losses - lo) / (hi - lo)
    m = (margin - lo) / (hi - lo)
    t = np.arange(1, losses.shape[1] + 1)
    mean = (0.5 + np.cumsum(z, axis=1)) / (t + 1)
    variance = (0.25 + np.cumsum((z - mean) ** 2, axis=1)) / (t + 1)
    before = np.concatenate([np.full((len(z), 1), 0.25), variance[:, :-1]], axis=1)
    bet = np.sqrt(2 * math.log(2 / ALPHA) / (before * t * np.log1p(t)))
    below = np.cumsum(np.log1p(-np.minimum(bet, 0.5 / (1 - m)) * (z - m)), axis=1)
    above = np.cumsum(np.log1p(np.minimum(bet, 0.5 / m) * (z - m)), axis=1)
    return below, above


def kayenta_high(baseline: FloatArray, candidate: FloatArray, allowed: float = 1.0) -> bool:
    """Whether Kayenta's judge calls the candidate's sample high: (n,), (n,).

    The lower end of the 98% Mann–Whitney interval of the shift is above a quarter of the Hodges–Lehmann estimate, and
    the ratio of the means is at least `allowed` (`effectSize.allowedIncrease`, 1 unless configured). The interval's
    ends are where the statistic, which falls with the shift, meets a normal quantile; so one need only look at the one
    shift. Outliers are kept.

    Source: spinnaker/kayenta, NetflixACAJudge, MannWhitneyClassifier and MannWhitney (after R's wilcox.test: normal
    approximation, correction for continuity and for ties).
    """
    x, y = np.sort(candidate), np.sort(baseline)
    if np.array_equal(x, y) or x.mean() < allowed * y.mean():
        return False
    most = stats.norm.isf((1 - CONFIDENCE) / 2)
    # The bound is never below zero, where the statistic is greatest.
    if _statistic(x, y, 0.0) <= most:
        return False
    return bool(_statistic(x, y, TOLERANCE * abs(_estimate(x, y))) > most)


def _excess(x: FloatArray, y: FloatArray, shift: float) -> float:
    """Pairs of x − shift above y less half of all."""
    moved = x - shift
    return float(
        (np.searchsorted(y, moved, "left") + np.searchsorted(y, moved, "right")).sum() / 2 - len(x) * len(y) / 2
    )


def _statistic(x: FloatArray, y: FloatArray, shift: float) -> float:
    both = np.concatenate([x - shift, y])
    _, ties = np.unique(both, return_counts=True)
    n = len(both)
    spread = math.sqrt(len(x) * len(y) / 12 * (n + 1 - float((ties.astype(float) ** 3 - ties).sum()) / (n * (n - 1))))
    excess = _excess(x, y, shift)
    return (excess - 0.5 * np.sign(excess)) / spread if spread else 0.0


def _estimate(x: FloatArray, y: FloatArray) -> float:
    """Hodges–Lehmann: the shift at which neither side is above the other."""
    low, high = float(x[0] - y[-1]), float(x[-1] - y[0])
    for _ in range(_STEPS):
        if high - low <= 1e-4 * max(abs(low), abs(high)):
            break
        middle = (low + high) / 2
        low, high = (middle, high) if _excess(x, y, middle) > 0 else (low, middle)
    return (low + high) / 2


def kayenta(
    baseline: FloatArray, candidate: FloatArray, at: NDArray[np.int64], allowed: float = 1.0
) -> tuple[FloatArray, FloatArray]:
    """Pairs at the first look that calls the candidate high; and where none does, all pairs as the promote.

    (experiments, n) twice → promote, rollback (experiments,). Kayenta passes what it doesn't find different.
    """
    rollback = np.full(len(baseline), math.inf)
    for row, (a, b) in enumerate(zip(baseline, candidate, strict=True)):
        for pairs in at:
            if kayenta_high(a[:pairs], b[:pairs], allowed):
                rollback[row] = pairs
                break
    return np.where(np.isinf(rollback), float(at[-1]), math.inf), rollback
