"""E-processes for the mean of a bounded loss, on a fixed grid of bets.

For a loss D in [lo, hi] with a tolerated mean d (lo < d < hi) two null hypotheses are bet against: the mean is at or
above the margin (rejected: *non-inferior*), and it is at or below it (rejected: *harmful*). Each bet is a constant
fraction λ of the capital per observation, so that its log-capital Σ log1p(λ(D − d)) is a sum.

The bets must stay constant. E ≤ M for a test martingale M whenever the *running mean of the conditional means* is under
the null, which is what makes the guarantee hold for streams that drift; with bets that adapt to what was seen, that
argument fails, and false rejections with it become all but certain. For the same reason only the current E counts,
never its running maximum.

A loss may have a weight w in [0, 1], known before it. It is bet on as D′ = d + w(D − d), the loss moved towards the
margin: it lies in [lo, hi] as D does, and Σ(D′ − d) = Σ w(D − d). So the running mean of the conditional means of D′ is
on that side of d on which the *weighted* running mean of those of D is, Σwμ / Σw. The bets are constant, so nothing
else in the argument changes, and E bounds the error on the weighted mean, through drift of losses and weights alike.
Where w is 0 the capital stays as it is: the pair might as well not have come.

Sources: Ville 1939; Waudby-Smith & Ramdas 2024, Estimating means of bounded random variables by betting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.special import logsumexp

from shadowproxy.stats.additive import Additive, FloatArray, Grouping, State
from shadowproxy.stats.forecast import more_until

COUNT, UNDEFINED, SUM, SQUARES, FIRST_LOG = range(5)
"""Columns of a state row: defined losses, undefined ones, ΣwD, Σ(wD)², then the log-capitals; without weights w = 1."""

_STAKE = 0.95
"""Largest share of what could be lost in one step that any bet puts at stake."""


@dataclass(frozen=True)
class MeanGrid(Additive):
    """The two e-processes of one guardrail, for any number of slots.

    `size` pads the grid to so many bets a side (λ = 0 of weight 0), so that grids of different margins share a shape.
    A state row is [n, undefined, ΣwD, Σ(wD)², L_ni × J, L_harm × J].

    Raises ValueError unless lo < margin < hi, all finite.

    >>> grid = MeanGrid(-1, 1, 0.02)
    >>> ni, harm = grid.get(grid.fold(np.zeros(192), Grouping.single(192)))
    >>> bool(ni[0] >= math.log(20)), bool(harm[0] < 0)
    (True, True)
    """

    lo: float
    hi: float
    margin: float
    size: int = 0
    bets: FloatArray = field(init=False, repr=False, compare=False)
    """λ of every log-capital, (2J,): those for non-inferiority (negative), then those for harm."""
    log_weights: FloatArray = field(init=False, repr=False, compare=False)
    """(2J,)"""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo < self.margin < self.hi):
            raise ValueError(
                f"a margin of {self.margin:g} is not inside the range of the loss, {self.lo:g} to {self.hi:g}"
            )
        ni, harm = self._sizes()
        width = max(len(ni), len(harm), self.size)
        object.__setattr__(self, "size", width)
        object.__setattr__(self, "bets", np.concatenate([_padded(-ni, width, 0.0), _padded(harm, width, 0.0)]))
        weights = [_padded(_log_weights(len(bets)), width, -math.inf) for bets in (ni, harm)]
        object.__setattr__(self, "log_weights", np.concatenate(weights))

    def _sizes(self) -> tuple[FloatArray, FloatArray]:
        up, down = self.hi - self.margin, self.margin - self.lo
        smallest = self.margin / (4 * up * down)
        return _geometric(_STAKE / up, smallest), _geometric(_STAKE / down, smallest)

    @property
    def width(self) -> int:
        """Length of a state row, 4 + 2J."""
        return FIRST_LOG + 2 * self.size

    def increments(self, losses: FloatArray, weights: FloatArray | None = None) -> FloatArray:
        """What each loss adds to the log-capitals: (n,) → (n, 2J). NaN adds nothing; losses are held to [lo, hi].

        `weights` (n,) in [0, 1]: none for 1 each.
        """
        excess = np.where(np.isnan(losses), 0.0, np.clip(losses, self.lo, self.hi) - self.margin)
        if weights is not None:
            excess *= weights
        return np.log1p(np.multiply.outer(excess, self.bets))

    def rows(self, losses: FloatArray, weights: FloatArray | None = None) -> FloatArray:
        """What each loss adds to a state: (n,) → (n, width). NaN is an undefined loss, and counted as such.

        `weights` as in `increments`; a loss of weight 0 counts as one all the same, leave it out.
        """
        undefined = np.isnan(losses)
        known = np.where(undefined, 0.0, np.clip(losses, self.lo, self.hi))
        if weights is not None:
            known *= weights
        rows = np.empty((len(losses), self.width))
        rows[:, COUNT] = ~undefined
        rows[:, UNDEFINED] = undefined
        rows[:, SUM] = known
        np.square(known, out=rows[:, SQUARES])
        rows[:, FIRST_LOG:] = self.increments(losses, weights)
        return rows

    def fold(self, values: FloatArray, grouping: Grouping) -> State:
        """The state of each group: (n,) → (groups, width)."""
        return grouping.sum(self.rows(values))

    def get(self, state: State) -> tuple[FloatArray, FloatArray]:
        """Natural logs of the e-values by slot: (..., width) → (non-inferiority, harm) (...) each. 0 without data."""
        return self.log_e(state[..., FIRST_LOG:])

    def log_e(self, capitals: FloatArray) -> tuple[FloatArray, FloatArray]:
        """As `get`, of the log-capitals alone: (..., 2J)."""
        weighted = self.log_weights + capitals
        return (
            np.asarray(logsumexp(weighted[..., : self.size], axis=-1)),
            np.asarray(logsumexp(weighted[..., self.size :], axis=-1)),
        )

    def forecast(self, row: FloatArray, log_threshold: float) -> float:
        """How many more pairs until non-inferiority is proven, if they go on as they did.

        `row` is one slot's state (width,). 0 if it is proven, NaN if nothing can be said: no data, or no bet that wins.
        """
        n = float(row[COUNT])
        rates = row[FIRST_LOG : FIRST_LOG + self.size] / n if n else np.zeros(self.size)
        weights = self.log_weights[: self.size]

        def short(pairs: float) -> bool:
            return bool(logsumexp(weights + pairs * rates) < log_threshold)

        if not n or (rates.max() <= 0 and short(n)):
            return math.nan
        return more_until(short, n)


def fewest_pairs(margin: float, hi: float, alpha: float) -> int:
    """Fewest pairs that can prove non-inferiority, with a loss of 0 on every one, by the largest bet alone.

    The other bets add a little: with all of them the true floor is at most 4% lower.

    >>> [fewest_pairs(d, 1, 0.05) for d in (0.01, 0.02, 0.05, 0.1, 0.3)]
    [387, 193, 76, 37, 11]
    """
    return math.ceil(math.log(2 / alpha) / math.log1p(_STAKE * margin / (hi - margin)))


def _geometric(largest: float, smallest: float) -> FloatArray:
    smallest = min(largest / 4, smallest) if smallest > 0 else largest / 100
    steps = math.ceil(math.log2(largest / smallest))
    ratio = smallest / largest
    return np.asarray(largest * ratio ** (np.arange(steps + 1) / steps), np.float64)


def _log_weights(bets: int) -> FloatArray:
    weights = np.full(bets, 0.5 / (bets - 1))
    weights[0] = 0.5
    return np.asarray(np.log(weights), np.float64)


def _padded(values: FloatArray, width: int, filler: float) -> FloatArray:
    return np.concatenate([values, np.full(width - len(values), filler)])
