"""page: what the live page costs a browser and the API where an experiment has grown large.

A real API (in this process, on an embedded Valkey) shows an experiment of 12 guardrails in 40 cohorts with 10,000 pairs
that were kept; Debian's Chromium shows its page. Times are the browser's own: its records of long tasks (50 ms and
more) and the CPU time of its main thread (`Performance.getMetrics`).
"""

from __future__ import annotations

import asyncio
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import msgspec
from bench.options import Options
from bench.peers import NotMeasured
from bench.report import Check, Goal, Report, Spread
from browser import CHROMIUM, launched
from page.live import CONFIGURATION, HEAD, System, answer, system
from servers import until

from shadowproxy.model import Exchange, Outcome, Pair, Request
from shadowproxy.pairs.embedded import EmbeddedServer

if TYPE_CHECKING:
    from playwright.async_api import Browser, CDPSession, Page

MEANS: Final = (
    "failures.difference", "failures.candidate", "latency.total_log2", "latency.ttfb_log2", "ranking.rbo",
    "ranking.overlap", "ranking.top1", "ranking.kendall", "ranking.ndcg", "ranking.displacement", "ranking.new",
    "ranking.spearman",
)  # fmt: skip
INTERACTIVE: Final = 2500.0
"""Milliseconds that the page may take until it answers whoever uses it."""
UPDATE: Final = 200.0
"""Milliseconds of the main thread's CPU that a new verdict may take."""
SEARCH: Final = 100.0
"""Milliseconds that a search among the pairs may take."""
_QUIET: Final = 1000
"""Milliseconds without a long task after which a page counts as interactive."""
_LONG_TASKS: Final = """
globalThis.long = [];
new PerformanceObserver((list) => {
  for (const one of list.getEntries()) long.push([one.startTime, one.duration]);
}).observe({ type: "longtask", buffered: true });
"""
_INTERACTIVE: Final = """
(drawn) => new Promise((resolve) => {
  const look = () => {
    const end = Math.max(drawn, ...long.map(([start, lasted]) => start + lasted));
    if (performance.now() - end > %d) resolve(end);
    else setTimeout(look, 50);
  };
  look();
})
"""


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    cohorts: int
    guardrails: int
    kept: int
    """Pairs that are kept to be looked at, about."""
    items: int = 10


FULL: Final = Size(40, 12, 10_000)
SMALL: Final = Size(4, 3, 300)


@dataclass
class Figures:
    """By what was measured, one figure for each turn, milliseconds."""

    interactive: list[float] = field(default_factory=list)
    loading: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)
    listed: list[float] = field(default_factory=list)
    searched: list[float] = field(default_factory=list)
    one: list[float] = field(default_factory=list)


TITLES: Final = {
    "interactive": "page: until it can be used",
    "loading": "page: CPU of the main thread until then",
    "update": "page: CPU of the main thread for a new verdict",
    "longest": "page: the longest task of that (0: none of 50 ms)",
    "opened": "page: a pair, from the click to being drawn",
    "listed": "API: 50 pairs of one guardrail and cohort",
    "searched": "API: a text in all pairs",
    "one": "API: one pair side by side",
}


def configuration(size: Size) -> str:
    """The settings of an experiment of this size; `experiment` and `redis` are still to be filled in."""
    head = CONFIGURATION.partition("verdict:")[0]
    guardrails = "".join(f"    - {{{{metric: {name}, margin: 0.2}}}}\n" for name in MEANS[: size.guardrails])
    # Each board of worst pairs holds ten; what is missing is the sample's.
    return (
        f"{head}comparator: {{{{worst: 10, sample: {size.kept}, exemplar_bytes: 256MiB}}}}\n"
        f"verdict:\n  bucket: 0.1\n  settle: 0.0\n  min_duration: 0\n  max_cohorts: {size.cohorts}\n"
        f"  guardrails:\n{guardrails}"
    )


def traffic(size: Size, first: int, count: int) -> list[Pair]:
    """Pairs of all cohorts, in most of which the candidate ranks otherwise; one in a hundred fails."""
    chance = random.Random(first)
    names = [f"item-{at}" for at in range(size.items)]
    made = []
    for at in range(first, first + count):
        asked = b'{"region":"region-%d","user":%d}' % (at % size.cohorts, at)
        theirs = answer(sorted(names, key=lambda _: chance.random())[: size.items - at % 2])
        ours, taken = answer(names), chance.uniform(0.01, 0.03)
        failed = Exchange(Outcome.TIMEOUT, detail="no answer")
        given = Exchange(Outcome.OK, 200, HEAD, theirs, len(theirs), b"", taken, taken * chance.uniform(1, 1.4))
        request = Request("POST", "/rank", HEAD, asked, len(asked))
        baseline = Exchange(Outcome.OK, 200, HEAD, ours, len(ours), b"", taken, taken * 1.2)
        made.append(Pair(f"request-{at:06d}", 1.7e9 + at / 100, request, baseline, given if at % 100 else failed))
    return made


async def measured(size: Size, rounds: int, say: Callable[[str], None]) -> tuple[Figures, list[Check]]:
    """All figures, and whether what was measured is what was meant."""
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as folder, EmbeddedServer(folder) as server:
        async with system(server.url, configuration(size)) as live:
            count = size.kept + size.kept // 5
            await live.count(traffic(size, 0, count))
            say(f"{count:,} pairs are counted")
            checks = await _checked(live, size, count)
            async with launched() as browser:
                for turn in range(rounds):
                    await _round(browser, live, size, figures, count + 100 * turn)
                    say(f"round {turn + 1} of {rounds}")
    return figures, checks


