"""What was found in one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec

Ids = list[str] | list[int]
"""Of one kind. An integer is the id that its decimal form is; where both sides have such, they need no other form."""


def spelled(ids: Ids) -> list[str]:
    """The ids as strings.

    >>> spelled([7, 8]), spelled(["a"])
    (['7', '8'], ['a'])
    """
    # Of one kind, so the first tells of all.
    return list(map(str, ids)) if ids and isinstance(ids[0], int) else cast("list[str]", ids)


class Ranking(NamedTuple):
    """What one side answered: unique ids, best first, and their scores (NaN where undefined), if the route has any."""

    ids: Ids
    scores: list[float] | None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What the route's expressions found in one side's answer. Each is None where the route doesn't look for it."""

    ranking: Ranking | None = None
    labels: Sequence[str | None] | None = None
    """One per instance of the request, None for what is no label; most requests have one instance."""
    probabilities: Sequence[Mapping[str, float]] | None = None
    """One per instance: by label, finite and as sent (they need not sum to 1)."""
    text: str | None = None
    finish: str | None = None
    """Why the text ends, such as `stop` or `length`."""
    document: Mapping[str, Any] | None = None
    """What expressions see, with this side's `response`; kept only where something looks at the answer as a whole."""
    broken: Sequence[str] | None = None
    """The names of the rules that it breaks; None where there are none, and of a side that failed."""


NOTHING = Answer()
"""Of a side that failed, or in which nothing is looked for."""
