"""Agreement of two classifiers: what A (baseline) and B (candidate) say of the instances of a request, and how surely.

| metric | definition | no instances on either side | on one side |
| --- | --- | --- | --- |
| `labels.agreement` | share of the instances for which A and B have the same label | 1 | 0 |
| `labels.probability_shift` | total variation distance of the two distributions, mean over the instances | 0 | 1 |

*Instances* are matched by their place in the answer; there are as many as in the longer one. An instance for which only
one side has a label (or probabilities) is as far apart as can be; one for which neither has is left out, and where none
is left the metric is undefined.

*Labels* are the same when their texts are: "1" and 1 are, "Spam" and "spam" are not, nor are 1 and true.

*Total variation distance* is the probability that must be moved to make one distribution the other,
max(Σ max(0, p − q), Σ max(0, q − p)), over the labels of either; a label that a side doesn't name has probability 0
there. For distributions that name every label the two sums are the same, ½ Σ|p − q| (Levin, Peres & Wilmer 2017,
Proposition 4.2). What is missing to 1 belongs to labels that aren't named and counts as common to both, so of answers
that are cut short it is the least that it can be. How rows that don't add up to 1 are read: see `instances`.

*Failed sides.* Where either side failed, or both, the agreement is 0 and the shift 1, as with rankings.

`labels.agreement_excess` and `labels.probability_shift_excess` are what A and B disagree in, and how far they are
apart, beyond A's own noise, for pairs that the replica answered too (see `excess`).

*The table* `labels` is the confusion matrix of the two, by `BASELINE → CANDIDATE`: the pairs in which that occurs, and
the instances. Pairs with a failed side are not in it. `(none)` stands for what is no label; of a label only the first
64 characters count there, unprintable ones as `_`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat

import numpy as np

from shadowproxy.compare.extraction.answer import Answer
from shadowproxy.compare.families.excess import excess_of_answers
from shadowproxy.compare.families.instances import aligned, means, shares
from shadowproxy.compare.lists.align import SIDES
from shadowproxy.compare.lists.ragged import Bools, Floats, sums
from shadowproxy.compare.view import Counts, Values, View

_SHOWN = 64
"""Characters of a label in the table: it becomes a key of stored sums."""
_MOST = 1000
"""Keys that one batch brings along; the verdict tells fewer apart anyway."""
_PAIRS, _INSTANCES = 0, 1

_Distributions = Sequence[Mapping[str, float]]


def labels(view: View) -> Mapping[str, Values]:
    """The family `labels`; nothing where the route has neither labels nor probabilities."""
    found = {}
    failed = view.any_failed
    if view.route is not None and view.route.label is not None:
        value = _agreement(*(view.answers[side] for side in SIDES))
        found["labels.agreement"] = Values(np.where(failed, 0.0, value), view.comparable)
        if view.replicated is not None:
            found["labels.agreement_excess"] = excess_of_answers(view, value, _agreement)
    if view.route is not None and view.route.probabilities is not None:
        value = _shift(*(view.answers[side] for side in SIDES))
        found["labels.probability_shift"] = Values(np.where(failed, 1.0, value), view.comparable)
        if view.replicated is not None:
            found["labels.probability_shift_excess"] = excess_of_answers(view, -value, lambda a, b: -_shift(a, b))
    return found


def agreement(
    baseline: Sequence[Sequence[str | None] | None], candidate: Sequence[Sequence[str | None] | None]
) -> Floats:
    """Share of instances with the same label, by pair."""
    a, b, sizes = aligned(baseline, candidate)
    same = np.array([x == y for x, y in zip(a, b, strict=True)], np.float64)
    known = np.array([x is not None or y is not None for x, y in zip(a, b, strict=True)], np.bool_)
    return np.where(sizes == 0, 1.0, means(same, known, sizes))


def probability_shift(baseline: Sequence[_Distributions | None], candidate: Sequence[_Distributions | None]) -> Floats:
    """Total variation distance of the distributions, mean over the instances, by pair."""
    a, b, sizes = aligned(baseline, candidate)
    p: list[float] = []
    q: list[float] = []
    widths = []
    for x, y in zip(map(_or_nothing, a), map(_or_nothing, b), strict=True):
        p += x.values()
        q += map(y.get, x, repeat(0.0))
        more = [] if x.keys() == y.keys() else [value for label, value in y.items() if label not in x]
        p += repeat(0.0, len(more))
        q += more
        widths.append(len(x) + len(more))
    instance = np.repeat(np.arange(len(a)), widths)
    from_a, of_a = shares(np.array(p, np.float64), instance, len(a))
    from_b, of_b = shares(np.array(q, np.float64), instance, len(a))
    of_a &= _there(a)
    of_b &= _there(b)
    moved = np.maximum(
        sums(np.maximum(from_a - from_b, 0.0), instance, len(a)),
        sums(np.maximum(from_b - from_a, 0.0), instance, len(a)),
    )
    distance = np.where(of_a & of_b, np.clip(moved, 0.0, 1.0), 1.0)
    return np.where(sizes == 0, 0.0, means(distance, of_a | of_b, sizes))


def confusions(view: View) -> Iterator[Counts]:
    """The table `labels`: how often what became what."""
    if view.route is None or view.route.label is None:
        return
    pairs = np.flatnonzero(view.comparable & ~view.any_failed)
    a, b, sizes = aligned(*([view.answers[side][at].labels for at in pairs.tolist()] for side in SIDES))
    shown = _keys(a, b)
    names = {key: number for number, (key, _) in enumerate(Counter(shown).most_common(_MOST))}
    kinds = list(names)
    number = np.array([names.get(key, len(kinds)) for key in shown], np.int64)
    pair = np.repeat(pairs, sizes)
    order = np.argsort(number, kind="stable")
    cuts = np.searchsorted(number[order], np.arange(len(kinds) + 2))
    for at, key in enumerate([*kinds, "other"]):
        instances = pair[order[cuts[at] : cuts[at + 1]]]
        if len(instances):
            once = np.unique(instances)
            column = np.repeat([_PAIRS, _INSTANCES], [len(once), len(instances)])
            yield Counts("labels", key, np.concatenate([once, instances]), column, 2)


def _keys(baseline: Iterable[str | None], candidate: Iterable[str | None]) -> list[str]:
    texts: dict[str | None, str] = {}

    def text(label: str | None) -> str:
        if label not in texts:
            cut = "(none)" if label is None else label[:_SHOWN]
            texts[label] = "".join(character if character.isprintable() else "_" for character in cut)
        return texts[label]

    return [f"{text(a)} → {text(b)}" for a, b in zip(baseline, candidate, strict=True)]


def _agreement(baseline: Sequence[Answer], candidate: Sequence[Answer]) -> Floats:
    return agreement([answer.labels for answer in baseline], [answer.labels for answer in candidate])


def _shift(baseline: Sequence[Answer], candidate: Sequence[Answer]) -> Floats:
    return probability_shift(
        [answer.probabilities for answer in baseline], [answer.probabilities for answer in candidate]
    )


def _or_nothing(row: Mapping[str, float] | None) -> Mapping[str, float]:
    return row or {}


def _there(found: Sequence[object]) -> Bools:
    return np.array([one is not None for one in found], np.bool_)
