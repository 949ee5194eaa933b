"""Guardrails on the shift of a whole distribution: Kolmogorov-Smirnov, at thresholds that the first pairs said.

With thresholds x₁ < … < x_K, quantiles of the baseline's scores, a pair has

    D_k = share of the candidate's items with a score ≤ x_k − share of the baseline's, in [−1, 1]

whose mean is the difference of the two distribution functions at x_k (of a score of a pair, each pair counting alike,
however many items it has). The shift is max_k |mean D_k|, and margin m tolerates one below m. Each D_k has the two
e-processes of a bounded mean, for itself and for −D_k:

* *within the margin*: the least of the 2K e-values for it. If the shift is m or more, then some ±mean D_k is; the
  e-value of that one is valid under just that, and the least is no larger. So it proves |mean D_k| < m for every k at
  once, and needs no correction;
* *beyond it*: the mean of the 2K e-values for harm. If the shift is m or less each of them is valid, and so is a mean.

Sums: `shift/NAME`, 2K rows of a guardrail on a mean one after the other, D_k before −D_k; and `weight/shift/NAME` where
pairs have weights. STATISTICS §5.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from shadowproxy.compare.columns import Columns
from shadowproxy.config.settings import Settings
from shadowproxy.model import Side
from shadowproxy.stats import betting
from shadowproxy.stats.additive import FloatArray
from shadowproxy.stats.betting import MeanGrid
from shadowproxy.stats.empirical_bernstein import interval
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.guardrails.batch import FIRST_COHORT, Batch, of_routes
from shadowproxy.verdict.guardrails.calibration import Calibration
from shadowproxy.verdict.guardrails.dependence import Inflation, dependence
from shadowproxy.verdict.guardrails.guards import Evidence, route_indices
from shadowproxy.verdict.guardrails.rules import Rule
from shadowproxy.verdict.record import Dependence

_APPLICABLE = "scores.relative_delta"
"""The metric that is applicable wherever both sides' scores can be compared."""


