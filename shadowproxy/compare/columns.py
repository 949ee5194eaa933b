"""What comparing a batch gives: columns, one row per pair. The interface between `compare/` and what accumulates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.unlabelled import Unlabelled
from shadowproxy.compare.view import Counts
from shadowproxy.model import Side


class Scores(NamedTuple):
    """The scores of all items in one side's answers, of those pairs in which both sides answered; NaN where undefined.

    Of the same pairs on either side, so that a side's failures don't shift its distribution.
    """

    pair: NDArray[np.int64]
    value: NDArray[np.float64]


class Table(NamedTuple):
    """What pairs of one route add to one row of a table (see `view.Counts`)."""

    route: int
    """Index into the configured routes; −1 for none."""
    counts: Counts


@dataclass(frozen=True, slots=True)
class Columns:
    """A batch of n pairs, compared. Every array has length n and the pairs' order."""

    started: NDArray[np.float64]
    """Unix time of each request's start, seconds."""
    route: NDArray[np.int32]
    """Index into the configured routes; −1 where none matches (failures and latency are compared all the same)."""
    cohorts: tuple[tuple[str, ...], ...]
    """Per pair, the cohorts it belongs to, as `dimension=value`; from the request and annotations only."""
    account: NDArray[np.uint64]
    """Hash of the account; 0 where unknown."""
    values: Mapping[str, NDArray[np.float64]]
    """By metric of the catalogue: the value, NaN where it is undefined or not applicable."""
    applicable: Mapping[str, NDArray[np.bool_]]
    """By metric: whether the pair should have a value. Applicable and NaN is *undefined*, and counted as such."""
    failed: Mapping[Side, NDArray[np.bool_]]
    """Whether that exchange failed (see `compare.families.failures`)."""
    failure: Mapping[Side, tuple[str, ...]]
    """The kind of failure, in a bounded set of words (`timeout`, `http_5xx`, `bad_body`, …); empty where it did not."""
    ttfb: Mapping[Side, NDArray[np.float64]]
    """Seconds to the first byte; +inf for a failed exchange."""
    total: Mapping[Side, NDArray[np.float64]]
    """Seconds to the last byte; +inf for a failed exchange."""
    scores: Mapping[Side, Scores] = field(default_factory=dict)
    """By side; nothing where no route has scores."""
    tables: tuple[Table, ...] = ()
    """What is counted beside the values; the same row of a table may stand in it several times."""
    weight: NDArray[np.float64] | None = None
    """How much each pair counts, in [0, 1]; None where no route says, and every pair counts as 1."""
    unlabelled: tuple[Unlabelled, ...] = ()
    """What is kept of those pairs whose truth may yet come, in their order; their quality is not applicable till then.
    """

    def __len__(self) -> int:
        return len(self.started)
