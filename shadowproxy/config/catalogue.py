"""The catalogue of what can be measured on a pair: the one table that configuration, comparison and verdict share.

A metric has one *value* per pair (NaN where it is undefined for that pair). A guardrail turns the value into a *loss*,
larger = worse, by the direction that counts as worse, and tolerates a mean loss up to its margin, in the metric's own
unit. `STATISTICS` of the losses need a bounded range, so every metric has one; a metric that has none by nature is
clipped where it is computed, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Direction = Literal["lower", "higher"]
Calibrated = Literal["clip", "thresholds"]
Timing = Literal["ttfb", "total"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What one value per pair means, and what it costs.

    `low` and `high` bound the value. `ideal` is the value at which nothing is lost. `worse` are the directions away
    from it that count as worse, each of which makes a guardrail of its own. `needs` is what a route must extract for
    the metric to be computed; `margin` is the default of a guardrail.
    """

    name: str
    title: str
    unit: str
    low: float
    high: float
    ideal: float
    worse: tuple[Direction, ...]
    margin: float
    needs: frozenset[str] = frozenset()
    default: bool = False
    """Whether a configuration without guardrails of its own gets one on this metric."""
    replicated: bool = False
    """Whether only pairs with a replica's answer have it: it is what differs beyond the baseline's own noise."""
    unless: frozenset[str] = frozenset()
    """What a route may extract that makes it no default there."""
    in_place_of: str | None = None
    """The default metric instead of which it is one where there is a replica: the same, less the noise."""
    quantile: float | None = None
    """Of a metric that is no mean over pairs but compares a quantile of both sides: which, as a share. Its margin is by
    how much of the baseline's the candidate's may be greater."""
    timing: Timing = "total"
    """Of which latency it is a quantile."""
    calibrated: Calibrated | None = None
    """What its guardrail takes from the first pairs, and keeps: where its values are clipped, that have no bounds by
    themselves, or the thresholds at which distributions are compared."""

    @property
    def tail(self) -> bool:
        """Whether it is a quantile that few pairs say anything of: a single cohort seldom has enough of them."""
        return self.quantile is not None and self.quantile > 0.9

    def by_default(self, offers: frozenset[str]) -> bool:
        """Whether a route that offers this gives reason for a guardrail on it, if it is a default."""
        return self.needs <= offers and not self.unless & offers

    def loss(self, worse: Direction) -> tuple[float, float]:
        """The affine map value → loss for one direction, as (intercept, slope): loss = intercept + slope·value."""
        return (self.ideal, -1.0) if worse == "lower" else (-self.ideal, 1.0)

    def loss_range(self, worse: Direction) -> tuple[float, float]:
        """(lo, hi) of the loss for one direction."""
        intercept, slope = self.loss(worse)
        ends = (intercept + slope * self.low, intercept + slope * self.high)
        return min(ends), max(ends)


@dataclass(frozen=True, slots=True)
class Table:
    """What is counted beside the values of metrics, reported and not decided on: so many of each column by key."""

    name: str
    title: str
    columns: tuple[str, ...]


_OF_LISTS = frozenset({"ids"})
_OF_SCORES = frozenset({"ids", "scores"})
_OF_TRUTH = frozenset({"ids", "truth"})
_LABELLED = frozenset({"label", "probabilities"})

LEAST_PROBABILITY = 0.0001
"""What a probability counts as at the least, where its logarithm is a loss: the loss must have a bound."""

