"""From what the workers have committed to the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from shadowproxy.config import Settings, experiment_id
from shadowproxy.pairs.store import Snapshot, Store
from shadowproxy.stats.state import State
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Facts, Verdict
from shadowproxy.verdict.record import State as Decision


@dataclass(frozen=True, slots=True)
class Reading:
    """A verdict and the store's facts that it was read with."""

    verdict: Verdict
    lag: int
    """Entries written and not committed."""
    lost_entries: int
    dead_letters: int


class VerdictReader:
    """Works the verdict out anew at every `read`; keeps nothing but the settings.

    A rollback is latched in the store the first time anybody reads it: the weighted mean of e-values may be acted on
    whenever it crosses, so a crossing stands even if later data would lower it (Ville's inequality).
    """

    def __init__(self, store: Store, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._settings = settings
        self._plan = Plan(settings)
        self._experiment = experiment_id(settings)
        self._clock = clock

    async def read(self) -> Reading:
        """Merge all workers' states, dead ones included, and judge.

        Raises StoreUnavailable, or PayloadError where a state was written by a newer version.
        """
        snapshot = await self._store.snapshot()
        verdict = self._judge(snapshot)
        if verdict.state is Decision.ROLLBACK and snapshot.latch is None:
            await self._store.latch(
                orjson.dumps({"at": verdict.at, "evidence": verdict.evidence_rollback, "reasons": verdict.reasons})
            )
        return Reading(verdict, snapshot.pending + snapshot.undelivered, snapshot.lost_entries, snapshot.dead_entries)

    def _judge(self, snapshot: Snapshot) -> Verdict:
        states = [State.from_bytes(stored) for stored in snapshot.states.values()]
        merged = self._plan.empty().merge(states).close(snapshot.watermark)
        facts = Facts(
            at=self._clock(),
            experiment=self._experiment,
            accounting=snapshot.accounting,
            open_pairs=merged.open_pairs,
            late_pairs=merged.late,
            lost_entries=snapshot.lost_entries,
            missing_pairs=snapshot.missing_pairs,
            dead_letters=snapshot.dead_entries,
            latched=None if snapshot.latch is None else tuple(orjson.loads(snapshot.latch)["reasons"]),
        )
        return self._plan.judge(merged.total, snapshot.slots, facts)