class ShiftGuard:
    """One of them, over all pairs (slot 0) at its margin, and in each cohort at the cohorts' margin."""

    def __init__(self, rule: Rule, settings: Settings, slots: int, calibration: Calibration) -> None:
        """Raises ValueError for a calibration of another rule."""
        # One that stands twice would count twice in the mean of harm.
        self.thresholds = np.unique(np.array(calibration.thresholds, np.float64))
        if not len(self.thresholds):
            raise ValueError(f"{rule.name}: the calibration has no thresholds")
        self.rule = rule
        self.calibration = calibration
        self._slots = slots
        self._routes = route_indices(rule, settings)
        margins = (rule.margin, rule.cohort_margin)
        size = max(MeanGrid(-1, 1, margin).size for margin in margins)
        self._overall, self._cohort = (MeanGrid(-1, 1, margin, size) for margin in margins)
        self._shape = (len(self.thresholds), 2, self._overall.width)
        self._inflation = Inflation(f"{rule.name}#{calibration.tag}", 0.0)
        self._name = f"shift/{rule.name}#{calibration.tag}"

    def __repr__(self) -> str:
        return f"ShiftGuard({self.rule.name}, {self.rule.margin:g}, {len(self.thresholds)} thresholds)"

    def counted(self, batch: Batch) -> Iterator[tuple[str, NDArray[Any]]]:
        """See `guards.Counter`."""
        counted = self._counted(batch.columns) & (batch.columns.started >= self.calibration.since)
        if not counted.any():
            return
        differences = self._differences(batch.columns)
        sums = np.zeros((len(batch.buckets), batch.slots, math.prod(self._shape)))
        for grid, grouping, place in (
            (self._overall, batch.overall, slice(0, FIRST_COHORT)),
            (self._cohort, batch.cohorts, slice(FIRST_COHORT, None)),
        ):
            if grouping is not None:
                signed = (sign * column for column in differences.T for sign in (1.0, -1.0))
                rows = np.concatenate([grid.rows(losses, batch.weight) for losses in signed], axis=1)
                rows[~counted] = 0.0
                sums[:, place] = grouping.sum(rows).reshape(len(batch.buckets), -1, rows.shape[1])
        yield self._name, sums
        middle = differences[:, len(self.thresholds) // 2]
        yield self._inflation.counted(np.where(counted, middle, np.nan), batch)
        if batch.weight is not None:
            known = np.where(counted & ~np.isnan(differences[:, 0]), batch.weight, 0.0)
            yield f"weight/{self._name}", batch.by_bucket(batch.every.sum(known[:, np.newaxis]))

    def losses(self, columns: Columns) -> tuple[FloatArray, FloatArray] | None:
        """See `guards.Guard`: the largest difference of the pair, of pairs from before the calibration too."""
        counted = self._counted(columns)
        if not counted.any():
            return None
        largest = np.where(counted, np.abs(self._differences(columns)).max(axis=1), np.nan)
        return largest, largest

    def evidence(self, total: Tally, slots: Sequence[int], alpha: float) -> Evidence:
        """See `guards.Guard`."""
        state = self._state(total)[list(slots)]
        overall = (np.array(slots) < FIRST_COHORT)[:, np.newaxis, np.newaxis]
        within, beyond = (
            np.where(overall, first, rest)
            for first, rest in zip(self._overall.get(state), self._cohort.get(state), strict=True)
        )
        each = state[:, :, 0]
        n = each[:, 0, betting.COUNT]
        weights = n
        if f"weight/{self._name}" in total:
            weights = total.rows(f"weight/{self._name}", self._slots, (1,))[list(slots), 0]
        sums, squares = each[..., betting.SUM], each[..., betting.SQUARES]
        # All of them at once: each interval has its share of the chance to miss.
        several = np.broadcast_to(weights[:, np.newaxis], sums.shape)
        lower, upper = interval(several, sums, squares, -1.0, 1.0, alpha / len(self.thresholds))
        means = np.divide(sums, several, out=np.full(sums.shape, np.nan), where=several > 0)
        return Evidence(
            pairs=n.astype(np.int64),
            undefined=each[:, 0, betting.UNDEFINED].astype(np.int64),
            estimate=np.abs(means).max(axis=1),
            lower=np.maximum(np.maximum(lower, -upper), 0.0).max(axis=1),
            upper=np.maximum(np.abs(lower), np.abs(upper)).max(axis=1),
            log_promote=within.min(axis=(1, 2)),
            log_rollback=np.asarray(logsumexp(beyond, axis=(1, 2))) - math.log(2 * len(self.thresholds)),
        )

    def forecast(self, total: Tally, slot: int, log_threshold: float) -> float:
        """See `guards.Guard`."""
        grid = self._overall if slot < FIRST_COHORT else self._cohort
        rows = self._state(total)[slot].reshape(-1, grid.width)
        return float(np.max([grid.forecast(row, log_threshold) for row in rows]))

    def dependence(self, total: Tally) -> tuple[Dependence, ...]:
        """See `guards.Guard`: that of the differences at the middle threshold."""
        return dependence(self.rule.name, self._inflation.read(total))

    def _state(self, total: Tally) -> FloatArray:
        flat = total.rows(self._name, self._slots, (math.prod(self._shape),))
        return np.asarray(flat, np.float64).reshape((self._slots, *self._shape))

    def _counted(self, columns: Columns) -> NDArray[np.bool_]:
        applicable = columns.applicable.get(_APPLICABLE)
        if applicable is None:
            return np.zeros(len(columns), np.bool_)
        return applicable & of_routes(columns, self._routes)

    def _differences(self, columns: Columns) -> FloatArray:
        """D_k by pair, (n, K); NaN where a side has no score that is a number."""
        return self._shares(columns, Side.CANDIDATE) - self._shares(columns, Side.BASELINE)

    def _shares(self, columns: Columns, side: Side) -> FloatArray:
        """By pair, the share of one side's items at each threshold or below, (n, K); NaN where there is none."""
        n, width = len(columns), len(self.thresholds) + 1
        scores = columns.scores.get(side)
        if scores is None:
            return np.full((n, width - 1), np.nan)
        there = np.isfinite(scores.value)
        first = np.searchsorted(self.thresholds, scores.value[there])
        counts = np.bincount(scores.pair[there] * width + first, minlength=n * width).reshape(n, width).cumsum(axis=1)
        items = counts[:, -1:]
        shares: FloatArray = np.full((n, width - 1), np.nan)
        np.divide(counts[:, :-1], items, out=shares, where=items > 0)
        return shares
