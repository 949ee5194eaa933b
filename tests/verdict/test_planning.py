"""From a configuration and its noise to rows of a plan."""

from __future__ import annotations

import math

import pytest
from verdict.synthetic import settings

from shadowproxy.config import Settings
from shadowproxy.stats.sizes import Sizes
from shadowproxy.verdict.planning import Noise, Planner, cases, noise_of, promote, single

PLANNER = Planner()
ROUTE = {"name": "rank", "ids": "response.body.ids", "cohorts": {"region": "request.body.region"}}


def guarded(*guardrails: object, **verdict: object) -> Settings:
    return settings(routes=[ROUTE], verdict={"guardrails": guardrails, **verdict})


FAILURES = {"metric": "failures.difference", "margin": 0.01}
RBO = {"metric": "ranking.rbo", "margin": 0.2, "cohort_margin": 0.3}
SLOW = {"metric": "latency.total_p50", "margin": 0.1, "cohorts": []}


def test_every_guardrail_is_a_case_with_its_bounds_margins_and_budgets() -> None:
    failures, rbo, slow = cases(guarded(FAILURES, RBO, SLOW, alpha_promote=0.01))
    assert (failures.lo, failures.hi, failures.margin, failures.cohort_margin, failures.counts) == (
        -1,
        1,
        0.01,
        0.02,
        True,
    )
    assert (rbo.lo, rbo.hi, rbo.cohort_margin, rbo.counts, rbo.alpha_promote) == (0, 1, 0.3, False, 0.01)
    assert rbo.alpha_rollback == pytest.approx(0.05 / 6)
    assert (slow.quantile, slow.cohort_margin) == (0.5, None)


def test_without_cohorts_none_must_be_proven() -> None:
    (case,) = cases(settings(verdict={"guardrails": [FAILURES]}))
    assert case.cohort_margin is None


def test_more_noise_and_a_narrower_margin_take_longer() -> None:
    def median(margin: float, sd: float) -> float:
        return PLANNER.row(single(margin, -1, 1, 0.05), Noise(0, sd, "given"), worse=2, share=0.1).safe.median

    assert median(0.02, 0.05) < median(0.02, 0.1) < median(0.02, 0.2)
    assert median(0.05, 0.2) < median(0.02, 0.2) < median(0.01, 0.2)


def test_a_cohort_takes_its_share_of_all_pairs() -> None:
    (case,) = cases(guarded(FAILURES))
    whole, tenth = (PLANNER.row(case, case.assumed, worse=2, share=share) for share in (1.0, 0.1))
    assert whole.cohort is not None
    assert tenth.cohort is not None
    assert tenth.cohort.median == pytest.approx(10 * whole.cohort.median)
    # At twice the margin it is proven with fewer pairs of its own.
    assert whole.cohort.median < whole.safe.median
    assert tenth.needed == tenth.cohort


def test_nothing_is_decided_with_fewer_pairs_than_the_settings_ask_for() -> None:
    case = single(0.3, -1, 1, 0.05)
    found = PLANNER.row(case, Noise(0, 0.01, "given"), worse=3, share=0.1, least=500, least_harm=400)
    assert found.safe == Sizes(500, 500)
    assert found.harm == Sizes(400, 400)
    assert found.fewest == 500


def test_a_mean_at_its_margin_is_never_proven_safe() -> None:
    found = PLANNER.row(single(0.02, -1, 1, 0.05), Noise(0.02, 0.1, "given"), worse=2, share=0.1)
    assert math.isinf(found.safe.median)
    assert math.isfinite(found.harm.median)
    assert math.isinf(promote([found]).median)


def test_of_a_count_the_deviation_that_is_reckoned_with_is_said() -> None:
    (failures,) = cases(guarded(FAILURES))
    (top,) = cases(guarded({"metric": "ranking.top1", "margin": 0.2}))
    as_said = PLANNER.row(failures, Noise(0.0, 0.03, "given"), worse=2, share=0.1)
    assert as_said.noise.sd == pytest.approx(0.03)
    # A share that is 1 for a tenth of the pairs can't deviate by less, or by more.
    made = PLANNER.row(top, Noise(0.1, 0.2, "given"), worse=2, share=0.1)
    assert made.noise == Noise(0.1, pytest.approx(0.3), "given")


def test_impossible_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="at most by 1"):
        PLANNER.row(single(0.02, -1, 1, 0.05), Noise(0, 3, "given"), worse=2, share=0.1)
    (slow,) = cases(guarded(SLOW))
    with pytest.raises(ValueError, match="correlation from -1 to 1"):
        PLANNER.row(slow, Noise(0, 0.5, "given", 2.0), worse=2, share=0.1)


def test_what_is_said_comes_before_what_was_seen_and_that_before_what_is_assumed() -> None:
    failures, rbo, slow = cases(guarded(FAILURES, RBO, SLOW))
    seen = {"ranking.rbo": Noise(0.05, 0.02, "recorded")}
    given = {"failures.difference": (None, 0.3), "latency.total_p50": (0.9, 0.4)}
    assert noise_of(failures, given, seen) == Noise(0.0, 0.3, "given")
    assert noise_of(rbo, given, seen) == seen["ranking.rbo"]
    assert noise_of(slow, given, seen) == Noise(0.0, 0.4, "given", 0.9)
    assert noise_of(rbo, given, {}).source == "assumed"
    assert noise_of(rbo, {"ranking.rbo": (0.1, 0.2)}, seen) == Noise(0.1, 0.2, "given")


def test_every_default_can_be_planned() -> None:
    for case in cases(guarded()):
        found = PLANNER.row(case, case.assumed, worse=2, share=0.1)
        assert found.safe.median <= found.safe.most < math.inf, case


@pytest.mark.parametrize("guardrail", [FAILURES, SLOW])
def test_a_curve_falls_with_the_margin_and_leads_through_the_chosen_one(guardrail: dict[str, object]) -> None:
    (case,) = cases(guarded(guardrail))
    found = PLANNER.row(case, case.assumed, worse=2, share=0.1)
    curve = PLANNER.curve(found)
    assert curve.margins[0] == pytest.approx(case.margin / 5)
    assert all(before >= after for before, after in zip(curve.median, curve.median[1:], strict=False))
    middle = len(curve.margins) // 2
    assert curve.margins[middle] == pytest.approx(case.margin)
    assert curve.median[middle] == pytest.approx(found.safe.median, rel=0.01)
