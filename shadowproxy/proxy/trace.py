"""W3C Trace Context for copies: the client's trace goes on in them, each as a span of its own.

The client's own request is passed on as it came, `traceparent` and all, valid or not. A copy gets the same trace id and
flags and a new parent id, and the client's `tracestate`: in a trace the copies stand beside the original, where one
parent id for both would make two services claim one span. What is not valid is left out of a copy, `tracestate` with it
(sections 3.2.2.5 and 3.3.1.1). Where the client sends none, none is made: an upstream that traces takes time for it,
and only one side would.

The new parent id is that of the copy's own span, which is exported where `tracing` says so (see `tracing.spans`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from shadowproxy.tracing.context import read_traceparent

_STATE: Final = re.compile(rb"\r\ntracestate:[^\r]*", re.IGNORECASE)

NewSpan = Callable[[bytes, bytes, float, str], bytes]
"""Gives the id of a copy's span (see `tracing.context.derived_span`, which is what it is but in tests)."""


def copied_trace(fields: bytes, parent: bytes, started: float, side: str, new_span: NewSpan) -> tuple[bytes, bytes]:
    """(header lines, `traceparent` line) of a copy, whose request came with `parent` as its `traceparent`.

    `fields` are the other header lines; a CRLF stands before each line. `started` is when the request began (Unix
    time), `side` whom the copy is for.

    >>> parent = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    >>> copied_trace(b"\\r\\ntracestate: a=1", parent, 0.0, "candidate", lambda *_: b"b7ad6b7169203331")[1]
    b'\\r\\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-b7ad6b7169203331-01'
    """
    context = read_traceparent(parent)
    if context is None:
        return _STATE.sub(b"", fields), b""
    span = new_span(context.trace, context.parent, started, side)
    return fields, b"\r\ntraceparent: 00-%b-%b-%02x" % (context.trace, span, context.flags)
