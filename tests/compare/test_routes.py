from __future__ import annotations

import pytest

from shadowproxy.compare.routes import Router, compile_glob, request_path


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("/*", "/", True),
        ("/*", "/a/b/c", True),
        ("/v1/*", "/v1/", True),
        ("/v1/*", "/v1", False),
        ("/v1/*", "/v12/a", False),
        ("/v1/*/rank", "/v1//rank", True),
        ("/v1/*/rank", "/v1/a/b/rank", False),
        ("/v1/**/rank", "/v1/a/b/rank", True),
        ("/**", "/a/b", True),
        ("/models/*:predict", "/models/m-1:predict", True),
        ("/models/*:predict", "/models/m/1:predict", False),
        ("/a.b", "/aXb", False),
        ("/a[0-9]+?", "/a[0-9]+?", True),
        ("/a", "/a\n", False),
        ("/*", "/a\nb", True),
    ],
)
def test_globs(glob: str, path: str, matches: bool) -> None:
    assert bool(compile_glob(glob).fullmatch(path)) is matches


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
