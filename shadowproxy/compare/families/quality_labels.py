"""Which of two classifiers is right, where the right labels are known: each against them, and the difference.

The true labels of a pair are one, or a list with one per instance of the request, by place. Instances without one
(null, or past the end of the list) are left out; without any the metrics are not applicable.

* `quality.accuracy`: share of the instances whose label is the true one;
* `quality.brier`: Brier score, ½ Σ (p_k − y_k)² over the labels k, y the 0/1 vector of the true one, mean over the
  instances: in [0, 1], lower is better. With the half it is, for two classes, the usual (p − y)²; Brier's own sum of
  1950 is twice as much;
* `quality.log_loss`: −ln p of the true label, mean over the instances, p held to at least 0.0001, since a statistic of
  the verdict needs a bound: in [0, 9.21] nats, lower is better.

The value is the candidate's less the baseline's; it changes sign when the sides change places.

*What is missing.* An instance that a side has no label (or no probabilities) for is wrong (of the greatest loss), and
so is all of a failed side: an answer that did not come helped nobody. Both failed: 0. Instances that only the answer
has don't count. A true label that a side doesn't name has probability 0 there; what is missing to 1 counts, for the
Brier score, as one more label, which is not the true one. How rows that don't add up to 1 are read: see `instances`.

*Spelling.* Labels are compared as in `labels`, but that true is also 1, and false also 0: whoever writes down the truth
seldom uses the service's own types, and a truth that no answer can meet would call any two services the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from shadowproxy.compare.families.instances import means, shares
from shadowproxy.compare.lists.align import SIDES
from shadowproxy.compare.lists.ragged import Floats, Ints, sums
from shadowproxy.compare.view import Values, View
from shadowproxy.config.catalogue import LEAST_PROBABILITY
from shadowproxy.model import Side

_ALSO = {"true": "1", "1": "true", "false": "0", "0": "false"}
_WORST = {"quality.accuracy": 0.0, "quality.brier": 1.0, "quality.log_loss": -math.log(LEAST_PROBABILITY)}

NAMES = tuple(_WORST)
"""Those of the family that labels and probabilities have."""

_Truths = Sequence[Sequence[str | None] | None]
_Distributions = Sequence[Mapping[str, float]]


def quality_of_labels(view: View, *, label: bool, probabilities: bool) -> Mapping[str, Values]:
    """The metrics of the family `quality` that need labels or probabilities, where the route has them."""
    truths = view.true_labels
    known = np.array([truth is not None for truth in truths], np.bool_)
    worths: dict[str, dict[Side, Floats]] = {}
    for side in SIDES:
        answers = view.answers[side]
        if label:
            found = {"quality.accuracy": accuracy([answer.labels for answer in answers], truths)}
            _add(worths, side, found)
        if probabilities:
            brier, log_loss = losses([answer.probabilities for answer in answers], truths)
            _add(worths, side, {"quality.brier": brier, "quality.log_loss": log_loss})
    values = {}
    for name, worth in worths.items():
        baseline, candidate = (np.where(view.failed[side], _WORST[name], worth[side]) for side in SIDES)
        values[name] = Values(candidate - baseline, view.comparable & known)
    return values


def accuracy(labels: Sequence[Sequence[str | None] | None], truths: _Truths) -> Floats:
    """Share of instances with the right label of one side, by pair; NaN where there is no truth."""
    right: list[bool] = []
    for found, truth in zip(labels, truths, strict=True):
        for at, label in enumerate(truth or ()):
            if label is not None:
                said = found[at] if found is not None and at < len(found) else None
                right.append(said is not None and (said == label or said == _ALSO.get(label)))
    return _by_pair(np.array(right, np.float64), truths)


def losses(rows: Sequence[_Distributions | None], truths: _Truths) -> tuple[Floats, Floats]:
    """(Brier score, log loss) of one side, by pair; NaN where there is no truth."""
    values: list[float] = []
    widths: list[int] = []
    named: list[int] = []
    for found, truth in zip(rows, truths, strict=True):
        for at, label in enumerate(truth or ()):
            if label is not None:
                row = found[at] if found is not None and at < len(found) else {}
                named.append(_place(row, label, len(values)))
                values += row.values()
                widths.append(len(row))
    n = len(widths)
    instance = np.repeat(np.arange(n), widths)
    share, _ = shares(np.array(values, np.float64), instance, n)
    place = np.array(named, np.int64)
    # Place −1, where the label isn't named, is the zero that is appended.
    p = np.append(share, 0.0)[place]
    rest = np.maximum(0.0, 1 - sums(share, instance, n))
    brier = (sums(share * share, instance, n) + rest * rest - 2 * p + 1) / 2
    log_loss = -np.log(np.clip(p, LEAST_PROBABILITY, 1.0))
    return _by_pair(np.clip(brier, 0.0, 1.0), truths), _by_pair(log_loss, truths)


def _place(row: Mapping[str, float], label: str, before: int) -> int:
    """Where the label's probability will stand in the flat values, −1 where the row doesn't name it."""
    name = label if label in row else _ALSO.get(label, label)
    return before + list(row).index(name) if name in row else -1


def _by_pair(values: Floats, truths: _Truths) -> Floats:
    sizes: Ints = np.array([sum(map(_is_label, truth or ())) for truth in truths], np.int64)
    return means(values, np.ones(len(values), np.bool_), sizes)


def _is_label(label: str | None) -> bool:
    return label is not None


def _add(worths: dict[str, dict[Side, Floats]], side: Side, found: Mapping[str, Floats]) -> None:
    for name, worth in found.items():
        worths.setdefault(name, {})[side] = worth
