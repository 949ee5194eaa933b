"""What is counted of every pair, and what it comes to: from columns to sums, and from sums to a verdict."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns
from shadowproxy.compare.families import failures
from shadowproxy.compare.view import Counts
from shadowproxy.config.settings import Settings
from shadowproxy.model import Side
from shadowproxy.stats.additive import FloatArray, IntArray
from shadowproxy.stats.state import State, Tally
from shadowproxy.verdict import decide as decision_rules
from shadowproxy.verdict.decide import CAP, Decision
from shadowproxy.verdict.guardrails.batch import Batch, batch_of, membership
from shadowproxy.verdict.guardrails.calibrated import Calibrated, calibrated_guard, calibration_checks
from shadowproxy.verdict.guardrails.calibration import Calibration, WaitingGuard
from shadowproxy.verdict.guardrails.dependence import duration, independence, seconds
from shadowproxy.verdict.guardrails.guards import Counter, Guard
from shadowproxy.verdict.guardrails.means import MeanGuard
from shadowproxy.verdict.guardrails.ratios import PairedLatencies, RatioGuard, key
from shadowproxy.verdict.guardrails.rules import Rule, rules
from shadowproxy.verdict.reasons import reasons
from shadowproxy.verdict.record import OTHER, OVERALL, Cell, CohortReport, Facts, Forecast, Verdict
from shadowproxy.verdict.record import State as Decided
from shadowproxy.verdict.reported.curves import Curves
from shadowproxy.verdict.reported.distributions import Distributions
from shadowproxy.verdict.reported.summaries import Summaries
from shadowproxy.verdict.reported.tables import Tables

FAILURES: tuple[str, ...] = (*failures.KINDS, "other")
"""The kinds of failure that are told apart; `other` for a kind that a newer version counted."""

_MOST_GROUPS = 4096
"""Buckets × slots that are summed at once: bounds the memory of a batch spread over many buckets."""


class Plan:
    """How one configuration counts and judges. Holds no data.

    `calibrations` are what guardrails took from the first pairs, by name; those that need one and have none wait for it
    (see `calibration`). Raises ConfigError where guardrails contradict each other.
    """

    def __init__(self, settings: Settings, calibrations: Mapping[str, Calibration] = MappingProxyType({})) -> None:
        self.settings = settings
        self.calibrations = dict(calibrations)
        self.rules: tuple[Rule, ...] = rules(settings)
        self.other_slot = settings.verdict.max_cohorts + 1
        self._slots = self.other_slot + 1
        self._summaries = Summaries(settings.routes, self._slots)
        self._distributions = Distributions([route.name for route in settings.routes])
        self._tables = Tables([route.name for route in settings.routes])
        self._weighted = any(route.weight is not None for route in settings.routes)
        self._guards, self._counters = guards(self.rules, settings, self._slots, self.calibrations)
        self._dimensions = {rule.name: _dimensions(rule, settings) for rule in self.rules}

    def __repr__(self) -> str:
        return f"Plan({', '.join(rule.name for rule in self.rules)})"

    def calibrated(self, found: Mapping[str, Calibration]) -> Plan:
        """The same by these calibrations."""
        return self if found == self.calibrations else Plan(self.settings, found)

    @property
    def waiting(self) -> bool:
        """Whether a guardrail waits for its calibration."""
        return any(isinstance(guard, WaitingGuard) for guard in self._guards)

    def due(self, total: Tally) -> dict[str, Calibration]:
        """The calibrations that guardrails wait for and that everything in closed buckets is enough for, by name."""
        waiting = (guard for guard in self._guards if isinstance(guard, WaitingGuard))
        found = {guard.rule.name: guard.first.calibration(total) for guard in waiting}
        return {name: calibration for name, calibration in found.items() if calibration is not None}

    def empty(self) -> State:
        """The state of a worker that has counted nothing."""
        policy = self.settings.verdict
        return State(width=policy.bucket, settle=self.settings.longest_deadline + policy.settle)

    def tally(
        self,
        columns: Columns,
        slots: Mapping[str, int],
        counted: Collection[str] = (),
        origin: float | None = None,
    ) -> dict[int, tuple[Tally, int]]:
        """The sums of a batch by start-time bucket, each with its number of pairs; for `State.with_added`.

        `slots` gives each cohort's slot, 1 to `max_cohorts`; a cohort without one is pooled in `other_slot`, where a
        pair counts once however many such cohorts it has. `counted` are the names of the state that this is added to:
        they bound the rows of tables. `origin` is when the experiment began (see `begins`); it must be the same for all
        who count. A pair of weight 0 is in no sum, only in the number of pairs. Raises ValueError for a slot out of
        range, and without an origin where one is needed.
        """
        buckets = self._buckets(columns)
        return self._tallies(columns, buckets, np.unique(buckets), slots, counted, origin)

    def tally_each(
        self,
        columns: Columns,
        rows: IntArray,
        slots: Mapping[str, int],
        counted: Collection[str] = (),
        origin: float | None = None,
    ) -> dict[int, tuple[int, Tally, int]]:
        """As `tally`, but the sums of each of these pairs by itself: by row, its bucket, its sums, and 1.

        Raises ValueError likewise.
        """
        each = np.full(len(columns), -1, np.int64)
        each[rows] = rows
        buckets = self._buckets(columns)
        tallies = self._tallies(columns, each, np.unique(rows), slots, counted, origin)
        return {row: (int(buckets[row]), *counted_of) for row, counted_of in tallies.items()}

    def _buckets(self, columns: Columns) -> IntArray:
        """The start-time bucket of every pair."""
        width = self.settings.verdict.bucket
        # A start time that is no time at all must not take the worker down; it lands in the first or last bucket.
        started = np.nan_to_num(columns.started / width, nan=0.0, posinf=2.0**52, neginf=-(2.0**52))
        return np.floor(np.clip(started, -(2.0**52), 2.0**52)).astype(np.int64)

    def _tallies(
        self,
        columns: Columns,
        groups: IntArray,
        found: IntArray,
        slots: Mapping[str, int],
        counted: Collection[str],
        origin: float | None,
    ) -> dict[int, tuple[Tally, int]]:
        """By group that is in `found` (ascending), its sums and its number of pairs; `groups` (n,) by pair."""
        if not len(found):
            return {}
        pairs, slot = membership(columns.cohorts, slots, self.other_slot)
        tables = tuple(self._tables.gathered(columns.tables, counted))
        most = max(1, _MOST_GROUPS // (int(slot.max(initial=0)) + 1))
        tallies: dict[int, tuple[Tally, int]] = {}
        for first in range(0, len(found), most):
            part = found[first : first + most]
            batch = batch_of(columns, groups, part, pairs, slot, self._weights(columns), origin)
            tallies |= self._tally_part(batch, tables)
        return tallies

    def begins(self, columns: Columns) -> float | None:
        """When an experiment whose first batch this is may be said to begin, whole Unix seconds; None if no one asks.

        Blocks of time are counted from it. Every other moment does as well, as long as it is one for all.
        """
        if self.settings.verdict.blocks is None or not len(columns):
            return None
        return float(np.floor(columns.started.min()))

    def tally_labelled(
        self, columns: Columns, slots: Mapping[str, int], origin: float | None = None
    ) -> dict[int, tuple[Tally, int]]:
        """As `tally`, of pairs that were counted before, all but what `columns` have of them: no pair more.

        Raises ValueError likewise.
        """
        sums = {
            bucket: {name: array for name, array in tally.items() if name not in {"pairs", "seconds"}}
            for bucket, (tally, _) in self.tally(columns, slots, origin=origin).items()
        }
        return {bucket: (Tally(arrays), 0) for bucket, arrays in sums.items() if arrays}

    def memberships(self, columns: Columns, slots: Mapping[str, int]) -> tuple[IntArray, IntArray]:
        """(pair, cohort slot) of every membership, each once; `slots` as in `tally`. Raises ValueError likewise."""
        return membership(columns.cohorts, slots, self.other_slot)

    def losses(self, columns: Columns) -> Iterator[tuple[Rule, FloatArray, FloatArray]]:
        """Of every rule that some pair counts for: the metric's values and the losses, (n,) each, within their ranges.
        NaN where the pair does not count, or the value is undefined."""
        for guard in self._guards:
            found = guard.losses(columns)
            if found is not None:
                yield guard.rule, *found

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
        cells = [cell for guard in self._guards for cell in self._cells(guard, total, places, large)]
        dependence = [one for guard in self._guards for one in guard.dependence(total)]
        checks = (
            *decision_rules.checks(cells, pairs=pairs, facts=facts, policy=policy),
            duration(total, policy),
            independence(dependence, policy),
            *calibration_checks(self._guards, total),
        )
        decision = decision_rules.decide(cells, checks, pairs=pairs, latched=facts.latched is not None, policy=policy)
        forecast = self._forecast(decision, pairs, facts.rate)
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
                forecast=forecast,
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
            dependence=tuple(dependence),
            distributions=tuple(self._distributions.rows(total, places)),
            evidence_rollback=decision.evidence,
            forecast=forecast,
            notes=facts.notes,
            versions=dict(facts.versions),
            labels=facts.labels,
        )

    def curves(self, total: Tally, slots: Mapping[str, int]) -> Curves:
        """What is drawn of everything in closed buckets; `slots` as `judge` has them."""
        places = {OVERALL: 0, **self._cohorts(total.rows("pairs", self._slots, ()), slots)}
        return Curves([route.name for route in self.settings.routes], total, places)

    def _tally_part(
        self,
        batch: Batch,
        tables: Sequence[tuple[str, Counts]],
    ) -> dict[int, tuple[Tally, int]]:
        sums: dict[str, NDArray[Any]] = {"pairs": _pair_counts(batch), "seconds": seconds(batch)}
        for counter in self._counters:
            sums |= counter.counted(batch)
        sums |= {name: batch.by_bucket(rows) for name, rows in self._summaries.counted(batch.columns, batch.every)}
        sums |= _failure_counts(batch)
        sums |= {name: batch.by_bucket(rows) for name, rows in self._distributions.counted(batch.columns, batch.every)}
        for name, counts in tables:
            sums[name] = batch.overall.table(counts.pair, counts.column, counts.width)
        return {
            int(bucket): (Tally({name: array[at].copy() for name, array in sums.items()}), int(batch.arrived[at]))
            for at, bucket in enumerate(batch.buckets)
        }

    def _weights(self, columns: Columns) -> FloatArray | None:
        if not self._weighted:
            return None
        return np.ones(len(columns)) if columns.weight is None else columns.weight

    def _cohorts(self, counts: NDArray[Any], slots: Mapping[str, int]) -> dict[str, int]:
        named = {name: slot for name, slot in sorted(slots.items()) if slot < self.other_slot and counts[slot]}
        return named | ({OTHER: self.other_slot} if counts[self.other_slot] else {})

    def _cells(self, guard: Guard, total: Tally, places: Mapping[str, int], large: set[str]) -> Iterable[Cell]:
        rule, policy = guard.rule, self.settings.verdict
        places = {name: slot for name, slot in places.items() if rule.concerns(name)}
        found = guard.evidence(total, list(places.values()), policy.alpha_rollback)
        e_promote, e_rollback = (
            np.exp(np.minimum(log, math.log(CAP))) for log in (found.log_promote, found.log_rollback)
        )
        for at, (name, slot) in enumerate(places.items()):
            pairs, undefined = int(found.pairs[at]), int(found.undefined[at])
            if not (pairs or undefined or self._may_apply(rule, name)):
                continue
            margin, weight = (rule.margin, rule.weight) if name == OVERALL else (rule.cohort_margin, rule.cohort_weight)
            promote_at, rollback_at = 1 / rule.alpha, 1 / (policy.alpha_rollback * weight)
            required = name == OVERALL or name in large
            yield Cell(
                guardrail=rule.name,
                metric=rule.metric.name,
                cohort=name,
                unit=rule.metric.unit,
                margin=margin,
                pairs=pairs,
                undefined=undefined,
                estimate=_number(found.estimate[at]),
                interval=(float(found.lower[at]), float(found.upper[at])) if pairs else None,
                e_promote=float(e_promote[at]),
                e_rollback=float(e_rollback[at]),
                promote_at=promote_at,
                rollback_at=rollback_at,
                required=required,
                blocks=None if found.blocks is None else int(found.blocks[at]),
                needed=self._needed(guard, total, slot, pairs, promote_at) if required else None,
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

    def _needed(self, guard: Guard, total: Tally, slot: int, pairs: int, promote_at: float) -> float | None:
        """Pairs of all that are still needed until a cell is proven; None where it can't be said."""
        if not pairs:
            return None
        needed = guard.forecast(total, slot, math.log(promote_at))
        return None if math.isnan(needed) else needed * int(total["pairs"][0]) / pairs

    def _forecast(self, decision: Decision, pairs: int, rate: float | None) -> Forecast | None:
        """What a promote still takes; None where it can't be said, or nothing is to be waited for."""
        needed = [cell.needed for cell in decision.unproven]
        if decision.state is not Decided.CONTINUE or None in needed:
            return None
        least = float(self.settings.verdict.min_pairs - pairs)
        most = max([least, *(one for one in needed if one is not None)])
        return Forecast(pairs=most, seconds=most / rate if rate else None) if most > 0 else None


