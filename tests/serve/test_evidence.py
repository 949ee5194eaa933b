"""How the evidence went: a point for every 2% more pairs, once, whoever looks, through restarts and until a reset."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
from serve.test_guardrails import NAMES, served
from serve.test_reader import BROKEN, SETTINGS, Counted, pair
from servers import unique

from shadowproxy.errors import PayloadError
from shadowproxy.model import Accounting
from shadowproxy.pairs.controls import ControlChange
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.experiments import reset
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Store
from shadowproxy.pairs.trail import MOST_POINTS, Point, keep, trail
from shadowproxy.serve.api.evidence import EvidenceApi, thinned
from shadowproxy.serve.api.verdict import VerdictApi
from shadowproxy.serve.reader import VerdictReader


@pytest.fixture
async def counted(valkey: EmbeddedServer) -> AsyncIterator[Counted]:
    async with await Store.open(valkey.url, unique("evidence"), max_entries=1000) as store:
        yield Counted(store)


class Looking:
    """A process that looks, with a memory of its own."""

    def __init__(self, counted: Counted) -> None:
        self.reader = VerdictReader(Partitions(counted.store), SETTINGS)
        self.api = VerdictApi(self.reader, refresh=60.0)
        self.evidence = EvidenceApi(self.api.current, self.reader, NAMES)


def point(pairs: int, *, cells: int = 1) -> Point:
    names = tuple(("ranking.rbo", f"region={at}") for at in range(cells))
    return Point(at=float(pairs), pairs=pairs, evidence=0.5, cells=names, promote=(7,) * cells, rollback=(-7,) * cells)


async def pairs_kept(counted: Counted) -> list[int]:
    return [point.pairs for point in await trail(counted.store)]


def by_hand(most: int) -> list[int]:
    """Those of all numbers of pairs at which a point is due, if every one of them is looked at."""
    found = [1]
    found += (pairs for pairs in range(2, most) if 100 * pairs >= 102 * found[-1] and found.append(pairs) is None)
    return sorted(set(found))


async def test_a_point_for_every_two_percent_and_never_twice(counted: Counted) -> None:
    kept = [await keep(counted.store, point(pairs), resets=0) for pairs in range(1, 400)]
    expected = by_hand(400)
    assert await pairs_kept(counted) == expected
    assert expected[:3] == [1, 2, 3]
    assert len(expected) < 170
    assert kept[-1] == expected[-1]
    # Who is behind, and who says it again, adds nothing.
    for pairs in (1, 200, expected[-1]):
        assert await keep(counted.store, point(pairs), resets=0) == expected[-1]
    assert await pairs_kept(counted) == expected
    assert [one.pairs for one in await trail(counted.store, after=expected[-3])] == expected[-2:]
    assert (await trail(counted.store))[0] == point(1)


async def test_processes_that_race_keep_each_point_once(counted: Counted) -> None:
    looking = [Looking(counted) for _ in range(4)]
    for step in range(3):
        await counted.count("one", [pair(at) for at in range(30 * step, 30 * step + 30)])
        await asyncio.gather(*(one.api.update() for one in looking))
    assert await pairs_kept(counted) == [30, 60, 90]


async def test_the_way_is_that_of_the_verdicts_that_were_read(counted: Counted) -> None:
    one = Looking(counted)
    async with served(one.api, one.evidence) as get:
        await get("evidence", 503)
        await one.api.update()
        empty = await get("evidence")
        assert [point["pairs"] for point in empty["points"]] == [0]
        verdicts = []
        for step in range(4):
            # One region is there from the second step on only.
            numbers = range(40 * step, 40 * step + 40)
            await counted.count("one", [pair(at - at % 3 if not step else at, BROKEN) for at in numbers])
            await one.api.update()
            verdicts.append(await counted.verdict())
        # Another process has it from the store.
        two = Looking(counted)
        await two.api.update()
        async with served(two.evidence) as other:
            got = await other("evidence")
            assert got == await get("evidence") | {"points": got["points"]}
        assert [(cell["guardrail"], cell["cohort"]) for cell in got["cells"]] == [
            (name, cohort) for cohort in ("all", "region=r0", "region=r1", "region=r2") for name in NAMES
        ]
        assert [point["pairs"] for point in got["points"]] == [verdict.pairs for verdict in verdicts]
        for shown, verdict in zip(got["points"], verdicts, strict=True):
            assert shown["evidence_rollback"] == verdict.evidence_rollback
            for at, cell in enumerate(verdict.guardrails):
                assert shown["promote"][at] == pytest.approx(math.log10(max(cell.e_promote, 1e-300)), abs=5e-4)
                assert shown["rollback"][at] == pytest.approx(math.log10(cell.e_rollback), abs=5e-4)
        assert got["points"][0]["promote"][4:] == [None] * 4
        assert None not in got["points"][1]["promote"]
        assert got["cells"][0]["promote_at"] == verdicts[0].guardrails[0].promote_at
        chosen = await get("evidence?guardrail=ranking.rbo&cohort=region%3Dr1&points=2")
        assert chosen["cells"] == [got["cells"][5]]
        assert [point["rollback"] for point in chosen["points"]] == [
            [got["points"][at]["rollback"][5]] for at in (0, 3)
        ]
        await get("evidence?guardrail=x", 404)
        await get("evidence?cohort=x", 404)
        await get("evidence?points=1", 400)


async def test_the_last_point_is_now(counted: Counted) -> None:
    one = Looking(counted)
    for first, last in ((0, 100), (100, 101)):
        await counted.count("one", [pair(at) for at in range(first, last)])
        await one.api.update()
    assert await pairs_kept(counted) == [100]
    points = await one.reader.evidence(one.api.current())
    assert [point.pairs for point in points] == [100, 101]


async def test_a_reset_forgets_it_and_it_begins_anew(counted: Counted) -> None:
    one = Looking(counted)
    await counted.count("one", [pair(at) for at in range(50)])
    await one.api.update()
    before = one.api.current()
    assert await pairs_kept(counted) == [50]
    await counted.store.publish("producer", Accounting(50, 50, 50))
    await counted.store.change_controls(ControlChange(stopped=True))
    await reset(Partitions(counted.store), by="ops", reason="new", force=True)
    assert await pairs_kept(counted) == []
    # What was read before the reset is not brought back by who is slow.
    await one.reader.remember(before)
    assert await keep(counted.store, point(60), resets=0) == 0
    assert await pairs_kept(counted) == []
    counted.states.clear()
    await counted.store.load_state("one")
    await counted.count("one", [pair(at) for at in range(10)])
    await one.api.update()
    assert await pairs_kept(counted) == [10]
    assert [point.pairs for point in await one.reader.evidence(one.api.current())] == [10]


async def test_it_is_bounded(counted: Counted) -> None:
    for at in range(MOST_POINTS + 20):
        # Bounds hold whatever the growth is: these are written as they come.
        await counted.store.command("XADD", "trail", "MAXLEN", MOST_POINTS, f"{at + 1}-0", "r", b"x")
    assert await keep(counted.store, point(10**6), resets=0) == 10**6
    assert await counted.store.command("XLEN", "trail") == MOST_POINTS


async def test_what_cannot_be_read_is_said(counted: Counted) -> None:
    await counted.store.command("XADD", "trail", "5-0", "r", b"garbage")
    with pytest.raises(PayloadError, match="way of the evidence"):
        await trail(counted.store)
    one = Looking(counted)
    await counted.count("one", [pair(0)])
    await one.api.update()
    async with served(one.api, one.evidence) as get:
        assert "way of the evidence" in (await get("evidence", 503))["detail"]
        # A verdict does not depend on how it was reached.
        await get("verdict")


def test_thinning_keeps_the_ends() -> None:
    every = [point(at) for at in range(1, 1001)]
    assert thinned(every, 1000) == every
    few = thinned(every, 11)
    assert (few[0], few[-1], len(few)) == (every[0], every[-1], 11)
    assert len({one.pairs for one in thinned(every, 999)}) == 999
