from __future__ import annotations

import pytest

from shadowproxy.compare.routes import Router, request_path


def test_the_first_match_wins() -> None:
    route = Router(["/a/b", "/a/*", "/**"])
    assert [route(path) for path in ("/a/b", "/a/c/d", "/b")] == [0, 1, 2]
    assert Router(["/a"])("/b") == -1
    assert Router([])("/") == -1


@pytest.mark.parametrize(
    ("target", "path"),
    [("/a?b=/c", "/a"), ("http://h/a/b?x", "/a/b"), ("http://h", "/"), ("*", "*"), ("", ""), ("h:443", "h:443")],
)
def test_request_path(target: str, path: str) -> None:
    assert request_path(target) == path
