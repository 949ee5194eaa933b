"""Registries and their expositions, and what the metrics of several processes have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from shadowproxy import __version__

LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds."""


class Registry(CollectorRegistry):
    """The metrics of one process."""

    def collect(self) -> Iterable[Metric]:
        """Every family of now, without `_created`: it would double the series of counters, and Prometheus has no use
        for it."""
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
"""What to accept of a process whose page is given to `of_workers`: it keeps every type."""


def registry() -> Registry:
    """A registry of one process, with its CPU, memory and descriptors, and the version that it runs."""
    made = Registry()
    ProcessCollector(registry=made)
    made.register(Scraped(_build))
    return made


def _build() -> Iterable[Metric]:
    yield InfoMetricFamily("shadowproxy_build", "The shadowproxy that runs.", value={"version": __version__})


def render(source: Registry, accept: str) -> tuple[bytes, str]:
    """The exposition that an `Accept` header asks for, Prometheus text or OpenMetrics, and its content type."""
    encoder, content_type = choose_encoder(accept)
    return encoder(source), content_type


class Scraped(Collector):
    """Families made at the moment of a scrape, so that hot paths keep plain integers."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """The families of now."""
        return self._families()

    def describe(self) -> Iterable[Metric]:
        """Nothing: asked at registration, when what the families rest on need not be there yet."""
        return ()
