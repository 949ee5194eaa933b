"""What is counted of every pair, and what it comes to: from columns to sums, and from sums to a verdict."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns
from shadowproxy.compare.families import failures
from shadowproxy.compare.view import Counts
from shadowproxy.config.settings import Settings
from shadowproxy.model import Side
from shadowproxy.stats import betting
from shadowproxy.stats.additive import FloatArray, Grouping, IntArray
from shadowproxy.stats.betting import MeanGrid
from shadowproxy.stats.empirical_bernstein import interval
from shadowproxy.stats.state import State, Tally
from shadowproxy.verdict import decide as decision_rules
from shadowproxy.verdict.decide import CAP
from shadowproxy.verdict.distributions import Distributions
from shadowproxy.verdict.reasons import OTHER, reasons
from shadowproxy.verdict.record import (
    OVERALL,
    Cell,
    CohortReport,
    Facts,
    Verdict,
)
from shadowproxy.verdict.rules import Rule, rules
from shadowproxy.verdict.summaries import Summaries
from shadowproxy.verdict.tables import Tables

FAILURES: tuple[str, ...] = (*failures.KINDS, "other")
"""The kinds of failure that are told apart; `other` for a kind that a newer version counted."""

_MOST_GROUPS = 4096
"""Buckets × slots that are summed at once: bounds the memory of a batch spread over many buckets."""
_FIRST_COHORT = 1


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch's pairs by bucket and slot."""

    columns: Columns
    buckets: IntArray
    """The start-time buckets that occur, ascending."""
    slots: int
    """One more than the highest slot that occurs."""
    overall: Grouping
    """By bucket."""
    cohorts: Grouping | None
    """By bucket and cohort slot; None where no pair has a cohort."""
    every: Grouping
    """By bucket and slot, slot 0 included."""
    arrived: IntArray
    """Pairs by bucket, those of weight 0 included, which are in no group."""
    weight: FloatArray | None
    """By pair; None where no route weighs any."""

    def by_bucket(self, sums: NDArray[Any]) -> NDArray[Any]:
        """(buckets · slots, w) → (buckets, slots, w)."""
        return sums.reshape(len(self.buckets), self.slots, -1)


