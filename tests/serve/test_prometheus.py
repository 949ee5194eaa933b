"""What a real Prometheus has scraped of a running shadowproxy is what its API says."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import exposed
from programs import program
from prometheus import WAVE, WAVES, Observed, wait_for
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from shadowproxy import metrics


def test_every_process_is_scraped(observed: Observed) -> None:
    assert {labels["process"]: value for labels, value in observed.prometheus.query("up")} == {
        "api": 1,
        "proxy": 1,
        "comparator": 1,
    }


def test_the_verdict_read_back_is_that_of_the_api(observed: Observed) -> None:
    ask = observed.prometheus
    verdict = observed.api("verdict")
    assert ask.value("shadowproxy_verdict_pairs") == verdict["pairs"] == observed.pairs
    states = {labels["shadowproxy_verdict"]: value for labels, value in ask.query("shadowproxy_verdict")}
    assert states == {state: float(state == verdict["state"]) for state in ("promote", "rollback", "continue")}


def test_every_cell_is_read_back_with_all_its_figures(observed: Observed) -> None:
    """What a dashboard draws of a guardrail and cohort is what the API says, to the last digit."""
    cells = observed.api("guardrails")["guardrails"]
    assert {cell["cohort"] for cell in cells} == {"all", "region=us", "region=eu", "region=asia"}
    figures: dict[str, Callable[[dict[str, Any]], float | None]] = {
        "estimate": itemgetter("estimate"),
        "interval_low": lambda cell: cell["interval"] and cell["interval"][0],
        "interval_high": lambda cell: cell["interval"] and cell["interval"][1],
        "margin": itemgetter("margin"),
        "e_promote": itemgetter("e_promote"),
        "e_rollback": itemgetter("e_rollback"),
        "promote_threshold": itemgetter("promote_at"),
        "rollback_threshold": itemgetter("rollback_at"),
        "pairs": itemgetter("pairs"),
        "undefined_pairs": itemgetter("undefined"),
        "needed_pairs": itemgetter("needed"),
        "required": itemgetter("required"),
        'finding{shadowproxy_guardrail_finding="safe"}': lambda cell: cell["finding"] == "safe",
        'finding{shadowproxy_guardrail_finding="harmful"}': lambda cell: cell["finding"] == "harmful",
        'finding{shadowproxy_guardrail_finding="undecided"}': lambda cell: cell["finding"] == "undecided",
    }
    for name, of in figures.items():
        told = {
            (labels["guardrail"], labels["cohort"]): value
            for labels, value in observed.prometheus.query(f"shadowproxy_guardrail_{name}")
        }
        said = {(cell["guardrail"], cell["cohort"]): of(cell) for cell in cells}
        assert told == {key: value for key, value in said.items() if value is not None}, name
    assert {cell["finding"] for cell in cells} >= {"safe", "harmful", "undecided"}


def test_what_stands_beside_the_cells_is_read_back(observed: Observed) -> None:
    ask, verdict = observed.prometheus, observed.api("verdict")
    assert ask.value("shadowproxy_evidence_rollback") == verdict["evidence_rollback"]
    assert ask.value("shadowproxy_evidence_rollback_threshold") == 1 / observed.settings.verdict.alpha_rollback
    checks = {labels["check"]: bool(value) for labels, value in ask.query("shadowproxy_check_passed")}
    assert checks == {check["name"]: check["passed"] for check in verdict["checks"]}
    latencies = {
        (labels["side"], labels["timing"], labels["quantile"]): value
        for labels, value in ask.query("shadowproxy_latency_seconds")
    }
    said = {
        (row["side"], row["timing"], quantile): math.inf if row[field] is None else row[field]
        for row in verdict["latencies"]
        if row["cohort"] == "all" and not row["route"]
        for field, quantile in (("p50", "0.5"), ("p90", "0.9"), ("p99", "0.99"))
    }
    assert latencies == said
    # A fifteenth of the candidate's answers are failures: its p99 is among them.
    assert latencies["candidate", "total", "0.99"] == math.inf
    assert len(latencies) == 2 * 2 * 3
    (scores,) = (row for row in verdict["distributions"] if row["cohort"] == "all")
    for name in ("ks", "psi", "wasserstein", "jensen_shannon"):
        assert ask.query(f"shadowproxy_score_{name}")[0][1] == scores[name] > 0
    assert ask.query("shadowproxy_experiment_info")[0][0]["experiment"] == verdict["experiment"]
    inflation = {
        (labels["guardrail"], labels["by"]): value
        for labels, value in ask.query("shadowproxy_guardrail_inflation_ratio")
    }
    assert inflation == {(row["guardrail"], row["by"]): row["inflation"] for row in verdict["dependence"]}


def test_the_accounts_of_proxy_comparator_and_verdict_are_one(observed: Observed) -> None:
    ask, verdict = observed.prometheus, observed.api("verdict")
    for name in ("requests_total", "eligible_total", "recorded_total", "compared_pairs_total"):
        assert ask.value(f"sum(shadowproxy_{name})") == observed.pairs
    for side in ("baseline", "candidate", "replica"):
        assert ask.value(f'sum(shadowproxy_exchanges_total{{side="{side}"}})') == observed.pairs
        buckets = f'shadowproxy_exchange_duration_seconds_bucket{{side="{side}",le="+Inf"}}'
        assert ask.value(buckets) == observed.pairs
    failed = {
        (labels["side"], labels["kind"]): value for labels, value in ask.query("shadowproxy_failed_exchanges_total > 0")
    }
    assert failed == {
        (side, kind): count for side, kinds in verdict["failures"].items() for kind, count in kinds.items() if count
    }
    assert failed == {("candidate", "http_5xx"): len(FAILED)}
    assert ask.value("sum(shadowproxy_compare_batch_pairs_sum)") == observed.pairs
    # A look every tenth of a second, since the proxy has started.
    assert ask.value("shadowproxy_event_loop_lag_seconds_count") > 10


FAILED = [number for number in range(WAVES * WAVE) if number % 3 == 1 and number % 5 == 0]
"""As the candidate of the rig has it."""


def test_exemplars_lead_from_a_figure_to_its_requests(observed: Observed) -> None:
    found = observed.prometheus.exemplars('{__name__=~"shadowproxy_.*"}')
    asked = {f"request-{number}": number for number in range(observed.pairs)}
    by_name: dict[str, set[int]] = {}
    for name, labels in found:
        number = asked[labels["request_id"]]
        by_name.setdefault(name, set()).add(number)
        # Every other came with a trace (see the rig).
        assert labels.get("trace_id") == (f"{number + 1:032x}" if number % 2 else None)
    assert by_name.keys() == {"shadowproxy_exchange_duration_seconds_bucket", "shadowproxy_failed_exchanges_total"}
    assert by_name["shadowproxy_failed_exchanges_total"] <= set(FAILED)
    assert {number % 2 for number in by_name["shadowproxy_exchange_duration_seconds_bucket"]} == {0, 1}


def test_promtool_finds_no_fault_in_the_pages_of_running_processes(observed: Observed) -> None:
    documented = {family.name for registry in exposed.filled().values() for family in exposed.families(registry)}
    shown = set()
    for process in ("proxy_admin", "comparator_admin", "api"):
        page = observed.page(process)
        done = subprocess.run([program("promtool"), "check", "metrics"], input=page, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "request-" not in page
        shown |= {
            family.name
            for family in text_string_to_metric_families(observed.page(process, metrics.OPENMETRICS))
            if family.name.startswith("shadowproxy_")
        }
    # There while something is so, where there are several workers, or where requests are traced.
    sometimes = {
        "forecast_pairs",
        "forecast_seconds",
        "workers",
        "worker_restarts",
        "traced_requests",
        "untraced_requests",
    }
    assert documented - shown <= {f"shadowproxy_{name}" for name in sometimes}
    assert shown <= documented


def test_the_rules_run_and_the_alert_for_a_harmful_candidate_says_for_whom(observed: Observed) -> None:
    groups = observed.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
    harmful = observed.api("guardrails?finding=harmful")["guardrails"]

    def said() -> str:
        firing = {one["labels"]["alertname"]: one for one in observed.prometheus.get("alerts")["alerts"]}
        return str(firing["ShadowproxyCandidateHarmful"]["annotations"]["description"])

    # Rules are evaluated at their own pace, half a second at the most behind what was scraped.
    wait_for(lambda: all(f"{cell['guardrail']} in {cell['cohort']};" in said() for cell in harmful), said)
    assert "region=us" not in said()
    for rule in rules:
        if rule["type"] == "recording":
            assert observed.prometheus.query(rule["name"]), rule["name"]
