"""Of one proxy process: where its requests went, its exchanges, its recorder, its network."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Final, Protocol

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, Exemplar, GaugeMetricFamily, HistogramMetricFamily, Metric

from shadowproxy.metrics.exemplars import exemplar
from shadowproxy.metrics.exposition import LATENCY_BUCKETS, Registry, Scraped
from shadowproxy.model import Accounting, Outcome, Side

_LATENCY_BOUNDS: Final = (*map(str, LATENCY_BUCKETS), "+Inf")
"""As the label `le` has them."""


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


class Asked(Protocol):
    """What an exemplar needs to know of a request, as it stands in its head."""

    request_id: bytes
    traceparent: bytes


class _Tally:
    """Exchanges with one upstream. An answer is counted in one bucket, the first whose bound it does not pass."""

    __slots__ = ("_clock", "_last", "_next", "buckets", "failures", "seconds")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.buckets = [0] * (len(LATENCY_BUCKETS) + 1)
        self.seconds = 0.0
        self.failures = {outcome: 0 for outcome in Outcome if outcome is not _OK}
        self._next: list[tuple[bytes, bytes, float, float] | None] = [None] * len(self.buckets)
        self._last: list[Exemplar | None] = [None] * len(self.buckets)

    def observe(self, outcome: Outcome, total: float, request: Asked | None = None) -> None:
        """One exchange has ended; `total` in seconds, counted only where there was an answer.

        Called twice per mirrored request: prometheus_client's own counters and histograms, behind locks, cost six
        times as much (1.4 µs against 0.2). So of a bucket only the first request after a scrape becomes its exemplar,
        and all others cost one look.
        """
        if outcome is _OK:
            at = bisect_left(LATENCY_BUCKETS, total)
            self.buckets[at] += 1
            self.seconds += total
            if self._next[at] is None and request is not None:
                self._next[at] = request.request_id, request.traceparent, total, self._clock()
        else:
            self.failures[outcome] += 1

    def cumulative(self) -> Iterable[tuple[str, int, Exemplar | None]]:
        """By bound of a bucket: how many are within it, and one that fell into it. To be asked by a scrape."""
        for at, found in enumerate(self._next):
            if found is not None:
                request_id, traceparent, total, seen = found
                shown = exemplar(request_id.decode("latin-1"), traceparent.decode("latin-1"), total, seen)
                self._last[at] = shown or self._last[at]
                self._next[at] = None
        return zip(_LATENCY_BOUNDS, accumulate(self.buckets), self._last, strict=True)

    def ended(self) -> Iterable[tuple[Outcome, int]]:
        """By outcome, how many."""
        yield _OK, sum(self.buckets)
        yield from self.failures.items()


class ProxyMetrics:
    """Of one proxy process."""

    def __init__(self, into: Registry, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives Unix time."""
        self._into = into
        self._tallies = {side: _Tally(clock) for side in Side}
        into.register(Scraped(self._exchanges))
        self.lag = Histogram(
            "shadowproxy_event_loop_lag_seconds",
            "How long a callback waits for its turn: what this process adds to every step of a request.",
            buckets=LATENCY_BUCKETS,
            registry=into,
        )

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
            durations.add_metric([side.value], list(tally.cumulative()), tally.seconds)  # type: ignore[arg-type]  # (None is taken for an exemplar)
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
        most: tuple[int, int] = (0, 0),
    ) -> None:
        """Export what these say at the moment of a scrape.

        `waiting` is (pairs, bytes) in the recorder's memory, `spooled` (pairs, bytes, pairs adopted) of its spool;
        `most` are the bytes that each may take.
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
            memory, disk = most
            yield GaugeMetricFamily(
                "shadowproxy_recorder_waiting_max_bytes",
                "Memory they may take (recorder.max_bytes).",
                value=memory,
            )
            yield GaugeMetricFamily(
                "shadowproxy_recorder_spool_max_bytes",
                "Disk space that all spools in the directory may take (recorder.spool.max_bytes).",
                value=disk,
            )
            yield CounterMetricFamily(
                "shadowproxy_recorder_adopted_pairs",
                "Pairs delivered for proxies that had died, from their spools.",
                value=adopted,
            )

        self._into.register(Scraped(families))

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

        self._into.register(Scraped(families))

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

        self._into.register(Scraped(families))

    def observer(self, side: Side) -> Callable[[Outcome, float, Asked | None], None]:
        """What is to be told of every exchange with `side` that has ended (see `_Tally.observe`)."""
        return self._tallies[side].observe
