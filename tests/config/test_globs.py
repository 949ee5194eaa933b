from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shadowproxy.config.globs import compile_glob


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


def plainly(glob: str, path: str) -> bool:
    """The definition, word for word: every wildcard may take anything it is allowed to."""
    crossing = glob[:-1] + "**" if glob.endswith("/*") else glob
    words = {"*": "[^/]*"}
    pattern = "".join(
        words.get(part, ".*") if part.startswith("*") else re.escape(part) for part in re.split(r"(\*+)", crossing)
    )
    return re.fullmatch(pattern, path, re.DOTALL) is not None


@given(
    glob=st.text("ab/*", max_size=12).map(lambda text: "/" + text),
    path=st.text("ab/", max_size=16).map(lambda text: "/" + text),
)
@example(glob="/*a*/b**ab*a", path="/aa/bbabaa")
def test_looking_once_for_each_part_finds_what_trying_everything_finds(glob: str, path: str) -> None:
    assert bool(compile_glob(glob).fullmatch(path)) is plainly(glob, path)


def test_many_wildcards_do_not_multiply() -> None:
    """Trying every place for each of these would take longer than the universe has."""
    assert compile_glob("/" + "**/a" * 20 + "/**/b").fullmatch("/a" * 4000) is None
    assert compile_glob("/" + "*a" * 20 + "b").fullmatch("/" + "a" * 8000) is None
