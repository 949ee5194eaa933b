"""What the proxy needs of the room that keeps pairs, and the same in memory, for tests and trials without a store."""

from __future__ import annotations

from typing import Protocol

from shadowproxy.model import Accounting, Pair


class LedgerProtocol(Protocol):
    """Plain counters of one event loop; see `shadowproxy.model.Accounting` for the identity they keep."""

    def skip(self, reason: str) -> None:
        """Count a request that is live-only."""
        ...

    def admit(self) -> None:
        """Count a request whose pair will be recorded or dropped."""
        ...

    def drop(self, reason: str, pairs: int = 1) -> None:
        """Count pairs that were admitted and will not be recorded."""
        ...


class RecorderProtocol(Protocol):
    """Takes finished pairs."""

    @property
    def ledger(self) -> LedgerProtocol:
        """Where the proxy accounts for requests."""
        ...

    def offer(self, pair: Pair) -> bool:
        """Take a pair without ever blocking. On False it has been counted as dropped already."""
        ...


class MemoryLedger:
    """Counters in memory."""

    def __init__(self) -> None:
        self.requests = 0
        self.eligible = 0
        self.recorded = 0
        self.skipped: dict[str, int] = {}
        self.dropped: dict[str, int] = {}

    def skip(self, reason: str) -> None:
        """See `LedgerProtocol`."""
        self.requests += 1
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def admit(self) -> None:
        """See `LedgerProtocol`."""
        self.requests += 1
        self.eligible += 1

    def drop(self, reason: str, pairs: int = 1) -> None:
        """See `LedgerProtocol`."""
        self.dropped[reason] = self.dropped.get(reason, 0) + pairs

    def record(self, pairs: int) -> None:
        """Count pairs that are safely kept."""
        self.recorded += pairs

    def snapshot(self) -> Accounting:
        """The account as it stands."""
        return Accounting(self.requests, self.eligible, self.recorded, dict(self.skipped), dict(self.dropped))

    def __repr__(self) -> str:
        return f"<MemoryLedger {self.snapshot()}>"


class MemoryRecorder:
    """Keeps up to `limit` pairs in a list; past it they are dropped as `recorder_full`."""

    def __init__(self, limit: int = 100_000) -> None:
        self.ledger = MemoryLedger()
        self.pairs: list[Pair] = []
        self._limit = limit

    def offer(self, pair: Pair) -> bool:
        """See `RecorderProtocol`."""
        if len(self.pairs) >= self._limit:
            self.ledger.drop("recorder_full")
            return False
        self.pairs.append(pair)
        self.ledger.record(1)
        return True

    def __repr__(self) -> str:
        return f"<MemoryRecorder {len(self.pairs)} pairs, {self.ledger!r}>"
