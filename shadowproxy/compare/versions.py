"""Which versions answered the pairs of a batch, as a response header says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final

from shadowproxy.model import Exchange, Pair, Side

_SIDES: Final[tuple[tuple[str, Callable[[Pair], Exchange | None]], ...]] = tuple(
    (side.value, attrgetter(side.value)) for side in Side
)


class VersionReader:
    """Finds the value of one response header in captured heads, without parsing them: most of a head is of no use.

    An answer without it says nothing, such as that of a gateway before the service; so does an exchange without one.
    """

    def __init__(self, header: str) -> None:
        self._first = header.lower().encode("ascii") + b":"
        self._later = b"\r\n" + self._first

    def value(self, head: bytes) -> bytes | None:
        """The value in one head, of the first line of that name; None where there is none.

        >>> reader = VersionReader("x-v")
        >>> [reader.value(head) for head in (b"A: x-v:1\\r\\nX-V: 7 \\r\\nx-v: 8\\r\\n", b"x-v:9", b"X-V2: 7\\r\\n")]
        [b'7', b'9', None]
        """
        # Lower case and a search for bytes: a regular expression that ignores case takes four times as long.
        lower = head.lower()
        if lower.startswith(self._first):
            start = len(self._first)
        elif (at := lower.find(self._later)) >= 0:
            start = at + len(self._later)
        else:
            return None
        end = head.find(b"\r\n", start)
        return head[start : end if end >= 0 else len(head)].strip(b" \t")

    def __call__(self, pairs: Sequence[Pair]) -> Mapping[tuple[str, str], tuple[float, float]]:
        """By (side, value): the start of the first and of the last pair, Unix seconds.

        >>> from shadowproxy.model import Exchange, Outcome, Request
        >>> answer, failure = Exchange(Outcome.OK, 200, b"X-V: 7\\r\\n"), Exchange(Outcome.TIMEOUT)
        >>> VersionReader("x-v")([Pair("a", at, Request("GET", "/"), answer, failure) for at in (3.0, 2.0)])
        {('baseline', '7'): (2.0, 3.0)}
        """
        started: dict[tuple[str, bytes], list[float]] = defaultdict(list)
        for side, exchange_of in _SIDES:
            for pair in pairs:
                exchange = exchange_of(pair)
                if exchange is not None and (value := self.value(exchange.head)) is not None:
                    started[side, value].append(pair.started)
        return {(side, value.decode("latin-1")): (min(at), max(at)) for (side, value), at in started.items()}
