"""Before an experiment: how many pairs each guardrail takes, for the noise that is assumed or was seen.

Two futures are looked at: the candidate is as it is hoped to be, and must be proven safe; and it is worse by a multiple
of the margin, and must be proven harmful by this guardrail alone. Guardrails on a mean are computed (`stats.sizes`),
those on a quantile of latency are drawn (`stats.ratio_sizes`). Those that are calibrated have bounds only once they
are: nothing can be said of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shadowproxy.config.settings import Settings
from shadowproxy.stats.betting import MeanGrid, fewest_pairs
from shadowproxy.stats.quantiles import RatioGrid
from shadowproxy.stats.ratio_sizes import Latencies, ratio_average, ratio_sizes
from shadowproxy.stats.sizes import NEVER, Law, Paths, Sizes, bell, counts, most_deviation, sizes
from shadowproxy.verdict.guardrails.rules import Rule, rules

_OF_COUNTS = "share of requests"
"""The unit of losses that are a count: such a one is −1, 0 or 1."""
_RARE, _BROAD = 0.1, 0.15
"""Assumed deviations where nothing is known: one side alone of 1% of the pairs, and 15% of half the range."""
_SIGMA, _CORRELATION = 0.6, 0.5
"""The same of latencies: deviation of their logarithm, and how much of it both sides share."""
_ALONE = 0.5
"""Weight of a guardrail that is the only one."""
_POINTS = 25
_AROUND = 5.0
"""How far a curve goes to either side of the margin, as a factor."""


class Noise(NamedTuple):
    """What a loss is like, and how that is known.

    For a quantile of latency `mean` is by how much the candidate's is greater, as a share of the baseline's, and `sd`
    the deviation of either's logarithm.
    """

    mean: float
    sd: float
    source: str
    correlation: float | None = None
    """Of the two logarithms of a pair, for a quantile of latency."""


@dataclass(frozen=True, slots=True)
class Case:
    """One guardrail, as far as it matters for how long it takes."""

    name: str
    metric: str
    unit: str
    lo: float
    hi: float
    margin: float
    cohort_margin: float | None
    """None where no cohort is to be proven by itself."""
    alpha_promote: float
    alpha_rollback: float
    """Its share of the error budget: harm is proven at 1/this."""
    counts: bool
    quantile: float | None = None
    """Of latency, where it is about one."""
    deadline: float = math.inf
    """Of the candidate, seconds, where that matters."""

    def law(self, mean: float, sd: float) -> Law:
        """A distribution with this mean and deviation. Raises ValueError where there is none."""
        return (counts if self.counts else bell)(mean, sd, self.lo, self.hi)

    @property
    def assumed(self) -> Noise:
        """What is assumed where nothing is known."""
        if self.quantile is not None:
            return Noise(0.0, _SIGMA, "assumed", _CORRELATION)
        if self.lo < 0:
            sd = _RARE if self.counts else _BROAD * (self.hi - self.lo) / 2
            return Noise(0.0, min(sd, most_deviation(0.0, self.lo, self.hi)), "assumed")
        # Two answers of equal merit agree less than fully: half of what is tolerated.
        mean = self.margin / 2
        most = most_deviation(mean, self.lo, self.hi)
        return Noise(mean, most if self.counts else most / 2, "assumed")


class Row(NamedTuple):
    """One guardrail, planned."""

    case: Case
    noise: Noise
    fewest: int
    """Pairs below which no proof is possible, however good they are."""
    safe: Sizes
    """Pairs to prove that it is within the margin."""
    harm: Sizes
    """Pairs to prove that it is not, where the mean loss is `harm_mean`."""
    harm_mean: float
    cohort: Sizes | None
    """Of all pairs, those until it is proven in a cohort of the share that is asked about; None where none must be."""

    @property
    def bets(self) -> int:
        """Losses without which a mean can't be proven, whatever they are: of pairs, or of blocks of them."""
        return fewest_pairs(self.case.margin, self.case.hi, self.case.alpha_promote)

    @property
    def needed(self) -> Sizes:
        """Of all pairs, those until nothing of this guardrail holds a promote back."""
        cohort = self.cohort or self.safe
        return Sizes(*(max(pair) for pair in zip(self.safe, cohort, strict=True)))


class Curve(NamedTuple):
    """Pairs to prove one guardrail safe at other margins; infinite where it never is."""

    margins: Sequence[float]
    median: Sequence[float]


def cases(settings: Settings) -> tuple[Case, ...]:
    """The guardrails of a configuration, but for those of which nothing can be said (see `unplanned`)."""
    policy = settings.verdict
    with_cohorts = any(route.cohorts for route in settings.routes)

    def case(rule: Rule) -> Case:
        return Case(
            name=rule.name,
            metric=rule.metric.name,
            unit=rule.metric.unit,
            lo=rule.lo,
            hi=rule.hi,
            margin=rule.margin,
            cohort_margin=rule.cohort_margin if with_cohorts and (rule.cohorts is None or rule.cohorts) else None,
            alpha_promote=rule.alpha,
            alpha_rollback=policy.alpha_rollback * rule.weight,
            counts=rule.metric.unit == _OF_COUNTS,
            quantile=rule.metric.quantile,
            deadline=settings.candidate.deadline,
        )

    return tuple(case(rule) for rule in rules(settings) if rule.metric.calibrated is None)


def unplanned(settings: Settings) -> tuple[str, ...]:
    """The names of those of which nothing can be said."""
    return tuple(rule.name for rule in rules(settings) if rule.metric.calibrated is not None)


def single(margin: float, lo: float, hi: float, alpha: float) -> Case:
    """A guardrail of no configuration, the only one of its experiment."""
    return Case("mean loss", "", "", lo, hi, margin, None, alpha, alpha * _ALONE, counts=False)


