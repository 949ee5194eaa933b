"""Empirical-Bernstein confidence sequence for the mean of a bounded loss, to show beside a decision.

Howard, Ramdas, McAuliffe, Sekhon 2021, Time-uniform, nonparametric, nonasymptotic confidence sequences, Theorem 4, with
the gamma-exponential mixture boundary (their Proposition 9). The theorem allows any predictable centre; a constant one
makes the variance process V = Σ(D − c)² a sum, at the price of an interval that is wider where the mean is far from c.
With c = 0, no loss, V is the ΣD² that the e-processes keep anyway. Valid at every moment together, and for drifting
streams it covers the running mean of the conditional means.

Where losses have weights w in [0, 1], known before them, the wD are as bounded as the D, so the sequence holds for
Σ w(D − μ) with V = Σ(wD)²; divided by Σw it is an interval of the weighted mean Σwμ / Σw.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import gammainc, gammaln

from shadowproxy.stats.additive import FloatArray

V_OPT = 10.0
"""The V at which the boundary is tightest. Fixed, since it must not depend on the data."""
_STEPS = 100


def best_rho(v_opt: float, alpha: float) -> float:
    """The mixture's parameter that makes the one-sided boundary about tightest at V = v_opt."""
    log_inverse = 2 * math.log(1 / (2 * alpha))
    return v_opt / (log_inverse + math.log1p(log_inverse))


def log_mixture(s: FloatArray, v: FloatArray, rho: float, c: float) -> FloatArray:
    """Log of the gamma-exponential mixture supermartingale at sum s ≥ 0 and variance process v, for scale c.

    >>> round(float(log_mixture(np.array(30.0), np.array(100.0), best_rho(100, 0.05), 1.0)), 6)
    2.946333
    """
    shape, at, constant = _parts(s, v, rho, c)
    return np.asarray(
        constant + gammaln(shape) + np.log(gammainc(shape, at)) - shape * np.log(at) + at - rho / c**2, np.float64
    )


def _parts(s: FloatArray, v: FloatArray, rho: float, c: float) -> tuple[FloatArray, FloatArray, float]:
    scaled = rho / c**2
    constant = scaled * math.log(scaled) - float(gammaln(scaled)) - math.log(float(gammainc(scaled, scaled)))
    return (v + rho) / c**2, (c * s + v + rho) / c**2, constant


def boundary(v: FloatArray, alpha: float, c: float, v_opt: float = V_OPT) -> FloatArray:
    """u(v) with P(ever S ≥ u(V)) ≤ alpha for a sub-exponential process of scale c: (...) → (...).

    >>> round(float(boundary(np.array(100.0), 0.05, 1.0, 100.0)), 6)
    30.23813
    """
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha of one side must lie between 0 and 0.5, not {alpha:g}")
    v = np.asarray(v, np.float64)
    rho = best_rho(v_opt, alpha)
    target = math.log(1 / alpha)
    s = _above(v, rho, c, target)
    # The log of a mixture of exponentials in s is convex, so Newton from above the root comes down to it monotonically.
    for _ in range(_STEPS):
        excess = log_mixture(s, v, rho, c) - target
        step = excess / _slope(s, v, rho, c)
        s = s - step
        if np.all(np.abs(step) <= 1e-12 * s):
            break
    return s


def _above(v: FloatArray, rho: float, c: float, target: float) -> FloatArray:
    s = np.sqrt(2 * (v + rho) * target) + c * target
    while True:
        low = log_mixture(s, v, rho, c) < target
        if not low.any():
            return s
        s = np.where(low, 2 * s, s)


def _slope(s: FloatArray, v: FloatArray, rho: float, c: float) -> FloatArray:
    shape, at, _ = _parts(s, v, rho, c)
    density = np.exp((shape - 1) * np.log(at) - at - gammaln(shape)) / gammainc(shape, at)
    return np.asarray((density - shape / at + 1) / c, np.float64)


def interval(
    n: FloatArray, total: FloatArray, squares: FloatArray, lo: float, hi: float, alpha: float
) -> tuple[FloatArray, FloatArray]:
    """Two-sided interval of the mean at level 1 − alpha, by slot, from n, ΣD and ΣD²: (...) → (lower, upper).

    With weights from Σw, ΣwD and Σ(wD)².

    [lo, hi] where there is no data. `alpha` is split evenly between the sides. Zero must lie in [lo, hi].

    >>> lower, upper = interval(np.array(1000.0), np.array(10.0), np.array(10.0), -1, 1, 0.05)
    >>> round(float(lower), 3), round(float(upper), 3)
    (-0.007, 0.027)
    """
    seen = np.where(n > 0, n, 1.0)
    mean = total / seen
    radius = boundary(squares, alpha / 2, hi - lo) / seen
    lower = np.where(n > 0, np.clip(mean - radius, lo, hi), lo)
    upper = np.where(n > 0, np.clip(mean + radius, lo, hi), hi)
    return lower, upper
