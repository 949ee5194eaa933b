"""What a guardrail takes from an experiment's first pairs, and keeps: where it clips, at which scores it compares.

A loss without bounds can't be bet on, and no one knows the scale of a service's scores beforehand. So some guardrails
count nothing at first. When the first `FEWEST` pairs are in closed buckets, what they need is taken from the sums of
these, written to the store once, and never changes again. What makes that sound:

* it is taken from closed buckets, whose pairs don't depend on how answers came out, and it is known before any pair
  that it is applied to;
* a pair counts for the guardrail if it *started* at `since` or later, whoever counts it and whenever. That moment is
  after all starts that had been seen and later than the store's time, by twice the grace for clocks. Workers look for
  a calibration after they have read a batch and before they count it. One that found none did so before it was
  written; what it had read by then had started before `since`, as long as no proxy's clock is ahead by more than all
  that. So every pair that starts at `since` or later is counted by somebody who knows the calibration, and no pair
  that is earlier by anybody;
* `since` is in the name of the sums. Were a calibration ever lost and another one written, what was counted by the
  first would not be mixed with the second's; nobody would look at it.

STATISTICS §5.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns
from shadowproxy.config.settings import Settings
from shadowproxy.errors import PayloadError
from shadowproxy.model import Side
from shadowproxy.stats.additive import FloatArray, IntArray
from shadowproxy.stats.histogram import LatencyHistogram, ScoreHistogram
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.guardrails.batch import Batch, of_routes
from shadowproxy.verdict.guardrails.guards import Evidence, route_indices
from shadowproxy.verdict.guardrails.rules import Rule
from shadowproxy.verdict.record import Dependence
from shadowproxy.verdict.reported.distributions import baseline_scores

FEWEST = 200
"""Pairs that a calibration is taken from."""
_FEWEST_TRIPLETS = 150
"""Of those, triplets: with fewer, or no replica, the spread of the scores says what is far."""
_FAR = 0.99
"""Quantile of the baseline's own differences that is clipped at."""
_CLIPPED, _CLIPPED_BY_NOISE = 0.01, 0.05
"""Share of pairs that may be clipped. A clip at the noise's own 99th percentile clips 1% where the candidate is the
baseline's very model, and up to 5% since it is taken from few pairs (beyond that in 1 of 250 experiments)."""
_DEVIATIONS = 2.0
_MARGINS = 10.0
_ROOM = 2.0
"""A clip is at least so many cohort margins, so that a margin is inside the range of what is clipped."""
THRESHOLDS = 15

_NOISE = LatencyHistogram(low=1e-12, high=1e12, ratio=1.1)
"""Of sizes of any unit: its name is of what it is mostly used for."""
_SCORES = ScoreHistogram()
_LARGEST = 1e150
"""Of a score: its square is still a number."""


