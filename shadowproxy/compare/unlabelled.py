"""What is kept of a pair that waits for its truth: what the quality metrics need, and no more."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import msgspec

from shadowproxy.compare.extraction.answer import Answer, Ranking, spelled
from shadowproxy.config import Route
from shadowproxy.errors import PayloadError
from shadowproxy.model import Side

_VERSION = 1

_Labels = Sequence[str | None] | None
_Distributions = Sequence[Mapping[str, float]] | None


class _Items(msgspec.Struct, frozen=True, array_like=True):
    """A ranking as it is kept; its scores only where they say which items are tied."""

    ids: list[str]
    scores: list[float] | None


class Classes(msgspec.Struct, frozen=True, array_like=True):
    """What was said of the instances of a request, (baseline's, candidate's); None of a side that failed."""

    labels: tuple[_Labels, _Labels] | None
    """None where the route has none."""
    probabilities: tuple[_Distributions, _Distributions] | None
    ranked: bool
    """Whether the route has lists too."""


class Unlabelled(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of one pair that waits for its truth."""

    version: int
    id: str
    """The pair's."""
    started: float
    expires: float
    """Unix time up to which its label may come."""
    route: int
    k: int
    comparable: bool
    baseline_failed: bool
    candidate_failed: bool
    baseline: _Items | None
    """None where that side has no list."""
    candidate: _Items | None
    cohorts: tuple[str, ...]
    weight: float = 1.0
    """How much the pair counts."""
    classes: Classes | None = None
    """Where the route has labels or probabilities."""
    account: int = 0
    """Hash of the account; 0 where unknown."""

    def to_bytes(self) -> bytes:
        """As a versioned msgpack array, without its last places where they say nothing."""
        fields = msgspec.structs.astuple(self)
        silent = itertools.takewhile(bool, (self.account == 0, self.classes is None, self.weight == 1))
        return msgspec.msgpack.encode(fields[: len(fields) - sum(silent)])


class _Version(msgspec.Struct, array_like=True):
    version: int


def unlabelled(
    name: str,
    started: float,
    expires: float,
    *,
    route: int,
    k: int,
    comparable: bool,
    failed: Mapping[Side, bool],
    rankings: Mapping[Side, Ranking | None],
    by_score: bool,
    cohorts: tuple[str, ...],
    weight: float = 1.0,
    classes: Classes | None = None,
    account: int = 0,
) -> Unlabelled:
    """What to keep of a pair (see `Unlabelled`); `by_score` as in `hits`."""

    def items(ranking: Ranking | None) -> _Items | None:
        if ranking is None:
            return None
        scores = list(map(float, ranking.scores)) if by_score and ranking.scores is not None else None
        return _Items(spelled(ranking.ids), scores)

    return Unlabelled(
        version=_VERSION,
        id=name,
        started=started,
        expires=expires,
        route=route,
        k=k,
        comparable=comparable,
        baseline_failed=failed[Side.BASELINE],
        candidate_failed=failed[Side.CANDIDATE],
        baseline=items(rankings[Side.BASELINE]),
        candidate=items(rankings[Side.CANDIDATE]),
        cohorts=cohorts,
        weight=weight,
        classes=classes,
        account=account,
    )


def classes_of(route: Route, answers: Mapping[Side, Answer]) -> Classes | None:
    """What to keep of the answers to a classifier; None where the route is none."""
    if route.label is None and route.probabilities is None:
        return None
    a, b = answers[Side.BASELINE], answers[Side.CANDIDATE]
    return Classes(
        labels=None if route.label is None else (a.labels, b.labels),
        probabilities=None if route.probabilities is None else (a.probabilities, b.probabilities),
        ranked="ids" in route.offers,
    )


def from_bytes(data: bytes) -> Unlabelled:
    """The reverse of `Unlabelled.to_bytes`. Raises PayloadError for bytes that can't be read, or of another version."""
    try:
        version = msgspec.msgpack.decode(data, type=_Version).version
        if version != _VERSION:
            raise PayloadError(f"what waits for a label is of version {version}, this program reads {_VERSION}")
        return msgspec.msgpack.decode(data, type=Unlabelled)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PayloadError(f"what waits for a label can't be read: {error}") from None
