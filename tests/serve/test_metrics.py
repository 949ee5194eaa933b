"""The metrics: promtool finds no fault, OpenMetrics on request, nothing unbounded as a label."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import program

from shadowproxy import metrics
from shadowproxy.model import Accounting, Outcome, Side

ACCOUNT = Accounting(requests=9, eligible=6, recorded=4, skipped={"method": 3}, dropped={"recorder_full": 2})


def proxy(into: metrics.Registry) -> None:
    observed = metrics.ProxyMetrics(into)
    observed.watch(lambda: ACCOUNT, lambda: {Side.BASELINE: 2}, lambda: 3, lambda: (4, 500))
    observed.observe(Side.CANDIDATE, Outcome.OK, 0.02)
    observed.observe(Side.CANDIDATE, Outcome.TIMEOUT, float("inf"))


def comparator(into: metrics.Registry) -> None:
    compared = metrics.ComparatorMetrics(into)
    compared.pairs.inc(5)
    compared.failure(Side.CANDIDATE, "timeout", 2)


def verdict(into: metrics.Registry) -> None:
    guardrail = metrics.GuardrailReading(
        guardrail="ranking.rbo", cohort="all", margin=0.1, estimate=None, e_promote=1.0, e_rollback=2.0, pairs=0
    )
    reading = metrics.VerdictReading(
        state="continue", age=0.5, pairs=10, open_pairs=1, lag=0, lost_entries=0, dead_letters=0,
        guardrails=(guardrail,),
    )  # fmt: skip
    metrics.VerdictMetrics(into, lambda: reading)


@pytest.mark.parametrize("fill", [proxy, comparator, verdict])
def test_promtool_finds_no_fault(fill: Callable[[metrics.Registry], None]) -> None:
    registry = metrics.registry()
    fill(registry)
    body, _ = metrics.render(registry, "")
    done = subprocess.run([program("promtool"), "check", "metrics"], input=body, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_promtool_accepts_the_scrape_configuration() -> None:
    path = Path(__file__).parent.parent.parent / "deploy" / "prometheus.yml"
    done = subprocess.run([program("promtool"), "check", "config", str(path)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def sample(registry: metrics.Registry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_the_account_is_exported_as_it_stands() -> None:
    registry = metrics.registry()
    proxy(registry)
    assert sample(registry, "shadowproxy_requests_total") == 9
    assert sample(registry, "shadowproxy_skipped_total", reason="method") == 3
    assert sample(registry, "shadowproxy_dropped_total", reason="recorder_full") == 2
    assert sample(registry, "shadowproxy_exchanges_total", side="candidate", outcome="timeout") == 1
    # A timeout has no duration: only answers are in the histogram.
    assert sample(registry, "shadowproxy_exchange_duration_seconds_count", side="candidate") == 1


def test_what_could_not_be_shaped_or_redacted_is_exported() -> None:
    registry = metrics.registry()
    proxy = metrics.ProxyMetrics(registry)
    unapplied = {Side.CANDIDATE: {"not_json": 2}}
    proxy.watch_edits(lambda: unapplied, lambda: {"truncated": 3})
    labels = {"side": "candidate", "obstacle": "not_json"}
    assert sample(registry, "shadowproxy_json_fields_unapplied_total", **labels) == 2
    assert sample(registry, "shadowproxy_redaction_left_out_total", reason="truncated") == 3
    unapplied[Side.CANDIDATE]["not_json"] = 5
    assert sample(registry, "shadowproxy_json_fields_unapplied_total", **labels) == 5


def test_the_verdict_is_a_state_set_and_missing_estimates_are_absent() -> None:
    registry = metrics.registry()
    verdict(registry)
    states = {
        state: sample(registry, "shadowproxy_verdict", shadowproxy_verdict=state)
        for state in ("promote", "rollback", "continue")
    }
    assert states == {"promote": 0, "rollback": 0, "continue": 1}
    assert sample(registry, "shadowproxy_guardrail_e_rollback", guardrail="ranking.rbo", cohort="all") == 2
    assert sample(registry, "shadowproxy_guardrail_estimate", guardrail="ranking.rbo", cohort="all") is None


def test_nothing_is_exported_before_the_first_reading() -> None:
    registry = metrics.registry()
    metrics.VerdictMetrics(registry, lambda: None)
    assert b"shadowproxy_" not in metrics.render(registry, "")[0]


def test_openmetrics_on_request() -> None:
    registry = metrics.registry()
    comparator(registry)
    body, content_type = metrics.render(registry, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
