"""One exposition of several proxy processes."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from shadowproxy.metrics.exposition import Registry, Scraped


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
    made.register(Scraped(lambda: (workers, again, *families.values())))
    return made
