"""Of one comparator process."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from shadowproxy.metrics.exposition import LATENCY_BUCKETS, Registry
from shadowproxy.model import Side


class ComparatorMetrics:
    """Of one comparator worker."""

    def __init__(self, into: Registry) -> None:
        self.pairs = Counter("shadowproxy_compared_pairs", "Pairs compared and committed.", registry=into)
        self.entries = Counter("shadowproxy_compared_entries", "Stream entries committed.", registry=into)
        self.batch = Histogram(
            "shadowproxy_compare_duration_seconds",
            "From entries read to state committed.",
            buckets=LATENCY_BUCKETS,
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
