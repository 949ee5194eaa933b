"""Which route a request belongs to: globs over the path."""

from __future__ import annotations

import re
from collections.abc import Sequence


def compile_glob(glob: str) -> re.Pattern[str]:
    """A path glob as a pattern to `fullmatch` with.

    `*` stays within a segment, `**` crosses segments, and so does a final `/*`. Every other character stands for
    itself.

    >>> [bool(compile_glob("/v1/*/rank").fullmatch(path)) for path in ("/v1/us/rank", "/v1/us/east/rank")]
    [True, False]
    >>> bool(compile_glob("/v1/*").fullmatch("/v1/a/b"))
    True
    """
    crossing = glob[:-1] + "**" if glob.endswith("/*") else glob
    parts = re.split(r"(\*+)", crossing)
    pattern = "".join(
        re.escape(part) if not part.startswith("*") else "[^/]*" if part == "*" else ".*" for part in parts
    )
    return re.compile(pattern, re.DOTALL)


def request_path(target: str) -> str:
    """The path of a request target, byte for byte (no percent-decoding): without query, scheme and authority.

    >>> request_path("/a%20b?x=1"), request_path("http://host:80/a?x"), request_path("http://host")
    ('/a%20b', '/a', '/')
    """
    path = target.partition("?")[0]
    if path.startswith("/"):
        return path
    _, scheme, rest = path.partition("://")
    return "/" + rest.partition("/")[2] if scheme else path


class Router:
    """The first glob that matches wins."""

    def __init__(self, globs: Sequence[str]) -> None:
        self._patterns = tuple(map(compile_glob, globs))

    def __call__(self, path: str) -> int:
        """Index of the first glob that matches `path`; −1 if none does."""
        for at, pattern in enumerate(self._patterns):
            if pattern.fullmatch(path):
                return at
        return -1
