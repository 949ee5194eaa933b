"""What a family of metrics gets to see, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shadowproxy.compare.extraction.answer import Answer
from shadowproxy.compare.lists.align import Hits, Lists
from shadowproxy.compare.lists.ragged import Bools, Floats, Ints
from shadowproxy.compare.lists.triplets import Triplets
from shadowproxy.config import Route
from shadowproxy.model import Side


@dataclass(frozen=True, slots=True)
class Truth:
    """The truth of n pairs, and where either side's list holds it."""

    known: Bools
    """Shape (n,): whether there is a truth with at least one item."""
    ideal: tuple[tuple[float, ...], ...]
    """Per pair, its gains, descending, the largest 1; empty where unknown."""
    hits: Mapping[Side, Hits]


class Counts(NamedTuple):
    """Additions to one table beside the values: row i of them adds 1 in column `column[i]`, for the pair `pair[i]`."""

    table: str
    """A name of `catalogue.TABLES`."""
    key: str
    """Which row of the table. Any text; only so many of a table are told apart, the rest counts as `other`."""
    pair: Ints
    column: Ints
    width: int
    """Columns of the table."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How the bodies of n pairs differ."""

    changed: Floats
    """Shape (n,): share of fields in which the candidate differs from the baseline; NaN where it can't be said."""
    excess: Floats
    """Shape (n,): the same beyond the baseline's own noise; NaN without a replica's answer too."""
    replicated: Bools
    """Shape (n,): whether there is a replica's answer."""
    counts: tuple[Counts, ...]
    """Rows of the table `fields`."""


@dataclass(frozen=True, slots=True)
class View:
    """The pairs of a batch that belong to one route (or to none): n rows, in the batch's order."""

    failed: Mapping[Side, Bools]
    ttfb: Mapping[Side, Floats]
    """Seconds; +inf for a failed exchange, never NaN."""
    total: Mapping[Side, Floats]
    comparable: Bools
    """Whether the answers' content is to be compared (see `failures.comparable`)."""
    answers: Mapping[Side, Sequence[Answer]] = field(default_factory=dict)
    """What was found in them; of the replica too, where something needs it."""
    true_labels: Sequence[Sequence[str | None] | None] = ()
    lists: Lists | None = None
    truth: Truth | None = None
    changes: Changes | None = None
    replicated: Bools | None = None
    """Shape (n,): whether all three, the replica too, gave an answer with content to compare; None where none has."""
    triplets: Triplets | None = None
    """The lists of these, where the route has any."""
    route: Route | None = None
    """None for pairs of no route, and where only labels that came later are looked at."""
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

Tabulate = Callable[[View], Iterable[Counts]]
"""What is counted beside the values: which labels were confused, which rules broken, which fields differ."""
