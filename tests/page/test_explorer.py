"""The pair explorer by itself: its list, one pair, ranked lists and their moves, bodies, and hostile text."""

from __future__ import annotations

import unicodedata
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from browser import Watch, faults
from page.stage import Stage, body, exchange, exemplar, ranked, staged, view

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


async def rows(page: Page) -> list[str]:
    return [text.strip() for text in await page.locator(".pairs tbody .pair-id").all_inner_texts()]


async def opened(page: Page, stage: Stage, **parts: Any) -> None:
    """The page, with one pair open."""
    stage.pairs = [exemplar(0)]
    stage.views = {"r0": view(**parts)}
    await page.goto(f"{stage.url}/#pair=r0")
    await page.locator(".pair .part").first.wait_for()


async def test_a_list_of_ten_thousand_is_never_in_the_page_at_once(page: Page, stage: Stage) -> None:
    stage.pairs = [exemplar(at) for at in range(10_000)]
    await page.goto(stage.url)
    await page.get_by_text("1 to 50 of 10,000").wait_for()
    assert await rows(page) == [f"r{at}" for at in range(50)]
    await page.get_by_role("button", name="Next", exact=True).click()
    await page.get_by_text("51 to 100 of 10,000").wait_for()
    assert await rows(page) == [f"r{at}" for at in range(50, 100)]
    assert await page.locator("*").count() < 1500
    await page.get_by_label("Id or text").fill("r999")
    await page.get_by_text("11 pairs").wait_for()
    assert await rows(page) == ["r999", *(f"r{at}" for at in range(9990, 10_000))]
    assert stage.asked[-1] == {"board": "worst", "limit": "50", "offset": "0", "text": "r999"}
    assert "text=r999" in page.url


async def test_filters_are_asked_of_the_api_and_stand_in_the_address(page: Page, stage: Stage) -> None:
    stage.pairs = [exemplar(0), exemplar(1, guardrail="failures.difference")]
    await page.goto(f"{stage.url}/#pairs&guardrail=failures.difference&cohort=region%3Dapac")
    await page.get_by_role("link", name="r1").wait_for()
    assert await rows(page) == ["r1"]
    asked = {
        "board": "worst",
        "guardrail": "failures.difference",
        "cohort": "region=apac",
        "limit": "50",
        "offset": "0",
    }
    assert stage.asked[-1] == asked
    assert await page.get_by_label("Cohort").input_value() == "region=apac"
    await page.get_by_label("Guardrail").select_option("ranking.rbo")
    await page.get_by_role("link", name="r0").wait_for()
    await page.get_by_label("Candidate's outcome").select_option("timeout")
    async with page.expect_response(lambda answer: "board=sample" in answer.url):
        await page.get_by_label("Which").select_option("sample")
    await page.wait_for_url("**/#pairs&board=sample&*outcome=timeout")
    assert stage.asked[-1]["outcome"] == "timeout"
    # The sample is of all pairs: none of them is there for a guardrail.
    assert "guardrail" not in stage.asked[-1]


async def test_pairs_open_by_click_enter_and_address_and_back_and_forward_work(
    page: Page, stage: Stage, watch: Watch
) -> None:
    watch.allow("404")
    stage.pairs = [exemplar(at) for at in range(3)]
    stage.views = {f"r{at}": view(at) for at in range(3)}
    await page.goto(stage.url)
    dialog = page.get_by_role("dialog")
    await page.locator(".pairs tbody tr").nth(1).locator("td").nth(1).click()
    await dialog.get_by_role("heading", name="Pair r1").wait_for()
    assert page.url.endswith("#pair=r1&at=0:1-0:0")
    await page.go_back()
    await dialog.wait_for(state="hidden")
    await page.go_forward()
    await dialog.get_by_role("heading", name="Pair r1").wait_for()
    await page.keyboard.press("Escape")
    await dialog.wait_for(state="hidden")
    assert "pair=" not in page.url
    await page.get_by_role("link", name="r2").focus()
    await page.keyboard.press("Enter")
    await dialog.get_by_role("heading", name="Pair r2").wait_for()
    await dialog.get_by_role("button", name="Previous pair").click()
    await dialog.get_by_role("heading", name="Pair r1").wait_for()
    await dialog.get_by_role("button", name="Close").click()
    # Where the reader was.
    assert await page.evaluate("document.activeElement.textContent") == "r2"
    await page.goto(f"{stage.url}/#pair=nobody")
    await dialog.get_by_text("there is no such pair").wait_for()


