"""The lists of those pairs that the replica answered too, aligned three ways. Baseline A, replica A′, candidate B."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np

from shadowproxy.compare.extraction.answer import Ranking
from shadowproxy.compare.lists.align import Aligner, Lists
from shadowproxy.compare.lists.ragged import Ints


@dataclass(frozen=True, slots=True)
class Triplets:
    """The rankings of those m of n pairs that have all three."""

    row: Ints
    """Shape (m,): which of the pairs, ascending."""
    noise: Lists
    """A against A′, which stands on the candidate's side."""
    other: Lists
    """A′, which stands on the baseline's side, against B."""


class TripletAligner:
    """Aligns A with A′ and A′ with B; A with B is aligned for all pairs alike. As `Aligner`, pair by pair."""

    def __init__(self, *, by_score: bool) -> None:
        self._rows = array("q")
        self._noise, self._other = Aligner(by_score=by_score), Aligner(by_score=by_score)

    def add(self, row: int, baseline: Ranking | None, replica: Ranking | None, candidate: Ranking | None) -> None:
        """The rankings of one more triplet, None where there is none."""
        self._rows.append(row)
        self._noise.add(baseline, replica)
        self._other.add(replica, candidate)

    def triplets(self) -> Triplets:
        """All triplets so far, in their order."""
        return Triplets(np.array(self._rows, np.int64), self._noise.lists(), self._other.lists())
