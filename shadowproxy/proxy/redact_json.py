"""Values in JSON documents masked by path; and bodies that are, or consist of, such documents."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

import orjson

from shadowproxy.config.paths import Each, Step, parse_path
from shadowproxy.proxy.mask import GONE, Gone, Mask

Unreadable = Literal["truncated", "encoding", "not_json"]
REASONS: Final[tuple[str, ...]] = get_args(Unreadable)

_BOM: Final = b"\xef\xbb\xbf"
_LINE = re.compile(rb"\r\n|\n|\r")
_LINES = re.compile(rb"ndjson|jsonl|json-?lines|stream\+json|json-?seq")


class UnreadableError(Exception):
    """A body in which what is to be masked can't be found, so that nothing of it may leave.

    `truncated`: the capture holds only a part. `encoding`: its content codings can't be undone. `not_json`: no JSON,
    nor events or lines of JSON.
    """

    def __init__(self, reason: Unreadable) -> None:
        self.reason: Unreadable = reason
        super().__init__(reason)


class Fields:
    """The masks of one scope, by path. A document is always written anew: of a name that stands twice in an object the
    parser sees only the last, and the first might be what was to be masked."""

    def __init__(self, masks: Mapping[str, Mask]) -> None:
        self._masks = [(parse_path(path), mask) for path, mask in masks.items()]

    def __bool__(self) -> bool:
        return bool(self._masks)

    def document(self, text: bytes) -> bytes:
        """One JSON document, masked. Raises UnreadableError.

        >>> from shadowproxy.proxy.mask import drop
        >>> Fields({"items[*].owner": drop}).document(b'{"items": [{"id": 1, "owner": "a"}, {"id": 2}]}')
        b'{"items":[{"id":1},{"id":2}]}'
        """
        try:
            value: Any = orjson.loads(text.removeprefix(_BOM))
            for steps, mask in self._masks:
                value = _null_if_gone(_masked(value, steps, mask))
            return orjson.dumps(value)
        except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError):
            raise UnreadableError("not_json") from None

    def body(self, text: bytes, media_type: bytes) -> bytes:
        """A body of that media type, masked. Raises UnreadableError."""
        if media_type == b"text/event-stream":
            return self._events(text)
        try:
            return self.document(text)
        except UnreadableError:
            if not _LINES.search(media_type):
                raise
        lines = (line.strip(b"\x1e \t") for line in _LINE.split(text))
        return b"".join(self.document(line) + b"\n" for line in lines if line)

    def _events(self, text: bytes) -> bytes:
        """Server-sent events: the data of each is a document. Comments and unknown fields are left out."""
        lines = _LINE.sub(b"\n", text.removeprefix(_BOM))
        events = (self._event(event) for event in lines.split(b"\n\n"))
        return b"".join(event + b"\n" for event in events if event)

    def _event(self, event: bytes) -> bytes:
        kept: list[bytes] = []
        data: list[bytes] = []
        for line in event.split(b"\n"):
            name, _, value = line.partition(b":")
            if name == b"data":
                data.append(value.removeprefix(b" "))
            elif name in (b"event", b"id", b"retry"):
                kept.append(line)
        joined = b"\n".join(data)
        if joined.strip() in (b"", b"[DONE]"):
            kept += [b"data: " + joined.strip()] if data else []
        else:
            kept.append(b"data: " + self.document(joined))
        return b"".join(line + b"\n" for line in kept)


def _masked(value: Any, steps: Sequence[Step], mask: Mask) -> Any:
    """`value` with what `steps` lead to masked; GONE where that is the value itself, and it is dropped.

    A name leads through lists to each of their objects, and `[*]` through what is no list: answers differ in such
    things between versions of a service, and a path that no longer fits would let everything out. Items of a list that
    are dropped leave a null, so that lists stay aligned.
    """
    if not steps:
        return _leaf(value, mask)
    step, rest = steps[0], steps[1:]
    if isinstance(value, list):
        on = steps if isinstance(step, str) else rest
        return [_null_if_gone(_masked(item, on, mask)) for item in value]
    if step is Each.ITEM:
        return _masked(value, rest, mask)
    if isinstance(value, dict):
        for name in list(value) if step is Each.CHILD else (step,) if step in value else ():
            new = _masked(value[name], rest, mask)
            if new is GONE:
                del value[name]
            else:
                value[name] = new
    return value


def _leaf(value: Any, mask: Mask) -> str | Gone | None:
    """Text is hashed as it is, and everything else as JSON: `7` and `"7"` are one account. A null stays."""
    if value is None:
        return None
    return mask(value.encode() if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


def _null_if_gone(value: Any) -> Any:
    return None if value is GONE else value
