"""The page's ES modules as one script, for a file that has no other files beside it.

One inline script is named in the page's policy by its hash. Modules behind an import map of `data:` URLs would need
`script-src data:`, which lets in whatever script somebody manages to write into such a URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_IMPORT = re.compile(r'^import (?P<names>\{[^}]*\}) from "\./(?P<module>[\w-]+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?P<what>(?:async )?function\*?|class|const) (?P<name>[\w$]+)", re.MULTILINE)
_LEFT = re.compile(r"^\s*(?:import|export)\b.*$", re.MULTILINE)


def bundled(entry: str, source: Callable[[str], str]) -> str:
    """One module script that does what `entry.js` does; `source` gives a module's text by its name.

    Each module becomes a function of its own that is run once, after those that it imports, so that no name of one is
    seen by another. Imports stand on one line each, and what is exported is declared there: nothing else is used here.

    Raises ValueError for modules that are written otherwise, or that import each other in a circle.
    """
    done: dict[str, str] = {}

    def add(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise ValueError(f"{' → '.join((*above, name))}: these modules import each other")
        if name not in done:
            text = source(name)
            for found in _IMPORT.finditer(text):
                add(found["module"], (*above, name))
            done[name] = _wrapped(name, text)

    add(entry, ())
    return "\n".join(done.values())


def _wrapped(name: str, text: str) -> str:
    exported = [found["name"] for found in _EXPORT.finditer(text)]
    body = _EXPORT.sub(r"\g<what> \g<name>", _IMPORT.sub(_taken, text))
    if left := _LEFT.search(body):
        raise ValueError(f"{name}.js: {left.group().strip()!r} is more than can be put into one script")
    return f"const {_variable(name)} = (() => {{\n{body.rstrip()}\nreturn {{ {', '.join(exported)} }};\n}})();"


def _taken(found: re.Match[str]) -> str:
    return f"const {found['names'].replace(' as ', ': ')} = {_variable(found['module'])};"


def _variable(module: str) -> str:
    return f"module_{module.replace('-', '_')}"
