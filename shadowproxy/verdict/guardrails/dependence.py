"""Pairs that depend on each other: how much so, guardrail by guardrail, and the remedy of judging by blocks of time.

Sums: `inflation/NAME`, a row for each key by which pairs may depend on each other, over all pairs; and with
`verdict.blocks` `blocks/NAME/ORIGIN/SEGMENT`, each with (n, ΣD) of `SEGMENT` blocks by slot (with weights, (Σw, ΣwD)).

What is measured is what the remedy in force leaves. Judged by pairs, that is their inflation by account and by time.
Judged by blocks, what pairs of one block do to each other is in one loss, and the question is whether the blocks are
long enough: whether their means still depend on their neighbours', over runs of several. By account the pairs are
measured in either case: one that returns for days makes far blocks dependent, which no run of neighbours shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shadowproxy.config.catalogue import QUANTILES
from shadowproxy.config.judging import Verdict as Policy
from shadowproxy.stats.additive import FloatArray, Grouping, IntArray
from shadowproxy.stats.betting import MeanGrid
from shadowproxy.stats.blocks import Schedule, folded, means, run_keys
from shadowproxy.stats.inflation import VarianceInflation
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.guardrails.batch import ACCOUNT, FIRST_COHORT, KEYS, SPANS, Batch
from shadowproxy.verdict.record import Check, Dependence

_RUN: Final = 8
BLOCKS: Final = f"{_RUN} blocks"
"""The key of runs of block means."""
SEGMENT: Final = 64
"""Blocks of one sum: a state has those where something fell."""
_SECONDS: Final = 256
_STATISTIC: Final = VarianceInflation()
_WITHOUT_BLOCKS: Final = frozenset({*QUANTILES, "scores.shift"})


class Inflation:
    """Counts, for one guardrail, what its inflation is read from. What is added up is what is bet on: w(D − d)."""

    def __init__(self, name: str, margin: float) -> None:
        self._name = f"inflation/{name}"
        self._margin = margin

    def counted(self, losses: FloatArray, batch: Batch) -> tuple[str, NDArray[Any]]:
        """What a batch adds (see `guards.Counter`). `losses` (n,): NaN where a pair doesn't count, or is undefined."""
        excess = losses - self._margin if batch.weight is None else batch.weight * (losses - self._margin)
        keys, grouping = batch.keyed
        sums = _STATISTIC.fold(np.column_stack([np.tile(excess, len(KEYS)), keys]), grouping)
        return self._name, sums.reshape(len(batch.buckets), len(KEYS), -1)

    def read(self, total: Tally) -> Mapping[str, tuple[float, float, float]]:
        """By key (VIF, its standard error, groups in effect); NaN where nothing can be said. Raises ValueError where
        `total` is of another plan."""
        found = _STATISTIC.get(total.rows(self._name, len(KEYS), (_STATISTIC.width,)))
        return dict(zip(KEYS, zip(*(map(float, column) for column in found), strict=True), strict=True))


def seconds(batch: Batch) -> NDArray[Any]:
    """What a batch adds to how many pairs began in each second, of 256 in a row: (buckets, 1, 256)."""
    started = batch.columns.started
    known = np.isfinite(started)
    second = np.where(known, np.mod(np.floor(np.where(known, started, 0.0)), _SECONDS), -1).astype(np.int64)
    return batch.overall.count(second, _SECONDS)[:, np.newaxis]


def duration(total: Tally, policy: Policy) -> Check:
    """Whether pairs were counted for long enough that it would show if they depended on each other."""
    counts: IntArray = total.rows("seconds", 1, (_SECONDS,))
    found = int(np.count_nonzero(counts))
    return Check(
        name="duration",
        passed=found >= policy.min_duration,
        detail=f"pairs began in {found:,} different seconds, at least {policy.min_duration:g} needed to tell whether "
        "they depend on each other; see verdict.min_duration",
    )


class BlockSums(NamedTuple):
    """Blocks of one guardrail in which something was counted."""

    blocks: IntArray
    """Ascending."""
    sums: FloatArray
    """(blocks, slots, 2)"""
    closed: NDArray[np.bool_]
    """(blocks,): of which everything is counted."""


