"""What is known of every exemplar but its heads and bodies: kept in memory, and kept up with the store.

Looking through records anew for each search would read hundreds of megabytes. Of a record that is known already nothing
is read again, since it never changes; so only what has come since the last time is.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from shadowproxy.config import Settings
from shadowproxy.errors import PayloadError
from shadowproxy.model import Pair
from shadowproxy.pairs.exemplars import Record
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.report.view import Exemplar, Standing
from shadowproxy.serve.exemplars import exemplar_of, limits_of, merged
from shadowproxy.verdict.exemplars import SAMPLE, Board, Boards, Found
from shadowproxy.verdict.guardrails.rules import rules
from shadowproxy.verdict.record import OTHER, OVERALL

log = logging.getLogger(__name__)

_AT_ONCE: Final = 100
"""Records that are held at once while they are read."""


class _Known(NamedTuple):
    exemplar: Exemplar
    """As one of the sample."""
    text: str
    """What a search looks at, in lower case."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for. None: whatever it is."""

    guardrail: str | None = None
    cohort: str | None = None
    route: str | None = None
    answer: str | None = None
    """How the candidate answered: an outcome, or a class of statuses such as `5xx`."""
    id: str | None = None
    text: str | None = None
    """Is in the id, the target, the cohorts, the route or in what failed, whatever the case of letters."""
    worst: bool = True
    """Whether pairs among the worst are wanted, and pairs of the sample."""
    sample: bool = True


class ExemplarIndex:
    """The exemplars of an experiment. Every method raises StoreUnavailable."""

    def __init__(self, store: Partitions, settings: Settings) -> None:
        self._store = store
        self._limits = limits_of(settings)
        self._other = settings.verdict.max_cohorts + 1
        self.guardrails: Sequence[str] = [rule.name for rule in rules(settings)]
        """Their names, in the configuration's order."""
        self.routes: Sequence[str] = [route.name for route in settings.routes]
        self._lock = asyncio.Lock()
        self._stored: list[tuple[int, bytes]] = []
        self._boards = Boards(self._limits)
        self._partitions: Mapping[int, int] = {}
        self._slots: Mapping[str, int] = {}
        self._known: dict[int, _Known] = {}
        self._damaged: set[int] = set()

    async def cohorts(self) -> list[str]:
        """Those that there may be exemplars of."""
        return [OVERALL, *sorted(await self._store.home.slots((), 0)), OTHER]

    async def found(self, wanted: Wanted) -> list[Exemplar]:
        """All that fit: the worst of each guardrail, worst first, each pair once unless a guardrail is named; then
        those of the sample that are not among them, newest first."""
        async with self._lock:
            await self._keep_up()
            # Nothing waits from here on, so that one request sees one state.
            return list(self._chosen(wanted))

    async def worst(self) -> dict[tuple[str, str], str]:
        """By guardrail and cohort, the request id of the pair with the greatest loss."""
        async with self._lock:
            await self._keep_up()
            slots = {**self._slots, OVERALL: 0, OTHER: self._other}
            first = {
                (name, cohort): self._known.get(found[0].key)
                for name in self.guardrails
                for cohort, slot in slots.items()
                if (found := self._on(name, slot))
            }
        return {place: known.exemplar.id for place, known in first.items() if known is not None}

    async def sample(self, limit: int) -> list[Exemplar]:
        """Up to `limit` pairs, each pair that was counted being as likely as any other; in the order of time."""
        async with self._lock:
            await self._keep_up()
            keys = [found.key for found in self._on(SAMPLE, 0)[:limit]]
            found = [self._known[key].exemplar for key in keys if key in self._known]
        return sorted(found, key=lambda exemplar: exemplar.started)

    async def one(
        self, id_: str, *, partition: int | None = None, entry: str | None = None, position: int | None = None
    ) -> tuple[Exemplar, Pair, tuple[Standing, ...], int] | None:
        """The newest exemplar of a request id with its pair, where it stands, and how many have this id; or the one at
        this place. None where there is none."""
        async with self._lock:
            await self._keep_up()
            keys = [key for key, known in self._known.items() if known.exemplar.id == id_]
            fitting = [key for key in keys if _at(self._known[key].exemplar, partition, entry, position)]
            if not fitting:
                return None
            key = max(fitting, key=lambda key: _order(self._known[key].exemplar))
            standings = tuple(self._standings(key))
            exemplar = self._known[key].exemplar
            [store] = [one for one in self._store.stores if one.partition == self._partitions[key]]
            stored = (await store.exemplars.records([key])).get(key)
        if stored is None:
            return None
        if standings:
            first = standings[0]
            exemplar = msgspec.structs.replace(
                exemplar, guardrail=first.guardrail, cohort=first.cohort, loss=first.loss, value=first.value
            )
        return exemplar, Record.of(stored).pair(), standings, len(keys)

    async def _keep_up(self) -> None:
        """Know what the store has now."""
        self._slots = await self._store.home.slots((), 0)
        stored = [(store.partition, boards) for store in self._store.stores for boards in await store.exemplars.all()]
        if stored != self._stored:
            self._boards, self._partitions = await asyncio.to_thread(merged, stored, self._limits)
            self._stored = stored
        there = self._boards.sizes.keys()
        self._known = {key: known for key, known in self._known.items() if key in there}
        self._damaged &= there
        new = [key for key in there if key not in self._known and key not in self._damaged]
        for store in self._store.stores:
            own = [key for key in new if self._partitions[key] == store.partition]
            for first in range(0, len(own), _AT_ONCE):
                records = await store.exemplars.records(own[first : first + _AT_ONCE])
                known = await asyncio.to_thread(_known, records, store.partition)
                self._known |= known
                self._damaged |= records.keys() - known.keys()

    def _chosen(self, wanted: Wanted) -> Iterator[Exemplar]:
        seen: set[int] = set()
        cohort = OVERALL if wanted.cohort is None else wanted.cohort
        if wanted.worst:
            slot = {**self._slots, OVERALL: 0, OTHER: self._other}.get(cohort)
            for name in self.guardrails if wanted.guardrail is None else (wanted.guardrail,):
                for found in self._on(name, slot):
                    known = self._known.get(found.key)
                    if known is not None and found.key not in seen and _fits(known, wanted):
                        seen.add(found.key)
                        yield _ranked(known.exemplar, name, cohort, found)
        if wanted.sample and wanted.guardrail is None:
            sampled = ((found.key, self._known.get(found.key)) for found in self._on(SAMPLE, 0))
            fitting = [
                known.exemplar
                for key, known in sampled
                if known is not None and key not in seen and _fits(known, wanted) and self._in(known.exemplar, cohort)
            ]
            yield from sorted(fitting, key=lambda exemplar: exemplar.started, reverse=True)

    def _on(self, guardrail: str, slot: int | None) -> Sequence[Found]:
        return () if slot is None else self._boards.boards.get(Board(guardrail, slot), ())

    def _in(self, exemplar: Exemplar, cohort: str) -> bool:
        if cohort == OTHER:
            return any(name not in self._slots for name in exemplar.cohorts)
        return cohort == OVERALL or cohort in exemplar.cohorts

    def _standings(self, key: int) -> Iterator[Standing]:
        names = {0: OVERALL, self._other: OTHER} | {slot: name for name, slot in self._slots.items()}
        for slot in sorted(names):
            for guardrail in self.guardrails:
                for rank, found in enumerate(self._on(guardrail, slot), 1):
                    if found.key == key:
                        yield Standing(
                            guardrail=guardrail, cohort=names[slot], rank=rank, loss=found.loss, value=found.value
                        )


