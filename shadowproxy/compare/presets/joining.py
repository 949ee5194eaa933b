"""What came piece by piece put together: texts and lists one after another, objects key by key.

Pieces are collected and joined once at the end: a text of n pieces would else be copied n times.
"""

from __future__ import annotations

from typing import Any

from shadowproxy.compare.extraction.bodies import BodyError

_ONCE = frozenset({"role", "type", "id"})
"""Keys of a delta that are said once, whole; servers that repeat them mean the same."""


class Parts(list[str]):
    """A text in the making."""


class Numbered(dict[int, Any]):
    """A list in the making whose elements say by `index` where they stand."""


def join(whole: Any, piece: Any) -> Any:
    """`whole` (what earlier pieces made, None at first) and one more piece, which is not changed.

    Raises BodyError where they are not of one kind.
    """
    if piece is None:
        return whole
    if isinstance(piece, str):
        return _onto(Parts() if whole is None else whole, piece)
    if isinstance(piece, list):
        return _elements(whole, piece)
    if isinstance(piece, dict):
        made = {} if whole is None else whole
        if type(made) is not dict:
            raise BodyError("bad_body")
        for key, value in piece.items():
            known = made.get(key)
            # What nearly every piece of a stream is: some more of a text.
            if type(value) is str and type(known) is Parts and key != "name":
                known.append(value)
            else:
                made[key] = _member(key, known, value)
        return made
    if isinstance(whole, list | dict):
        raise BodyError("bad_body")
    return piece


def _member(key: str, whole: Any, piece: Any) -> Any:
    if isinstance(piece, str):
        if key in _ONCE:
            return whole or piece
        # Sent once whole by most, in pieces by none that is known, and in every delta anew by some.
        if key == "name" and isinstance(whole, Parts) and "".join(whole) == piece:
            return whole
    return join(whole, piece)


def _onto(whole: Any, piece: str) -> Any:
    if not isinstance(whole, Parts):
        raise BodyError("bad_body")
    whole.append(piece)
    return whole


def _elements(whole: Any, piece: list[Any]) -> Any:
    if whole is None:
        whole = Numbered() if piece and all(map(_numbered, piece)) else []
    if isinstance(whole, Numbered):
        for element in piece:
            if not _numbered(element):
                raise BodyError("bad_body")
            at = element["index"]
            whole[at] = join(whole.get(at), {key: value for key, value in element.items() if key != "index"})
        return whole
    if type(whole) is not list:
        raise BodyError("bad_body")
    # An empty list says nothing of what follows it.
    if not whole and piece and all(map(_numbered, piece)):
        return _elements(Numbered(), piece)
    whole.extend(piece)
    return whole


def _numbered(element: Any) -> bool:
    return isinstance(element, dict) and type(element.get("index")) is int


def finished(whole: Any) -> Any:
    """What the pieces made, as JSON."""
    if isinstance(whole, Parts):
        return "".join(whole)
    if isinstance(whole, Numbered):
        return [finished(whole[at]) for at in sorted(whole)]
    if isinstance(whole, dict):
        return {key: finished(value) for key, value in whole.items()}
    return whole
