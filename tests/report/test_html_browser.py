"""The HTML report in a real Chromium, from the file system: with scripts and without, and under Jenkins' policy."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser import Watch, faults
from report.materials import material
from report.test_html import WORST, when
from report.verdicts import cell

from shadowproxy.report import shown
from shadowproxy.report.assets import WEB
from shadowproxy.report.bundle import bundled
from shadowproxy.report.html import report_page
from shadowproxy.verdict.record import CohortReport, Finding

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROWS = """(table) => [...document.querySelectorAll(table)].map((row) => ({
  name: [".c-guardrail", ".c-cohort"].map((part) => row.querySelector(part).textContent.trim()).join(" "),
  finding: row.querySelector(".c-finding").textContent.trim(),
  figures: ["estimate", "margin", "pairs", "safe", "harm"].map((id) => row.querySelector(`.c-${id}`).textContent),
  picture: [...row.querySelectorAll("svg.interval .span, svg.interval .end, svg.interval .point")].map((part) =>
    ["x1", "x2", "d"].map((name) => part.getAttribute(name)).join(" ")),
  said: row.querySelector("svg.interval").getAttribute("aria-label"),
}))"""


def cells() -> Any:
    """Guardrails whose intervals end in the frame, leave it on either side, or lie outside; in several units."""
    made = material()
    intervals = [(-0.01, 0.01), (-0.9, 0.01), (0.01, 0.9), (-0.9, 0.9), (0.3, 0.4), (-0.4, -0.3)]
    units = ("NDCG", "share of pairs", "doublings")
    found = [
        cell(f"g{at}", unit=units[at % 3], interval=ends, estimate=sum(ends) / 2, finding=list(Finding)[at % 3])
        for at, ends in enumerate(intervals)
    ]
    found.append(cell("none", estimate=None, interval=None, pairs=0, finding=Finding.UNDECIDED))
    verdict = made.verdict
    cohorts = {
        name: CohortReport(pairs=9, guardrails=tuple(one for one in report.guardrails))
        for name, report in verdict.cohorts.items()
    }
    return material(verdict=type(verdict)(**{**_fields(verdict), "guardrails": tuple(found), "cohorts": cohorts}))


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}


def written(folder: Path, made: Any, *, charts: bool = True) -> str:
    path = folder / "report.html"
    path.write_text(report_page(made, when, charts=charts))
    return path.as_uri()


async def drawn(page: Page, url: str) -> None:
    await page.goto(url)
    await page.wait_for_function('document.body.dataset.ready === "verdict"')


async def without_scripts(browser: Browser, url: str, script: str, argument: Any = None) -> Any:
    """What a page says when none of its own scripts run."""
    context = await browser.new_context(java_script_enabled=False)
    try:
        page = await context.new_page()
        await page.goto(url)
        return await page.evaluate(script, argument)
    finally:
        await context.close()


async def test_scripts_draw_the_same_rows_that_stand_there_without_them(
    page: Page, browser: Browser, tmp_path: Path
) -> None:
    url = written(tmp_path, cells(), charts=False)
    still = {row["name"]: row for row in await without_scripts(browser, url, ROWS, "#forest tbody tr")}
    await drawn(page, url)
    live = {row["name"]: row for row in await page.evaluate(ROWS, "#forest tbody tr")}
    assert len(live) == 10
    for row in (*live.values(), *still.values()):
        # An interval that isn't known is hidden by one and left out by the other.
        if row["said"] == "no data":
            row["picture"] = []
    assert still == live


async def test_it_opens_from_a_file_draws_its_charts_and_asks_for_nothing(page: Page, tmp_path: Path) -> None:
    await drawn(page, written(tmp_path, material()))
    assert await page.locator("#evidence .main-svg, #latency .main-svg, #distributions .main-svg").count() >= 4
    assert await page.locator("#verdict .verdict-state").inner_text() == "Rollback"
    await page.get_by_role("button", name="Theme").click()
    assert await page.locator("html").get_attribute("data-theme") == "light"
    await page.locator("#forest thead button").filter(has_text="Pairs").click()
    assert await page.locator("#forest tbody tr .c-pairs").first.inner_text() == "1,234"


async def test_without_the_library_its_pictures_stay(page: Page, tmp_path: Path) -> None:
    await drawn(page, written(tmp_path, material(), charts=False))
    assert await page.locator("svg.plot").count() == 3
    assert await page.locator("svg.spark").count() > 4
    assert await page.get_by_text("Plotly").count() == 0


async def test_hostile_names_ids_and_bodies_stay_text(page: Page, tmp_path: Path) -> None:
    await drawn(page, written(tmp_path, material(WORST)))
    assert await page.locator("img").count() == 0
    assert await page.evaluate("document.querySelectorAll('[onerror], [onload]').length") == 0
    assert "<img src=x onerror=alert(1)>" in await page.locator("#verdict").inner_text()


JENKINS = "sandbox allow-same-origin; default-src 'none'; img-src 'self'; style-src 'self';"


async def test_under_jenkins_policy_all_is_there_as_text_and_pictures(
    page: Page, watch: Watch, browser: Browser, tmp_path: Path
) -> None:
    """Neither scripts nor styles run; whatever hides by a style is seen, and what has a size by a style has one."""
    content = report_page(material(), when, charts=False)
    watch.allow(".*")
    await page.route(
        "http://127.0.0.1:9/report.html",
        lambda route: route.fulfill(
            body=content, content_type="text/html", headers={"Content-Security-Policy": JENKINS}
        ),
    )
    await page.goto("http://127.0.0.1:9/report.html")
    assert await page.evaluate("document.body.dataset.ready ?? null") is None
    assert await page.evaluate("document.styleSheets.length") == 0
    for one in await page.locator("details:not([open]) > summary").all():
        await one.click(timeout=2000)
    text = await page.locator("main").inner_text()
    for said in ("rollback", "+0.134", "4.20 ms", "98.8% of 1,295", "new; b is gone", "verdict.alpha_promote"):
        assert said in text
    boxes = await page.evaluate(
        "[...document.querySelectorAll('svg.plot')].map((one) => one.getBoundingClientRect().width)"
    )
    assert boxes == [560, 560, 560]


@pytest.mark.parametrize(("scheme", "charts"), [("light", False), ("dark", True)])
async def test_nobody_is_kept_out(page: Page, tmp_path: Path, scheme: Any, charts: bool) -> None:
    await page.emulate_media(color_scheme=scheme)
    await drawn(page, written(tmp_path, material(), charts=charts))
    assert await faults(page) == []


async def test_on_a_phone_nothing_scrolls_sideways(page: Page, tmp_path: Path) -> None:
    await page.set_viewport_size({"width": 390, "height": 800})
    await drawn(page, written(tmp_path, material(), charts=False))
    assert await page.evaluate("document.documentElement.scrollWidth") == 390


async def test_what_is_folded_is_printed(page: Page, tmp_path: Path) -> None:
    await drawn(page, written(tmp_path, material(), charts=False))
    height = "document.querySelector('.written .lists').getBoundingClientRect().height"
    assert await page.evaluate(height) == 0
    await page.emulate_media(media="print")
    assert await page.evaluate(height) > 50
    assert (await page.pdf()).startswith(b"%PDF")


async def test_figures_are_rounded_as_the_page_rounds_them(page: Page) -> None:
    chance = random.Random(7)
    values = [0.0, 0.125, 1.125, 2.5, 12.5, 999.5, 999.96, 1e6, 9.995e-4, 0.9995, 1e-5, 5e-5, 1.0005, 4.35]
    values += [chance.choice((-1, 1)) * chance.uniform(1, 10) * 10 ** chance.randint(-7, 9) for _ in range(400)]
    script = bundled("dom", lambda name: WEB.joinpath("js", f"{name}.js").read_text())
    await page.goto("about:blank")
    said = await page.evaluate(
        f"""(values) => {{ {script}
        const {{ amount, count, duration, evidence, figure, percent, rough, unitOf }} = module_dom;
        const signed = {{ signed: true }};
        return values.map((value) => [figure(value), figure(value, signed), percent(value), count(Math.round(value)),
          amount(value, "share of pairs", signed), amount(value, "doublings"), evidence(Math.abs(value)),
          duration(Math.abs(value)), rough(Math.abs(value)), unitOf("share of pairs")]); }}""",
        values,
    )
    for value, found in zip(values, said, strict=True):
        size = abs(value)
        doublings = shown.amount(value, "doublings") if value < 1000 else found[5]
        assert found == [
            shown.figure(value), shown.figure(value, signed=True), shown.percent(value), found[3],
            shown.amount(value, "share of pairs", signed=True), doublings, shown.evidence(size), shown.duration(size),
            shown.rough(size), shown.unit_of("share of pairs"),
        ], json.dumps(value)  # fmt: skip
