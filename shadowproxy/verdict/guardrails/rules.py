"""Guardrails as data: from the settings to the rules that are counted and decided by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shadowproxy.config.catalogue import GUARDABLE, Direction, Metric, defaults
from shadowproxy.config.judging import Guardrail, Verdict
from shadowproxy.config.settings import Settings
from shadowproxy.errors import ConfigError, Fault
from shadowproxy.stats.betting import fewest_pairs
from shadowproxy.verdict.record import OVERALL

_OVERALL = 0.5
"""Share of the rollback's error budget that is spent on guardrails over all pairs; the cohorts have the rest."""
_ROOM = 0.9
"""How much of the room between margin and greatest loss a default cohort margin may take up."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One guardrail in one direction."""

    name: str
    """The metric; `.lower` or `.higher` behind it where it can be worse both ways; `@route,…` where only the routes
    tell two guardrails apart."""
    metric: Metric
    direction: Direction
    margin: float
    cohort_margin: float
    lo: float
    hi: float
    """Range of the loss."""
    routes: tuple[str, ...]
    """Only pairs of these routes count; empty for all."""
    weight: float
    """Share of the rollback's error budget over all pairs."""
    cohort_weight: float
    """The same in each cohort slot, and in the pool of the others. Over all rules and slots the weights sum to 1."""
    alpha: float
    """Chance of calling it safe where it is not."""
    cohorts: frozenset[str] | None = None
    """Cohorts, or whole dimensions of them, that it is looked at for; None for all."""

    def concerns(self, cohort: str) -> bool:
        """Whether it is looked at for a cohort, by its name; it always is over all pairs."""
        if self.cohorts is None or cohort == OVERALL:
            return True
        return cohort in self.cohorts or cohort.partition("=")[0] in self.cohorts

    def losses(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """From values to losses, larger = worse: (n,) → (n,)."""
        intercept, slope = self.metric.loss(self.direction)
        return intercept + slope * values


def rules(settings: Settings) -> tuple[Rule, ...]:
    """The rules of a configuration, in its order; without guardrails one per default metric that some route offers.

    Raises ConfigError where two guardrails are the same but for their margins.

    >>> settings = Settings(baseline="http://a", candidate="http://b")
    >>> [(rule.name, rule.margin, rule.cohort_margin, rule.weight) for rule in rules(settings)][:1]
    [('failures.difference', 0.01, 0.02, 0.16666666666666666)]
    """
    guardrails = settings.verdict.guardrails or _defaults(settings)
    wanted = [
        (at, guardrail, direction)
        for at, guardrail in enumerate(guardrails)
        for direction in ((guardrail.worse,) if guardrail.worse else GUARDABLE[guardrail.metric].worse)
    ]
    names = [_name(guardrail, direction) for _, guardrail, direction in wanted]
    for i, (_, guardrail, _) in enumerate(wanted):
        if guardrail.routes and sum(_name(g, d) == names[i] for _, g, d in wanted) > 1:
            names[i] += "@" + ",".join(guardrail.routes)
    _refuse_twins(names, [at for at, _, _ in wanted])
    whole = math.fsum(guardrail.weight for _, guardrail, _ in wanted)
    return tuple(
        _rule(name, guardrail, direction, guardrail.weight / whole, settings.verdict)
        for name, (_, guardrail, direction) in zip(names, wanted, strict=True)
    )


def warnings(settings: Settings) -> list[str]:
    """What will not work as meant, one sentence each: guardrails that can't be proven within the horizon."""
    policy, found = settings.verdict, []
    if policy.horizon is None:
        return []
    if policy.min_pairs > policy.horizon:
        found.append(
            f"verdict.min_pairs ({policy.min_pairs:,}) is beyond verdict.horizon ({policy.horizon:,}): "
            "nothing can be promoted before the experiment counts as exhausted"
        )
    for rule in rules(settings):
        if rule.metric.quantile is not None or rule.metric.calibrated is not None:
            continue
        fewest = fewest_pairs(rule.margin, rule.hi, rule.alpha)
        if fewest > policy.horizon:
            found.append(
                f"{rule.name}: a margin of {rule.margin:g} needs at least {fewest:,} pairs to be proven, more than "
                f"verdict.horizon ({policy.horizon:,}): widen the margin or move the horizon"
            )
    return found


def _defaults(settings: Settings) -> tuple[Guardrail, ...]:
    return tuple(
        Guardrail.default(metric.name, metric.margin)
        for metric in defaults([route.offers for route in settings.routes], replica=settings.replica is not None)
    )


def _name(guardrail: Guardrail, direction: Direction) -> str:
    both = len(GUARDABLE[guardrail.metric].worse) > 1
    return f"{guardrail.metric}.{direction}" if both else guardrail.metric


def _refuse_twins(names: Sequence[str], at: Sequence[int]) -> None:
    faults = {
        Fault(f"$.verdict.guardrails[{at[i]}]", f"{name} is guarded already by guardrail {at[names.index(name)]}")
        for i, name in enumerate(names)
        if name in names[:i]
    }
    if faults:
        raise ConfigError("configuration", sorted(faults, key=lambda fault: fault.path))


def _rule(name: str, guardrail: Guardrail, direction: Direction, share: float, policy: Verdict) -> Rule:
    metric = GUARDABLE[guardrail.metric]
    lo, hi = metric.loss_range(direction)
    margin = guardrail.margin
    cohort_margin = guardrail.cohort_margin or min(2 * margin, margin + _ROOM * (hi - margin))
    return Rule(
        name=name,
        metric=metric,
        direction=direction,
        margin=margin,
        cohort_margin=cohort_margin,
        lo=lo,
        hi=hi,
        routes=guardrail.routes,
        weight=_OVERALL * share,
        cohort_weight=(1 - _OVERALL) * share / (policy.max_cohorts + 1),
        alpha=guardrail.alpha or policy.alpha_promote,
        cohorts=None if guardrail.cohorts is None else frozenset(guardrail.cohorts),
    )