class Plan:
    """How one configuration counts and judges. Holds no data.

    Raises ConfigError where guardrails contradict each other.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rules: tuple[Rule, ...] = rules(settings)
        self.other_slot = settings.verdict.max_cohorts + 1
        self._slots = self.other_slot + 1
        self._summaries = Summaries(settings.routes, self._slots)
        self._distributions = Distributions([route.name for route in settings.routes])
        self._tables = Tables([route.name for route in settings.routes])
        self._weighted = any(route.weight is not None for route in settings.routes)
        self._grids = {rule.name: _grids(rule) for rule in self.rules}
        self._routes = {rule.name: _indices(rule, settings) for rule in self.rules}
        self._dimensions = {rule.name: _dimensions(rule, settings) for rule in self.rules}

    def __repr__(self) -> str:
        return f"Plan({', '.join(rule.name for rule in self.rules)})"

    def empty(self) -> State:
        """The state of a worker that has counted nothing."""
        policy = self.settings.verdict
        return State(width=policy.bucket, settle=self.settings.longest_deadline + policy.settle)

    def tally(
        self, columns: Columns, slots: Mapping[str, int], counted: Collection[str] = ()
    ) -> dict[int, tuple[Tally, int]]:
        """The sums of a batch by start-time bucket, each with its number of pairs; for `State.with_added`.

        `slots` gives each cohort's slot, 1 to `max_cohorts`; a cohort without one is pooled in `other_slot`, where a
        pair counts once however many such cohorts it has. `counted` are the names of the state that this is added to:
        they bound the rows of tables. A pair of weight 0 is in no sum, only in the number of pairs. Raises ValueError
        for a slot out of range.
        """
        if not len(columns):
            return {}
        width = self.settings.verdict.bucket
        # A start time that is no time at all must not take the worker down; it lands in the first or last bucket.
        started = np.nan_to_num(columns.started / width, nan=0.0, posinf=2.0**52, neginf=-(2.0**52))
        buckets = np.floor(np.clip(started, -(2.0**52), 2.0**52)).astype(np.int64)
        found = np.unique(buckets)
        pairs, slot = self._membership(columns.cohorts, slots)
        tables = tuple(self._tables.gathered(columns.tables, counted))
        most = max(1, _MOST_GROUPS // (int(slot.max(initial=0)) + 1))
        tallies: dict[int, tuple[Tally, int]] = {}
        for first in range(0, len(found), most):
            part = found[first : first + most]
            tallies |= self._tally_part(columns, buckets, part, pairs, slot, tables)
        return tallies

    def tally_labelled(self, columns: Columns, slots: Mapping[str, int]) -> dict[int, tuple[Tally, int]]:
        """As `tally`, of pairs that were counted before, all but what `columns` have of them: no pair more.

        Raises ValueError likewise.
        """
        sums = {
            bucket: {name: array for name, array in tally.items() if name != "pairs"}
            for bucket, (tally, _) in self.tally(columns, slots).items()
        }
        return {bucket: (Tally(arrays), 0) for bucket, arrays in sums.items() if arrays}

    def memberships(self, columns: Columns, slots: Mapping[str, int]) -> tuple[IntArray, IntArray]:
        """(pair, cohort slot) of every membership, each once; `slots` as in `tally`. Raises ValueError likewise."""
        return self._membership(columns.cohorts, slots)

    def losses(self, columns: Columns) -> Iterator[tuple[Rule, FloatArray, FloatArray]]:
        """Of every rule that some pair counts for: the metric's values and the losses, (n,) each, within their ranges.
        NaN where the pair does not count, or the value is undefined."""
        for rule in self.rules:
            counted = self._counted(rule, columns)
            values = columns.values.get(rule.metric.name)
            if values is not None and counted.any():
                known = np.where(counted, np.clip(values, rule.metric.low, rule.metric.high), np.nan)
                yield rule, known, np.clip(rule.losses(known), rule.lo, rule.hi)

    def judge(self, total: Tally, slots: Mapping[str, int], facts: Facts) -> Verdict:
        """The verdict on everything in closed buckets."""
        policy = self.settings.verdict
        counts = total.rows("pairs", self._slots, ())
        pairs = int(counts[0])
        cohorts = self._cohorts(counts, slots)
        large = {
            name for name, slot in cohorts.items() if name != OTHER and counts[slot] >= policy.large_cohort * pairs
        }
        places = {OVERALL: 0, **cohorts}
        cells = [cell for rule in self.rules for cell in self._cells(rule, total, places, large)]
        checks = decision_rules.checks(cells, pairs=pairs, facts=facts, policy=policy)
        decision = decision_rules.decide(cells, checks, pairs=pairs, latched=facts.latched is not None, policy=policy)
        return Verdict(
            state=decision.state,
            exhausted=decision.exhausted,
            reasons=reasons(
                decision,
                cells,
                checks,
                rules={rule.name: rule for rule in self.rules},
                pairs=pairs,
                latched=facts.latched,
                alpha_rollback=policy.alpha_rollback,
                forecast=self._forecast(decision.unproven, total, places, pairs),
            ),
            experiment=facts.experiment,
            at=facts.at,
            pairs=pairs,
            open_pairs=facts.open_pairs,
            late_pairs=facts.late_pairs,
            guardrails=tuple(cell for cell in cells if cell.cohort == OVERALL),
            cohorts={
                name: CohortReport(
                    pairs=int(counts[slot]), guardrails=tuple(cell for cell in cells if cell.cohort == name)
                )
                for name, slot in cohorts.items()
            },
            accounting=facts.accounting,
            checks=checks,
            failures=_failures(total),
            summaries=tuple(self._summaries.summaries(total, places)),
            latencies=tuple(self._summaries.latencies(total, places)),
            tables=tuple(self._tables.rows(total)),
            distributions=tuple(self._distributions.rows(total, places)),
            evidence_rollback=decision.evidence,
            notes=facts.notes,
            versions=dict(facts.versions),
            labels=facts.labels,
        )

    def _membership(self, cohorts: Sequence[tuple[str, ...]], slots: Mapping[str, int]) -> tuple[IntArray, IntArray]:
        """(pair, cohort slot) of every membership, each once."""
        wrong = {name: slot for name, slot in slots.items() if not _FIRST_COHORT <= slot < self.other_slot}
        if wrong:
            raise ValueError(f"cohort slots run from 1 to {self.other_slot - 1}, not {wrong}")
        known: dict[tuple[str, ...], tuple[int, ...]] = {
            names: tuple({slots.get(name, self.other_slot) for name in names}) for names in set(cohorts)
        }
        each = [known[names] for names in cohorts]
        lengths = np.fromiter(map(len, each), np.int64, len(each))
        slot = np.fromiter((one for several in each for one in several), np.int64, int(lengths.sum()))
        return np.repeat(np.arange(len(each)), lengths), slot

    def _tally_part(
        self,
        columns: Columns,
        buckets: IntArray,
        part: IntArray,
        pairs: IntArray,
        slot: IntArray,
        tables: Sequence[tuple[str, Counts]],
    ) -> dict[int, tuple[Tally, int]]:
        batch = _batch(columns, buckets, part, pairs, slot, self._weights(columns))
        sums: dict[str, NDArray[Any]] = {"pairs": _pair_counts(batch)}
        for rule in self.rules:
            counted = self._counted(rule, columns)
            if counted.any():
                sums |= self._guardrail(rule, counted, batch)
        sums |= {name: batch.by_bucket(rows) for name, rows in self._summaries.counted(columns, batch.every)}
        sums |= _failure_counts(batch)
        sums |= {name: batch.by_bucket(rows) for name, rows in self._distributions.counted(columns, batch.every)}
        for name, counts in tables:
            sums[name] = batch.overall.table(counts.pair, counts.column, counts.width)
        return {
            int(bucket): (Tally({name: array[at].copy() for name, array in sums.items()}), int(batch.arrived[at]))
            for at, bucket in enumerate(batch.buckets)
        }

    def _counted(self, rule: Rule, columns: Columns) -> NDArray[np.bool_]:
        applicable = columns.applicable.get(rule.metric.name)
        if applicable is None:
            return np.zeros(len(columns), np.bool_)
        return applicable & np.isin(columns.route, self._routes[rule.name]) if rule.routes else applicable

    def _weights(self, columns: Columns) -> FloatArray | None:
        if not self._weighted:
            return None
        return np.ones(len(columns)) if columns.weight is None else columns.weight

    def _guardrail(self, rule: Rule, counted: NDArray[np.bool_], batch: _Batch) -> dict[str, FloatArray]:
        values = batch.columns.values.get(rule.metric.name)
        losses = np.full(len(counted), np.nan) if values is None else rule.losses(values)
        overall, cohort = self._grids[rule.name]
        sums = np.zeros((len(batch.buckets), batch.slots, overall.width))
        for grid, grouping, place in ((overall, batch.overall, slice(0, 1)), (cohort, batch.cohorts, slice(1, None))):
            if grouping is not None:
                rows = grid.rows(losses, batch.weight)
                rows[~counted] = 0.0
                sums[:, place] = grouping.sum(rows).reshape(len(batch.buckets), -1, grid.width)
        found = {f"guardrail/{rule.name}": sums}
        if batch.weight is not None:
            # Beside the rows, not in them: without weights a state stays what it was, to the byte.
            known = np.where(counted & ~np.isnan(losses), batch.weight, 0.0)
            found[f"weight/{rule.name}"] = batch.by_bucket(batch.every.sum(known[:, np.newaxis]))
        return found

    def _cohorts(self, counts: NDArray[Any], slots: Mapping[str, int]) -> dict[str, int]:
        named = {name: slot for name, slot in sorted(slots.items()) if slot < self.other_slot and counts[slot]}
        return named | ({OTHER: self.other_slot} if counts[self.other_slot] else {})

    def _cells(self, rule: Rule, total: Tally, places: Mapping[str, int], large: set[str]) -> Iterable[Cell]:
        overall, cohort = self._grids[rule.name]
        state = total.rows(f"guardrail/{rule.name}", self._slots, (overall.width,))[list(places.values())]
        policy = self.settings.verdict
        logs = [
            np.concatenate([first[:1], rest[1:]])
            for first, rest in zip(overall.get(state), cohort.get(state), strict=True)
        ]
        e_promote, e_rollback = (np.exp(np.minimum(log, math.log(CAP))) for log in logs)
        n = state[:, betting.COUNT]
        weights = n
        if f"weight/{rule.name}" in total:
            weights = total.rows(f"weight/{rule.name}", self._slots, (1,))[list(places.values()), 0]
        lower, upper = interval(
            weights, state[:, betting.SUM], state[:, betting.SQUARES], rule.lo, rule.hi, policy.alpha_rollback
        )
        for at, name in enumerate(places):
            pairs, undefined = int(n[at]), int(state[at, betting.UNDEFINED])
            if not (pairs or undefined or self._may_apply(rule, name)):
                continue
            margin, weight = (rule.margin, rule.weight) if name == OVERALL else (rule.cohort_margin, rule.cohort_weight)
            promote_at, rollback_at = 1 / policy.alpha_promote, 1 / (policy.alpha_rollback * weight)
            yield Cell(
                guardrail=rule.name,
                metric=rule.metric.name,
                cohort=name,
                unit=rule.metric.unit,
                margin=margin,
                pairs=pairs,
                undefined=undefined,
                estimate=float(state[at, betting.SUM] / weights[at]) if pairs else None,
                interval=(float(lower[at]), float(upper[at])) if pairs else None,
                e_promote=float(e_promote[at]),
                e_rollback=float(e_rollback[at]),
                promote_at=promote_at,
                rollback_at=rollback_at,
                required=name == OVERALL or name in large,
                finding=decision_rules.finding(
                    float(e_promote[at]),
                    promote_at,
                    float(e_rollback[at]),
                    rollback_at,
                    pairs >= policy.min_pairs_rollback,
                ),
            )

    def _may_apply(self, rule: Rule, cohort: str) -> bool:
        """Whether pairs of a cohort can have the rule's metric, as far as the configuration says.

        A large cohort without data on a guardrail holds a promote back; one that only exists on routes where the
        guardrail is not looked at would do so for ever.
        """
        dimension = cohort.partition("=")[0]
        return cohort == OVERALL or dimension in self._dimensions[rule.name]

    def _forecast(self, unproven: Iterable[Cell], total: Tally, places: Mapping[str, int], pairs: int) -> float:
        """Pairs still needed for a promote, of all pairs; NaN where it can't be said."""
        longest = max(0.0, float(self.settings.verdict.min_pairs - pairs))
        for cell in unproven:
            overall, cohort = self._grids[cell.guardrail]
            grid = overall if cell.cohort == OVERALL else cohort
            row = total.rows(f"guardrail/{cell.guardrail}", self._slots, (grid.width,))[places[cell.cohort]]
            needed = grid.forecast(row, math.log(cell.promote_at))
            if math.isnan(needed):
                return math.nan
            longest = max(longest, needed * pairs / cell.pairs)
        return longest


