"""The metrics: promtool finds no fault, OpenMetrics on request, nothing unbounded as a label."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
from collections import Counter
from collections.abc import Mapping

import exposed
import pytest
from hypothesis import given
from hypothesis import strategies as st
from programs import program
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_text

from shadowproxy import metrics
from shadowproxy.model import Accounting, Outcome, Side

ACCOUNT = Accounting(requests=9, eligible=6, recorded=4, skipped={"method": 3}, dropped={"recorder_full": 2})


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


@pytest.mark.parametrize("process", exposed.filled())
def test_promtool_finds_no_fault(process: str) -> None:
    body, _ = metrics.render(exposed.filled()[process], "")
    done = subprocess.run([program("promtool"), "check", "metrics"], input=body, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("process", exposed.filled())
def test_there_are_as_many_series_as_is_documented_and_no_more(process: str) -> None:
    """Every label has every word that it may have: what the page says is the most is reached, and not passed."""
    found = exposed.filled()[process]
    told = {
        family.name: math.prod(count or 1 for count, _ in exposed.factors(family.name))
        for family in exposed.families(found)
    }
    assert {family.name: len(family.samples) for family in exposed.families(found)} == told


def test_every_bound_is_of_a_family() -> None:
    names = {family.name for registry in exposed.filled().values() for family in exposed.families(registry)}
    assert {f"shadowproxy_{name}" for name in exposed.AT_MOST} <= names


def sample(registry: metrics.Registry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def test_the_account_is_exported_as_it_stands() -> None:
    registry = metrics.registry()
    exposed.proxy(registry)
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
    exposed.mirror(registry)
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


def test_the_verdict_is_exported_figure_by_figure() -> None:
    registry = metrics.registry()
    exposed.api(registry)
    states = {
        state: sample(registry, "shadowproxy_verdict", shadowproxy_verdict=state)
        for state in ("promote", "rollback", "continue")
    }
    assert states == {"promote": 0, "rollback": 0, "continue": 1}
    expected = {
        "verdict_readable": 1, "verdict_age_seconds": 0.5, "verdict_changed_timestamp_seconds": 1.7e9,
        "verdict_pairs": 110, "verdict_open_pairs": 1, "verdict_exhausted": 0, "evidence_rollback": 1.5,
        "evidence_rollback_threshold": 20, "forecast_pairs": 900, "forecast_seconds": 90, "stream_lag_entries": 1,
        "stream_pending_entries": 2, "stream_waiting_bytes": 3, "stream_kept_bytes": 4, "stream_lost_entries": 5,
        "stream_lost_pairs": 6, "stream_missing_pairs": 7, "stream_dead_letters": 8,
    }  # fmt: skip
    assert {name: sample(registry, f"shadowproxy_{name}") for name in expected} == expected
    cell = {"guardrail": "ranking.rbo", "cohort": "all"}
    figures = {
        "estimate": 0.05, "interval_low": 0.01, "interval_high": 0.09, "margin": 0.1, "e_promote": 30, "e_rollback": 2,
        "promote_threshold": 20, "rollback_threshold": 40, "pairs": 100, "undefined_pairs": 3, "needed_pairs": 0,
        "required": 1,
    }  # fmt: skip
    assert {name: sample(registry, f"shadowproxy_guardrail_{name}", **cell) for name in figures} == figures
    name = "shadowproxy_guardrail_finding"
    findings = {word: sample(registry, name, **cell, **{name: word}) for word in ("safe", "harmful", "undecided")}
    assert findings == {"safe": 1, "harmful": 0, "undecided": 0}
    assert sample(registry, "shadowproxy_guardrail_inflation_ratio", guardrail="ranking.rbo", by="account") == 1.25
    assert sample(registry, "shadowproxy_check_passed", check="recorded") == 0
    assert sample(registry, "shadowproxy_check_passed", check="clocks") == 1
    distances = {"ks": 0.1, "psi": 0.2, "wasserstein": 0.3, "jensen_shannon": 0.4}
    assert {name: sample(registry, f"shadowproxy_score_{name}", route="recommend") for name in distances} == distances
    assert sample(registry, "shadowproxy_experiment_info", experiment="default-12ab") == 1
    assert sample(registry, "shadowproxy_upstream_version_info", side="candidate", version="candidate-1.2") == 1


def test_what_is_not_known_is_not_there() -> None:
    (cell,) = exposed.reading().guardrails
    unknown = dataclasses.replace(cell, estimate=None, interval_low=None, interval_high=None, needed_pairs=None)
    latency = metrics.LatencyReading(side="candidate", timing="total", pairs=9, seconds={"0.5": 0.1, "0.99": math.inf})
    reading = exposed.reading(
        guardrails=(unknown,),
        changed_at=None,
        forecast_pairs=None,
        forecast_seconds=None,
        labels=None,
        latencies=(latency,),
        distances=(metrics.DistanceReading(route="r", ks=None, psi=math.inf, wasserstein=None, jensen_shannon=0.5),),
    )
    registry = metrics.registry()
    metrics.VerdictMetrics(registry, lambda: reading)
    told = {found.name.removeprefix("shadowproxy_") for family in registry.collect() for found in family.samples}
    gone = ("estimate", "interval_low", "interval_high", "needed_pairs")
    assert told.isdisjoint({f"guardrail_{name}" for name in gone})
    assert told.isdisjoint({"verdict_changed_timestamp_seconds", "forecast_pairs", "forecast_seconds"})
    assert told.isdisjoint({"score_ks", "score_psi", "labels_received"})
    # A quantile among the failures is there, and infinite: where it was left out, it would seem that nobody had asked.
    where = {"side": "candidate", "timing": "total"}
    assert sample(registry, "shadowproxy_latency_seconds", **where, quantile="0.99") == math.inf
    assert sample(registry, "shadowproxy_latency_seconds", **where, quantile="0.5") == 0.1
    assert sample(registry, "shadowproxy_latency_seconds_count", **where) == 9


def test_before_the_first_reading_there_is_only_whether_it_can_be_read() -> None:
    registry = metrics.registry()
    metrics.VerdictMetrics(registry, lambda: None, lambda: False)
    assert {family.name for family in exposed.families(registry)} == {
        "shadowproxy_build",
        "shadowproxy_verdict_readable",
    }
    assert sample(registry, "shadowproxy_verdict_readable") == 0


def test_openmetrics_on_request() -> None:
    registry = metrics.registry()
    exposed.comparator(registry)
    body, content_type = metrics.render(registry, "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")
