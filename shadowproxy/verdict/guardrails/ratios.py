"""Guardrails on quantiles of latency, paired. Sums: `ratio/KEY/all/BLOCK` and `ratio/KEY/cohorts/BLOCK`, and
`inflation/KEY`.

Guardrails on several quantiles of one latency, with the same margins, rest on the same sums; KEY says which. The grid
of latencies is fine, and a service fills little of it: what is kept are the blocks of bins in which something fell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns
from shadowproxy.config.settings import Settings
from shadowproxy.model import Side
from shadowproxy.stats.additive import FloatArray, Grouping, State
from shadowproxy.stats.quantiles import BLOCK, RatioGrid
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.guardrails.batch import FIRST_COHORT, Batch, of_routes
from shadowproxy.verdict.guardrails.dependence import Inflation, dependence
from shadowproxy.verdict.guardrails.guards import Evidence, route_indices
from shadowproxy.verdict.guardrails.rules import Rule
from shadowproxy.verdict.record import Dependence

_VALUE = {"total": "latency.total_log2", "ttfb": "latency.ttfb_log2"}
"""What a single pair has that shows how much it adds to a slow quantile."""


class PairedLatencies:
    """Counts both sides' latency of every pair for all guardrails that share margins. Weights of pairs but 0 are not
    looked at: a quantile is of requests."""

    def __init__(self, rule: Rule, settings: Settings, slots: int) -> None:
        """`rule`: any of them. `slots`: how many rows a sum may have."""
        self.rule = rule
        self._slots = slots
        self.overall, self.cohort = (
            RatioGrid(ratio=1 + margin, deadline=settings.candidate.deadline)
            for margin in (rule.margin, rule.cohort_margin)
        )
        self._routes = route_indices(rule, settings)
        self._prefix = f"ratio/{key(rule)}"
        # No pair has a loss of its own here. What makes pairs depend on each other, a slow minute say, shows in their
        # ratios, on which most of the evidence rests.
        self._inflation = Inflation(key(rule), 0.0)

    def __repr__(self) -> str:
        return f"PairedLatencies({self._prefix})"

    def counted(self, batch: Batch) -> Iterator[tuple[str, NDArray[Any]]]:
        """See `guards.Counter`."""
        seconds = self.seconds(batch.columns)
        yield from self._blocks("all", self.overall, seconds, batch.overall, len(batch.buckets))
        if batch.cohorts is not None:
            yield from self._blocks("cohorts", self.cohort, seconds, batch.cohorts, len(batch.buckets))
        slower = self.slower(batch.columns)
        if slower is not None:
            yield self._inflation.counted(slower, batch)

    def slower(self, columns: Columns) -> FloatArray | None:
        """By how much each pair's candidate was slower, as doublings: (n,), NaN where it is of another route. None
        where no pair counts."""
        values = columns.values.get(_VALUE[self.rule.metric.timing])
        counted = ~np.isnan(self.seconds(columns)).any(axis=1)
        return None if values is None or not counted.any() else np.where(counted, values, np.nan)

    def dependence(self, total: Tally, name: str) -> tuple[Dependence, ...]:
        """How far pairs depend on each other, as said of the guardrail `name`."""
        return dependence(name, self._inflation.read(total))

    def seconds(self, columns: Columns) -> FloatArray:
        """(n, 2): of the baseline and the candidate, NaN where the pair is of another route."""
        times = columns.ttfb if self.rule.metric.timing == "ttfb" else columns.total
        both = np.stack([times[Side.BASELINE], times[Side.CANDIDATE]], axis=1)
        if self._routes is not None:
            both[~of_routes(columns, self._routes)] = np.nan
        return both

    def state(self, total: Tally, slot: int) -> State:
        """What was counted in one slot: (width,)."""
        grid, where, row, rows = (
            (self.overall, "all", 0, 1)
            if slot < FIRST_COHORT
            else (self.cohort, "cohorts", slot - FIRST_COHORT, self._slots - FIRST_COHORT)
        )
        prefix = f"{self._prefix}/{where}/"
        width = 6 * BLOCK
        found = {
            int(name.removeprefix(prefix)): total.rows(name, rows, (width,))[row : row + 1].reshape(1, 6, BLOCK)
            for name in total
            if name.startswith(prefix)
        }
        state: State = grid.gathered(found, 1)[0]
        return state

    def _blocks(
        self, where: str, grid: RatioGrid, seconds: FloatArray, grouping: Grouping, buckets: int
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        for block, sums in grid.blocks(seconds, grouping):
            yield f"{self._prefix}/{where}/{block}", sums.reshape(buckets, -1, 6 * BLOCK)


class RatioGuard:
    """One of these guardrails: on one quantile."""

    def __init__(self, rule: Rule, latencies: PairedLatencies) -> None:
        self.rule = rule
        self._latencies = latencies
        self._p = rule.metric.quantile or 0.5

    def __repr__(self) -> str:
        return f"RatioGuard({self.rule.name}, {self.rule.margin:g})"

    def losses(self, columns: Columns) -> tuple[FloatArray, FloatArray] | None:
        """See `guards.Guard`: by how much the pair's candidate was slower, as doublings."""
        slower = self._latencies.slower(columns)
        return None if slower is None else (slower, slower)

    def evidence(self, total: Tally, slots: Sequence[int], alpha: float) -> Evidence:
        """See `guards.Guard`."""
        found = [self._of_slot(total, slot, alpha) for slot in slots]
        pairs, *figures = (np.array(column) for column in zip(*found, strict=True))
        estimate, lower, upper, promote, rollback = figures
        return Evidence(pairs, np.zeros_like(pairs), estimate, lower, upper, promote, rollback)

    def forecast(self, total: Tally, slot: int, log_threshold: float) -> float:
        """See `guards.Guard`."""
        return self._grid(slot).forecast(self._latencies.state(total, slot), self._p, log_threshold)

    def dependence(self, total: Tally) -> tuple[Dependence, ...]:
        """See `guards.Guard`."""
        return self._latencies.dependence(total, self.rule.name)

    def _grid(self, slot: int) -> RatioGrid:
        return self._latencies.overall if slot < FIRST_COHORT else self._latencies.cohort

    def _of_slot(self, total: Tally, slot: int, alpha: float) -> tuple[int, float, float, float, float, float]:
        grid, state = self._grid(slot), self._latencies.state(total, slot)
        promote, rollback = grid.log_e(state, self._p)
        lower, upper = grid.interval(state, self._p, alpha)
        estimate = float(grid.estimate(state, self._p)) - 1
        # No ratio on the grid is greater, and JSON has no infinity.
        most = grid.deadline / grid.shortest
        pairs = int(state[: grid.bins].sum())
        return pairs, estimate, float(lower) - 1, min(float(upper), most) - 1, float(promote), float(rollback)


def key(rule: Rule) -> str:
    """What guardrails have in common that rest on the same sums."""
    routes = f"@{','.join(rule.routes)}" if rule.routes else ""
    return f"{rule.metric.timing}@{rule.margin:g},{rule.cohort_margin:g}{routes}"
