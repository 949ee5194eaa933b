"""The lists of many pairs as flat arrays: which items are common, and where they stand on either side.

Items are matched once per pair, by a dict from id to place; everything after that is arithmetic on flat arrays, in
which `pair` is the row that an element belongs to, ascending (see `ragged`). Places count from 0.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.extraction.answer import Ranking, spelled
from shadowproxy.compare.lists.ragged import Bools, Floats, Ints, offsets, run_starts
from shadowproxy.model import Side

SIDES = (Side.BASELINE, Side.CANDIDATE)
"""The two sides of a comparison."""


_Number = TypeVar("_Number", np.int64, np.float64)


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


class _Side:
    """The lists of one side, one after the other."""

    def __init__(self) -> None:
        self.lengths = array("q")
        """−1 where there is no list."""
        self.scores = array("d")
        self.scored = True
        """Whether every list has scores."""

    def add(self, ranking: Ranking | None) -> None:
        if ranking is None:
            self.lengths.append(-1)
            return
        ids, scores = ranking
        self.lengths.append(len(ids))
        if scores is None:
            self.scored = False
        else:
            self.scores.fromlist(scores)


class Aligner:
    """Aligns rankings pair by pair, as they are read, and keeps numbers alone of them.

    Ids are strings, the bulk of what is read: forgotten at once, they never leave the processor's cache.
    """

    def __init__(self, *, by_score: bool = False) -> None:
        """`by_score` as in `Lists`."""
        self._by_score = by_score
        self._sides = {side: _Side() for side in SIDES}
        self._in_baseline = array("q")

    def add(self, baseline: Ranking | None, candidate: Ranking | None) -> None:
        """The rankings of one more pair, None where there is none."""
        self._sides[Side.BASELINE].add(baseline)
        self._sides[Side.CANDIDATE].add(candidate)
        if baseline is not None and candidate is not None:
            ours, theirs = baseline.ids, candidate.ids
            if ours and theirs and type(ours[0]) is not type(theirs[0]):
                ours, theirs = spelled(ours), spelled(theirs)
            places: dict[Any, int] = dict(zip(ours, range(len(ours)), strict=True))
            self._in_baseline.fromlist(list(map(places.get, theirs, repeat(-1))))

    @property
    def n(self) -> int:
        """Pairs so far."""
        return len(self._sides[Side.BASELINE].lengths)

    def lists(self) -> Lists:
        """All pairs so far, in their order."""
        lengths = {side: _array(self._sides[side].lengths, np.int64) for side in SIDES}
        known = {side: lengths[side] >= 0 for side in SIDES}
        length = {side: np.maximum(lengths[side], 0) for side in SIDES}
        scores = None
        if all(side.scored for side in self._sides.values()):
            scores = {side: _array(self._sides[side].scores, np.float64) for side in SIDES}
        both = known[Side.BASELINE] & known[Side.CANDIDATE]
        pair, in_candidate = _places(np.where(both, length[Side.CANDIDATE], 0))
        in_baseline = _array(self._in_baseline, np.int64)
        common = in_baseline >= 0
        pair, in_baseline, in_candidate = pair[common], in_baseline[common], in_candidate[common]
        place = {Side.BASELINE: in_baseline, Side.CANDIDATE: in_candidate}
        return Lists(
            n=len(both),
            known=known,
            length=length,
            pair=pair,
            place=place,
            score=None
            if scores is None
            else {side: scores[side][offsets(length[side])[pair] + place[side]] for side in SIDES},
            scores=scores,
            by_score=self._by_score,
        )


def align(rankings: Mapping[Side, Sequence[Ranking | None]], *, by_score: bool = False) -> Lists:
    """Align the two sides' rankings, given in the pairs' order, None where there is none; `by_score` as in `Lists`."""
    aligner = Aligner(by_score=by_score)
    for baseline, candidate in zip(rankings[Side.BASELINE], rankings[Side.CANDIDATE], strict=True):
        aligner.add(baseline, candidate)
    return aligner.lists()


def hits(rankings: Sequence[Ranking | None], truths: Sequence[Mapping[str, float] | None], *, by_score: bool) -> Hits:
    """Where the items of the truths (id → gain > 0) stand in one side's rankings.

    `by_score`: the lists were ordered by their scores, so items with equal (or equally undefined) scores are tied.
    """
    looked = [None if truth is None else ranking for ranking, truth in zip(rankings, truths, strict=True)]
    found: list[float] = []
    for ranking, truth in zip(looked, truths, strict=True):
        if ranking is not None and truth is not None:
            found.extend(map(truth.get, spelled(ranking.ids), repeat(0.0)))
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


def _array(values: array[Any], dtype: type[_Number]) -> NDArray[_Number]:
    """A copy: what is gathered may grow."""
    return np.frombuffer(values, dtype).copy() if values else np.empty(0, dtype)
