"""From a captured body to JSON: content codings undone within a bound, then parsed strictly.

The media type is not looked at: many services send JSON as `text/plain`, and what doesn't parse is bad anyway.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, Literal

import orjson

from shadowproxy.encodings import DECODED_LIMIT, EncodingError, codings, decoded

BodyFault = Literal["bad_body", "truncated_capture", "unsupported_encoding", "bad_encoding", "too_large"]


Decode = Callable[[bytes, bytes], Any]
"""From (head, body) as captured to what expressions see as `body`. Raises BodyError, and nothing else."""


_MARK = b"\xef\xbb\xbf"


class BodyError(Exception):
    """A body that can't be used. `kind` is one of a bounded set of words, fit for a metric's label.

    `bad_body`: not JSON (empty, invalid UTF-8, NaN or Infinity, nested deeper than 1024), or without what the route
    looks for. `truncated_capture`: longer than the capture cap, or left out by redaction, so that the rest is missing.
    `unsupported_encoding`: a content coding other than gzip, deflate, br and zstd. `bad_encoding`: not what its content
    coding says, or cut short. `too_large`: over the bound once decoded, or a list over `readings.LONGEST`.
    """

    def __init__(self, kind: BodyFault) -> None:
        self.kind: BodyFault = kind
        super().__init__(kind)


def decode(head: bytes, body: bytes, *, limit: int = DECODED_LIMIT) -> Any:
    """The JSON value in `body`, whose content codings stand in `head`. A byte order mark is skipped.

    Raises BodyError.

    >>> decode(b"", b'{"ids": [1]}')
    {'ids': [1]}
    """
    return parse(uncoded(head, body, limit=limit))


def uncoded(head: bytes, body: bytes, *, limit: int = DECODED_LIMIT) -> bytes:
    """`body` without the content codings that stand in `head` and without a byte order mark. Raises BodyError."""
    if len(body) <= limit and not codings(head):
        return body.removeprefix(_MARK)
    try:
        data, complete = decoded(head, body, limit=limit)
    except EncodingError as error:
        raise BodyError(error.kind) from None
    if not complete:
        raise BodyError("bad_encoding")
    return data.removeprefix(_MARK)


def parse(data: bytes) -> Any:
    """The JSON value in `data`. Raises BodyError (`bad_body`).

    A number that no float can hold, such as 1e400, is JSON all the same (RFC 8259, section 6): it is null, and so
    fails no answer in which nobody looks at it.

    >>> parse(b'{"id": "1e400", "score": 1e400}')
    {'id': '1e400', 'score': None}
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        # Only where such a number is the first fault: to look through a body token by token takes its time.
        first = _NUMBER.match(error.doc, error.pos)
        if first is None or math.isfinite(float(first[0])):
            raise BodyError("bad_body") from None
    except RecursionError:
        raise BodyError("bad_body") from None
    try:
        return orjson.loads(_TOKEN.sub(_finite, data))
    except (orjson.JSONDecodeError, RecursionError):
        raise BodyError("bad_body") from None


_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|-?[0-9][0-9.eE+-]*+', re.DOTALL)
"""A string, or what may be a number. One without an end is taken up to the end: looking for it again from every quote
in it would take for ever."""
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?")


def _finite(token: re.Match[bytes]) -> bytes:
    text = token[0]
    if text.startswith(b'"') or not _NUMBER.fullmatch(text.decode()) or math.isfinite(float(text)):
        return text
    return b"null"