_FAILURES: tuple[Metric, ...] = (
    Metric(
        "failures.difference",
        "failures, candidate less baseline",
        "share of requests",
        -1,
        1,
        0,
        ("higher",),
        0.01,
        default=True,
    ),
    Metric(
        "failures.candidate",
        "the candidate's failures",
        "share of requests",
        0,
        1,
        0,
        ("higher",),
        0.001,
    ),
)
_LATENCY: tuple[Metric, ...] = (
    Metric(
        "latency.total_log2",
        "time to the last byte, candidate over baseline (log2, clipped to ±1)",
        "doublings",
        -1,
        1,
        0,
        ("higher",),
        math.log2(1.1),
    ),
    Metric(
        "latency.ttfb_log2",
        "time to the first byte, candidate over baseline (log2, clipped to ±1)",
        "doublings",
        -1,
        1,
        0,
        ("higher",),
        math.log2(1.1),
    ),
    Metric(
        "latency.total_slow",
        "slow answers, candidate less baseline",
        "share of requests",
        -1,
        1,
        0,
        ("higher",),
        0.01,
        needs=frozenset({"slow"}),
        default=True,
    ),
    Metric(
        "latency.total_over",
        "the candidate's answers later than the route's limit",
        "share of requests",
        0,
        1,
        0,
        ("higher",),
        0.01,
        needs=frozenset({"slow"}),
    ),
)
_RANKING: tuple[Metric, ...] = (
    Metric(
        "ranking.rbo",
        "rank-biased overlap of the two lists",
        "overlap",
        0,
        1,
        1,
        ("lower",),
        0.2,
        needs=_OF_LISTS,
        default=True,
    ),
    Metric(
        "ranking.overlap",
        "share of the baseline's top k that is in the candidate's top k",
        "overlap",
        0,
        1,
        1,
        ("lower",),
        0.2,
        needs=_OF_LISTS,
    ),
    Metric(
        "ranking.top1",
        "whether both lists begin with the same item",
        "share of requests",
        0,
        1,
        1,
        ("lower",),
        0.2,
        needs=_OF_LISTS,
    ),
    Metric(
        "ranking.kendall",
        "Kendall tau-b over the common items",
        "correlation",
        -1,
        1,
        1,
        ("lower",),
        0.2,
        needs=_OF_LISTS,
    ),
    Metric(
        "ranking.spearman",
        "Spearman's rho over the common items",
        "correlation",
        -1,
        1,
        1,
        ("lower",),
        0.2,
        needs=_OF_LISTS,
    ),
    Metric(
        "ranking.weighted_tau",
        "weighted tau over the common items, in which the top weighs most",
        "correlation",
        -1,
        1,
        1,
        ("lower",),
        0.2,
        needs=_OF_LISTS,
    ),
    Metric(
        "ranking.ndcg",
        "NDCG@k of the candidate's order, with the baseline's scores as gains",
        "NDCG",
        0,
        1,
        1,
        ("lower",),
        0.05,
        needs=_OF_SCORES,
    ),
    Metric(
        "ranking.displacement",
        "largest displacement of a common item",
        "share of the list",
        0,
        1,
        0,
        ("higher",),
        0.2,
        needs=_OF_LISTS,
    ),
    Metric(
        "ranking.new",
        "share of the candidate's top k that is nowhere in the baseline's list",
        "share of the top k",
        0,
        1,
        0,
        ("higher",),
        0.2,
        needs=_OF_LISTS,
    ),
    Metric(
        "ranking.length",
        "list length, candidate less baseline",
        "share of the list",
        -1,
        1,
        0,
        ("lower", "higher"),
        0.05,
        needs=_OF_LISTS,
        default=True,
    ),
    Metric(
        "ranking.rbo_excess",
        "disagreement of the rankings (1 − rank-biased overlap) beyond the baseline's own",
        "overlap",
        -1,
        1,
        0,
        ("higher",),
        0.05,
        needs=_OF_LISTS,
        replicated=True,
        in_place_of="ranking.rbo",
    ),
    Metric(
        "ranking.overlap_excess",
        "disagreement of the top k (1 − overlap) beyond the baseline's own",
        "overlap",
        -1,
        1,
        0,
        ("higher",),
        0.05,
        needs=_OF_LISTS,
        replicated=True,
    ),
)
_SCORES: tuple[Metric, ...] = (
    Metric(
        "scores.relative_delta",
        "scores of common items, (candidate − baseline) / (|candidate| + |baseline|)",
        "relative",
        -1,
        1,
        0,
        ("lower", "higher"),
        0.02,
        needs=_OF_SCORES,
        default=True,
    ),
    Metric(
        "scores.relative_change",
        "scores of common items, |candidate − baseline| / (|candidate| + |baseline|)",
        "relative",
        0,
        1,
        0,
        ("higher",),
        0.05,
        needs=_OF_SCORES,
    ),
    Metric(
        "scores.undefined",
        "share of common items without a score, candidate less baseline",
        "share of the items",
        -1,
        1,
        0,
        ("higher",),
        0.01,
        needs=_OF_SCORES,
    ),
)
_DELTA = Metric(
    "scores.delta",
    "scores of common items, candidate less baseline",
    "in the scores' unit",
    -math.inf,
    math.inf,
    0,
    ("lower", "higher"),
    0,
    needs=_OF_SCORES,
    calibrated="clip",
)
_NOISE = Metric(
    "scores.noise",
    "scores of common items, replica less baseline",
    "in the scores' unit",
    -math.inf,
    math.inf,
    0,
    ("lower", "higher"),
    0,
    needs=_OF_SCORES,
    replicated=True,
)
_SHIFT = Metric(
    "scores.shift",
    "distributions of all scores apart, at the widest of 15 thresholds (Kolmogorov-Smirnov)",
    "of probability",
    0,
    1,
    0,
    ("higher",),
    0,
    needs=_OF_SCORES,
    calibrated="thresholds",
)
_LABELS: tuple[Metric, ...] = (
    Metric(
        "labels.agreement",
        "share of instances with the same label",
        "share of instances",
        0,
        1,
        1,
        ("lower",),
        0.1,
        needs=frozenset({"label"}),
        default=True,
    ),
    Metric(
        "labels.probability_shift",
        "total variation distance of the two distributions over the labels",
        "probability",
        0,
        1,
        0,
        ("higher",),
        0.1,
        needs=frozenset({"probabilities"}),
        default=True,
    ),
    Metric(
        "labels.agreement_excess",
        "instances with another label, beyond the baseline's own",
        "share of instances",
        -1,
        1,
        0,
        ("higher",),
        0.02,
        needs=frozenset({"label"}),
        replicated=True,
        in_place_of="labels.agreement",
    ),
    Metric(
        "labels.probability_shift_excess",
        "total variation distance of the distributions beyond the baseline's own",
        "probability",
        -1,
        1,
        0,
        ("higher",),
        0.02,
        needs=frozenset({"probabilities"}),
        replicated=True,
        in_place_of="labels.probability_shift",
    ),
)
_TEXT: tuple[Metric, ...] = (
    Metric(
        "text.exact",
        "whether both texts are the same, white space aside",
        "share of requests",
        0,
        1,
        1,
        ("lower",),
        0.2,
        needs=frozenset({"text"}),
    ),
    Metric(
        "text.token_f1",
        "F1 of the tokens that the two texts have in common",
        "F1",
        0,
        1,
        1,
        ("lower",),
        0.5,
        needs=frozenset({"text"}),
        default=True,
    ),
    Metric(
        "text.length",
        "text length, candidate less baseline",
        "share of the text",
        -1,
        1,
        0,
        ("lower", "higher"),
        0.2,
        needs=frozenset({"text"}),
        default=True,
    ),
    Metric(
        "text.finish",
        "whether both texts end for the same reason",
        "share of requests",
        0,
        1,
        1,
        ("lower",),
        0.1,
        needs=frozenset({"text", "finish"}),
        default=True,
    ),
    Metric(
        "text.token_f1_excess",
        "disagreement of the texts (1 − F1 of their tokens) beyond the baseline's own",
        "F1",
        -1,
        1,
        0,
        ("higher",),
        0.05,
        needs=frozenset({"text"}),
        replicated=True,
        in_place_of="text.token_f1",
    ),
    Metric(
        "text.finish_excess",
        "texts that end for another reason, beyond the baseline's own",
        "share of requests",
        -1,
        1,
        0,
        ("higher",),
        0.02,
        needs=frozenset({"text", "finish"}),
        replicated=True,
        in_place_of="text.finish",
    ),
)
_OF_FIELDS = frozenset({"fields"})
_FIELDS: tuple[Metric, ...] = (
    Metric(
        "fields.changed",
        "share of the JSON's fields that differ",
        "share of fields",
        0,
        1,
        0,
        ("higher",),
        0.05,
        needs=_OF_FIELDS,
    ),
    Metric(
        "fields.excess",
        "share of the JSON's fields that differ, less what differs between baseline and replica",
        "share of fields",
        -1,
        1,
        0,
        ("higher",),
        0.02,
        needs=_OF_FIELDS,
        replicated=True,
    ),
)
_VALIDITY: tuple[Metric, ...] = (
    Metric(
        "validity.violations",
        "answers that break a rule, candidate less baseline",
        "share of requests",
        -1,
        1,
        0,
        ("higher",),
        0.01,
        needs=frozenset({"valid"}),
        default=True,
    ),
    Metric(
        "validity.candidate",
        "the candidate's answers that break a rule",
        "share of requests",
        0,
        1,
        0,
        ("higher",),
        0.0001,
        needs=frozenset({"valid"}),
    ),
)
_QUALITY: tuple[Metric, ...] = (
    Metric(
        "quality.ndcg",
        "NDCG@k against the truth, candidate less baseline",
        "NDCG",
        -1,
        1,
        0,
        ("lower",),
        0.02,
        needs=_OF_TRUTH,
        default=True,
        unless=_LABELLED,
    ),
    Metric(
        "quality.recall",
        "recall@k of the truth, candidate less baseline",
        "recall",
        -1,
        1,
        0,
        ("lower",),
        0.02,
        needs=_OF_TRUTH,
    ),
    Metric(
        "quality.reciprocal_rank",
        "reciprocal rank of the first true item, candidate less baseline",
        "reciprocal rank",
        -1,
        1,
        0,
        ("lower",),
        0.02,
        needs=_OF_TRUTH,
    ),
    Metric(
        "quality.accuracy",
        "accuracy against the true labels, candidate less baseline",
        "share of instances",
        -1,
        1,
        0,
        ("lower",),
        0.02,
        needs=frozenset({"label", "truth"}),
        default=True,
    ),
    Metric(
        "quality.brier",
        "Brier score (half of it) against the true labels, candidate less baseline",
        "Brier score",
        -1,
        1,
        0,
        ("higher",),
        0.02,
        needs=frozenset({"probabilities", "truth"}),
        default=True,
    ),
    Metric(
        "quality.log_loss",
        "log loss against the true labels (probabilities below 0.0001 as that), candidate less baseline",
        "nats",
        math.log(LEAST_PROBABILITY),
        -math.log(LEAST_PROBABILITY),
        0,
        ("higher",),
        0.05,
        needs=frozenset({"probabilities", "truth"}),
    ),
)


