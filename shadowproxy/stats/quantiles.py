"""Paired latency quantiles: is the candidate's p-quantile below m times the baseline's, or above?

Latencies are put into buckets of ratio γ = m^(1/s), so that m is exactly s buckets: bucket i holds (x₀γ^(i−1), x₀γ^i]
for i = 1 … K − 1, and K is +∞, a failure or a timeout. a and b are the buckets of a pair, F_A and F_B the shares at or
below a bucket. If the baseline's quantile lay in bucket k, F_A(k) ≥ p > F_A(k − 1), these would be e-processes:

    G1  binomial, against F_A(k) ≥ p                    G2  binomial, against F_A(k − 1) ≤ p
    non-inferiority (H0: q_B ≥ m·q_A > x₀γ^(k−1+s), so F_B(k + s − 1) < p):
        P  ternary, against a mean ≥ 0 of 1{a ≤ k} − 1{b ≤ k + s − 1}    Q  binomial, against F_B(k + s − 1) ≤ p
    harm (H0: q_B ≤ m·q_A ≤ x₀γ^(k+s), so F_B(k + s) ≥ p):
        P  ternary, against a mean ≤ 0 of 1{a ≤ k − 1} − 1{b ≤ k + s}    Q  binomial, against F_B(k + s) ≥ p
    E_k = .1 G1 + .1 G2 + .4 P + .4 Q;      E = min(10⁶, min over k = 1 … K of E_k)

k is unknown, but E is at most E_k at the true one, and that has a mean of at most 1 under H0. What is proven is the
ratio of the quantiles themselves, not of buckets: the index k − 1 and the shift s − 1 see to that, atoms included.

Three places need care. Nothing relative can be said of an infinite quantile: E_K has 1 for P and Q. A candidate's
latency beyond the deadline T is not seen, so neither can harm be told where x₀γ^(k+s) > T: P = Q = 1 too. And latencies
below x₀ count as x₀.

The guarantee is for a baseline whose quantile (of the mixture of all pairs so far) stays in one bucket. If it wanders,
the bound multiplies by the buckets visited.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shadowproxy.stats.additive import Additive, FloatArray, Grouping, IntArray, State
from shadowproxy.stats.counts import (
    STAKE,
    Bets,
    binomial_bets,
    binomial_log_e,
    binomial_logs,
    excluding_successes,
    geometric_bets,
    log_mixture,
    ternary_logs,
)
from shadowproxy.stats.forecast import more_until

BoolArray = NDArray[np.bool_]

BLOCK = 64
"""Bins in a block of the sparse form."""
QUANTILES = (0.5, 0.9, 0.99)
"""What `RatioGrid.get` gives."""

_ARRAYS = 6
_LOG_CAP = math.log(1e6)
_LOG_WEIGHTS = np.log([0.1, 0.1, 0.4, 0.4])
"""Of G1, G2, P, Q."""
_COUNTED = np.array([0, 0, 2, 1, 4, 1])
"""Of a state's arrays, the one in which each part's first count is: G1, G2, P and Q of non-inferiority, of harm."""
_AT_ONCE = 1 << 14
"""Values of k evaluated at once, 600 bytes each."""
_EDGE = 1e-9
"""Of a bucket: by so much may a latency lie above an edge and be held to be on it, so that x and m·x, both on an edge,
are s buckets apart whatever their logarithms are rounded to."""


@dataclass(frozen=True)
class RatioGrid(Additive):
    """The two e-processes of a margin m on the ratio of latency quantiles, for any quantile and number of slots.

    A state row is six arrays of `bins`, side by side: how many baseline and candidate latencies fell into each bucket,
    then, for the shifts σ = s − 1 and s + 1 in turn, the differences of n₊ and n₋: their running sums are, at k, how
    many pairs have a ≤ k and not b ≤ k + σ, and how many the reverse. A pair without both latencies is not counted.

    Raises ValueError for a ratio of 1 or less, and for a deadline that is not beyond the shortest latency.

    >>> grid = RatioGrid(1.1, deadline=10.0)
    >>> grid.top, grid.index(np.array([0.05, 0.055, 20.0, math.inf, math.nan])).tolist()
    (1220, [653, 663, 1219, 1220, -1])
    >>> equal = grid.fold(np.full((100, 2), 0.05), Grouping.single(100))
    >>> ni, harm = grid.log_e(equal, 0.5)
    >>> bool(ni[0] > math.log(20)), bool(harm[0] < 0)
    (True, True)
    """

    dtype: ClassVar[type[np.float64 | np.int64]] = np.int64

    ratio: float
    """m > 1: 1.1 tolerates a quantile 10% longer."""
    deadline: float
    """T in seconds: the longest finite latency that the candidate can have."""
    shortest: float = 1e-4
    """x₀ in seconds: shorter latencies count as this one."""
    steps: int = 10
    """s: buckets in one ratio m."""
    gamma: float = field(init=False, repr=False, compare=False)
    top: int = field(init=False, repr=False, compare=False)
    """K, the bucket of +∞."""

    def __post_init__(self) -> None:
        if not 1 < self.ratio < math.inf or self.steps < 1:
            raise ValueError(f"a ratio of {self.ratio:g} in {self.steps} steps is no margin: it must be above 1")
        if not 0 < self.shortest < self.deadline < math.inf:
            raise ValueError(f"no latency lies between {self.shortest:g} s and a deadline of {self.deadline:g} s")
        object.__setattr__(self, "gamma", self.ratio ** (1 / self.steps))
        # So high that a finite b, shifted by s + 1, stays below +∞, and that 1{b ≤ k + σ} counts no infinite b.
        object.__setattr__(self, "top", math.ceil(self._position(self.deadline)) + self.steps + 2)

    @property
    def bins(self) -> int:
        """Buckets, with the empty one at 0 and +∞: K + 1."""
        return self.top + 1

    @property
    def width(self) -> int:
        """Length of a state row."""
        return _ARRAYS * self.bins

    def index(self, seconds: FloatArray) -> IntArray:
        """The bucket of each latency: (n,) → (n,). +∞ → K, NaN (no observation) → −1, beyond the grid → K − 1."""
        position = np.log(np.maximum(seconds, self.shortest) / self.shortest) / math.log(self.gamma) - _EDGE
        bucket = np.clip(np.ceil(position), 1, self.top - 1)
        bucket[np.isposinf(seconds)] = self.top
        bucket[np.isnan(seconds)] = -1
        return bucket.astype(np.int64)

    def fold(self, values: FloatArray, grouping: Grouping) -> State:
        """The state of each group: (n, 2), seconds of baseline and candidate → (groups, width)."""
        return self.gathered(dict(self.blocks(values, grouping)), grouping.groups)

    def blocks(self, seconds: FloatArray, grouping: Grouping) -> Iterator[tuple[int, IntArray]]:
        """`fold` in blocks of 64 bins, only those in which something fell: (block, (groups, 6, 64)) each."""
        a, b = (self.index(side) for side in seconds.reshape(-1, 2).T)
        chosen = (a >= 0)[grouping.members] & (b >= 0)[grouping.members]
        member, group = grouping.members[chosen], grouping.group[chosen]
        a, b = a[member], b[member]
        less, more = (self._shifted(b, shift) for shift in (self.steps - 1, self.steps + 1))
        touched = np.zeros(self.top + 1, np.bool_)
        for bucket in (a, b, less, more):
            touched[bucket] = True
        there = np.unique(np.flatnonzero(touched) // BLOCK)
        # Where a bucket's six sums lie in those of one group, the first of them.
        place = np.searchsorted(there, np.arange(self.bins) // BLOCK) * _ARRAYS * BLOCK + np.arange(self.bins) % BLOCK
        start = group * (len(there) * _ARRAYS * BLOCK)

        def counted(entries: list[tuple[int | IntArray, IntArray]]) -> IntArray:
            size = grouping.groups * len(there) * _ARRAYS * BLOCK
            flat = [start + place[bucket] + array * BLOCK for array, bucket in entries]
            return np.bincount(np.concatenate(flat), minlength=size).astype(np.int64, copy=False)

        # n₊ holds from a on and until b′, n₋ from b′ on and until a. Where a = b′ the two entries cancel.
        rows = [(array + (shifted < a), shifted) for array, shifted in ((2, less), (4, more))]
        begins = [(array, np.minimum(a, shifted)) for array, shifted in rows]
        ends = [(array, np.maximum(a, shifted)) for array, shifted in rows]
        sums = counted([(0, a), (1, b), *begins]) - counted([*ends])
        by_block = sums.reshape(grouping.groups, len(there), _ARRAYS, BLOCK)
        for at, block in enumerate(there.tolist()):
            yield block, by_block[:, at]

    def gathered(self, blocks: Mapping[int, IntArray], slots: int) -> State:
        """The state of `slots` of what `blocks` gave, or of sums of that: (slots, width). Slots may be missing.

        Raises ValueError for blocks of another grid.
        """
        size = self.bins // BLOCK + 1
        state = np.zeros((slots, _ARRAYS, size * BLOCK), np.int64)
        for block, sums in blocks.items():
            if sums.shape[1:] != (_ARRAYS, BLOCK) or len(sums) > slots or not 0 <= block < size:
                raise ValueError(f"latencies: block {block} of shape {sums.shape} was not counted by this grid")
            state[: len(sums), :, block * BLOCK : (block + 1) * BLOCK] = sums
        return state[..., : self.bins].reshape(slots, self.width)

    def log_e(self, state: State, p: float) -> tuple[FloatArray, FloatArray]:
        """Natural logs of the e-values at quantile p: (..., width) → (non-inferiority, harm), (...) each.

        0 without data; at most log 10⁶.
        """
        sums = self._sums(state)
        ni, harm = self._log_e(sums.reshape(-1, _ARRAYS, self.bins), p)
        return ni.reshape(state.shape[:-1]), harm.reshape(state.shape[:-1])

    def get(self, state: State) -> tuple[FloatArray, ...]:
        """The ratios q_B / q_A of the medians, the 90% and the 99% quantiles, as `estimate`."""
        return tuple(self.estimate(state, p) for p in QUANTILES)

    def estimate(self, state: State, p: float) -> FloatArray:
        """q_B / q_A as observed, to a factor γ: (..., width) → (...).

        NaN where it can't be said: no data, or a quantile that is infinite or beyond the grid.
        """
        sums = self._sums(state)
        a, b = (_quantile(sums[..., side, :], p) for side in (0, 1))
        known = (sums[..., 0, -1] > 0) & (np.maximum(a, b) < self.top - 1)
        return np.where(known, self.gamma ** (b - a).astype(np.float64), math.nan)

    def interval(self, state: State, p: float, alpha: float) -> tuple[FloatArray, FloatArray]:
        """Bounds of q_B / q_A that hold at all times at once with probability 1 − alpha: (..., width) → (lower, upper).

        From one two-sided sequence for each side's own quantile, at alpha/2: conservative, since it does not use that
        the latencies are paired. (0, ∞) without data.
        """
        sums = self._sums(state).reshape(-1, _ARRAYS, self.bins)
        (a_first, a_last), (b_first, b_last) = (self._range(sums[:, side], p, math.log(4 / alpha)) for side in (0, 1))
        # What is beyond the deadline was not seen to its end.
        b_above = np.minimum(b_first - 1, self._last_edge)
        lower = np.where(a_last < self.top, self.gamma ** (b_above - a_last).astype(np.float64), 0.0)
        upper = np.where(b_last < self.top, self.gamma ** (b_last - a_first + 1).astype(np.float64), math.inf)
        return lower.reshape(state.shape[:-1]), upper.reshape(state.shape[:-1])

    def forecast(self, row: State, p: float, log_threshold: float) -> float:
        """How many more pairs until non-inferiority at p is proven, if they go on as they did.

        `row` is one slot's state (width,). 0 if it is proven, NaN if nothing can be said: no data, no e-process that
        wins, or a threshold above log 10⁶.
        """
        sums = self._sums(row[None, :])
        n = float(sums[0, 0, -1])

        def short(pairs: float) -> bool:
            return bool(self._log_e(sums * (pairs / n), p)[0][0] < log_threshold)

        if not n or log_threshold > _LOG_CAP:
            return math.nan
        return more_until(short, n)

    @property
    def _last_edge(self) -> int:
        """The last bucket that ends within the deadline."""
        return math.floor(self._position(self.deadline) + 2 * _EDGE)

    def _position(self, seconds: float) -> float:
        return math.log(seconds / self.shortest) / math.log(self.gamma) - _EDGE

    def _shifted(self, b: IntArray, shift: int) -> IntArray:
        return np.where(b == self.top, b, np.maximum(b - shift, 0))

    def _sums(self, state: State) -> State:
        """Running sums over the buckets: (..., width) → (..., 6, bins)."""
        if state.shape[-1] != self.width:
            raise ValueError(f"latencies: a state of width {state.shape[-1]} was not counted by a grid of {self.width}")
        return np.asarray(np.cumsum(state.reshape(*state.shape[:-1], _ARRAYS, self.bins), axis=-1))

    def _log_e(self, sums: State, p: float) -> tuple[FloatArray, FloatArray]:
        """As `log_e`, of running sums (rows, 6, bins)."""
        bets = _bets(p)
        if not len(sums):
            return np.zeros(0), np.zeros(0)
        observed = _quantile(sums[:, 0], p)
        at_observed = self._log_e_at(sums, np.arange(len(sums)), observed, bets)
        # A k whose G1 or G2 alone makes more than E does at the observed quantile, or than the cap, is not the least.
        bound = np.minimum(at_observed.max(axis=-1), _LOG_CAP) - _LOG_WEIGHTS[0]
        row, k, starts = _ragged(*_not_excluded(sums[:, 0], p, bets, observed, bound))
        parts = range(0, len(k), _AT_ONCE)
        each = [self._log_e_at(sums, row[i : i + _AT_ONCE], k[i : i + _AT_ONCE], bets) for i in parts]
        least = np.minimum(np.minimum.reduceat(np.concatenate(each), starts), _LOG_CAP)
        return least[:, 0], least[:, 1]

    def _log_e_at(self, sums: State, row: IntArray, k: IntArray, bets: _Bets) -> FloatArray:
        """log E_k, for each row and k of two aligned arrays: (m,), (m,) → (m, 2), non-inferiority and harm."""
        row, k = row[:, None], k[:, None]
        # Every part bets on two counts. In the order of `_Bets.logs`: successes and failures, or n₊ and n₋.
        at = np.minimum(k + self._offsets, self.top - (_COUNTED == 1))
        won = sums[row, _COUNTED, at]
        lost = sums[row, 0, -1] - won
        lost[:, 2::2] = sums[row, _COUNTED[2::2] + 1, at[:, 2::2]]
        told = np.concatenate([k < self.top, k + self.steps <= self._last_edge], axis=1)
        # Of few pairs most of the grid is a candidate, but there the counts stay as they are over many buckets.
        known = np.concatenate([won, lost, told], axis=1)
        fresh = np.append(True, (known[1:] != known[:-1]).any(axis=1))
        each = self._log_e_of(won[fresh], lost[fresh], told[fresh], bets)
        return each.take(np.cumsum(fresh) - 1, axis=0)

    def _log_e_of(self, won: IntArray, lost: IntArray, told: BoolArray, bets: _Bets) -> FloatArray:
        """log E_k of the two counts of each part (m, 6): (m, 2). Where a side is not `told` (m, 2), P = Q = 1."""
        logs = won[..., None] * bets.logs[:, 0] + lost[..., None] * bets.logs[:, 1]
        parts = log_mixture(logs, bets.log_weights)
        by_side = np.empty((len(won), 2, 4))
        by_side[..., :2] = parts[:, None, :2]
        by_side[..., 2:] = np.where(told[..., None], parts[:, 2:].reshape(-1, 2, 2), 0.0)
        return log_mixture(by_side, _LOG_WEIGHTS)

    @property
    def _offsets(self) -> IntArray:
        """From k, where each part is to be counted."""
        return np.array([0, -1, 0, self.steps - 1, -1, self.steps])

    def _range(self, sums: State, p: float, log_bound: float) -> tuple[IntArray, IntArray]:
        """First and last k at which neither G1 nor G2 reaches the bound, of one side's running sums (rows, bins)."""
        bets = _bets(p)
        if not len(sums):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        bound = np.full(len(sums), log_bound)
        first, last = _not_excluded(sums, p, bets, _quantile(sums, p), bound)
        each, k, starts = _ragged(first, last)
        n = sums[each, -1]
        low = binomial_log_e(sums[each, k], n, p, *bets.low) < log_bound
        high = binomial_log_e(sums[each, k - 1], n, p, *bets.high) < log_bound
        first = np.minimum.reduceat(np.where(low, k, self.top), starts)
        last = np.maximum.reduceat(np.where(high, k, 1), starts)
        return first, np.maximum(first, last)


