"""Where in a body a route's expressions look, as far as that can be told from their text.

A plain way through the body is a path: fields, `[*]`, indices, slices, filters and flattenings, joined by dots and
pipes; of `a || b` both are. What is computed (functions, multiselects, comparisons) has none.
"""

from __future__ import annotations

from collections.abc import Iterator

import jmespath

from shadowproxy.compare.extraction.extract import Node
from shadowproxy.config.paths import Each, Step

Steps = tuple[Step, ...]
_BODY: Steps = ("response", "body")


def body_paths(expression: str) -> tuple[Steps, ...]:
    """The paths into the response's body that `expression` reads; an index counts as `[*]`.

    >>> body_paths("response.body.items[0].id || request.body.ids")
    (('items', <Each.ITEM: '[*]'>, 'id'),)
    >>> body_paths("max(response.body.scores)")
    ()
    """
    found = _ways(jmespath.compile(expression).parsed, ((),)) or ()
    return tuple(way[len(_BODY) :] for way in dict.fromkeys(found) if way[: len(_BODY)] == _BODY)


def _ways(node: Node, start: tuple[Steps, ...]) -> tuple[Steps, ...] | None:
    """Where `node` leads from where `start` is; None where it can't be told."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        return tuple((*way, node["value"]) for way in start)
    if kind in ("identity", "current"):
        return start
    if kind in ("index", "slice"):
        return tuple((*way, Each.ITEM) for way in start)
    if kind == "or_expression":
        return tuple(_either(children, start)) or None
    if kind in ("subexpression", "index_expression", "pipe"):
        return _through(children, start)
    if kind == "flatten":
        return _through(children, start)
    if kind in _PROJECTIONS:
        return _projected(kind, children, start)
    return None


_PROJECTIONS = {"projection": Each.ITEM, "filter_projection": Each.ITEM, "value_projection": Each.CHILD}


def _either(children: list[Node], start: tuple[Steps, ...]) -> Iterator[Steps]:
    for child in children:
        yield from _ways(child, start) or ()


def _through(children: list[Node], start: tuple[Steps, ...]) -> tuple[Steps, ...] | None:
    ways: tuple[Steps, ...] | None = start
    for child in children:
        ways = None if ways is None else _ways(child, ways)
    return ways


def _projected(kind: str, children: list[Node], start: tuple[Steps, ...]) -> tuple[Steps, ...] | None:
    base, each = children[:2]
    ways = _ways(base, start)
    # A slice says by itself that it is of a list.
    sliced = base["type"] == "index_expression" and base["children"][-1]["type"] == "slice"
    if ways is not None and not sliced:
        ways = tuple((*way, _PROJECTIONS[kind]) for way in ways)
    return None if ways is None else _ways(each, ways)
