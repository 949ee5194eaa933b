"""W3C Trace Context, Level 1, for copies: the client's trace goes on in them, each as a span of its own.

The client's own request is passed on as it came, `traceparent` and all, valid or not. A copy gets the same trace id and
flags and a new parent id, and the client's `tracestate`: in a trace the copies stand beside the original, where one
parent id for both would make two services claim one span. What is not valid is left out of a copy, `tracestate` with it
(sections 3.2.2.5 and 3.3.1.1). Where the client sends none, none is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

_PARENT = re.compile(rb"\r\ntraceparent:[ \t]*([^\r]*)", re.IGNORECASE)
_BOTH = re.compile(rb"\r\ntrace(?:parent|state):[^\r]*", re.IGNORECASE)
# A version to come may have more after what is known; it is sent on as the version that is known (section 3.2.2).
_VALID = re.compile(
    rb"(?:(00)|(?!00|ff)[0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?(1)|(?:-.*)?)"
)


class RandomSpans:
    """Span ids: 16 hexadecimal digits, never all zeros; the kernel is asked for many at a time."""

    def __init__(self) -> None:
        self._ready: list[bytes] = []

    def __call__(self) -> bytes:
        """The next id."""
        while not self._ready:
            digits = os.urandom(8 * 256).hex().encode()
            self._ready = [span for at in range(0, len(digits), 16) if (span := digits[at : at + 16]) != b"0" * 16]
        return self._ready.pop()


def traced(fields: bytes) -> bool:
    """Whether header lines (a CRLF before each) have a `traceparent`."""
    return b"\r\ntraceparent:" in fields.lower()


def child_trace(fields: bytes, new_span: Callable[[], bytes]) -> bytes:
    """Header lines (a CRLF before each) of which one or more is a `traceparent`, as they are sent with a copy.

    >>> fields = b"\\r\\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    >>> child_trace(fields, lambda: b"b7ad6b7169203331")
    b'\\r\\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01'
    """
    values = _PARENT.findall(fields)
    match = _VALID.fullmatch(values[0].rstrip(b" \t")) if len(values) == 1 else None
    if match is None:
        return _BOTH.sub(b"", fields)
    # Of a version to come only the flag `sampled` is known.
    flags = match[3] if match[1] else b"%02x" % (int(match[3], 16) & 1)
    return _PARENT.sub(b"\r\ntraceparent: 00-%b-%b-%b" % (match[2], new_span(), flags), fields)
