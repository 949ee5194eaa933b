"""Path globs, as routes and policies write them: one meaning, one translation."""

from __future__ import annotations

import re


def glob_pattern(glob: str) -> str:
    """A path glob as the text of a pattern to `fullmatch` with, under DOTALL.

    `*` stays within a segment, `**` crosses segments, and so does a final `/*`. Every other character stands for
    itself.

    Paths come from clients, so a glob of many wildcards must not take a time that grows with each of them. Whatever
    follows a wildcard up to the next one is therefore looked for once, at its first place, and never again (an atomic
    group): a later place leaves less of the path to what follows, so it can't match where the first one doesn't. Only
    what stands before the end has to try every place.
    """
    crossing = glob[:-1] + "**" if glob.endswith("/*") else glob
    first, *rest = re.split(r"(\*\*+)", crossing)
    chunks = [first, *rest[1::2]]
    if len(chunks) == 1:
        return _chunk(first, last=True)
    middle = "".join(f"(?>.*?{_chunk(chunk, last=False)})" for chunk in chunks[1:-1])
    return f"(?>{_chunk(first, last=False)}){middle}.*{_chunk(chunks[-1], last=True)}"


def _chunk(text: str, *, last: bool) -> str:
    """What stands between two `**`: literals with `*` between them. `last`: the end of the path follows."""
    first, *rest = map(re.escape, text.split("*"))
    if last and rest:
        return first + "".join(f"(?>[^/]*?{literal})" for literal in rest[:-1]) + f"[^/]*{rest[-1]}"
    return first + "".join(f"(?>[^/]*?{literal})" for literal in rest)


def compile_glob(glob: str) -> re.Pattern[str]:
    """`glob` as a compiled pattern to `fullmatch` with (see `glob_pattern`).

    >>> [bool(compile_glob("/v1/*/rank").fullmatch(path)) for path in ("/v1/us/rank", "/v1/us/east/rank")]
    [True, False]
    >>> bool(compile_glob("/v1/*").fullmatch("/v1/a/b"))
    True
    """
    return re.compile(glob_pattern(glob), re.DOTALL)