def _quantiles(timing: Timing, what: str, defaults: Mapping[int, float]) -> Iterator[Metric]:
    for percent in (50, 90, 95, 99):
        yield Metric(
            f"latency.{timing}_p{percent}",
            f"{'median' if percent == 50 else f'p{percent}'} of the {what}, candidate over baseline",
            "share of the baseline's",
            -1,
            math.inf,
            0,
            ("higher",),
            defaults.get(percent, 0.1),
            default=percent in defaults,
            quantile=percent / 100,
            timing=timing,
        )


_QUANTILES: tuple[Metric, ...] = (
    # The tail takes many more pairs to know: at the same margin ten times those of the median.
    *_quantiles("total", "time to the last byte", {50: 0.1, 99: 0.25}),
    *_quantiles("ttfb", "time to the first byte", {}),
)

_ALL = (
    *_FAILURES,
    *_LATENCY,
    *_QUANTILES,
    *_RANKING,
    *_SCORES,
    _DELTA,
    _SHIFT,
    *_LABELS,
    *_TEXT,
    *_FIELDS,
    *_VALIDITY,
    *_QUALITY,
)

GUARDABLE: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ALL})
"""All that a guardrail can be on."""

CATALOGUE: Mapping[str, Metric] = MappingProxyType(
    {metric.name: metric for metric in (*_ALL, _NOISE) if metric.quantile is None and metric.calibrated != "thresholds"}
)
"""What has a value on every pair."""

