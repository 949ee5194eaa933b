"""Confidence sequences for the quantiles of one sample, and what two of them say of the ratio of two quantiles.

It is what there is without pairs: each side has its own sequence, and the two share the error. Source: Howard & Ramdas
2022, Sequential estimation of quantiles with applications to A/B testing and best-arm identification, whose own
implementation (confseq) gave the figures that these are held to.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from bench.decisions.reading import ALPHA, FloatArray
from scipy import optimize, special

T_OPT: Final = 1000
T_MIN: Final = 100
_S: Final = 1.4
_ETA: Final = 2.0
_DELTA: Final = 0.5

Radius = Callable[[float, int], tuple[float, float]]
"""Of a quantile p after t values: how far below and above p the empirical distribution may lie there, in ranks / t.

Each holds at all times with error α/2, so that one end of each of two sequences has α in all."""


def double_stitching_bound(p: float, t: float, alpha: float, t_opt: float) -> float:
    """Theorem 3, in ranks: for all times and all quantiles, both sides together.

    >>> round(double_stitching_bound(0.99, 10_000, 0.05, 1000) / 10_000, 6)
    0.004634
    """
    most = max(t, t_opt)
    logit = float(special.logit(p))
    r = p if p >= 0.5 else min(0.5, float(special.expit(logit + 2 * _DELTA * math.sqrt(t_opt * _ETA / most))))
    variance = r * (1 - r)
    j = math.sqrt(most / t_opt) * abs(logit) / (2 * _DELTA) + 1
    zeta = float(special.zeta(_S))
    spent = 2 * zeta * (2 * zeta + 1) / (alpha * math.log(_ETA) ** _S)
    ell = _S * math.log(math.log(_ETA * most / t_opt)) + _S * math.log(j) + math.log(spent)
    k1 = (_ETA**0.25 + _ETA**-0.25) / math.sqrt(2)
    second = (math.sqrt(_ETA) + 1) / 2 * (1 - 2 * p) / 3 * ell
    return (
        _DELTA * math.sqrt(_ETA * most * variance / t_opt)
        + math.sqrt(k1 * k1 * variance * most * ell + second * second)
        + second
    )


def empirical_process_lil_bound(t: float, alpha: float, t_min: float, a: float = 0.85) -> float:
    """Theorem 2, as a share of t: for all times and all quantiles, both sides together. +∞ before `t_min`.

    >>> round(empirical_process_lil_bound(1000, 0.05, 100), 6)
    0.082048
    """
    if t < t_min:
        return math.inf
    return a * math.sqrt((math.log1p(math.log(t / t_min)) + _lil_constant(alpha, a)) / t)


@functools.cache
def _lil_constant(alpha: float, a: float) -> float:
    def error(eta: float, c: float) -> float:
        gamma = 2 / eta * (a - math.sqrt(2 * (eta - 1) / c)) ** 2
        return 4 * math.exp(-gamma * c) * (1 + 1 / ((gamma - 1) * math.log(eta))) if gamma > 1 else math.inf

    def least(c: float) -> float:
        top = optimize.brentq(lambda eta: math.sqrt(eta / 2) + math.sqrt(2 * (eta - 1) / c) - a, 1.0, 2 * a * a)
        # By the logarithm of the step: the error is smooth there, and infinite at both ends.
        grid = 1 + (top - 1) * np.geomspace(1e-4, 1 - 1e-6, 200)
        best = int(np.argmin([error(eta, c) for eta in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        found = optimize.minimize_scalar(
            error, bounds=(low, high), args=(c,), method="bounded", options={"xatol": 1e-12}
        )
        return float(found.fun)

    return float(optimize.brentq(lambda c: math.log(least(c) / alpha), 2.0, 60.0, xtol=1e-13))


def beta_binomial_log_mixture(s: float, v: float, v_opt: float, g: float, h: float, *, one_sided: bool) -> float:
    """Log of the mixture supermartingale for sums of values in {−g, h}, tuned for v_opt and α = 5%."""
    r = _best_r(v_opt, g, h, one_sided=one_sided)
    x = h / (g + h) if one_sided else 1.0
    prior = _log_beta(r / (g * (g + h)), r / (h * (g + h)), x)
    after = _log_beta((r + v - g * s) / (g * (g + h)), (r + v + h * s) / (h * (g + h)), x)
    return (
        v / (g * h) * math.log(g + h)
        - (v + h * s) / (h * (g + h)) * math.log(g)
        - (v - g * s) / (g * (g + h)) * math.log(h)
        + after
        - prior
    )


def beta_binomial_bound(t: int, alpha: float, t_opt: float, g: float, h: float) -> float:
    """In ranks, one side with error `alpha`: the s at which the one-sided mixture of t values reaches 1/α."""
    v, most = g * h * t, t * h

    def short(s: float) -> float:
        return beta_binomial_log_mixture(s, v, g * h * t_opt, g, h, one_sided=True) - math.log(1 / alpha)

    top = most * (1 - 1e-9)
    return float(optimize.brentq(short, 0.0, top)) if short(top) > 0 else math.inf


def _best_r(v_opt: float, g: float, h: float, *, one_sided: bool, alpha: float = 0.05) -> float:
    inverse = 2 * math.log(1 / (2 * alpha if one_sided else alpha))
    return max(v_opt / (inverse + math.log1p(inverse)) - g * h, 1e-3 * g * h)


def _log_beta(a: float, b: float, x: float) -> float:
    part = math.log(float(special.betainc(a, b, x))) if x < 1 else 0.0
    return float(special.betaln(a, b)) + part


def double_stitching(p: float, t: int) -> tuple[float, float]:
    """A `Radius`. The bound has both sides, so that either has half."""
    return (
        double_stitching_bound(1 - p, t, ALPHA, T_OPT) / t,
        double_stitching_bound(p, t, ALPHA, T_OPT) / t,
    )


def lil(p: float, t: int) -> tuple[float, float]:
    """A `Radius`, the same for every quantile."""
    both = empirical_process_lil_bound(t, ALPHA, T_MIN)
    return both, both


def beta_binomial(p: float, t: int) -> tuple[float, float]:
    """A `Radius`, for one quantile that is chosen before: Theorem 1."""
    return (
        beta_binomial_bound(t, ALPHA / 2, T_OPT, 1 - p, p) / t,
        beta_binomial_bound(t, ALPHA / 2, T_OPT, p, 1 - p) / t,
    )


@functools.cache
def ranks(radius: Radius, p: float, t: int) -> tuple[int, int]:
    """Which of t ordered values, from 1, bound the quantile: below 1 or above t where none does."""
    below, above = radius(p, t)
    if math.isinf(below) or math.isinf(above):
        return 0, t + 1
    return math.floor(t * (p - below) + 1), math.ceil(t * (p + above))


def ends(values: FloatArray, bounds: Sequence[tuple[int, int]]) -> list[tuple[FloatArray, FloatArray]]:
    """The values of pairs of ranks: (experiments, t) → (experiments,) each; zero and +∞ where there are none."""
    t = values.shape[1]
    wanted = sorted({rank - 1 for pair in bounds for rank in pair if 1 <= rank <= t})
    ordered = np.partition(values, wanted, axis=1) if wanted else values
    return [
        (
            ordered[:, low - 1] if 1 <= low <= t else np.zeros(len(values)),
            ordered[:, high - 1] if 1 <= high <= t else np.full(len(values), math.inf),
        )
        for low, high in bounds
    ]
