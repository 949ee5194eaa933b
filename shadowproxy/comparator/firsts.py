"""Each account's first pair, and no other: put aside when it is committed, counted when none earlier can come."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from shadowproxy.compare.columns import Columns
from shadowproxy.pairs.firsts import MOST, UNKNOWN, First, Start, named
from shadowproxy.pairs.store import Gone, Store
from shadowproxy.stats.state import State, Tally
from shadowproxy.verdict.plan import Plan

log = logging.getLogger(__name__)

_AT_ONCE = 500
"""Pairs that are counted in one step."""


def earliest_of(columns: Columns, names: Sequence[str], ids: Sequence[str]) -> dict[str, tuple[Start, int]]:
    """By account, as `pairs.firsts.named` has it, the start and the row of its earliest pair in a batch.

    `names` are each pair's own, `ids` the requests'.
    """
    earliest: dict[str, tuple[Start, int]] = {}
    for row, (started, account) in enumerate(zip(columns.started.tolist(), columns.account.tolist(), strict=True)):
        start = Start(started, hashlib.blake2b(ids[row].encode("utf-8", "replace"), digest_size=8).hexdigest())
        who = named(account, names[row])
        if who not in earliest or start < earliest[who][0]:
            earliest[who] = start, row
    return earliest


class Settler:
    """What a worker does about first pairs (see `pairs.firsts`). The state is the worker's, and handed back."""

    def __init__(self, store: Store, *, name: str, most: int = MOST) -> None:
        """`most`: accounts that are counted in all."""
        self._store = store
        self._name = name
        self._most = most

    async def firsts(
        self,
        plan: Plan,
        columns: Columns,
        names: Sequence[str],
        ids: Sequence[str],
        slots: Mapping[str, int],
        counted: Collection[str],
        origin: float | None,
    ) -> list[First]:
        """Those of these pairs that may be their account's first, each with what it adds to the sums.

        They are counted by `plan`. `names` are each pair's own, `ids` the requests'; the rest as for `Plan.tally`.
        Leaves out what can be told by now not to be one; what the store says then is what holds.
        """
        earliest = earliest_of(columns, names, ids)
        known = await self._store.find_firsts([who for who in earliest if not who.startswith(UNKNOWN)])
        for who, waits in known.items():
            if waits is None or waits <= earliest[who][0]:
                del earliest[who]
        rows = np.array(sorted(row for _, row in earliest.values()), np.int64)
        tallies = plan.tally_each(columns, rows, slots, counted, origin)
        return [First(who, start, plan.empty().add(*tallies[row]).to_bytes()) for who, (start, row) in earliest.items()]

    async def turn(self, state: State) -> State:
        """Count the first pairs in buckets that are closed, the earliest first, until all are."""
        before = state.closed_before(state.watermark)
        while due := await self._store.due_firsts(before, _AT_ONCE, self._most):
            after = state
            for one in due:
                opened = State.from_bytes(one.record).open
                after = after.with_added(
                    {index: (bucket.tally, bucket.pairs) for index, bucket in opened.items()}, late=False
                )
            try:
                await self._store.settle(self._name, due, after.to_bytes())
            except Gone as gone:
                log.debug("%s", gone)
                continue
            state = after
        return state


class Remembered:
    """The same without a store, for whoever counts everything alone and forgets it in the end."""

    def __init__(self, *, most: int = MOST) -> None:
        """`most`: accounts that are counted in all."""
        self._most = most
        self._counted: set[str] = set()
        self._waiting: dict[str, tuple[Start, int, Tally, int]] = {}
        self._pairs = 0

    def add(
        self,
        plan: Plan,
        columns: Columns,
        ids: Sequence[str],
        slots: Mapping[str, int],
        counted: Collection[str],
        origin: float | None,
    ) -> None:
        """Put aside those of these pairs that may be their account's first; arguments as of `Settler.firsts`."""
        names = [str(self._pairs + row) for row in range(len(columns))]
        self._pairs += len(columns)
        earliest = {
            who: (start, row)
            for who, (start, row) in earliest_of(columns, names, ids).items()
            if who not in self._counted and not (who in self._waiting and self._waiting[who][0] <= start)
        }
        rows = np.array(sorted(row for _, row in earliest.values()), np.int64)
        tallies = plan.tally_each(columns, rows, slots, counted, origin)
        self._waiting |= {who: (start, *tallies[row]) for who, (start, row) in earliest.items()}

    def settled(self, state: State, before: float) -> State:
        """With those counted that began before a time (Unix seconds), as `Settler.turn` does."""
        due = sorted((start, who) for who, (start, *_) in self._waiting.items() if start.at < before)
        for _, who in due:
            _, bucket, tally, pairs = self._waiting.pop(who)
            if not who.startswith(UNKNOWN):
                if len(self._counted) >= self._most:
                    continue
                self._counted.add(who)
            state = state.with_added({bucket: (tally, pairs)}, late=False)
        return state