async def _checked(live: System, size: Size, count: int) -> list[Check]:
    async with aiohttp.ClientSession(live.url) as session:

        async def all_counted() -> bool:
            return bool((await _json(session, "/api/v1/verdict"))["pairs"] == count)

        await until(all_counted, "a verdict on all pairs", within=120)
        verdict = await _json(session, "/api/v1/verdict")
        found = await _json(session, "/api/v1/pairs?limit=1")
    rows = len(verdict["guardrails"]) + sum(len(one["guardrails"]) for one in verdict["cohorts"].values())
    wanted = size.guardrails * (size.cohorts + 1)
    return [
        Check("every guardrail in every cohort", rows == wanted, f"{rows} of {wanted}"),
        Check("pairs kept", found["total"] >= size.kept, f"{found['total']:,}"),
    ]


async def _round(browser: Browser, live: System, size: Size, figures: Figures, first: int) -> None:
    context = await browser.new_context(viewport={"width": 1280, "height": 900})
    try:
        await context.add_init_script(_LONG_TASKS)
        page = await context.new_page()
        session = await context.new_cdp_session(page)
        # CPU time of the main thread: what else the machine does is not counted.
        await session.send("Performance.enable", {"timeDomain": "threadTicks"})
        await _opened(page, session, live, figures)
        await _updated(page, session, live, size, figures, first)
        await _pair(page, figures)
    finally:
        await context.close()
    async with aiohttp.ClientSession(live.url) as session:
        cohort = f"region=region-{size.cohorts - 1}"
        for name, path in (
            ("listed", f"/api/v1/pairs?board=worst&guardrail={MEANS[0]}&cohort={cohort}&limit=50"),
            ("searched", f"/api/v1/pairs?text=quest-0{first % 10}"),
            ("one", f"/api/v1/pairs/{await _some(session)}"),
        ):
            getattr(figures, name).append(await _timed(lambda path=path: _json(session, path)))


async def _opened(page: Page, session: CDPSession, live: System, figures: Figures) -> None:
    before = await _busy(session)
    await page.goto(live.url)
    for part in (".forest tbody tr", ".pairs tbody tr", "#latency .main-svg"):
        await page.locator(part).first.wait_for()
    end = await page.evaluate(_INTERACTIVE % _QUIET, await page.evaluate("performance.now()"))
    figures.interactive.append(end)
    figures.loading.append(1000 * (await _busy(session) - before))


async def _updated(page: Page, session: CDPSession, live: System, size: Size, figures: Figures, first: int) -> None:
    await page.evaluate("long.length = 0")
    before = await _busy(session)
    shown = f"{first + 100:,}"
    await live.count(traffic(size, first, 100))
    await page.locator("#verdict").get_by_text(shown, exact=True).first.wait_for()
    # What stands beside the verdict is drawn with it or a little later, and then there is rest.
    await page.evaluate(_INTERACTIVE % _QUIET, await page.evaluate("performance.now()"))
    figures.update.append(1000 * (await _busy(session) - before))
    figures.longest.append(await page.evaluate("Math.max(0, ...long.map(([, lasted]) => lasted))"))


async def _busy(session: CDPSession) -> float:
    found = await session.send("Performance.getMetrics")
    return float(next(one["value"] for one in found["metrics"] if one["name"] == "TaskDuration"))


async def _pair(page: Page, figures: Figures) -> None:
    async def click() -> None:
        await page.locator(".pairs .pair-id").first.click()
        await page.locator(".pair .ranks, .pair .part").first.wait_for()

    figures.opened.append(await _timed(click))


async def _some(session: aiohttp.ClientSession) -> str:
    return str((await _json(session, "/api/v1/pairs?board=sample&limit=1"))["pairs"][0]["id"])


async def _timed(act: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await act()
    return 1000 * (time.perf_counter() - began)


async def _json(session: aiohttp.ClientSession, path: str) -> Any:
    async with session.get(path, raise_for_status=True) as response:
        return msgspec.json.decode(await response.read())


def run(options: Options) -> Report:
    """The page at its largest; small where `quick`."""
    if not any(map(shutil.which, CHROMIUM)):
        raise NotMeasured("chromium is not on the PATH")
    size, rounds = (SMALL, options.rounds or 1) if options.quick else (FULL, options.rounds or 5)
    figures, checks = asyncio.run(measured(size, rounds, options.progress))
    median = {name: statistics.median(values) for name, values in asdict(figures).items()}
    return Report(
        "page",
        f"The live page: {size.guardrails} guardrails × {size.cohorts} cohorts, {size.kept:,} pairs kept",
        ("what", "milliseconds: median (least–most)"),
        [(title, Spread.of(getattr(figures, name)).text(0)) for name, title in TITLES.items()],
        checks,
        goals=_goals(median),
        notes=(f"{rounds} rounds; browser, API and store share the machine's cores.",),
        raw={"milliseconds": asdict(figures), "size": asdict(size)},
    )


def _goals(median: dict[str, float]) -> Sequence[Goal]:
    return (
        Goal("milliseconds until the page can be used", INTERACTIVE, median["interactive"]),
        Goal("milliseconds of the main thread's CPU for a new verdict", UPDATE, median["update"]),
        Goal("milliseconds for a search among the pairs", SEARCH, median["searched"]),
    )
