"""What a kind of guardrail is: how it counts a batch, and what its sums say.

Two kinds: the mean of a bounded loss (`means`), and a quantile of latency, paired (`ratios`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns
from shadowproxy.config.settings import Settings
from shadowproxy.stats.additive import FloatArray, IntArray
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.guardrails.batch import Batch
from shadowproxy.verdict.guardrails.rules import Rule
from shadowproxy.verdict.record import Dependence


class Evidence(NamedTuple):
    """What is known of one guardrail, by slot: arrays of one length."""

    pairs: IntArray
    """Pairs with a defined loss."""
    undefined: IntArray
    estimate: FloatArray
    """In the metric's unit, larger = worse; NaN where there is none."""
    lower: FloatArray
    upper: FloatArray
    log_promote: FloatArray
    """Natural logarithm of the e-value for being within the margin."""
    log_rollback: FloatArray
    """The same for being beyond it."""
    blocks: IntArray | None = None
    """Closed blocks whose means are judged; None where single pairs are."""


class Counter(Protocol):
    """Counts something of every pair, for one guardrail or several."""

    def counted(self, batch: Batch) -> Iterator[tuple[str, NDArray[Any]]]:
        """What a batch adds, by the name of the sum: an array (buckets, rows, w) each; rows are slots, as many as the
        batch has or fewer."""


class Guard(Protocol):
    """One guardrail over its sums."""

    rule: Rule

    def losses(self, columns: Columns) -> tuple[FloatArray, FloatArray] | None:
        """The metric's value and the loss of every pair, for people to find the worst: (n,) each, NaN where it doesn't
        count or is undefined. None where no pair counts."""

    def evidence(self, total: Tally, slots: Sequence[int], alpha: float) -> Evidence:
        """By slot; `alpha` is the chance that an interval ever misses. Raises ValueError where `total` is of another
        plan."""

    def forecast(self, total: Tally, slot: int, log_threshold: float) -> float:
        """Pairs with a defined loss that are still needed until it is proven to be within the margin, if they go on
        likewise; 0 where it is, NaN where it can't be said."""

    def dependence(self, total: Tally) -> tuple[Dependence, ...]:
        """How far its pairs depend on each other, in what the remedy that is in force leaves."""


def route_indices(rule: Rule, settings: Settings) -> Collection[int] | None:
    """The routes that a rule is about, as indices; None for all."""
    if not rule.routes:
        return None
    return [at for at, route in enumerate(settings.routes) if route.name in rule.routes]
