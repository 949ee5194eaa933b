"""The metrics: promtool finds no fault, OpenMetrics on request, nothing unbounded as a label."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import program
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shadowproxy import metrics
from shadowproxy.model import Accounting, Outcome, Side

ACCOUNT = Accounting(requests=9, eligible=6, recorded=4, skipped={"method": 3}, dropped={"recorder_full": 2})


def proxy(into: metrics.Registry) -> None:
    observed = metrics.ProxyMetrics(into)
    observed.watch(lambda: ACCOUNT, lambda: {Side.BASELINE: 2}, lambda: 3, lambda: (4, 500))
    observed.watch_network(lambda: {Side.BASELINE: (2, 1)}, lambda: {Side.BASELINE: 1}, lambda: {"timeout": 1})
    observed.observer(Side.CANDIDATE)(Outcome.OK, 0.02)
    observed.observer(Side.CANDIDATE)(Outcome.TIMEOUT, float("inf"))


def mirror(into: metrics.Registry) -> None:
    shadow = metrics.ShadowReading(breaker="open", transitions={"open": 2, "closed": 1}, held=7, shed={"breaker": 5})
    reading = metrics.MirrorReading(paused=True, sample=0.0, sides={Side.CANDIDATE: shadow})
    metrics.MirrorMetrics(into, lambda: reading)


def comparator(into: metrics.Registry) -> None:
    compared = metrics.ComparatorMetrics(into)
    compared.pairs.inc(5)
    compared.failure(Side.CANDIDATE, "timeout", 2)


def verdict(into: metrics.Registry) -> None:
    guardrail = metrics.GuardrailReading(
        guardrail="ranking.rbo", cohort="all", margin=0.1, estimate=None, e_promote=1.0, e_rollback=2.0, pairs=0
    )
    reading = metrics.VerdictReading(
        state="continue", age=0.5, pairs=10, open_pairs=1, changed_at=1700000000.0, stream=metrics.StreamReading(
            lag=0, pending=0, waiting_bytes=0, kept_bytes=0, lost_entries=0, lost_pairs=0, missing_pairs=0,
            dead_letters=0,
        ),
        guardrails=(guardrail,), labels={field: 1 for field, *_ in metrics.VerdictMetrics.LABELS},
    )  # fmt: skip
    metrics.VerdictMetrics(into, lambda: reading)


def page(account: Accounting, *durations: float) -> str:
    """As one worker answers its parent."""
    registry = metrics.registry()
    observed = metrics.ProxyMetrics(registry)
    observed.watch(lambda: account, lambda: {Side.BASELINE: 2}, lambda: 3, lambda: (4, 500))
    for total in durations:
        observed.observer(Side.BASELINE)(Outcome.OK, total)
    return metrics.render(registry, metrics.OPENMETRICS)[0].decode()


def workers(accounts: Mapping[str, Accounting]) -> metrics.Registry:
    pages = {name: page(account, 0.004, 0.2) for name, account in accounts.items()}
    return metrics.of_workers(metrics.registry(), pages, configured=3, restarts=1)


@pytest.mark.parametrize("accept", ["", metrics.OPENMETRICS])
def test_the_metrics_of_several_workers_are_one_exposition(accept: str) -> None:
    """Each family once, and readable again."""
    registry = workers({"0": ACCOUNT, "2": ACCOUNT})
    body = metrics.render(registry, accept)[0].decode()
    for what in ("HELP", "TYPE"):
        named = re.findall(rf"^# {what} (\S+)", body, re.MULTILINE)
        assert len(named) == len(set(named)) > 10
    parse = text_string_to_metric_families if accept else parse_text
    families = {family.name: family for family in parse(body)}
    assert families["shadowproxy_exchange_duration_seconds"].type == "histogram"
    # Of the workers all, and of the parent its own.
    assert [sample.labels for sample in families["process_open_fds"].samples] == [{}, {"worker": "0"}, {"worker": "2"}]
    if not accept:
        done = subprocess.run([program("promtool"), "check", "metrics"], input=body.encode(), capture_output=True)
        assert done.returncode == 0, done.stderr.decode()


def test_the_accounts_of_the_workers_can_be_added_up() -> None:
    other = Accounting(requests=5, eligible=5, recorded=4, skipped={}, dropped={"spool_full": 1})
    registry = workers({"0": ACCOUNT, "1": other})
    sums: Counter[str] = Counter()
    for family in registry.collect():
        for found in family.samples:
            if "worker" in found.labels:
                sums[found.name] += int(found.value)
    assert sums["shadowproxy_requests_total"] == 14
    assert sums["shadowproxy_requests_total"] == sums["shadowproxy_skipped_total"] + sums["shadowproxy_eligible_total"]
    assert sums["shadowproxy_eligible_total"] == sums["shadowproxy_recorded_total"] + sums["shadowproxy_dropped_total"]
    assert sums["shadowproxy_exchange_duration_seconds_count"] == 4
    # 0.004 and 0.2 of each: two are within 5 ms.
    within = [
        sample(registry, "shadowproxy_exchange_duration_seconds_bucket", side="baseline", le="0.005", worker=worker)
        for worker in ("0", "1")
    ]
    assert within == [1, 1]


def test_a_worker_that_does_not_answer_takes_its_series_along_and_no_others() -> None:
    both, one = workers({"0": ACCOUNT, "1": ACCOUNT}), workers({"1": ACCOUNT})
    for registry, up in ((both, 2), (one, 1)):
        assert sample(registry, "shadowproxy_workers", state="configured") == 3
        assert sample(registry, "shadowproxy_workers", state="up") == up
        assert sample(registry, "shadowproxy_worker_restarts_total") == 1
        assert sample(registry, "shadowproxy_requests_total", worker="1") == ACCOUNT.requests
    assert sample(one, "shadowproxy_requests_total", worker="0") is None


@pytest.mark.parametrize("broken", [page(ACCOUNT)[:-7], page(ACCOUNT)[:2000], "", "<html>", "# EOF\n# EOF\n"])
def test_a_page_that_is_not_whole_is_left_out(broken: str) -> None:
    registry = metrics.of_workers(metrics.registry(), {"0": page(ACCOUNT), "1": broken}, configured=2, restarts=0)
    assert sample(registry, "shadowproxy_workers", state="up") == 1
    assert sample(registry, "shadowproxy_requests_total", worker="0") == 9
    assert b'worker="1"' not in metrics.render(registry, "")[0]


@pytest.mark.parametrize("fill", [proxy, mirror, comparator, verdict])
def test_promtool_finds_no_fault(fill: Callable[[metrics.Registry], None]) -> None:
    registry = metrics.registry()
    fill(registry)
    body, _ = metrics.render(registry, "")
    done = subprocess.run([program("promtool"), "check", "metrics"], input=body, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_promtool_accepts_the_scrape_configuration() -> None:
    path = Path(__file__).parent.parent.parent / "deploy" / "prometheus" / "prometheus.yml"
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


def test_mirroring_is_exported_with_what_its_copies_cost() -> None:
    registry = metrics.registry()
    mirror(registry)
    assert sample(registry, "shadowproxy_mirroring_paused") == 1
    assert sample(registry, "shadowproxy_mirroring_sample_ratio") == 0
    states = {
        state: sample(registry, "shadowproxy_breaker_state", side="candidate", shadowproxy_breaker_state=state)
        for state in ("closed", "open", "half_open")
    }
    assert states == {"closed": 0, "open": 1, "half_open": 0}
    assert sample(registry, "shadowproxy_breaker_transitions_total", side="candidate", state="open") == 2
    assert sample(registry, "shadowproxy_in_flight_bytes", side="candidate") == 7
    assert sample(registry, "shadowproxy_shed_copies_total", side="candidate", reason="breaker") == 5


BOUNDS = ("0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0")


@given(st.lists(st.one_of(st.floats(0, 20), st.sampled_from([float(bound) for bound in BOUNDS])), max_size=30))
def test_a_duration_is_in_every_bucket_whose_bound_it_does_not_pass(durations: list[float]) -> None:
    """As Prometheus defines `le`: less than or equal, cumulative."""
    registry = metrics.registry()
    observed = metrics.ProxyMetrics(registry)
    for total in durations:
        observed.observer(Side.REPLICA)(Outcome.OK, total)
    name = "shadowproxy_exchange_duration_seconds"
    for bound in (*BOUNDS, "+Inf"):
        within = sum(total <= float(bound) for total in durations)
        assert sample(registry, f"{name}_bucket", side="replica", le=bound) == within
    assert sample(registry, f"{name}_count", side="replica") == len(durations)
    assert sample(registry, f"{name}_sum", side="replica") == pytest.approx(sum(durations))
    assert sample(registry, "shadowproxy_exchanges_total", side="replica", outcome="ok") == len(durations)


def test_what_has_not_happened_yet_is_there_as_nought() -> None:
    """A counter that first appears with its first failure hides that failure from `rate`."""
    registry = metrics.registry()
    metrics.ProxyMetrics(registry)
    for side in Side:
        assert sample(registry, "shadowproxy_exchange_duration_seconds_count", side=side) == 0
        for outcome in Outcome:
            assert sample(registry, "shadowproxy_exchanges_total", side=side, outcome=outcome) == 0


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
