"""Headers that never leave the process with a pair are cut from captured heads, on the bytes."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Redactor:
    """Cuts whole header lines by name, in any case.

    >>> Redactor(["cookie"])(b"Accept: */*\\r\\nCookie: a=1\\r\\nX-A: 1")
    b'Accept: */*\\r\\nX-A: 1'
    """

    def __init__(self, names: Sequence[str]) -> None:
        alternatives = "|".join(re.escape(name.strip().lower()) for name in names if name.strip())
        self._pattern = (
            re.compile(rb"\r\n(?:%b)[ \t]*:[^\r]*" % alternatives.encode("latin-1"), re.IGNORECASE)
            if alternatives
            else None
        )

    def __call__(self, head: bytes) -> bytes:
        """`head` (CRLF-separated lines, without a start line) less the lines that are redacted."""
        if self._pattern is None or not head:
            return head
        return self._pattern.sub(b"", b"\r\n" + head)[2:]
