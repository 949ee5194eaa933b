"""Before an experiment: how many pairs each guardrail takes, for the noise that is assumed or was seen.

Two futures are looked at: the candidate is as it is hoped to be, and must be proven safe; and it is worse by a multiple
of the margin, and must be proven harmful by this guardrail alone.

Guardrails on quantiles of latency are not bounded means, and take another computation than `stats.sizes`: `cases`
leaves them out, and says which.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shadowproxy.config.settings import Settings
from shadowproxy.stats.betting import MeanGrid, fewest_pairs
from shadowproxy.stats.sizes import NEVER, Law, Paths, Sizes, bell, counts, most_deviation, sizes
from shadowproxy.verdict.rules import Rule, rules

_OF_COUNTS = "share of requests"
"""The unit of losses that are a count: such a one is −1, 0 or 1."""
_RARE, _BROAD = 0.1, 0.15
"""Assumed deviations where nothing is known: one side alone of 1% of the pairs, and 15% of half the range."""
_ALONE = 0.5
"""Weight of a guardrail that is the only one."""
_POINTS = 25
_AROUND = 5.0
"""How far a curve goes to either side of the margin, as a factor."""


class Noise(NamedTuple):
    """What a loss is like, and how that is known."""

    mean: float
    sd: float
    source: str


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

    def law(self, mean: float, sd: float) -> Law:
        """A distribution with this mean and deviation. Raises ValueError where there is none."""
        return (counts if self.counts else bell)(mean, sd, self.lo, self.hi)

    @property
    def assumed(self) -> Noise:
        """What is assumed where nothing is known."""
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
    def needed(self) -> Sizes:
        """Of all pairs, those until nothing of this guardrail holds a promote back."""
        cohort = self.cohort or self.safe
        return Sizes(*(max(pair) for pair in zip(self.safe, cohort, strict=True)))


class Curve(NamedTuple):
    """Pairs to prove one guardrail safe at other margins; infinite where it never is."""

    margins: Sequence[float]
    median: Sequence[float]
    most: Sequence[float]


def cases(settings: Settings) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """The guardrails of a configuration that can be planned, and the names of those that can't."""
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
            cohort_margin=rule.cohort_margin if with_cohorts else None,
            alpha_promote=policy.alpha_promote,
            alpha_rollback=policy.alpha_rollback * rule.weight,
            counts=rule.metric.unit == _OF_COUNTS,
        )

    return tuple(map(case, rules(settings))), ()


def single(margin: float, lo: float, hi: float, alpha: float) -> Case:
    """A guardrail of no configuration, the only one of its experiment."""
    return Case("mean loss", "", "", lo, hi, margin, None, alpha, alpha * _ALONE, counts=False)


def planned(
    case: Case, noise: Noise, paths: Paths, *, worse: float, share: float, least: int = 1, least_harm: int = 1
) -> Row:
    """How long one guardrail takes.

    `worse` is the mean loss of a harmful candidate as a multiple of the margin, `share` that of the smallest cohort
    that must be proven by itself, `least` and `least_harm` the fewest pairs of any promote and rollback. Raises
    ValueError for noise that a loss with these bounds can't have, and for a margin outside of them.
    """
    law = case.law(noise.mean, noise.sd)
    harm_mean = min(worse * case.margin, case.hi)
    harmful = case.law(harm_mean, min(noise.sd, most_deviation(harm_mean, case.lo, case.hi)))
    overall = MeanGrid(case.lo, case.hi, case.margin)
    cohort = None
    if case.cohort_margin is not None:
        at = _safe(MeanGrid(case.lo, case.hi, case.cohort_margin), case, law, noise, paths, 1)
        cohort = Sizes(*(_scaled(pairs, share) for pairs in at))
    return Row(
        case=case,
        noise=noise,
        fewest=max(least, fewest_pairs(case.margin, case.hi, case.alpha_promote)),
        safe=_safe(overall, case, law, noise, paths, least),
        harm=_harm(overall, case, harmful, paths, least_harm) if worse > 1 else NEVER,
        harm_mean=harm_mean,
        cohort=cohort,
    )


def curve(case: Case, noise: Noise, paths: Paths, *, least: int = 1) -> Curve:
    """How the pairs depend on the margin, around the one that is chosen; `least` as in `planned`."""
    room = min(case.hi, case.margin + 0.9 * (case.hi - case.margin))
    margins = np.geomspace(case.margin / _AROUND, min(case.margin * _AROUND, room), _POINTS).tolist()
    law = case.law(noise.mean, noise.sd)
    found = [_safe(MeanGrid(case.lo, case.hi, margin), case, law, noise, paths, least) for margin in margins]
    return Curve(margins, [one.median for one in found], [one.most for one in found])


def promote(rows: Iterable[Row]) -> Sizes:
    """Pairs until a promote, as far as the guardrails go: the slowest of them."""
    needed = [row.needed for row in rows]
    return Sizes(*(max((getattr(one, name) for one in needed), default=0.0) for name in Sizes._fields))


def noise_of(
    case: Case, given: Mapping[str, tuple[float | None, float]], seen: Mapping[str, tuple[float, float]]
) -> Noise:
    """What is known of a guardrail's loss: what is said of it or of its metric, else what was seen, else assumed.

    `given` and `seen` are (mean, deviation) by name; where no mean is said the assumed one is taken.
    """
    for name in (case.name, case.metric):
        if name in given:
            mean, sd = given[name]
            return Noise(case.assumed.mean if mean is None else mean, sd, "given")
    if case.name in seen:
        return Noise(*seen[case.name], "recorded")
    return case.assumed


def _safe(grid: MeanGrid, case: Case, law: Law, noise: Noise, paths: Paths, least: int) -> Sizes:
    if noise.mean >= grid.margin:
        return NEVER
    found = sizes(grid, law, "safe", -math.log(case.alpha_promote), paths)
    return Sizes(*(max(pairs, least) for pairs in found))


def _harm(grid: MeanGrid, case: Case, law: Law, paths: Paths, least: int) -> Sizes:
    found = sizes(grid, law, "harm", -math.log(case.alpha_rollback), paths)
    return Sizes(*(max(pairs, least) for pairs in found))


def _scaled(pairs: float, share: float) -> float:
    return math.ceil(pairs / share) if math.isfinite(pairs) else math.inf
