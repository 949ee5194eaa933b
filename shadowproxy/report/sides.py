"""A pair's two lists, rank by rank, for where no script draws the moves as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from shadowproxy.report.shown import duration
from shadowproxy.report.view import Item

MOST_ITEMS: Final = 50
"""Ranks that are shown."""


class Line(NamedTuple):
    """What both lists have at one rank, and where the candidate's item was."""

    rank: int
    baseline: Item | None
    candidate: Item | None
    move: str


def lists(items: Sequence[Item]) -> list[Line]:
    """The first ranks of both lists, from 1.

    >>> both = Item(id="a", baseline=1, candidate=2, baseline_score=None, candidate_score=None)
    >>> new = Item(id="b", baseline=None, candidate=1, baseline_score=None, candidate_score=None)
    >>> [line.move for line in lists([both, new])]
    ['new', 'from 1 to 2']
    """
    ours = {item.baseline: item for item in items if item.baseline is not None}
    theirs = {item.candidate: item for item in items if item.candidate is not None}
    last = min(max((*ours, *theirs), default=0), MOST_ITEMS)
    return [
        Line(rank, ours.get(rank), theirs.get(rank), _move(theirs.get(rank), ours.get(rank)))
        for rank in range(1, last + 1)
    ]


def _move(item: Item | None, left: Item | None) -> str:
    gone = f"{left.id} is gone" if left is not None and left.candidate is None else ""
    if item is None:
        return gone
    if item.baseline is None:
        came = "new"
    elif item.baseline == item.candidate:
        came = "the same"
    else:
        came = f"from {item.baseline} to {item.candidate}"
    return f"{came}; {gone}" if gone else came


def ended(value: float | None) -> str:
    """A duration of one exchange.

    >>> ended(0.0042), ended(None)
    ('4.20 ms', 'never')
    """
    return "never" if value is None else duration(value)
