"""A verdict with all that belongs to it as one self-contained HTML file.

It is complete as it stands: where nothing but HTML is shown (Jenkins forbids scripts and styles to what a build has
archived, mail viewers do likewise) tables and pictures say it all. Where scripts run, the live page's own modules draw
over them.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import jinja2
import msgspec
from markupsafe import Markup

from shadowproxy.report import forest, plots, shown, sides, words
from shadowproxy.report.assets import WEB, plotly_bundle
from shadowproxy.report.bundle import bundled
from shadowproxy.report.contents import When, contents
from shadowproxy.report.material import Material

_STYLES: Final = ("base.css", "page.css", "explorer.css", "report.css")
_PLOTLY_STYLE: Final = "plotly.css"
_ENTRY: Final = "still"
_OWN_STYLE: Final = re.compile(
    r'if\(!document\.getElementById\("([0-9a-f]{40,})"\)\)\{var \w+=document\.createElement\("style"\)'
)
"""Styles of maps that the charts' library writes into a page, and leaves off where this id is taken."""


class Script(NamedTuple):
    """What runs in the page."""

    text: Markup
    module: bool


class Style(NamedTuple):
    """What the page looks like; `plotly` is for the charts alone."""

    text: Markup
    plotly: bool = False


def report_page(material: Material, when: When, *, charts: bool = True) -> str:
    """The page. The same material gives the same bytes.

    Without `charts`, or where plotly is not installed, the pictures stay those that need no script: its bundle, 4.9 MB,
    is left out.
    """
    styles = [Style(_plain_asset(f"css/{name}")) for name in _STYLES]
    scripts = [Script(Markup(_bundle()), module=True)]  # noqa: S704 - our own
    library = _plotly() if charts else None
    if library is not None:
        scripts.insert(0, Script(library, module=False))
        styles.append(Style(_plain_asset(f"css/{_PLOTLY_STYLE}"), plotly=True))
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            **contents(material, when),
            when=when,
            styles=styles,
            scripts=scripts,
            # The modules look for their places by id: what they can't draw without Plotly they must not find.
            unlike="-still" if library is None else "",
            kept_out=() if library is None else _OWN_STYLE.findall(library),
            data=embedded(material.data),
            policy=policy([style.text for style in styles], [script.text for script in scripts]),
        )
    )


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
    environment.filters |= {
        "amount": shown.amount,
        "amounts": shown.amounts,
        "count": shown.count,
        "ended": sides.ended,
        "evidence": shown.evidence,
        "figure": shown.figure,
        "lasting": words.lasting,
        "rough": shown.rough,
        "size": words.size,
        "unit_of": shown.unit_of,
    }
    environment.globals |= {
        "forest": forest,
        "lists": sides.lists,
        "many": shown.many,
        "most_items": sides.MOST_ITEMS,
        "plots": plots,
        "words": words,
    }
    return environment


def _shown(value: Any) -> Any:
    """What an expression puts out: every text harmless to its reader (no control, no bidi), not only to the parser."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return "\n".join(map(words.plain, value.replace("\r\n", "\n").replace("\t", "    ").split("\n")))
    # A place in a picture: 125 for 125.0.
    return f"{value:g}" if isinstance(value, float) else value


def embedded(data: Mapping[str, Any]) -> Markup:
    """The data as JSON that may stand in a script element: nothing in it can end the element, or begin another.

    >>> embedded({"verdict": msgspec.Raw(b'{"a":"</script>&"}')})
    Markup('{"verdict":{"a":"\\\\u003c/script\\\\u003e\\\\u0026"}}')
    """
    text = msgspec.json.encode(data, order="deterministic").decode()
    # All of these stand in strings only: JSON's own signs are others.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704 - made harmless above


def policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """The Content-Security-Policy: what is in the file by its hashes, and nothing else.

    >>> policy([], [])
    "default-src 'none'; script-src 'none'; style-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"
    """
    script, style = (" ".join(map(_hash, parts)) or "'none'" for parts in (scripts, styles))
    only = f"script-src {script}; style-src {style}; img-src data:"
    return f"default-src 'none'; {only}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@functools.cache
def _bundle() -> str:
    return bundled(_ENTRY, lambda name: _asset(f"js/{name}.js"))


@functools.cache
def _plotly() -> Markup | None:
    bundle = plotly_bundle()
    return None if bundle is None else Markup(bundle.decode())  # noqa: S704 - a script of its own, as it is installed


def _plain_asset(path: str) -> Markup:
    return Markup(_asset(path))  # noqa: S704 - a file of the package


def _asset(path: str) -> str:
    return WEB.joinpath(*path.split("/")).read_text("utf-8")
