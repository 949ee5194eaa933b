"""The rules of a route's `valid`, compiled: which of them an answer breaks.

Each sees the document `{request, response, annotations}` of one answer, as it was sent (duplicates, order and all):

| rule | holds where |
| --- | --- |
| `schema` | the body is valid by the JSON Schema |
| `length` | items of a list, names of an object or characters of a string are no fewer than `min`, no more than `max` |
| `unique` | it is a list in which no id stands twice, 1 and "1" being one id; what is no id goes by its JSON |
| `range` | it is a number, or a list of nothing but numbers, each within `min` and `max` |
| `descending` | it is a list of nothing but numbers, none above the one before |
| `forbidden` | none of the answer's ids is among those; all that are no ids are passed over |
| `required` | all of those are among the answer's ids |
| `holds` | the expression is true as JMESPath has it: not null, false, "", [] or {}; 0 is true |
| `status` | the status is one of those |
| `header` | the first header of that name is there, and is as the pattern says |

Where the rule's expression can't be evaluated on an answer it is broken. Where `forbidden` or `required` get their ids
by an expression that finds none, or can't be evaluated, nothing is forbidden or required: that is the request's doing.
The empty list is unique, within any range, and descending; null is no list, and no number.
"""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema_rs
import orjson

from shadowproxy.compare.extraction.extract import Expression, ExtractError, is_false
from shadowproxy.compare.extraction.readings import canonical
from shadowproxy.config import Route
from shadowproxy.config.validity import Bounds, Rule, refuse

Document = dict[str, Any]
Check = Callable[[Document], bool]
"""Whether an answer's document keeps to a rule. Raises ExtractError where that can't be evaluated: it doesn't."""


class Checks:
    """All rules of one route."""

    def __init__(self, route: Route) -> None:
        compiled = [(str(rule.name), *_compiled(rule, route)) for rule in route.valid or ()]
        self._checks = tuple((name, check) for name, check, _ in compiled)
        self.reads = frozenset[str]().union(*(reads for _, _, reads in compiled))
        """The parts of a document that they look at (see `extract.Expression`)."""

    def __call__(self, document: Document) -> tuple[str, ...]:
        """The names of the rules that the answer breaks, in their order. Never raises."""
        return tuple(name for name, check in self._checks if not _kept(check, document))


def _kept(check: Check, document: Document) -> bool:
    try:
        return check(document)
    except (ExtractError, ValueError, TypeError, OverflowError, RecursionError):
        # Of a value that a library refuses to look at. An answer that can't be checked isn't valid.
        return False


def _compiled(rule: Rule, route: Route) -> tuple[Check, frozenset[str]]:
    return _COMPILERS[rule.kind](rule, route)


def _schema(rule: Rule, _route: Route) -> tuple[Check, frozenset[str]]:
    schema = True if rule.schema_ is None else rule.schema_
    validator = jsonschema_rs.validator_for(schema, retriever=refuse)
    return lambda document: validator.is_valid(document["response"]["body"]), frozenset({"response.body"})


def _length(rule: Rule, route: Route) -> tuple[Check, frozenset[str]]:
    low, high, of = _bounds(rule.length, route.ids)

    def check(document: Document) -> bool:
        value = of(document)
        return isinstance(value, list | dict | str) and low <= len(value) <= high

    return check, of.reads


def _unique(rule: Rule, route: Route) -> tuple[Check, frozenset[str]]:
    of = _own(rule.unique, route.ids)

    def check(document: Document) -> bool:
        value = of(document)
        if not isinstance(value, list):
            return False
        known = value if set(map(type, value)) <= {str} else map(_identity, value)
        return len(set(known)) == len(value)

    return check, of.reads


def _range(rule: Rule, route: Route) -> tuple[Check, frozenset[str]]:
    low, high, of = _bounds(rule.range, route.scores)

    def check(document: Document) -> bool:
        value = of(document)
        numbers = value if isinstance(value, list) else [value]
        return _are_numbers(numbers) and all(low <= one <= high for one in numbers)

    return check, of.reads


def _descending(rule: Rule, route: Route) -> tuple[Check, frozenset[str]]:
    of = _own(rule.descending, route.scores)

    def check(document: Document) -> bool:
        value = of(document)
        return isinstance(value, list) and _are_numbers(value) and all(map(operator.ge, value, value[1:]))

    return check, of.reads


def _forbidden(rule: Rule, route: Route) -> tuple[Check, frozenset[str]]:
    items, of = _ids(rule.forbidden), _own(True, route.ids)
    return lambda document: items(document).isdisjoint(_names(of(document))), of.reads | items.reads


def _required(rule: Rule, route: Route) -> tuple[Check, frozenset[str]]:
    items, of = _ids(rule.required), _own(True, route.ids)
    return lambda document: items(document) <= _names(of(document)), of.reads | items.reads


def _holds(rule: Rule, _route: Route) -> tuple[Check, frozenset[str]]:
    of = Expression(rule.holds or "")
    return lambda document: not is_false(of(document)), of.reads


def _status(rule: Rule, _route: Route) -> tuple[Check, frozenset[str]]:
    allowed = frozenset(rule.status or ())
    return lambda document: document["response"]["status"] in allowed, frozenset({"response.status"})


def _header(rule: Rule, _route: Route) -> tuple[Check, frozenset[str]]:
    patterns = {name: re.compile(fnmatch.translate(glob)) for name, glob in (rule.header or {}).items()}

    def check(document: Document) -> bool:
        found: Mapping[str, str] = document["response"]["headers"]
        return all(name in found and pattern.match(found[name]) for name, pattern in patterns.items())

    return check, frozenset({"response.headers"})


_COMPILERS: Mapping[str, Callable[[Rule, Route], tuple[Check, frozenset[str]]]] = {
    "schema": _schema,
    "length": _length,
    "unique": _unique,
    "range": _range,
    "descending": _descending,
    "forbidden": _forbidden,
    "required": _required,
    "holds": _holds,
    "status": _status,
    "header": _header,
}


class _Ids:
    """The ids that a rule names, or that an expression gives."""

    def __init__(self, given: tuple[str | int, ...] | str) -> None:
        self._expression = Expression(given) if isinstance(given, str) else None
        self._fixed = frozenset() if isinstance(given, str) else _names(list(given))
        self.reads = frozenset[str]() if self._expression is None else self._expression.reads

    def __call__(self, document: Document) -> frozenset[str]:
        if self._expression is None:
            return self._fixed
        try:
            return _names(self._expression(document))
        except ExtractError:
            return frozenset()


def _ids(given: tuple[str | int, ...] | str | None) -> _Ids:
    return _Ids(given or ())


def _own(given: bool | str | None, own: str | None) -> Expression:
    """What the rule is about: its own expression, or the route's. `null` where it has none: nothing holds of that."""
    return Expression(given if isinstance(given, str) else own or "`null`", aligned=True)


def _bounds(bounds: Bounds | None, own: str | None) -> tuple[float, float, Expression]:
    bounds = bounds or Bounds(min=0)
    low = -math.inf if bounds.min is None else bounds.min
    high = math.inf if bounds.max is None else bounds.max
    return low, high, _own(bounds.of or True, own)


def _names(value: Any) -> frozenset[str]:
    entries = value if isinstance(value, list) else [value]
    return frozenset(name for entry in entries if (name := canonical(entry)) is not None)


def _identity(value: Any) -> object:
    name = canonical(value)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS) if name is None else name


def _are_numbers(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int, float}
