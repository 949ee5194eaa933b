"""A document as its leaves: what stands where, so that two documents are compared place by place.

A **leaf** is a value that holds no other: a string, number, boolean, null, an empty object or an empty list. It is
known by its place (the path, with `[*]` for the items of lists) and, within that, by which items of the lists on the
way it is in. Ordinarily that is their positions. An item of a list that is *matched* is known by its key (1 and "1" are
the same, as ids are), one of an *unordered* list by all that is in it; of several such the first, second and so on. An
item of a matched list that has no such key goes by its position among those that haven't.

Numbers are equal where they are the same number: 1 and 1.0, and an integer is never rounded. true is no number. NaN,
which JSON can't have and binary tensors can, equals itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from shadowproxy.compare.extraction.readings import canonical
from shadowproxy.compare.structure.places import Place
from shadowproxy.config.paths import Each

DEEPEST = 100
"""Levels of nesting that are followed."""

Where = tuple[Hashable, ...]
"""Which items of the lists on the way, outermost first."""


class _Token:
    """A JSON value that Python would take for another one."""

    __slots__ = ("kind", "name")

    def __init__(self, name: str, kind: str) -> None:
        self.name = name
        self.kind = kind

    def __repr__(self) -> str:
        return self.name


_TRUE: Final = _Token("true", "boolean")
_FALSE: Final = _Token("false", "boolean")
_NAN: Final = _Token("NaN", "number")
_OBJECT: Final = _Token("{}", "object")
_LIST: Final = _Token("[]", "array")


class TooLarge(Exception):  # noqa: N818  (what a document is, read as such at the call site)
    """A document of more leaves than are compared, or nested more deeply."""


class Column:
    """The leaves at one place: parallel lists, of which that of `wheres` may be shared by several columns."""

    __slots__ = ("values", "wheres")

    def __init__(self, wheres: list[Where], values: list[Any]) -> None:
        self.wheres = wheres
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def by_where(self) -> dict[Where, Any]:
        """The leaves, each by where it is."""
        return dict(zip(self.wheres, self.values, strict=True))


@dataclass(slots=True)
class Leaves:
    """What stands in one document."""

    at: dict[Place, Column] = field(default_factory=dict)
    items: dict[Place, set[Where]] = field(default_factory=dict)
    """The items there are in those lists of which only common ones count."""
    size: int = 0


def kind_of(leaf: Any) -> str:
    """The JSON type of a leaf."""
    if isinstance(leaf, _Token):
        return leaf.kind
    return "null" if leaf is None else "string" if isinstance(leaf, str) else "number"


Contents = dict[frozenset[Any], int]
"""Numbers for all that has been found in items of unordered lists, so that what is in what is not compared over again
at each level."""


def leaves_of(document: Any, root: Place | None, most: int, contents: Contents) -> Leaves:
    """The leaves of a JSON value. Raises TooLarge past `most` of them, or `DEEPEST` levels.

    Documents that are to be compared share their root and `contents` (empty at first).
    """
    found = Leaves()
    if root is not None:
        _Walk(found, most, contents).walk(root, [()], [document], 0)
    return found


class _Walk:
    """Goes down level by level, with all values of one place at once: most of a large document are many items alike,
    and a list comprehension over a field of theirs costs a tenth of looking at each by itself."""

    def __init__(self, found: Leaves, most: int, contents: Contents) -> None:
        self._found = found
        self._most = most
        self._contents = contents

    def walk(self, root: Place, wheres: list[Where], values: list[Any], depth: int) -> None:
        # A stack of its own: documents may be nested more deeply than Python's.
        stack = [(root, wheres, values, depth)]
        while stack:
            place, wheres, values, depth = stack.pop()
            kinds = set(map(type, values))
            if dict not in kinds and list not in kinds:
                self._add(place, wheres, values, kinds)
                continue
            if depth >= DEEPEST:
                raise TooLarge
            for child, beneath, inner in self._below(place, wheres, values, kinds, depth):
                stack.append((child, beneath, inner, depth + 1))
                if len(stack) > self._most:
                    raise TooLarge

    def _below(
        self, place: Place, wheres: list[Where], values: list[Any], kinds: set[type], depth: int
    ) -> Iterator[_Level]:
        """What the containers among the values hold, by place; the leaves among them are added."""
        none: _Some = ([], [])
        objects, lists, leaves = none, none, none
        if len(kinds) == 1 and all(values):
            objects, lists = ((wheres, values), none) if dict in kinds else (none, (wheres, values))
        else:
            objects, lists, leaves = _parted(wheres, values)
        if leaves[0]:
            self._add(place, *leaves, set(map(type, leaves[1])))
        if objects[0]:
            yield from _data(place, *objects) if place.mapped else _fields(place, *objects)
        child = place.child(Each.ITEM) if lists[0] else None
        if child is None:
            return
        if sum(map(len, lists[1])) > self._most:
            raise TooLarge
        if place.unordered:
            self._add_unordered(child, *lists, depth)
        else:
            yield child, self._items(place, *lists), list(chain.from_iterable(lists[1]))

    def _items(self, place: Place, wheres: list[Where], lists: list[list[Any]]) -> list[Where]:
        """Where the items of the lists are, one list after the other."""
        if not place.key:
            return [(*where, at) for where, items in zip(wheres, lists, strict=True) for at in range(len(items))]
        found: list[Where] = []
        for where, items in zip(wheres, lists, strict=True):
            found += [(*where, key) for key in _numbered(_keys(items, place.key))]
        if place.common:
            self._found.items.setdefault(place, set()).update(found)
        return found

    def _add(self, place: Place, wheres: list[Where], values: list[Any], kinds: set[type]) -> None:
        if place.common and list in kinds:
            # A list without items has none in common with any other.
            kept = [at for at, value in enumerate(values) if not isinstance(value, list)]
            wheres, values = [wheres[at] for at in kept], [values[at] for at in kept]
        self._found.size += len(values)
        if self._found.size > self._most:
            raise TooLarge
        if not kinds <= _HELD and not (kinds <= _NUMBERS and not any(value != value for value in values)):
            values = list(map(_token, values))
        column = self._found.at.get(place)
        if column is None:
            self._found.at[place] = Column(wheres, values)
        else:
            self._found.at[place] = Column(column.wheres + wheres, column.values + values)

    def _add_unordered(self, child: Place, wheres: list[Where], lists: list[list[Any]], depth: int) -> None:
        """An item is known by all that is in it, so that each is walked by itself first."""
        for where, items in zip(wheres, lists, strict=True):
            parts = []
            for item in items:
                part = Leaves(size=self._found.size)
                _Walk(part, self._most, self._contents).walk(child, [()], [item], depth + 1)
                self._found.size = part.size
                parts.append(part)
            contents = self._contents
            numbers = [contents.setdefault(_content(part), len(contents)) for part in parts]
            for part, name in zip(parts, _numbered(numbers), strict=True):
                self._merge(part, (*where, name))

    def _merge(self, part: Leaves, where: Where) -> None:
        for place, column in part.at.items():
            beneath = [(*where, *rest) for rest in column.wheres]
            held = self._found.at.setdefault(place, Column([], []))
            held.wheres += beneath
            held.values += column.values
        for place, items in part.items.items():
            self._found.items.setdefault(place, set()).update((*where, *rest) for rest in items)


_Some = tuple[list[Where], list[Any]]
_Level = tuple[Place, list[Where], list[Any]]
_HELD = {str, int, type(None)}
"""Types whose values are leaves as they are."""
_NUMBERS = {*_HELD, float}


def _parted(wheres: list[Where], values: list[Any]) -> tuple[_Some, _Some, _Some]:
    """The objects and the lists that hold something, and the leaves."""
    objects: _Some = ([], [])
    lists: _Some = ([], [])
    leaves: _Some = ([], [])
    for where, value in zip(wheres, values, strict=True):
        kind = leaves
        if value and isinstance(value, dict):
            kind = objects
        elif value and isinstance(value, list):
            kind = lists
        kind[0].append(where)
        kind[1].append(value)
    return objects, lists, leaves


def _token(value: Any) -> Any:
    if value is True or value is False:
        return _TRUE if value else _FALSE
    if isinstance(value, dict | list):
        return _OBJECT if isinstance(value, dict) else _LIST
    return value if value == value else _NAN


def _fields(place: Place, wheres: list[Where], objects: list[dict[str, Any]]) -> Iterator[_Level]:
    names = dict.fromkeys(chain.from_iterable(objects))
    if all(len(one) == len(names) for one in objects):
        # They have the same names, all of them.
        for name in names:
            child = place.child(name)
            if child is not None:
                yield child, wheres, list(map(itemgetter(name), objects))
        return
    yield from _gathered(
        (child, where, value)
        for where, one in zip(wheres, objects, strict=True)
        for name, value in one.items()
        if (child := place.child(name)) is not None
    )


def _data(place: Place, wheres: list[Where], objects: list[dict[str, Any]]) -> Iterator[_Level]:
    child = place.child(Each.CHILD)
    if child is not None:
        yield from _gathered(
            (child, (*where, name), value)
            for where, one in zip(wheres, objects, strict=True)
            for name, value in one.items()
        )


def _gathered(found: Iterable[tuple[Place, Where, Any]]) -> Iterator[_Level]:
    by_place: dict[Place, tuple[list[Where], list[Any]]] = {}
    for child, where, value in found:
        wheres, values = by_place.setdefault(child, ([], []))
        wheres.append(where)
        values.append(value)
    for child, (wheres, values) in by_place.items():
        yield child, wheres, values


def _content(part: Leaves) -> frozenset[Any]:
    return frozenset(
        (place, where, value)
        for place, column in part.at.items()
        for where, value in zip(column.wheres, column.values, strict=True)
    )


def _keys(items: list[Any], names: tuple[str, ...]) -> list[str | None]:
    """By item its canonical key, None where it has none."""
    values = items
    for name in names:
        try:
            values = list(map(itemgetter(name), values))
        except (KeyError, TypeError, IndexError):
            values = [value.get(name) if isinstance(value, dict) else None for value in values]
    kinds = set(map(type, values))
    return values if kinds <= {str} else list(map(canonical, values))


def _numbered(names: list[Any]) -> list[Hashable]:
    """The names, told apart: the second of one is `(name, 1)`, and so on.

    >>> _numbered(["a", "b", "a"])
    ['a', 'b', ('a', 1)]
    """
    if len(set(names)) == len(names):
        return names
    before: Counter[Hashable] = Counter()
    found: list[Hashable] = []
    for name in names:
        found.append((name, before[name]) if before[name] else name)
        before[name] += 1
    return found
