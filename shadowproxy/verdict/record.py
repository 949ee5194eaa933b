"""The verdict as a record: what the API returns, reports show and pipelines read."""

from __future__ import annotations

import enum
from collections.abc import Mapping

import msgspec

from shadowproxy.config.judging import MOST_INFLATION
from shadowproxy.model import Accounting, VersionSeen

OVERALL = "all"
"""The name of the cohort that every pair belongs to."""
OTHER = "other"
"""The pool of cohorts past the configured number."""


class State(enum.StrEnum):
    """What to do with the candidate."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"
    CONTINUE = "continue"


EXIT_CODES: Mapping[State, int] = {State.PROMOTE: 0, State.ROLLBACK: 1, State.CONTINUE: 3}
"""What a command that was asked for the verdict ends with."""


class Finding(enum.StrEnum):
    """What one guardrail says for one cohort."""

    SAFE = "safe"
    """Proven to be within the margin."""
    HARMFUL = "harmful"
    """Proven to be beyond the margin, at this cell's share of the error budget."""
    UNDECIDED = "undecided"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One guardrail × one cohort. `estimate` and `interval` are of the mean *loss* (larger = worse), in `unit`; of a
    quantile of latency, of the ratio of the candidate's to the baseline's, less 1.

    Where routes have a `weight` the mean is the weighted one; what else is counted or summarised is each pair once.
    """

    guardrail: str
    """Name: the metric, with `.lower` or `.higher` behind it where the metric can be worse both ways."""
    metric: str
    cohort: str
    unit: str
    margin: float
    pairs: int
    """Pairs with a defined value."""
    undefined: int
    """Pairs that should have had one and did not."""
    estimate: float | None
    interval: tuple[float, float] | None
    """Anytime-valid, at level 1 − alpha_rollback; None without data."""
    e_promote: float
    """Evidence that the mean loss is below the margin (e-value; the threshold is beside it)."""
    e_rollback: float
    """Evidence that it is above."""
    promote_at: float
    rollback_at: float
    required: bool
    """Whether a promote needs this cell proven (overall, and large cohorts)."""
    finding: Finding
    blocks: int | None = None
    """Closed blocks of time whose means are judged, `estimate` and `interval` included; None where single pairs are."""
    needed: float | None = None
    """Pairs, of all that are counted, that it still takes to prove this cell, if they go on as they did; 0 where it is
    proven, None where that can't be said or no promote needs it."""


class CohortReport(msgspec.Struct, frozen=True, kw_only=True):
    """One cohort with all guardrails that apply to it."""

    pairs: int
    guardrails: tuple[Cell, ...]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One condition on the data without which nothing is promoted."""

    name: str
    passed: bool
    detail: str


class Dependence(msgspec.Struct, frozen=True, kw_only=True):
    """How far the pairs of one guardrail depend on each other, over all pairs; see `stats.inflation`."""

    guardrail: str
    by: str
    """What such pairs have in common: the `account`, or the time by blocks of `1 s`, `10 s` and `60 s`; where block
    means are judged, `8 blocks` that follow each other."""
    inflation: float
    """By what factor the mean varies more than that of as many independent pairs (or block means): 1 if they are."""
    error: float
    """Standard error of that, if they are independent."""
    groups: float
    """How many groups of pairs it rests on, counted as if they were of one size."""

    @property
    def least(self) -> float:
        """What it is at least, two standard errors aside."""
        return self.inflation - 2 * self.error

    @property
    def beyond(self) -> bool:
        """Whether that is more than the stated error rates bear."""
        return self.least > MOST_INFLATION


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a promote still takes, if things go on as they did. A rough figure, and no promise."""

    pairs: float
    seconds: float | None
    """At the rate at which pairs come now; None where that isn't known."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A metric's values, reported and not decided on."""

    metric: str
    cohort: str
    pairs: int
    mean: float | None
    deviation: float | None
    route: str = ""
    """Empty: over all routes."""


class TableRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a table that is counted beside the metrics, over all pairs of a route; reported, not decided on."""

    table: str
    """A name of `catalogue.TABLES`, whose columns `counts` has."""
    route: str
    key: str
    """`other` where more were met than are told apart."""
    counts: dict[str, int]


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Latency of one upstream in one cohort, seconds; None where it lies among the failures (+∞) or there are none.

    Over all routes, those of pairs of no route included, or of one.
    """

    side: str
    timing: str
    """`ttfb` or `total`."""
    cohort: str
    pairs: int
    p50: float | None
    p90: float | None
    p99: float | None
    route: str = ""
    """Empty: over all routes."""


class ScoreQuantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of one side: of all items of those pairs in which both sides answered. None where there are none."""

    items: int
    p10: float | None
    p50: float | None
    p90: float | None


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of both sides as distributions, of one route in one cohort, and how far these are apart.

    Reported, not decided on. All is read from a histogram (see `stats.histogram.ScoreHistogram`, `stats.distances`);
    None where a side has no scores.
    """

    route: str
    cohort: str
    baseline: ScoreQuantiles
    candidate: ScoreQuantiles
    ks: float | None
    """Kolmogorov–Smirnov statistic, 0 to 1."""
    psi: float | None
    """Population stability index, over tenths of the baseline."""
    wasserstein: float | None
    """Wasserstein-1 distance, in the unit of the scores."""
    jensen_shannon: float | None
    """Jensen–Shannon divergence, bits, 0 to 1."""


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the labels that came later. `received` = the next four, and those that wait for their pair."""

    received: int
    joined: int
    unmatched: int
    """Late, or under a request id of which no pair is known."""
    duplicates: int
    """Repetitions: the first label that joins a pair counts."""
    invalid: int
    """Written to the stream by others than the API, and not to be read."""
    waiting: int
    """Not read yet, or before their pair."""
    waiting_pairs: int
    """Pairs whose label may yet come."""
    expired_pairs: int
    """Pairs that waited in vain."""
    overflow: int
    """Pairs that could not wait: more than `redis.max_labels` did, or one of the same request id."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the decision needs to know beside the statistics."""

    at: float
    """Unix time of the reading."""
    experiment: str
    accounting: Accounting
    open_pairs: int = 0
    """Pairs in start-time buckets that are not closed yet; not counted."""
    rate: float | None = None
    """Pairs a second, as they come now; None where that isn't known."""
    late_pairs: int = 0
    """Pairs that came after their bucket was closed; counted when they came."""
    lost_entries: int = 0
    """Stream entries that were trimmed before they were read."""
    missing_pairs: int = 0
    """Pairs that proxies were told are stored and that the store doesn't have, as after a fail-over."""
    dead_letters: int = 0
    clock_behind: float = 0.0
    """Seconds by which the clock of a proxy that writes is behind the store's, the most of all."""
    version_header: str | None = None
    """The response header that names versions; None: they were not noted."""
    versions: Mapping[str, tuple[VersionSeen, ...]] = {}
    """By side, those that have answered, in the order in which they came."""
    notes: tuple[str, ...] = ()
    """What a reader of the verdict should know, and no decision depends on: that mirroring is paused, for one."""
    labels: Labels | None = None
    """None where no route waits for labels."""
    latched: tuple[str, ...] | None = None
    """Why this experiment was rolled back before; None if it was not. A rollback stands."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict at one moment."""

    state: State
    exhausted: bool
    reasons: tuple[str, ...]
    experiment: str
    at: float
    pairs: int
    """Pairs counted: those in closed start-time buckets, without those of weight 0."""
    open_pairs: int
    late_pairs: int
    guardrails: tuple[Cell, ...]
    """Overall."""
    cohorts: dict[str, CohortReport]
    accounting: Accounting
    checks: tuple[Check, ...]
    failures: dict[str, dict[str, int]]
    """By side: kind of failure: how many."""
    summaries: tuple[Summary, ...]
    latencies: tuple[Quantiles, ...]
    evidence_rollback: float
    """The weighted mean of the e-values for harm, cells with fewer pairs than a rollback needs as 0; rollback at
    1 / alpha_rollback."""
    forecast: Forecast | None = None
    """Of a promote, while the verdict is continue; None where it can't be said: no data, or a loss beyond its margin.
    """
    notes: tuple[str, ...] = ()
    """What explains the figures and decides nothing, such as that mirroring is paused."""
    versions: dict[str, tuple[VersionSeen, ...]] = {}
    """By side, the versions that have answered, in the order in which they came; empty without
    `verdict.version_header`."""
    labels: Labels | None = None
    """What became of labels that came later; None where no route waits for any."""
    tables: tuple[TableRow, ...] = ()
    """By table, route and key; within a table the largest first."""
    dependence: tuple[Dependence, ...] = ()
    """Of the guardrails on means; empty of those of which nothing can be said yet."""
    distributions: tuple[Distribution, ...] = ()
    """By route and cohort, `all` first; nothing of routes without scores."""


def cells(verdict: Verdict) -> tuple[Cell, ...]:
    """All cells of a verdict: overall first, then cohort by cohort."""
    return (*verdict.guardrails, *(cell for report in verdict.cohorts.values() for cell in report.guardrails))