class Blocks:
    """Counts one guardrail's losses by block of time, and makes one loss of each block that is closed."""

    def __init__(self, name: str, length: float, *, wait: float, slots: int) -> None:
        """`length`: of a block, seconds (see `stats.blocks`). `wait`: how long after a pair its loss may come, seconds.
        `slots`: how many rows a sum may have."""
        self._prefix = f"blocks/{name}/"
        self._length = length
        self._wait = wait
        self._slots = slots

    def counted(self, losses: FloatArray, batch: Batch) -> Iterator[tuple[str, NDArray[Any]]]:
        """See `Inflation.counted`. Raises ValueError where nobody has said when the experiment began."""
        if batch.origin is None:
            raise ValueError("blocks can't be counted without the time at which the first began")
        block = Schedule(self._length, batch.origin).index(batch.columns.started)
        segment, place = np.divmod(block, SEGMENT)
        weight = np.where(np.isnan(losses), 0.0, 1.0 if batch.weight is None else batch.weight)
        loss = np.where(np.isnan(losses), 0.0, losses) * weight
        for one in np.unique(segment[weight > 0]):
            inside = (segment == one) & (weight > 0)
            sums = np.stack([_table(batch.every, place, column * inside) for column in (weight, loss)], axis=-1)
            yield f"{self._prefix}{batch.origin:.0f}/{one}", batch.by_bucket(sums)

    def read(self, total: Tally) -> BlockSums:
        """The sums of all blocks that have any.

        A block is closed when something that started after it is in the sum of closed start-time buckets, and after as
        much time as its losses may take to come: buckets are closed in the order of time, so all of its own are.
        """
        found: dict[int, FloatArray] = {}
        origins = set()
        for name in total:
            if name.startswith(self._prefix):
                origin, _, segment = name.removeprefix(self._prefix).rpartition("/")
                origins.add(float(origin))
                found[int(segment)] = total.rows(name, self._slots, (2 * SEGMENT,))
        if len(origins) > 1:
            raise ValueError(f"{self._prefix}…: blocks of several beginnings, {sorted(origins)}, are not of one plan")
        if not found:
            nothing = np.zeros(0, np.int64)
            return BlockSums(nothing, np.zeros((0, self._slots, 2)), nothing.astype(np.bool_))
        segments = sorted(found)
        blocks = np.concatenate([np.arange(one * SEGMENT, (one + 1) * SEGMENT) for one in segments])
        shaped = [found[one].reshape(self._slots, SEGMENT, 2).swapaxes(0, 1) for one in segments]
        sums = np.concatenate(shaped)
        used = sums[:, 0, 0] > 0
        blocks, sums = blocks[used], sums[used]
        schedule = Schedule(self._length, origins.pop())
        return BlockSums(blocks, sums, schedule.end(blocks) + self._wait <= schedule.end(blocks[-1:] - 1))

    def rows(self, total: Tally, overall: MeanGrid, cohort: MeanGrid) -> FloatArray:
        """The state rows of both grids after one loss per closed block: (slots, width)."""
        _, sums, closed = self.read(total)
        return np.concatenate(
            [folded(overall, sums[:, :FIRST_COHORT], closed), folded(cohort, sums[:, FIRST_COHORT:], closed)]
        )

    def inflation(self, total: Tally) -> tuple[float, float, float]:
        """As a value of `Inflation.read`: that of the block means over all pairs, in runs of several."""
        blocks, sums, closed = self.read(total)
        values = np.column_stack([means(sums[:, :1], closed)[:, 0], run_keys(blocks, _RUN)])
        vif, error, groups = _STATISTIC.get(_STATISTIC.fold(values, Grouping.single(len(blocks))))
        return float(vif[0]), float(error[0]), float(groups[0])


def dependence(guardrail: str, found: Mapping[str, tuple[float, float, float]]) -> tuple[Dependence, ...]:
    """As records, of those keys for which something can be said."""
    return tuple(
        Dependence(guardrail=guardrail, by=key, inflation=vif, error=error, groups=groups)
        for key, (vif, error, groups) in found.items()
        if not np.isnan(vif)
    )


def independence(found: Sequence[Dependence], policy: Policy) -> Check:
    """Whether the pairs depend on each other no more than the stated error rates bear."""
    looked_at = [one for one in found if not (one.by == ACCOUNT and policy.closed_population)]
    worst = max(looked_at, key=lambda one: one.least, default=None)
    if worst is None:
        return Check(
            name="independence",
            passed=True,
            detail="of no guardrail can it be said yet whether its pairs depend on each other",
        )
    allowed = policy.max_inflation
    others = sum(one.least > allowed for one in looked_at) - 1
    if others < 0:
        return Check(name="independence", passed=True, detail=_told(worst, allowed))
    more = f"; and {others} more such figures" if others else ""
    remedy = _remedy(worst, found, by_blocks=policy.blocks is not None)
    return Check(name="independence", passed=False, detail=f"{_told(worst, allowed)}; {remedy}{more}")


def _told(one: Dependence, allowed: float) -> str:
    unit = "blocks" if one.by == BLOCKS else "pairs"
    figure = f"{one.inflation:.2g} (± {2 * one.error:.2g})"
    return (
        f"{one.guardrail}: by {one.by} the variance of its mean is {figure} times that of independent {unit}, "
        f"{allowed:g} allowed"
    )


def _remedy(one: Dependence, found: Sequence[Dependence], *, by_blocks: bool) -> str:
    if one.by == ACCOUNT:
        return (
            "set verdict.first_per_account: true, or verdict.closed_population: true if these accounts, drawn by "
            "chance, are all that matter"
        )
    if one.by == BLOCKS:
        return "make verdict.blocks longer"
    if by_blocks:
        return "only means are judged by blocks: guard the mean instead, such as latency.total_log2"
    if one.guardrail.partition("@")[0] in _WITHOUT_BLOCKS:
        # Blocks have no quantiles or distributions of their own.
        return "mirror a smaller share of the requests, for longer (proxy.mirror.sample)"
    return f"set verdict.blocks: {block_length([other for other in found if other.guardrail == one.guardrail])}"


def block_length(found: Sequence[Dependence]) -> str:
    """Blocks to try against what was found of one guardrail's time keys: ten times the span that shows most of it.

    >>> def by(*inflation: float) -> list[Dependence]:
    ...     found = zip(SPANS, inflation, strict=True)
    ...     return [Dependence(guardrail="x", by=key, inflation=vif, error=0, groups=9) for key, vif in found]
    >>> block_length(by(2.7, 3.0, 3.1)), block_length(by(1.4, 4.0, 4.1))
    ('10s', '100s')
    """
    by_span = {SPANS[one.by]: one.inflation for one in found if one.by in SPANS}
    most = max(by_span.values(), default=0.0)
    span = min((span for span, inflation in by_span.items() if inflation >= most / 2), default=1.0)
    return f"{10 * span:g}s"


def _table(grouping: Grouping, place: IntArray, column: FloatArray) -> FloatArray:
    """By group and place in a segment, the sum of a column: (n,), (n,) → (groups, SEGMENT)."""
    flat = grouping.group * SEGMENT + place[grouping.members]
    sums = np.bincount(flat, column[grouping.members], grouping.groups * SEGMENT)
    return np.asarray(sums, np.float64).reshape(grouping.groups, SEGMENT)