def _grids(rule: Rule) -> tuple[MeanGrid, MeanGrid]:
    """The grids over all pairs and for one cohort, of one width."""
    margins = (rule.margin, rule.cohort_margin)
    size = max(MeanGrid(rule.lo, rule.hi, margin).size for margin in margins)
    overall, cohort = (MeanGrid(rule.lo, rule.hi, margin, size) for margin in margins)
    return overall, cohort


def _indices(rule: Rule, settings: Settings) -> list[int]:
    return [at for at, route in enumerate(settings.routes) if route.name in rule.routes]


def _dimensions(rule: Rule, settings: Settings) -> frozenset[str]:
    return frozenset(
        dimension
        for route in settings.routes
        if rule.metric.needs <= route.offers and (not rule.routes or route.name in rule.routes)
        for dimension in route.cohorts
    )


def _batch(
    columns: Columns,
    buckets: IntArray,
    part: IntArray,
    pairs: IntArray,
    slot: IntArray,
    weight: FloatArray | None,
) -> _Batch:
    n, slots = len(columns), int(slot.max(initial=0)) + 1
    at = np.searchsorted(part, buckets)
    there = (at < len(part)) & (part[np.minimum(at, len(part) - 1)] == buckets)
    chosen = np.flatnonzero(there if weight is None else there & (weight > 0))
    inside = np.isin(pairs, chosen) if len(chosen) < n else slice(None)
    pairs, slot = pairs[inside], slot[inside]
    cohorts = None
    if slots > 1:
        cohorts = Grouping(pairs, at[pairs] * (slots - 1) + slot - 1, n, len(part) * (slots - 1))
    members = np.concatenate([chosen, pairs])
    groups = np.concatenate([at[chosen] * slots, at[pairs] * slots + slot])
    return _Batch(
        columns=columns,
        buckets=part,
        slots=slots,
        overall=Grouping(chosen, at[chosen], n, len(part)),
        cohorts=cohorts,
        every=Grouping(members, groups, n, len(part) * slots),
        arrived=np.bincount(at[there], minlength=len(part)),
        weight=weight,
    )


def _pair_counts(batch: _Batch) -> IntArray:
    counts = batch.every.count(np.zeros(len(batch.columns), np.int64), 1)
    return counts.reshape(len(batch.buckets), batch.slots)


def _failure_counts(batch: _Batch) -> dict[str, IntArray]:
    column = {kind: at for at, kind in enumerate(FAILURES)}
    other = column["other"]
    counts = {}
    for side, kinds in batch.columns.failure.items():
        index = np.full(len(batch.columns), -1, np.int64)
        for at in np.flatnonzero(batch.columns.failed[side]).tolist():
            index[at] = column.get(kinds[at], other)
        counts[f"failures/{side.value}"] = batch.overall.count(index, len(FAILURES))
    return counts


def _failures(total: Tally) -> dict[str, dict[str, int]]:
    return {
        side.value: {kind: int(count) for kind, count in zip(FAILURES, stored, strict=False) if count}
        for side in Side
        if (stored := total.get(f"failures/{side.value}")) is not None
    }
