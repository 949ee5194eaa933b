"""What every endpoint does alike: reading what it was asked by, and answering with JSON."""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import web

from shadowproxy.serve.problems import Unfit, Unknown

_SMALL: Final = 1024
"""Bytes that are not worth compressing."""
_IN_TURN: Final = 32 * 1024
"""Bytes from which compressing takes long enough that it is left to a thread."""
_NAMED: Final = 20
"""Names that are told to whoever asked for one that is not there."""
_LONGEST: Final = 80
"""Characters of what was asked for that are repeated."""

_Enum = TypeVar("_Enum", bound=enum.StrEnum)


def answered(value: Any) -> web.Response:
    """A record as JSON (see `encoded`)."""
    return encoded(msgspec.json.encode(value))


def encoded(body: bytes) -> web.Response:
    """JSON that is there as bytes, compressed where it is large and the client takes that."""
    response = web.Response(body=body, content_type="application/json", zlib_executor_size=_IN_TURN)
    if len(body) > _SMALL:
        response.enable_compression()
    return response


def known(kind: str, name: str, there: Collection[str]) -> str:
    """`name` if it is one of those that are there. Raises Unknown, which lists them."""
    if name not in there:
        some = ", ".join(list(there)[:_NAMED]) or "none"
        more = f" and {len(there) - _NAMED:,} more" if len(there) > _NAMED else ""
        raise Unknown(f"there is no {kind} {quoted(name)}; there are {some}{more}")
    return name


def one_of(request: web.Request, name: str, kind: type[_Enum]) -> _Enum | None:
    """A parameter that is a word of a few; None where it isn't given. Raises Unfit."""
    said = request.query.get(name)
    if said is None:
        return None
    try:
        return kind(said)
    except ValueError:
        raise Unfit(f"{name} is one of {', '.join(kind)}, not {quoted(said)}") from None


def whole(request: web.Request, name: str, usual: int, *, least: int = 0, most: int) -> int:
    """A parameter that is a whole number. Raises Unfit."""
    said = request.query.get(name)
    if said is None:
        return usual
    if not (said.isascii() and said.isdigit() and len(said) <= len(str(most)) and least <= int(said) <= most):
        raise Unfit(f"{name} is a whole number from {least} to {most}, not {quoted(said)}")
    return int(said)


def quoted(said: str) -> str:
    """What somebody else wrote, short."""
    return repr(said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…")