async def test_ranked_lists_say_where_each_item_went(page: Page, stage: Stage) -> None:
    await opened(page, stage, ranking=ranked(["a", "b", "c", "d"], ["c", "a", "b", "e"]))
    told = {
        option: await page.get_by_role("listbox", name=f"Items as the {side} ranks them")
        .get_by_role("option")
        .nth(at)
        .get_attribute("aria-label")
        for option, side, at in (
            ("a", "baseline", 0),
            ("c", "candidate", 0),
            ("d", "baseline", 3),
            ("e", "candidate", 3),
        )
    }
    assert told == {
        "a": "1: a, score 1, moved from 1 to 2",
        "c": "1: c, score 1, moved from 3 to 1",
        "d": "4: d, score 0.25, gone, was at 4",
        "e": "4: e, score 0.25, new at 4",
    }
    said = await page.locator(".ranking-said").inner_text()
    assert said == "5 items: 0 in place, 1 up, 2 down, 1 new, 1 gone. The farthest move: c, moved from 3 to 1."
    # Each line begins and ends in the middle of its item's rows.
    lines = await page.locator(".moves line").evaluate_all(
        "all => all.map((one) => [one.getAttribute('class'),"
        " ...['x1', 'y1', 'x2', 'y2'].map((name) => Number(one.getAttribute(name)))])"
    )
    assert sorted(lines) == [
        ["down", 0, 0.5, 100, 1.5],
        ["down", 0, 1.5, 100, 2.5],
        ["gone", 0, 3.5, 14, 3.5],
        ["new", 86, 3.5, 100, 3.5],
        ["up", 0, 2.5, 100, 0.5],
    ]
    middle = "one => { const box = one.getBoundingClientRect(); return box.top + box.height / 2; }"
    item = page.locator(".of-candidate .rank").nth(2)
    drawn = await page.locator(".moves").evaluate(
        "svg => { const box = svg.getBoundingClientRect(); return [box.top, box.height / svg.viewBox.baseVal.height]; }"
    )
    assert await item.evaluate(middle) == pytest.approx(drawn[0] + 2.5 * drawn[1], abs=1)


async def test_ranked_lists_go_by_keys_and_light_both_sides(page: Page, stage: Stage) -> None:
    names = [f"item-{at}" for at in range(500)]
    await opened(page, stage, ranking=ranked(names, names[250:] + names[:250]))
    first = page.get_by_role("listbox", name="Items as the baseline ranks them").get_by_role("option").first
    await first.focus()
    assert await page.locator(".lit").evaluate_all("all => all.map((one) => one.tagName.toLowerCase())") == [
        "li",
        "line",
        "li",
    ]
    await page.keyboard.press("ArrowRight")
    assert (
        await page.evaluate("document.activeElement.getAttribute('aria-label')")
        == "251: item-0, score 0.004, moved from 1 to 251"
    )
    await page.keyboard.press("ArrowDown")
    assert (
        await page.evaluate("document.activeElement.getAttribute('aria-label')")
        == "252: item-1, score 0.004, moved from 2 to 252"
    )
    await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("End")
    assert await page.locator(".rank.lit").count() == 2
    # A list is one stop of the Tab key.
    assert await page.locator(".rank[tabindex='0']").count() == 2


