"""Paths to fields of a JSON document, as they stand in a configuration: `user.email`, `items[*].owner`."""

from __future__ import annotations

import enum
import re
from typing import Annotated, Any

import orjson
from pydantic import BeforeValidator, WithJsonSchema


class Each(enum.Enum):
    """A step to several values."""

    ITEM = "[*]"
    """Every item of a list. A value that is no list counts as a list of one."""
    CHILD = "*"
    """Every value of an object, every item of a list."""
    DEEP = "**"
    """Any number of steps, none included. Stands in patterns only."""


Step = str | Each

_STEP = re.compile(
    r'(?P<item>\[\*\])|(?P<dot>\.)?(?:(?P<child>\*\*?)|(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<name>[^."\[\]*]+))'
)


def parse_path(text: Any) -> tuple[Step, ...]:
    """The steps of a path. A name with special characters is quoted as in JSON. Raises ValueError.

    >>> parse_path('user.email'), parse_path('items[*]."a.b"')
    (('user', 'email'), ('items', <Each.ITEM: '[*]'>, 'a.b'))
    """
    steps = _steps(text)
    if Each.DEEP in steps:
        raise ValueError(f"{text!r} is not a path: `**` is not known here, write out the steps that it stands for")
    return steps


def parse_pattern(text: Any) -> tuple[Step, ...]:
    """As `parse_path`, with `**` for any number of steps, and `$` alone for the document itself. Raises ValueError.

    >>> parse_pattern('**.id'), parse_pattern('meta.**'), parse_pattern('$')
    ((<Each.DEEP: '**'>, 'id'), ('meta', <Each.DEEP: '**'>), ())
    """
    return () if text == "$" else _steps(text)


def _steps(text: Any) -> tuple[Step, ...]:
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not a path: write the names of fields with dots between, such as user.email")
    steps: list[Step] = []
    at = 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None or (match["item"] is None and bool(match["dot"]) is not bool(steps)):
            break
        steps.append(_step(match))
        at = match.end()
    if at < len(text) or not steps:
        raise ValueError(f'{text!r} is not a path: write user.email, items[*].owner, or "a.b".c for a name with a dot')
    if re.match(r"\$(?:[.[]|$)", text):
        raise ValueError(f"{text!r}: a path begins at the document itself; leave out the `$.`")
    return tuple(steps)


def _step(match: re.Match[str]) -> Step:
    if match["item"] is not None:
        return Each.ITEM
    if match["child"] is not None:
        return Each(match["child"])
    try:
        return match["name"] or str(orjson.loads(match["quoted"]))
    except orjson.JSONDecodeError:
        raise ValueError(f"{match['quoted']} is not a name as JSON writes it") from None


def parse_field(text: Any) -> tuple[str, ...]:
    """The names of a path to exactly one field, without `*`. Raises ValueError."""
    steps = parse_path(text)
    names = tuple(step for step in steps if isinstance(step, str))
    if len(names) < len(steps):
        raise ValueError(f"{text!r}: name one field; `*` stands for several")
    return names


def _checked(text: Any) -> str:
    parse_path(text)
    return str(text)


def _checked_pattern(text: Any) -> str:
    parse_pattern(text)
    return str(text)


def _checked_field(text: Any) -> str:
    parse_field(text)
    return str(text)


JsonPath = Annotated[str, BeforeValidator(_checked), WithJsonSchema({"type": "string"})]
JsonPattern = Annotated[str, BeforeValidator(_checked_pattern), WithJsonSchema({"type": "string"})]
JsonField = Annotated[str, BeforeValidator(_checked_field), WithJsonSchema({"type": "string"})]
