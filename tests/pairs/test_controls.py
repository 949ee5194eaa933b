"""Controls in a real store: changed in one step, kept with their history, and followed by a proxy whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from servers import kill_and_restart, relay_to, unique, until

from shadowproxy.errors import PayloadError, StoreUnavailable
from shadowproxy.pairs import EmbeddedServer, Store
from shadowproxy.pairs.controls import ControlChange, Controls, Watcher, decode
from shadowproxy.tasks import Tasks

PAUSE = ControlChange(paused=True, reason="too much load", by="ops@host")
RESUME = ControlChange(paused=False)


@pytest.fixture
async def store(server: str) -> AsyncIterator[Store]:
    async with await Store.open(server, unique("controls"), max_entries=1000) as opened:
        yield opened


def key(store: Store, suffix: str = "") -> str:
    return f"shadow:{{{store.name}:0}}:controls{suffix}"


class Proxy:
    """A watcher at work, and what it applied."""

    def __init__(self, store: Store, name: str = "proxy-1") -> None:
        self.applied: list[Controls] = []
        self.watcher = Watcher(store, name, self.applied.append, every=0.02)

    @property
    def last(self) -> Controls:
        return self.applied[-1] if self.applied else Controls()


@asynccontextmanager
async def watching(store: Store, name: str = "proxy-1") -> AsyncIterator[Proxy]:
    proxy, tasks = Proxy(store, name), Tasks()
    await proxy.watcher.look()
    tasks.start(proxy.watcher.run(), name="controls")
    try:
        yield proxy
    finally:
        await tasks.cancel()


async def test_nothing_said_means_the_configuration(store: Store) -> None:
    assert await store.read_controls() is None
    status = await store.control_status()
    assert (status.controls, status.proxies, status.history) == (Controls(), {}, ())
    assert status.experiment == store.name


async def test_each_change_leaves_the_rest_as_it_is_and_is_kept(store: Store) -> None:
    await store.change_controls(PAUSE)
    await store.change_controls(ControlChange(sample=0.25))
    after = await store.change_controls(RESUME)
    assert (after.paused, after.sample, after.version) == (False, 0.25, 3)
    assert (await store.change_controls(ControlChange(sample=None))).sample is None
    status = await store.control_status()
    assert status.controls == status.history[0]
    assert [(one.version, one.paused, one.sample) for one in status.history] == [
        (4, False, None),
        (3, False, 0.25),
        (2, True, 0.25),
        (1, True, None),
    ]
    assert (status.history[-1].reason, status.history[-1].by) == ("too much load", "ops@host")
    times = [one.at for one in status.history]
    assert times == sorted(times, reverse=True)
    assert times[-1] > 1.5e9


async def test_the_history_is_bounded(store: Store) -> None:
    for _ in range(210):
        await store.change_controls(RESUME)
    status = await store.control_status()
    assert len(status.history) == 200
    assert (status.history[0].version, status.history[-1].version) == (210, 11)


async def test_changes_at_the_same_time_are_both_made(store: Store) -> None:
    async with await Store.open(store.url, store.name, max_entries=10) as other:
        await asyncio.gather(
            *(store.change_controls(ControlChange(sample=share / 10)) for share in range(10)),
            *(other.change_controls(PAUSE) for _ in range(10)),
        )
    status = await store.control_status()
    assert [one.version for one in status.history] == list(range(20, 0, -1))
    assert status.controls.paused
    assert status.controls.sample is not None


@pytest.mark.parametrize(
    "change", [ControlChange(sample=1.1), ControlChange(sample=float("nan")), ControlChange(reason="x" * 501)]
)
async def test_what_cannot_be_is_refused_and_changes_nothing(store: Store, change: ControlChange) -> None:
    with pytest.raises(ValueError, match=r"share|characters"):
        await store.change_controls(change)
    assert await store.read_controls() is None


async def test_it_can_be_paused_where_memory_is_out(own_valkey: EmbeddedServer) -> None:
    async with (
        await Store.open(own_valkey.url, "full", max_entries=10) as store,
        Redis.from_url(own_valkey.url, protocol=2) as raw,
        watching(store) as proxy,
    ):
        await raw.config_set("maxmemory", "1")
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            await store.latch(b"x")
        await store.change_controls(PAUSE)
        await until(lambda: proxy.last.paused)
        await until(lambda: confirmed(store, 1))


async def confirmed(store: Store, proxies: int) -> bool:
    status = await store.control_status()
    return len(status.proxies) == proxies and not status.behind


async def test_every_proxy_goes_by_a_change_and_says_so(store: Store) -> None:
    async with watching(store) as one, watching(store, "proxy-2") as two:
        await until(lambda: confirmed(store, 2))
        await store.change_controls(PAUSE)
        await until(lambda: confirmed(store, 2))
        assert one.last == two.last == (await store.control_status()).controls
        await store.change_controls(RESUME)
        await until(lambda: not one.last.paused and not two.last.paused)
        assert [controls.paused for controls in one.applied] == [True, False]
        await one.watcher.leave()
    assert (await store.control_status()).proxies.keys() == {"proxy-2"}


async def test_a_proxy_that_starts_while_paused_starts_paused(store: Store) -> None:
    await store.change_controls(PAUSE)
    proxy = Proxy(store)
    assert await proxy.watcher.look()
    assert proxy.last.paused


async def test_one_that_has_not_confirmed_is_named_until_it_was_silent_for_long(store: Store) -> None:
    await store.report_controls("alive", 0)
    await store.change_controls(PAUSE)
    assert (await store.control_status()).behind == ("alive",)
    async with Redis.from_url(store.url, protocol=2) as raw:
        await raw.hset(key(store, ":proxies"), mapping={"silent": "0 1600000000000"})
        assert (await store.control_status()).proxies.keys() == {"alive"}
        await store.report_controls("alive", 1)
        assert await raw.hkeys(key(store, ":proxies")) == [b"alive"]
    assert (await store.control_status()).behind == ()


async def test_a_person_may_write_the_key(store: Store) -> None:
    async with watching(store) as proxy, Redis.from_url(store.url, protocol=2) as raw:
        await raw.set(key(store), '{"paused": true}')
        await until(lambda: proxy.last.paused)
        assert proxy.last.story == "mirroring is paused, by unknown: no reason given"
        await raw.set(key(store), '{"sample": 0.5}')
        await until(lambda: proxy.last == Controls(sample=0.5))


async def test_what_cannot_be_read_stops_mirroring_and_the_next_change_replaces_it(store: Store) -> None:
    async with watching(store) as proxy, Redis.from_url(store.url, protocol=2) as raw:
        await raw.set(key(store), "pause!")
        await until(lambda: proxy.last.paused)
        assert "can't be read" in proxy.last.reason
        with pytest.raises(PayloadError, match="pause or resume writes them anew"):
            await store.control_status()
        await store.change_controls(RESUME)
        await until(lambda: not proxy.last.paused)


async def test_what_the_store_has_lost_stays_in_force_and_is_stored_again(store: Store) -> None:
    await store.change_controls(PAUSE)
    async with watching(store) as proxy, Redis.from_url(store.url, protocol=2) as raw:
        before = await raw.get(key(store))
        await raw.delete(key(store))

        async def restored() -> bool:
            return bool(await raw.get(key(store)) == before)

        await until(restored)
        assert proxy.last.paused
        await store.change_controls(RESUME)
        await until(lambda: not proxy.last.paused)


async def test_a_store_that_is_away_changes_nothing_and_a_change_after_it_is_seen(own_valkey: EmbeddedServer) -> None:
    async with await Store.open(own_valkey.url, "away", max_entries=10) as store:
        await store.change_controls(PAUSE)
        async with watching(store) as proxy:
            await until(lambda: proxy.last.paused)
            kill_and_restart(own_valkey)
            assert [controls.paused for controls in proxy.applied] == [True]
            await store.change_controls(RESUME)
            await until(lambda: not proxy.last.paused)
            assert own_valkey.pid is not None
            os.kill(own_valkey.pid, signal.SIGSTOP)
            try:
                with pytest.raises(StoreUnavailable):
                    await store.read_controls()
            finally:
                os.kill(own_valkey.pid, signal.SIGCONT)
            await store.change_controls(PAUSE)
            await until(lambda: proxy.last.paused)


async def test_a_proxy_that_starts_while_the_store_is_away_mirrors_nothing_until_it_has_asked(
    own_valkey: EmbeddedServer,
) -> None:
    async with await Store.open(own_valkey.url, "away", max_entries=10) as store:
        proxy, tasks = Proxy(store), Tasks()
        assert own_valkey.pid is not None
        os.kill(own_valkey.pid, signal.SIGSTOP)
        try:
            await proxy.watcher.begin()
        finally:
            os.kill(own_valkey.pid, signal.SIGCONT)
        assert [controls.paused for controls in proxy.applied] == [True]
        tasks.start(proxy.watcher.run(), name="controls")
        try:
            await until(lambda: proxy.last == Controls())
        finally:
            await tasks.cancel()


async def test_a_change_whose_reply_was_lost_is_made_once(valkey: EmbeddedServer) -> None:
    async with relay_to(valkey.url) as relay, await Store.open(relay.url, unique("lost"), max_entries=10) as store:
        await store.change_controls(RESUME)
        relay.lose_replies = 1
        after = await store.change_controls(PAUSE)
        assert relay.lost == 1
        status = await store.control_status()
        assert (status.controls, [one.version for one in status.history]) == (after, [2, 1])


@given(
    controls=st.builds(
        Controls,
        paused=st.booleans(),
        sample=st.none() | st.floats(0, 1),
        version=st.integers(0, 2**53),
        reason=st.text(st.characters(exclude_categories=["Cs"]), max_size=500),
        by=st.text(st.characters(exclude_categories=["Cs"]), max_size=500),
        at=st.floats(0, 4e9),
    )
)
def test_controls_survive_their_way_and_are_told_in_one_line(controls: Controls) -> None:
    assert decode(msgspec.json.encode(controls)) == controls
    assert controls.story.isprintable()


@given(stored=st.binary())
def test_any_bytes_are_controls_or_a_payload_error(stored: bytes) -> None:
    try:
        found: Any = decode(stored)
    except PayloadError:
        return
    assert isinstance(found, Controls)
