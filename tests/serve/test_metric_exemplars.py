"""Exemplars: one request by its id beside a figure, only in OpenMetrics, and no id that can break a page."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import exposed
import pytest
from prometheus_client.core import Exemplar
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from shadowproxy import metrics
from shadowproxy.model import Outcome, Side


@dataclass
class Asked:
    request_id: bytes = b"request-1"
    traceparent: bytes = b""


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def exemplars(registry: metrics.Registry, accept: str = metrics.OPENMETRICS) -> dict[tuple[str, ...], Exemplar]:
    """By name and the labels' values in the order of their names, as read from the page."""
    page = metrics.render(registry, accept)[0].decode()
    return {
        (found.name, *(value for _, value in sorted(found.labels.items()))): found.exemplar._replace(
            timestamp=float(found.exemplar.timestamp)
        )
        for family in text_string_to_metric_families(page)
        for found in family.samples
        if found.exemplar is not None
    }


BUCKET = "shadowproxy_exchange_duration_seconds_bucket"


def test_a_bucket_names_a_request_that_fell_into_it_by_its_id_and_trace() -> None:
    registry = metrics.registry()
    clock = itertools.count(100.0)
    observe = metrics.ProxyMetrics(registry, clock=lambda: next(clock)).observer(Side.BASELINE)
    observe(Outcome.OK, 0.02, Asked(b"first", f"00-{TRACE}-00f067aa0ba902b7-01".encode()))
    observe(Outcome.OK, 0.021, Asked(b"second"))
    observe(Outcome.OK, 7.0, Asked(b"slow"))
    observe(Outcome.TIMEOUT, math.inf, Asked(b"never"))
    shown = {
        (BUCKET, "0.025", "baseline"): Exemplar({"request_id": "first", "trace_id": TRACE}, 0.02, 100.0),
        (BUCKET, "10.0", "baseline"): Exemplar({"request_id": "slow"}, 7.0, 101.0),
    }
    assert exemplars(registry) == shown
    # Whoever scrapes next sees them still; what came since takes their place.
    assert exemplars(registry) == shown
    observe(Outcome.OK, 0.02, Asked(b"third"))
    assert exemplars(registry) == {
        **shown,
        (BUCKET, "0.025", "baseline"): Exemplar({"request_id": "third"}, 0.02, 102.0),
    }


def test_a_failed_pair_is_named_by_side_and_kind() -> None:
    registry = metrics.registry()
    compared = metrics.ComparatorMetrics(registry, kinds=exposed.KINDS, faults=exposed.FAULTS, clock=lambda: 5.0)
    compared.failure(Side.CANDIDATE, "http_5xx", 3, "a", f"00-{TRACE}-00f067aa0ba902b7-01")
    compared.failure(Side.CANDIDATE, "bad_body", 1, "b")
    compared.failure(Side.CANDIDATE, "bad_body", 2, "c")
    failed, bad = "shadowproxy_failed_exchanges_total", "shadowproxy_bad_bodies_total"
    assert exemplars(registry) == {
        (failed, "http_5xx", "candidate"): Exemplar({"request_id": "a", "trace_id": TRACE}, 3.0, 5.0),
        (failed, "bad_body", "candidate"): Exemplar({"request_id": "c"}, 2.0, 5.0),
        (bad, "bad_body", "candidate"): Exemplar({"request_id": "c"}, 2.0, 5.0),
    }
    assert registry.get_sample_value(failed, {"side": "candidate", "kind": "bad_body"}) == 3
    assert registry.get_sample_value(bad, {"side": "candidate", "reason": "bad_body"}) == 3
    # Not there yet, and so nought.
    assert registry.get_sample_value(bad, {"side": "baseline", "reason": "too_large"}) == 0
    assert registry.get_sample_value(bad, {"side": "candidate", "reason": "http_5xx"}) is None


@pytest.mark.parametrize("accept", ["", "text/plain", "*/*", "text/html,application/xhtml+xml"])
def test_exemplars_are_in_openmetrics_alone(accept: str) -> None:
    registry = metrics.registry()
    metrics.ProxyMetrics(registry).observer(Side.BASELINE)(Outcome.OK, 0.02, Asked(b"request-1"))
    exposed.comparator(registry)
    page, content_type = metrics.render(registry, accept)
    assert content_type.startswith("text/plain")
    assert b"request-1" not in page
    assert metrics.render(registry, metrics.OPENMETRICS)[0].count(b"request-1") == 2


HOSTILE_IDS = (
    'a"} 1\n# EOF\n', "\\", "\ud800", "\x00", "é" * 118, "x" * 118, "x" * 119, "x" * 5000, "", "a # {} 1", "\u2028",
)  # fmt: skip

TRACEPARENTS = ("", f"00-{TRACE}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01", f'00-{TRACE[:-1]}"-a-b')


@pytest.mark.parametrize("request_id", HOSTILE_IDS, ids=range(len(HOSTILE_IDS)))
@pytest.mark.parametrize(
    "traceparent",
    ["", f"00-{TRACE}-00f067aa0ba902b7-01", f"00-{'0' * 32}-00f067aa0ba902b7-01", f'00-{TRACE[:-1]}"-a-b'],
)
def test_no_id_breaks_the_page_or_passes_the_bound_of_an_exemplar(request_id: str, traceparent: str) -> None:
    """Their parser refuses a page with more than 128 characters in an exemplar; so does Prometheus."""
    registry = metrics.registry()
    compared = metrics.ComparatorMetrics(registry)
    compared.failure(Side.CANDIDATE, "timeout", 1, request_id, traceparent)
    fits = request_id.isprintable() and 0 < len(request_id) <= 118
    trace = {"trace_id": TRACE} if TRACE + "-" in traceparent and len(request_id) <= 78 else {}
    told = [one.labels for one in exemplars(registry).values()]
    assert told == ([{"request_id": request_id, **trace}] if fits else [])


def test_an_id_that_has_no_room_leaves_the_last_that_had() -> None:
    registry = metrics.registry()
    observe = metrics.ProxyMetrics(registry).observer(Side.BASELINE)
    for request_id in (b"short", b"x" * 128):
        observe(Outcome.OK, 0.02, Asked(request_id))
        (shown,) = exemplars(registry).values()
        assert shown.labels == {"request_id": "short"}


def test_the_exemplars_of_workers_are_kept() -> None:
    registry = metrics.registry()
    metrics.ProxyMetrics(registry, clock=lambda: 7.0).observer(Side.BASELINE)(Outcome.OK, 0.02, Asked())
    page = metrics.render(registry, metrics.OPENMETRICS)[0].decode()
    merged = metrics.of_workers(metrics.registry(), {"0": page, "1": page}, configured=2, restarts=0)
    found = exemplars(merged)
    assert len(found) == 2
    assert set(map(str, found.values())) == {str(Exemplar({"request_id": "request-1"}, 0.02, 7.0))}
    assert b"request-1" not in metrics.render(merged, "")[0]
