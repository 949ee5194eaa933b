"""What two models disagree in beyond what one disagrees in with itself: the replica A′ takes the noise out.

Baseline A, candidate B. For any agreement of two answers, or their distance,

    excess = agree(A, A′) − ½[agree(A, B) + agree(A′, B)]  =  ½[far(A, B) + far(A′, B)] − far(A, A′)

in [−1, 1] where agreement and distance are in [0, 1], larger = worse. If the three are exchangeable, as they are where
the candidate is the baseline's model once more, each of the three comparisons has the same mean, so the excess has mean
0 whatever noise there is (sampling, ties broken by chance, caches, time). Without any noise it is the plain
disagreement. Only exchangeable triplets have that mean, and so

* a pair that did not go to the replica is not applicable: it must not be mixed in with a plain disagreement. Which ones
  go there must be settled by their requests alone;
* a triplet of which any of the three failed is not applicable, whichever it was: what is left then stays symmetric. Who
  fails more is what `failures.difference` tells.

Undefined where any of the three comparisons is. STATISTICS §5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from shadowproxy.compare.extraction.answer import Answer
from shadowproxy.compare.lists.align import Lists
from shadowproxy.compare.lists.ragged import Floats, Ints
from shadowproxy.compare.lists.triplets import Triplets
from shadowproxy.compare.view import Values, View
from shadowproxy.model import Side


def excess_of_lists(triplets: Triplets, direct: Floats, agreement: Callable[[Lists], Floats]) -> Values:
    """The excess of an agreement of rankings, `direct` that of A and B, shape (n,); undefined where one has no list."""
    noise, other = (np.where(lists.both, agreement(lists), np.nan) for lists in (triplets.noise, triplets.other))
    return _excess(triplets.row, direct, noise, other)


def excess_of_answers(
    view: View, direct: Floats, agreement: Callable[[Sequence[Answer], Sequence[Answer]], Floats]
) -> Values:
    """The excess of an agreement of answers, `direct` that of A and B, shape (n,)."""
    rows = np.flatnonzero(np.zeros(0, np.bool_) if view.replicated is None else view.replicated)
    a, replica, b = (
        [view.answers[side][row] for row in rows.tolist()] for side in (Side.BASELINE, Side.REPLICA, Side.CANDIDATE)
    )
    return _excess(rows, direct, agreement(a, replica), agreement(replica, b))


def _excess(rows: Ints, direct: Floats, noise: Floats, other: Floats) -> Values:
    values, applicable = np.full(len(direct), np.nan), np.zeros(len(direct), np.bool_)
    values[rows] = noise - (direct[rows] + other) / 2
    applicable[rows] = True
    return Values(values, applicable)
