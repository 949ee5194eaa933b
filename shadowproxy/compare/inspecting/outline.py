"""An unknown JSON document in outline: which paths there are, of what types, and an example of each.

Documents are untrusted: whatever is shown is bounded in number and length. Paths are JMESPath, fit for a route.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

_MOST_PATHS: Final = 200
_MOST_KEYS: Final = 40
_MOST_VALUES: Final = 200_000
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EXAMPLE: Final = 48


@dataclass(slots=True)
class Line:
    """One path of the outline."""

    path: str
    types: Counter[str] = field(default_factory=Counter)
    """How often what stands there: object, list, string, integer, number, boolean, null."""
    example: str = ""
    """The first value, as JSON, cut; of a list its lengths."""
    lengths: tuple[int, int] | None = None
    """The shortest and the longest of the lists."""


@dataclass(slots=True)
class Outline:
    """The lines in the order in which they first occur, and whether something was left out."""

    lines: list[Line]
    cut: bool


def step(path: str, key: str) -> str:
    """The path of a member, as JMESPath.

    >>> step("response.body", "items"), step("response.body", "größe €")
    ('response.body.items', 'response.body."gr\\\\u00f6\\\\u00dfe \\\\u20ac"')
    """
    if _PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}"
    # In a configuration ${NAME} would stand for a variable.
    return f"{path}.{json.dumps(key)}".replace("${", "\\u0024{")


def brief(value: Any, length: int = _EXAMPLE) -> str:
    """A value as JSON, cut to so many characters; of an object or a list only how large it is.

    >>> brief("a" * 9, 6), brief(0.5), brief([1, 2])
    ('"aaaa…', '0.5', 'of 2')
    """
    if isinstance(value, dict | list):
        return f"of {len(value):,}"
    if isinstance(value, str):
        value = value[: length + 1]
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def kind_of(value: Any) -> str:
    """The JSON type of a value, integers told from other numbers."""
    return _KINDS.get(type(value), "number")


_KINDS: Final = {
    dict: "object", list: "list", str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"
}  # fmt: skip


def outline(document: Any, root: str) -> Outline:
    """The outline of a document that stands at the path `root`; all elements of a list are one path, `[*]`."""
    lines: dict[str, Line] = {}
    cut = False
    # By hand and not by recursion, which a deep document would end; reversed, so that what comes first is shown first.
    waiting: list[tuple[str, Any]] = [(root, document)]
    seen = 0
    while waiting:
        path, value = waiting.pop()
        seen += 1
        if seen > _MOST_VALUES or (path not in lines and len(lines) >= _MOST_PATHS):
            cut = True
            continue
        _add(lines.setdefault(path, Line(path)), value)
        if isinstance(value, dict):
            cut = cut or len(value) > _MOST_KEYS
            members = list(value.items())[:_MOST_KEYS]
            waiting += [(step(path, key), inner) for key, inner in reversed(members)]
        elif isinstance(value, list):
            room = max(0, _MOST_VALUES - seen)
            cut = cut or len(value) > room
            waiting += [(f"{path}[*]", inner) for inner in reversed(value[:room])]
    return Outline(list(lines.values()), cut)


def _add(line: Line, value: Any) -> None:
    line.types[kind_of(value)] += 1
    if isinstance(value, list):
        low, high = line.lengths or (len(value), len(value))
        line.lengths = min(low, len(value)), max(high, len(value))
    elif not line.example and value is not None and not isinstance(value, dict):
        line.example = brief(value)
