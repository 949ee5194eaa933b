"""A verdict with all that belongs to it as one self-contained HTML file.

It is complete as it stands: where nothing but HTML is shown (Jenkins forbids scripts and styles to what a build has
archived, mail viewers do likewise) tables and pictures say it all. Where scripts run, the live page's own modules draw
over them.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any, Final

import jinja2
import msgspec
from markupsafe import Markup

from shadowproxy.report import forest, words
from shadowproxy.report.material import Material
from shadowproxy.verdict.record import Cell, Finding, State, Verdict

SIGNS: Final = {
    State.PROMOTE: "✓", State.ROLLBACK: "✕", State.CONTINUE: "…",
    Finding.SAFE: "✓", Finding.HARMFUL: "✕", Finding.UNDECIDED: "…",
}  # fmt: skip
"""Beside each word, so that colour is never alone."""
_STYLES: Final = ("base.css", "report.css")
_OPEN_ROWS: Final = 60
"""Cells of cohorts that are shown at once; more are folded away."""

_FILTERS: Final = ("figure", "evidence", "interval", "seconds", "rough", "lasting", "size", "took", "telling")
"""Of `words`."""

When = Callable[[float], str]
"""Unix seconds as text; time zones are no matter of a pure room."""


def report_page(material: Material, when: When) -> str:
    """The page. The same material gives the same bytes."""
    style = "\n".join(_asset(f"css/{name}") for name in _STYLES if _there(f"css/{name}"))
    template = _environment().get_template("report.html.j2")
    return template.render(
        made=material.made,
        verdict=material.verdict,
        history=material.history.history,
        settings=material.settings,
        rows=_rows(material.verdict),
        folded=sum(len(report.guardrails) for report in material.verdict.cohorts.values()) > _OPEN_ROWS,
        when=when,
        style=Markup(style),  # noqa: S704 - an asset of the package
        data=embedded(material.data),
        policy=policy(styles=[style], scripts=[]),
    )


def _rows(verdict: Verdict) -> Mapping[str, list[tuple[Cell, forest.Mark | None]]]:
    """By group, each cell with its picture."""
    cohorts = [cell for report in verdict.cohorts.values() for cell in report.guardrails]
    return {
        "overall": [(cell, forest.mark(cell)) for cell in verdict.guardrails],
        "cohorts": [(cell, forest.mark(cell)) for cell in cohorts],
    }


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    for name in _FILTERS:
        environment.filters[name] = getattr(words, name)
    environment.filters["sign"] = SIGNS.__getitem__
    environment.globals |= {"forest": forest, "words": words}
    return environment


def _shown(value: Any) -> Any:
    """What an expression puts out: every text harmless to its reader (no control, no bidi), not only to the parser."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(map(words.plain, value.split("\n")))
    return value


def embedded(data: Mapping[str, msgspec.Raw]) -> Markup:
    """The data as JSON that may stand in a script element: nothing in it can end the element, or begin another.

    >>> embedded({"verdict": msgspec.Raw(b'{"a":"</script>&"}')})
    Markup('{"verdict":{"a":"\\\\u003c/script\\\\u003e\\\\u0026"}}')
    """
    text = msgspec.json.encode(data, order="sorted").decode()
    # All of these stand in strings only: in JSON's own signs there is none.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704


def policy(*, styles: list[str], scripts: list[str]) -> str:
    """The Content-Security-Policy: what is in the file by its hashes, and nothing else."""
    style, script = (" ".join(map(_hash, parts)) or "'none'" for parts in (styles, scripts))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(path: str) -> str:
    return files("shadowproxy.report").joinpath("web", *path.split("/")).read_text("utf-8")


def _there(path: str) -> bool:
    return files("shadowproxy.report").joinpath("web", *path.split("/")).is_file()
