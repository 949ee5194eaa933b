"""The verdict on recorded pairs, without a store: what the workers would have counted of them, judged at once.

A recording is complete, so in the end every start-time bucket is closed. Until then buckets are closed as a worker
closes them, by the time at which entries were written: that keeps few of them open, however long the recording is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from shadowproxy.comparator.firsts import Remembered
from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.versions import VersionReader
from shadowproxy.config import Settings, experiment_id
from shadowproxy.model import Accounting, Pair, VersionSeen
from shadowproxy.pairs.lines import Recorded
from shadowproxy.pairs.recorded import Unreadable, place_of
from shadowproxy.verdict.guardrails.calibration import FEWEST
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Facts, Verdict

_MOST_PAIRS = 1000
_MOST_BYTES = 16 * 1024**2
"""What is compared at once: a bound on memory, and enough to forget what a batch costs."""
_UNKNOWN = "judged from recorded pairs: what was dropped, lost or left out before they were in a file is not known"
_NO_LABELS = "labels that came later are not in the recording: quality that waits for them is not judged"


@dataclass
class _Batch:
    pairs: list[Pair] = field(default_factory=list)
    size: int = 0
    written: float = -math.inf
    """Unix seconds at which the last of its entries was."""


class Judge:
    """Takes what is recorded, pair by pair, and gives the verdict on it.

    The figures are those that workers and `serve.reader.VerdictReader` give for the same stream, rounding aside; a
    guardrail that is calibrated may be so some pairs earlier or later, for in a store that depends on who reads when.
    Cohorts have their slots in the order in which they come.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError where guardrails contradict each other."""
        self._settings = settings
        self._comparer = Comparer(settings.routes)
        self._plan = Plan(settings)
        self._state = self._plan.empty()
        header = settings.verdict.version_header
        self._versions = None if header is None else VersionReader(header)
        self._seen: dict[tuple[str, str], tuple[float, float]] = {}
        self._slots: dict[str, int] = {}
        self._began: float | None = None
        self._batch = _Batch()
        self._firsts = Remembered() if settings.verdict.first_per_account else None
        self.pairs = 0
        """That were taken."""
        self.unreadable = 0
        """Lines and rows that held none."""

    def add(self, found: Recorded | Unreadable) -> None:
        """Take what comes next."""
        if isinstance(found, Unreadable):
            self.unreadable += 1
            return
        batch, pair = self._batch, found.pair
        self.pairs += 1
        batch.pairs.append(pair)
        sides = (pair.baseline, pair.candidate, pair.replica)
        batch.size += len(pair.request.body) + sum(len(side.body) for side in sides if side is not None)
        batch.written = max(batch.written, place_of(found)[0] / 1000)
        # As few at once as a guardrail is calibrated by, while one waits for that: what comes after it counts.
        if len(batch.pairs) >= (FEWEST if self._plan.waiting else _MOST_PAIRS) or batch.size >= _MOST_BYTES:
            self._count()

    def verdict(self, at: float, notes: Sequence[str] = ()) -> Verdict:
        """The verdict on everything that was taken; `at` is the Unix time of the reading."""
        self._count()
        state = self._state.close(math.inf)
        if self._firsts is not None:
            state = self._firsts.settled(state, math.inf)
        waits = self._settings.longest_wait is not None
        facts = Facts(
            at=at,
            experiment=experiment_id(self._settings),
            accounting=Accounting(requests=self.pairs, eligible=self.pairs, recorded=self.pairs),
            late_pairs=state.late,
            dead_letters=self.unreadable,
            version_header=self._settings.verdict.version_header,
            versions=self._seen_versions(),
            notes=(_UNKNOWN, *([_NO_LABELS] if waits else []), *notes),
        )
        return self._plan.judge(state.total, self._slots, facts)

    def _count(self) -> None:
        batch, self._batch = self._batch, _Batch()
        if not batch.pairs:
            return
        columns = self._comparer(batch.pairs)
        for names in columns.cohorts:
            for name in names:
                if len(self._slots) < self._settings.verdict.max_cohorts:
                    self._slots.setdefault(name, len(self._slots) + 1)
        self._note_versions(batch.pairs)
        if self._began is None:
            self._began = self._plan.begins(columns)
        if self._firsts is None:
            tallies = self._plan.tally(columns, self._slots, self._state.names, self._began)
            self._state = self._state.with_added(tallies).close(batch.written)
        else:
            ids = [pair.id for pair in batch.pairs]
            self._firsts.add(self._plan, columns, ids, self._slots, self._state.names, self._began)
            closed = self._state.close(batch.written)
            self._state = self._firsts.settled(closed, closed.closed_before(batch.written))
        self._calibrate(max(batch.written, float(columns.started.max())))

    def _calibrate(self, now: float) -> None:
        """As whoever reads a running experiment's verdict does, after every batch."""
        if not self._plan.waiting:
            return
        since = now + 2 * self._settings.verdict.settle
        due = self._plan.due(self._state.total)
        found = {name: msgspec.structs.replace(calibration, since=since) for name, calibration in due.items()}
        self._plan = self._plan.calibrated({**self._plan.calibrations, **found})

    def _note_versions(self, pairs: Sequence[Pair]) -> None:
        if self._versions is None:
            return
        for key, (first, last) in self._versions(pairs).items():
            known = self._seen.get(key, (first, last))
            self._seen[key] = (min(first, known[0]), max(last, known[1]))

    def _seen_versions(self) -> dict[str, tuple[VersionSeen, ...]]:
        found: dict[str, list[VersionSeen]] = {}
        for (side, value), (first, last) in sorted(self._seen.items(), key=lambda item: (item[0][0], item[1])):
            found.setdefault(side, []).append(VersionSeen(value=value, first=first, last=last))
        return {side: tuple(several) for side, several in found.items()}
