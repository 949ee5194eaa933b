"""Every Prometheus metric, named and documented, a file for each process; the only room that knows prometheus_client.

Names have base units; labels are bounded: sides, outcomes, reasons, guardrails, cohorts (a configured maximum). No
user, item, id or raw path is ever a label.
"""

from shadowproxy.metrics.comparator import ComparatorMetrics
from shadowproxy.metrics.exposition import OPENMETRICS, Registry, registry, render
from shadowproxy.metrics.mirror import MirrorMetrics, MirrorReading, ShadowReading
from shadowproxy.metrics.proxy import ProxyMetrics, accounting_families
from shadowproxy.metrics.tracing import TracingMetrics
from shadowproxy.metrics.verdict import (
    DistanceReading,
    GuardrailReading,
    LatencyReading,
    StreamReading,
    VerdictMetrics,
    VerdictReading,
)
from shadowproxy.metrics.workers import of_workers

__all__ = [
    "OPENMETRICS",
    "ComparatorMetrics",
    "DistanceReading",
    "GuardrailReading",
    "LatencyReading",
    "MirrorMetrics",
    "MirrorReading",
    "ProxyMetrics",
    "Registry",
    "ShadowReading",
    "StreamReading",
    "TracingMetrics",
    "VerdictMetrics",
    "VerdictReading",
    "accounting_families",
    "of_workers",
    "registry",
    "render",
]
