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
from typing import Final

_STATE: Final = re.compile(rb"\r\ntracestate:[^\r]*", re.IGNORECASE)
# A version to come may have more after what is known; it is sent on as the version that is known (section 3.2.2).
_VALID: Final = re.compile(
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


def copied_trace(fields: bytes, parent: bytes, new_span: Callable[[], bytes]) -> tuple[bytes, bytes]:
    """(header lines, `traceparent` line) of a copy, whose request came with `parent` as its `traceparent`.

    `fields` are the other header lines; a CRLF stands before each line.

    >>> parent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    >>> copied_trace(b"\\r\\ntracestate: a=1", parent, lambda: b"b7ad6b7169203331")[1]
    b'\\r\\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01'
    """
    match = _VALID.fullmatch(parent)
    if match is None:
        return _STATE.sub(b"", fields), b""
    known, trace, flags = match.groups()
    if not known:
        # Of a version to come only the flag `sampled` is known.
        flags = b"%02x" % (int(flags, 16) & 1)
    return fields, b"".join((b"\r\ntraceparent: 00-", trace, b"-", new_span(), b"-", flags))
