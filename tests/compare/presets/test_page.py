"""The routes that docs/presets.md shows are routes, and of the preset under which they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from shadowproxy.config import Route
from shadowproxy.config.presets import PRESETS

PAGE = (Path(__file__).parents[3] / "docs" / "presets.md").read_text()
SECTIONS = {
    found[1]: yaml.safe_load(found[2])
    for found in re.finditer(r"^## `([^`]+)`\n[^#]*?^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
}


def test_each_section_is_of_a_preset() -> None:
    assert SECTIONS.keys() <= PRESETS.keys()
    assert len(SECTIONS) >= 10


@pytest.mark.parametrize("name", SECTIONS)
def test_the_routes_are_routes(name: str) -> None:
    for route in SECTIONS[name]:
        made = Route(**route)
        assert made.preset == name
        assert made.offers & {"ids", "scores", "label", "probabilities", "text"}


def test_the_page_tells_each_default() -> None:
    told = dict(re.findall(r"^\| `([\w-]+)` \| [^|]+ \| (.+) \|$", PAGE, re.MULTILINE))
    for name in SECTIONS:
        defaults = PRESETS[name]
        assert (told[name] == "–") == (not defaults)
        assert all(f"`{key}" in told[name] for key in defaults)
