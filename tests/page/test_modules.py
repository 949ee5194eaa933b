"""The modules of the page by themselves: how they write figures, and what they draw of data that seldom come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from page.stage import Stage, staged

if TYPE_CHECKING:
    from playwright.async_api import Page

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


async def run(page: Page, stage: Stage, script: str, given: Any = None) -> Any:
    """What a function body gives that has the modules as `dom`, `forest` and so on, and `given`."""
    names = ("dom", "forest", "source", "live", "evidence", "latency", "distributions", "accounting", "verdict")
    loads = "".join(f'const {name} = await import("/assets/js/{name}.js");' for name in names)
    await page.goto(stage.url)
    return await page.evaluate(f"async (given) => {{ {loads} {script} }}", given)


def cell(guardrail: str = "ranking.rbo", cohort: str = "all", **other: Any) -> dict[str, Any]:
    return {
        "guardrail": guardrail, "metric": guardrail, "cohort": cohort, "unit": "overlap", "margin": 0.2,
        "pairs": 1200, "undefined": 0, "estimate": 0.05, "interval": [-0.1, 0.3], "e_promote": 3.5, "e_rollback": 0.2,
        "promote_at": 20.0, "rollback_at": 400.0, "required": True, "finding": "undecided",
        "blocks": None, "needed": None, **other,
    }  # fmt: skip


def verdict(*cells: dict[str, Any], **other: Any) -> dict[str, Any]:
    cohorts: dict[str, Any] = {}
    for one in cells:
        if one["cohort"] != "all":
            cohorts.setdefault(one["cohort"], {"pairs": one["pairs"], "guardrails": []})["guardrails"].append(one)
    return {
        "state": "continue", "exhausted": False, "reasons": [], "experiment": "x", "at": 1_700_000_000.0, "pairs": 1200,
        "open_pairs": 0, "late_pairs": 0, "guardrails": [one for one in cells if one["cohort"] == "all"],
        "cohorts": cohorts, "checks": [], "failures": {"baseline": {}, "candidate": {}}, "summaries": [],
        "latencies": [],
        "accounting": {"requests": 1, "eligible": 1, "recorded": 1, "skipped": {}, "dropped": {}}, "tables": [],
        "evidence_rollback": 0.1, "forecast": None, "notes": [], "versions": {}, "labels": None, "dependence": [],
        "distributions": [], **other,
    }  # fmt: skip


async def test_figures_are_written_as_people_read_them(page: Page, stage: Stage) -> None:
    told = {
        'figure(0.01234, {signed: true})': "+0.0123", "figure(-0.000004)": "0", "figure(null)": "–",
        "figure(100)": "100", "figure(-1234.5)": "−1235", 'amount(0.042, "share of requests", {signed: true})': "+4.2%",
        'amount(1, "doublings", {signed: true})': "+100%", 'amount(-0.3, "overlap")': "−0.3",
        "duration(0.0123)": "12.3 ms", "duration(0.00423)": "4.23 ms", "duration(0.9994)": "999 ms",
        "duration(0.9999)": "1.00 s", "duration(12.345)": "12.3 s", "duration(0.000042)": "42 µs",
        "duration(null)": "∞",
        "evidence(0.0002)": "<0.001", "evidence(19.96)": "20", "evidence(12345.6)": "12,345",
        "evidence(3.2e17)": "10¹⁷",
        "lasting(45)": "45 s", "lasting(350)": "6 min", "lasting(9e4)": "25 h", "lasting(1e7)": "116 days",
        "rough(1873.2)": "1,900", "rough(0.2)": "1", "rough(120001)": "130,000",
        'many(1, "pair")': "1 pair", 'many(1200, "pair")': "1,200 pairs",
    }  # fmt: skip
    calls = ",".join(f"[{call!r}, dom.{call}]" for call in told)
    script = f"return Object.fromEntries([{calls}]);"
    assert await run(page, stage, script) == told


async def test_a_name_can_not_hide_or_turn_what_stands_beside_it(page: Page, stage: Stage) -> None:
    said = await run(
        page, stage, "return given.map(dom.plain);", ["a\u202eb", "a\u200bb", "a\x1b[31m", "größe 日本", "a\nb"]
    )
    assert said == ["a\\u{202e}b", "a\\u{200b}b", "a\\u{1b}[31m", "größe 日本", "a\\u{a}b"]


async def test_styles_are_refused_in_markup(page: Page, stage: Stage) -> None:
    assert "css/" in await run(
        page, stage, 'try { dom.h("p", { style: "color:red" }); } catch (error) { return error.message; }'
    )


async def test_rows_that_stay_are_the_same_elements_and_keep_the_focus(page: Page, stage: Stage) -> None:
    script = """
    const list = document.body.appendChild(dom.h("div"));
    const create = (name) => dom.h("button", null, name);
    const draw = (names) => dom.keyed(list, names, (name) => name, create, (element, name) => element.title = name);
    draw(["a", "b", "c", "d"]);
    const before = new Map([...list.children].map((one) => [one.textContent, one]));
    before.get("c").focus();
    draw(["d", "c", "e", "a"]);
    const after = [...list.children];
    return [after.map((one) => one.textContent), after.map((one) => before.get(one.textContent) === one),
      document.activeElement.textContent];
    """
    names, same, focused = await run(page, stage, script)
    assert names == ["d", "c", "e", "a"]
    assert same == [True, True, False, True]
    assert focused == "c"


async def test_losses_are_placed_in_units_of_their_margin(page: Page, stage: Stage) -> None:
    # −2 to 3 margins over 250 units: 50 a margin.
    assert await run(page, stage, "return [-9, -2, 0, 1, 2.5, 3, 9].map(forest.place);") == [
        0,
        0,
        100,
        150,
        225,
        250,
        250,
    ]


DRAWN = """
const box = document.body.appendChild(dom.h("div"));
forest.drawForest(box, given, {});
return [...box.querySelectorAll("tbody tr")].map((row) => {
  const [, , , span, ends, point] = row.querySelector("svg.interval").children;
  const angular = (path) => (path.getAttribute("d") ?? "").includes("L");
  return {
    label: row.querySelector("svg.interval").getAttribute("aria-label"),
    text: row.querySelector(".c-estimate").textContent,
    shown: span.getAttribute("visibility") !== "hidden", diamond: angular(point), cut: angular(ends),
    from: Number(span.getAttribute("x1")), to: Number(span.getAttribute("x2")),
  };
});
"""


async def test_each_row_has_its_interval_against_its_margin(page: Page, stage: Stage) -> None:
    inside = cell("a", unit="share of requests", margin=0.1, estimate=0.02, interval=[-0.05, 0.15])
    outside = cell("b", finding="harmful", estimate=1.4, interval=[0.3, 1.9])
    unknown = cell("c", pairs=0, estimate=None, interval=None)
    rows = {one["label"].split(",")[0]: one for one in await run(page, stage, DRAWN, verdict(inside, outside, unknown))}
    first = rows["loss +2%"]
    assert (first["from"], first["to"]) == (75, 175)  # 100 + 50 · (−0.5, 1.5)
    assert (first["text"], first["diamond"], first["cut"]) == ("+2%", False, False)
    assert "interval −5% to +15%, margin 10%" in first["label"]
    beyond = rows["loss +1.4"]
    assert (beyond["to"], beyond["cut"], beyond["diamond"]) == (250, True, True)
    assert (rows["no data"]["shown"], rows["no data"]["text"]) == (False, "–")


async def test_rows_sort_with_what_has_no_value_last_and_are_found_by_all_words(page: Page, stage: Stage) -> None:
    cells = [
        cell("a", estimate=0.1),
        cell("b", estimate=None),
        cell("c", "Region=EU", estimate=0.3),
        cell("d", estimate=-1),
    ]
    script = """
    const names = (found) => found.map((one) => one.guardrail).join("");
    const sorted = (down) => names(forest.ordered(given, { id: "estimate", down }));
    const found = (filter) => names(given.filter((one) => forest.fits(one, filter)));
    return [sorted(true), sorted(false), found({ text: "eu c" }), found({ cohort: "all", finding: "safe" })];
    """
    assert await run(page, stage, script, cells) == ["cadb", "dacb", "c", ""]


async def test_a_row_is_only_painted_where_it_changed(page: Page, stage: Stage) -> None:
    script = """
    const box = document.body.appendChild(dom.h("div"));
    forest.drawForest(box, given[0], {});
    const changed = [];
    const row = ({ target }) => (target.closest ? target : target.parentElement).closest("tr");
    const watch = new MutationObserver((all) => changed.push(...all.map(row)));
    const all = { subtree: true, childList: true, attributes: true, characterData: true };
    watch.observe(box.querySelector("tbody"), all);
    forest.drawForest(box, given[1], {});
    await new Promise(requestAnimationFrame);
    return [...new Set(changed.filter((row) => row).map((row) => row.querySelector(".pick").textContent))];
    """
    before = verdict(*(cell(f"g{at}") for at in range(40)))
    after = verdict(*(cell(f"g{at}", pairs=1201 if at == 7 else 1200) for at in range(40)))
    assert await run(page, stage, script, [before, after]) == ["g7"]


async def test_the_way_of_the_evidence_is_told_without_a_chart_too(page: Page, stage: Stage) -> None:
    chosen = cell(needed=900.0)
    trail = {
        "cells": [{"guardrail": "ranking.rbo", "cohort": "all", "promote_at": 20.0, "rollback_at": 400.0}],
        "points": [{"at": 1.0, "pairs": 100, "evidence_rollback": 0.5, "promote": [0.2], "rollback": [None]}],
        "rollback_at": 400.0,
    }
    script = """
    const box = document.body.appendChild(dom.h("div"));
    evidence.drawEvidence(box, { trail: given.trail, verdict: given.verdict, cell: given.cell }, { plotly: null });
    return box.textContent;
    """
    forecast = {"pairs": 1800.0, "seconds": 600.0}
    told = await run(
        page, stage, script, {"trail": trail, "cell": chosen, "verdict": verdict(chosen, forecast=forecast)}
    )
    assert "Evidence that it is safe: 3.5 of 20 needed; that it is harmful: 0.2 of 400." in told
    assert "after about 900 more pairs, 5 min as they come now" in told
    assert "Plotly could not be loaded" in told


async def test_quantiles_among_the_failures_are_infinite(page: Page, stage: Stage) -> None:
    row = {"timing": "total", "cohort": "all", "route": "", "pairs": 50}
    rows = [
        {"side": "baseline", "p50": 0.02, "p90": 0.04, "p99": 0.08, **row},
        {"side": "candidate", "p50": 0.025, "p90": 0.04, "p99": None, **row},
        {"side": "replica", "p50": None, "p90": None, "p99": None, **row, "pairs": 0},
    ]
    script = """
    const box = document.body.appendChild(dom.h("div"));
    latency.drawLatency(box, { latencies: null, verdict: given }, { plotly: null });
    return [...box.querySelectorAll("tbody tr")].map((row) => [...row.children].map((one) => one.textContent));
    """
    assert await run(page, stage, script, verdict(latencies=rows)) == [
        ["baseline", "20.0 ms", "40.0 ms", "80.0 ms", "50"],
        ["candidate", "25.0 ms +25%", "40.0 ms 0%", "∞", "50"],
    ]


LIVE = """
let clock = 0;
const shown = [], answers = [...given];
const api = { live: true, events: () => null, get: async () => {
  const next = answers.shift();
  if (typeof next === "number") throw new source.SourceError(next, `status ${next}`);
  return next;
} };
const connection = new live.Live(api, { onVerdict: (one) => shown.push(one.n), onState: () => {}, now: () => clock });
const look = async () => {
  await connection.look();
  clearTimeout(connection.timer);
  return connection.state.kind;
};
"""


async def test_nothing_past_is_shown_as_current(page: Page, stage: Stage) -> None:
    script = """
    const steps = [];
    for (const _ of given) steps.push(await look());
    clock += 15000; connection.age(); steps.push(connection.state.kind);
    clock += 2000; connection.age(); steps.push(connection.state.kind);
    return [shown, steps, connection.state.since];
    """
    answers = [401, {"n": 1}, 503, 0, {"n": 2}]
    shown, steps, since = await run(page, stage, LIVE + script, answers)
    assert shown == [1, 2]
    assert steps == ["unauthorised", "live", "trouble", "unreachable", "live", "live", "stale"]
    assert since == 0


async def test_asked_too_often_is_no_doubt_of_the_verdict(page: Page, stage: Stage) -> None:
    script = "return [await look(), await look(), shown];"
    assert await run(page, stage, LIVE + script, [{"n": 1}, 429]) == ["live", "live", [1]]


async def test_a_report_has_its_data_by_the_names_of_the_endpoints(page: Page, stage: Stage) -> None:
    script = """
    const found = source.still(given);
    const missing = await found.get("evidence").catch((error) => [error.status, error.message]);
    const one = await found.get("pairs/r%2F2");
    const worst = await found.get("pairs", { guardrail: "a" });
    return [await found.get("verdict"), worst.pairs, one.exemplar.id, missing];
    """
    pairs = {"worst": {"a": [{"exemplar": {"id": "r/1"}}], "b": [{"exemplar": {"id": "r/2"}}]}}
    told = await run(page, stage, script, {"verdict": {"state": "promote"}, "pairs": pairs})
    assert told == [{"state": "promote"}, [{"id": "r/1"}], "r/2", [404, "the report has no evidence"]]
