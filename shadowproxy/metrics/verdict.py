"""Of the verdict and of the streams, as the API process last read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric, StateSetMetricFamily

from shadowproxy.metrics.exposition import Registry, Scraped


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailReading:
    """What is exported of one guardrail × cohort."""

    guardrail: str
    cohort: str
    margin: float
    estimate: float | None
    e_promote: float
    e_rollback: float
    pairs: int


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
    age: float
    pairs: int
    open_pairs: int
    changed_at: float | None
    """Unix time since which the state is what it is; None where that is not known."""
    stream: StreamReading
    guardrails: tuple[GuardrailReading, ...]
    labels: Mapping[str, int] | None = None
    """As the verdict has them, by the names of `VerdictMetrics`; None where no route waits for labels."""


class VerdictMetrics:
    """Of the verdict, as the API process last read it. Nothing is exported before the first reading."""

    _STATES = ("promote", "rollback", "continue")
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

    def __init__(self, into: Registry, current: Callable[[], VerdictReading | None]) -> None:
        self._current = current
        into.register(Scraped(self._families))

    def _families(self) -> Iterable[Metric]:
        reading = self._current()
        if reading is None:
            return
        yield StateSetMetricFamily(
            "shadowproxy_verdict", "The verdict.", value={state: state == reading.state for state in self._STATES}
        )
        yield GaugeMetricFamily(
            "shadowproxy_verdict_age_seconds", "Since the verdict was last worked out.", value=reading.age
        )
        if reading.changed_at is not None:
            yield GaugeMetricFamily(
                "shadowproxy_verdict_changed_timestamp_seconds",
                "Unix time since which the verdict is what it is; not there while the store can't say.",
                value=reading.changed_at,
            )
        yield GaugeMetricFamily("shadowproxy_verdict_pairs", "Pairs the verdict rests on.", value=reading.pairs)
        yield GaugeMetricFamily(
            "shadowproxy_verdict_open_pairs", "Pairs in start-time buckets not closed yet.", value=reading.open_pairs
        )
        for field, name, help_text in self._STREAM:
            yield GaugeMetricFamily(f"shadowproxy_stream_{name}", help_text, value=getattr(reading.stream, field))
        if reading.labels is not None:
            for field, name, help_text in self.LABELS:
                yield GaugeMetricFamily(f"shadowproxy_{name}", help_text, value=reading.labels[field])
        for name, help_text in (
            ("estimate", "Mean loss, in the metric's unit; larger is worse."),
            ("margin", "Mean loss that is tolerated."),
            ("e_promote", "Evidence (e-value) that the loss is within the margin."),
            ("e_rollback", "Evidence (e-value) that the loss is beyond the margin."),
            ("pairs", "Pairs with a defined value."),
        ):
            family = GaugeMetricFamily(f"shadowproxy_guardrail_{name}", help_text, labels=["guardrail", "cohort"])
            for row in reading.guardrails:
                value = getattr(row, name)
                if value is not None:
                    family.add_metric([row.guardrail, row.cohort], value)
            yield family
