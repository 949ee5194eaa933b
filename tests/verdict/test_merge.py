"""The same pairs give the same figures, whoever counts them and in whatever order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from verdict.synthetic import columns, facts, settings, take

from shadowproxy.compare.columns import Columns
from shadowproxy.model import Side
from shadowproxy.stats.state import State
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Verdict

FAIL, RBO = "failures.difference", "ranking.rbo"
SLOTS = {"gender=F": 1, "gender=M": 2}
ENTRIES = 21
PLAN = Plan(
    settings(
        routes=[
            {"name": "search", "path": "/search", "ids": "response.body.ids", "cohorts": {"gender": "a", "region": "b"}}
        ],
        verdict={
            "max_cohorts": 2,
            "guardrails": [{"metric": FAIL, "margin": 0.05}, {"metric": RBO, "margin": 0.2}],
        },
    )
)


def entries() -> list[Columns]:
    """Uneven batches of pairs, over 40 s of start times, with failures and undefined values among them."""
    draw = np.random.default_rng(5)
    n = 8 * ENTRIES
    names = ["gender=F", "gender=M", "region=us", "region=eu"]
    kinds = {side: draw.choice(["", "", "", "timeout", "http_5xx"], n) for side in (Side.BASELINE, Side.CANDIDATE)}
    whole = columns(
        n,
        {FAIL: draw.choice([-1.0, 0.0, 0.0, 1.0], n), RBO: np.where(draw.random(n) < 0.1, np.nan, draw.random(n))},
        started=1000 + draw.random(n) * 40,
        cohorts=[tuple(draw.choice(names, draw.integers(0, 3))) for _ in range(n)],
        applicable={RBO: draw.random(n) < 0.8},
        kinds=kinds,
        seconds=0.02,
    )
    cuts = np.sort(draw.choice(np.arange(1, n), ENTRIES - 1, replace=False))
    return [take(whole, part) for part in np.split(np.arange(n), cuts)]


TALLIES = [PLAN.tally(entry, SLOTS) for entry in entries()]


@dataclass(frozen=True)
class Step:
    """One entry is counted by a worker, who first may take another's state over and hear of a watermark."""

    entry: int
    worker: int
    absorbed: int | None
    watermark: float


def figures(verdict: Verdict) -> Any:
    return msgspec.to_builtins(verdict)


def assert_same(found: Any, expected: Any, path: str = "$") -> None:
    """Equal in all that is no float, and within 1e-9 of each other where it is one."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key, value in expected.items():
            assert_same(found[key], value, f"{path}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), path
        for at, value in enumerate(expected):
            assert_same(found[at], value, f"{path}[{at}]")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9), path
    else:
        assert found == expected, path


def judged(states: Iterable[State]) -> Any:
    merged = PLAN.empty().merge(states).close(math.inf)
    assert merged.open_pairs == 0
    return figures(PLAN.judge(merged.total, SLOTS, facts()))


def alone() -> Any:
    state = PLAN.empty()
    for tally in TALLIES:
        state = state.with_added(tally)
    return judged([state])


ALONE = alone()


def counted(steps: Iterable[Step], workers: int, partitions: int) -> list[State]:
    """What is stored in the end: one state for each worker and partition, those that were taken over left out."""
    states = {(partition, worker): PLAN.empty() for partition in range(partitions) for worker in range(workers)}
    for step in steps:
        partition = step.entry % partitions
        mine, others = (partition, step.worker), (partition, step.absorbed)
        state = states[mine]
        if step.absorbed is not None and others != mine:
            # As the worker does it; the bytes are what it reads.
            state = state.merge([State.from_bytes(states[others].to_bytes())]).close(state.watermark)
            states[others] = PLAN.empty()
        state = state.with_added(TALLIES[step.entry])
        states[mine] = State.from_bytes(state.close(step.watermark).to_bytes())
    return list(states.values())


def steps(workers: int) -> st.SearchStrategy[list[Step]]:
    worker = st.integers(0, workers - 1)
    marks = st.just(-math.inf) | st.floats(1000, 1080)
    one = st.tuples(worker, st.none() | worker, marks)
    return st.tuples(st.permutations(range(ENTRIES)), st.lists(one, min_size=ENTRIES, max_size=ENTRIES)).map(
        lambda both: [Step(entry, *rest) for entry, rest in zip(*both, strict=True)]
    )


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("workers", [1, 2, 7])
@hypothesis_settings(max_examples=40)
@given(st.data())
def test_any_workers_in_any_order_come_to_the_same(workers: int, partitions: int, data: st.DataObject) -> None:
    stored = counted(data.draw(steps(workers)), workers, partitions)
    order = data.draw(st.permutations(range(len(stored))))
    assert_same(judged(stored[at] for at in order), ALONE)


def test_the_figures_say_something_and_a_pair_more_changes_them() -> None:
    assert ALONE["pairs"] == 8 * ENTRIES
    assert {cell["guardrail"] for cell in ALONE["guardrails"]} == {FAIL, RBO}
    assert set(ALONE["cohorts"]) == {"gender=F", "gender=M", "other"}
    assert ALONE["failures"]["candidate"]
    twice = [Step(entry, 0, None, -math.inf) for entry in (*range(ENTRIES), 0)]
    with pytest.raises(AssertionError):
        assert_same(judged(counted(twice, 1, 1)), ALONE)
