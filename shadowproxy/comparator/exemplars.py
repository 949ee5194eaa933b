"""What a worker keeps of the pairs it counts, for people to look at; `verdict.exemplars` says which."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from shadowproxy.compare.columns import Columns
from shadowproxy.errors import PayloadError
from shadowproxy.model import Pair
from shadowproxy.pairs.exemplars import NO_CHANGE, Change, largest, record_of
from shadowproxy.pairs.store import Entry, Store
from shadowproxy.verdict.exemplars import MOST_ORDINAL, Boards, Limits, keys, seed_of, select
from shadowproxy.verdict.plan import Plan

log = logging.getLogger(__name__)


class Keeper:
    """Chooses and packs what is kept. Holds no state: the boards are the worker's, as its state is.

    What it says of a batch is to be committed with it, or forgotten with it.
    """

    def __init__(self, store: Store, plan: Plan, limits: Limits) -> None:
        self._store = store
        self._plan = plan
        self._limits = limits
        self._seed = seed_of(store.name)
        self._routes = [route.name for route in plan.settings.routes]

    @property
    def nothing(self) -> Boards:
        """The boards of a worker that has counted nothing."""
        return Boards(self._limits)

    async def load(self, worker: str) -> Boards:
        """The boards that this worker has committed. Raises StoreUnavailable."""
        if not (self._limits.worst or self._limits.sample):
            return self.nothing
        return self.nothing.merge((await self._read([worker])).values())

    def offer(
        self,
        boards: Boards,
        entries: Sequence[Entry],
        counts: Sequence[int],
        pairs: Sequence[Pair],
        columns: Columns,
        slots: Mapping[str, int],
    ) -> tuple[Boards, Change]:
        """The boards with a batch's pairs, and what that changes in the store.

        `pairs` are the first `counts[0]` of `entries[0]`, and so on.
        """
        ordinal = np.repeat(np.array([entry.ordinal for entry in entries], np.int64), counts)
        position = np.concatenate([np.arange(count) for count in counts])
        key = keys(self._seed, self._store.partition, ordinal, position)
        chosen = select(boards, self._plan, columns, slots, key)
        # What shadowproxy did not write has no place of its own, and so no key.
        rows = {
            found.key: row for several in chosen.values() for row, found in several if 0 < ordinal[row] < MOST_ORDINAL
        }
        if not rows:
            return boards, NO_CHANGE
        within = np.repeat(np.arange(len(entries)), counts)
        records = {
            found: record_of(
                pairs[row],
                entry=entries[within[row]].id,
                position=int(position[row]),
                route=self._routes[at] if (at := int(columns.route[row])) >= 0 else "",
                cohorts=columns.cohorts[row],
                most=largest(self._limits.size),
            )
            for found, row in rows.items()
        }
        added = boards.with_found(
            {board: [found for _, found in several if found.key in rows] for board, several in chosen.items()},
            {found: len(record) for found, record in records.items()},
        )
        return added, _change(boards, added, records)

    async def absorb(self, boards: Boards, workers: Sequence[str]) -> tuple[Boards, Change, list[str]]:
        """The boards with those of dead workers, what that changes in the store, and whose could be read."""
        others = await self._read(workers)
        if not others:
            return boards, NO_CHANGE, []
        merged = boards.merge(others.values())
        held = {key for one in (boards, *others.values()) for key in one.sizes}
        gone = sorted(held - merged.sizes.keys())
        return merged, Change(merged.to_bytes(), {}, gone), list(others)

    async def _read(self, workers: Sequence[str]) -> dict[str, Boards]:
        found = {}
        for worker, stored in (await self._store.exemplars.of(workers)).items():
            try:
                found[worker] = Boards.from_bytes(stored)
            except PayloadError as error:
                # They are for people to look at; what is counted does not depend on them.
                log.warning("what worker %s kept of the pairs is left alone: %s", worker, error)
        return found


def _change(before: Boards, after: Boards, records: Mapping[int, bytes]) -> Change:
    added = {key: record for key, record in records.items() if key in after.sizes and key not in before.sizes}
    dropped = sorted(before.sizes.keys() - after.sizes.keys())
    # Without a change of the pairs there may be one of the floors; it is found again when it is missed.
    changed = added or dropped or before.boards != after.boards
    return Change(after.to_bytes(), added, dropped) if changed else NO_CHANGE
