"""Of one comparator process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Exemplar, Metric, Sample

from shadowproxy.metrics.exemplars import exemplar
from shadowproxy.metrics.exposition import LATENCY_BUCKETS, Registry, Scraped
from shadowproxy.model import Side

BATCH_BUCKETS: Final = (1.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
"""Pairs."""


class ComparatorMetrics:
    """Of one comparator process, all its workers together.

    `kinds` are the kinds of failure that there are, `faults` those of them that are an answer's body: each is there as
    nought before it first happens. `clock` gives Unix time.
    """

    def __init__(
        self,
        into: Registry,
        *,
        kinds: Collection[str] = (),
        faults: Collection[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._faults = frozenset(faults)
        self._failed = {(side, kind): 0 for side in Side for kind in kinds}
        self._shown: dict[tuple[Side, str], Exemplar] = {}
        self.pairs = Counter("shadowproxy_compared_pairs", "Pairs compared and committed.", registry=into)
        self.entries = Counter("shadowproxy_compared_entries", "Stream entries committed.", registry=into)
        self.batch = Histogram(
            "shadowproxy_compare_duration_seconds",
            "From entries read to state committed.",
            buckets=LATENCY_BUCKETS,
            registry=into,
        )
        self.batch_pairs = Histogram(
            "shadowproxy_compare_batch_pairs",
            "Pairs that were compared and committed together.",
            buckets=BATCH_BUCKETS,
            registry=into,
        )
        into.register(Scraped(self._failures))
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

    def failure(self, side: Side, kind: str, pairs: int, request_id: str = "", traceparent: str = "") -> None:
        """`pairs` compared pairs had that kind of failure on that side; one of them has this request id and trace."""
        key = (side, kind)
        self._failed[key] = self._failed.get(key, 0) + pairs
        if request_id and (shown := exemplar(request_id, traceparent, pairs, self._clock())):
            self._shown[key] = shown

    def _failures(self) -> Iterable[Metric]:
        failed = CounterMetricFamily(
            "shadowproxy_failed_exchanges",
            "Failed exchanges in compared pairs, by kind; the exemplar is one of them.",
            labels=["side", "kind"],
        )
        bad = CounterMetricFamily(
            "shadowproxy_bad_bodies",
            "Those of them whose answer came and could not be used, by what is wrong with its body.",
            labels=["side", "reason"],
        )
        for (side, kind), count in self._failed.items():
            shown = self._shown.get((side, kind))
            # Not by add_metric, which has no place for an exemplar before prometheus_client 0.22.
            labels = {"side": side.value, "kind": kind}
            failed.samples.append(Sample(f"{failed.name}_total", labels, count, exemplar=shown))
            if kind in self._faults:
                labels = {"side": side.value, "reason": kind}
                bad.samples.append(Sample(f"{bad.name}_total", labels, count, exemplar=shown))
        yield failed
        yield bad
