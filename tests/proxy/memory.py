"""A recorder that keeps pairs in memory, scrubbed as the real one's are, with the real ledger."""

from __future__ import annotations

from collections.abc import Sequence

from shadowproxy.model import Pair
from shadowproxy.pairs.batch import Scrub
from shadowproxy.pairs.ledger import Ledger


class MemoryRecorder:
    """Keeps up to `limit` pairs in a list; past it they are dropped as `recorder_full`."""

    def __init__(self, limit: int = 100_000) -> None:
        self.ledger = Ledger()
        self.pairs: list[Pair] = []
        self._limit = limit
        self.scrub: Scrub = lambda pair, _guarded: pair

    def offer(self, pair: Pair, guarded: Sequence[bytes] | None) -> bool:
        if len(self.pairs) >= self._limit:
            self.ledger.drop("recorder_full")
            return False
        self.pairs.append(self.scrub(pair, guarded))
        self.ledger.record(1)
        return True

    def __repr__(self) -> str:
        return f"<MemoryRecorder {len(self.pairs)} pairs, {self.ledger!r}>"
