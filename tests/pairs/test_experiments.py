"""What concerns experiments as a whole, in real servers: the history, the versions, and beginning anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from servers import unique

from shadowproxy.errors import Fenced, PayloadError, Refused, StoreUnavailable
from shadowproxy.model import Accounting, VersionSeen
from shadowproxy.pairs import EmbeddedServer, Store, Superseded, experiments
from shadowproxy.pairs.controls import ControlChange
from shadowproxy.pairs.experiments import Moment, history, note_versions, remember, reset, summaries, versions
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Snapshot

STOP, START = ControlChange(stopped=True, by="ops@host", reason="enough"), ControlChange(stopped=False)
AHEAD = 1e6
"""Seconds: what was read so late rests on everything that is there."""


@pytest.fixture
async def one(server: str) -> AsyncIterator[Partitions]:
    async with Partitions.at(server, unique("experiments"), max_entries=1000, keep=1000) as made:
        await made.prepare()
        yield made


@pytest.fixture
async def three(server: str) -> AsyncIterator[Partitions]:
    async with Partitions.at(server, unique("experiments"), partitions=3, max_entries=1000, keep=3000) as made:
        await made.prepare()
        yield made


async def now(store: Partitions) -> float:
    return (await store.home.snapshot()).time


async def said(store: Partitions, what: str, *, at: float | None = None, **parts: Any) -> Moment | None:
    return await remember(store.home, Moment(what=what, **parts), (await now(store)) + AHEAD if at is None else at)


async def kinds(store: Partitions) -> list[str]:
    return [moment.kind for moment in (await history(store.home)).history]


# The history


async def test_only_a_change_is_added(one: Partitions) -> None:
    before = await now(one)
    first = await said(one, "continue", pairs=3, reasons=("too few",))
    assert await said(one, "continue", pairs=30) == first
    await said(one, "continue", exhausted=True)
    last = await said(one, "rollback", pairs=50, evidence=77.0, reasons=("worse", "slower"))
    found = await history(one.home)
    assert found.experiment == one.name
    assert [moment.kind for moment in found.history] == ["rollback", "continue exhausted", "continue"]
    assert (found.history[0], found.history[2]) == (last, first)
    assert (found.history[0].reasons, found.history[0].evidence) == (("worse", "slower"), 77.0)
    assert before - 0.002 <= found.history[2].at <= found.history[0].at <= await now(one)


async def test_of_several_that_say_the_same_one_is_heard(one: Partitions) -> None:
    async with Partitions.at(one.url, one.name, max_entries=10) as other:
        found = await asyncio.gather(*(said(store, "promote") for store in (one, other) for _ in range(20)))
    assert len(set(found)) == 1
    assert await kinds(one) == ["promote"]


async def test_who_read_before_the_last_change_does_not_turn_it_back(one: Partitions) -> None:
    read_at = await now(one)
    last = await said(one, "promote")
    assert await said(one, "continue", at=read_at) == last
    assert await kinds(one) == ["promote"]


async def test_the_history_is_bounded(one: Partitions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments, "KEPT", 5)
    for _ in range(4):
        await said(one, "continue")
        await said(one, "promote")
    assert len((await history(one.home, 1000)).history) == 5
    assert len((await history(one.home, 2)).history) == 2


@pytest.mark.parametrize("record", [b"{", b"7", b'{"what":"promote","v":2}', b"\xff"])
async def test_a_history_that_cannot_be_read_is_said_to_be_so(one: Partitions, record: bytes) -> None:
    async with Redis.from_url(one.url) as raw:
        await raw.xadd(one.home.key("verdicts"), {"k": "promote", "r": record})
    with pytest.raises(PayloadError, match="history"):
        await history(one.home)
    # What changes later is added all the same.
    await said(one, "rollback")


# Versions

NOTES = st.lists(
    st.dictionaries(
        st.tuples(st.sampled_from(["baseline", "candidate"]), st.sampled_from(["7", "8", "", "v 9", "größe"])),
        st.tuples(st.integers(0, 50), st.integers(0, 50)).map(lambda two: (min(two) / 8, max(two) / 8)),
        min_size=1,
    ),
    max_size=5,
)


@given(NOTES, st.randoms())
def test_versions_widen_whatever_is_said_how_often_in_which_order(
    valkey: EmbeddedServer, notes: list[dict[tuple[str, str], tuple[float, float]]], random: Any
) -> None:
    expected: dict[tuple[str, str], tuple[float, float]] = {}
    for note in notes:
        for key, (first, last) in note.items():
            held = expected.get(key, (first, last))
            expected[key] = (min(first, held[0]), max(last, held[1]))

    async def noted() -> dict[str, tuple[VersionSeen, ...]]:
        async with Store(valkey.url, unique("versions"), max_entries=1) as store:
            await store.prepare()
            for note in random.sample(notes * 2, len(notes) * 2):
                await note_versions(store, note)
            return await versions(store)

    found = asyncio.run(noted())
    assert {
        (side, seen.value): (seen.first, seen.last) for side, several in found.items() for seen in several
    } == expected
    for several in found.values():
        assert [seen.first for seen in several] == sorted(seen.first for seen in several)


async def test_history_and_versions_are_kept_where_memory_is_out(own_valkey: EmbeddedServer) -> None:
    """Commits free memory, and versions are noted before them."""
    async with Partitions.at(own_valkey.url, "full", max_entries=10) as store:
        await store.prepare()
        traffic = Traffic(store)
        await traffic.write(1)
        async with Redis.from_url(own_valkey.url) as raw:
            await raw.config_set("maxmemory", "1")
        await note_versions(store.home, {("candidate", "7"): (1.0, 2.0)})
        await said(store, "rollback")
        await traffic.count()
        await stopped(store)
        assert await reset(store, by="", reason="") == 10
        assert (await versions(store.home), await kinds(store)) == ({}, ["reset", "rollback"])


async def test_versions_of_a_side_are_bounded(one: Partitions) -> None:
    for at in range(30):
        await note_versions(one.home, {("candidate", f"build {at}"): (100.0 + at, 200.0 + at)})
    await note_versions(one.home, {("baseline", "1"): (1.0, 2.0), ("candidate", "build 3"): (1.0, 2.0)})
    found = await versions(one.home)
    assert found["baseline"] == (VersionSeen("1", 1.0, 2.0),)
    assert len(found["candidate"]) == 21
    assert found["candidate"][0] == VersionSeen("build 3", 1.0, 203.0)
    assert found["candidate"][-1] == VersionSeen("other", 120.0, 229.0)


# Beginning anew


class Traffic:
    """A producer and a worker, and what both believe."""

    def __init__(self, store: Partitions, producer: str = "p") -> None:
        self.store = store
        self.producer = producer
        self.sequence = 0
        self.account = Accounting()

    async def write(self, batches: int, *, pairs: int = 10) -> None:
        for _ in range(batches):
            self.sequence += 1
            self.account += Accounting(pairs + 1, pairs, pairs, {"method": 1})
            await self.store.append(self.producer, self.sequence, b"x" * 50, pairs, self.account)

    async def count(self, worker: str = "w", *, state: bytes = b"state") -> None:
        for store in self.store.stores:
            await store.load_state(worker)
            while entries := await store.read(worker, 10, 0):
                await store.commit(worker, [entry.id for entry in entries], state)


def figures(snapshot: Snapshot) -> dict[str, int]:
    names = (
        "entries", "pairs", "committed_entries", "committed_pairs", "lost_entries", "lost_pairs", "missing_pairs",
        "dead_entries", "dead_pairs", "pending", "undelivered", "waiting_bytes", "kept_bytes",
    )  # fmt: skip
    return {name: getattr(snapshot, name) for name in names if getattr(snapshot, name)}


async def stopped(store: Partitions) -> None:
    await store.home.change_controls(STOP)


@pytest.mark.parametrize("several", [False, True])
async def test_after_a_reset_only_what_comes_is_counted(one: Partitions, three: Partitions, several: bool) -> None:
    store = three if several else one
    traffic = Traffic(store)
    await traffic.write(6)
    last = (await store.stores[0].newest(1))[0].id
    await traffic.count()
    bad = await store.stores[0].browse("0", 1)
    assert bad, "something is kept"
    await store.home.slots(["region=us"], 10)
    await store.home.latch(b"rolled back")
    await note_versions(store.home, {("candidate", "7"): (1.0, 2.0)})
    await said(store, "rollback")
    before = await store.snapshot()
    assert figures(before) == {
        "entries": 6, "pairs": 60, "committed_entries": 6, "committed_pairs": 60, "kept_bytes": 300
    }  # fmt: skip
    await stopped(store)
    assert await reset(store, by="ops@host", reason="a new build") == 60

    after = await store.snapshot()
    assert figures(after) == {}
    assert (after.states, after.slots, after.latch, after.accounts) == ({}, {}, None, {})
    assert (before.resets, after.resets) == (0, 1)
    assert after.watermark >= before.watermark
    assert await versions(store.home) == {}
    assert [await one_store.browse("0", 10) for one_store in store.stores] == [[]] * len(store.stores)
    moments = (await history(store.home)).history
    assert [moment.kind for moment in moments] == ["reset", "rollback"]
    assert (moments[0].by, moments[0].reasons, moments[0].pairs) == ("ops@host", ("a new build",), 60)

    # What was sent before is known as such, ids go on, and what comes is accounted for.
    await store.append("p", 6, b"again", 10, traffic.account)
    assert figures(await store.snapshot()) == {}
    await traffic.write(3)
    entries = [entry.id for one_store in store.stores for entry in await one_store.browse("0", 10)]
    assert len(entries) == 3
    if not several:
        assert min(tuple(map(int, name.split("-"))) for name in entries) > tuple(map(int, last.split("-")))
    assert figures(await store.snapshot()) == {
        "entries": 3, "pairs": 30, "undelivered": 3, "waiting_bytes": 150
    }  # fmt: skip
    await traffic.count()
    done = await store.snapshot()
    assert figures(done) == {
        "entries": 3, "pairs": 30, "committed_entries": 3, "committed_pairs": 30, "kept_bytes": 150
    }  # fmt: skip
    assert done.accounts == {"p": Accounting(33, 30, 30, {"method": 3})}
    assert await store.home.latch(b"again", resets=1)
    # Who takes over from the producer goes by what it said itself.
    assert (await store.standing("p")).account == Accounting(99, 90, 90, {"method": 9})


STEPS = st.lists(
    st.tuples(st.just("write"), st.integers(1, 4))
    | st.tuples(st.sampled_from(["count", "dead", "read", "publish"]), st.just(0))
    | st.tuples(st.just("trim"), st.integers(0, 3)),
    max_size=8,
)


async def play(traffic: Traffic, raw: Any, steps: list[tuple[str, int]]) -> None:
    for step, number in steps:
        if step == "write":
            await traffic.write(number, pairs=1 + number)
        elif step == "count":
            await traffic.count()
        elif step == "publish":
            traffic.account += Accounting(2, 1, 0, {"method": 1}, {"recorder_full": 1})
            await traffic.store.publish(traffic.producer, traffic.account)
        for store in traffic.store.stores:
            if step == "trim":
                await raw.xtrim(store.key("pairs"), maxlen=number, approximate=False)
            elif step in ("read", "dead"):
                await store.load_state("other")
                entries = await store.read("other", 1, 0)
                if step == "dead" and entries:
                    await store.commit("other", [entries[0].id], b"s", dead={entries[0].id: "bad"})


@given(STEPS, STEPS, st.integers(1, 3))
def test_after_a_reset_all_is_as_if_nothing_had_been_before(
    valkey: EmbeddedServer, before: list[tuple[str, int]], after: list[tuple[str, int]], partitions: int
) -> None:
    """Whatever was: lost, dead or kept. The same steps in a new experiment give the same account."""

    def at() -> Partitions:
        return Partitions.at(
            valkey.url, unique("as-new"), partitions=partitions, max_entries=6 * partitions, keep=100 * partitions
        )

    async def both() -> None:
        async with at() as used, at() as fresh, Redis.from_url(valkey.url) as raw:
            await used.prepare()
            await fresh.prepare()
            first, second = Traffic(used), Traffic(fresh)
            await play(first, raw, before)
            # What somebody holds is counted, or given up where it was trimmed.
            for store in used.stores:
                await store.load_state("other")
                while held := await store.own_pending("other", 10):
                    await store.commit("other", [entry.id for entry in held], b"s")
            await first.count()
            await stopped(used)
            await reset(used, by="", reason="", force=True)
            second.sequence = first.sequence
            await play(first, raw, after)
            await play(second, raw, after)
            one, other = await used.snapshot(), await fresh.snapshot()
            assert figures(one) == figures(other)
            assert one.accounts == other.accounts
            assert one.states == other.states

    asyncio.run(both())


async def test_a_loss_after_a_reset_is_counted_and_one_before_it_is_not(one: Partitions) -> None:
    traffic = Traffic(one)
    await traffic.write(5)
    async with Redis.from_url(one.url) as raw:
        await raw.xtrim(one.home.key("pairs"), maxlen=3, approximate=False)
        await traffic.count()
        assert figures(await one.snapshot())["lost_pairs"] == 20
        await stopped(one)
        await reset(one, by="", reason="")
        assert figures(await one.snapshot()) == {}
        await traffic.write(4, pairs=7)
        await raw.xtrim(one.home.key("pairs"), maxlen=1, approximate=False)
    await traffic.count()
    found = figures(await one.snapshot())
    assert (found["lost_entries"], found["lost_pairs"], found["committed_pairs"]) == (3, 21, 7)


async def test_pairs_that_the_store_lost_are_no_obstacle_and_are_forgotten(one: Partitions) -> None:
    traffic = Traffic(one)
    await traffic.write(2)
    await traffic.count()
    traffic.account += Accounting(5, 5, 5)
    await one.publish("p", traffic.account)
    assert (await one.snapshot()).missing_pairs == 5
    await stopped(one)
    await reset(one, by="", reason="")
    await traffic.write(1)
    assert (await one.snapshot()).missing_pairs == 0


async def refused(store: Partitions, what: str, **wishes: Any) -> None:
    before = await store.snapshot()
    with pytest.raises(Refused, match=what):
        await reset(store, by="", reason="", **wishes)
    assert (await store.snapshot()).resets == before.resets
    assert figures(await store.snapshot()) == figures(before)


async def test_what_runs_or_is_not_counted_is_not_reset(one: Partitions) -> None:
    traffic = Traffic(one)
    await traffic.write(2)
    await refused(one, "experiment stop")
    await stopped(one)
    await refused(one, "2 stream entries .* not counted yet")
    assert len(await one.home.read("w", 10, 0)) == 2
    await refused(one, "2 stream entries .* not counted yet", force=True)
    await one.home.commit("w", [entry.id for entry in await one.home.own_pending("w", 10)], b"s")
    await one.home.report_controls("proxy-1", 0)
    await refused(one, "proxy-1 has not confirmed the stop", spoken=0)
    await one.home.report_controls("proxy-1", 1)
    await one.publish("p", traffic.account + Accounting(3, 3, 0))
    await refused(one, r"on their way .*p 3.*--force", spoken=0)
    assert await reset(one, by="", reason="", force=True, spoken=0) == 20


async def test_proxies_have_the_time_to_say_what_they_hold(one: Partitions) -> None:
    """A request that began just before the stop is in no account yet when all have confirmed it."""
    traffic = Traffic(one)
    await traffic.write(1)
    await traffic.count()
    await stopped(one)
    await one.home.report_controls("proxy-1", 1)
    running = asyncio.ensure_future(reset(one, by="", reason="", spoken=2.0))
    for _ in range(50):
        # One that did not wait would have done it by now.
        await one.snapshot()
    await one.publish("p", traffic.account + Accounting(1, 1, 0))
    with pytest.raises(Refused, match="on their way"):
        await running


async def test_the_store_itself_looks_whether_it_may(one: Partitions, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes between our look and the step is seen by the step."""
    traffic = Traffic(one)
    await traffic.write(1)

    async def looks_away(store: Partitions, *_: object, **__: object) -> Snapshot:
        return await store.snapshot()

    monkeypatch.setattr(experiments, "_spoken", looks_away)
    monkeypatch.setattr(experiments, "_refuse_unsettled", looks_away)
    await refused(one, "is not stopped")
    await stopped(one)
    await refused(one, "not counted yet")
    await traffic.count()
    async with Redis.from_url(one.url) as raw:
        await raw.set(one.home.key("controls"), b'{"stopped": "yes"')
    await refused(one, "is not stopped")


