"""JMESPath expressions, compiled once into closures.

Two readings of one expression:

* *standard*: as the specification has it; projections drop nulls.
* *aligned*: for `ids` and `scores`, which are matched by place. A projection yields exactly one value per element, null
  where there is none, so that `items[*].score` has as many places as `items[*].id`. This holds along the way the
  result takes (chains, pipes, `||`, `&&`, and the arguments of functions that keep places: `map`, `not_null`,
  `reverse`, `to_array`); in conditions, comparisons and the arguments of other functions nulls are dropped as ever, so
  that `max(items[*].score)` means what it says. In `groups[].items[].id` a group *without* `items` has no places,
  and adds none.

Why closures: the interpreter of jmespath takes about 1.5 µs per element, which for two lists on two sides is more than
everything else that is done to a pair. The node types that ordinary paths are made of are closures here; any other
node is handed to that interpreter.

Source: https://jmespath.org/specification.html.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import jmespath
import jmespath.exceptions
from jmespath.visitor import TreeInterpreter

Node = Any
"""One node of jmespath's syntax tree: a dict of `type`, `children` and maybe `value`. Its type is private there."""
Step = Callable[[Any], Any]

ROOTS: dict[str, frozenset[str]] = {
    "request": frozenset({"method", "path", "query", "headers", "body"}),
    "response": frozenset({"status", "headers", "body"}),
    "annotations": frozenset(),
}
"""What a document has, by root."""


class ExtractError(Exception):
    """An expression that could not be evaluated on a document (a function got what it does not take)."""


class Expression:
    """One compiled expression. `text` must be valid JMESPath (the configuration has checked it).

    `reads` says which parts of a document the result may depend on, as `request.body`, `response.status`,
    `annotations`. It errs on the side of too many: a part whose names are nowhere in the text is not read.
    """

    def __init__(self, text: str, *, aligned: bool = False) -> None:
        self.text = text
        root: Node = jmespath.compile(text).parsed
        self.root = root
        self.reads = _reads(root)
        self._evaluate = _build(root, aligned)

    def __call__(self, document: Mapping[str, Any]) -> Any:
        """The result on `document`: JSON as Python values, None where there is none. Raises ExtractError."""
        try:
            return self._evaluate(document)
        except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
            # jmespath checks some arguments only (JMESPathError is a ValueError) and lets Python refuse the others.
            raise ExtractError(f"{self.text}: {error}") from None

    def __repr__(self) -> str:
        return f"<Expression {self.text!r} reads {', '.join(sorted(self.reads))}>"


def _reads(root: Node) -> frozenset[str]:
    names = set()
    roots = set()
    for node, at_root in _walk(root, True):
        if node["type"] == "field":
            names.add(node["value"])
            if at_root:
                roots |= ROOTS.keys() & {node["value"]}
        elif at_root and node["type"] in ("current", "identity"):
            return frozenset(f"{name}.{part}" for name, parts in ROOTS.items() for part in parts) | {"annotations"}
    found: set[str] = set()
    for name in roots:
        parts = ROOTS[name]
        found |= {f"{name}.{part}" for part in parts & names or parts} or {name}
    return frozenset(found)


_SCOPED = frozenset(
    {"subexpression", "index_expression", "pipe", "projection", "value_projection", "filter_projection"}
)


def _walk(node: Node, at_root: bool) -> Iterator[tuple[Node, bool]]:
    """All nodes, each with whether it is evaluated on the document itself rather than on something in it."""
    yield node, at_root
    for at, child in enumerate(node["children"]):
        if isinstance(child, dict):
            inner = (at > 0 and node["type"] in _SCOPED) or node["type"] == "expref"
            yield from _walk(child, at_root and not inner)


_KEEP_PLACES = frozenset({"map", "not_null", "reverse", "to_array"})
_PROJECTIONS = frozenset({"projection", "value_projection", "filter_projection"})


def _joins_missing_lists(projection: Node) -> bool:
    """Whether a projection runs over the joined lists of an inner projection, and looks for something in each.

    Then a null of the inner one is a list that is not there. It can't shift `ids` against `scores`, for both look
    into the same elements of it.
    """
    left, right = projection["children"][:2]
    return left["type"] == "flatten" and left["children"][0]["type"] in _PROJECTIONS and right["type"] != "identity"


