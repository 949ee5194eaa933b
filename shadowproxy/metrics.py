"""Every Prometheus metric, named and documented in one place; the only module that knows prometheus_client.

Names have base units; labels are bounded: sides, outcomes, reasons, guardrails, cohorts (a configured maximum). No
user, item, id or raw path is ever a label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from shadowproxy.model import Accounting, Outcome, Side

_LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LATENCY_BOUNDS: Final = (*map(str, _LATENCY_BUCKETS), "+Inf")
"""As the label `le` has them."""


Registry = CollectorRegistry


def registry() -> Registry:
    """A registry of one process, with CPU, memory and descriptors of the process in it."""
    made = Registry()
    ProcessCollector(registry=made)
    return made


def render(source: Registry, accept: str) -> tuple[bytes, str]:
    """The exposition that an `Accept` header asks for, Prometheus text or OpenMetrics, and its content type."""
    encoder, content_type = choose_encoder(accept)
    return encoder(source), content_type


class _Scraped(Collector):
    """Families made at the moment of a scrape, so that hot paths keep plain integers."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()

    def describe(self) -> Iterable[Metric]:
        return ()


def accounting_families(account: Accounting) -> Iterable[Metric]:
    """The accounting identity as counters."""
    for name, help_text, value in (
        ("shadowproxy_requests", "Requests received from clients.", account.requests),
        ("shadowproxy_eligible", "Requests that were to be recorded as a pair.", account.eligible),
        ("shadowproxy_recorded", "Pairs that the store has acknowledged.", account.recorded),
    ):
        yield CounterMetricFamily(name, help_text, value=value)
    for name, help_text, reasons in (
        ("shadowproxy_skipped", "Requests proxied without being mirrored, by reason.", account.skipped),
        ("shadowproxy_dropped", "Eligible requests whose pair was not recorded, by reason.", account.dropped),
    ):
        family = CounterMetricFamily(name, help_text, labels=["reason"])
        for reason, count in reasons.items():
            family.add_metric([reason], count)
        yield family


_OK: Final = Outcome.OK
"""A module's name costs less than an attribute of an enum's class."""


class _Tally:
    """Exchanges with one upstream. An answer is counted in one bucket, the first whose bound it does not pass."""

    __slots__ = ("buckets", "failures", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_LATENCY_BUCKETS) + 1)
        self.seconds = 0.0
        self.failures = {outcome: 0 for outcome in Outcome if outcome is not _OK}

    def observe(self, outcome: Outcome, total: float) -> None:
        """One exchange has ended; `total` in seconds, counted only where there was an answer.

        Called twice per mirrored request: prometheus_client's own counters and histograms, behind locks, cost six
        times as much (1.4 µs against 0.2).
        """
        if outcome is _OK:
            self.buckets[bisect_left(_LATENCY_BUCKETS, total)] += 1
            self.seconds += total
        else:
            self.failures[outcome] += 1

    def ended(self) -> Iterable[tuple[Outcome, int]]:
        """By outcome, how many."""
        yield _OK, sum(self.buckets)
        yield from self.failures.items()