class Planner:
    """Works the figures out; everything random is drawn from `seed`, so that they are the same every time."""

    def __init__(self, seed: int = 1) -> None:
        self._seed = seed
        self._paths = Paths.drawn(np.random.default_rng(seed))

    def row(self, case: Case, noise: Noise, *, worse: float, share: float, least: int = 1, least_harm: int = 1) -> Row:
        """How long one guardrail takes.

        `worse` is the mean loss of a harmful candidate as a multiple of the margin, `share` that of the smallest cohort
        that must be proven by itself, `least` and `least_harm` the fewest pairs of any promote and rollback. Raises
        ValueError for noise that a loss with these bounds can't have, and for a margin outside of them.
        """
        harm_mean = min(worse * case.margin, case.hi)
        cohort = None
        if case.cohort_margin is not None:
            at = self._safe(case, case.cohort_margin, noise)
            cohort = Sizes(*(_scaled(pairs, share) for pairs in at))
        fewest = 1 if case.quantile is not None else fewest_pairs(case.margin, case.hi, case.alpha_promote)
        return Row(
            case=case,
            noise=_used(case, noise),
            fewest=max(least, fewest),
            safe=_at_least(self._safe(case, case.margin, noise), least),
            harm=_at_least(self._harm(case, harm_mean, noise), least_harm) if worse > 1 else NEVER,
            harm_mean=harm_mean,
            cohort=cohort,
        )

    def curve(self, row: Row) -> Curve:
        """How the pairs depend on the margin, around the one that is chosen."""
        case, noise = row.case, row.noise
        room = min(case.hi, case.margin + 0.9 * (case.hi - case.margin))
        margins = np.geomspace(case.margin / _AROUND, min(case.margin * _AROUND, room), _POINTS).tolist()
        if case.quantile is None:
            return Curve(margins, [self._safe(case, margin, noise).median for margin in margins])
        # To draw experiments for each would take too long: the curve is a typical sample's, led through the point.
        typical = self._typical(case, case.margin, noise)
        factor = row.safe.median / typical if math.isfinite(typical) and math.isfinite(row.safe.median) else 1.0
        return Curve(margins, [factor * self._typical(case, margin, noise) for margin in margins])

    def _safe(self, case: Case, margin: float, noise: Noise) -> Sizes:
        if noise.mean >= margin:
            return NEVER
        threshold = -math.log(case.alpha_promote)
        if case.quantile is not None:
            grid = RatioGrid(1 + margin, case.deadline)
            return ratio_sizes(grid, case.quantile, _latencies(noise, noise.mean), "safe", threshold, self._rng())
        law = case.law(noise.mean, noise.sd)
        return sizes(MeanGrid(case.lo, case.hi, margin), law, "safe", threshold, self._paths)

    def _harm(self, case: Case, mean: float, noise: Noise) -> Sizes:
        threshold = -math.log(case.alpha_rollback)
        if case.quantile is not None:
            grid = RatioGrid(1 + case.margin, case.deadline)
            return ratio_sizes(grid, case.quantile, _latencies(noise, mean), "harm", threshold, self._rng())
        law = case.law(mean, min(noise.sd, most_deviation(mean, case.lo, case.hi)))
        return sizes(MeanGrid(case.lo, case.hi, case.margin), law, "harm", threshold, self._paths)

    def _typical(self, case: Case, margin: float, noise: Noise) -> float:
        if noise.mean >= margin:
            return math.inf
        grid, law = RatioGrid(1 + margin, case.deadline), _latencies(noise, noise.mean)
        return ratio_average(grid, case.quantile or 0.5, law, "safe", -math.log(case.alpha_promote), self._rng())

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self._seed)


def promote(rows: Iterable[Row]) -> Sizes:
    """Pairs until a promote, as far as the guardrails go: the slowest of them."""
    needed = [row.needed for row in rows]
    return Sizes(*(max((getattr(one, name) for one in needed), default=0.0) for name in Sizes._fields))


def noise_of(case: Case, given: Mapping[str, tuple[float | None, float]], seen: Mapping[str, Noise]) -> Noise:
    """What is known of a guardrail's loss: what is said of it or of its metric, else what was seen, else assumed.

    `given` and `seen` are by name. Of what is given the mean (of a quantile, the correlation) may be None, and is
    assumed then.
    """
    for name in (case.name, case.metric):
        if name in given:
            first, sd = given[name]
            assumed = case.assumed
            if case.quantile is not None:
                return Noise(assumed.mean, sd, "given", assumed.correlation if first is None else first)
            return Noise(assumed.mean if first is None else first, sd, "given")
    return seen.get(case.name) or case.assumed


def _latencies(noise: Noise, slower: float) -> Latencies:
    if not noise.sd > 0 or noise.correlation is None or not -1 <= noise.correlation <= 1:
        raise ValueError("latencies need a deviation of their logarithm above 0 and a correlation from -1 to 1")
    return Latencies(noise.sd, noise.correlation, ratio=1 + slower)


def _used(case: Case, noise: Noise) -> Noise:
    """With the deviation that is reckoned with: of a count there is as much as the mean makes, or more."""
    if case.quantile is not None:
        return noise
    values, weights = case.law(noise.mean, noise.sd)
    return noise._replace(sd=math.sqrt(max(0.0, float(weights @ values**2 - (weights @ values) ** 2))))


def _at_least(found: Sizes, least: int) -> Sizes:
    return Sizes(*(max(pairs, least) for pairs in found))


def _scaled(pairs: float, share: float) -> float:
    return math.ceil(pairs / share) if math.isfinite(pairs) else math.inf
