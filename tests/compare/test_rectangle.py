"""Sorting and counting by rows gives what sorting and counting the flat arrays gives."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowproxy.compare.lists import rectangle
from shadowproxy.compare.lists.ragged import inversions, ordered

lists = st.lists(st.lists(st.integers(0, 6), max_size=9), max_size=12)
shapes = [[], [0], [0, 0, 3], [1], [254], [255], [300, 2], [50] * 40, [3, 200, 0, 7], [254, 254], [0, 256, 256]]


def flat(found: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = np.array([len(one) for one in found], np.int64)
    return (
        np.array([value for one in found for value in one], np.int64),
        np.repeat(np.arange(len(found)), lengths),
        lengths,
    )


def counted(found: list[list[int]]) -> list[int]:
    return [sum(a > b for at, a in enumerate(one) for b in one[at + 1 :]) for one in found]


def involved(found: list[list[int]]) -> list[int]:
    """By element, in how many inversions it takes part."""
    return [
        sum(a > value for a in one[:at]) + sum(value > b for b in one[at + 1 :])
        for one in found
        for at, value in enumerate(one)
    ]


def dense(found: list[list[int]]) -> list[list[int]]:
    return [[sorted(set(one)).index(value) for value in one] for one in found]


def check(found: list[list[int]]) -> None:
    value, pair, lengths = flat(found)
    placed = rectangle.order(value / 2, pair, lengths)
    assert sorted(placed.tolist()) == list(range(len(value)))
    assert (pair[placed] == pair).all()
    assert value[placed].tolist() == [inner for one in found for inner in sorted(one)]
    rank = np.array([inner for one in dense(found) for inner in one], np.int64)
    assert inversions(rank, pair, len(found)).tolist() == counted(found)
    # Of a rectangle with room to spare, too.
    if max([*map(len, found), 0]) <= rectangle.SHORT:
        assert rectangle.involved(rank, lengths).tolist() == involved(dense(found))
    by_both(value / 2, pair, lengths)


def by_both(key: np.ndarray, pair: np.ndarray, lengths: np.ndarray) -> None:
    """Sorted by the key and then by another, with the ties of the key told."""
    other = np.random.default_rng(5).integers(0, 3, len(key)).astype(np.float64)
    found = ordered(key, other, pair, lengths)
    assert sorted(found.order.tolist()) == list(range(len(key)))
    told = list(zip(pair[found.order].tolist(), key[found.order].tolist(), other[found.order].tolist(), strict=True))
    assert told == sorted(zip(pair.tolist(), key.tolist(), other.tolist(), strict=True))
    groups = Counter(zip(pair.tolist(), key.tolist(), strict=True))
    assert found.tied.lengths.tolist() == [size for _, size in sorted(groups.items()) if size > 1]
    heads = [told[at][:2] for at in found.tied.starts]
    assert heads == [group for group, size in sorted(groups.items()) if size > 1]
    members = [head for head, size in zip(heads, found.tied.lengths, strict=True) for _ in range(size)]
    assert [told[at][:2] for at in found.tied.places] == members


@settings(max_examples=200, deadline=None)
@given(lists)
def test_lists_of_any_lengths(found: list[list[int]]) -> None:
    check(found)


@pytest.mark.parametrize("lengths", shapes, ids=str)
@pytest.mark.parametrize("levels", [1, 3, 10**6])
def test_lists_around_the_bounds(lengths: list[int], levels: int) -> None:
    draw = np.random.default_rng(len(lengths) + levels)
    check([draw.integers(0, levels, length).tolist() for length in lengths])
    check([list(range(length))[::-1] for length in lengths])


def test_infinite_keys_are_sorted_too() -> None:
    key, pair = np.array([np.inf, 1.0, -np.inf, 2.0, np.inf]), np.array([0, 0, 0, 1, 1])
    assert rectangle.order(key, pair, np.array([3, 2])).tolist() == [2, 1, 0, 3, 4]


def test_ranks_above_the_lengths_are_counted_right() -> None:
    assert inversions(np.array([10**6, 300, 5]), np.zeros(3, np.int64), 1).tolist() == [3]


def test_one_long_list_among_short_ones_makes_no_rectangle() -> None:
    assert not rectangle.fits(np.array([100_000, *[1] * 1000]))
    assert rectangle.fits(np.array([50] * 1000))
    assert rectangle.fits(np.array([], np.int64))
