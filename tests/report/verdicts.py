"""Verdicts made by hand."""

from __future__ import annotations

from typing import Any

from shadowproxy.model import Accounting
from shadowproxy.verdict.record import (
    Cell,
    Check,
    CohortReport,
    Dependence,
    Distribution,
    Finding,
    Quantiles,
    ScoreQuantiles,
    State,
    Verdict,
)


def cell(guardrail: str = "quality.ndcg", cohort: str = "all", **changes: Any) -> Cell:
    given: dict[str, Any] = {
        "guardrail": guardrail,
        "metric": guardrail,
        "cohort": cohort,
        "unit": "NDCG",
        "margin": 0.02,
        "pairs": 1234,
        "undefined": 0,
        "estimate": -0.0164,
        "interval": (-0.024, -0.0088),
        "e_promote": 4321.0,
        "e_rollback": 0.25,
        "promote_at": 20.0,
        "rollback_at": 360.0,
        "required": True,
        "finding": Finding.SAFE,
    }
    return Cell(**{**given, **changes})


def verdict(**changes: Any) -> Verdict:
    given: dict[str, Any] = {
        "state": State.CONTINUE,
        "exhausted": False,
        "reasons": (),
        "experiment": "demo",
        "at": 1.8e9,
        "pairs": 0,
        "open_pairs": 0,
        "late_pairs": 0,
        "guardrails": (),
        "cohorts": {},
        "accounting": Accounting(),
        "checks": (),
        "failures": {},
        "summaries": (),
        "latencies": (),
        "evidence_rollback": 0.0,
    }
    return Verdict(**{**given, **changes})


def distribution(**changes: Any) -> Distribution:
    given: dict[str, Any] = {
        "route": "search",
        "cohort": "all",
        "baseline": ScoreQuantiles(items=12_000, p10=0.1, p50=0.512, p90=0.9),
        "candidate": ScoreQuantiles(items=11_000, p10=0.2, p50=0.623, p90=0.9),
        "ks": 0.1234,
        "psi": 0.2345,
        "wasserstein": 0.0345,
        "jensen_shannon": 0.0456,
    }
    return Distribution(**{**given, **changes})


def harmful(cohort: str = "occupation=educator") -> Verdict:
    """A rollback because of one cohort's NDCG; the overall figures are safe or undecided."""
    undecided = {"finding": Finding.UNDECIDED, "e_promote": 3.21}
    return verdict(
        state=State.ROLLBACK,
        reasons=(f"{cohort}: quality.ndcg is beyond its margin of 0.04 (e-value 23,456, threshold 11,520)",),
        pairs=1234,
        open_pairs=56,
        guardrails=(cell(), cell("latency.total_slow", estimate=0.0012, margin=0.01, **undecided)),
        cohorts={
            "gender=F": CohortReport(pairs=400, guardrails=(cell(cohort="gender=F", pairs=400),)),
            cohort: CohortReport(
                pairs=123,
                guardrails=(
                    cell("latency.total_slow", cohort, pairs=123, **undecided),
                    cell(
                        cohort=cohort,
                        pairs=123,
                        margin=0.04,
                        estimate=0.1337,
                        e_promote=1e-9,
                        e_rollback=23456.0,
                        rollback_at=11520.0,
                        finding=Finding.HARMFUL,
                    ),
                ),
            ),
        },
        accounting=Accounting(
            requests=1300, eligible=1295, recorded=1280, skipped={"method": 5}, dropped={"recorder_full": 5}
        ),
        checks=(
            Check(name="recorded", passed=False, detail="98.8% of 1,295 eligible requests"),
            Check(name="lost", passed=True, detail="nothing"),
        ),
        failures={"baseline": {}, "candidate": {"timeout": 3, "http_5xx": 2}},
        latencies=(
            Quantiles(side="baseline", timing="total", cohort="all", pairs=1234, p50=0.0041, p90=0.0069, p99=0.0103),
            Quantiles(side="candidate", timing="total", cohort="all", pairs=1234, p50=0.0042, p90=0.007, p99=None),
        ),
        distributions=(distribution(), distribution(cohort="gender=F", ks=0.77)),
    )


HOSTILE = "occupation=[bold red]x[/]\x1b[2J\x07\n| **b** <script>alert(1)</script> `c` @team #1 http://e.x"


DEPENDENT = tuple(
    Dependence(guardrail=guardrail, by=by, inflation=inflation, error=error, groups=100.0)
    for guardrail, by, inflation, error in (
        ("failures.difference", "60 s", 2.0, 0.4),
        ("quality.ndcg", "account", 2.0, 0.3),
        ("ranking.rbo", "10 s", 19.0, 0.2),
    )
)
"""The first is not known well enough to be held against anybody."""