class _AlignedInterpreter(TreeInterpreter):
    """The nodes that are not closures, in the aligned reading."""

    def visit_projection(self, node: Node, value: Any) -> Any:
        return _projection(node, aligned=True)(value)

    def visit_value_projection(self, node: Node, value: Any) -> Any:
        base = self.visit(node["children"][0], value)
        return [self.visit(node["children"][1], inner) for inner in base.values()] if isinstance(base, dict) else None

    def visit_filter_projection(self, node: Node, value: Any) -> Any:
        left, right, condition = node["children"]
        base = self.visit(left, value)
        if not isinstance(base, list):
            return None
        kept = [element for element in base if not is_false(_STANDARD.visit(condition, element))]
        return [self.visit(right, element) for element in kept]

    def visit_comparator(self, node: Node, value: Any) -> Any:
        return _STANDARD.visit(node, value)

    def visit_expref(self, node: Node, value: Any) -> Any:
        return _STANDARD.visit(node, value)

    def visit_function_expression(self, node: Node, value: Any) -> Any:
        if node["value"] in _KEEP_PLACES:
            return super().visit_function_expression(node, value)
        return _STANDARD.visit(node, value)


_STANDARD = TreeInterpreter()
_ALIGNED = _AlignedInterpreter()


def _build(node: Node, aligned: bool) -> Step:
    builder = _BUILDERS.get(node["type"])
    if builder is not None:
        return builder(node, aligned)
    interpreter = _ALIGNED if aligned else _STANDARD
    return lambda value: interpreter.visit(node, value)


def _field(node: Node, _aligned: bool) -> Step:
    name = node["value"]
    return lambda value: value.get(name) if isinstance(value, dict) else None


def _chain(node: Node, aligned: bool) -> Step:
    steps = tuple(_build(child, aligned) for child in node["children"])

    def run(value: Any) -> Any:
        for step in steps:
            value = step(value)
        return value

    return run


def _identity(_node: Node, _aligned: bool) -> Step:
    return lambda value: value


def _flatten(node: Node, aligned: bool) -> Step:
    base_of = _build(node["children"][0], aligned)

    def run(value: Any) -> Any:
        base = base_of(value)
        if not isinstance(base, list):
            return None
        if list not in set(map(type, base)):
            return base
        flat: list[Any] = []
        for element in base:
            if isinstance(element, list):
                flat.extend(element)
            else:
                flat.append(element)
        return flat

    return run


def _or(node: Node, aligned: bool) -> Step:
    first, second = (_build(child, aligned) for child in node["children"])

    def run(value: Any) -> Any:
        result = first(value)
        return second(value) if is_false(result) else result

    return run


def is_false(value: Any) -> bool:
    """Whether a value is false as JMESPath has it; 0 is not."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def _projection(node: Node, aligned: bool) -> Step:
    left, right = node["children"]
    base_of = _build(left, aligned)
    each = _each(right, aligned)
    join = _joins_missing_lists(node)

    def run(value: Any) -> Any:
        base = base_of(value)
        if not isinstance(base, list):
            return None
        if not aligned:
            return [result for result in each(base) if result is not None]
        return each([element for element in base if element is not None] if join else base)

    return run


def _each(node: Node, aligned: bool) -> Callable[[list[Any]], list[Any]]:
    """From a list to the results of `node` on each of its elements, nulls included."""
    if node["type"] == "identity":
        return list
    if node["type"] != "field":
        step = _build(node, aligned)
        return lambda base: [step(element) for element in base]
    name = node["value"]
    get = itemgetter(name)

    def fields(base: list[Any]) -> list[Any]:
        try:
            return list(map(get, base))
        except (KeyError, TypeError):
            return [element.get(name) if isinstance(element, dict) else None for element in base]

    return fields


_BUILDERS: dict[str, Callable[[Node, bool], Step]] = {
    "field": _field,
    "subexpression": _chain,
    "index_expression": _chain,
    "pipe": _chain,
    "identity": _identity,
    "current": _identity,
    "flatten": _flatten,
    "or_expression": _or,
    "projection": _projection,
}
