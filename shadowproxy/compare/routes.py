"""Which route a request belongs to: globs over the path."""

from __future__ import annotations

from collections.abc import Sequence

from shadowproxy.config.globs import compile_glob


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
