"""From a captured body to JSON: content codings undone within a bound, then parsed strictly.

The media type is not looked at: many services send JSON as `text/plain`, and what doesn't parse is bad anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import orjson

from shadowproxy.encodings import DECODED_LIMIT, EncodingError, decoded

BodyFault = Literal["bad_body", "truncated_capture", "unsupported_encoding", "bad_encoding", "too_large"]


Decode = Callable[[bytes, bytes], Any]
"""From (head, body) as captured to what expressions see as `body`. Raises BodyError, and nothing else."""


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
    return decode_with(_parsed, head, body, limit=limit)


def decode_with(read: Callable[[bytes], Any], head: bytes, body: bytes, *, limit: int = DECODED_LIMIT) -> Any:
    """What `read` makes of `body` without the content codings that stand in `head`. Raises BodyError, as `read` may."""
    try:
        data, complete = decoded(head, body, limit=limit)
    except EncodingError as error:
        raise BodyError(error.kind) from None
    if not complete:
        raise BodyError("bad_encoding")
    return read(data)


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
    except (orjson.JSONDecodeError, RecursionError):
        raise BodyError("bad_body") from None
