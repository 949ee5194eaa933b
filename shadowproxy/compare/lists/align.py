"""The lists of many pairs as flat arrays: which items are common, and where they stand on either side.

Items are matched once per pair, by a dict from id to place; everything after that is arithmetic on flat arrays, in
which `pair` is the row that an element belongs to, ascending (see `ragged`). Places count from 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import numpy as np

from shadowproxy.compare.extraction.answer import Ranking
from shadowproxy.compare.lists.ragged import Bools, Floats, Ints, offsets, run_starts
from shadowproxy.model import Side

SIDES = (Side.BASELINE, Side.CANDIDATE)
"""The two sides of a comparison."""


@dataclass(frozen=True, slots=True)
class Lists:
    """The rankings of n pairs, aligned."""

    n: int
    known: Mapping[Side, Bools]
    """Shape (n,): whether that side has a list at all."""
    length: Mapping[Side, Ints]
    """Shape (n,): its length; 0 where it has none."""
    pair: Ints
    """Shape (c,), c common items of all pairs: the row; within a row the items stand in the candidate's order."""
    place: Mapping[Side, Ints]
    """Shape (c,): the common item's place on that side."""
    score: Mapping[Side, Floats] | None
    """Shape (c,): its score on that side; None where the route has no scores."""
    scores: Mapping[Side, Floats] | None = None
    """The scores of all items of that side, common or not, list by list in its order; None likewise."""
    by_score: bool = False
    """Whether the lists are ordered by their scores, so that items with equal ones are tied (see `tied_places`)."""

    @property
    def both(self) -> Bools:
        """Shape (n,): whether both sides have a list."""
        return self.known[Side.BASELINE] & self.known[Side.CANDIDATE]

    def items(self, side: Side) -> tuple[Ints, Ints]:
        """(row, place) of all items of one side, common or not, as `scores` has them."""
        return _places(self.length[side])

    def at(self, side: Side) -> Ints:
        """Shape (c,): where the common items stand among all `items` of one side."""
        found: Ints = offsets(self.length[side])[self.pair] + self.place[side]
        return found

    def ranges(self, side: Side) -> tuple[Ints, Ints]:
        """(first, last) place that each of all items of one side may take: its own, or its tied group's."""
        pair, place = self.items(side)
        return tied_places(pair, place, self.scores[side] if self.by_score and self.scores is not None else None)


@dataclass(frozen=True, slots=True)
class Hits:
    """The items of one side's lists that are in the truth.

    `first` and `last` are the places that the item may take: the same place, but for lists that are ordered by
    scores, where tied items stand in no order and share a range of places.
    """

    pair: Ints
    gain: Floats
    first: Ints
    last: Ints


def align(rankings: Mapping[Side, Sequence[Ranking | None]], *, by_score: bool = False) -> Lists:
    """Align the two sides' rankings, given in the pairs' order, None where there is none; `by_score` as in `Lists`."""
    baseline, candidate = rankings[Side.BASELINE], rankings[Side.CANDIDATE]
    lengths = {side: _lengths(rankings[side]) for side in SIDES}
    found: list[int] = []
    for a, b in zip(baseline, candidate, strict=True):
        if a is not None and b is not None:
            found.extend(map(dict(zip(a.ids, range(len(a.ids)), strict=True)).get, b.ids, repeat(-1)))
    both = np.array([a is not None and b is not None for a, b in zip(baseline, candidate, strict=True)], np.bool_)
    sizes = np.where(both, lengths[Side.CANDIDATE], 0)
    in_baseline = np.array(found, np.int64)
    pair, in_candidate = _places(sizes)
    common = in_baseline >= 0
    pair, in_baseline, in_candidate = pair[common], in_baseline[common], in_candidate[common]
    place = {Side.BASELINE: in_baseline, Side.CANDIDATE: in_candidate}
    scores = _scores(rankings)
    return Lists(
        n=len(baseline),
        known={side: np.array([ranking is not None for ranking in rankings[side]], np.bool_) for side in SIDES},
        length=lengths,
        pair=pair,
        place=place,
        score=None
        if scores is None
        else {side: scores[side][offsets(lengths[side])[pair] + place[side]] for side in SIDES},
        scores=scores,
        by_score=by_score,
    )


def hits(rankings: Sequence[Ranking | None], truths: Sequence[Mapping[str, float] | None], *, by_score: bool) -> Hits:
    """Where the items of the truths (id → gain > 0) stand in one side's rankings.

    `by_score`: the lists were ordered by their scores, so items with equal (or equally undefined) scores are tied.
    """
    looked = [None if truth is None else ranking for ranking, truth in zip(rankings, truths, strict=True)]
    found: list[float] = []
    for ranking, truth in zip(looked, truths, strict=True):
        if ranking is not None and truth is not None:
            found.extend(map(truth.get, ranking.ids, repeat(0.0)))
    gain = np.array(found, np.float64)
    pair, place = _places(_lengths(looked))
    first, last = tied_places(pair, place, _flat_scores(looked) if by_score else None)
    hit = gain > 0
    return Hits(pair[hit], gain[hit], first[hit], last[hit])


def tied_places(pair: Ints, place: Ints, score: Floats | None) -> tuple[Ints, Ints]:
    """(first, last) place that each item may take, in lists that are ordered by these scores; undefined ones are tied.

    None for lists that are not: each item has its own place.
    """
    if score is None:
        return place, place
    known = np.nan_to_num(score, nan=-np.inf)
    starts = run_starts(pair, known)
    sizes = np.diff(starts, append=len(pair))
    first = np.repeat(place[starts], sizes)
    return first, first + np.repeat(sizes - 1, sizes)


def _lengths(rankings: Iterable[Ranking | None]) -> Ints:
    return np.array([0 if ranking is None else len(ranking.ids) for ranking in rankings], np.int64)


def _places(lengths: Ints) -> tuple[Ints, Ints]:
    """Row and place of every element of lists of these lengths."""
    pair = np.repeat(np.arange(len(lengths)), lengths)
    return pair, np.arange(len(pair)) - offsets(lengths)[pair]


def _flat_scores(rankings: Iterable[Ranking | None]) -> Floats:
    lists = [ranking.scores for ranking in rankings if ranking is not None and ranking.scores is not None]
    return np.array(list(chain.from_iterable(lists)), np.float64)


def _scores(rankings: Mapping[Side, Sequence[Ranking | None]]) -> Mapping[Side, Floats] | None:
    if any(ranking.scores is None for side in SIDES for ranking in rankings[side] if ranking is not None):
        return None
    return {side: _flat_scores(rankings[side]) for side in SIDES}
