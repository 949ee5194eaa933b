"""Boards hold the worst pairs and a uniform sample, whoever counts them, in whatever order and parts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from verdict.synthetic import columns, settings, take

from shadowproxy.compare.columns import Columns
from shadowproxy.errors import PayloadError
from shadowproxy.verdict.exemplars import SAMPLE, Board, Boards, Found, Limits, keys, seed_of, select
from shadowproxy.verdict.plan import Plan

FAIL, RBO = "failures.difference", "ranking.rbo"
SLOTS = {"region=us": 1, "region=eu": 2}
OTHER = 3
PLAN = Plan(
    settings(
        routes=[
            {"name": "search", "path": "/s", "ids": "response.body.ids", "cohorts": {"region": "a"}},
            {"name": "home", "path": "/h", "ids": "response.body.ids"},
        ],
        verdict={
            "max_cohorts": 2,
            "guardrails": [
                {"metric": FAIL, "margin": 0.05},
                {"metric": RBO, "margin": 0.2},
                {"metric": RBO, "margin": 0.3, "routes": ["home"]},
            ],
        },
    )
)
PLENTY = 1 << 40
N = 300


def batch() -> Columns:
    """Ties, undefined and not applicable values, gains, cohorts with and without a slot, several of one pair."""
    draw = np.random.default_rng(11)
    names = ["region=us", "region=eu", "region=mars", "region=venus"]
    return columns(
        N,
        {
            FAIL: draw.choice([-1.0, 0.0, 1.0], N, p=[0.1, 0.5, 0.4]),
            RBO: draw.choice([math.nan, 0.0, 0.3, 0.9, 1.0], N),
        },
        route=draw.integers(-1, 2, N),
        applicable={RBO: draw.random(N) < 0.7},
        cohorts=[tuple(draw.choice(names, draw.integers(0, 4))) for _ in range(N)],
    )


ALL = batch()
KEY = keys(seed_of("exp"), 0, np.arange(N) // 7 + 1, np.arange(N) % 7)


def worst_by_hand(rows: Sequence[int], limits: Limits) -> dict[Board, list[int]]:
    """The definition, pair by pair."""
    boards: dict[Board, list[tuple[float, int, int]]] = {}
    for row in rows:
        slots = {0} | {SLOTS.get(name, OTHER) for name in ALL.cohorts[row]}
        for rule in PLAN.rules:
            if rule.routes and ALL.route[row] != 1:
                continue
            value = ALL.values[rule.metric.name][row]
            loss = value if rule.metric.name == FAIL else 1 - value
            if ALL.applicable[rule.metric.name][row] and loss > 0:
                for slot in slots:
                    boards.setdefault(Board(rule.name, slot), []).append((loss, int(KEY[row]), row))
        boards.setdefault(Board(SAMPLE, 0), []).append((1.0, int(KEY[row]), row))
    found = {board: [row for *_, row in sorted(several)[::-1][: limits.of(board)]] for board, several in boards.items()}
    return {board: kept for board, kept in found.items() if kept}


def fed(boards: Boards, rows: np.ndarray) -> Boards:
    chosen = select(boards, PLAN, take(ALL, rows), SLOTS, KEY[rows])
    sizes = {found.key: 100 for several in chosen.values() for _, found in several}
    return boards.with_found({board: [found for _, found in several] for board, several in chosen.items()}, sizes)


def rows_of(boards: Boards) -> dict[Board, list[int]]:
    row = {int(key): at for at, key in enumerate(KEY)}
    return {board: [row[one.key] for one in kept] for board, kept in boards.boards.items()}


@given(st.permutations(range(N)), st.lists(st.integers(0, N), max_size=9), st.integers(1, 4), st.data())
def test_any_order_and_any_parts_give_the_same(
    order: list[int], cuts: list[int], workers: int, data: st.DataObject
) -> None:
    limits = Limits(data.draw(st.integers(0, 12)), data.draw(st.integers(0, 40)), PLENTY)
    each = [Boards(limits) for _ in range(workers)]
    for part in np.split(np.array(order), sorted(cuts)):
        at = data.draw(st.integers(0, workers - 1))
        each[at] = fed(each[at], part)
    merged = each[0].merge(each[1:])
    assert rows_of(merged) == worst_by_hand(order, limits)
    stored = [Boards.from_bytes(boards.to_bytes()) for boards in each]
    assert Boards(limits).merge(stored) == merged


def test_a_full_board_takes_nothing_that_is_no_worse() -> None:
    limits = Limits(3, 5, PLENTY)
    boards = fed(Boards(limits), np.arange(N))
    there = {row for rows in rows_of(boards).values() for row in rows}
    others = np.array(sorted(set(range(N)) - there))
    assert len(others) > N / 2
    assert select(boards, PLAN, take(ALL, others), SLOTS, KEY[others]) == {}


def test_losses_and_values_are_the_metrics() -> None:
    boards = fed(Boards(Limits(1000, 0, PLENTY)), np.arange(N))
    found = boards.boards[Board(RBO, 0)]
    assert {(one.loss, one.value) for one in found} == {(1.0, 0.0), (0.7, 0.3), (1 - 0.9, 0.9)}


def test_a_board_that_is_not_wanted_is_not_filled() -> None:
    assert fed(Boards(Limits(0, 0, PLENTY)), np.arange(N)).boards == {}
    assert fed(Boards(Limits(0, 4, PLENTY)), np.arange(N)).boards.keys() == {Board(SAMPLE, 0)}


def test_equals_are_chosen_by_chance_and_not_by_who_was_first() -> None:
    """1,000 failures all alike: of 100 experiments' ten worst, about as many come from each tenth of the time."""
    n = 1000
    alike = columns(n, {FAIL: 1.0})
    tenths = np.zeros(10)
    for number in range(100):
        key = keys(seed_of(f"exp-{number}"), 0, np.arange(n) // 100 + 1, np.arange(n) % 100)
        row = {int(one): at for at, one in enumerate(key)}
        for _, found in select(Boards(Limits(10, 0, PLENTY)), PLAN, alike, {}, key)[Board(FAIL, 0)]:
            tenths[row[found.key] // 100] += 1
    assert tenths.sum() == 1000
    assert stats.chisquare(tenths).pvalue > 1e-4


@pytest.mark.parametrize("partition", [0, 1, 1023])
def test_keys_are_each_pairs_own_and_evenly_spread(partition: int) -> None:
    ordinal, position = np.divmod(np.arange(200_000), 1000)
    key = keys(seed_of("exp"), partition, ordinal + 1, position)
    assert len(set(key.tolist())) == len(key)
    assert stats.kstest(key / 2.0**64, "uniform").pvalue > 1e-4
    # Nor does a key say anything of the next.
    assert abs(np.corrcoef(key[:-1] / 2.0**64, key[1:] / 2.0**64)[0, 1]) < 0.01
    other = keys(seed_of("exp"), (partition + 1) % 1024, ordinal + 1, position)
    assert not set(key.tolist()) & set(other.tolist())


SIZES = st.lists(st.integers(1, 50), min_size=30, max_size=30)


@given(SIZES, st.integers(60, 400), st.lists(st.integers(0, 29), max_size=80), st.integers(1, 6))
def test_the_bytes_are_bounded_and_what_was_cut_does_not_come_again(
    sizes: list[int], size: int, order: list[int], parts: int
) -> None:
    boards = Boards(Limits(4, 5, size))
    for part in np.array_split(np.array(order, int), parts):
        batch = {at: (float(at % 5 + 1), at) for at in part.tolist()}
        offered = {
            Board(name, slot): [Found(loss, key, 0.0) for loss, key in batch.values() if (key + slot) % 3]
            for name in ("a", "b")
            for slot in range(2)
        }
        boards = boards.with_found(offered, {key: sizes[key] for key in batch})
        kept = {one.key for several in boards.boards.values() for one in several}
        assert kept == boards.sizes.keys()
        assert sum(boards.sizes.values()) <= size
        assert boards.sizes == {key: sizes[key] for key in kept}
        # What stands on the boards or was cut from them is below the bar, so it is not packed again and again.
        for name in ("a", "b"):
            loss, key = boards.bars(name, 2)
            for board, several in boards.boards.items():
                if board.guardrail == name and len(several) == 4:
                    worst = several[-1]
                    assert (loss[board.slot], key[board.slot]) >= (worst.loss, worst.key)
        assert boards.with_found(offered, {key: sizes[key] for key in batch}) == boards


def test_where_room_is_short_each_board_keeps_its_worst() -> None:
    found = {
        Board(name, slot): [Found(1 - at / 10, 10 * slot + at, 0.0) for at in range(8)]
        for name in "ab"
        for slot in (0, 1)
    }
    boards = Boards(Limits(8, 0, 500), found, dict.fromkeys(range(20), 100))
    assert {board: len(kept) for board, kept in boards.boards.items()} == {
        Board("a", 0): 3, Board("b", 0): 3, Board("a", 1): 2, Board("b", 1): 2
    }  # fmt: skip
    assert all(kept[0].loss == 1.0 for kept in boards.boards.values())


def test_what_one_has_cut_another_does_not_show_in_its_place() -> None:
    board = Board("a", 0)
    short = Boards(
        Limits(8, 0, 250), {board: [Found(1 - at / 10, at, 0.0) for at in range(8)]}, dict.fromkeys(range(8), 100)
    )
    other = Boards(Limits(8, 0, 250), {board: [Found(0.85, 20, 0.0), Found(0.5, 21, 0.0)]}, {20: 1, 21: 1})
    for merged in (short.merge([other]), other.merge([short]), Boards(Limits(8, 0, 999)).merge([other, short])):
        assert [one.loss for one in merged.boards[board]] == [1.0, 0.9, 0.85]


@pytest.mark.parametrize("stored", [b"", b"\xc1", b"\x93\x01\x90", Boards(Limits(1, 1, 1)).to_bytes()[:-1]])
def test_what_is_no_boards_is_refused(stored: bytes) -> None:
    with pytest.raises(PayloadError):
        Boards.from_bytes(stored)


def test_boards_of_a_newer_version_are_refused() -> None:
    stored = Boards(Limits(1, 1, 1)).to_bytes()
    assert stored[1] == 1
    with pytest.raises(PayloadError, match="newer"):
        Boards.from_bytes(stored[:1] + b"\x02" + stored[2:])
