"""Server-sent events: from a whole body to the data of its events.

Source: WHATWG HTML, section 9.2.6 (https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO


def event_data(body: bytes) -> Iterator[bytes]:
    """The data of each event, its lines joined by LF; comments, other fields and events without data are skipped.

    Lines end in CRLF, LF or CR. The last event is given also without the blank line that completes it, unlike in the
    specification: some servers leave that out, and half an event is no JSON, so a reader notices.

    >>> list(event_data(b": hello\\r\\n\\r\\ndata: a\\r\\ndata:b\\r\\n\\r\\nevent: x\\ndata: c\\n"))
    [b'a\\nb', b'c']
    """
    body = body.removeprefix(b"\xef\xbb\xbf")
    if b"\r" in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines: list[bytes] = []
    # Line by line and not all at once: a body of nothing but line ends would fill many times its size.
    for line in BytesIO(body):
        if line != b"\n":
            name, _, value = line.removesuffix(b"\n").partition(b":")
            if name == b"data":
                lines.append(value.removeprefix(b" "))
        elif lines:
            yield from _dispatched(lines)
            lines = []
    yield from _dispatched(lines)


def _dispatched(lines: list[bytes]) -> Iterator[bytes]:
    data = b"\n".join(lines)
    if data:
        yield data