class Calibration(msgspec.Struct, frozen=True):
    """What one guardrail took from the first pairs. Stored as JSON, `since` beside it."""

    clip: float | None = None
    """Values count as this far from 0 at the most, in the metric's unit."""
    thresholds: tuple[float, ...] = ()
    """Scores at which the distributions are compared, ascending."""
    most_clipped: float = 0.0
    """Share of pairs that may be clipped for a promote."""
    since: float = math.inf
    """Unix seconds: pairs that start earlier don't count."""

    @property
    def tag(self) -> str:
        """What tells sums by this calibration from those by any other."""
        return f"{round(self.since * 1000)}"

    def to_bytes(self) -> bytes:
        """As JSON, without `since`: that is the store's to say."""
        said = msgspec.structs.asdict(self)
        return msgspec.json.encode({name: value for name, value in said.items() if name != "since"})

    @classmethod
    def from_bytes(cls, stored: bytes, since: float) -> Calibration:
        """The reverse of `to_bytes`. Raises PayloadError."""
        try:
            found = msgspec.json.decode(stored, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise PayloadError(f"a stored calibration can't be read: {error}; update shadowproxy") from None
        if not (math.isfinite(since) and (found.clip is None or 0 < found.clip < math.inf)):
            raise PayloadError("a stored calibration says nothing that can be counted by; reset the experiment")
        return msgspec.structs.replace(found, since=since)


def calibrations_of(stored: Mapping[str, tuple[float, bytes]]) -> dict[str, Calibration]:
    """As they are stored, by the guardrail's name: (since, the rest). Raises PayloadError."""
    return {name: Calibration.from_bytes(payload, since) for name, (since, payload) in stored.items()}


class FirstPairs:
    """What is counted for one guardrail until it is calibrated, over all pairs only.

    `calibration/NAME`: [pairs with a value, histogram of how far baseline and replica are apart];
    `calibration/NAME/scores`: number of the baseline's scores, their sum and the sum of their squares. (Their
    distribution is counted anyway.)
    """

    WIDTH: ClassVar = 1 + _NOISE.width
    """Numbers in a row of the first."""

    def __init__(self, rule: Rule, settings: Settings) -> None:
        self._rule = rule
        self._routes = route_indices(rule, settings)
        self._names = [route.name for route in settings.routes if not rule.routes or route.name in rule.routes]

    @property
    def name(self) -> str:
        """Of its sum."""
        return f"calibration/{self._rule.name}"

    def counted(self, batch: Batch) -> Iterator[tuple[str, NDArray[Any]]]:
        """See `guards.Counter`."""
        delta = _values(batch.columns, "scores.delta", self._routes)
        if np.isnan(delta).all():
            return
        noise = _NOISE.index(np.abs(_values(batch.columns, "scores.noise", self._routes)))
        pairs = batch.overall.count(np.where(np.isnan(delta), -1, 0), 1)
        sums = np.concatenate([pairs, batch.overall.count(noise, _NOISE.width)], axis=1)
        yield self.name, sums[:, np.newaxis]
        scores = batch.columns.scores.get(Side.BASELINE)
        if scores is not None:
            there = np.isfinite(scores.value) & ~np.isnan(delta)[scores.pair]
            pair, value = scores.pair[there], np.clip(scores.value[there], -_LARGEST, _LARGEST)
            powers = [np.bincount(pair, weights=value**power, minlength=len(delta)) for power in range(3)]
            yield self._scores, batch.overall.sum(np.stack(powers, axis=1))[:, np.newaxis]

    @property
    def _scores(self) -> str:
        return f"{self.name}/scores"

    def pairs(self, total: Tally) -> int:
        """How many there are."""
        return int(self._row(total)[0])

    def calibration(self, total: Tally) -> Calibration | None:
        """What they come to; None while they are too few."""
        if self.pairs(total) < FEWEST:
            return None
        if self._rule.metric.calibrated == "clip":
            return self._clip(total)
        return Calibration(thresholds=self._thresholds(total))

    def _clip(self, total: Tally) -> Calibration:
        noise = self._row(total)[1:]
        replicated = bool(noise.sum() >= _FEWEST_TRIPLETS)
        far = float(_NOISE.quantiles(noise, (_FAR,))[0]) if replicated else _DEVIATIONS * self._deviation(total)
        return Calibration(
            clip=max(_MARGINS * self._rule.margin, _ROOM * self._rule.cohort_margin, far),
            most_clipped=_CLIPPED_BY_NOISE if replicated else _CLIPPED,
        )

    def _deviation(self, total: Tally) -> float:
        items, first, second = total.rows(self._scores, 1, (3,))[0].tolist()
        return math.sqrt(max(0.0, second / items - (first / items) ** 2)) if items else 0.0

    def _thresholds(self, total: Tally) -> tuple[float, ...]:
        levels = tuple((at + 1) / (THRESHOLDS + 1) for at in range(THRESHOLDS))
        found = _SCORES.quantiles(baseline_scores(total, self._names), levels)
        # The upper end of the bin: a score that many have is then at its threshold or below, wherever in the bin it is.
        ends = [float(x) * (1 + (_SCORES.ratio if x > 0 else 1 / _SCORES.ratio)) / 2 for x in found]
        return tuple(ends)

    def _row(self, total: Tally) -> IntArray:
        row: IntArray = total.rows(self.name, 1, (self.WIDTH,))[0]
        return row


class WaitingGuard:
    """A guardrail that isn't calibrated yet: it counts what it will be calibrated by, and knows nothing."""

    def __init__(self, rule: Rule, settings: Settings) -> None:
        self.rule = rule
        self.first = FirstPairs(rule, settings)
        self._routes = route_indices(rule, settings)

    def __repr__(self) -> str:
        return f"WaitingGuard({self.rule.name})"

    def counted(self, batch: Batch) -> Iterator[tuple[str, NDArray[Any]]]:
        """See `guards.Counter`."""
        return self.first.counted(batch)

    def losses(self, columns: Columns) -> tuple[FloatArray, FloatArray] | None:
        """See `guards.Guard`."""
        return unclipped(self.rule, self._routes, columns)

    def evidence(self, total: Tally, slots: Sequence[int], alpha: float) -> Evidence:
        """See `guards.Guard`."""
        none, unknown, even = np.zeros(len(slots), np.int64), np.full(len(slots), np.nan), np.zeros(len(slots))
        return Evidence(none, none, unknown, unknown, unknown, even, even)

    def forecast(self, total: Tally, slot: int, log_threshold: float) -> float:
        """See `guards.Guard`."""
        return math.nan

    def dependence(self, total: Tally) -> tuple[Dependence, ...]:
        """See `guards.Guard`."""
        return ()


def unclipped(rule: Rule, routes: Collection[int] | None, columns: Columns) -> tuple[FloatArray, FloatArray] | None:
    """(values, losses) as `guards.Guard.losses` has them, of all pairs, those before any calibration included."""
    values = _values(columns, rule.metric.name, routes)
    return None if np.isnan(values).all() else (values, rule.losses(values))


def _values(columns: Columns, metric: str, routes: Collection[int] | None) -> FloatArray:
    """Of those pairs that it is applicable to, NaN else."""
    values, applicable = columns.values.get(metric), columns.applicable.get(metric)
    if values is None or applicable is None:
        return np.full(len(columns), np.nan)
    chosen = applicable if routes is None else applicable & of_routes(columns, routes)
    return np.where(chosen, values, np.nan)
