"""The decision table."""

from __future__ import annotations

import msgspec
import pytest
from verdict.synthetic import facts, settings

from shadowproxy.model import Accounting
from shadowproxy.verdict.decide import CAP, Decision, checks, decide, finding
from shadowproxy.verdict.record import OVERALL, Cell, Check, Finding, State

POLICY = settings(verdict={"horizon": 1000}).verdict
GOOD = (Check(name="min_pairs", passed=True, detail=""),)
BAD = (*GOOD, Check(name="recorded", passed=False, detail=""))
BASE = Cell(
    guardrail="g",
    metric="failures.difference",
    cohort=OVERALL,
    unit="share of requests",
    margin=0.01,
    pairs=500,
    undefined=0,
    estimate=0.0,
    interval=(-0.01, 0.01),
    e_promote=1.0,
    e_rollback=0.0,
    promote_at=20.0,
    rollback_at=40.0,
    required=True,
    finding=Finding.UNDECIDED,
)


def cell(**parts: object) -> Cell:
    return msgspec.structs.replace(BASE, **parts)


SAFE = cell(e_promote=20.0)
OPEN = cell(e_promote=19.9)
HARM = cell(e_rollback=40.0)
COHORT = cell(cohort="gender=F", required=False, rollback_at=2640.0, pairs=200)


def decided(*cells: Cell, checked=GOOD, pairs=500, latched=False, policy=POLICY) -> Decision:
    return decide(cells, checked, pairs=pairs, latched=latched, policy=policy)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        pytest.param([SAFE], State.PROMOTE, id="proven"),
        pytest.param([SAFE, SAFE], State.PROMOTE, id="all proven"),
        pytest.param([SAFE, OPEN], State.CONTINUE, id="one not proven"),
        pytest.param([OPEN], State.CONTINUE, id="not proven"),
        pytest.param([], State.CONTINUE, id="no guardrail is no pass"),
        pytest.param([COHORT], State.CONTINUE, id="nothing required is no pass"),
        pytest.param([SAFE, cell(pairs=0, estimate=None)], State.CONTINUE, id="no data is no pass"),
        pytest.param([cell(pairs=0, e_promote=20.0)], State.CONTINUE, id="no data is no pass, whatever it says"),
        pytest.param([HARM], State.ROLLBACK, id="harmful"),
        pytest.param([SAFE, HARM], State.ROLLBACK, id="one harmful"),
        pytest.param([cell(e_promote=1e9, e_rollback=40.0)], State.ROLLBACK, id="rollback wins ties"),
        pytest.param([cell(e_rollback=39.9)], State.CONTINUE, id="just short"),
        pytest.param([SAFE, cell(e_promote=20.0, e_rollback=25.0)], State.CONTINUE, id="uncorrected harm blocks"),
        pytest.param([SAFE, COHORT], State.PROMOTE, id="a small cohort needs no proof"),
        pytest.param(
            [SAFE, msgspec.structs.replace(COHORT, required=True)], State.CONTINUE, id="a large cohort needs its own"
        ),
        pytest.param(
            [SAFE, msgspec.structs.replace(COHORT, required=True, e_promote=20.0)],
            State.PROMOTE,
            id="a large cohort has its own",
        ),
        pytest.param(
            [SAFE, msgspec.structs.replace(COHORT, e_rollback=20.0)], State.CONTINUE, id="a cohort's harm blocks only"
        ),
        pytest.param([SAFE, msgspec.structs.replace(COHORT, e_rollback=19.9)], State.PROMOTE, id="and not before"),
        pytest.param(
            [SAFE, msgspec.structs.replace(COHORT, e_rollback=2640.0)], State.ROLLBACK, id="a cohort proven harmful"
        ),
        pytest.param(
            [cell(e_rollback=24.0), msgspec.structs.replace(COHORT, e_rollback=1060.0)],
            State.ROLLBACK,
            id="enough together",
        ),
        pytest.param(
            [cell(e_rollback=24.0), msgspec.structs.replace(COHORT, e_rollback=1050.0)],
            State.CONTINUE,
            id="not enough together",
        ),
        pytest.param([cell(e_rollback=1e300, pairs=29)], State.CONTINUE, id="too few pairs in the cell"),
        pytest.param([cell(e_rollback=40.0, pairs=30)], State.ROLLBACK, id="just enough pairs in the cell"),
        pytest.param(
            [cell(e_rollback=20.0), cell(e_rollback=1e6, pairs=29)], State.CONTINUE, id="few pairs add nothing"
        ),
    ],
)
def test_table(cells, expected) -> None:
    assert decided(*cells).state is expected


