"""The shift of a distribution as a guardrail: against its definition, and what it promises."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from verdict.synthetic import columns, facts, settings, with_scores

from shadowproxy.compare.columns import Columns
from shadowproxy.errors import ConfigError
from shadowproxy.model import Side
from shadowproxy.stats.betting import MeanGrid
from shadowproxy.verdict.guardrails.calibration import Calibration
from shadowproxy.verdict.guardrails.rules import rules
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Finding, State, Verdict

SHIFT, RELATIVE, DELTA = "scores.shift", "scores.relative_delta", "scores.delta"
ROUTES = [{"name": "rank", "ids": "response.body.ids", "scores": "response.body.s", "cohorts": {"r": "a"}}]
A, B = Side.BASELINE, Side.CANDIDATE
Items = list[list[float]]


def plan(margin: float = 0.1, **verdict: object) -> Plan:
    guardrails = [{"metric": SHIFT, "margin": margin}]
    return Plan(settings(routes=ROUTES, verdict={"guardrails": guardrails, **verdict}))


def known(one: Plan, *thresholds: float, since: float = 0.0) -> Plan:
    return one.calibrated({SHIFT: Calibration(thresholds=thresholds, since=since)})


def batch(a: Items, b: Items, **parts) -> Columns:
    n = len(a)
    made = columns(n, {RELATIVE: np.zeros(n), DELTA: np.zeros(n)}, **parts)
    flat = {side: [(i, x) for i, some in enumerate(items) for x in some] for side, items in ((A, a), (B, b))}
    return with_scores(made, {side: ([i for i, _ in some], [x for _, x in some]) for side, some in flat.items()})


def judged(one: Plan, *batches: Columns, slots=None) -> Verdict:
    state = one.empty()
    for some in batches:
        state = state.with_added(one.tally(some, slots or {}))
    return one.judge(state.close(1e12).total, slots or {}, facts())


def sample(rng: np.random.Generator, n: int, shift: float = 0.0) -> tuple[Items, Items]:
    return tuple([list(rng.normal(by, 1, rng.integers(1, 6))) for _ in range(n)] for by in (0.0, shift))


# ── by definition ──


def below(items: list[float], x: float) -> float:
    numbers = [value for value in items if math.isfinite(value)]
    return sum(value <= x for value in numbers) / len(numbers) if numbers else math.nan


@pytest.mark.parametrize("weighted", [False, True])
def test_evidence_by_its_definition(weighted: bool) -> None:
    rng = np.random.default_rng(1)
    a, b = sample(rng, 200, 0.3)
    a[0], b[1], b[2] = [math.nan], [], [0.5, math.nan, math.inf]
    a[3] = [-0.5, 0.0, 0.0, 0.5]  # at the thresholds
    routes = [{**ROUTES[0], "weight": "annotations.w"}] if weighted else ROUTES
    made = batch(a, b, cohorts=[("r=x",) if i % 2 else () for i in range(200)])
    weight = rng.random(200) if weighted else np.ones(200)
    if weighted:
        object.__setattr__(made, "weight", weight)
    guardrails = [{"metric": SHIFT, "margin": 0.1, "cohort_margin": 0.25}]
    one = Plan(settings(routes=routes, verdict={"guardrails": guardrails}))
    one = known(one, -0.5, 0.0, 0.5, 0.5)
    verdict = judged(one, made, slots={"r=x": 1})
    for cell, chosen, margin in (
        (verdict.guardrails[0], range(200), 0.1),
        (verdict.cohorts["r=x"].guardrails[0], range(1, 200, 2), 0.25),
    ):
        grid = MeanGrid(-1, 1, margin)
        within, beyond, means = [], [], []
        for x in (-0.5, 0.0, 0.5):
            pairs = [(i, below(b[i], x) - below(a[i], x)) for i in chosen]
            pairs = [(i, d) for i, d in pairs if not math.isnan(d)]
            means.append(sum(weight[i] * d for i, d in pairs) / sum(weight[i] for i, _ in pairs))
            for sign in (1, -1):
                logs = [sum(math.log1p(bet * weight[i] * (sign * d - margin)) for i, d in pairs) for bet in grid.bets]
                capitals = [math.exp(w + log) for w, log in zip(grid.log_weights, logs, strict=True)]
                within.append(sum(capitals[: grid.size]))
                beyond.append(sum(capitals[grid.size :]))
            assert cell.pairs == len(pairs)
        assert cell.undefined == len(chosen) - cell.pairs > 0
        assert cell.estimate == pytest.approx(max(map(abs, means)))
        assert cell.e_promote == pytest.approx(min(within), rel=1e-6)
        assert cell.e_rollback == pytest.approx(sum(beyond) / 6, rel=1e-6)
        assert cell.interval is not None
        assert cell.interval[0] <= cell.estimate <= cell.interval[1]


# ── what it is for ──


def test_the_same_distribution_is_proven_alike_and_another_apart() -> None:
    rng = np.random.default_rng(2)
    one = known(plan(0.2), *np.linspace(-1.5, 1.5, 15))
    alike = judged(one, batch(*sample(rng, 2000)))
    assert alike.state is State.PROMOTE
    assert alike.guardrails[0].estimate < 0.05
    apart = judged(one, batch(*sample(rng, 2000, 1.0)))
    assert apart.state is State.ROLLBACK
    assert apart.guardrails[0].finding is Finding.HARMFUL
    assert apart.guardrails[0].estimate == pytest.approx(0.383, abs=0.04)  # 2Φ(½) − 1
    assert "distributions of all scores apart" in apart.reasons[0]
    assert alike.guardrails[0].needed is None or alike.guardrails[0].needed == 0


def test_a_spread_that_no_mean_shows_is_seen() -> None:
    rng = np.random.default_rng(3)
    a = [list(rng.normal(0, 1, 4)) for _ in range(2000)]
    b = [list(rng.normal(0, 3, 4)) for _ in range(2000)]
    verdict = judged(known(plan(0.1), *np.linspace(-2, 2, 15)), batch(a, b))
    assert verdict.guardrails[0].finding is Finding.HARMFUL


@pytest.mark.parametrize("up", [False, True])
def test_errors_are_as_rare_as_promised_at_the_margin(up: bool) -> None:
    """A shift of just the margin, at one threshold of three, and either way: both claims are then false."""
    rng, margin, runs, n = np.random.default_rng(4), 0.2, 200, 300
    wrong = {"within": 0, "beyond": 0}
    (rule,) = rules(settings(routes=ROUTES, verdict={"guardrails": [{"metric": SHIFT, "margin": margin}]}))
    one = known(plan(margin), 0.0, 1.0, 2.0)
    for _ in range(runs):
        a = rng.choice([-0.5, 0.5, 1.5, 2.5], n)
        moved = rng.random(n) < margin / 0.25
        b = np.where(moved & (a == (-0.5 if up else 0.5)), 0.5 if up else -0.5, a)
        cell = judged(one, batch([[x] for x in a], [[x] for x in b])).guardrails[0]
        wrong["within"] += cell.e_promote >= 20
        wrong["beyond"] += cell.e_rollback >= 20
    assert max(wrong.values()) <= 0.05 * runs + 2 * math.sqrt(0.05 * 0.95 * runs)
    assert rule.hi == 1


# ── how it is calibrated ──


def test_thresholds_are_quantiles_of_the_baselines_scores() -> None:
    rng = np.random.default_rng(5)
    a, b = [list(rng.lognormal(0, 2, 20)) for _ in range(500)], [[1.0]] * 500
    one = plan()
    state = one.empty().with_added(one.tally(batch(a, b), {})).close(1e12)
    found = one.due(state.total)[SHIFT]
    expected = np.quantile(np.concatenate(a), np.arange(1, 16) / 16)
    np.testing.assert_allclose(found.thresholds, expected, rtol=0.031)
    assert found.clip is None
    assert not one.calibrated({SHIFT: msgspec.structs.replace(found, since=1.0)}).waiting


def test_a_score_that_most_items_have_is_at_its_threshold() -> None:
    """Atoms: below its own threshold such a score would be missing from every share."""
    one = plan()
    for level in (0.7, -3.0, 0.0, 123456.0):
        made = batch([[level, level, level + 1]] * 300, [[level]] * 300)
        state = one.empty().with_added(one.tally(made, {})).close(1e12)
        thresholds = one.due(state.total)[SHIFT].thresholds
        assert min(thresholds) >= level
        assert min(thresholds) <= level + abs(level) * 0.031


def test_what_started_before_does_not_count() -> None:
    one = known(plan(), 0.0, since=1500.0)
    made = batch([[0.0]] * 40, [[1.0]] * 40, started=np.where(np.arange(40) < 25, 1499.9, 1500.0))
    assert judged(one, made).guardrails[0].pairs == 15
    assert judged(plan(), made).guardrails[0].pairs == 0
    ((_, values, losses),) = one.losses(made)
    assert values.tolist() == losses.tolist() == [1.0] * 40


def test_it_is_no_default_and_needs_scores_and_a_margin_that_says_something() -> None:
    assert SHIFT not in {rule.metric.name for rule in rules(settings(routes=ROUTES))}
    with pytest.raises((ConfigError, ValueError), match="needs `ids` and `scores`"):
        settings(routes=[{"name": "r"}], verdict={"guardrails": [{"metric": SHIFT, "margin": 0.1}]})
    with pytest.raises((ConfigError, ValueError), match="tolerates everything"):
        plan(1.0)
    detail = next(check.detail for check in judged(known(plan(), 1.0, 2.0), batch([[1.0]], [[1.0]])).checks
                  if check.name == "calibrated")  # fmt: skip
    assert detail == "scores.shift looks at 2 thresholds from 1 to 2"
