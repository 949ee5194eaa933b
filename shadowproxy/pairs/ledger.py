"""Where every request went, as plain integers on the proxy's hot path."""

from __future__ import annotations

from shadowproxy.model import Accounting


class Ledger:
    """The running account of one proxy process. Not thread-safe: it belongs to one event loop.

    >>> ledger = Ledger()
    >>> ledger.skip("method"); ledger.admit(); ledger.record(1)
    >>> ledger.snapshot().balanced
    True
    """

    __slots__ = ("dropped", "eligible", "recorded", "requests", "skipped")

    def __init__(self) -> None:
        self.requests = 0
        self.eligible = 0
        self.recorded = 0
        self.skipped: dict[str, int] = {}
        self.dropped: dict[str, int] = {}

    def skip(self, reason: str) -> None:
        """One request that was never to be mirrored, and why."""
        self.requests += 1
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

    def admit(self) -> None:
        """One request that was to be mirrored; `record` or `drop` says later what became of its pair."""
        self.requests += 1
        self.eligible += 1

    def drop(self, reason: str, pairs: int = 1) -> None:
        """Pairs of admitted requests that will never reach the stream, and why."""
        self.dropped[reason] = self.dropped.get(reason, 0) + pairs

    def record(self, pairs: int) -> None:
        """Pairs whose entry the store has acknowledged."""
        self.recorded += pairs

    def snapshot(self) -> Accounting:
        """The account as it stands, independent of what follows."""
        return Accounting(self.requests, self.eligible, self.recorded, dict(self.skipped), dict(self.dropped))

    def __repr__(self) -> str:
        return f"<Ledger {self.snapshot()!r}>"
