"""The page's modules as one script: what is asked of how they are written is said where it isn't so."""

from __future__ import annotations

import pytest

from shadowproxy.report.assets import WEB
from shadowproxy.report.bundle import bundled


def source(modules: dict[str, str]) -> str:
    return bundled("main", modules.__getitem__)


def test_each_module_comes_once_and_after_those_it_imports() -> None:
    text = source(
        {
            "main": 'import { f as g } from "./a.js";\nimport { h } from "./b.js";\ng(h);\n',
            "a": 'import { h } from "./b.js";\nexport async function f() {}\nexport const one = h;\n',
            "b": "export class h {}\nconst private_ = 1;\n",
        }
    )
    places = [text.index(f"const module_{name} = ") for name in ("b", "a", "main")]
    assert places == sorted(places)
    assert text.count("class h") == 1
    assert "const { f: g } = module_a;" in text
    assert "return { f, one };" in text
    assert "import" not in text
    assert "export" not in text


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        ({"main": 'import { a } from "./a.js";', "a": 'import { b } from "./main.js";'}, "main → a → main"),
        ({"main": 'import a from "./a.js";'}, "more than can be put"),
        ({"main": "export let changed = 1;"}, "export let changed"),
        ({"main": "export { a };"}, "export { a }"),
        ({"main": "export default 1;"}, "export default"),
    ],
)
def test_what_can_not_be_bundled_is_said(modules: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        source(modules)


def test_the_modules_of_the_report_need_no_server() -> None:
    text = bundled("still", lambda name: WEB.joinpath("js", f"{name}.js").read_text())
    assert "module_explorer" in text
    assert "module_live" not in text
    assert "</script" not in text.lower()
    assert "<!--" not in text
