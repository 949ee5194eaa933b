"""Guardrails on the mean of a bounded loss. Sums: `guardrail/NAME`, and `weight/NAME` where pairs have weights; further
those of `dependence`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns
from shadowproxy.config.settings import Settings
from shadowproxy.stats import betting
from shadowproxy.stats.additive import FloatArray
from shadowproxy.stats.betting import MeanGrid
from shadowproxy.stats.empirical_bernstein import interval
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.guardrails.batch import FIRST_COHORT, SPANS, Batch, of_routes
from shadowproxy.verdict.guardrails.dependence import BLOCKS, Blocks, Inflation, dependence
from shadowproxy.verdict.guardrails.guards import Evidence, route_indices
from shadowproxy.verdict.guardrails.rules import Rule
from shadowproxy.verdict.record import Dependence


class MeanGuard:
    """One of them, over all pairs (slot 0) at its margin, and in each cohort at the cohorts' margin."""

    def __init__(self, rule: Rule, settings: Settings, slots: int) -> None:
        """`slots`: how many rows a sum may have."""
        self.rule = rule
        self._slots = slots
        self._overall, self._cohort = _grids(rule)
        self._routes = route_indices(rule, settings)
        self._inflation = Inflation(rule.name, rule.margin)
        self._fewest = settings.verdict.min_pairs_rollback
        self._blocks = (
            None
            if settings.verdict.blocks is None
            else Blocks(rule.name, settings.verdict.blocks, wait=_wait(rule, settings), slots=slots)
        )

    def __repr__(self) -> str:
        return f"MeanGuard({self.rule.name}, {self.rule.margin:g})"

    def counted(self, batch: Batch) -> Iterator[tuple[str, NDArray[Any]]]:
        """See `guards.Counter`."""
        counted = self._counted(batch.columns)
        if not counted.any():
            return
        values = batch.columns.values.get(self.rule.metric.name)
        losses = np.full(len(counted), np.nan) if values is None else self.rule.losses(values)
        sums = np.zeros((len(batch.buckets), batch.slots, self._overall.width))
        for grid, grouping, place in (
            (self._overall, batch.overall, slice(0, FIRST_COHORT)),
            (self._cohort, batch.cohorts, slice(FIRST_COHORT, None)),
        ):
            if grouping is not None:
                rows = grid.rows(losses, batch.weight)
                rows[~counted] = 0.0
                sums[:, place] = grouping.sum(rows).reshape(len(batch.buckets), -1, grid.width)
        yield f"guardrail/{self.rule.name}", sums
        if batch.weight is not None:
            # Beside the rows, not in them: without weights a state stays what it was, to the byte.
            known = np.where(counted & ~np.isnan(losses), batch.weight, 0.0)
            yield f"weight/{self.rule.name}", batch.by_bucket(batch.every.sum(known[:, np.newaxis]))
        bet_on = np.where(counted, np.clip(losses, self.rule.lo, self.rule.hi), np.nan)
        yield self._inflation.counted(bet_on, batch)
        if self._blocks is not None:
            yield from self._blocks.counted(bet_on, batch)

    def losses(self, columns: Columns) -> tuple[FloatArray, FloatArray] | None:
        """See `guards.Guard`; within the metric's ranges."""
        metric = self.rule.metric
        counted = self._counted(columns)
        values = columns.values.get(metric.name)
        if values is None or not counted.any():
            return None
        known = np.where(counted, np.clip(values, metric.low, metric.high), np.nan)
        return known, np.clip(self.rule.losses(known), self.rule.lo, self.rule.hi)

    def evidence(self, total: Tally, slots: Sequence[int], alpha: float) -> Evidence:
        """See `guards.Guard`."""
        counts, state = self._state(total)[list(slots)], self._judged(total)[list(slots)]
        overall = np.array(slots) < FIRST_COHORT
        logs = [
            np.where(overall, first, rest)
            for first, rest in zip(self._overall.get(state), self._cohort.get(state), strict=True)
        ]
        if self._blocks is not None:
            # As many blocks as pairs are asked for: where hardly any loss is tolerated, one block is no proof of harm.
            logs[1] = np.where(state[:, betting.COUNT] < self._fewest, np.minimum(logs[1], 0), logs[1])
        n = weights = state[:, betting.COUNT]
        if self._blocks is None and f"weight/{self.rule.name}" in total:
            weights = total.rows(f"weight/{self.rule.name}", self._slots, (1,))[list(slots), 0]
        lower, upper = interval(
            weights, state[:, betting.SUM], state[:, betting.SQUARES], self.rule.lo, self.rule.hi, alpha
        )
        return Evidence(
            pairs=counts[:, betting.COUNT].astype(np.int64),
            undefined=counts[:, betting.UNDEFINED].astype(np.int64),
            estimate=np.divide(state[:, betting.SUM], weights, out=np.full(len(n), np.nan), where=weights > 0),
            lower=lower,
            upper=upper,
            log_promote=logs[0],
            log_rollback=logs[1],
            blocks=None if self._blocks is None else n.astype(np.int64),
        )

    def forecast(self, total: Tally, slot: int, log_threshold: float) -> float:
        """See `guards.Guard`."""
        grid = self._overall if slot < FIRST_COHORT else self._cohort
        row = self._judged(total)[slot]
        needed = grid.forecast(row, log_threshold)
        if self._blocks is None:
            return needed
        return needed * float(self._state(total)[slot, betting.COUNT]) / max(1.0, float(row[betting.COUNT]))

    def dependence(self, total: Tally) -> tuple[Dependence, ...]:
        """See `guards.Guard`."""
        found = dict(self._inflation.read(total))
        if self._blocks is not None:
            found = {key: figures for key, figures in found.items() if key not in SPANS}
            found[BLOCKS] = self._blocks.inflation(total)
        return dependence(self.rule.name, found)

    def _judged(self, total: Tally) -> FloatArray:
        """The state that is bet on, by slot: of the pairs, or of the blocks' means."""
        if self._blocks is None:
            return self._state(total)
        return self._blocks.rows(total, self._overall, self._cohort)

    def _state(self, total: Tally) -> FloatArray:
        return total.rows(f"guardrail/{self.rule.name}", self._slots, (self._overall.width,))

    def _counted(self, columns: Columns) -> NDArray[np.bool_]:
        applicable = columns.applicable.get(self.rule.metric.name)
        if applicable is None:
            return np.zeros(len(columns), np.bool_)
        return applicable if self._routes is None else applicable & of_routes(columns, self._routes)


def _wait(rule: Rule, settings: Settings) -> float:
    """How long after its pair a loss may come: as long as labels do, where it is one of those that they give."""
    late = rule.metric.name.startswith("quality.")
    return (settings.longest_wait or 0.0) if late else 0.0


def _grids(rule: Rule) -> tuple[MeanGrid, MeanGrid]:
    """The grids over all pairs and for one cohort, of one width."""
    margins = (rule.margin, rule.cohort_margin)
    size = max(MeanGrid(rule.lo, rule.hi, margin).size for margin in margins)
    overall, cohort = (MeanGrid(rule.lo, rule.hi, margin, size) for margin in margins)
    return overall, cohort
