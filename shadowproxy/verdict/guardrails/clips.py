"""Guardrails on the mean of a loss without bounds, clipped where the first pairs said. Sums: those of a guardrail on a
mean, and `clipped/NAME`, the pairs that were clipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns
from shadowproxy.config.settings import Settings
from shadowproxy.stats.additive import FloatArray, IntArray
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.guardrails.batch import Batch, of_routes
from shadowproxy.verdict.guardrails.calibration import Calibration, unclipped
from shadowproxy.verdict.guardrails.guards import Evidence, route_indices
from shadowproxy.verdict.guardrails.means import MeanGuard
from shadowproxy.verdict.guardrails.rules import Rule
from shadowproxy.verdict.record import Dependence

_ANY_ALPHA = 0.05


class ClippedGuard:
    """D = clip(value, −c, c), bet on as D/c in [−1, 1] with the margin d/c; figures are in the metric's unit again.

    What is proven is of the mean of D. As long as hardly a pair is clipped that is the mean of the values; how many are
    is counted, and too many hold a promote back.
    """

    def __init__(self, rule: Rule, settings: Settings, slots: int, calibration: Calibration) -> None:
        """Raises ValueError for a calibration of another rule."""
        if calibration.clip is None or not calibration.most_clipped > 0:
            raise ValueError(f"{rule.name}: the calibration has no clip")
        self.rule = rule
        self.calibration = calibration
        self.clip = calibration.clip
        self._slots = slots
        self._routes = route_indices(rule, settings)
        scaled = replace(
            rule,
            name=f"{rule.name}#{calibration.tag}",
            margin=rule.margin / self.clip,
            cohort_margin=rule.cohort_margin / self.clip,
            lo=-1.0,
            hi=1.0,
            metric=replace(rule.metric, low=-1.0, high=1.0),
        )
        self._mean = MeanGuard(scaled, settings, slots)

    def __repr__(self) -> str:
        return f"ClippedGuard({self.rule.name}, {self.rule.margin:g}, clipped at {self.clip:g})"

    def counted(self, batch: Batch) -> Iterator[tuple[str, NDArray[Any]]]:
        """See `guards.Counter`."""
        name, columns = self.rule.metric.name, batch.columns
        values, applicable = columns.values.get(name), columns.applicable.get(name)
        if values is None or applicable is None:
            return
        counted = applicable & (columns.started >= self.calibration.since) & of_routes(columns, self._routes)
        scaled = replace(
            columns,
            values={name: np.clip(values / self.clip, -1.0, 1.0)},
            applicable={name: counted},
        )
        yield from self._mean.counted(replace(batch, columns=scaled))
        clipped = counted & (np.abs(values) > self.clip)
        if clipped.any():
            yield self._clipped, batch.by_bucket(batch.every.count(np.where(clipped, 0, -1), 1))

    def losses(self, columns: Columns) -> tuple[FloatArray, FloatArray] | None:
        """See `guards.Guard`; not clipped, and of pairs from before the calibration too."""
        return unclipped(self.rule, self._routes, columns)

    def evidence(self, total: Tally, slots: Sequence[int], alpha: float) -> Evidence:
        """See `guards.Guard`; the estimate is of the clipped values."""
        found = self._mean.evidence(total, slots, alpha)
        return found._replace(
            estimate=found.estimate * self.clip, lower=found.lower * self.clip, upper=found.upper * self.clip
        )

    def forecast(self, total: Tally, slot: int, log_threshold: float) -> float:
        """See `guards.Guard`."""
        return self._mean.forecast(total, slot, log_threshold)

    def dependence(self, total: Tally) -> tuple[Dependence, ...]:
        """See `guards.Guard`."""
        return tuple(msgspec.structs.replace(one, guardrail=self.rule.name) for one in self._mean.dependence(total))

    def clipped_share(self, total: Tally) -> float:
        """Of all its pairs, how many were clipped; 0 without any."""
        counts: IntArray = total.rows(self._clipped, self._slots, (1,))
        pairs = int(self._mean.evidence(total, [0], _ANY_ALPHA).pairs[0])
        return int(counts[0, 0]) / max(1, pairs)

    @property
    def _clipped(self) -> str:
        return f"clipped/{self._mean.rule.name}"
