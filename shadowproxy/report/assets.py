"""The files that draw the live page and the HTML report, and the charts' library where it is installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from pathlib import Path
from typing import Final

WEB: Final = files("shadowproxy.report").joinpath("web")
"""index.html, report.html.j2, css/*.css and js/*.js, as they are in the wheel."""

WITHOUT_PLOTLY: Final = b"// No charts: plotly is not installed. pip install 'shadowproxy[plots]', then start anew.\n"
"""In place of the bundle where there is none: a script that defines nothing, so that `Plotly` stays undefined."""


def web_files() -> dict[str, bytes]:
    """The content of every file below WEB by its path from there, such as `js/main.js`."""
    return {path: file.read_bytes() for path, file in _walk(WEB, "")}


def _walk(folder: Traversable, path: str) -> Iterator[tuple[str, Traversable]]:
    for one in folder.iterdir():
        if one.is_dir():
            yield from _walk(one, f"{path}{one.name}/")
        else:
            yield f"{path}{one.name}", one


def plotly_bundle() -> bytes | None:
    """plotly.min.js (some 5 MB) of the installed `plotly`; None where that is not installed.

    It is found without importing plotly, which takes longer than reading the file.
    """
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:
        return None
    bundle = Path(spec.origin).parent / "package_data" / "plotly.min.js"
    return bundle.read_bytes() if bundle.is_file() else None
