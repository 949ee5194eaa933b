"""Curves over HTTP: those of the counted pairs, and of no pair that is not counted yet."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest
from serve.test_guardrails import served
from serve.test_reader import SETTINGS, Counted, pair
from servers import unique

from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import loads
from shadowproxy.model import Exchange, Outcome, Pair
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Store
from shadowproxy.serve.api.curves import CurveApi
from shadowproxy.serve.api.verdict import VerdictApi
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.verdict.plan import Plan

SCORED = loads(
    """
baseline: {url: http://127.0.0.1:1, deadline: 0.1}
candidate: {url: http://127.0.0.1:2, deadline: 0.1}
routes:
  - name: rank
    path: /rank
    ids: response.body.ids
    scores: response.body.scores
    cohorts: {region: request.body.region}
  - {name: other, path: /other}
verdict: {bucket: 0.1, settle: 0.0}
"""
)


@pytest.fixture
async def counted(valkey: EmbeddedServer) -> AsyncIterator[Counted]:
    async with await Store.open(valkey.url, unique("curves"), max_entries=1000) as store:
        yield Counted(store)


def body(at: int, shift: float) -> bytes:
    scores = [round((at * 7 + item * 13) % 100 / 100 + shift, 4) for item in range(5)]
    return b'{"ids":["a","b","c","d","e"],"scores":%s}' % repr(scores).encode()


def scores(pairs: range, shift: float) -> list[float]:
    return [round((at * 7 + item * 13) % 100 / 100 + shift, 4) for at in pairs for item in range(5)]


async def test_both_sides_are_drawn_over_each_other(counted: Counted) -> None:
    made = []
    for at in range(90):
        one = pair(at)
        sides = {
            side: Exchange(Outcome.OK, 200, b"", text, len(text), b"", 0.01, total)
            for side, text, total in (
                ("baseline", body(at, 0.005), 0.02 + at / 1000),
                ("candidate", body(at, 0.255), 0.04 + at / 1000),
            )
        }
        made.append(Pair(one.id, one.started, one.request, sides["baseline"], sides["candidate"]))
    plan = Plan(SCORED)
    columns = Comparer(SCORED.routes)(made)
    slots = await counted.store.slots(sorted({name for names in columns.cohorts for name in names}), 10)
    await counted.write(made)
    entries = await counted.store.read("one", 10, 0.0)
    state = plan.empty().with_added(plan.tally(columns, slots))
    await counted.store.commit("one", [entry.id for entry in entries], state.to_bytes())

    api = VerdictApi(VerdictReader(Partitions(counted.store), SCORED), refresh=60.0)
    async with served(api, CurveApi(api.current)) as get:
        await get("distributions", 503)
        await get("latencies", 503)
        await api.update()
        for cohort, chosen in (("all", range(90)), ("region=r1", range(1, 90, 3))):
            [curve] = (await get(f"distributions?cohort={cohort.replace('=', '%3D')}"))["distributions"]
            assert (curve["route"], curve["cohort"], curve["scale"]) == ("rank", cohort, "linear")
            for side, shift in (("baseline", 0.005), ("candidate", 0.255)):
                assert curve[side] == np.histogram(scores(chosen, shift), curve["edges"])[0].tolist()
            assert curve["wasserstein"] == pytest.approx(0.25, rel=0.05)
            found = (await get(f"latencies?route=&cohort={cohort.replace('=', '%3D')}"))["latencies"]
            assert [(one["side"], one["timing"]) for one in found] == [
                (side, timing) for side in ("baseline", "candidate") for timing in ("ttfb", "total")
            ]
            median = found[3]["seconds"][found[3]["probabilities"].index(0.5)]
            exact = np.quantile([0.04 + at / 1000 for at in chosen], 0.5, method="inverted_cdf")
            assert median == pytest.approx(exact, rel=0.05)
            assert found[3]["pairs"] == len(chosen)
        every = (await get("latencies"))["latencies"]
        assert [one["route"] for one in every] == [""] * 4 + ["rank"] * 4
        assert (await get("latencies?route=rank"))["latencies"] == every[4:]
        assert (await get("latencies?route=other"))["latencies"] == []
        assert (await get("distributions?route=other"))["distributions"] == []
        for path in ("distributions", "latencies"):
            assert "'moon'; there are rank, other" in (await get(f"{path}?route=moon", 404))["detail"]
            assert "there are all, region=r0" in (await get(f"{path}?cohort=moon", 404))["detail"]


async def test_without_pairs_there_is_nothing_to_draw(counted: Counted) -> None:
    api = VerdictApi(VerdictReader(Partitions(counted.store), SETTINGS), refresh=60.0)
    await api.update()
    async with served(api, CurveApi(api.current)) as get:
        assert await get("distributions") == {"distributions": []}
        assert await get("latencies") == {"latencies": []}
