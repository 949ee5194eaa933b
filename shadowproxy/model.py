"""The frozen records that everything passes on: one exchange, one pair.

They are msgspec structs, encoded as msgpack *arrays*: a field may be appended with a default, never moved or removed,
so that a batch written by an older version is read by a newer one. Bytes stay bytes until the comparator looks into
them: the proxy parses nothing that it does not need for routing.

Units: all durations are seconds, all sizes bytes. `started` is Unix time; durations come from one monotonic clock.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator

import msgspec


class Side(enum.StrEnum):
    """One of the three upstreams."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"
    REPLICA = "replica"


class Outcome(enum.StrEnum):
    """How one exchange ended, as far as transport goes. A complete response of any status is `OK`."""

    OK = "ok"
    TIMEOUT = "timeout"
    """The deadline passed before the response was complete."""
    CONNECT = "connect"
    """No connection could be made: refused, unreachable, unresolved, TLS."""
    RESET = "reset"
    """The connection ended before the response was complete."""
    PROTOCOL = "protocol"
    """What came back is not HTTP."""
    SHED = "shed"
    """Not sent, by the candidate's own doing: too slow for its in-flight cap, or its breaker open."""


class Exchange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request to one upstream and what came back."""

    outcome: Outcome
    status: int = 0
    """HTTP status; 0 where no response head came."""
    head: bytes = b""
    """Header lines as received, CRLF-separated, without the status line (see `headers`)."""
    body: bytes = b""
    """The body as received (content-encoding intact, transfer-encoding removed), up to the capture cap."""
    body_size: int = 0
    """Size of the whole body, captured or not; of a body in which something was masked, the size that it has now."""
    digest: bytes = b""
    """BLAKE2b-128 of the whole body where `truncated`, else empty. Keyed where it was redaction that left it out."""
    ttfb: float = math.inf
    """Last byte of the request written, to first byte of the response; infinite if none came."""
    total: float = math.inf
    """Last byte of the request written, to last byte of the response; infinite if it never came."""
    detail: str = ""
    """For a failure: what happened, in a few words."""

    @property
    def truncated(self) -> bool:
        """Whether the capture holds less than the whole body."""
        return self.body_size > len(self.body)


class Request(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The client's request as it is forwarded, before any upstream's own edits, less what redaction took out."""

    method: str
    target: str
    """Request target byte for byte (latin-1)."""
    head: bytes = b""
    body: bytes = b""
    body_size: int = 0

    @property
    def path(self) -> str:
        """The target up to the query."""
        return self.target.partition("?")[0]


class Pair(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request with its baseline exchange, its candidate exchange and, where there is one, its replica exchange."""

    id: str
    """Request id: the client's X-Request-Id, or one made by the proxy."""
    started: float
    """Unix time at which the request's head was complete: the key of the start-time bucket."""
    request: Request
    baseline: Exchange
    candidate: Exchange
    replica: Exchange | None = None
    annotations: bytes = b""
    """JSON from the annotation header, decoded from base64url; empty if none was sent."""
    notes: tuple[str, ...] = ()
    """What redaction left out for not being able to look into it, such as `candidate.body left out: not_json`."""


def headers(head: bytes) -> Iterator[tuple[str, str]]:
    """Parse a captured `head` into (lower-case name, value) pairs, in order, duplicates kept.

    >>> list(headers(b"Content-Type: text/plain\\r\\nX-A: 1\\r\\n"))
    [('content-type', 'text/plain'), ('x-a', '1')]
    """
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            yield name.decode("latin-1").lower(), value.strip(b" \t").decode("latin-1")


class VersionSeen(msgspec.Struct, frozen=True, gc=False):
    """A version that one side's answers have named, with the start of the first and the last pair (Unix seconds)."""

    value: str
    first: float
    last: float


class Accounting(msgspec.Struct, frozen=True, gc=False):
    """Where every request of one proxy went. Sums of several proxies are accounts too.

    The identity that holds whenever nothing is in flight: `requests = skipped + eligible` and
    `eligible = recorded + dropped`.
    """

    requests: int = 0
    eligible: int = 0
    recorded: int = 0
    skipped: dict[str, int] = {}
    dropped: dict[str, int] = {}

    @property
    def in_flight(self) -> int:
        """Eligible requests whose pair is neither recorded nor dropped yet."""
        return self.eligible - self.recorded - sum(self.dropped.values())

    @property
    def balanced(self) -> bool:
        """Whether the identity holds with nothing in flight."""
        return self.requests == sum(self.skipped.values()) + self.eligible and self.in_flight == 0

    def __add__(self, other: Accounting) -> Accounting:
        return Accounting(
            self.requests + other.requests,
            self.eligible + other.eligible,
            self.recorded + other.recorded,
            _add(self.skipped, other.skipped),
            _add(self.dropped, other.dropped),
        )


def _add(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
    return {key: a.get(key, 0) + b.get(key, 0) for key in sorted({*a, *b})}