class ProxyMetrics:
    """Of one proxy process."""

    def __init__(self, into: Registry) -> None:
        self._into = into
        self._tallies = {side: _Tally() for side in Side}
        into.register(_Scraped(self._exchanges))

    def _exchanges(self) -> Iterable[Metric]:
        durations = HistogramMetricFamily(
            "shadowproxy_exchange_duration_seconds",
            "From the last byte of the request written to the last byte of the response, by upstream.",
            labels=["side"],
        )
        outcomes = CounterMetricFamily(
            "shadowproxy_exchanges", "Exchanges with an upstream, by how they ended.", labels=["side", "outcome"]
        )
        for side, tally in self._tallies.items():
            durations.add_metric(
                [side.value], list(zip(_LATENCY_BOUNDS, accumulate(tally.buckets), strict=True)), tally.seconds
            )
            for outcome, count in tally.ended():
                outcomes.add_metric([side.value, outcome.value], count)
        yield durations
        yield outcomes

    def watch(
        self,
        account: Callable[[], Accounting],
        in_flight: Callable[[], Mapping[Side, int]],
        connections: Callable[[], int],
        waiting: Callable[[], tuple[int, int]],
        spooled: Callable[[], tuple[int, int, int]] = lambda: (0, 0, 0),
    ) -> None:
        """Export what these say at the moment of a scrape.

        `waiting` is (pairs, bytes) in the recorder's memory, `spooled` (pairs, bytes, pairs adopted) of its spool.
        """

        def families() -> Iterable[Metric]:
            yield from accounting_families(account())
            flight = GaugeMetricFamily(
                "shadowproxy_in_flight_requests", "Requests under way, by upstream.", labels=["side"]
            )
            for side, count in in_flight().items():
                flight.add_metric([side.value], count)
            yield flight
            yield GaugeMetricFamily("shadowproxy_client_connections", "Open client connections.", value=connections())
            pairs, size = waiting()
            yield GaugeMetricFamily("shadowproxy_recorder_waiting_pairs", "Pairs waiting to be written.", value=pairs)
            yield GaugeMetricFamily(
                "shadowproxy_recorder_waiting_bytes", "Memory of pairs waiting to be written.", value=size
            )
            pairs, size, adopted = spooled()
            yield GaugeMetricFamily(
                "shadowproxy_recorder_spool_pairs", "Pairs waiting on disk to be written.", value=pairs
            )
            yield GaugeMetricFamily("shadowproxy_recorder_spool_bytes", "Disk space of these pairs.", value=size)
            yield CounterMetricFamily(
                "shadowproxy_recorder_adopted_pairs",
                "Pairs delivered for proxies that had died, from their spools.",
                value=adopted,
            )

        self._into.register(_Scraped(families))

    def watch_network(
        self,
        addresses: Callable[[], Mapping[Side, tuple[int, int]]],
        failed_lookups: Callable[[], Mapping[Side, int]],
        failed_handshakes: Callable[[], Mapping[str, int]],
    ) -> None:
        """Export what these say at the moment of a scrape; `addresses` is (known, healthy) by upstream."""

        def families() -> Iterable[Metric]:
            known = GaugeMetricFamily(
                "shadowproxy_upstream_addresses", "Addresses that an upstream's host stands for.", labels=["side"]
            )
            healthy = GaugeMetricFamily(
                "shadowproxy_upstream_healthy_addresses", "Those of them that are not put aside.", labels=["side"]
            )
            for side, (count, good) in addresses().items():
                known.add_metric([side.value], count)
                healthy.add_metric([side.value], good)
            yield known
            yield healthy
            lookups = CounterMetricFamily(
                "shadowproxy_upstream_failed_lookups", "Times a host could not be resolved.", labels=["side"]
            )
            for side, count in failed_lookups().items():
                lookups.add_metric([side.value], count)
            yield lookups
            handshakes = CounterMetricFamily(
                "shadowproxy_failed_handshakes", "TLS handshakes with clients that failed, by why.", labels=["reason"]
            )
            for reason, count in failed_handshakes().items():
                handshakes.add_metric([reason], count)
            yield handshakes

        self._into.register(_Scraped(families))

    def watch_edits(
        self,
        unapplied: Callable[[], Mapping[Side, Mapping[str, int]]],
        left_out: Callable[[], Mapping[str, int]],
    ) -> None:
        """Export what could not be shaped, by side and obstacle, and not be redacted, by reason."""

        def families() -> Iterable[Metric]:
            unset = CounterMetricFamily(
                "shadowproxy_json_fields_unapplied",
                "Requests sent as they came, as json_fields could not be set in them.",
                labels=["side", "obstacle"],
            )
            for side, obstacles in unapplied().items():
                for obstacle, count in tuple(obstacles.items()):
                    unset.add_metric([side.value, obstacle], count)
            yield unset
            unread = CounterMetricFamily(
                "shadowproxy_redaction_left_out",
                "Bodies and annotations left out of pairs, as what was to be redacted could not be found in them.",
                labels=["reason"],
            )
            for reason, count in tuple(left_out().items()):
                unread.add_metric([reason], count)
            yield unread

        self._into.register(_Scraped(families))

    def observer(self, side: Side) -> Callable[[Outcome, float], None]:
        """What is to be told of every exchange with `side` that has ended (see `_Tally.observe`)."""
        return self._tallies[side].observe


OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
"""What to accept of a process whose page is given to `of_workers`: it keeps every type."""


def of_workers(own: Registry, pages: Mapping[str, str], *, configured: int, restarts: int) -> Registry:
    """One exposition of several proxy processes and their parent (`own`), from the OpenMetrics page of each worker.

    Each of their samples has the label `worker`, its number, which a worker that is started again keeps: its counters
    then begin anew, as those of any process that was restarted, and `rate` knows that. A sum made here would not do: it
    falls whenever a worker does not answer, `rate` takes that for a restart, and counts all of it once more when the
    worker is back. Sums are for the one who asks: `sum without (worker) (rate(...))`.

    A page that is cut off or can't be read is left out; `shadowproxy_workers{state="up"}` counts those that are in.
    """
    families = {family.name: family for family in own.collect()}
    up = 0
    for worker, page in pages.items():
        try:
            theirs = list(text_string_to_metric_families(page))  # type: ignore[no-untyped-call]  # (their parser has no types)
        except ValueError:
            continue
        up += 1
        for family in theirs:
            into = families.setdefault(family.name, Metric(family.name, family.documentation, family.type, family.unit))
            into.samples += [sample._replace(labels={"worker": worker, **sample.labels}) for sample in family.samples]
    workers = GaugeMetricFamily(
        "shadowproxy_workers",
        "Workers of the proxy: as configured, and up, which are those whose metrics are shown.",
        labels=["state"],
    )
    workers.add_metric(["configured"], configured)
    workers.add_metric(["up"], up)
    again = CounterMetricFamily(
        "shadowproxy_worker_restarts", "Workers that ended unasked, and were started again.", value=restarts
    )
    made = Registry()
    made.register(_Scraped(lambda: (workers, again, *families.values())))
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowReading:
    """What is exported of the copies to one shadow side."""

    breaker: str
    transitions: Mapping[str, int]
    held: int
    shed: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorReading:
    """What is exported of mirroring as a whole."""

    paused: bool
    sample: float
    sides: Mapping[Side, ShadowReading]


