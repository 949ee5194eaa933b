"""Buckets and their state: what is counted when, that nothing depends on order, and that it can be stored."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.errors import PayloadError
from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.betting import MeanGrid
from shadowproxy.stats.state import State, Tally

WIDTH, SETTLE = 0.5, 2.0


GOLDEN = Path(__file__).with_name("golden_state_v1.bin")


def golden() -> State:
    """A closed and a late bucket, an open one, sums that are mostly zero, and both kinds of number."""
    sparse = np.zeros((40, 3))
    sparse[7, 1] = 0.125
    state = State(1.0, 11.0).add(100, Tally({"pairs": np.array([2, 1]), "moments/a": np.array([[0.5, -1.5]])}), 2)
    state = state.close(112.0).add(100, Tally({"pairs": np.array([1])}), 1)
    return state.add(105, Tally({"pairs": np.array([4]), "guardrail/g": sparse}), 4)


def empty() -> State:
    return State(width=WIDTH, settle=SETTLE)


def tally(*sums: float) -> Tally:
    return Tally({"x": np.array(sums, np.float64), "pairs": np.array([len(sums)])})


additions = st.lists(
    st.tuples(st.integers(-3, 12), st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4), st.integers(1, 9)),
    max_size=12,
)


def added(state: State, batch: list[tuple[int, list[float], int]]) -> State:
    for bucket, sums, pairs in batch:
        state = state.add(bucket, tally(*sums), pairs)
    return state


@given(additions, st.randoms(use_true_random=False))
def test_the_order_of_additions_does_not_matter(batch, random) -> None:
    shuffled = random.sample(batch, len(batch))
    mark = 4.0
    assert added(empty(), batch).close(mark).same_as(added(empty(), shuffled).close(mark))


@given(additions, st.lists(st.integers(0, 2), min_size=12, max_size=12), st.permutations([0, 1, 2]))
def test_workers_merged_are_one_worker(batch, owners, order) -> None:
    workers = [
        added(empty(), [one for one, owner in zip(batch, owners, strict=False) if owner == worker]).close(4.0)
        for worker in range(3)
    ]
    first, *others = (workers[worker] for worker in order)
    assert first.merge(others).same_as(added(empty(), batch).close(4.0))


@given(additions, st.floats(-5, 12))
def test_stored_and_read_back(batch, watermark) -> None:
    state = added(empty(), batch).close(watermark)
    state = added(state, batch)
    back = State.from_bytes(state.to_bytes())
    assert back.same_as(state, rel=0.0)
    assert (back.late, back.pairs, back.open_pairs) == (state.late, state.pairs, state.open_pairs)


def test_what_version_1_stored_is_read_for_ever() -> None:
    """Written once by `golden().to_bytes()`, and never again: experiments run on while shadowproxy is updated."""
    assert State.from_bytes(GOLDEN.read_bytes()).same_as(golden())


@given(additions, additions, st.floats(-5, 12))
def test_no_method_changes_what_it_is_called_on(batch, more, watermark) -> None:
    state = added(empty(), batch)
    before = state.to_bytes()
    added(state, more)
    state.close(watermark)
    added(state.close(watermark), more)
    state.merge([added(empty(), more)])
    assert State.from_bytes(before).same_as(state, rel=0.0)


def test_a_bucket_is_counted_when_its_end_and_the_settling_time_have_passed() -> None:
    state = empty().add(10, tally(1.0), 3)
    almost, exactly = state.close(7.4999), state.close(7.5)
    assert (almost.pairs, almost.open_pairs) == (0, 3)
    assert (exactly.pairs, exactly.open_pairs, exactly.late) == (3, 0, 0)
    assert exactly.total["x"].tolist() == [1.0]


def test_what_comes_after_closing_is_counted_at_once_and_as_late() -> None:
    state = empty().add(10, tally(1.0), 3).close(8.0).add(10, tally(2.0), 2).add(4, tally(4.0), 1)
    assert (state.pairs, state.late, state.open_pairs) == (6, 3, 0)
    assert state.total["x"].tolist() == [7.0]


def test_an_earlier_watermark_opens_nothing_again() -> None:
    state = empty().add(10, tally(1.0), 3).close(8.0)
    assert state.close(1.0) is state
    assert state.close(math.nan) is state


def test_a_batch_is_added_as_a_whole() -> None:
    state = empty().close(7.5)
    batch = {10: (tally(1.0), 1), 11: (tally(2.0), 2)}
    together = state.with_added(batch)
    assert (together.late, together.open_pairs) == (1, 2)
    assert together.same_as(state.add(11, *batch[11]).add(10, *batch[10]))


def test_merged_for_reading_it_has_the_least_watermark_of_those_that_hold_anything() -> None:
    ahead, behind = empty().close(9.0), empty().add(3, tally(1.0), 1).close(3.0)
    assert ahead.merge([behind, empty()]).watermark == 3.0
    assert empty().merge([]).same_as(empty())


def test_slots_may_grow() -> None:
    assert (tally(1.0) + tally(1.0, 2.0, 3.0))["x"].tolist() == [2.0, 2.0, 3.0]
    assert (tally(1.0, 2.0, 3.0) + tally(1.0))["x"].tolist() == [2.0, 2.0, 3.0]


@pytest.mark.parametrize("other", [np.zeros((2, 3)), np.zeros(2, np.int64)])
def test_sums_of_another_plan_are_refused(other) -> None:
    with pytest.raises(ValueError, match="one plan"):
        tally(1.0) + Tally({"x": other})


@pytest.mark.parametrize("array", [np.zeros(2, np.float32), np.array(1.0), np.array(["a"])])
def test_only_sums_are_tallied(array) -> None:
    with pytest.raises(ValueError, match="float64 or int64"):
        Tally({"x": array})


def test_sameness_sees_a_difference() -> None:
    one = empty().add(1, tally(1.0), 1)
    assert not one.same_as(empty().add(1, tally(1.001), 1))
    assert not one.same_as(empty().add(2, tally(1.0), 1))
    assert not one.same_as(empty().add(1, tally(1.0), 2))
    assert one.same_as(empty().add(1, tally(1.0 + 1e-12), 1))


def test_states_of_other_buckets_are_not_merged() -> None:
    with pytest.raises(ValueError, match="one experiment"):
        empty().merge([State(width=1.0, settle=SETTLE)])


@pytest.mark.parametrize("wrong", [{"width": 0.0, "settle": 1.0}, {"width": 1.0, "settle": -1.0}])
def test_buckets_that_can_not_be_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match="can't be kept"):
        State(**wrong)


def test_a_clock_that_runs_ahead_does_not_fill_the_memory() -> None:
    state = empty()
    wild = range(1000, 1000 + 7 * state.most_open, 7)
    for bucket in wild:
        state = state.add(bucket, tally(1.0), 1)
    assert len(state.open) == state.most_open
    assert state.open_pairs == len(wild)
    # None is counted before its own time: what was put together closes with the latest of it.
    for mark in (600.0, 1500.0, 4000.0):
        due = sum((bucket + 1) * WIDTH + SETTLE <= mark for bucket in wild)
        assert state.close(mark).pairs <= due
    assert state.close(1e9).pairs == len(wild)


@pytest.mark.parametrize("damage", ["empty", "noise", "cut", "not a state", "other version", "wrong array", "huge"])
def test_what_can_not_be_read_is_a_payload_error(damage) -> None:
    good = empty().add(1, tally(1.0, 2.0), 1).to_bytes()

    def packed(value: object) -> bytes:
        return zstandard.compress(msgspec.msgpack.encode(value))

    arrays = msgspec.msgpack.encode({"x": ("f", (3,), b"12345678")})
    data = {
        "empty": b"",
        "noise": b"\x00" * 40,
        "cut": good[:-4],
        "not a state": packed("hello"),
        "other version": packed([99]),
        "wrong array": packed([1, 1.0, 1.0, arrays, {}, 0, 0, 0.0]),
        "huge": packed([1, 1.0, 1.0, msgspec.msgpack.encode({"x": ("f", (1 << 40,), b"", b"")}), {}, 0, 0, 0.0]),
    }[damage]
    with pytest.raises(PayloadError):
        State.from_bytes(data)


def test_a_mostly_empty_state_is_small() -> None:
    sums = np.zeros((34, 200))
    sums[0, 7] = 1.5
    state = empty()
    for bucket in range(24):
        state = state.add(bucket, Tally({"x": sums}), 1)
    assert len(state.to_bytes()) < 2000


def simulated(rng: np.random.Generator, grid: MeanGrid, by_buckets: bool) -> bool:
    """Whether a candidate with 5% timeouts (margin 1%) is ever called non-inferior within a minute.

    100 requests a second; an answer takes 0.1 s, a timeout the whole deadline of 10 s. Looked at ten times a second.
    """
    n, deadline, threshold = 6000, 10.0, math.log(20)
    started = np.arange(n) / 100
    failed = rng.random(n) < 0.05
    finished = started + np.where(failed, deadline, 0.1)
    order = np.argsort(finished, kind="stable")
    state, next_pair = State(width=1.0, settle=deadline + 1.0), 0
    for now in np.arange(0.1, 60.0, 0.1):
        come = order[next_pair : np.searchsorted(finished[order], now, side="right")]
        next_pair += len(come)
        for bucket in np.unique(started[come] // 1.0).astype(int):
            losses = failed[come[started[come] // 1.0 == bucket]].astype(float)
            sums = grid.fold(losses, Grouping.single(len(losses)))
            if by_buckets:
                state = state.add(int(bucket), Tally({"g": sums}), len(losses))
            else:
                state = state.close(math.inf).add(int(bucket), Tally({"g": sums}), len(losses))
        if by_buckets:
            state = state.close(float(now))
        if "g" in state.total and grid.get(state.total["g"])[0][0] >= threshold:
            return True
    return False


def test_completed_pairs_flatter_a_candidate_that_hangs_and_closed_buckets_do_not() -> None:
    grid, rng = MeanGrid(-1, 1, 0.01), np.random.default_rng(2)
    assert all(simulated(rng, grid, by_buckets=False) for _ in range(8))
    assert not any(simulated(rng, grid, by_buckets=True) for _ in range(8))
