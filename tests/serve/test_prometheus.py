"""What a real Prometheus has scraped of a running shadowproxy is what its API says."""

from __future__ import annotations

import pytest
from prometheus import Observed


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
    cells = [*verdict["guardrails"], *(cell for one in verdict["cohorts"].values() for cell in one["guardrails"])]
    for name in ("estimate", "margin", "pairs"):
        told = {
            (labels["guardrail"], labels["cohort"]): value
            for labels, value in ask.query(f"shadowproxy_guardrail_{name}")
        }
        assert told == {
            (cell["guardrail"], cell["cohort"]): pytest.approx(cell[name]) for cell in cells if cell[name] is not None
        }
