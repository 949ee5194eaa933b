"""Which versions answered the pairs of a batch, as a response header says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from shadowproxy.model import Pair, Side


class VersionReader:
    """Finds the value of one response header in captured heads, without parsing them: most of a head is of no use.

    An answer without it says nothing, such as that of a gateway before the service; so does an exchange without one.
    """

    def __init__(self, header: str) -> None:
        name = re.escape(header.encode("ascii"))
        # Of several lines of that name the first; `[^\r\n]` also ends at a bare CR, which no header may hold.
        self._pattern = re.compile(rb"(?:\A|\r\n)(?i:%b):[ \t]*([^\r\n]*)" % name)

    def __call__(self, pairs: Sequence[Pair]) -> Mapping[tuple[str, str], tuple[float, float]]:
        """By (side, value): the start of the first and of the last pair, Unix seconds.

        >>> from shadowproxy.model import Exchange, Outcome, Request
        >>> answer, failure = Exchange(Outcome.OK, 200, b"X-V: 7\\r\\n"), Exchange(Outcome.TIMEOUT)
        >>> VersionReader("x-v")([Pair("a", at, Request("GET", "/"), answer, failure) for at in (3.0, 2.0)])
        {('baseline', '7'): (2.0, 3.0)}
        """
        found: dict[tuple[str, str], tuple[float, float]] = {}
        search = self._pattern.search
        for pair in pairs:
            at = pair.started
            sides = ((Side.BASELINE, pair.baseline), (Side.CANDIDATE, pair.candidate), (Side.REPLICA, pair.replica))
            for side, exchange in sides:
                match = None if exchange is None else search(exchange.head)
                if match is not None:
                    key = (side.value, match[1].rstrip(b" \t").decode("latin-1"))
                    first, last = found.get(key, (at, at))
                    found[key] = (min(first, at), max(last, at))
        return found
