"""How the verdict changed, as the API keeps it and shows it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest
from serve.test_reader import BROKEN, GOOD, SETTINGS, Counted, pair
from servers import unique, until

from shadowproxy import metrics
from shadowproxy.config import Address, Settings, frozen
from shadowproxy.errors import PayloadError, Refused
from shadowproxy.metrics import VerdictMetrics
from shadowproxy.model import Accounting
from shadowproxy.pairs.controls import ControlChange
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.experiments import History, Moment, history, note_versions, remember, reset
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Store
from shadowproxy.serve.admin import AdminServer
from shadowproxy.serve.api.control import ControlApi
from shadowproxy.serve.api.verdict import VerdictApi
from shadowproxy.serve.client import change_control
from shadowproxy.serve.experiments import changes, report, summary, table
from shadowproxy.serve.reader import VerdictReader


@pytest.fixture
async def counted(valkey: EmbeddedServer) -> AsyncIterator[Counted]:
    async with await Store.open(valkey.url, unique("history"), max_entries=1000) as store:
        yield Counted(store)


def api_of(counted: Counted, settings: Settings = SETTINGS) -> VerdictApi:
    return VerdictApi(VerdictReader(Partitions(counted.store), settings), refresh=0.02)


async def kinds(counted: Counted) -> list[str]:
    return [moment.kind for moment in (await history(counted.store)).history]


async def test_two_apis_keep_one_history(counted: Counted) -> None:
    first, second = api_of(counted), api_of(counted)
    for _ in range(3):
        await asyncio.gather(first.update(), second.update())
    assert await kinds(counted) == ["continue"]
    await counted.count("one", [pair(at, BROKEN) for at in range(200)])
    for _ in range(3):
        await asyncio.gather(first.update(), second.update())
    assert await kinds(counted) == ["rollback", "continue"]
    moment = (await history(counted.store)).history[0]
    assert moment.pairs == 200
    assert moment.evidence > 1 / SETTINGS.verdict.alpha_rollback
    assert any("proven harmful" in reason for reason in moment.reasons)
    for api in (first, second):
        reading = api.exported()
        assert reading is not None
        assert reading.changed_at == moment.at


async def test_a_reading_that_is_overtaken_says_no_time(counted: Counted) -> None:
    reader = VerdictReader(Partitions(counted.store), SETTINGS)
    early = await reader.read()
    await remember(counted.store, Moment(what="rollback"), early.read_at + 1)
    assert await reader.remember(early) is None
    assert await kinds(counted) == ["rollback"]


async def test_exhaustion_is_a_change(counted: Counted) -> None:
    policy = SETTINGS.verdict.model_copy(update={"horizon": 1})
    await api_of(counted).update()
    await counted.count("one", [pair(0)])
    await api_of(counted, SETTINGS.model_copy(update={"verdict": policy})).update()
    assert await kinds(counted) == ["continue exhausted", "continue"]


async def test_after_a_reset_the_history_goes_on(counted: Counted) -> None:
    api = api_of(counted)
    await counted.count("one", [pair(at, BROKEN) for at in range(200)])
    await api.update()
    await counted.store.publish("producer", Accounting(200, 200, 200))
    await counted.store.change_controls(ControlChange(stopped=True))
    store = Partitions(counted.store)
    await reset(store, by="ops", reason="new")

    async def again() -> bool:
        await api.update()
        return await kinds(counted) == ["continue", "reset", "rollback"]

    await until(again)
    assert (await counted.verdict()).pairs == 0
    assert (await counted.store.snapshot()).latch is None
    # A rollback stands again, in the run that it is of.
    counted.states.clear()
    await counted.store.load_state("one")
    await counted.count("one", [pair(at, BROKEN) for at in range(200)])
    await api.update()
    assert await kinds(counted) == ["rollback", "continue", "reset", "rollback"]
    assert (await counted.store.snapshot()).latch is not None


async def test_the_api_shows_it_and_the_metrics_since_when(counted: Counted) -> None:
    api, registry = api_of(counted), metrics.registry()
    VerdictMetrics(registry, api.exported)
    await counted.count("one", [pair(0)])
    await api.update()
    admin = AdminServer("api", registry, api.ready, api.routes)
    url = f"http://{await admin.start(Address('127.0.0.1', 0), '$.serve.listen')}"
    try:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/api/v1/history") as response:
                shown = msgspec.json.decode(await response.read(), type=History)
            async with session.get(f"{url}/metrics") as response:
                exported = await response.text()
        assert shown == await history(counted.store)
        assert shown.experiment == counted.store.name
        [line] = [
            row for row in exported.splitlines() if row.startswith("shadowproxy_verdict_changed_timestamp_seconds ")
        ]
        assert float(line.split()[1]) == pytest.approx(shown.history[0].at)
    finally:
        await admin.stop()


async def test_a_store_that_keeps_no_history_harms_no_verdict(own_valkey: EmbeddedServer) -> None:
    async with await Store.open(own_valkey.url, "full", max_entries=1000) as store:
        counted = Counted(store)
        await counted.count("one", [pair(0)])
        # Nothing can be appended to what is no stream.
        await store.command("SET", "verdicts", "7")
        api = api_of(counted)
        await api.update()
        reading = api.exported()
        assert reading is not None
        assert (reading.state, reading.pairs, reading.changed_at) == ("continue", 1, None)
        assert await api.ready() == {"verdict": ""}
        await store.command("DEL", "verdicts")
        await api.update()
        assert await kinds(counted) == ["continue"]
        admin = AdminServer("api", metrics.registry(), api.ready, api.routes)
        url = f"http://{await admin.start(Address('127.0.0.1', 0), '$.serve.listen')}"
        assert own_valkey.pid is not None
        os.kill(own_valkey.pid, signal.SIGKILL)
        own_valkey.stop()
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{url}/api/v1/history") as response:
                assert (response.status, response.content_type) == (503, "application/problem+json")
        finally:
            await admin.stop()


async def test_a_resume_of_a_stopped_experiment_is_a_conflict_that_says_what_to_do(counted: Counted) -> None:
    admin = AdminServer("api", metrics.registry(), api_of(counted).ready, ControlApi(counted.store).routes)
    url = f"http://{await admin.start(Address('127.0.0.1', 0), '$.serve.listen')}"
    try:
        status = await change_control(url, ControlChange(stopped=True, reason="promoted", by="ops"))
        assert status.controls.stopped
        with pytest.raises(Refused, match="shadowproxy experiment start"):
            await change_control(url, ControlChange(paused=False))
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/api/v1/control", json={"paused": False}) as response,
        ):
            assert (response.status, response.content_type) == (409, "application/problem+json")
        [note] = (await counted.verdict()).notes
        assert note.startswith("the experiment is stopped, since 2")
        assert note.endswith(" by ops: promoted")
        assert not (await change_control(url, ControlChange(stopped=False))).controls.stopped
        assert (await counted.verdict()).notes == ()
    finally:
        await admin.stop()


async def test_an_experiment_is_judged_by_its_own_settings_and_left_as_it_is(counted: Counted) -> None:
    await counted.store.experiment(msgspec.json.encode(frozen(SETTINGS)))
    await counted.count("one", [pair(at, BROKEN) for at in range(200)])
    await note_versions(counted.store, {("candidate", "\x1b[31m7"): (1000.0, 1020.0)})
    another = SETTINGS.model_copy(update={"experiment": "another"})
    found = await report(counted.store.url, counted.store.name, another)
    expected = await counted.verdict()
    assert found.verdict is not None
    assert found.verdict.guardrails == expected.guardrails
    assert found.verdict.cohorts == expected.cohorts
    assert found.verdict.experiment == counted.store.name
    assert (found.configured, found.state, found.problem) == (False, "idle", "")
    assert (found.stream.pairs, found.stream.counted, found.stream.lag) == (200, 200, 0)
    assert msgspec.json.decode(found.settings)["verdict"]["guardrails"][1]["margin"] == 0.2
    told = "\n".join(summary(found))
    assert "version of the candidate: \\x1b[31m7, 1970-01-01 00:16:40 to 1970-01-01 00:17:00 UTC" in told
    assert "\x1b" not in told


async def test_looking_on_latches_nothing(counted: Counted) -> None:
    await counted.store.experiment(msgspec.json.encode(frozen(SETTINGS)))
    await counted.count("one", [pair(at, BROKEN) for at in range(200)])
    found = await report(counted.store.url, counted.store.name, None)
    assert found.verdict is not None
    assert found.verdict.state == "rollback"
    assert (await counted.store.snapshot()).latch is None
    assert found.history == ()


async def test_what_another_version_counted_is_shown_without_a_verdict(counted: Counted) -> None:
    await counted.store.experiment(msgspec.json.encode({**frozen(SETTINGS), "evidence": 99}))
    await counted.count("one", [pair(0, GOOD)])
    found = await report(counted.store.url, counted.store.name, None)
    assert found.verdict is None
    assert "a newer shadowproxy" in found.problem
    assert found.stream.counted == 1


async def test_damage_is_an_error_that_is_meant_for_people(counted: Counted) -> None:
    await counted.store.experiment(msgspec.json.encode(frozen(SETTINGS)))
    await counted.store.command("HSET", "slots", "region=us", "first")
    with pytest.raises(PayloadError, match="damaged"):
        await report(counted.store.url, counted.store.name, None)


def test_lines_for_people_hold_no_control_characters() -> None:
    moments = [
        Moment(what="rollback", at=1.7e9, pairs=1200, reasons=("a\nb", "c\x1b[2J")),
        Moment(what="reset", by="me"),
    ]
    assert list(changes(moments)) == [
        "2023-11-14 22:13:20 UTC  rollback, 1,200 pairs: a\\nb; c\\x1b[2J",
        "1970-01-01 00:00:00 UTC  reset by me, 0 pairs: no reason given",
    ]
    assert table([])[0].split() == [
        "experiment", "begun", "(UTC)", "state", "recorded", "counted", "lag", "verdict", "since", "(UTC)"
    ]  # fmt: skip
