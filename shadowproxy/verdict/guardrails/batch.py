"""A batch's pairs by start-time bucket and cohort slot: what everything that is counted is summed over."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns
from shadowproxy.stats.additive import FloatArray, Grouping, IntArray
from shadowproxy.stats.inflation import account_keys, time_keys

FIRST_COHORT = 1
"""The slot of the first cohort; that of all pairs is 0."""


ACCOUNT: Final = "account"
SPANS: Final[Mapping[str, float]] = MappingProxyType({"1 s": 1.0, "10 s": 10.0, "60 s": 60.0})
"""Time blocks by which pairs may depend on each other, seconds."""
KEYS: Final = (ACCOUNT, *SPANS)


@dataclass(frozen=True)
class Batch:
    """A batch's pairs by bucket and slot."""

    columns: Columns
    buckets: IntArray
    """The start-time buckets that occur, ascending."""
    slots: int
    """One more than the highest slot that occurs."""
    overall: Grouping
    """By bucket."""
    cohorts: Grouping | None
    """By bucket and cohort slot, of which the first is 0 here; None where no pair has a cohort."""
    every: Grouping
    """By bucket and slot, slot 0 included."""
    arrived: IntArray
    """Pairs by bucket, those of weight 0 included, which are in no group."""
    weight: FloatArray | None
    """By pair; None where no route weighs any."""
    origin: float | None = None
    """When the experiment began, Unix seconds; None where nothing depends on it."""

    @functools.cached_property
    def keyed(self) -> tuple[FloatArray, Grouping]:
        """By what pairs may depend on each other: the key of every pair for the first of `KEYS`, for the second and so
        on, and groups of these, by bucket and which of `KEYS` it is."""
        by_time = (time_keys(self.columns.started, span) for span in SPANS.values())
        each = np.arange(len(KEYS))[:, np.newaxis]
        return np.concatenate([account_keys(self.columns.account), *by_time]), Grouping(
            (self.overall.members + each * self.overall.values).ravel(),
            (self.overall.group * len(KEYS) + each).ravel(),
            self.overall.values * len(KEYS),
            self.overall.groups * len(KEYS),
        )

    def by_bucket(self, sums: NDArray[Any]) -> NDArray[Any]:
        """(buckets · slots, w) → (buckets, slots, w)."""
        return sums.reshape(len(self.buckets), self.slots, -1)


def batch_of(
    columns: Columns,
    buckets: IntArray,
    part: IntArray,
    pairs: IntArray,
    slot: IntArray,
    weight: FloatArray | None,
    origin: float | None = None,
) -> Batch:
    """The pairs of those buckets that are in `part`. `pairs`, `slot`: as `membership` gives them; `weight` by pair."""
    n, slots = len(columns), int(slot.max(initial=0)) + 1
    at = np.searchsorted(part, buckets)
    there = (at < len(part)) & (part[np.minimum(at, len(part) - 1)] == buckets)
    chosen = np.flatnonzero(there if weight is None else there & (weight > 0))
    inside = np.isin(pairs, chosen) if len(chosen) < n else slice(None)
    pairs, slot = pairs[inside], slot[inside]
    cohorts = None
    if slots > FIRST_COHORT:
        cohorts = Grouping(pairs, at[pairs] * (slots - 1) + slot - 1, n, len(part) * (slots - 1))
    members = np.concatenate([chosen, pairs])
    groups = np.concatenate([at[chosen] * slots, at[pairs] * slots + slot])
    return Batch(
        columns=columns,
        buckets=part,
        slots=slots,
        overall=Grouping(chosen, at[chosen], n, len(part)),
        cohorts=cohorts,
        every=Grouping(members, groups, n, len(part) * slots),
        arrived=np.bincount(at[there], minlength=len(part)),
        weight=weight,
        origin=origin,
    )


def membership(
    cohorts: Sequence[tuple[str, ...]], slots: Mapping[str, int], other_slot: int
) -> tuple[IntArray, IntArray]:
    """(pair, cohort slot) of every membership, each once. Raises ValueError for a slot out of range."""
    wrong = {name: slot for name, slot in slots.items() if not FIRST_COHORT <= slot < other_slot}
    if wrong:
        raise ValueError(f"cohort slots run from 1 to {other_slot - 1}, not {wrong}")
    known: dict[tuple[str, ...], tuple[int, ...]] = {
        names: tuple({slots.get(name, other_slot) for name in names}) for names in set(cohorts)
    }
    each = [known[names] for names in cohorts]
    lengths = np.fromiter(map(len, each), np.int64, len(each))
    slot = np.fromiter((one for several in each for one in several), np.int64, int(lengths.sum()))
    return np.repeat(np.arange(len(each)), lengths), slot


def of_routes(columns: Columns, routes: Collection[int] | None) -> NDArray[np.bool_]:
    """Whether each pair is of one of these routes, by index; None for all of them, those of no route included."""
    if routes is None:
        return np.ones(len(columns), np.bool_)
    return np.isin(columns.route, list(routes))
