"""The first pair of each account, for `verdict.first_per_account`: which one it is, and that it counts once.

Which pair is an account's first is known when everything that began before it has been committed, and not sooner: of
two requests at a time the one whose candidate hangs is written last, and if it began first it must be it. So a pair is
not counted when it is committed; what it would add to the sums waits, the earliest of each account only, and replaces
one that began later. When its start-time bucket is closed nothing earlier can come, and it is counted and the account
marked as counted, in one step with the worker's state. A pair that comes later, late ones included, finds the account
counted.

Pairs of no known account wait likewise, and all of them count. So what is counted is at any time all that is to be
counted of what began before some moment, and that moment doesn't depend on how any request went.

All of it is in one partition, since a step is atomic in one only; the configuration sees to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from shadowproxy.pairs import scripts
from shadowproxy.pairs.client import Script

MOST: Final = 1_000_000
"""Accounts that are counted; the pairs of those that come after them are not. That is 100 MB of the store."""

UNKNOWN: Final = "?"
"""How the names of accounts begin that aren't known."""

FIND_FIRSTS: Final = Script(scripts.FIND_FIRSTS)
DUE_FIRSTS: Final = Script(scripts.DUE_FIRSTS)
SETTLE: Final = Script(scripts.SETTLE)


class Start(NamedTuple):
    """What orders the pairs of an account. Both are the request's own."""

    at: float
    """Unix seconds."""
    tie: str
    """Decides between two that began at the same time; no spaces."""

    @classmethod
    def of(cls, words: bytes) -> Start:
        """The reverse of `words`."""
        at, _, tie = words.decode().partition(" ")
        return cls(float(at), tie)

    @property
    def words(self) -> str:
        """As it is stored; the time exactly."""
        return f"{self.at!r} {self.tie}"


class First(NamedTuple):
    """A pair that may be its account's first."""

    account: str
    """Its name in the store (see `named`)."""
    start: Start
    record: bytes
    """Whatever the worker needs to count it then."""


def named(account: int, pair: str) -> str:
    """What stands for an account, by its hash; where it isn't known (0), for the pair of this name alone.

    >>> named(77, "1-0:3"), named(0, "1-0:3")
    ('77', '?1-0:3')
    """
    return str(account) if account else f"{UNKNOWN}{pair}"


def words(firsts: Sequence[First]) -> list[str | bytes | int]:
    """For COMMIT."""
    each = (word for one in firsts for word in (one.account, repr(one.start.at), one.start.tie, one.record))
    return [len(firsts), *each]
