"""From what the workers have committed to the verdict."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from shadowproxy.config import Settings
from shadowproxy.errors import PayloadError, StoreUnavailable
from shadowproxy.metrics import StreamReading
from shadowproxy.model import VersionSeen
from shadowproxy.pairs.calibrations import calibrate, calibrations
from shadowproxy.pairs.experiments import History, Moment, history, remember, versions
from shadowproxy.pairs.labels import CountedLabels
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Snapshot
from shadowproxy.pairs.trail import Point, due, keep, trail
from shadowproxy.stats.state import State
from shadowproxy.verdict.decide import CAP
from shadowproxy.verdict.guardrails.calibration import calibrations_of
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Facts, Labels, Verdict, cells
from shadowproxy.verdict.record import State as Decision
from shadowproxy.verdict.reported.curves import Curves

log = logging.getLogger(__name__)

_REMEDY = "update shadowproxy if a newer one runs beside it, else begin anew under another name in `experiment`"

_MOST_AHEAD = 3600.0
"""Seconds: a proxy whose clock is ahead by more than that must not put a calibration off for as long."""


class _Latch(msgspec.Struct, frozen=True, kw_only=True):
    """Why and when an experiment was rolled back, as it is stored."""

    at: float
    evidence: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """A verdict and the store's facts that it was read with."""

    verdict: Verdict
    stream: StreamReading
    read_at: float
    """Unix time of the snapshot, by the store's clock."""
    curves: Curves
    """Of the same closed buckets."""
    resets: int = 0
    """How often the experiment had been reset."""


