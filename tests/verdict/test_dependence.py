"""Dependence between pairs, through the plan: what is measured, what it holds back, and judging by blocks."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import lfilter
from verdict.synthetic import columns, facts, settings, take

from shadowproxy.compare.columns import Columns
from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.betting import MeanGrid
from shadowproxy.stats.blocks import Schedule
from shadowproxy.stats.inflation import VarianceInflation, account_keys, time_keys
from shadowproxy.stats.state import State as Counted
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Check, State, Verdict

RBO = "ranking.rbo"
NDCG = "quality.ndcg"
BEGAN = 1_700_000_000.0
RATE = 50
"""Pairs a second."""


def plan(margin: float = 0.1, metric: str = RBO, routes=None, **policy: object) -> Plan:
    given = [{"metric": metric, "margin": margin}]
    routes = routes or [
        {"name": "r", "ids": "response.body.ids", "truth": "annotations.truth", "cohorts": {"region": "b"}}
    ]
    return Plan(settings(routes=routes, verdict={"guardrails": given, "min_pairs": 30, **policy}))


def stream(losses, *, accounts=None, metric: str = RBO, cohorts=None) -> Columns:
    """A steady stream of pairs with these losses, from the beginning on."""
    n = len(losses)
    sign = {RBO: 1 - np.asarray(losses), NDCG: -np.asarray(losses)}
    batch = columns(n, {metric: sign[metric]}, started=BEGAN + np.arange(n) / RATE, cohorts=cohorts)
    return batch if accounts is None else replace(batch, account=np.asarray(accounts, np.uint64))


def total(one: Plan, batch: Columns, slots=None, parts: int = 3) -> Counted:
    """Counted by several workers, each a share of every second, merged."""
    states = [one.empty() for _ in range(parts)]
    for at in range(0, len(batch), 500):
        for worker in range(parts):
            chosen = np.arange(at, min(at + 500, len(batch)))[worker::parts]
            tallies = one.tally(take(batch, chosen), slots or {}, (), BEGAN)
            states[worker] = states[worker].with_added(tallies)
    return one.empty().merge(states).close(1e12)


def judged(one: Plan, batch: Columns, slots=None) -> Verdict:
    return one.judge(total(one, batch, slots).total, slots or {}, facts())


def check(verdict: Verdict) -> Check:
    (found,) = (check for check in verdict.checks if check.name == "independence")
    return found


def autoregressive(rng: np.random.Generator, n: int, rho: float, mean: float, sd: float = 0.08) -> np.ndarray:
    noise = rng.normal(0, sd * math.sqrt(1 - rho**2), n + 200)
    return np.clip(mean + lfilter([1], [1, -rho], noise)[200:], 0, 1)


def test_inflation_is_that_of_the_losses_by_every_key() -> None:
    rng = np.random.default_rng(1)
    losses, accounts = rng.random(3000), rng.integers(0, 90, 3000)
    losses[rng.random(3000) < 0.1] = np.nan
    batch = stream(losses, accounts=accounts)
    found = {one.by: one for one in judged(plan(), batch).dependence}
    statistic = VarianceInflation()
    keys = {"account": account_keys(batch.account)}
    keys |= {f"{span} s": time_keys(batch.started, span) for span in (1, 10, 60)}
    for by, key in keys.items():
        values = np.column_stack([losses, key])
        vif, error, groups = statistic.get(statistic.fold(values, Grouping.single(len(values))))
        # 3,000 pairs are 60 s, from 20 s into a minute.
        assert (found[by].inflation, found[by].error, found[by].groups) == pytest.approx(
            (vif[0], error[0], groups[0]), rel=1e-6
        )


def test_independent_pairs_are_promoted() -> None:
    rng = np.random.default_rng(2)
    n = 6000
    verdict = judged(plan(), stream(rng.uniform(0, 0.1, n), accounts=rng.integers(1, 300, n)))
    assert check(verdict).passed
    assert verdict.state is State.PROMOTE


def test_pairs_that_remember_hold_a_promote_back_and_blocks_let_it_through() -> None:
    rng = np.random.default_rng(3)
    losses = autoregressive(rng, 300 * 10 * RATE, 0.9, 0.05)
    verdict = judged(plan(), stream(losses))
    assert verdict.guardrails[0].e_promote >= 20
    assert verdict.state is State.CONTINUE
    found = check(verdict)
    assert not found.passed
    assert re.match(r"ranking\.rbo: by 60 s the variance of its mean is (19|20) \(± 0\.\d+\) times", found.detail)
    assert "set verdict.blocks: 10s" in found.detail
    remedied = judged(plan(blocks="10s"), stream(losses))
    assert check(remedied).passed, check(remedied).detail
    assert {one.by for one in remedied.dependence} == {"8 blocks"}
    assert remedied.state is State.PROMOTE
    (cell,) = remedied.guardrails
    # The last one is open: nothing has begun after it.
    assert (cell.blocks, cell.pairs) == (299, len(losses))
    assert cell.e_promote < verdict.guardrails[0].e_promote


def test_blocks_that_are_too_short_are_told() -> None:
    rng = np.random.default_rng(4)
    losses = autoregressive(rng, 200 * RATE, 0.98, 0.05)
    found = check(judged(plan(blocks="0.2s"), stream(losses)))
    assert not found.passed
    assert "by 8 blocks" in found.detail
    assert "make verdict.blocks longer" in found.detail


def test_blocks_are_no_remedy_for_a_quantile() -> None:
    rng = np.random.default_rng(8)
    n = 6000
    ratios = autoregressive(rng, n, 0.9, 0.5)
    batch = columns(n, {"latency.total_log2": ratios}, started=BEGAN + np.arange(n) / RATE)
    found = check(judged(plan(metric="latency.total_p50", blocks="10s"), batch))
    assert not found.passed
    assert "guard the mean instead" in found.detail


def test_accounts_that_return_hold_a_promote_back_unless_they_are_the_population() -> None:
    rng = np.random.default_rng(5)
    n = 8000
    accounts = rng.integers(1, 101, n)
    losses = np.clip(rng.uniform(0, 0.1, 101)[accounts] + rng.normal(0, 0.01, n), 0, 1)
    batch = stream(losses, accounts=accounts)
    verdict = judged(plan(), batch)
    found = check(verdict)
    assert not found.passed
    assert found.detail.startswith("ranking.rbo: by account ")
    assert "verdict.closed_population" in found.detail
    assert verdict.state is State.CONTINUE
    assert not check(judged(plan(blocks="1s"), batch)).passed
    closed = judged(plan(closed_population=True), batch)
    assert check(closed).passed
    assert closed.state is State.PROMOTE
    assert max(one.least for one in closed.dependence) > 1.3


def test_nothing_to_be_said_holds_nothing_back() -> None:
    verdict = judged(plan(), stream(np.zeros(500)))
    assert verdict.dependence == ()
    assert check(verdict).passed


def by_definition(batch: Columns, losses: np.ndarray, length: float, chosen: np.ndarray) -> list[float]:
    """The mean of every closed block, in their order."""
    schedule = Schedule(length, BEGAN)
    blocks = defaultdict(list)
    for index, loss in zip(schedule.index(batch.started[chosen]), losses[chosen], strict=True):
        blocks[int(index)].append(loss)
    newest = int(schedule.index(batch.started).max())
    return [math.fsum(blocks[i]) / len(blocks[i]) for i in sorted(blocks) if i < newest]


@pytest.mark.parametrize("length", [1.0, 7.0])
def test_blocks_are_folded_once_over_all_workers_in_every_cohort(length) -> None:
    rng = np.random.default_rng(6)
    n = 4000
    losses = rng.random(n)
    here = rng.random(n) < 0.3
    batch = stream(losses, cohorts=[("region=eu",) if one else () for one in here])
    one = plan(blocks=f"{length}s", min_pairs_rollback=2)
    verdict = judged(one, batch, {"region=eu": 1})
    cells = (*verdict.guardrails, *verdict.cohorts["region=eu"].guardrails)
    for cell, chosen in zip(cells, (np.ones(n, bool), here), strict=True):
        means = by_definition(batch, losses, length, chosen)
        grid = MeanGrid(0, 1, cell.margin)
        promote, harm = grid.get(grid.fold(np.array(means), Grouping.single(len(means))))
        assert cell.blocks == len(means)
        assert cell.pairs == chosen.sum()
        assert cell.estimate == pytest.approx(np.mean(means))
        assert math.log(cell.e_promote) == pytest.approx(promote[0], abs=1e-6)
        assert math.log(cell.e_rollback) == pytest.approx(harm[0], abs=1e-6)


def test_a_reading_is_the_same_however_late_it_is_and_in_whatever_order_pairs_came() -> None:
    rng = np.random.default_rng(7)
    batch = stream(rng.random(2000))
    one = plan(blocks="1s")
    shuffled = take(batch, rng.permutation(2000))
    first, second = (judged(one, some).guardrails[0] for some in (batch, shuffled))
    assert first.blocks == second.blocks
    assert first.e_promote == pytest.approx(second.e_promote)
    assert first.e_rollback == pytest.approx(second.e_rollback)


def test_what_was_bet_on_never_changes_from_one_reading_to_the_next() -> None:
    """Pairs end up to 8 s after they began, are read by three workers, and are judged every 0.7 s meanwhile."""
    rng = np.random.default_rng(9)
    n = 30 * RATE
    losses = rng.random(n)
    batch = stream(losses)
    written = batch.started + rng.uniform(0, 8, n)
    one = plan(blocks="1.5s")
    means = by_definition(batch, losses, 1.5, np.ones(n, bool))
    states = [one.empty() for _ in range(3)]
    read: list[int] = []
    for now in np.arange(BEGAN, BEGAN + 60, 0.7):
        for worker in range(3):
            new = np.flatnonzero((written > now - 0.7) & (written <= now) & (np.arange(n) % 3 == worker))
            states[worker] = states[worker].with_added(one.tally(take(batch, new), {}, (), BEGAN))
            # Each hears of the watermark when it commits, so they are not equally far.
            states[worker] = states[worker].close(now - worker)
        state = one.empty().merge(states).close(now)
        (cell,) = one.judge(state.total, {}, facts()).guardrails
        assert cell.blocks is not None
        read.append(cell.blocks)
        if cell.blocks:
            assert cell.estimate == pytest.approx(np.mean(means[: cell.blocks]))
    assert read == sorted(read)
    assert read[-1] == len(means)


def test_a_block_counts_when_its_labels_can_come_no_more() -> None:
    routes = [{"name": "r", "ids": "response.body.ids", "labels": "20s"}]
    one = plan(0.02, NDCG, routes, blocks="5s")
    (cell,) = judged(one, stream(np.zeros(60 * RATE), metric=NDCG)).guardrails
    # The newest of twelve began at 55 s: what ended by 35 s has had its time.
    assert cell.blocks == 7
    (soon,) = judged(plan(0.02, NDCG, blocks="5s"), stream(np.zeros(60 * RATE), metric=NDCG)).guardrails
    assert soon.blocks == 11


def test_a_rollback_wants_as_many_blocks_as_pairs() -> None:
    batch = stream(np.full(31 * RATE, 0.9))
    early, later = (
        judged(plan(blocks="1s"), take(batch, np.arange(seconds * RATE))).guardrails[0] for seconds in (30, 31)
    )
    assert (early.blocks, later.blocks) == (29, 30)
    assert early.e_rollback == 1
    assert later.e_rollback > 1e6


def test_what_is_still_needed_is_said_in_pairs() -> None:
    (cell,) = judged(plan(0.02, blocks="1s"), stream(np.zeros(50 * RATE))).guardrails
    # 193 blocks prove it, and 49 are closed.
    assert cell.needed == pytest.approx((193 - 49) * RATE, rel=0.1)


def test_blocks_need_a_beginning_and_only_one() -> None:
    one, batch = plan(blocks="1s"), stream(np.zeros(100))
    with pytest.raises(ValueError, match="without the time"):
        one.tally(batch, {})
    state = one.empty()
    for began in (BEGAN, BEGAN + 60):
        state = state.with_added(one.tally(batch, {}, (), began))
    with pytest.raises(ValueError, match="several beginnings"):
        one.judge(state.close(1e12).total, {}, facts())
    assert one.begins(batch) == BEGAN
    assert plan().begins(batch) is None
