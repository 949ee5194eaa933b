"""What differs between two answers, place by place, the most telling first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from shadowproxy.encodings import DECODED_LIMIT, EncodingError, decoded
from shadowproxy.model import Exchange, headers
from shadowproxy.report.words import size

_ABSENT: Final = object()


class Difference(NamedTuple):
    """One place. Services wrote it: none of it is fit to be shown as anything but text."""

    where: str
    """`outcome`, `status`, `header NAME`, `body`, or a path within the JSON, such as `$.items[0].price`."""
    baseline: str | None
    """What stands there, JSON as JSON; None for nothing."""
    other: str | None
    remark: str = ""


def differences(baseline: Exchange, other: Exchange, *, limit: int = DECODED_LIMIT) -> list[Difference]:
    """All of them; none where nothing differs. Bodies of more than `limit` bytes, decoded, are compared undecoded."""
    found = []
    if baseline.outcome is not other.outcome:
        found.append(Difference("outcome", baseline.outcome.value, other.outcome.value))
    if baseline.status != other.status:
        found.append(Difference("status", str(baseline.status or "–"), str(other.status or "–")))
    if not (baseline.status and other.status):
        # One side has no answer; that everything in the other's differs from it says nothing more.
        return found
    return [*found, *_in_headers(baseline.head, other.head), *_in_bodies(baseline, other, limit)]


def _in_headers(baseline: bytes, other: bytes) -> Iterator[Difference]:
    ours, theirs = _by_name(baseline), _by_name(other)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield Difference(f"header {name}", ours.get(name), theirs.get(name))


def _by_name(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers(head):
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _in_bodies(baseline: Exchange, other: Exchange, limit: int) -> list[Difference]:
    ours, theirs = _plain_body(baseline, limit), _plain_body(other, limit)
    if ours == theirs:
        return []
    try:
        found = list(_in_documents(json.loads(ours), json.loads(theirs), "$"))
    except (ValueError, RecursionError):
        return [Difference("body", size(len(ours)), size(len(theirs)), "not both JSON")]
    return found or [Difference("body", None, None, "the same JSON, written otherwise")]


def _plain_body(exchange: Exchange, limit: int) -> bytes:
    try:
        return decoded(exchange.head, exchange.body, limit=limit).data
    except EncodingError:
        return exchange.body


def _in_documents(ours: Any, theirs: Any, path: str) -> Iterator[Difference]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            name = f".{key}" if key.isidentifier() else f"[{json.dumps(key, ensure_ascii=False)}]"
            yield from _in_documents(ours.get(key, _ABSENT), theirs.get(key, _ABSENT), path + name)
    elif isinstance(ours, list) and isinstance(theirs, list):
        for at in range(max(len(ours), len(theirs))):
            left = ours[at] if at < len(ours) else _ABSENT
            right = theirs[at] if at < len(theirs) else _ABSENT
            yield from _in_documents(left, right, f"{path}[{at}]")
    # In Python true is 1 and 1 is 1.0; in JSON only the latter two are one number.
    elif isinstance(ours, bool) is not isinstance(theirs, bool) or ours != theirs:
        yield Difference(path, _value(ours), _value(theirs))


def _value(value: Any) -> str | None:
    return None if value is _ABSENT else json.dumps(value, ensure_ascii=False)
