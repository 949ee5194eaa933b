"""The explanation says every figure of every cell, and which rule decides."""

from __future__ import annotations

import msgspec
import pytest
from report.test_terminal import lines_with, shown
from report.verdicts import HOSTILE, cell, harmful, verdict

from shadowproxy.report.explain import explanation, missing, progress
from shadowproxy.report.waiting import waiting_line, waiting_view
from shadowproxy.verdict.record import Check, CohortReport, Finding, Forecast, State, Verdict

ALPHA = 0.05
PASSED = (Check(name="min_pairs", passed=True, detail="1,234 pairs counted, at least 100 needed"),)


def two(**changes: object) -> Verdict:
    """Two guardrails over all pairs, which share half the error budget: thresholds of 80."""
    first = cell(rollback_at=4 / ALPHA)
    second = cell("latency.total_log2", rollback_at=4 / ALPHA, unit="doublings", margin=0.1375, estimate=0.02)
    return verdict(**{"guardrails": (first, second), "pairs": 1234, "checks": PASSED, **changes})


def words_of(found: Verdict, width: int = 80) -> str:
    return " ".join(shown(explanation(found), width).split())


@pytest.mark.parametrize("width", [80, 120])
def test_every_figure_of_every_cell_is_there_at_any_width(width: int) -> None:
    text = shown(explanation(harmful()), width)
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert lines_with(text, "mean", "+0.134", "[-0.0240, -0.0088]", "123 pairs")
    assert lines_with(text, "harm", "23,456 of 11,520 (reached)")
    assert lines_with(text, "safe", "3.21 of 20 (38% of the way)")
    assert lines_with(text, "margin", "0.04 (NDCG)")
    assert text.count("still missing") == 4  # of five, the harmful one has nothing to prove any more
    assert lines_with(text, "no   recorded: 98.8%")
    assert lines_with(text, "yes  lost: nothing")
    assert text.index("All pairs: 1,234") < text.index("Cohort gender=F: 400") < text.index("educator: 123")
    assert "NDCG@k against the truth, candidate less baseline; lower is worse" in " ".join(text.split())


def test_the_rules_of_a_promote_are_gone_through() -> None:
    text = words_of(two(state=State.PROMOTE, evidence_rollback=0.5))
    assert "no rollback: the weighted mean of the evidence for harm is 0.5, 20 needed (2%)" in text
    assert "yes promote, 1: 2 of 2 guardrails" in text
    assert "yes promote, 2: no guardrail in any cohort has evidence for harm of 20 " in text
    assert "yes promote, 3: the data are sound so promote, since all three hold" in text


def test_what_keeps_from_a_promote_is_named() -> None:
    alarming = cell(cohort="region=us", e_rollback=25.0, required=False)
    held = two(
        cohorts={"region=us": CohortReport(pairs=9, guardrails=(alarming,))},
        checks=(Check(name="recorded", passed=False, detail="too few"),),
    )
    text = words_of(held)
    assert "no promote, 2: no guardrail in any cohort has evidence for harm of 20; these have: quality.ndcg (re" in text
    assert "no promote, 3: the data are sound; these checks fail: recorded" in text
    assert "so continue: nothing is proven enough" in text
    assert "the horizon is reached" in words_of(msgspec.structs.replace(held, exhausted=True))


def test_a_rollback_by_all_together_and_one_that_stands() -> None:
    assert "yes rollback: the weighted mean of the evidence for harm is 30, 20 needed (150%)" in words_of(
        two(state=State.ROLLBACK, evidence_rollback=30.0)
    )
    text = words_of(two(state=State.ROLLBACK, evidence_rollback=3.0))
    assert "no rollback: the weighted mean of the evidence for harm is 3, 20 needed (15%); this experiment was" in text


def test_what_is_missing_is_said_in_pairs() -> None:
    open_cell = {"finding": Finding.UNDECIDED, "e_promote": 3.0}
    assert missing(cell()) == "nothing: it is proven"
    assert missing(cell(**open_cell, needed=421.0)) == "about 500 more pairs, if they go on likewise"
    assert "beyond the margin" in missing(cell(**open_cell, estimate=0.03))
    assert missing(cell(**open_cell)) == "it can't be said yet how many pairs"
    assert "no pair" in missing(cell(**open_cell, pairs=0, estimate=None))


def test_progress_is_logarithmic_and_bounded() -> None:
    assert progress(20.0, 400.0) == pytest.approx(0.5)
    assert [progress(value, 20.0) for value in (0.0, 1.0, 20.0, 1e9)] == [0, 0, 1, 1]


def test_nothing_in_a_verdict_can_steer_the_terminal() -> None:
    wicked = two(
        cohorts={HOSTILE: CohortReport(pairs=1, guardrails=(cell(HOSTILE, HOSTILE, unit=HOSTILE),))},
        checks=(Check(name=HOSTILE, passed=False, detail=HOSTILE),),
        reasons=(HOSTILE,), notes=(HOSTILE,),
    )  # fmt: skip
    text = shown(explanation(wicked), 80)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[bold red]x[/]" in text
    view = shown(waiting_view(wicked, HOSTILE, 1.0, 60.0), 120)
    assert "\x1b" not in view
    assert "\x1b" not in waiting_line(wicked, HOSTILE)


def test_the_view_of_waiting_shows_every_guardrail_on_its_way() -> None:
    half = cell("latency.total_log2", e_promote=20.0**0.5, finding=Finding.UNDECIDED)
    waiting = verdict(guardrails=(cell(), half), pairs=700, forecast=Forecast(pairs=300.0, seconds=None))
    text = shown(waiting_view(waiting, "the API is away", 90.0, 1800.0), 100)
    assert "waiting for a verdict, 90 s of 30 min" in text or "2 min of 30 min" in text
    assert lines_with(text, "quality.ndcg", "100%", "0%")
    assert lines_with(text, "latency.total_log2", " 50%")
    assert "about 300 more pairs to a promote" in text
    assert "the API is away" in text
    assert waiting_line(waiting).startswith("continue: 700 pairs, 1 of 2 guardrails proven safe")
