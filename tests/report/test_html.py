"""The HTML report as a parser reads it: whole without scripts, the same for the same figures, and text stays text."""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser

import msgspec
import pytest
from report.materials import material
from report.verdicts import HOSTILE, verdict

from shadowproxy.report.html import embedded, report_page
from shadowproxy.report.material import Made, Material

WORST = (
    f"{HOSTILE}</script><img src=x onerror=alert(1)>\"><svg onload=alert(1)> ' &lt; \u202egnp.exe\u200b \u2028 "
    "{{ 7*7 }} {% raw %} __proto__ javascript:alert(1) ]]> <!-- --"
)


class Parsed(HTMLParser):
    """Elements with the names of their attributes in order, the text that is seen, and what scripts and styles hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.seen: list[str] = []
        self.titles: list[str] = []
        self.raw: list[tuple[dict[str, str | None], str]] = []
        self.policy = ""
        self._inside: dict[str, str | None] | None = None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        found = dict(attrs)
        self._inside = {"tag": tag, **found} if tag in ("script", "style") else None
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""
        self.titles += [value or "" for name, value in attrs if name in ("aria-label", "title")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.raw.append((self._inside, data))
        else:
            self.seen.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.seen).split())


def when(at: float) -> str:
    return f"{at:.0f} s"


def page(made: Material, *, charts: bool = False) -> Parsed:
    return Parsed(report_page(made, when, charts=charts))


def test_the_same_material_gives_the_same_bytes() -> None:
    assert report_page(material(), when) == report_page(material(), when)


def test_all_figures_are_there_without_any_script() -> None:
    text = page(material()).text
    for figure in (
        "rollback", "The candidate must not go out", "is beyond its margin of 0.04", "+0.134", "−0.0164", "0.04 NDCG",
        "1,234", "4,321 / 20", "23,456 / 11,520", "4.10 ms", "4.20 ms", "10.3 ms", "∞", "0.123", "0.234",
        "1,300 requests = 5 skipped", "timeout", "http_5xx", "98.8% of 1,295 eligible requests", "Fields that differ",
        "on 1,200 pairs, evidence of harm 500", "7 pairs forgotten", "verdict.alpha_promote 0.05", "shadowproxy 1.2.3",
        "Begun 1600000000 s UTC", "from 3 to 1", "new; b is gone", "from 1 to 3", "last byte never",
    ):  # fmt: skip
        assert figure in text, figure
    pictures = [name for name, _ in page(material()).elements if name == "svg"]
    assert len(pictures) > 10


def test_intervals_are_said_in_words_too() -> None:
    assert "loss +0.134, interval −0.024 to −0.0088, margin 0.04" in page(material()).titles


def test_nothing_that_others_named_becomes_markup() -> None:
    """The elements and attributes are the same, whatever the names, ids and bodies are."""
    tame, wild = page(material("tame", worst={"tame": ()})), page(material(WORST, worst={WORST: ()}))
    assert wild.elements == tame.elements
    tame, wild = page(material("tame")), page(material(WORST))
    assert wild.elements == tame.elements
    assert "<img src=x onerror=alert(1)>" in wild.text
    assert "{{ 7*7 }}" in wild.text
    # A reader is not deceived either: what is invisible or turns the direction of text is written out.
    shown = "".join((*wild.seen, *wild.titles))
    assert "\\u202egnp.exe\\u200b" in shown
    assert not {"\u202e", "\u200b", "\x1b", "\x07", "\u2028"} & set(shown)


def test_the_data_are_those_that_came_and_cannot_leave_their_element() -> None:
    made = material(WORST)
    found = [text for attributes, text in page(made).raw if attributes.get("id") == "data"]
    assert len(found) == 1
    assert json.loads(found[0]) == json.loads(msgspec.json.encode(made.data))
    assert "</" not in found[0]
    assert "<!--" not in found[0]
    assert not {"\u2028", "\u2029"} & set(str(embedded(made.data)))


@pytest.mark.parametrize("charts", [False, True])
def test_the_policy_names_exactly_what_is_in_the_file(charts: bool) -> None:
    found = page(material(WORST), charts=charts)
    hashes = {"script": [], "style": []}
    for attributes, text in found.raw:
        if attributes.get("type") != "application/json":
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            hashes[attributes["tag"]].append(f"'sha256-{digest}'")
    said = dict(part.strip().split(" ", 1) for part in found.policy.split(";"))
    assert said["default-src"] == "'none'"
    assert said["script-src"].split() == hashes["script"]
    assert said["style-src"].split() == hashes["style"]
    assert len(hashes["script"]) == 1 + charts
    # Nothing is written as an attribute that the policy would forbid, and nothing is fetched.
    assert not [name for name, names in found.elements for one in names if one.startswith("on") or one == "style"]
    assert not [one for one in found.elements if one[0] in ("link", "img", "iframe") or "src" in one[1]]


def test_a_verdict_without_anything_has_a_page() -> None:
    empty = Material(verdict=verdict(), made=Made(version="1", source="x"))
    text = page(empty).text
    for said in ("Not decided yet", "How the e-values went was not kept", "No latency yet", "No scores yet"):
        assert said in text


def test_the_library_of_charts_comes_once_and_only_where_it_is_wanted() -> None:
    small, whole = report_page(material(), when, charts=False), report_page(material(), when)
    assert len(small.encode()) < 400_000
    assert whole.count("plotly.js v") == 1
    assert "plotly.js v" not in small
