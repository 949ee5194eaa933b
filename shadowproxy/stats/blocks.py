"""Block means: losses that depend on their neighbours, averaged over stretches of time before they are bet on.

Where a loss depends on those shortly before it, the means of stretches much longer than that (ten correlation times)
hardly depend on each other, and the e-processes may bet on them: Y = ΣD/n of each block, in [lo, hi] as D is. The price
is that a block is one observation however many pairs are in it: a decision takes about ln(2/α)/d of them.

*What adds up and what doesn't.* A block's pairs are spread over workers. n and ΣD add; log1p(λ(Y − d)) doesn't, and
must be taken of the whole block, once. So the state keeps (n, ΣD) by block, and `folded` turns the sum over all workers
into log-capitals at every reading: the same figures every time, since the sums of a closed block don't change.

*Why the number of blocks is bounded, and how that stays valid.* A state can't keep a sum for every ten seconds of a
month. Forgetting old blocks would make E another process at every step, with no bound over all of them; merging them
when there are too many makes a new process each time, and each needs a share of α. Instead the blocks are longer from
the outset the further they lie from the experiment's beginning: `STAGE` of the length asked for, `STAGE` of twice that,
and so on, so that twice the time costs `STAGE` more. Which block a pair is in depends on its start time alone, by a
table that is fixed before the first pair. The sequence Y₁, Y₂, … is then one sequence of bounded losses, and E over it
one e-process: nothing in its proof wants the Y to be of equally many pairs, or of equal stretches. What it bounds is
the running mean *over blocks* of the conditional means: an early hour counts more than a late one.

The beginning is set once for all workers, and needn't be exact: the table runs backwards likewise, for pairs that began
before it.

*What it can't do.* Pairs that come after their block was closed (a spool delivered after an outage) change a Y that was
bet on. They come for reasons that have nothing to do with outcomes, so each reading is valid for itself, but the
guarantee over all readings is one for those before and one for those after. And an account that returns for days makes
far blocks dependent too: that has a remedy of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shadowproxy.stats.additive import FloatArray, IntArray, State
from shadowproxy.stats.betting import UNDEFINED, MeanGrid
from shadowproxy.stats.inflation import GROUPS

STAGE: Final = 512
"""Blocks of one length, in each direction."""
_STAGES: Final = 24
MOST: Final = STAGE * _STAGES
"""Blocks in each direction; all the time beyond belongs to the last. With blocks of 1 s that is 270 years."""
COUNT, SUM = range(2)


@dataclass(frozen=True)
class Schedule:
    """Which block a start time is in. Block i ≥ 0 lies after `origin` (Unix seconds), i < 0 before it.

    `length` is that of the blocks next to the origin, seconds. Raises ValueError unless both are finite and it is
    positive.

    >>> schedule = Schedule(10.0, origin=1000.0)
    >>> schedule.index(np.array([999.0, 1000.0, 1009.9, 1010.0, 6120.0, 6139.9, 6140.0])).tolist()
    [-1, 0, 0, 1, 512, 512, 513]
    >>> schedule.end(np.array([0, 512])).tolist()
    [1010.0, 6140.0]
    """

    length: float
    origin: float
    _edges: FloatArray = field(init=False, repr=False, compare=False)
    """Where blocks begin, in lengths from the origin: whole numbers, exact. (2·MOST + 1,)"""

    def __post_init__(self) -> None:
        if not (self.length > 0 and math.isfinite(self.length) and math.isfinite(self.origin)):
            raise ValueError(f"blocks of {self.length} s from {self.origin} can't be kept")
        lengths = np.repeat(2.0 ** np.arange(_STAGES), STAGE)
        after = np.cumsum(lengths)
        object.__setattr__(self, "_edges", np.concatenate([-after[::-1], [0.0], after]))

    def index(self, started: FloatArray) -> IntArray:
        """The block of each start time (Unix seconds): (n,), each from −MOST to MOST − 1."""
        lengths = (np.asarray(started, np.float64) - self.origin) / self.length
        return np.clip(np.searchsorted(self._edges, lengths, side="right") - 1 - MOST, -MOST, MOST - 1)

    def end(self, block: IntArray) -> FloatArray:
        """Unix time at which each block ends."""
        return np.asarray(self.origin + self.length * self._edges[np.asarray(block) + MOST + 1], np.float64)


def means(sums: FloatArray, closed: NDArray[np.bool_]) -> FloatArray:
    """Y of each block and slot: (blocks, slots, 2) → (blocks, slots). NaN where the block isn't closed, or has no pair.

    `sums` are of all workers; a row is [n, ΣD] (with weights [Σw, ΣwD]). `closed` (blocks,) says of which blocks all
    pairs are counted.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(closed[:, np.newaxis] & (sums[..., COUNT] > 0), sums[..., SUM] / sums[..., COUNT], np.nan)


def folded(grid: MeanGrid, sums: FloatArray, closed: NDArray[np.bool_]) -> State:
    """What `grid` holds after one loss per closed block: (blocks, slots, 2), (blocks,) → (slots, grid.width).

    Arguments as of `means`. A block without pairs is no loss, and none is undefined.

    >>> grid = MeanGrid(-1, 1, 0.02)
    >>> state = folded(grid, np.array([[[4.0, 2.0]], [[2.0, 0.0]], [[9.0, 9.0]]]), np.array([True, True, False]))
    >>> state[0, :4].tolist()
    [2.0, 0.0, 0.5, 0.25]
    """
    losses = means(sums, closed)
    state = grid.empty(sums.shape[1])
    for slot in range(sums.shape[1]):
        state[slot] = grid.rows(losses[~np.isnan(losses[:, slot]), slot]).sum(axis=0)
    state[:, UNDEFINED] = 0.0
    return state


def run_keys(blocks: IntArray, run: int) -> FloatArray:
    """Keys for `VarianceInflation` over block means: the same for `run` blocks in a row; (blocks,).

    Whether blocks are long enough: if they are, their means have no inflation in runs of several.

    >>> run_keys(np.array([-1, 0, 3, 4]), 4).tolist()
    [255.0, 0.0, 0.0, 1.0]
    """
    return np.asarray(np.mod(np.floor_divide(blocks, run), GROUPS), np.float64)
