"""Finding pairs among those that are kept, and looking at one, over HTTP and from a real Valkey."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from urllib.parse import quote

import msgspec
import pytest
from comparator.test_exemplars import FAIL, HEAD, RBO, SETTINGS, Bench, pair, traffic
from serve.test_guardrails import served

from shadowproxy.model import Exchange, Outcome, Pair
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.report.view import Viewer
from shadowproxy.serve.api.guardrails import GuardrailApi
from shadowproxy.serve.api.pairs import PairApi
from shadowproxy.serve.api.verdict import VerdictApi
from shadowproxy.serve.index import ExemplarIndex, Wanted
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.verdict.exemplars import Board, Limits

HOSTILE = "<img src=x onerror=alert(1)>/..%2F"


@pytest.fixture
async def bench(valkey: EmbeddedServer) -> AsyncIterator[Bench]:
    made = Bench(valkey.url, partitions=2)
    await made.store.prepare()
    yield made
    await made.close()


def api_of(bench: Bench, *, may_see: bool = True) -> PairApi:
    return PairApi(ExemplarIndex(bench.store, SETTINGS), Viewer(SETTINGS.routes), may_see=lambda _: may_see)


def answered(one: Pair, status: int) -> Pair:
    said = msgspec.structs.replace(one.candidate, status=status)
    return msgspec.structs.replace(one, candidate=said)


async def test_pairs_are_found_by_what_is_known_of_them(bench: Bench) -> None:
    await bench.write([*traffic(60), answered(pair(77), 503)])
    await bench.count_all()
    async with served(api_of(bench)) as get:
        every = await get("pairs")
        assert every["total"] == len(every["pairs"])
        places = [(one["partition"], one["entry"], one["position"]) for one in every["pairs"]]
        assert len(set(places)) == len(places)
        # The worst of each guardrail in their order, and what else is of the sample.
        labels = [one["guardrail"] for one in every["pairs"]]
        assert labels == sorted(labels, key=[FAIL, RBO, None].index)
        assert labels[:3] == [FAIL] * 3
        worst = (await get(f"pairs?guardrail={FAIL}"))["pairs"]
        assert worst == (await get(f"pairs/worst?guardrail={FAIL}"))["pairs"] == every["pairs"][:3]
        assert [one["loss"] for one in worst] == [1.0] * 3
        sample = await get("pairs?board=sample")
        assert {one["id"] for one in sample["pairs"]} == {one["id"] for one in (await get("pairs/sample"))["pairs"]}
        assert [one["started"] for one in sample["pairs"]] == sorted(
            (one["started"] for one in sample["pairs"]), reverse=True
        )
        assert all(one["guardrail"] for one in (await get("pairs?board=worst"))["pairs"])

        slots = await bench.store.home.slots((), 0)
        for cohort in slots:
            found = (await get(f"pairs?cohort={quote(cohort)}"))["pairs"]
            assert found
            assert all(cohort in one["cohorts"] for one in found)
        pooled = (await get("pairs?cohort=other"))["pairs"]
        assert pooled
        assert not {name for one in pooled for name in one["cohorts"]} & slots.keys()

        timeouts = (await get("pairs?outcome=timeout"))["pairs"]
        assert timeouts
        assert timeouts == [one for one in every["pairs"] if one["candidate"]["outcome"] == "timeout"]
        assert [one["id"] for one in (await get("pairs?outcome=5xx"))["pairs"]] in ([], ["r77"])
        target = worst[1]["id"]
        assert [one["id"] for one in (await get(f"pairs?id={target}"))["pairs"]] == [target]
        assert (await get(f"pairs?text={target.upper()}"))["total"] >= 1
        # A failure's words, and those of a target.
        assert (await get("pairs?text=NO+answer"))["pairs"] == timeouts
        assert (await get("pairs?text=/rank&route=rank"))["total"] == every["total"]
        assert (await get("pairs?route="))["total"] == 0
        assert (await get("pairs?text=nowhere"))["total"] == 0

        second = await get("pairs?limit=2&offset=3")
        assert (second["pairs"], second["total"]) == (every["pairs"][3:5], every["total"])
        assert (await get(f"pairs?offset={every['total']}"))["pairs"] == []


async def test_what_cannot_be_asked_for_is_said(bench: Bench) -> None:
    await bench.write(traffic(8))
    await bench.count_all()
    async with served(api_of(bench)) as get:
        for path in ("pairs?guardrail=x", "pairs?cohort=x", "pairs?route=x", "pairs/x", f"pairs/{quote(HOSTILE)}"):
            assert (await get(path, 404))["title"] == "Not Found"
        for path in ("pairs?board=x", "pairs?outcome=x", "pairs?limit=0", "pairs?limit=1001", "pairs?offset=-1",
                     f"pairs?text={'x' * 201}", "pairs/r1?position=x", "pairs?limit=%D9%A3"):  # fmt: skip
            assert (await get(path, 400))["status"] == 400


async def test_one_pair_is_shown_with_where_it_stands(bench: Bench) -> None:
    one = pair(1, ids=["b", "x"])
    hostile = msgspec.structs.replace(
        one, id=HOSTILE, candidate=Exchange(Outcome.RESET, detail="<b>reset</b>", head=HEAD)
    )
    await bench.write([one, hostile])
    await bench.count_all()
    async with served(api_of(bench)) as get:
        got = await get("pairs/r1")
        assert got["withheld"] is False
        assert [(item["id"], item["baseline"], item["candidate"]) for item in got["ranking"]["items"]] == [
            ("a", 1, None), ("b", 2, 1), ("x", None, 2)
        ]  # fmt: skip
        assert got["baseline"]["body"]["json"] == {"ids": ["a", "b"]}
        assert got["exemplar"]["guardrail"] == RBO
        assert got["exemplar"]["loss"] == pytest.approx(1 - got["values"][RBO])
        assert [(standing["guardrail"], standing["cohort"], standing["rank"]) for standing in got["standings"]] == [
            (RBO, "all", 2), (RBO, "id=1", 2)
        ]  # fmt: skip
        shown = await get(f"pairs/{quote(HOSTILE, safe='')}")
        assert shown["exemplar"]["id"] == HOSTILE
        assert shown["exemplar"]["guardrail"] == FAIL
        assert shown["candidate"]["detail"] == "<b>reset</b>"
    async with served(api_of(bench, may_see=False)) as get:
        got = await get("pairs/r1")
        assert (got["withheld"], got["ranking"], got["baseline"]["body"]) == (True, None, None)
        assert '"x"' not in json.dumps(got)


async def test_of_several_with_one_id_the_newest_unless_its_place_is_said(bench: Bench) -> None:
    await bench.write([pair(1, fails=True)])
    await bench.write([pair(2, fails=True), pair(1)])
    await bench.count_all()
    async with served(api_of(bench)) as get:
        newest = await get("pairs/r1")
        assert newest["candidate"]["outcome"] == "ok"
        assert "2 pairs" in newest["notes"][-1]
        [first] = (await get("pairs?id=r1&outcome=timeout"))["pairs"]
        place = f"partition={first['partition']}&entry={first['entry']}&position={first['position']}"
        older = await get(f"pairs/r1?{place}")
        assert (older["candidate"]["outcome"], older["notes"]) == ("timeout", [])
        await get("pairs/r1?entry=1-1", 404)


async def test_the_index_keeps_up_and_reads_no_record_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    index = ExemplarIndex(bench.store, SETTINGS)
    read: list[int] = []
    for store in bench.store.stores:
        records = store.exemplars.records

        async def counting(keys: list[int], records=records) -> dict[int, bytes]:  # type: ignore[no-untyped-def]
            read.extend(keys)
            return await records(keys)

        monkeypatch.setattr(store.exemplars, "records", counting)
    assert await index.found(Wanted()) == []
    await bench.write(traffic(40))
    await bench.count_all()
    before = await index.found(Wanted())
    assert await index.found(Wanted()) == before
    # What failed is worse than all that is kept, but for what did too.
    await bench.write([pair(at, fails=True) for at in range(100, 300)])
    await bench.count_all("two")
    after = await index.found(Wanted(guardrail=FAIL))
    assert len(read) == len(set(read))
    kept = [one.exemplar for one in await bench.reader.worst(FAIL)]
    assert after == kept != [one for one in before if one.guardrail == FAIL]
    assert index._known.keys() == index._boards.sizes.keys()


async def test_the_worst_of_each_cell_is_named(bench: Bench) -> None:
    await bench.write(traffic(60))
    await bench.count_all()
    worst = await ExemplarIndex(bench.store, SETTINGS).worst()
    assert {cohort for _, cohort in worst} == set(await bench.reader.cohorts())
    for (guardrail, cohort), id_ in worst.items():
        assert [id_] == [one.exemplar.id for one in await bench.reader.worst(guardrail, cohort, 1)]

    index = ExemplarIndex(bench.store, SETTINGS)
    api = VerdictApi(VerdictReader(bench.store, SETTINGS), refresh=60.0)
    await api.update()
    async with served(GuardrailApi(api.current, index.guardrails, index.worst)) as get:
        cells = (await get("guardrails"))["guardrails"]
        assert len(cells) == 8
        assert [cell["worst"] for cell in cells] == [worst[cell["guardrail"], cell["cohort"]] for cell in cells]


async def test_a_record_that_is_gone_or_damaged_harms_no_other(bench: Bench) -> None:
    await bench.write(traffic(40))
    await bench.count_all(limits=Limits(3, 5, 1 << 30))
    index = ExemplarIndex(bench.store, SETTINGS)
    whole = {one.id for one in await index.found(Wanted())}
    for found, word in zip(index._boards.boards[Board(FAIL, 0)], ("HSET", "HDEL"), strict=False):
        damage = (b"\xc1",) if word == "HSET" else ()
        part = bench.store.stores[index._partitions[found.key]]
        await part.command(word, "exemplars:pairs", found.key, *damage)
    index = ExemplarIndex(bench.store, SETTINGS)
    left = {one.id for one in await index.found(Wanted())}
    assert len(index._damaged) == 1
    assert left < whole
    assert len(left) == len(whole) - 2