class MirrorMetrics:
    """Of one proxy process: whether and how it mirrors. `current` is asked at the moment of a scrape."""

    _STATES = ("closed", "open", "half_open")

    def __init__(self, into: Registry, current: Callable[[], MirrorReading]) -> None:
        self._current = current
        into.register(_Scraped(self._families))

    def _families(self) -> Iterable[Metric]:
        reading = self._current()
        yield GaugeMetricFamily(
            "shadowproxy_mirroring_paused",
            "1 while all mirroring is paused, or the experiment stopped, by a person; else 0.",
            value=reading.paused,
        )
        yield GaugeMetricFamily(
            "shadowproxy_mirroring_sample_ratio",
            "Share of requests that is mirrored where no route says otherwise; 0 while paused.",
            value=reading.sample,
        )
        state = StateSetMetricFamily("shadowproxy_breaker_state", "The breaker of a shadow upstream.", labels=["side"])
        turned = CounterMetricFamily(
            "shadowproxy_breaker_transitions", "Times that a breaker came into a state.", labels=["side", "state"]
        )
        held = GaugeMetricFamily(
            "shadowproxy_in_flight_bytes",
            "Memory of copies under way and of answers that wait for them.",
            labels=["side"],
        )
        shed = CounterMetricFamily(
            "shadowproxy_shed_copies",
            "Copies that were not made, and are recorded as that side's failure, by reason.",
            labels=["side", "reason"],
        )
        for side, one in reading.sides.items():
            state.add_metric([side.value], {name: name == one.breaker for name in self._STATES})
            held.add_metric([side.value], one.held)
            for name, count in one.transitions.items():
                turned.add_metric([side.value, name], count)
            for reason, count in one.shed.items():
                shed.add_metric([side.value, reason], count)
        yield from (state, turned, held, shed)


class TracingMetrics:
    """Of one proxy process that makes spans. `sent` and `dropped` (by reason) are asked at the moment of a scrape."""

    def __init__(self, into: Registry, sent: Callable[[], int], dropped: Callable[[], Mapping[str, int]]) -> None:
        def families() -> Iterable[Metric]:
            yield CounterMetricFamily(
                "shadowproxy_traced_requests", "Requests whose spans the collector has taken.", value=sent()
            )
            lost = CounterMetricFamily(
                "shadowproxy_untraced_requests",
                "Requests whose spans were dropped, by reason; only where `tracing` is configured.",
                labels=["reason"],
            )
            for reason, count in dropped().items():
                lost.add_metric([reason], count)
            yield lost

        into.register(_Scraped(families))


class ComparatorMetrics:
    """Of one comparator worker."""

    def __init__(self, into: Registry) -> None:
        self.pairs = Counter("shadowproxy_compared_pairs", "Pairs compared and committed.", registry=into)
        self.entries = Counter("shadowproxy_compared_entries", "Stream entries committed.", registry=into)
        self.batch = Histogram(
            "shadowproxy_compare_duration_seconds",
            "From entries read to state committed.",
            buckets=_LATENCY_BUCKETS,
            registry=into,
        )
        self._failures = Counter(
            "shadowproxy_failed_exchanges",
            "Failed exchanges in compared pairs, by kind.",
            ["side", "kind"],
            registry=into,
        )
        self.dead_letters = Counter(
            "shadowproxy_dead_letters",
            "Entries that could not be read, or ended every worker, moved to the dead-letter stream.",
            registry=into,
        )
        self.fenced = Counter(
            "shadowproxy_fenced_commits", "Commits refused since another worker had taken entries over.", registry=into
        )
        self.claimed = Counter("shadowproxy_claimed_entries", "Entries taken over from silent workers.", registry=into)
        self.joined = Counter(
            "shadowproxy_joined_labels", "Labels that came later and were joined with their pair.", registry=into
        )
        self.late = Gauge("shadowproxy_late_pairs", "Pairs that came after their bucket was closed.", registry=into)

    def failure(self, side: Side, kind: str, pairs: int) -> None:
        """`pairs` compared pairs had that kind of failure on that side."""
        self._failures.labels(side.value, kind).inc(pairs)


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
        into.register(_Scraped(self._families))

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
