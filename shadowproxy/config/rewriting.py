"""Rewrites of a path: a pattern, and what stands in its place.

Patterns are RE2's, not Python's: the path is the client's, and on some path a backtracking engine takes minutes for a
pattern that looks harmless. While it did, no client would be answered.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_GROUP = re.compile(r"\\(?:([0-9])|g<([A-Za-z_][A-Za-z0-9_]*)>|(.?))", re.DOTALL)
_LITERAL = re.compile(r"[\x21-\x7e]*")


def compile_rewrite(pattern: str, to: str) -> Callable[[bytes], bytes | None]:
    """A function from a path to the path with the first match of `pattern` replaced, or None where there is no match.

    `to` may name groups as `\\1` or `\\g<name>`; a `\\` is written twice. What comes out gets a slash at its
    beginning where it has none: from a valid path it is always a valid one. Raises ValueError.

    >>> compile_rewrite("^/v1/([^/]+)/", r"/v2/\\1-candidate/")(b"/v1/rank/predict")
    b'/v2/rank-candidate/predict'
    """
    compiled = _compiled(pattern)
    pieces = _template(to, compiled)

    def rewrite(path: bytes) -> bytes | None:
        def replaced(match: Any) -> bytes:
            return b"".join(piece if isinstance(piece, bytes) else match[piece] or b"" for piece in pieces)

        result, count = compiled.subn(replaced, path, 1)
        if not count:
            return None
        return bytes(result) if result.startswith(b"/") else b"/" + result

    return rewrite


def _compiled(pattern: str) -> Any:
    # Imported where it is needed: without a rewrite nobody pays for it.
    import re2

    options = re2.Options()
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1
    try:
        return re2.compile(pattern.encode("ascii"), options=options)
    except re2.error as error:
        detail = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"{pattern!r} is not a pattern of RE2 (no lookaround, no \\1 in it): {detail}") from None
    except UnicodeEncodeError:
        raise ValueError(f"{pattern!r}: a path has no such characters; they stand in it percent-encoded") from None


def _template(to: str, compiled: Any) -> list[bytes | int]:
    pieces: list[bytes | int] = []
    at = 0
    for match in _GROUP.finditer(to):
        pieces.append(_literal(to[at : match.start()]))
        number, name, other = match.groups()
        if other is not None:
            if other != "\\":
                raise ValueError(f"{match[0]!r} is no group: write \\1, \\g<name>, or \\\\ for a backslash")
            pieces.append(b"\\")
        else:
            group = int(number) if number else compiled.groupindex.get(name.encode(), -1)
            if not 0 <= group <= compiled.groups:
                raise ValueError(f"{match[0]!r}: the pattern has no such group")
            pieces.append(group)
        at = match.end()
    pieces.append(_literal(to[at:]))
    return pieces


def _literal(text: str) -> bytes:
    if not _LITERAL.fullmatch(text) or "?" in text or "#" in text:
        raise ValueError("a path has visible ASCII characters only, no `?` and no `#`: percent-encode others")
    return text.encode("ascii")
