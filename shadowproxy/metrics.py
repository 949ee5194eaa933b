"""Every Prometheus metric, named and documented in one place; the only module that knows prometheus_client.

Names have base units; labels are bounded: sides, outcomes, reasons, guardrails, cohorts (a configured maximum). No
user, item, id or raw path is ever a label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, StateSetMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from shadowproxy.model import Accounting, Outcome, Side

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


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


class ProxyMetrics:
    """Of one proxy process."""

    def __init__(self, into: Registry) -> None:
        self._into = into
        durations = Histogram(
            "shadowproxy_exchange_duration_seconds",
            "From the last byte of the request written to the last byte of the response, by upstream.",
            ["side"],
            buckets=_LATENCY_BUCKETS,
            registry=into,
        )
        outcomes = Counter(
            "shadowproxy_exchanges",
            "Exchanges with an upstream, by how they ended.",
            ["side", "outcome"],
            registry=into,
        )
        self._durations = {side: durations.labels(side.value) for side in Side}
        self._outcomes = {
            (side, outcome): outcomes.labels(side.value, outcome.value) for side in Side for outcome in Outcome
        }

    def watch(
        self,
        account: Callable[[], Accounting],
        in_flight: Callable[[], Mapping[Side, int]],
        connections: Callable[[], int],
        waiting: Callable[[], tuple[int, int]],
    ) -> None:
        """Export what these say at the moment of a scrape; `waiting` is (pairs, bytes) in the recorder."""

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

    def observe(self, side: Side, outcome: Outcome, total: float) -> None:
        """One exchange has ended; `total` in seconds, counted only where there was an answer."""
        self._outcomes[side, outcome].inc()
        if outcome is Outcome.OK:
            self._durations[side].observe(total)


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
class VerdictReading:
    """What is exported of one verdict. `age` is in seconds since it was worked out."""

    state: str
    age: float
    pairs: int
    open_pairs: int
    lag: int
    lost_entries: int
    dead_letters: int
    guardrails: tuple[GuardrailReading, ...]


class VerdictMetrics:
    """Of the verdict, as the API process last read it. Nothing is exported before the first reading."""

    _STATES = ("promote", "rollback", "continue")

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
        yield GaugeMetricFamily("shadowproxy_verdict_pairs", "Pairs the verdict rests on.", value=reading.pairs)
        yield GaugeMetricFamily(
            "shadowproxy_verdict_open_pairs", "Pairs in start-time buckets not closed yet.", value=reading.open_pairs
        )
        yield GaugeMetricFamily(
            "shadowproxy_stream_lag_entries", "Stream entries written and not committed yet.", value=reading.lag
        )
        yield GaugeMetricFamily(
            "shadowproxy_stream_lost_entries",
            "Stream entries trimmed before they were read.",
            value=reading.lost_entries,
        )
        yield GaugeMetricFamily(
            "shadowproxy_stream_dead_letters", "Entries moved to the dead-letter stream.", value=reading.dead_letters
        )
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
