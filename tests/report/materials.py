"""What a report is made from, made by hand: every part of it, with figures that a test can look for."""

from __future__ import annotations

from typing import Any

import msgspec
from report.verdicts import DEPENDENT, harmful

from shadowproxy.model import VersionSeen
from shadowproxy.report.material import (
    Change,
    Frozen,
    History,
    Made,
    Material,
)
from shadowproxy.report.view import (
    BodyView,
    DifferenceView,
    Ended,
    ExchangeView,
    Exemplar,
    Item,
    PairView,
    RankingView,
    RequestView,
)
from shadowproxy.verdict.record import TableRow, Verdict
from shadowproxy.verdict.reported.curves import Distributions, Latencies, LatencyCurve, ScoreCurve
from shadowproxy.verdict.reported.evidence import Evidence, EvidenceCell, EvidencePoint

PROBABILITIES = (0.01, 0.5, 0.9, 0.99, 0.999)


def view(said: str = "p-1", guardrail: str = "quality.ndcg", **changes: Any) -> PairView:
    """A pair; `said` stands wherever somebody else's text may stand."""
    ended = Ended(outcome="ok", status=200, total=0.0123)
    body = BodyView(text=f'{{"said": "{said}"}}', bytes=1234, truncated=True)
    headers = (("content-type", "application/json"), ("x-said", said))
    exchange = ExchangeView(
        outcome="ok", status=200, ttfb=0.0042, total=0.0123, detail=said, headers=headers, body=body
    )
    given: dict[str, Any] = {
        "exemplar": Exemplar(
            guardrail=guardrail, cohort="all", loss=0.4321, value=0.4321, id=said, started=1.7e9, route=said,
            cohorts=(said,), method="POST", target=f"/rank?{said}", baseline=ended, candidate=ended, partition=0,
            entry="1-0", position=0,
        ),
        "standings": (),
        "request": RequestView(method="POST", target=f"/rank?{said}", headers=headers, body=body),
        "baseline": exchange,
        "candidate": msgspec.structs.replace(exchange, total=None),
        "replica": exchange,
        "ranking": RankingView(
            items=(
                Item(id=f"a{said}", baseline=1, candidate=3, baseline_score=0.9, candidate_score=0.25),
                Item(id="b", baseline=2, candidate=None, baseline_score=0.8, candidate_score=None),
                Item(id="c", baseline=3, candidate=1, baseline_score=0.7, candidate_score=0.95),
                Item(id="d", baseline=None, candidate=2, baseline_score=None, candidate_score=0.5),
            ),
            more=0,
        ),
        "differences": (DifferenceView(where=f"$.{said}", baseline=said, candidate=None),),
        "more": 0,
        "values": {"ranking.rbo": 0.5},
        "notes": (said,),
        "annotations": said,
    }  # fmt: skip
    return PairView(**{**given, **changes})


def evidence(verdict: Verdict) -> Evidence:
    """A trail of three points for every cell of the verdict, which ends with its e-values."""
    cells = [*verdict.guardrails, *(cell for report in verdict.cohorts.values() for cell in report.guardrails)]
    return Evidence(
        cells=tuple(
            EvidenceCell(
                guardrail=cell.guardrail, cohort=cell.cohort, promote_at=cell.promote_at, rollback_at=cell.rollback_at
            )
            for cell in cells
        ),
        points=tuple(
            EvidencePoint(
                at=1.8e9 + pairs,
                pairs=pairs,
                evidence_rollback=10.0**at,
                promote=tuple(float(at) for _ in cells),
                rollback=tuple(None if at == 0 else float(-at) for _ in cells),
            )
            for at, pairs in enumerate((10, 500, 1234))
        ),
        rollback_at=400.0,
    )


def latencies() -> Latencies:
    """Both sides; the candidate's last quantile lies among the failures."""
    return Latencies(
        latencies=tuple(
            LatencyCurve(
                side=side,
                timing=timing,
                route="",
                cohort="all",
                pairs=1234,
                probabilities=PROBABILITIES,
                seconds=seconds,
            )
            for timing in ("ttfb", "total")
            for side, seconds in (
                ("baseline", (0.001, 0.0041, 0.0069, 0.0103, 0.02)),
                ("candidate", (0.001, 0.0042, 0.007, 0.011, None)),
            )
        )
    )


def material(said: str = "p-1", **changes: Any) -> Material:
    """Everything that a report may show; `said` stands wherever somebody else's text may stand."""
    verdict = msgspec.structs.replace(
        harmful(f"occupation={said}"),
        notes=(said,),
        dependence=DEPENDENT,
        versions={"baseline": (VersionSeen(said, 1.7e9, 1.8e9),), "candidate": (VersionSeen("2", 1.7e9, 1.8e9),)},
        tables=(TableRow(table="fields", route=said, key=f"$.{said}", counts={"changed": 7, "only_baseline": 0}),),
    )
    scores = ScoreCurve(
        route="search",
        cohort="all",
        scale="linear",
        edges=(0.0, 0.5, 1.0),
        baseline=(75, 25),
        candidate=(25, 75),
        ks=0.5,
        psi=None,
        wasserstein=None,
        jensen_shannon=None,
    )
    given: dict[str, Any] = {
        "verdict": verdict,
        "made": Made(version="1.2.3", source=said, missing=(said,)),
        "history": History(
            history=(
                Change(what="rollback", at=1.8e9, pairs=1200, evidence=500.0, reasons=(said,)),
                Change(what="reset", at=1.7e9, pairs=7, by=said),
            )
        ),
        "evidence": evidence(verdict),
        "latencies": latencies(),
        "distributions": Distributions(distributions=(scores,)),
        "worst": {"quality.ndcg": (view(said),), said: (view(said, said),)},
        "experiment": Frozen(begun=1.6e9, settings={"verdict": {"alpha_promote": 0.05, "said": said}}),
    }
    found = Material(**{**given, **changes})
    named = {name: getattr(found, name) for name in ("verdict", "history", "evidence", "latencies", "distributions")}
    data = {**named, "pairs": {"worst": found.worst}}
    return msgspec.structs.replace(
        found, data={name: msgspec.Raw(msgspec.json.encode(part)) for name, part in data.items()}
    )
