"""Accuracy, Brier score and log loss against scikit-learn and by hand."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from compare.samples import LISTS, answer, failure, items, pair, value
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.families.quality_labels import accuracy, losses
from shadowproxy.config import Route

ROUTE = Route(name="r", label="response.body.label", probabilities="response.body.p", truth="annotations.truth")
ACCURACY, BRIER, LOG_LOSS = NAMES = ("quality.accuracy", "quality.brier", "quality.log_loss")
WORST = -math.log(1e-4)
CLASSES = ["ant", "bee", "cow"]
CASES = 10_000


def said(label: Any, p: Any) -> Any:
    return answer({"label": label, "p": p})


def compared(baseline: Any, candidate: Any, truth: Any, route: Route = ROUTE) -> list[float | None]:
    columns = Comparer([route])([pair(baseline, candidate, annotations={"truth": truth})])
    return [value(columns, name) for name in NAMES]


def test_each_side_is_worth_what_scikit_learn_says() -> None:
    rng = np.random.default_rng(6)
    truths = [[CLASSES[at] for at in rng.integers(0, 3, rng.integers(1, 4))] for _ in range(CASES)]
    rows = [np.maximum(rng.dirichlet([1, 1, 1], len(truth)), 0.001) for truth in truths]
    rows = [row / row.sum(axis=1, keepdims=True) for row in rows]
    guesses = [[CLASSES[at] for at in row.argmax(axis=1)] for row in rows]
    found = [[dict(zip(CLASSES, one, strict=True)) for one in row.tolist()] for row in rows]
    right, (brier, loss) = accuracy(guesses, truths), losses(found, truths)
    for at in range(0, CASES, 50):
        assert right[at] == pytest.approx(accuracy_score(truths[at], guesses[at]))
        halved = brier_score_loss(truths[at], rows[at], labels=CLASSES, scale_by_half=True)
        assert brier[at] == pytest.approx(halved, abs=1e-12)
        assert loss[at] == pytest.approx(log_loss(truths[at], rows[at], labels=CLASSES), abs=1e-12)
    # All at once: of pairs of one instance the mean over pairs is that over instances.
    one = [at for at in range(CASES) if len(truths[at]) == 1]
    every, guessed, flat = [truths[at][0] for at in one], [guesses[at][0] for at in one], [rows[at][0] for at in one]
    assert right[one].mean() == pytest.approx(accuracy_score(every, guessed))
    assert brier[one].mean() == pytest.approx(brier_score_loss(every, flat, labels=CLASSES, scale_by_half=True))
    assert loss[one].mean() == pytest.approx(log_loss(every, flat, labels=CLASSES))


def test_every_case_is_that_of_a_plain_loop() -> None:
    rng = random.Random(7)

    def row() -> dict[str, float]:
        return {name: rng.choice([0, 1e-9, 0.2, 0.5, 1, -0.1]) for name in rng.sample(CLASSES, rng.randint(1, 3))}

    made = [
        (
            [[row() for _ in range(rng.randint(1, 3))] for _ in range(2)],
            [rng.choices([*CLASSES, None], k=rng.randint(1, 3)) for _ in range(2)],
            rng.choices([*CLASSES, "yak", None], k=rng.randint(0, 3)),
        )
        for _ in range(CASES)
    ]
    columns = Comparer([ROUTE])(
        [pair(*map(said, labels, rows), annotations={"truth": truth}) for rows, labels, truth in made]
    )
    expected = np.array(
        [
            np.subtract(worth(labels[1], rows[1], truth), worth(labels[0], rows[0], truth))
            for rows, labels, truth in made
        ]
    )
    known = [any(truth) for _, _, truth in made]
    for at, name in enumerate(NAMES):
        assert columns.applicable[name].tolist() == known
        np.testing.assert_allclose(columns.values[name], expected[:, at], atol=1e-12)


def worth(labels: list[str | None], rows: list[dict[str, float]], truth: list[str | None]) -> list[float]:
    """(accuracy, Brier score, log loss) of one side by the definitions, instance by instance."""
    found = []
    for at, right in enumerate(truth):
        if right is None:
            continue
        row = rows[at] if at < len(rows) and min(rows[at].values()) >= 0 else {}
        p = {name: share / max(1.0, sum(row.values())) for name, share in row.items()}
        p[""] = 1 - sum(p.values())
        brier = sum((p.get(name, 0) - (name == right)) ** 2 for name in {*p, right}) / 2
        correct = at < len(labels) and labels[at] == right
        found.append([float(correct), brier, -math.log(max(p.get(right, 0), 1e-4))])
    return list(np.mean(found, axis=0)) if found else [math.nan] * 3


@pytest.mark.parametrize(
    ("baseline", "candidate", "truth", "expected"),
    [
        (said("a", {"a": 1}), said("b", {"b": 1}), "a", [-1, 1, WORST]),
        (said("b", {"b": 1}), said("a", {"a": 1}), "a", [1, -1, -WORST]),
        (said("a", {"a": 1}), said("a", {"a": 0.5, "b": 0.5}), "a", [0, 0.25, math.log(2)]),
        (said(1, 0.9), said(0, 0.4), 1, [-1, 0.36 - 0.01, math.log(0.9 / 0.4)]),
        # Two classes: the usual (p − y)².
        (said(1, 0.9), said(0, 0.4), True, [-1, 0.36 - 0.01, math.log(0.9 / 0.4)]),
        (said(True, {"true": 1}), said(False, {"false": 1}), 1, [-1, 1, WORST]),
        # A truth that neither names.
        (said("a", {"a": 1}), said("b", {"b": 0.5, "c": 0.5}), "z", [0, (0.5 + 1) / 2 - 1, 0]),
        # Not one instance more than the truth has; too few are wrong.
        (said(["a", "b"], [{"a": 1}, {"b": 1}]), said(["a", "x"], [{"a": 1}, {"x": 1}]), ["a"], [0, 0, 0]),
        (said(["a", "b"], [{"a": 1}, {"b": 1}]), said(["a"], [{"a": 1}]), ["a", "b"], [-0.5, 0.5, WORST / 2]),
        (said(["a", "b"], [{"a": 1}, {"b": 1}]), said(["x", "b"], [{"x": 1}, {"b": 1}]), [None, "b"], [0, 0, 0]),
        (said("a", {"a": 1}), failure(), "a", [-1, 1, WORST]),
        (failure(), said("a", {"a": 1}), "a", [1, -1, -WORST]),
        (failure(), failure(), "a", [0, 0, 0]),
        (said("a", {"a": 1}), said("a", {"a": -5, "b": 3}), "a", [0, 1, WORST]),
    ],
)
def test_by_hand(baseline: Any, candidate: Any, truth: Any, expected: list[float]) -> None:
    assert compared(baseline, candidate, truth) == pytest.approx(expected, abs=1e-12)
    assert compared(candidate, baseline, truth) == pytest.approx([-one for one in expected], abs=1e-12)


@pytest.mark.parametrize("truth", [None, [], {"a": 1}, [None], 0.5, [[]]])
def test_without_a_true_label_nothing_is_applicable(truth: Any) -> None:
    assert compared(said("a", {"a": 1}), failure(), truth) == [None] * 3


def test_beside_lists_an_object_is_their_truth_and_anything_else_the_labels() -> None:
    route = Route.model_validate({**LISTS.model_dump(), "label": "response.body.label"})
    sides = [answer({**items(names), "label": label}) for names, label in ((["a", "b"], "x"), (["b", "a"], "y"))]
    made = [pair(*sides, annotations={"truth": truth}) for truth in ("x", ["x"], {"a": 1})]
    columns = Comparer([route])(made)
    assert columns.applicable[ACCURACY].tolist() == [True, True, False]
    assert columns.applicable["quality.ndcg"].tolist() == [False, False, True]
    assert columns.values[ACCURACY][:2].tolist() == [-1, -1]
    assert columns.values["quality.recall"][2] == 0
    assert columns.values["quality.reciprocal_rank"][2] == -0.5
