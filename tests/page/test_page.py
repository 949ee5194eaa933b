"""The live page in a real browser, before a real API."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
from browser import Watch, faults
from page.live import WORST, System, broken, healthy, pair
from redis.asyncio import Redis

from shadowproxy.model import Exchange, Outcome, Pair

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="session")

LOOKS = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}


@pytest.fixture
def look(request: pytest.FixtureRequest) -> dict[str, Any]:
    shared = {"locale": "en-GB", "timezone_id": "UTC", "reduced_motion": "reduce"}
    return {**shared, **LOOKS["light"], **getattr(request, "param", {})}


async def seen(page: Page, system: System) -> None:
    """The page with its verdict, its pairs and its charts."""
    await page.goto(system.url)
    await page.locator(".forest tbody tr").first.wait_for()
    await page.locator(".pairs tbody tr").first.wait_for()
    await page.locator("#latency .main-svg").first.wait_for()


async def verdict(system: System) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"{system.url}/api/v1/verdict") as answer:
        return await answer.json()


def cells(verdict: Any) -> list[Any]:
    return [*verdict["guardrails"], *(cell for one in verdict["cohorts"].values() for cell in one["guardrails"])]


async def shown(page: Page) -> list[tuple[str, str]]:
    """Guardrail and cohort of each row of the forest plot."""
    found = await page.locator(".forest tbody tr").evaluate_all(
        "all => all.map((row) => ['.c-guardrail button', '.c-cohort']"
        ".map((part) => row.querySelector(part).textContent))"
    )
    return [(guardrail, cohort.replace("all pairs", "all")) for guardrail, cohort in found]


async def test_a_verdict_appears_and_changes_without_a_reload(fresh: System, page: Page) -> None:
    await page.goto(fresh.url)
    await page.get_by_text("No request has come yet").wait_for()
    await page.evaluate("globalThis.still = 'here'")
    await fresh.count(healthy(0, 30))
    await page.locator("#verdict[data-state=continue]").get_by_text("30", exact=True).first.wait_for()
    assert not await page.get_by_text("No request has come yet").is_visible()
    await fresh.count(broken(30, 600))
    await page.locator("#verdict[data-state=rollback]").wait_for()
    assert "region=apac" in await page.locator("#verdict").inner_text()
    assert (await page.title()).startswith("rollback")
    await page.get_by_text("600 were counted since").wait_for()
    await page.get_by_role("button", name="Read anew").click()
    await page.get_by_role("link", name=WORST).wait_for()
    assert await page.evaluate("globalThis.still") == "here"


def way(e: float, threshold: float) -> float:
    """How far an e-value is on the way to its threshold, as 1 is there."""
    return math.log(e) / math.log(threshold)


FINDINGS = ["harmful", "undecided", "safe"]
COLUMNS: dict[str, Callable[[Any], Any]] = {
    "interval": lambda cell: cell["estimate"] / cell["margin"],
    "estimate": lambda cell: cell["estimate"],
    "margin": lambda cell: cell["margin"],
    "pairs": lambda cell: cell["pairs"],
    "safe": lambda cell: way(cell["e_promote"], cell["promote_at"]),
    "harm": lambda cell: way(cell["e_rollback"], cell["rollback_at"]),
    "guardrail": lambda cell: cell["guardrail"],
    "cohort": lambda cell: cell["cohort"],
    "finding": lambda cell: FINDINGS.index(cell["finding"]),
}


@pytest.mark.parametrize("how", ["click", "keyboard"])
async def test_the_forest_plot_sorts_by_every_column(page: Page, harmed: System, how: str) -> None:
    await seen(page, harmed)
    by_name = {(cell["guardrail"], cell["cohort"]): cell for cell in cells(await verdict(harmed))}
    assert set(await shown(page)) == by_name.keys()
    for name, key in COLUMNS.items():
        head = page.locator(f".forest thead .c-{name}")
        orders = {}
        for _ in range(2):
            if how == "click":
                await head.get_by_role("button").click()
            else:
                await head.get_by_role("button").focus()
                await page.keyboard.press("Enter")
            values = [key(by_name[row]) for row in await shown(page)]
            orders[await head.get_attribute("aria-sort")] = values
        assert orders.keys() == {"ascending", "descending"}, name
        assert orders["ascending"] == sorted(orders["ascending"]), name
        assert orders["descending"] == sorted(orders["descending"], reverse=True), name


async def test_the_forest_plot_shows_what_is_looked_for(page: Page, harmed: System) -> None:
    await seen(page, harmed)
    every = {(cell["guardrail"], cell["cohort"]): cell["finding"] for cell in cells(await verdict(harmed))}
    await page.locator("#forest button[data-finding=harmful]").click()
    assert await shown(page) == [row for row, finding in every.items() if finding == "harmful"] != []
    await page.locator("#forest button[data-finding='']").click()
    await page.locator("#forest-cohort").select_option("region=us")
    assert set(await shown(page)) == {row for row in every if row[1] == "region=us"}
    await page.locator("#forest-text").fill("rbo")
    assert await shown(page) == [("ranking.rbo", "region=us")]
    await page.locator("#forest-text").fill("nothing of that name")
    await page.get_by_text("No row fits what is looked for.").wait_for()


async def test_the_worst_pair_is_opened_from_the_row_of_the_cohort_that_is_broken(page: Page, harmed: System) -> None:
    await seen(page, harmed)
    row = page.locator(".forest tbody tr").filter(has_text="ranking.rbo").filter(has_text="region=apac")
    await row.get_by_role("button").click()
    await page.locator(".pairs tbody tr").filter(has_text="in region=apac").first.wait_for()
    first = page.locator(".pairs tbody .pair-id").first
    assert await first.inner_text() == WORST
    await first.click()
    dialog = page.get_by_role("dialog", name=f"Pair {WORST}")
    ranks = dialog.locator(".ranks")
    await ranks.first.wait_for()
    told = [
        await one.get_by_role("option").evaluate_all("all => all.map((one) => one.ariaLabel)")
        for one in await ranks.all()
    ]
    scores = [1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65]
    assert told == [
        [f"{at + 1}: {name}, score {scores[at]:g}, gone, was at {at + 1}" for at, name in enumerate("abcdefg")]
        + ["8: h, score 0.65, moved from 8 to 4"],
        [
            "1: x, score 1, new at 1",
            "2: y, score 0.95, new at 2",
            "3: z, score 0.9, new at 3",
            "4: h, score 0.85, moved from 8 to 4",
        ],
    ]
    assert "ranking.rbo in region=apac: no. 1" in await dialog.locator(".standings").inner_text()
    differ = dialog.get_by_role("table", name="Headers that differ").locator("tbody tr")
    assert [text.split() for text in await differ.all_inner_texts()] == [["server", "one", "two"]]
    diff = await dialog.get_by_role("table", name="What differs, by its path").locator("tbody tr").all_inner_texts()
    assert any(text.split() == ["$.model", "not", "there", '"v2"'] for text in diff)
    await page.reload()
    await dialog.locator(".ranks").first.wait_for()


async def test_pairs_are_searched_in_all_that_are_kept(page: Page, harmed: System) -> None:
    await seen(page, harmed)
    await page.get_by_label("Which").select_option("sample")
    await page.get_by_text("1 to 50 of 100").wait_for()
    await page.get_by_label("Which").select_option("worst")
    await page.get_by_label("Id or text").fill("planted")
    await page.get_by_role("status").get_by_text("1 pair", exact=True).wait_for()
    await page.get_by_label("Candidate's outcome").select_option("timeout")
    await page.get_by_text("No pair that was kept fits.").wait_for()


TEXTS = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "javascript:alert(1)",
    "__proto__",
    "a\u202egnp.exe\u200b",
    "{{7*7}}",
]


def hostile(at: int, text: str) -> Pair:
    """Everything that a service or a client has a say in is `text`."""
    latin = text.encode("ascii", "backslashreplace")
    head = (
        b"content-type: application/json\r\n" + latin.replace(b":", b"") + b": " + latin + b"\r\nx: " + latin + b"\r\n"
    )
    made = pair(at, text, id_=text if text.isascii() else latin.decode())
    items = [{"id": text, "score": 1.0}, {"id": "b", "score": 0.5}]
    body = json.dumps(
        {"items": items, text: text, "nested": {"__proto__": {text: text}}, "long": text * 40_000}
    ).encode()
    theirs = Exchange(Outcome.OK, 200, head, body, len(body), b"", 0.01, 0.02, text)
    asked = msgspec.structs.replace(made.request, head=head, target=f"/rank?{latin.decode()}")
    annotations = json.dumps({text: text}).encode()
    return msgspec.structs.replace(
        made, request=asked, candidate=theirs, replica=theirs, annotations=annotations, notes=(text,)
    )


async def test_what_is_hostile_stays_text_anywhere_on_the_page(fresh: System, page: Page) -> None:
    await fresh.count([hostile(7 * at + kind, text) for at in range(20) for kind, text in enumerate(TEXTS)], size=20)
    await seen(page, fresh)
    await page.get_by_label("Which").select_option("sample")
    for text in TEXTS:
        name = text if text.isascii() else text.encode("ascii", "backslashreplace").decode()
        await page.get_by_role("link", name=name, exact=True).first.click()
        await page.locator(".pair .part").first.wait_for()
        for summary in await page.locator(".pair summary").all():
            await summary.click()
        whole = await page.locator(".pair").inner_text()
        assert name in whole
        assert not {"\u202e", "\u200b"} & set(whole)
        await page.keyboard.press("Escape")
    # Cohorts, filters, charts and reasons show the same names.
    assert not {"\u202e", "\u200b"} & set(await page.locator("body").inner_text())
    assert any("<img src=x" in cohort for _, cohort in await shown(page))
    assert await page.locator("img, [onload], [onerror], [href^='javascript:' i]").count() == 0
    assert (
        await page.locator("script").evaluate_all("all => all.filter((one) => !one.src.includes('/assets/')).length")
        == 0
    )


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys(), indirect=True)
async def test_nobody_is_kept_out(page: Page, harmed: System) -> None:
    await seen(page, harmed)
    assert await faults(page) == []
    assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    await page.get_by_role("link", name=WORST).click()
    await page.locator(".pair .part").first.wait_for()
    assert await faults(page) == []


async def tabbed(page: Page, selector: str, most: int = 80) -> None:
    """Tab until something has the focus."""
    for _ in range(most):
        await page.keyboard.press("Tab")
        if await page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"{selector} is not reached by {most} times Tab")


async def test_the_keyboard_is_enough(page: Page, harmed: System) -> None:
    await seen(page, harmed)
    await tabbed(page, ".skip", 1)
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.id") == "main"
    await tabbed(page, ".pick")
    await page.keyboard.press("Enter")
    await page.locator(".pairs tbody tr").filter(has_text="in region=apac").first.wait_for()
    await tabbed(page, ".pair-id")
    await page.keyboard.press("Enter")
    await page.locator(".pair .part").first.wait_for()
    await tabbed(page, ".rank")
    await page.keyboard.press("ArrowDown")
    assert await page.locator(".rank.lit").count() >= 1
    # Nothing behind an open pair is reached.
    for _ in range(30):
        await page.keyboard.press("Tab")
        assert await page.evaluate(
            "document.activeElement === document.body || document.activeElement.closest('dialog') !== null"
        )
    await page.keyboard.press("Escape")
    await page.get_by_role("dialog").wait_for(state="hidden")
    assert await page.evaluate("document.activeElement.matches('.pair-id')")


async def test_a_verdict_that_cannot_be_read_is_not_shown_as_current(fresh: System, page: Page, watch: Watch) -> None:
    watch.allow("503")
    await fresh.count(healthy(0, 60))
    await seen(page, fresh)
    async with Redis.from_url(fresh.settings.redis.url or "") as raw:
        key = fresh.store.home.key("states")
        await raw.hset(key, "the-dead-one", b"garbage")
        await page.locator("#warning").get_by_text("the-dead-one").wait_for()
        assert await page.locator("#connection").get_attribute("data-kind") == "trouble"
        assert await faults(page) == []
        await raw.hdel(key, "the-dead-one")
    await page.locator("#connection[data-kind=live]").wait_for()
    assert not await page.locator("#warning").is_visible()


async def test_an_api_that_is_gone_is_said_to_be(fresh: System, page: Page, watch: Watch) -> None:
    watch.allow("Failed to load resource|request failed|ERR_")
    await fresh.count(healthy(0, 60))
    await seen(page, fresh)
    await fresh.end_api()
    await page.locator("#connection[data-kind=unreachable]").wait_for()
    assert await page.locator("#warning").is_visible()
    assert "past, not current" in await page.locator("#warning").inner_text()
    assert await page.locator(".forest tbody tr").count() > 0


@pytest.mark.parametrize("look", [{"java_script_enabled": False}], indirect=True)
async def test_without_scripts_the_page_says_where_else_the_verdict_is(page: Page, harmed: System) -> None:
    await page.goto(harmed.url)
    said = page.locator("noscript .empty-title")
    assert await said.is_visible()
    assert await said.inner_text() == "This page needs JavaScript"
    await page.locator("noscript a").click()
    assert json.loads(await page.locator("pre").inner_text())["state"] == "rollback"
