"""Of the verdict and of the streams, as the API process last read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric, Sample, StateSetMetricFamily

from shadowproxy.metrics.exposition import Registry, Scraped


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailReading:
    """What is exported of one guardrail × cohort. None: not known, and not exported."""

    guardrail: str
    cohort: str
    margin: float
    estimate: float | None
    interval_low: float | None
    interval_high: float | None
    e_promote: float
    e_rollback: float
    promote_threshold: float
    rollback_threshold: float
    pairs: int
    undefined_pairs: int
    needed_pairs: float | None
    required: bool
    finding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReading:
    """Quantiles of one upstream over all pairs. `seconds` by quantile ("0.5"); infinite among the failures."""

    side: str
    timing: str
    pairs: int
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DistanceReading:
    """How far apart the scores of both sides are in one route, over all pairs."""

    route: str
    ks: float | None
    psi: float | None
    wasserstein: float | None
    jensen_shannon: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReading:
    """What is exported of the streams, all partitions together."""

    lag: int
    pending: int
    waiting_bytes: int
    kept_bytes: int
    lost_entries: int
    lost_pairs: int
    missing_pairs: int
    dead_letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictReading:
    """What is exported of one verdict. `age` is in seconds since it was worked out."""

    state: str
    experiment: str
    age: float
    pairs: int
    open_pairs: int
    exhausted: bool
    changed_at: float | None
    """Unix time since which the state is what it is; None where that is not known."""
    evidence_rollback: float
    evidence_rollback_threshold: float
    forecast_pairs: float | None
    forecast_seconds: float | None
    stream: StreamReading
    guardrails: tuple[GuardrailReading, ...]
    checks: Mapping[str, bool]
    """By name, whether it is passed."""
    inflation: Mapping[tuple[str, str], float]
    """By guardrail and what dependent pairs have in common."""
    latencies: tuple[LatencyReading, ...]
    distances: tuple[DistanceReading, ...]
    versions: Mapping[str, str]
    """By side, the one that answered last."""
    labels: Mapping[str, int] | None = None
    """As the verdict has them, by the names of `VerdictMetrics`; None where no route waits for labels."""


class VerdictMetrics:
    """Of the verdict, as the API process last read it. Before the first reading only whether it can be read."""

    STATES = ("promote", "rollback", "continue")
    FINDINGS = ("safe", "harmful", "undecided")
    _STREAM = (
        ("lag", "lag_entries", "Stream entries written and not committed yet."),
        ("pending", "pending_entries", "Stream entries that a comparator was given and has not committed yet."),
        ("waiting_bytes", "waiting_bytes", "Payload of stream entries that are not committed yet."),
        ("kept_bytes", "kept_bytes", "Payload of stream entries that are kept after they were committed."),
        ("lost_entries", "lost_entries", "Stream entries trimmed before they were read."),
        ("lost_pairs", "lost_pairs", "Pairs in stream entries that were trimmed before they were read."),
        (
            "missing_pairs",
            "missing_pairs",
            "Pairs that the store has acknowledged and knows nothing of.",
        ),
        ("dead_letters", "dead_letters", "Entries moved to the dead-letter stream."),
    )

    LABELS = (
        ("received", "labels_received", "Labels that came later, repetitions included."),
        ("joined", "labels_joined", "Labels that were joined with their pair."),
        ("unmatched", "labels_unmatched", "Labels that were late, or under the id of no pair that is known."),
        ("duplicates", "labels_duplicate", "Labels for a request that had one already."),
        ("invalid", "labels_invalid", "Labels in the stream that could not be read."),
        ("waiting", "labels_waiting", "Labels that are not read yet, or came before their pair."),
        ("waiting_pairs", "unlabelled_pairs", "Pairs whose label may yet come."),
        ("expired_pairs", "unlabelled_pairs_expired", "Pairs that waited for a label in vain."),
        (
            "overflow",
            "unlabelled_pairs_overflow",
            "Pairs that could not wait for a label: too many did, or one of the same request id.",
        ),
    )
    _OVERALL = (
        ("age", "verdict_age_seconds", "Since the verdict was last worked out."),
        (
            "changed_at",
            "verdict_changed_timestamp_seconds",
            "Unix time since which the verdict is what it is; not there while the store can't say.",
        ),
        ("pairs", "verdict_pairs", "Pairs the verdict rests on."),
        ("open_pairs", "verdict_open_pairs", "Pairs in start-time buckets not closed yet."),
        ("exhausted", "verdict_exhausted", "1 where verdict.horizon was reached without a decision, else 0."),
        ("evidence_rollback", "evidence_rollback", "Evidence for a rollback as a whole: a weighted mean of e-values."),
        ("evidence_rollback_threshold", "evidence_rollback_threshold", "At what evidence it is a rollback."),
        (
            "forecast_pairs",
            "forecast_pairs",
            "Pairs that a promote still takes, if things go on as they did; not there where that can't be said.",
        ),
        ("forecast_seconds", "forecast_seconds", "Time that these pairs take at the rate at which pairs come now."),
    )
    _CELLS = (
        ("estimate", "Mean loss, in the metric's unit; larger is worse."),
        ("interval_low", "Lower end of the anytime-valid confidence interval of the mean loss."),
        ("interval_high", "Upper end of the anytime-valid confidence interval of the mean loss."),
        ("margin", "Mean loss that is tolerated."),
        ("e_promote", "Evidence (e-value) that the loss is within the margin."),
        ("e_rollback", "Evidence (e-value) that the loss is beyond the margin."),
        ("promote_threshold", "At what evidence the loss is proven to be within the margin."),
        ("rollback_threshold", "At what evidence the loss is proven to be beyond the margin."),
        ("pairs", "Pairs with a defined value."),
        ("undefined_pairs", "Pairs that should have had a value and did not."),
        ("needed_pairs", "Pairs that it still takes to prove the loss within the margin; not there where unknown."),
        ("required", "1 where a promote needs this proven, else 0."),
    )
    _DISTANCES = (
        ("ks", "score_ks", "Kolmogorov–Smirnov distance of the two score distributions, 0 to 1."),
        ("psi", "score_psi", "Population stability index of the scores, over tenths of the baseline's."),
        ("wasserstein", "score_wasserstein", "Wasserstein-1 distance of the scores, in their own unit."),
        ("jensen_shannon", "score_jensen_shannon", "Jensen–Shannon divergence of the scores, in bits, 0 to 1."),
    )

    def __init__(
        self,
        into: Registry,
        current: Callable[[], VerdictReading | None],
        readable: Callable[[], bool] = lambda: True,
    ) -> None:
        """`readable`: whether the last attempt to work the verdict out was a success."""
        self._current = current
        self._readable = readable
        into.register(Scraped(self._families))

    def _families(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(
            "shadowproxy_verdict_readable",
            "1 where the last attempt to work the verdict out was a success, else 0.",
            value=self._readable(),
        )
        reading = self._current()
        if reading is None:
            return
        yield StateSetMetricFamily(
            "shadowproxy_verdict", "The verdict.", value={state: state == reading.state for state in self.STATES}
        )
        for field, name, help_text in self._OVERALL:
            value = getattr(reading, field)
            if value is not None:
                yield GaugeMetricFamily(f"shadowproxy_{name}", help_text, value=value)
        for field, name, help_text in self._STREAM:
            yield GaugeMetricFamily(f"shadowproxy_stream_{name}", help_text, value=getattr(reading.stream, field))
        if reading.labels is not None:
            for field, name, help_text in self.LABELS:
                yield GaugeMetricFamily(f"shadowproxy_{name}", help_text, value=reading.labels[field])
        yield from self._cells(reading)
        yield from self._beside(reading)
        yield from _identity(reading)

    def _cells(self, reading: VerdictReading) -> Iterable[Metric]:
        keys = ["guardrail", "cohort"]
        for name, help_text in self._CELLS:
            family = GaugeMetricFamily(f"shadowproxy_guardrail_{name}", help_text, labels=keys)
            for row in reading.guardrails:
                value = getattr(row, name)
                if value is not None:
                    family.add_metric([row.guardrail, row.cohort], value)
            yield family
        findings = StateSetMetricFamily(
            "shadowproxy_guardrail_finding", "What a guardrail says for a cohort.", labels=keys
        )
        for row in reading.guardrails:
            findings.add_metric([row.guardrail, row.cohort], {name: name == row.finding for name in self.FINDINGS})
        yield findings

    def _beside(self, reading: VerdictReading) -> Iterable[Metric]:
        checks = GaugeMetricFamily(
            "shadowproxy_check_passed",
            "1 where a condition on the data, without which nothing is promoted, is met; else 0.",
            labels=["check"],
        )
        for name, passed in reading.checks.items():
            checks.add_metric([name], passed)
        inflation = GaugeMetricFamily(
            "shadowproxy_guardrail_inflation_ratio",
            "By what factor dependence between pairs widens the variance of a guardrail's mean, by what they share.",
            labels=["guardrail", "by"],
        )
        for (guardrail, by), ratio in reading.inflation.items():
            inflation.add_metric([guardrail, by], ratio)
        latencies = Metric(
            "shadowproxy_latency_seconds",
            "Latency of all pairs counted, by upstream; infinite where the quantile lies among the failures.",
            "summary",
        )
        for row in reading.latencies:
            labels = {"side": row.side, "timing": row.timing}
            latencies.samples += [
                Sample(latencies.name, {**labels, "quantile": quantile}, seconds)
                for quantile, seconds in row.seconds.items()
            ]
            latencies.samples.append(Sample(f"{latencies.name}_count", labels, row.pairs))
        yield from (checks, inflation, latencies)
        for field, name, help_text in self._DISTANCES:
            family = GaugeMetricFamily(f"shadowproxy_{name}", help_text, labels=["route"])
            for distance in reading.distances:
                value = getattr(distance, field)
                if value is not None and math.isfinite(value):
                    family.add_metric([distance.route], value)
            yield family


def _identity(reading: VerdictReading) -> Iterable[Metric]:
    yield InfoMetricFamily("shadowproxy_experiment", "The experiment.", value={"experiment": reading.experiment})
    versions = InfoMetricFamily(
        "shadowproxy_upstream_version",
        "The version that answered last, as verdict.version_header says; a label of at most 128 characters.",
        labels=["side"],
    )
    for side, version in reading.versions.items():
        versions.add_metric([side], {"version": version})
    yield versions
