"""Where every request went, as plain integers on the proxy's hot path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from shadowproxy.model import Accounting

SKIPPED: Final[Mapping[str, str]] = {
    "paused": "Mirroring is paused (`shadowproxy pause`).",
    "stopped": "The experiment is stopped (`shadowproxy experiment stop`).",
    "disabled": "`proxy.mirror.enabled` is false.",
    "route": "The first of `proxy.mirror.routes` that matches has `enabled: false`.",
    "upgrade": "The request asks for another protocol, such as WebSocket, and goes through a tunnel.",
    "method": "The method is not among `methods`, of the route or of `proxy.mirror`.",
    "not_sampled": "The hash of `sample_by` is outside the share that is in force.",
    "request_too_large": "The body is larger than `proxy.mirror.max_body`.",
    "slow_upload": "The body took longer than half of `verdict.settle`: the pair would come after its bucket closed.",
}
"""Every reason to proxy a request without mirroring it. None depends on what becomes of the request."""

DROPPED: Final[Mapping[str, str]] = {
    "client_slow": "The client took the answer so slowly that the baseline's deadline passed.",
    "proxy_stopped": "The proxy stopped before every side had answered, and `proxy.grace` was over.",
    "proxy_crashed": "The proxy was killed while the pair was in its memory; said by the one that found its spool.",
    "recorder_failed": "A fault of shadowproxy's own: no attempt to deliver the batch came to an expected end.",
    "recorder_full": "More than `recorder.max_bytes` wait for Redis, and the spool takes no more.",
    "recorder_shutdown": "The process ended before Redis or the spool took the pair.",
    "recorder_unencodable": "The pair has no place in the batch format.",
    "spool_corrupt": "A record of the spool was damaged on the disk.",
}
"""Every reason why the pair of an eligible request is not recorded. None is the candidate's doing."""

SHED: Final[Mapping[str, str]] = {
    "in_flight": "`proxy.mirror.max_in_flight` copies were under way to that side.",
    "bytes": "Copies to that side, and answers that wait for them, hold `proxy.mirror.max_in_flight_bytes`.",
    "breaker": "That side's breaker is open (`proxy.mirror.breaker`).",
}
"""Every reason why a copy is not made for one side of a pair that is recorded all the same, that side as `shed`."""


_ELIGIBLE: Final = 0
_RECORDED: Final = 1
_SKIPPED_AT: Final[Mapping[str, int]] = {reason: 2 + at for at, reason in enumerate(SKIPPED)}
_DROPPED_AT: Final[Mapping[str, int]] = {reason: 2 + len(SKIPPED) + at for at, reason in enumerate(DROPPED)}


class Ledger:
    """The running account of one proxy process. Not thread-safe: it belongs to one event loop.

    >>> ledger = Ledger()
    >>> ledger.skip("method"); ledger.admit(); ledger.record(1)
    >>> ledger.snapshot().balanced
    True
    """

    __slots__ = ("_cells", "dropped", "eligible", "recorded", "requests", "skipped")

    def __init__(self) -> None:
        self.requests = 0
        self.eligible = 0
        self.recorded = 0
        self.skipped: dict[str, int] = {}
        self.dropped: dict[str, int] = {}
        self._cells: memoryview | None = None

    def keep_in(self, cells: memoryview) -> None:
        """Write every count there as well, from here on: eligible, recorded, and by reason as the tables have them.

        `cells` are unsigned integers of 8 bytes, zero until they are written to (see `journal`).
        """
        self._cells = cells
        cells[_ELIGIBLE], cells[_RECORDED] = self.eligible, self.recorded
        for reason, count in self.skipped.items():
            self._keep(_SKIPPED_AT, reason, count)
        for reason, count in self.dropped.items():
            self._keep(_DROPPED_AT, reason, count)

    def _keep(self, places: Mapping[str, int], reason: str, count: int) -> None:
        at = places.get(reason)
        if self._cells is not None and at is not None:
            self._cells[at] = count

    def skip(self, reason: str) -> None:
        """One request that was never to be mirrored, and why."""
        self.requests += 1
        count = self.skipped[reason] = self.skipped.get(reason, 0) + 1
        self._keep(_SKIPPED_AT, reason, count)

    def admit(self) -> None:
        """One request that was to be mirrored; `record` or `drop` says later what became of its pair."""
        self.requests += 1
        self.eligible += 1
        if self._cells is not None:
            self._cells[_ELIGIBLE] = self.eligible

    def drop(self, reason: str, pairs: int = 1) -> None:
        """Pairs of admitted requests that will never reach the stream, and why."""
        count = self.dropped[reason] = self.dropped.get(reason, 0) + pairs
        self._keep(_DROPPED_AT, reason, count)

    def record(self, pairs: int) -> None:
        """Pairs whose entry the store has acknowledged."""
        self.recorded += pairs
        if self._cells is not None:
            self._cells[_RECORDED] = self.recorded

    def snapshot(self) -> Accounting:
        """The account as it stands, independent of what follows."""
        return Accounting(self.requests, self.eligible, self.recorded, dict(self.skipped), dict(self.dropped))

    def __repr__(self) -> str:
        return f"<Ledger {self.snapshot()!r}>"
