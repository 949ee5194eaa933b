"""Labels and probabilities of the two sides: against plain loops, scikit-learn's confusion matrix, and by hand."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest
from compare.samples import answer, failure, pair, value
from sklearn.metrics import accuracy_score, confusion_matrix

from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Route

AGREEMENT, SHIFT = "labels.agreement", "labels.probability_shift"
LABELS = Route(name="r", label="response.body")
ROWS = Route(name="r", probabilities="response.body")
CLASSES = ["cat", "dog", "emu", "fox"]
CASES = 10_000


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("spam", "spam", 1),
        ("spam", "Spam", 0),
        (1, "1", 1),
        (1.0, 1, 1),
        (True, "true", 1),
        (True, 1, 0),
        (["a", "b"], ["a", "c"], 1 / 2),
        (["a", "b", "c"], ["a"], 1 / 3),
        (["a"], ["a", "b", "c"], 1 / 3),
        (["a", None], ["a", "b"], 1 / 2),
        (["a", None], ["a", None], 1),
        (["a", None], ["a"], 1),
        ([None], [None], math.nan),
        (0.5, 0.7, math.nan),
        ({}, "a", 0),
        ([], [], 1),
        ([], ["a"], 0),
        (["a"], [], 0),
    ],
)
def test_agreement_by_hand(a: Any, b: Any, expected: float) -> None:
    route = Route(name="r", label="response.body.x")
    for x, y in ((a, b), (b, a)):
        columns = Comparer([route])([pair(answer({"x": x}), answer({"x": y}))])
        assert value(columns, AGREEMENT) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0.5, 0.5], [0.5, 0.5], 0),
        ([1, 0], [0, 1], 1),
        ([0.75, 0.25], 0.5, 0.25),
        ({"a": 0.7, "b": 0.3}, {"b": 0.3, "a": 0.7}, 0),
        ({"a": 1}, {"b": 1}, 1),
        ({"a": 0.6, "b": 0.4}, {"a": 0.6, "c": 0.4}, 0.4),
        # Cut short: the rest of either may be the same.
        ({"a": 0.5}, {"a": 0.3}, 0.2),
        ({"a": 0.5}, {"b": 0.5}, 0.5),
        # More than 1: divided by the sum.
        ([2, 2], [0.5, 0.5], 0),
        ([0.9, 0.9], [0.9, 0.1], 0.4),
        ([1e308, 1e308, 1e308], [1, 1, 1], 0),
        # No probabilities.
        ([-1, 2], [0.5, 0.5], 1),
        ([-1, 2], [3, -4], math.nan),
        # Several instances.
        ([[1, 0], [0, 1]], [[1, 0], [1, 0]], 0.5),
        ([[1, 0], [0, 1]], [[1, 0]], 0.5),
        ([[1, 0], [-1, 1]], [[0, 1], [0, -1]], 1),
        ([0, 0], [1, 0], 1),
    ],
)
def test_shift_by_hand(a: Any, b: Any, expected: float) -> None:
    for x, y in ((a, b), (b, a)):
        columns = Comparer([ROWS])([pair(answer(x), answer(y))])
        assert value(columns, SHIFT) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_agreement_is_the_accuracy_of_one_against_the_other() -> None:
    rng = random.Random(3)
    sides = [
        [rng.choices(CLASSES, k=size) for size in sizes] for sizes in [[rng.randint(1, 4) for _ in range(CASES)]] * 2
    ]
    columns = Comparer([LABELS])([pair(answer(a), answer(b)) for a, b in zip(*sides, strict=True)])
    # One to four labels in a row: the mean of matches, as in scikit-learn's accuracy of each pair.
    for at in range(0, CASES, 100):
        assert columns.values[AGREEMENT][at] == pytest.approx(accuracy_score(sides[0][at], sides[1][at]))
    expected = [sum(x == y for x, y in zip(a, b, strict=True)) / len(a) for a, b in zip(*sides, strict=True)]
    np.testing.assert_allclose(columns.values[AGREEMENT], expected)


def test_shift_is_that_of_a_plain_loop() -> None:
    rng = random.Random(4)

    def row() -> dict[str, float]:
        return {name: rng.random() ** 3 for name in rng.sample(CLASSES, rng.randint(1, 4))}

    sides = [[[row() for _ in range(rng.randint(1, 3))] for _ in range(CASES)] for _ in range(2)]
    columns = Comparer([ROWS])([pair(answer(a), answer(b)) for a, b in zip(*sides, strict=True)])
    expected = [np.mean(list(map(moved, a, b)) + [1.0] * abs(len(a) - len(b))) for a, b in zip(*sides, strict=True)]
    np.testing.assert_allclose(columns.values[SHIFT], expected, atol=1e-12)


def moved(a: dict[str, float], b: dict[str, float]) -> float:
    """Half the sum of differences, with all that isn't named as a label of its own."""
    p, q = ({name: one / max(1.0, sum(row.values())) for name, one in row.items()} for row in (a, b))
    p[""], q[""] = 1 - sum(p.values()), 1 - sum(q.values())
    return sum(abs(p.get(name, 0) - q.get(name, 0)) for name in {*p, *q}) / 2


def test_a_failed_side_agrees_with_nothing() -> None:
    route = Route(name="r", label="response.body.label", probabilities="response.body.p")
    good = answer({"label": "a", "p": {"a": 1}})
    sides = [(good, failure()), (failure(), good), (failure(), failure()), (good, answer({"p": {"a": 1}}))]
    columns = Comparer([route])([pair(a, b) for a, b in sides])
    assert columns.values[AGREEMENT].tolist() == [0] * 4
    assert columns.values[SHIFT].tolist() == [1] * 4
    assert not columns.tables


def test_the_table_is_scikit_learns_confusion_matrix() -> None:
    rng = random.Random(5)
    sides = [[rng.choices(CLASSES, weights=[5, 3, 2, 1], k=3) for _ in range(3000)] for _ in range(2)]
    columns = Comparer([LABELS])([pair(answer(a), answer(b)) for a, b in zip(*sides, strict=True)])
    expected = confusion_matrix(*(list(chain.from_iterable(side)) for side in sides), labels=CLASSES)
    pairs = Counter(
        key for a, b in zip(*sides, strict=True) for key in {f"{x} → {y}" for x, y in zip(a, b, strict=True)}
    )
    assert len(columns.tables) == 16
    for route, counts in columns.tables:
        assert (route, counts.table, counts.width) == (0, "labels", 2)
        a, b = counts.key.split(" → ")
        assert (counts.column == 1).sum() == expected[CLASSES.index(a), CLASSES.index(b)]
        assert (counts.column == 0).sum() == pairs[counts.key]
        said = {at for at in counts.pair.tolist() if (a, b) in zip(sides[0][at], sides[1][at], strict=True)}
        assert said == set(counts.pair.tolist())


def test_what_is_no_label_has_a_name_in_the_table_and_long_ones_are_cut() -> None:
    columns = Comparer([LABELS])([pair(answer([None, "x" * 99]), answer(["a\x00/\nb", "y", "z"]))])
    keys = [counts.key for _, counts in columns.tables]
    assert keys == ["(none) → a_/_b", f"{'x' * 64} → y", "(none) → z"]


def test_a_batch_of_free_text_for_labels_does_not_flood_the_table() -> None:
    columns = Comparer([LABELS])([pair(answer([f"{at}" for at in range(3000)]), answer(["b"] * 3000))] * 2)
    assert len(columns.tables) == 1001
    other = columns.tables[-1].counts
    assert (other.key, np.bincount(other.column).tolist()) == ("other", [2, 4000])