async def test_a_pair_shows_times_headers_differences_and_bodies(page: Page, stage: Stage) -> None:
    long = "x" * 1000
    binary = {"text": None, "base64": "AAEC", "bytes": 12_000, "truncated": False}
    await opened(
        page,
        stage,
        baseline=exchange(headers=[["Server", "one"], ["x-same", "1"]]),
        candidate=exchange(status=502, ttfb=0.2, total=0.4, headers=[["server", "two"], ["x-same", "1"]], body=binary),
        replica=exchange(
            outcome="timeout", status=0, ttfb=None, total=None, detail="after 10 s", headers=[], body=body()
        ),
        differences=[
            {"where": "$.a[0]", "baseline": "1", "candidate": None},
            {"where": "$.b", "baseline": '""', "candidate": long},
        ],
        more=7,
        values={"ranking.rbo": 0.5, "__proto__": 2.0},
        notes=["candidate.body left out: not_json"],
    )
    pair = page.locator(".pair")
    outcomes = [text.split("\t") for text in await pair.locator(".outcomes tbody tr").all_inner_texts()]
    assert [[cell.strip() for cell in row if cell.strip()] for row in outcomes] == [
        ["Baseline", "200", "10.0 ms", "20.0 ms", "17 B"],
        ["Candidate", "502", "200 ms", "400 ms", "12 KB"],
        ["Replica", "timeout: after 10 s", "∞", "∞", "0 B"],
    ]
    bars = await pair.locator(".times").evaluate_all(
        "all => all.map((svg) => [...svg.children].map((one) => Number(one.getAttribute('width'))))"
    )
    assert bars == [[2.5, 2.5], [50, 50], [0, 0]]
    differ = pair.get_by_role("table", name="Headers that differ")
    assert [text.split() for text in await differ.locator("tbody tr").all_inner_texts()] == [["server", "one", "two"]]
    assert await pair.get_by_text("1 header alike").count() == 1
    diff = pair.get_by_role("table", name="What differs, by its path").locator("tbody tr")
    assert (await diff.first.inner_text()).split() == ["$.a[0]", "1", "not", "there"]
    assert long not in await diff.nth(1).inner_text()
    await diff.nth(1).locator("summary").click()
    assert long in await diff.nth(1).inner_text()
    assert await pair.get_by_text("7 more differences not shown.").count() == 1
    assert await pair.get_by_text("candidate.body left out: not_json").count() == 1
    measured = [text.split() for text in await pair.locator(".measured tbody tr").all_inner_texts()]
    assert measured == [["ranking.rbo", "0.5"], ["__proto__", "2"]]
    await pair.get_by_text("Candidate's body, 12 KB").click()
    await pair.get_by_text("Binary, 12 KB.").wait_for()
    await pair.get_by_text("Baseline's body, 17 B").click()
    await pair.locator(".folded pre").first.wait_for()
    assert await pair.locator(".folded pre").first.inner_text() == '{\n  "ids": [\n    "a",\n    "b"\n  ]\n}'


async def test_what_is_withheld_or_cut_is_said(page: Page, stage: Stage) -> None:
    nothing = {"headers": None, "body": None}
    request = {"method": "POST", "target": "/rank", **nothing}
    hidden = {"request": request, "baseline": exchange(**nothing), "candidate": exchange(**nothing)}
    await opened(page, stage, **hidden, differences=None, values={}, withheld=True)
    assert await page.get_by_text("Headers and bodies are withheld").count() == 1
    assert "Bodies" not in await page.locator(".pair h3").all_inner_texts()

    await page.goto("about:blank")
    cut = body(text='{"ids": ["a', truncated=True, bytes=5_000_000)
    await opened(page, stage, candidate=exchange(body=cut))
    await page.get_by_text("Candidate's body, 5 MB").click()
    await page.get_by_text("Only its beginning is here; the whole body has 5 MB.").wait_for()
    assert await page.locator("pre").first.inner_text() == '{"ids": ["a'


async def test_a_megabyte_comes_in_parts(page: Page, stage: Stage) -> None:
    await opened(page, stage, candidate=exchange(body=body(text="y" * 1_000_000)))
    await page.get_by_text("Candidate's body, 1 MB").click()
    shown = page.locator(".pair pre").first
    assert len(await shown.inner_text()) == 20_000
    await page.get_by_role("button", name="Show more: 980 KB are left").click()
    assert len(await shown.inner_text()) == 40_000


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "javascript:alert(1)",
    "__proto__",
    "constructor",
    "a\u202egnp.exe",
    "zero\u200bwidth\ufeff",
    "\x00\x1b[31m",
    "{{7*7}}${alert(1)}",
    "💥" * 40 + "é" * 500,
    "../../verdict?x#y",
    "%00%2e%2e%2f",
    "",
]


async def test_hostile_text_stays_text_wherever_it_stands(page: Page, stage: Stage) -> None:
    for at, text in enumerate(HOSTILE):
        named = {"id": text, "route": text, "cohorts": [text], "cohort": text, "guardrail": text, "method": text}
        bad = exemplar(at, **named, target=text)
        hostile = {
            "request": {"method": text, "target": text, "headers": [[text, text]], "body": body({text: text})},
            "candidate": exchange(detail=text, headers=[[text, text]], body=body({text: [text, {text: text}]})),
            "replica": exchange(outcome="reset", detail=text, body=body(text=text)),
            "ranking": ranked([text, "b"], ["b", text]),
            "differences": [{"where": text, "baseline": text, "candidate": text}],
            "standings": [{"guardrail": text, "cohort": text, "rank": 1, "loss": 1.0, "value": 1.0}],
            "values": {text: 1.0},
            "notes": [text],
            "annotations": text,
        }
        stage.pairs.append(bad)
        stage.views[text] = view(**hostile, exemplar=bad)
    await page.goto(stage.url)
    links = page.locator(".pairs .pair-id")
    await links.nth(len(HOSTILE) - 1).wait_for()
    # Without an id a pair stands in the list, and has no address.
    for at, text in enumerate(HOSTILE[:-1]):
        await links.nth(at).click()
        await page.locator(".pair .part").first.wait_for()
        await page.locator(".pair summary").evaluate_all("all => all.forEach((one) => one.click())")
        await page.locator(".pair .folded pre").last.wait_for()
        assert await page.locator(".pair .rank .item").first.inner_text() == written(text)
        assert not HIDDEN & set(await page.locator("body").inner_text())
        tags = await page.locator("body *").evaluate_all("all => all.map((one) => one.tagName)")
        assert "IMG" not in tags
        assert tags.count("SCRIPT") == 1
        assert await page.locator("[onload], [onerror], a[href^='javascript:' i]").count() == 0
        await page.keyboard.press("Escape")