class VerdictReader:
    """Works the verdict out anew at every `read`; keeps nothing but the settings, and what it has complained of.

    A rollback is latched in the store the first time anybody reads it: the weighted mean of e-values may be acted on
    whenever it crosses, so a crossing stands even if later data would lower it (Ville's inequality).

    The store says which experiment it is: `settings` may be those of another time (see `config.thawed`). With
    `looks_on` nothing is written, by somebody who judges an experiment that is not theirs.
    """

    def __init__(
        self,
        store: Partitions,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.time,
        looks_on: bool = False,
    ) -> None:
        self._store = store
        self._settings = settings
        self._plan = Plan(settings)
        self._experiment = store.name
        self._clock = clock
        self._looks_on = looks_on
        self._unremembered = ""
        self._trailed = 0
        self._trail: list[Point] = []
        self._trail_resets = -1
        self._trail_lock = asyncio.Lock()

    @property
    def settings(self) -> Settings:
        """Those that it judges by."""
        return self._settings

    async def read(self) -> Reading:
        """Merge all workers' states, dead ones included, and judge.

        Raises StoreUnavailable, or PayloadError where something stored can't be read or does not fit: a newer version
        wrote it, or it is damaged. Nothing is left out then: a verdict on some of the states would be of chosen pairs.
        """
        snapshot = await self._store.snapshot()
        notes = await self._notes()
        seen = await self._versions()
        latched = None if snapshot.latch is None else self._latched(snapshot.latch)
        # Of tens of cohorts it takes a tenth of a second, in which requests and scrapes are answered.
        states = await asyncio.to_thread(self._states, snapshot)
        try:
            await self._calibrate(states.values(), snapshot)
            verdict, curves = await asyncio.to_thread(
                self._judge, states.values(), snapshot.watermark, snapshot, latched, notes, seen
            )
        except ValueError as error:
            raise PayloadError(self._blame(states, snapshot, error)) from None
        if verdict.state is Decision.ROLLBACK and snapshot.latch is None and not self._looks_on:
            await self._store.home.latch(
                msgspec.json.encode(
                    _Latch(at=verdict.at, evidence=verdict.evidence_rollback, reasons=verdict.reasons),
                ),
                resets=snapshot.resets,
            )
        return Reading(verdict, _stream(snapshot), snapshot.time, curves, snapshot.resets)

    async def remember(self, reading: Reading) -> float | None:
        """Add the verdict to the experiment's history where its state has changed, and to its trail where it is due.

        Returns since when (Unix seconds, the store's clock) the verdict has the state that it has; None where that is
        not known. Never raises: a store that can't take it must not harm the verdict, and is asked again with the next.
        """
        if self._looks_on:
            return None
        verdict = reading.verdict
        moment = Moment(
            what=verdict.state.value,
            exhausted=verdict.exhausted,
            pairs=verdict.pairs,
            evidence=verdict.evidence_rollback,
            reasons=verdict.reasons,
        )
        try:
            last = await remember(self._store.home, moment, reading.read_at)
            await self._leave_trail(reading)
        except (StoreUnavailable, PayloadError) as error:
            if str(error) != self._unremembered:
                log.warning("the history of the verdict can't be kept: %s", error)
            self._unremembered = str(error)
            return None
        self._unremembered = ""
        # The last one is of another kind where somebody else's reading was the later one.
        return last.at if last is not None and last.kind == moment.kind else None

    async def _leave_trail(self, reading: Reading) -> None:
        pairs = reading.verdict.pairs
        # Fewer than before: it was reset.
        if pairs and (pairs < self._trailed or due(self._trailed, pairs)):
            self._trailed = await keep(self._store.home, point_of(reading), resets=reading.resets)

    async def evidence(self, reading: Reading) -> list[Point]:
        """How the evidence went, oldest first, up to this reading.

        Raises StoreUnavailable, and PayloadError where it can't be read.
        """
        async with self._trail_lock:
            if reading.resets != self._trail_resets:
                self._trail, self._trail_resets = [], reading.resets
            for point in await trail(self._store.home, after=self._trail[-1].pairs if self._trail else 0):
                same = self._trail and self._trail[-1].cells == point.cells
                # Their names are most of a point, and hardly ever new.
                self._trail.append(msgspec.structs.replace(point, cells=self._trail[-1].cells) if same else point)
        now = point_of(reading)
        return [*(point for point in self._trail if point.pairs < now.pairs), now]

    async def history(self) -> History:
        """How the verdict changed, newest first. Raises StoreUnavailable, and PayloadError where it can't be read."""
        return await history(self._store.home)

    async def _calibrate(self, states: Iterable[State], snapshot: Snapshot) -> None:
        """Judge by the calibrations that are stored, and store those that the closed buckets are enough for by now."""
        if not (self._plan.waiting or self._plan.calibrations):
            return
        # Anew each time: a reset forgets them.
        self._plan = self._plan.calibrated(calibrations_of(await calibrations(self._store.home)))
        if not self._plan.waiting or self._looks_on:
            return
        merged = self._plan.empty().merge(states).close(snapshot.watermark)
        if due := self._plan.due(merged.total):
            stored = await calibrate(
                self._store.home,
                {name: calibration.to_bytes() for name, calibration in due.items()},
                newest=min((max(merged.open, default=0) + 1) * merged.width, snapshot.time + _MOST_AHEAD),
                grace=2 * self._settings.verdict.settle,
                resets=snapshot.resets,
            )
            self._plan = self._plan.calibrated(calibrations_of(stored))

    def _judge(
        self,
        states: Iterable[State],
        watermark: float,
        snapshot: Snapshot,
        latched: tuple[str, ...] | None,
        notes: tuple[str, ...] = (),
        seen: Mapping[str, tuple[VersionSeen, ...]] | None = None,
    ) -> tuple[Verdict, Curves]:
        merged = self._plan.empty().merge(states).close(watermark)
        facts = Facts(
            at=self._clock(),
            experiment=self._experiment,
            accounting=snapshot.accounting,
            open_pairs=merged.open_pairs,
            rate=merged.rate,
            late_pairs=merged.late,
            lost_entries=snapshot.lost_entries,
            missing_pairs=snapshot.missing_pairs,
            dead_letters=snapshot.dead_entries,
            clock_behind=snapshot.clock_behind(self._settings.longest_deadline + self._settings.verdict.settle),
            latched=latched,
            version_header=self._settings.verdict.version_header,
            versions=seen or {},
            notes=notes,
            labels=None if self._settings.longest_wait is None else _labels(snapshot.labels),
        )
        total, slots = merged.total, snapshot.slots
        return self._plan.judge(total, slots, facts), self._plan.curves(total, slots)

    async def _versions(self) -> Mapping[str, tuple[VersionSeen, ...]]:
        # After the snapshot: what its pairs were answered by was noted before they were committed.
        return {} if self._settings.verdict.version_header is None else await versions(self._store.home)

    async def _notes(self) -> tuple[str, ...]:
        """What people have said to the proxies, where it explains why few pairs come or none."""
        try:
            controls = (await self._store.home.control_status()).controls
        except PayloadError as error:
            return (str(error),)
        return (controls.story,) if controls.silent or controls.sample is not None else ()

    def _states(self, snapshot: Snapshot) -> dict[str, State]:
        return {worker: self._state(worker, stored) for worker, stored in snapshot.states.items()}

    def _state(self, worker: str, stored: bytes) -> State:
        try:
            return State.from_bytes(stored)
        except PayloadError as error:
            raise PayloadError(self._unusable([worker], error)) from None

    def _latched(self, stored: bytes) -> tuple[str, ...]:
        try:
            return msgspec.json.decode(stored, type=_Latch).reasons
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise PayloadError(f"the latch of {self._experiment} can't be read: {error}; {_REMEDY}") from None

    def _blame(self, states: Mapping[str, State], snapshot: Snapshot, error: ValueError) -> str:
        """Which of the states does not fit the plan by itself."""
        wrong = []
        for worker, state in states.items():
            try:
                self._judge([state], math.inf, snapshot, None)
            except ValueError:
                wrong.append(worker)
        return self._unusable(wrong or list(states), error)

    def _unusable(self, workers: Sequence[str], error: Exception) -> str:
        return f"what {', '.join(workers)} counted for {self._experiment} can't be used: {error}; {_REMEDY}"


def point_of(reading: Reading) -> Point:
    """Where the evidence stands."""
    verdict = reading.verdict
    found = list(cells(verdict))
    return Point(
        at=reading.read_at,
        pairs=verdict.pairs,
        evidence=verdict.evidence_rollback,
        cells=tuple((cell.guardrail, cell.cohort) for cell in found),
        promote=tuple(_thousandths(cell.e_promote) for cell in found),
        rollback=tuple(_thousandths(cell.e_rollback) for cell in found),
    )


def _thousandths(e: float) -> int:
    """Of the decimal logarithm; an e-value that has run down to nothing is 1e-300."""
    return round(1000 * math.log10(max(e, 1 / CAP)))


def _labels(counted: CountedLabels) -> Labels:
    return Labels(**{name: getattr(counted, name) for name in Labels.__struct_fields__})


def _stream(snapshot: Snapshot) -> StreamReading:
    return StreamReading(
        lag=snapshot.pending + snapshot.undelivered,
        pending=snapshot.pending,
        waiting_bytes=snapshot.waiting_bytes,
        kept_bytes=snapshot.kept_bytes,
        lost_entries=snapshot.lost_entries,
        lost_pairs=snapshot.lost_pairs,
        missing_pairs=snapshot.missing_pairs,
        dead_letters=snapshot.dead_entries,
    )
