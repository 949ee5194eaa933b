"""Bodies decoded only as far as a route's expressions look into them.

Most of an answer is of no interest: titles, prices, links of the items. Where all of a route's expressions over
`response.body` are paths, the objects and lists that they go through are known before any body is seen. A msgspec
decoder of that shape builds these alone and steps over the rest. What the expressions find in the result is what
they would have found in the whole, always: a body that isn't of the shape (another kind of value on the way, an
integer beyond 64 bits) is decoded as a whole instead.

Measured on 50 items of an id and a score, both found: of 9.1 µs by orjson, 8.7 are left; with a title, two tags, a
price and an object beside them 12.7 of 24.9. So it is used wherever it can be.

*Strictness.* What is stepped over is checked for its grammar all the same; three things are not, and are seen to here
or in `bodies`: UTF-8 (looked at before), nesting (before, where the decoder allows for more than orjson's 1024), and
numbers that no float holds, which are no error anywhere (`bodies.parse`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import msgspec

from shadowproxy.compare.extraction.bodies import parse, uncoded
from shadowproxy.compare.extraction.extract import Expression, Node

_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""Beyond 64 bits orjson gives a float, and msgspec an integer."""
_Scalar = str | _Integer | float | bool | None
_Row = list[_Scalar] | dict[str, _Scalar]
_Leaf = _Scalar | list[_Scalar | _Row] | dict[str, _Scalar | list[_Scalar]]
"""What is found at the end of a path: scalars, lists and objects of them, and tables. Anything else: as a whole."""

_DEEPEST = 1024
"""Of orjson."""


class TypedDecode:
    """A `bodies.Decode` that builds what the shape has, and no more. See `typed_decode`."""

    def __init__(self, shape: Any) -> None:
        self._decoder = msgspec.json.Decoder(shape)

    def __call__(self, head: bytes, body: bytes) -> Any:
        """As `bodies.decode`; raises BodyError likewise."""
        data = uncoded(head, body)
        if alike(data):
            try:
                return self._decoder.decode(data)
            # Bad UTF-8 and deep nesting come out of msgspec under their own names.
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                pass
        return parse(data)


def typed_decode(expressions: Iterable[Expression]) -> TypedDecode | None:
    """A decoder of response bodies for these expressions; None where not all that look there are paths.

    >>> decode = typed_decode([Expression("response.body.items[*].id", aligned=True)])
    >>> decode(b"", b'{"model": "m", "items": [{"id": 1, "title": "one"}, {"id": "2"}, {}]}')
    {'items': [{'id': 1}, {'id': '2'}, {}]}
    """
    document = _Shape()
    try:
        for expression in expressions:
            if "response.body" in expression.reads:
                for found in _look(expression.root, (document,)):
                    found.keep()
        response = document.fields.get("response", _Shape())
        body = response.fields.get("body")
        if body is None or response.whole or document.whole:
            return None
        return TypedDecode(_type(body))
    except _TooMuchError:
        return None


def _nests_deeper() -> bool:
    """Whether msgspec may go deeper than orjson. Up to 3.11 it has the interpreter's limit, after that another."""
    return sys.version_info >= (3, 12) or sys.getrecursionlimit() > _DEEPEST


def alike(data: bytes) -> bool:
    """Whether `data` holds nothing, where it is stepped over, that orjson refuses and msgspec doesn't."""
    if _nests_deeper() and data.count(b"[") + data.count(b"{") > _DEEPEST:
        return False
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


class _TooMuchError(Exception):
    """The expression looks at more than a shape can say."""


@dataclass(eq=False)
class _Shape:
    """What is looked at of one place in a document. `joined` is no place, but a list that a projection makes."""

    fields: dict[str, _Shape] = field(default_factory=dict)
    element: _Shape | None = None
    whole: bool = False
    tested: bool = False
    """Whether it matters that it is empty."""
    joined: bool = False

    def inner(self) -> _Shape:
        """Of every element of the list that stands here."""
        if self.element is None:
            self.element = _Shape()
        return self.element

    def keep(self) -> None:
        """It is the result: all of it counts."""
        if self.joined:
            self.inner().keep()
        else:
            self.whole = True


_Shapes = Sequence[_Shape]


def _look(node: Node, at: _Shapes) -> _Shapes:
    """Where the results of `node` stand, and all that it looks at on the way noted. Raises _TooMuchError."""
    kind, children = node["type"], node["children"]
    if kind == "field":
        # msgspec takes a name beyond ASCII for the empty one (TypedDict, 0.22).
        if any(shape.joined for shape in at) or not node["value"].isascii():
            raise _TooMuchError
        return [shape.fields.setdefault(node["value"], _Shape()) for shape in at]
    if kind in ("subexpression", "index_expression", "pipe"):
        for child in children:
            at = _look(child, at)
        return at
    if kind in ("identity", "current"):
        return at
    if kind == "index":
        return [shape.inner() for shape in at]
    if kind == "flatten":
        # One more level where a projection has made a list of lists; elements that are none fit no such shape.
        return [_joined(shape.inner().inner() if shape.joined else shape.inner()) for shape in _look(children[0], at)]
    if kind == "projection":
        elements = [shape.inner() for shape in _look(children[0], at)]
        return [_joined(shape) for shape in _look(children[1], elements)]
    if kind == "or_expression":
        first, second = (_look(child, at) for child in children)
        for shape in first:
            shape.tested = True
        return [*first, *second]
    raise _TooMuchError


def _joined(element: _Shape) -> _Shape:
    return _Shape(element=element, joined=True)


def _type(shape: _Shape) -> Any:
    """The type that msgspec decodes. Raises _TooMuchError where one place is looked at in two ways."""
    if shape.whole + bool(shape.fields) + (shape.element is not None) != 1:
        raise _TooMuchError
    if shape.element is not None:
        return list[_type(shape.element)] | None  # type: ignore[misc]  # (a type that is made when a route is read)
    if shape.fields:
        # An object less what is not looked at may be empty where the whole was not.
        if shape.tested:
            raise _TooMuchError
        fields = {name: _type(inner) for name, inner in shape.fields.items()}
        return TypedDict("Object", fields, total=False) | None  # type: ignore[operator]  # (likewise)
    return _Leaf
