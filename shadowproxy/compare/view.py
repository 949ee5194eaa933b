"""What a family of metrics gets to see, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from shadowproxy.compare.align import Hits, Lists
from shadowproxy.compare.ragged import Bools, Floats
from shadowproxy.model import Side


@dataclass(frozen=True, slots=True)
class Truth:
    """The truth of n pairs, and where either side's list holds it."""

    known: Bools
    """Shape (n,): whether there is a truth with at least one item."""
    ideal: tuple[tuple[float, ...], ...]
    """Per pair, its gains, descending, the largest 1; empty where unknown."""
    hits: Mapping[Side, Hits]


@dataclass(frozen=True, slots=True)
class View:
    """The pairs of a batch that belong to one route (or to none): n rows, in the batch's order."""

    failed: Mapping[Side, Bools]
    ttfb: Mapping[Side, Floats]
    """Seconds; +inf for a failed exchange, never NaN."""
    total: Mapping[Side, Floats]
    comparable: Bools
    """Whether the answers' content is to be compared (see `failures.comparable`)."""
    lists: Lists | None = None
    truth: Truth | None = None
    slow: float | None = None
    k: int = 10
    rbo_p: float = 0.9

    def __len__(self) -> int:
        return len(self.comparable)

    @property
    def any_failed(self) -> Bools:
        """Whether either side failed."""
        return self.failed[Side.BASELINE] | self.failed[Side.CANDIDATE]


class Values(NamedTuple):
    """One metric on n pairs: its values (NaN where undefined) and whether each pair should have one."""

    values: Floats
    applicable: Bools


Family = Callable[[View], Mapping[str, Values]]
"""A family of metrics: by name in the catalogue, those that the view has the means for."""
