"""Of one proxy process that makes spans: those that the collector has, and those that it never gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, Metric

from shadowproxy.metrics.exposition import Registry, Scraped


class TracingMetrics:
    """Exported where `tracing` is configured. `sent` and `dropped` (by reason) are asked at the moment of a scrape."""

    def __init__(self, into: Registry, sent: Callable[[], int], dropped: Callable[[], Mapping[str, int]]) -> None:
        def families() -> Iterable[Metric]:
            yield CounterMetricFamily(
                "shadowproxy_traced_requests", "Requests whose spans the collector has taken.", value=sent()
            )
            lost = CounterMetricFamily(
                "shadowproxy_untraced_requests", "Requests whose spans were dropped, by reason.", labels=["reason"]
            )
            for reason, count in dropped().items():
                lost.add_metric([reason], count)
            yield lost

        into.register(Scraped(families))