async def test_a_worker_that_held_a_state_is_told(one: Partitions) -> None:
    traffic = Traffic(one)
    await traffic.write(1)
    await traffic.count("w")
    await stopped(one)
    await reset(one, by="", reason="")
    await traffic.write(1)
    entries = [entry.id for entry in await one.home.read("w", 10, 0)]
    with pytest.raises(Superseded):
        await one.home.commit("w", entries, b"old and new")
    assert await one.home.load_state("w") is None
    await one.home.commit("w", entries, b"new")
    assert dict((await one.snapshot()).states) == {"w": b"new"}
    with pytest.raises(Fenced):
        await one.home.commit("w", entries, b"new, again")


async def test_a_rollback_that_was_seen_before_the_reset_does_not_outlive_it(one: Partitions) -> None:
    seen = await one.snapshot()
    await stopped(one)
    await reset(one, by="", reason="")
    assert not await one.home.latch(b"rolled back", resets=seen.resets)
    assert (await one.snapshot()).latch is None
    last = await said(one, "rollback", at=seen.time)
    assert last is not None
    assert last.kind == "reset"


async def test_a_reset_that_was_cut_short_is_said_and_done_again(
    three: Partitions, monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic = Traffic(three)
    await traffic.write(6)
    await traffic.count()
    await three.home.slots(["region=us"], 10)
    await stopped(three)

    async def gone(*_: object) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(three.stores[1], "run", gone)
        with pytest.raises(StoreUnavailable, match="gone"):
            await reset(three, by="", reason="")
    # Home is first: who counts in another partition meanwhile must get new slots.
    assert await three.home.slots((), 10) == {}
    with pytest.raises(StoreUnavailable, match="repeat it"):
        await three.snapshot()
    [row] = [row for row in await summaries_of(three) if row.experiment == three.name]
    assert "repeat it" in row.problem
    await reset(three, by="", reason="")
    assert figures(await three.snapshot()) == {}
    await traffic.write(3)
    await traffic.count()
    assert (await three.snapshot()).committed_pairs == 30


# Looking


async def summaries_of(store: Partitions) -> list[experiments.Summary]:
    await store.home.experiment(b'{"partitions": %d}' % len(store.stores))
    return await summaries(store.url, store.name)


async def test_each_experiment_is_a_line_by_its_own_partitions(one: Partitions, three: Partitions) -> None:
    await Traffic(three).write(6)
    await Traffic(three).count()
    await Traffic(one).write(2)
    await said(one, "promote", pairs=20)
    await stopped(one)
    await one.home.experiment(b"{}")
    rows = {row.experiment: row for row in await summaries_of(three)}
    first, second = rows[one.name], rows[three.name]
    assert (first.state, first.recorded, first.counted, first.lag, first.configured) == ("stopped", 20, 0, 2, False)
    assert (second.state, second.recorded, second.counted, second.lag, second.configured) == ("idle", 60, 60, 0, True)
    assert first.last is not None
    assert (first.last.kind, first.last.pairs, second.last, first.problem) == ("promote", 20, None, "")
    await three.home.report_controls("proxy", 0)
    await three.home.change_controls(ControlChange(paused=True))
    assert [row.state for row in await summaries_of(three) if row.configured] == ["paused"]
    await three.home.change_controls(ControlChange(paused=False))
    assert [row.state for row in await summaries_of(three) if row.configured] == ["running"]


@pytest.mark.parametrize("description", [b"not JSON", b"[]", b'{"partitions": 0}', b'{"partitions": "x"}', None])
async def test_one_that_cannot_be_read_hides_no_other(
    one: Partitions, three: Partitions, description: bytes | None
) -> None:
    await one.home.experiment(b"x")
    async with Redis.from_url(one.url) as raw:
        await raw.delete(one.home.key("experiment"))
        if description is not None:
            await raw.set(one.home.key("experiment"), description)
    rows = {row.experiment: row for row in await summaries_of(three)}
    assert "description" in rows[one.name].problem
    assert rows[three.name].problem == ""


async def test_damage_that_nobody_foresaw_hides_no_other_either(one: Partitions, three: Partitions) -> None:
    await one.home.experiment(b"{}")
    async with Redis.from_url(one.url) as raw:
        await raw.hset(one.home.key("slots"), "region=us", "first")
    rows = {row.experiment: row for row in await summaries_of(three)}
    assert "damaged" in rows[one.name].problem
    assert rows[three.name].problem == ""


async def test_an_unknown_experiment_is_named_beside_those_that_are(one: Partitions) -> None:
    await one.home.experiment(b"{}")
    with pytest.raises(Refused, match=one.name):
        async with experiments.opened(one.url, "nobody"):
            pass


async def test_a_stopped_experiment_is_not_resumed_but_started(one: Partitions) -> None:
    await stopped(one)
    with pytest.raises(Refused, match="experiment start"):
        await one.home.change_controls(ControlChange(paused=False))
    assert (await one.home.control_status()).controls.silent
    await one.home.change_controls(ControlChange(paused=True, sample=0.5))
    status = await one.home.control_status()
    assert (status.controls.stopped, status.controls.silent, status.controls.version) == (True, True, 2)
    assert "the experiment is stopped, since" in status.history[1].story
    started = await one.home.change_controls(START)
    assert (started.stopped, started.paused, started.sample) == (False, True, 0.5)
    assert not (await one.home.change_controls(ControlChange(paused=False))).silent
