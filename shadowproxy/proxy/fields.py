"""Header lines, checked and sorted out once: most lines of a client or a service come again with every message.

A line's meaning depends on nothing but its bytes, so that what was learned of it stands in a bounded table: the next
head that has it costs one look-up. Lines that differ with every request, and secrets, are not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
FORM: Final = b"application/x-www-form-urlencoded"
"""A body of this type has parameters, in which there may be something to mask."""
VISIBLE: Final = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
"""What may stand in a field's value."""
_MOST_LINES: Final = 4096
_MOST_DIGITS: Final = 18
_MOST_NAMES: Final = 1024
_LONGEST_LINE: Final = 256
_NOT_KEPT: Final = frozenset(
    {b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"traceparent", b"x-request-id"}
)


def decimal(value: bytes) -> int:
    """A plain decimal number, or -1.

    >>> decimal(b"120"), decimal(b"+1"), decimal(b"")
    (120, -1, -1)
    """
    return int(value) if value.isdigit() and len(value) <= _MOST_DIGITS else -1


class Field:
    """A field that means something to a proxy: its name in lower case, its value, and `decimal` of that."""

    __slots__ = ("name", "number", "value")

    def __init__(self, name: bytes, value: bytes) -> None:
        self.name = name
        self.value = value
        self.number = decimal(value)


PLAIN: Final = Field(b"", b"")
"""Any other field: passed on as it is."""
GUARDED: Final = Field(b"", b"")
"""Passed on too, but nothing to be recorded as it is."""


class BadFieldError(ValueError):
    """A line that is not a field of HTTP/1.1 (RFC 9112, section 5)."""


class FieldTable:
    """What header lines mean. `special` are the names (lower case) that get a `Field` of their own; of the others those
    in `guarded` are GUARDED, as is the type of a form, and the rest is PLAIN.

    A line's grammar is checked when it is learned: a token, a colon right behind it, then visible characters, spaces
    and tabs. Thus no line folding, no bare CR or LF, no NUL.
    """

    __slots__ = ("_guarded", "_names", "_special", "known")

    def __init__(self, special: Iterable[bytes], guarded: Iterable[bytes]) -> None:
        self.known: dict[bytes, Field] = {}
        self._special = frozenset(special)
        self._guarded = frozenset(guarded)
        self._names: dict[bytes, bytes] = {}

    def learn(self, line: bytes, clean: bool = False) -> Field:
        """What `line` is, for a line that is not among `known`. `clean` says that its bytes are known to be `VISIBLE`.

        Raises BadFieldError.
        """
        raw, colon, rest = line.partition(b":")
        name = self._names.get(raw)
        if name is None:
            name = self._name(raw)
        if not name or not colon or not (clean or not rest.translate(None, VISIBLE)):
            raise BadFieldError(_fault(line))
        if name in self._special:
            field = Field(name, rest.strip(b" \t"))
        else:
            form = name == b"content-type" and rest.lower().find(FORM) >= 0
            field = GUARDED if form or name in self._guarded else PLAIN
        if len(line) <= _LONGEST_LINE and name not in _NOT_KEPT and field is not GUARDED:
            if len(self.known) >= _MOST_LINES:
                self.known.clear()
            self.known[line] = field
        return field

    def _name(self, raw: bytes) -> bytes:
        """`raw` in lower case, or nothing if it is not a field's name."""
        if not _NAME.fullmatch(raw):
            return b""
        name = raw.lower()
        if len(raw) <= _LONGEST_LINE:
            if len(self._names) >= _MOST_NAMES:
                self._names.clear()
            self._names[raw] = name
        return name


def _fault(line: bytes) -> str:
    if b"\n" in line:
        return "a line of the head ends with a bare LF; HTTP lines end with CRLF"
    name, colon, _ = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        return "a header field is folded over lines"
    if not colon or not _NAME.fullmatch(name):
        return "a line of the header section is not `Name: value`"
    return "a header field's value has a control character"


@lru_cache(maxsize=512)
def tokens(value: bytes) -> frozenset[bytes]:
    """The members of a comma-separated list, in lower case.

    >>> sorted(tokens(b"Keep-Alive, X-A"))
    [b'keep-alive', b'x-a']
    """
    return frozenset(token.strip(b" \t").lower() for token in value.split(b",")) - {b""}


def without(lines: Iterable[bytes], names: frozenset[bytes]) -> list[bytes]:
    """`lines` less the fields of these names (lower case)."""
    return [line for line in lines if line.partition(b":")[0].lower() not in names]