def guards(
    rules: Sequence[Rule], settings: Settings, slots: int, calibrations: Mapping[str, Calibration]
) -> tuple[tuple[Guard, ...], tuple[Counter, ...]]:
    """The guardrails of these rules, in their order, and what counts for them."""
    latencies: dict[str, PairedLatencies] = {}
    found: list[Guard] = []
    for rule in rules:
        if rule.metric.quantile is not None:
            shared = latencies.setdefault(key(rule), PairedLatencies(rule, settings, slots))
            found.append(RatioGuard(rule, shared))
        elif rule.metric.calibrated is not None:
            found.append(calibrated_guard(rule, settings, slots, calibrations.get(rule.name)))
        else:
            found.append(MeanGuard(rule, settings, slots))
    counting = (guard for guard in found if isinstance(guard, MeanGuard | Calibrated))
    return tuple(found), (*counting, *latencies.values())


def _dimensions(rule: Rule, settings: Settings) -> frozenset[str]:
    return frozenset(
        dimension
        for route in settings.routes
        if rule.metric.needs <= route.offers and (not rule.routes or route.name in rule.routes)
        for dimension in route.cohorts
    )


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _pair_counts(batch: Batch) -> IntArray:
    counts = batch.every.count(np.zeros(len(batch.columns), np.int64), 1)
    return counts.reshape(len(batch.buckets), batch.slots)


def _failure_counts(batch: Batch) -> dict[str, IntArray]:
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