def test_too_few_pairs_over_all() -> None:
    assert decided(HARM, pairs=29).state is State.CONTINUE


def test_a_failed_check_holds_a_promote_back_but_not_a_rollback() -> None:
    assert decided(SAFE, checked=BAD).state is State.CONTINUE
    assert decided(SAFE, checked=()).state is State.CONTINUE
    assert decided(HARM, checked=BAD).state is State.ROLLBACK


def test_a_rollback_stands() -> None:
    assert decided(SAFE, latched=True).state is State.ROLLBACK
    assert decided(latched=True, pairs=0).state is State.ROLLBACK


def test_exhausted_only_where_nothing_is_decided() -> None:
    assert not decided(OPEN, pairs=999).exhausted
    assert decided(OPEN, pairs=1000).exhausted
    assert decided(OPEN, pairs=1000).state is State.CONTINUE
    assert not decided(SAFE, pairs=1000).exhausted
    assert not decided(HARM, pairs=1000).exhausted
    assert not decided(OPEN, pairs=10**9, policy=settings().verdict).exhausted


def test_names_what_is_proven_by_itself_and_else_the_largest_parts() -> None:
    alone = decided(cell(guardrail="a", e_rollback=50.0), cell(guardrail="b", e_rollback=41.0), SAFE)
    assert [one.guardrail for one in alone.harmful] == ["a", "b"]
    assert alone.contributors == ()
    parts = [cell(guardrail=name, e_rollback=e) for name, e in (("a", 11.0), ("b", 14.0), ("c", 13.0), ("d", 12.0))]
    together = decided(*parts)
    assert together.state is State.ROLLBACK
    assert together.harmful == ()
    assert [one.guardrail for one in together.contributors] == ["b", "c", "d"]


def test_evidence_is_the_weighted_mean() -> None:
    decision = decided(cell(e_rollback=10.0), msgspec.structs.replace(COHORT, e_rollback=100.0))
    assert decision.evidence == pytest.approx(0.5 * 10 + 20 / 2640 * 100)
    assert decided(*[cell(e_rollback=CAP, rollback_at=20.0)] * 3).evidence == CAP


@pytest.mark.parametrize(
    ("e_promote", "e_rollback", "enough", "expected"),
    [
        (20.0, 0.0, True, Finding.SAFE),
        (19.9, 39.9, True, Finding.UNDECIDED),
        (20.0, 40.0, True, Finding.HARMFUL),
        (0.0, 40.0, False, Finding.UNDECIDED),
    ],
)
def test_findings(e_promote, e_rollback, enough, expected) -> None:
    assert finding(e_promote, 20.0, e_rollback, 40.0, enough) is expected


def failed(*cells: Cell, pairs: int = 500, **parts: object) -> list[str]:
    found = checks(cells or [SAFE], pairs=pairs, facts=facts(**parts), policy=POLICY)
    return [check.name for check in found if not check.passed]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({}, []),
        ({"pairs": 99}, ["min_pairs"]),
        ({"pairs": 100}, []),
        ({"lost_entries": 1}, ["nothing_lost"]),
        ({"dead_letters": 1}, ["no_dead_letters"]),
        ({"clock_behind": 0.51}, ["clocks"]),
        ({"late_pairs": 50, "open_pairs": 70}, []),
        ({"accounting": Accounting()}, ["recorded"]),
        ({"accounting": Accounting(requests=9, eligible=9)}, ["recorded"]),
        ({"accounting": Accounting(requests=100, eligible=100, recorded=95, dropped={"full": 5})}, []),
        ({"accounting": Accounting(requests=100, eligible=100, recorded=94, dropped={"full": 6})}, ["recorded"]),
        ({"accounting": Accounting(requests=100, eligible=100, recorded=95, dropped={"a": 3, "b": 3})}, ["recorded"]),
        ({"accounting": Accounting(requests=100, eligible=100, recorded=10)}, []),
        ({"accounting": Accounting(requests=500, eligible=100, recorded=100, skipped={"method": 400})}, []),
    ],
)
def test_checks_on_the_data(parts, expected) -> None:
    assert failed(**parts) == expected


def test_undefined_shares() -> None:
    assert failed(cell(pairs=90, undefined=10)) == []
    assert failed(cell(pairs=89, undefined=11)) == ["undefined"]
    assert failed(SAFE, cell(cohort="a=b", required=False, pairs=1, undefined=99)) == []
    assert failed(SAFE, cell(cohort="a=b", required=True, pairs=1, undefined=99)) == ["undefined"]
    assert failed(cell(pairs=0, undefined=0)) == ["undefined"]
