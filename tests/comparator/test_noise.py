"""A service that doesn't agree with itself, judged with a replica and without, by default guardrails."""

from __future__ import annotations

import random

import orjson
import pytest

from shadowproxy.comparator.judge import Judge
from shadowproxy.config import loads
from shadowproxy.model import Exchange, Outcome, Pair, Request
from shadowproxy.pairs.lines import Recorded
from shadowproxy.verdict.record import Finding, State, Verdict

CONFIG = """
baseline: http://a
candidate: http://b
routes: [{name: rank, ids: response.body.ids}]
"""


def answer(rng: random.Random, *, reverse: bool = False) -> Exchange:
    """Ten items in an order that noise has changed, another one each time."""
    levels = {at: (at if reverse else -at) + rng.gauss(0, 2.5) for at in range(10)}
    body = orjson.dumps({"ids": sorted(levels, key=levels.__getitem__, reverse=True)})
    return Exchange(Outcome.OK, 200, b"", body, len(body), b"", 0.01, 0.02)


def judged(*, replica: bool, reverse: bool = False, pairs: int = 1500) -> Verdict:
    rng = random.Random(1)
    judge = Judge(loads(CONFIG + "replica: http://c\n" * replica))
    for at in range(pairs):
        started = 1000 + at / 50
        three = answer(rng), answer(rng, reverse=reverse), answer(rng) if replica else None
        one = Pair(str(at), started, Request("GET", "/"), *three)
        judge.add(Recorded(0, f"{round(started * 1000) + 100}-{at + 1}", 0, one))
    return judge.verdict(2000.0)


def test_without_a_replica_a_noisy_model_is_not_even_as_good_as_itself() -> None:
    verdict = judged(replica=False)
    assert verdict.state is State.ROLLBACK
    (cell,) = [cell for cell in verdict.guardrails if cell.finding is Finding.HARMFUL]
    assert cell.metric == "ranking.rbo"


def test_with_one_it_is_promoted_on_a_narrower_margin_and_another_model_is_not() -> None:
    verdict = judged(replica=True)
    assert verdict.state is State.PROMOTE
    (cell,) = [cell for cell in verdict.guardrails if cell.metric == "ranking.rbo_excess"]
    assert cell.estimate == pytest.approx(0, abs=0.02)
    assert cell.pairs == 1500
    other = judged(replica=True, reverse=True)
    assert other.state is State.ROLLBACK
    assert [cell.metric for cell in other.guardrails if cell.finding is Finding.HARMFUL] == ["ranking.rbo_excess"]