class _Bets(NamedTuple):
    """Of one p."""

    low: Bets
    """Binomial, against a share ≥ p."""
    high: Bets
    logs: FloatArray
    """What each of the two counts adds to the log-capitals of G1, G2, P and Q of non-inferiority, P and Q of harm:
    (6, 2, 12)."""
    log_weights: FloatArray
    """(12,)"""


@functools.lru_cache(maxsize=64)
def _bets(p: float) -> _Bets:
    if not 0 < p < 1:
        raise ValueError(f"{p:g} is no quantile: it must lie between 0 and 1")
    low, high = binomial_bets(p)
    below, above = (ternary_logs(geometric_bets(sign * STAKE, sign * 0.01).bets)[[0, 2]] for sign in (-1, 1))
    g1, g2 = (binomial_logs(side.bets, p) for side in (low, high))
    return _Bets(low, high, np.stack([g1, g2, below, g2, above, g1]), low.log_weights)


def _quantile(sums: State, p: float) -> IntArray:
    """The bucket of the p-quantile, the first that reaches a share of p: (..., bins) → (...). 1 without data."""
    needed = p * sums[..., -1:] * (1 - 1e-12)
    return np.asarray(np.maximum((sums < needed).sum(axis=-1), 1), np.int64)


def _not_excluded(
    sums: State, p: float, bets: _Bets, observed: IntArray, log_bound: FloatArray
) -> tuple[IntArray, IntArray]:
    """First and last k at which no single bet of G1 or G2 reaches the bound (rows,), of sums (rows, bins).

    Both are monotone in k. The observed quantile is always within.
    """
    n = sums[:, -1]
    few = excluding_successes(n, p, *bets.low, log_bound)[:, None]
    many = excluding_successes(n, p, *bets.high, log_bound)[:, None]
    first = np.maximum((sums <= few).sum(axis=-1), 1)
    last = np.minimum((sums < many).sum(axis=-1), sums.shape[-1] - 1)
    return np.minimum(first, observed), np.maximum(last, observed)


def _ragged(first: IntArray, last: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """The integers from first to last of each row, one row after the other: (row of each, each, where rows start)."""
    lengths = last - first + 1
    starts = np.cumsum(lengths) - lengths
    row = np.repeat(np.arange(len(first)), lengths)
    return row, np.arange(len(row)) - starts[row] + first[row], starts
