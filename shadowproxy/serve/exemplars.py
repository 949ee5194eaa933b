"""The pairs that were kept to be looked at, of all partitions and workers together.

They are shown as soon as they are counted, in closed start-time buckets or not: a verdict rests on neither.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from shadowproxy.config import Settings
from shadowproxy.errors import PayloadError
from shadowproxy.model import Pair
from shadowproxy.pairs.exemplars import Record
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.report.view import Exemplar, ended
from shadowproxy.verdict.exemplars import SAMPLE, Board, Boards, Found, Limits
from shadowproxy.verdict.guardrails.rules import rules
from shadowproxy.verdict.record import OTHER, OVERALL

log = logging.getLogger(__name__)

_AT_ONCE = 100
"""Records that are held at once when one of them is looked for."""


class Kept(NamedTuple):
    """An exemplar with its pair."""

    exemplar: Exemplar
    pair: Pair


class ExemplarReader:
    """Reads the exemplars of an experiment anew each time. Every method raises StoreUnavailable."""

    def __init__(self, store: Partitions, settings: Settings) -> None:
        self._store = store
        self._limits = limits_of(settings)
        self._other = settings.verdict.max_cohorts + 1
        self.guardrails: Sequence[str] = [rule.name for rule in rules(settings)]
        """Their names, as `worst` knows them."""

    async def cohorts(self) -> list[str]:
        """The cohorts that `worst` knows."""
        return [OVERALL, *sorted(await self._store.home.slots((), 0)), OTHER]

    async def worst(self, guardrail: str | None = None, cohort: str = OVERALL, limit: int = 10) -> list[Kept]:
        """Up to `limit` pairs of each guardrail, or of one of them, in a cohort: worst first.

        Of what an experiment counted while less was kept, only that much is there.
        """
        slot = {**await self._store.home.slots((), 0), OVERALL: 0, OTHER: self._other}.get(cohort)
        names = [name for name in self.guardrails if guardrail in (None, name)]
        boards, partitions = await self._boards()
        chosen = [
            (name, found)
            for name in names
            for found in (boards.boards.get(Board(name, slot), [])[:limit] if slot is not None else [])
        ]
        return await self._with_pairs(chosen, partitions, cohort)

    async def sample(self, limit: int = 100) -> list[Kept]:
        """Up to `limit` pairs, each pair that was counted being as likely as any other; in the order of time."""
        boards, partitions = await self._boards()
        chosen = [(SAMPLE, found) for found in boards.boards.get(Board(SAMPLE, 0), [])[:limit]]
        return sorted(await self._with_pairs(chosen, partitions, OVERALL), key=lambda kept: kept.exemplar.started)

    async def find(self, id_: str) -> list[Kept]:
        """The exemplars of a request id, oldest first. Clients choose ids, and may choose one twice."""
        _, partitions = await self._boards()
        keys, found = sorted(partitions), []
        for first in range(0, len(keys), _AT_ONCE):
            for key, record in (await self._records(keys[first : first + _AT_ONCE], partitions)).items():
                if record.id == id_ and (kept := _kept(SAMPLE, None, OVERALL, record, partitions[key])) is not None:
                    found.append(kept)
        return sorted(found, key=lambda kept: _written(kept.exemplar.entry))

    async def _boards(self) -> tuple[Boards, Mapping[int, int]]:
        """Those of all workers, and by key of a pair in which partition it is."""
        stored = [(store.partition, boards) for store in self._store.stores for boards in await store.exemplars.all()]
        return merged(stored, self._limits)

    async def _records(self, keys: Sequence[int], partitions: Mapping[int, int]) -> dict[int, Record]:
        found: dict[int, Record] = {}
        for store in self._store.stores:
            own = [key for key in dict.fromkeys(keys) if partitions[key] == store.partition]
            for key, stored in (await store.exemplars.records(own)).items():
                try:
                    found[key] = Record.of(stored)
                except PayloadError as error:
                    log.warning("%s", error)
        return found

    async def _with_pairs(
        self, chosen: Sequence[tuple[str, Found]], partitions: Mapping[int, int], cohort: str
    ) -> list[Kept]:
        records = await self._records([found.key for _, found in chosen], partitions)
        kept = [
            _kept(name, found, cohort, records[found.key], partitions[found.key])
            for name, found in chosen
            if found.key in records
        ]
        return [one for one in kept if one is not None]


def limits_of(settings: Settings) -> Limits:
    """How much boards hold that are put together to be looked at."""
    return Limits(settings.comparator.worst, settings.comparator.sample, 1 << 62)


def merged(stored: Iterable[tuple[int, bytes]], limits: Limits) -> tuple[Boards, Mapping[int, int]]:
    """Boards as they are stored, by partition, as one; and by key of a pair in which partition it is."""
    read: list[Boards] = []
    partitions: dict[int, int] = {}
    for partition, one in stored:
        try:
            boards = Boards.from_bytes(one)
        except PayloadError as error:
            log.warning("some of the exemplars in partition %d are left out: %s", partition, error)
            continue
        read.append(boards)
        partitions |= dict.fromkeys(boards.sizes, partition)
    return Boards(limits).merge(read), partitions


def _kept(name: str, found: Found | None, cohort: str, record: Record, partition: int) -> Kept | None:
    try:
        pair = record.pair()
    except PayloadError as error:
        log.warning("%s", error)
        return None
    return Kept(exemplar_of(name, found, cohort, record, pair, partition), pair)


def exemplar_of(name: str, found: Found | None, cohort: str, record: Record, pair: Pair, partition: int) -> Exemplar:
    """A pair on a board, without heads and bodies; `pair` is the record's."""
    ranked = found if name != SAMPLE else None
    return Exemplar(
        guardrail=name or None,
        cohort=cohort,
        loss=None if ranked is None else ranked.loss,
        value=None if ranked is None else ranked.value,
        id=pair.id,
        started=pair.started,
        route=record.route,
        cohorts=record.cohorts,
        method=pair.request.method,
        target=pair.request.target,
        baseline=ended(pair.baseline),
        candidate=ended(pair.candidate),
        partition=partition,
        entry=record.entry,
        position=record.position,
    )


def _written(entry: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry.partition("-")
    return int(milliseconds), int(sequence)
