"""What can be wrong with a candidate: each fault turns a right answer into the one that is served.

Pure: chance comes from `Draws`, keyed by seed and request id, so that a run repeats exactly and a simulation sees
what the service serves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

_FLAKY_SHARE = 0.03
_TAIL_SHARE = 0.05
_TAIL_FACTOR = 10.0
_SCORE_FACTOR = 1.15
DEGRADED = ("occupation", "educator")
"""The cohort that `wrong-user` harms: about a tenth of the users."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service is about to answer, and how long it takes over it."""

    items: tuple[tuple[int, float], ...]
    """(position of the item, score), best first."""
    status: int = 200
    slowdown: float = 1.0
    """Factor on the service time; infinite: no answer ever comes."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The request that is answered. `user` is a position; None for an account that the models don't know."""

    user: int | None
    cohorts: Mapping[str, str]
    draws: Draws


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers that belong to one request: the same for the same seed, request and label."""

    seed: int
    request: str

    def uniform(self, label: str) -> float:
        """In (0, 1)."""
        digest = hashlib.blake2b(f"{self.seed}/{label}/{self.request}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") + 0.5) / 2**64

    def normal(self, label: str) -> float:
        """Standard normal, by Box and Muller."""
        radius = math.sqrt(-2 * math.log(self.uniform(f"{label}/radius")))
        return radius * math.cos(2 * math.pi * self.uniform(f"{label}/angle"))


Recommend = Callable[[int | None], Answer]
"""The right answer for a user's position."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A name, what is planted in a sentence, and how it serves."""

    name: str
    planted: str
    serve: Callable[[Asked, Recommend], Answer]


def _none(asked: Asked, recommend: Recommend) -> Answer:
    return recommend(asked.user)


def _wrong_user(asked: Asked, recommend: Recommend) -> Answer:
    dimension, value = DEGRADED
    if asked.user is None or asked.cohorts.get(dimension) != value:
        return recommend(asked.user)
    return recommend(asked.user + 1)


def _score_shift(asked: Asked, recommend: Recommend) -> Answer:
    right = recommend(asked.user)
    return replace(right, items=tuple((item, score * _SCORE_FACTOR) for item, score in right.items))


def _slow_tail(asked: Asked, recommend: Recommend) -> Answer:
    right = recommend(asked.user)
    return replace(right, slowdown=_TAIL_FACTOR) if asked.draws.uniform("tail") < _TAIL_SHARE else right


def _flaky(asked: Asked, recommend: Recommend) -> Answer:
    chance = asked.draws.uniform("flaky")
    if chance < _FLAKY_SHARE / 2:
        return Answer((), status=500)
    right = recommend(asked.user)
    return replace(right, slowdown=math.inf) if chance < _FLAKY_SHARE else right


def _truncated(asked: Asked, recommend: Recommend) -> Answer:
    right = recommend(asked.user)
    return replace(right, items=right.items[: len(right.items) // 2])


_ALL = (
    Fault("none", "nothing is wrong", _none),
    Fault(
        "wrong-user",
        f"{DEGRADED[0]} {DEGRADED[1]}: features joined by the wrong key, so each of them gets another user's list",
        _wrong_user,
    ),
    Fault("score-shift", f"all scores are multiplied by {_SCORE_FACTOR:g}", _score_shift),
    Fault("slow-tail", f"{_TAIL_SHARE:.0%} of the answers take {_TAIL_FACTOR:g} times as long", _slow_tail),
    Fault("flaky", f"{_FLAKY_SHARE:.0%} of the requests fail: half with status 500, half never answered", _flaky),
    Fault("truncated", "the second half of every list is missing", _truncated),
)

FAULTS: Mapping[str, Fault] = MappingProxyType({fault.name: fault for fault in _ALL})