QUANTILES: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _QUANTILES})
"""Quantiles of latency, paired: what no single pair has a value of."""


def defaults(offers: Collection[frozenset[str]], *, replica: bool) -> tuple[Metric, ...]:
    """The metrics that are judged where nobody says which. `offers`: what each route extracts; `replica`: if there is
    one, what it takes the noise out of is judged without it.

    >>> [metric.name for metric in defaults([], replica=True)]
    ['failures.difference', 'latency.total_p50', 'latency.total_p99']
    """
    found = [
        metric
        for metric in GUARDABLE.values()
        if (metric.default or (replica and metric.in_place_of))
        and (not metric.needs or any(metric.by_default(some) for some in offers))
    ]
    replaced = {metric.in_place_of for metric in found}
    return tuple(metric for metric in found if metric.name not in replaced)


_TABLES: tuple[Table, ...] = (
    Table("labels", "labels, baseline → candidate", ("pairs", "instances")),
    Table(
        "fields",
        "pairs in which a field was compared, and differed from the baseline's",
        ("compared", "candidate", "with_replica", "replica", "added", "removed", "type", "value"),
    ),
    Table("validity", "answers that break a rule", ("baseline", "candidate", "replica")),
)

TABLES: Mapping[str, Table] = MappingProxyType({table.name: table for table in _TABLES})
