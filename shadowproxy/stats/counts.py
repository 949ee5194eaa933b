"""E-values that need counts only: of a loss that is −1, 0 or 1, and of a success rate.

The bets are constant fractions of the capital, as in `betting`, so a log-capital is a dot product of counts and logs,
and a billion pairs cost as much as ten. Errors are those of that product: below 1e-6 of a log at 1e9 observations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from shadowproxy.stats.additive import FloatArray, IntArray

Counts = FloatArray | IntArray
"""Of observations. Fractions are allowed, for a forecast."""

STAKE = 0.95
"""Largest share of what could be lost in one step that any bet puts at stake."""


class Bets(NamedTuple):
    """A mixture of constant bets on one side."""

    bets: FloatArray
    """λ of each, (J,): negative against high values, positive against low ones."""
    log_weights: FloatArray
    """(J,), summing to 1 as weights."""


def geometric_bets(largest: float, smallest: float, size: int = 12) -> Bets:
    """`size` ≥ 2 bets from `largest` to `smallest` (of one sign), half the weight on the largest, the rest even.

    >>> geometric_bets(-0.8, -0.2, 3).bets.round(9).tolist()
    [-0.8, -0.4, -0.2]
    """
    weights = np.full(size, 0.5 / (size - 1))
    weights[0] = 0.5
    return Bets(largest * (smallest / largest) ** (np.arange(size) / (size - 1)), np.log(weights))


def ternary_logs(bets: FloatArray, margin: float = 0.0) -> FloatArray:
    """What each D of 1, 0 and −1 adds to the log-capitals of `ternary_log_e`: (3, J)."""
    return np.log1p(np.multiply.outer(np.array([1, 0, -1]) - margin, bets))


def ternary_log_e(
    n_plus: Counts,
    n_zero: Counts,
    n_minus: Counts,
    bets: FloatArray,
    log_weights: FloatArray,
    margin: float = 0.0,
) -> FloatArray:
    """Natural log of Σ_λ w ∏(1 + λ(D − d)) for D in {−1, 0, 1}, of how often each occurred. All counts of one shape.

    Negative bets reject a mean ≥ d, positive ones a mean ≤ d; −1/(1 − d) < λ < 1/(1 + d).

    >>> against_harm = geometric_bets(-0.95, -0.01)
    >>> round(float(ternary_log_e(np.array(3), np.array(80), np.array(17), *against_harm)), 3)
    3.001
    """
    logs = ternary_logs(bets, margin)
    counts = (n_plus, n_zero, n_minus)
    return log_mixture(sum(np.multiply.outer(n, log) for n, log in zip(counts, logs, strict=True)), log_weights)


def binomial_bets(p: float) -> tuple[Bets, Bets]:
    """The bets on a success rate against p, 0 < p < 1: those that reject a rate ≥ p (low), a rate ≤ p (high).

    λ is down to 0.003 of the largest, .95/(1 − p) and .95/p in size.
    """
    low, high = -STAKE / (1 - p), STAKE / p
    return geometric_bets(low, 0.003 * low), geometric_bets(high, 0.003 * high)


def binomial_logs(bets: FloatArray, p: float) -> FloatArray:
    """What a success and a failure add to the log-capitals of `binomial_log_e`: (2, J)."""
    return np.log1p(np.multiply.outer(np.array([1, 0]) - p, bets))


def binomial_log_e(successes: Counts, n: Counts, p: float, bets: FloatArray, log_weights: FloatArray) -> FloatArray:
    """Natural log of Σ_λ w (1 + λ(1 − p))^S (1 − λp)^(n − S), of S successes in n. Shapes broadcast.

    Negative bets reject a rate ≥ p, positive ones a rate ≤ p; −1/(1 − p) < λ < 1/p.

    >>> low, high = binomial_bets(0.9)
    >>> [round(float(binomial_log_e(np.array(80), np.array(100), 0.9, *side)), 3) for side in (low, high)]
    [2.136, -1.325]
    """
    success, failure = binomial_logs(bets, p)
    return log_mixture(np.multiply.outer(successes, success) + np.multiply.outer(n - successes, failure), log_weights)


def excluding_successes(
    n: Counts, p: float, bets: FloatArray, log_weights: FloatArray, log_e: FloatArray
) -> FloatArray:
    """How many successes in n make one bet alone worth exp(`log_e`): at most so many for negative bets, else at least.

    One bet's log-capital is linear in S, so no search is needed. A mixture is worth no less than its best bet: what is
    excluded here is excluded by `binomial_log_e`, but not the other way round. `n` and `log_e` are of one shape.
    """
    success, failure = binomial_logs(bets, p)
    needed = np.asarray(log_e)[..., None] - log_weights - np.multiply.outer(n, failure)
    found = needed / (success - failure)
    return np.asarray(found.max(axis=-1) if bets[0] < 0 else found.min(axis=-1))


def log_mixture(logs: FloatArray, log_weights: FloatArray) -> FloatArray:
    """log Σ w exp(L) over the last axis, without overflow: (..., J) → (...)."""
    weighted = logs + log_weights
    top = weighted.max(axis=-1)
    weighted -= top[..., None]
    np.exp(weighted, out=weighted)
    return np.asarray(top + np.log(weighted.sum(axis=-1)))
