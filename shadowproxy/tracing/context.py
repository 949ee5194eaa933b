"""W3C Trace Context, Levels 1 and 2: what a `traceparent` says, and the ids of our own spans.

A copy is sent before anything is known of its exchange, and its span is made long after, by others. So ids are not
drawn but derived, from what both know: the client's context and the moment at which the request began.
"""

from __future__ import annotations

import hashlib
import re
import struct
from typing import Final

import msgspec

# A version to come may have more after what is known; it is read as the version that is known (section 3.2.2).
_VALID: Final = re.compile(
    rb"(?:(00)|(?!00|ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?(1)|(?:-.*)?)"
)
_SAMPLED: Final = 1


class Context(msgspec.Struct, frozen=True, gc=False):
    """A valid `traceparent`. Ids are lower-case hexadecimal digits, 32 of the trace and 16 of the span."""

    trace: bytes
    parent: bytes
    flags: int
    """Of a version to come only `sampled` is known."""

    @property
    def sampled(self) -> bool:
        """Whether its spans are meant to be kept."""
        return bool(self.flags & _SAMPLED)


def read_traceparent(value: bytes) -> Context | None:
    """The context in a header's value; None where it is not valid (section 3.2.2.5).

    >>> read_traceparent(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").sampled
    True
    >>> read_traceparent(b"00-00000000000000000000000000000000-00f067aa0ba902b7-01") is None
    True
    """
    match = _VALID.fullmatch(value)
    if match is None:
        return None
    known, trace, parent, flags = match.groups()
    return Context(trace, parent, int(flags, 16) if known else int(flags, 16) & _SAMPLED)


def derived_span(trace: bytes, parent: bytes, started: float, what: str) -> bytes:
    """The id of one of our spans: 16 hexadecimal digits.

    `trace` and `parent` are the ids in the client's context (or of our own trace, and empty), `started` the request's
    Unix time, `what` a side, or `request` for the span that holds those of the sides. Two requests share an id only if
    they began under one parent in the same quarter of a microsecond.

    >>> derived_span(b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7", 1.5, "candidate")
    b'91e7d12609e8f39e'
    """
    said = b"".join((trace, parent, struct.pack("<d", started)))
    return hashlib.blake2b(said, digest_size=8, person=what.encode("ascii")).hexdigest().encode("ascii")


def own_trace(request_id: str, started: float) -> bytes:
    """The id of the trace of a request that came without one: 32 hexadecimal digits."""
    said = request_id.encode("utf-8", "surrogatepass") + struct.pack("<d", started)
    return hashlib.blake2b(said, digest_size=16, person=b"trace").hexdigest().encode("ascii")