HIDDEN = {"\u202e", "\u200b", "\ufeff", "\x00", "\x1b"}


def written(text: str) -> str:
    """As it must be shown: cut, and what can't be seen written out."""
    out = "".join(
        f"\\u{{{ord(sign):x}}}" if unicodedata.category(sign) in ("Cc", "Cf", "Co", "Cn", "Cs") else sign
        for sign in text
    )
    return out.encode("utf-16-le")[:400].decode("utf-16-le")


@pytest.mark.parametrize("look", [("light", 1280), ("dark", 390)], indirect=True)
async def test_nobody_is_kept_out(page: Page, stage: Stage) -> None:
    stage.pairs = [exemplar(0), exemplar(1, candidate={"outcome": "timeout", "status": 0, "total": None})]
    failed = exchange(outcome="timeout", status=0, ttfb=None, total=None, detail="no answer", headers=[], body=body())
    differences = [{"where": "$.a", "baseline": "1", "candidate": None}]
    stage.views = {
        "r0": view(
            ranking=ranked(["a", "b", "c"], ["c", "x", "a"]),
            differences=differences,
            replica=failed,
            values={"ranking.rbo": 0.1},
        )
    }
    await page.goto(stage.url)
    await page.get_by_role("link", name="r0").wait_for()
    assert await faults(page) == []
    await page.get_by_role("link", name="r0").click()
    await page.locator(".pair .part").first.wait_for()
    for summary in await page.locator(".pair summary").all():
        await summary.click()
    assert await faults(page) == []
    wide = "document.documentElement.scrollWidth - innerWidth"
    assert await page.evaluate(wide) <= 0
    assert (
        await page.evaluate(
            "(() => { const one = document.querySelector('dialog'); return one.scrollWidth - one.clientWidth; })()"
        )
        <= 0
    )


@pytest.fixture
def look(request: pytest.FixtureRequest) -> dict[str, Any]:
    scheme, width = getattr(request, "param", ("light", 1280))
    size = {"width": width, "height": 844}
    return {
        "viewport": size,
        "color_scheme": scheme,
        "locale": "en-GB",
        "timezone_id": "UTC",
        "reduced_motion": "reduce",
    }


async def test_an_empty_list_and_one_that_cannot_be_had_say_so(page: Page, stage: Stage, watch: Watch) -> None:
    await page.goto(stage.url)
    await page.get_by_text("No pairs yet.").wait_for()
    await page.goto(f"{stage.url}/#pairs&text=nothing")
    await page.get_by_text("No pair that was kept fits.").wait_for()
    watch.allow("Failed to load resource|request failed")
    await page.route("**/api/v1/pairs?*", lambda route: route.fulfill(status=503, json={"detail": "the store is away"}))
    await page.get_by_label("Id or text").fill("other")
    await page.get_by_text("the store is away").wait_for()
    await page.unroute("**/api/v1/pairs?*")
    stage.pairs = [exemplar(0, id="another")]
    await page.get_by_role("button", name="Read anew").click()
    await page.get_by_role("link", name="another").wait_for()


async def test_a_list_is_left_to_its_reader_until_he_wants_a_new_one(page: Page, stage: Stage) -> None:
    stage.pairs = [exemplar(1)]
    await page.goto(stage.url)
    await page.get_by_role("link", name="r1").wait_for()
    stage.pairs = [exemplar(0), exemplar(1)]
    asked = len(stage.asked)
    await page.evaluate(
        "fetch('/api/v1/verdict').then((answer) => answer.json()).then((verdict) => show({ ...verdict, pairs: 500 }))"
    )
    await page.get_by_text("1 pair; 100 were counted since").wait_for()
    assert len(stage.asked) == asked
    await page.get_by_role("button", name="Read anew").click()
    await page.get_by_role("link", name="r0").wait_for()
    assert await rows(page) == ["r0", "r1"]
