"""What is kept of a pair that waits for its truth: what the quality metrics need, and no more."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from shadowproxy.compare.answer import Ranking
from shadowproxy.errors import PayloadError
from shadowproxy.model import Side

_VERSION = 1


class _Items(msgspec.Struct, frozen=True, array_like=True):
    """A ranking as it is kept; its scores only where they say which items are tied."""

    ids: list[str]
    scores: list[float] | None


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
    """How much the pair counts; its place is the last, and empty where it is 1."""

    def to_bytes(self) -> bytes:
        """As a versioned msgpack array."""
        fields = msgspec.structs.astuple(self)
        return msgspec.msgpack.encode(fields[:-1] if self.weight == 1 else fields)


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
) -> Unlabelled:
    """What to keep of a pair (see `Unlabelled`); `by_score` as in `hits`."""

    def items(ranking: Ranking | None) -> _Items | None:
        if ranking is None:
            return None
        scores = list(map(float, ranking.scores)) if by_score and ranking.scores is not None else None
        return _Items(ranking.ids, scores)

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
