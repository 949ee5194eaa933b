"""How the verdict is reached: the section `verdict`, and its guardrails."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, ValidationInfo, field_validator

from shadowproxy.config.catalogue import GUARDABLE, Direction
from shadowproxy.config.headers import HeaderName
from shadowproxy.config.section import Section
from shadowproxy.config.units import Count, Duration, Name, Probability, Share

MOST_INFLATION = 1.3
"""By what factor dependence may widen a variance, unless told otherwise."""


class Guardrail(Section):
    """A metric, how much worse it may be, and for whom."""

    metric: str = Field(description="a name of the catalogue, such as ranking.rbo")
    margin: float = Field(
        gt=0,
        description="mean loss that is tolerated, in the metric's unit; of a quantile, a share of the baseline's",
    )
    cohort_margin: float | None = Field(
        None, gt=0, description="the same for a single cohort; twice the margin unless given"
    )
    worse: Direction | None = Field(None, description="for a metric that can be worse both ways: only this one")
    routes: tuple[Name, ...] = Field((), description="only these routes; all that offer the metric unless given")
    cohorts: tuple[str, ...] | None = Field(
        None,
        description="cohorts that it is looked at for: dimensions (`region`) or single ones (`region=eu`); all unless "
        "given, none for []: over all pairs only",
    )
    weight: float = Field(
        1.0, gt=0, le=1000, description="its part of the error that a rollback may make, beside the others' weights"
    )
    alpha: Probability | None = Field(
        None, description="chance of calling it safe where it is not; verdict.alpha_promote unless given"
    )

    @classmethod
    def default(cls, metric: str, margin: float) -> Guardrail:
        """What a metric is judged by where no guardrails are given: a tail over all pairs only."""
        return cls(metric=metric, margin=margin, cohorts=() if GUARDABLE[metric].tail else None)

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        if metric not in GUARDABLE:
            raise ValueError(f"there is no metric {metric!r}; there are {', '.join(sorted(GUARDABLE))}")
        return metric

    @field_validator("margin", "cohort_margin")
    @classmethod
    def _inside(cls, margin: float | None, info: ValidationInfo) -> float | None:
        metric = GUARDABLE.get(info.data.get("metric", ""))
        if metric is not None and margin is not None:
            high = min(metric.loss_range(worse)[1] for worse in metric.worse)
            if margin >= high:
                raise ValueError(f"{margin:g} tolerates everything: the loss of {metric.name} is at most {high:g}")
        return margin

    @field_validator("worse")
    @classmethod
    def _possible(cls, worse: Direction | None, info: ValidationInfo) -> Direction | None:
        metric = GUARDABLE.get(info.data.get("metric", ""))
        if metric is not None and worse is not None and worse not in metric.worse:
            raise ValueError(f"{metric.name} is only worse when {' or '.join(metric.worse)}")
        return worse


class Verdict(Section):
    """How the running verdict is reached."""

    alpha_promote: Probability = Field(0.05, description="chance of promoting a candidate that is beyond a margin")
    alpha_rollback: Probability = Field(0.05, description="chance of rolling back one that is within all margins")
    min_pairs: Count = Field(100, description="fewest pairs for a promote")
    min_duration: Duration = Field(
        20.0,
        le=120,
        description="fewest seconds in which pairs began, for a promote: in less it can't be told whether they depend "
        "on each other",
    )
    min_pairs_rollback: Count = Field(30, description="fewest pairs for a rollback")
    min_recorded: Share = Field(0.95, description="share of eligible requests that must be recorded for a promote")
    max_undefined: Share = Field(
        0.1, description="share of pairs for which a guardrail's metric may be undefined, for a promote"
    )
    max_cohorts: Annotated[int, Field(ge=1, le=1000)] = Field(
        32, description="cohorts told apart; the rest are pooled as `other`"
    )
    large_cohort: Share = Field(
        0.1, description="a cohort with this share of the pairs must be proven by itself for a promote"
    )
    horizon: Count | None = Field(None, description="pairs after which an undecided experiment is called exhausted")
    bucket: Duration = Field(1.0, ge=0.05, description="width of the start-time buckets that are counted as a whole")
    settle: Duration = Field(1.0, description="grace beyond the longest deadline before a bucket is closed")
    blocks: Duration | None = Field(
        None,
        ge=0.05,
        description="judge means by blocks of time this long, at first, instead of by pairs: for losses that depend on "
        "those shortly before; ten times as long as they do; none: by pairs",
    )
    first_per_account: bool = Field(
        False,
        description="count an account's first pair only, by the start of its request, and all of no known account; "
        "needs `account` on a route, one partition, and no labels that come later",
    )
    max_inflation: float = Field(
        MOST_INFLATION,
        ge=1,
        description="by what factor dependence between pairs may widen a variance, two standard errors aside, "
        "for a promote",
    )
    closed_population: bool = Field(
        False,
        description="the accounts that ask are all that matter, each drawn by chance, as from a test population: then "
        "those that come again are no dependence that holds a promote back",
    )
    guardrails: tuple[Guardrail, ...] = Field((), description="none: one per default metric that the routes offer")
    version_header: HeaderName | None = Field(
        None,
        description="response header that says which version answered, such as x-model-version; a second value on "
        "either side holds a promote back, since the evidence would be of two; none: nobody looks",
    )