def _known(records: Mapping[int, bytes], partition: int) -> dict[int, _Known]:
    found = {}
    for key, stored in records.items():
        try:
            record = Record.of(stored)
            pair = record.pair()
        except PayloadError as error:
            log.warning("%s", error)
            continue
        exemplar = exemplar_of(SAMPLE, None, OVERALL, record, pair, partition)
        words = (pair.id, pair.request.method, pair.request.target, record.route, *record.cohorts)
        details = (pair.baseline.detail, pair.candidate.detail)
        found[key] = _Known(exemplar, "\n".join((*words, *details)).lower())
    return found


def _ranked(exemplar: Exemplar, guardrail: str, cohort: str, found: Found) -> Exemplar:
    return msgspec.structs.replace(
        exemplar,
        guardrail=guardrail,
        cohort=cohort,
        loss=found.loss,
        value=found.value if math.isfinite(found.value) else None,
    )


def _fits(known: _Known, wanted: Wanted) -> bool:
    exemplar = known.exemplar
    return (
        wanted.route in (None, exemplar.route)
        and wanted.id in (None, exemplar.id)
        and wanted.answer in (None, exemplar.candidate.outcome, f"{exemplar.candidate.status // 100}xx")
        and (wanted.text is None or wanted.text.lower() in known.text)
    )


def _at(exemplar: Exemplar, partition: int | None, entry: str | None, position: int | None) -> bool:
    return (
        partition in (None, exemplar.partition)
        and entry in (None, exemplar.entry)
        and position in (None, exemplar.position)
    )


def _order(exemplar: Exemplar) -> tuple[int, int, int]:
    milliseconds, _, sequence = exemplar.entry.partition("-")
    return int(milliseconds), int(sequence), exemplar.position
