"""What guardrails took from the first pairs, in real servers: written once, and forgotten with the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from servers import unique

from shadowproxy.errors import PayloadError
from shadowproxy.pairs.calibrations import calibrate, calibrations
from shadowproxy.pairs.controls import ControlChange
from shadowproxy.pairs.experiments import reset
from shadowproxy.pairs.partitions import Partitions


@pytest.fixture
async def store(server: str) -> AsyncIterator[Partitions]:
    async with Partitions.at(server, unique("calibrations"), partitions=2, max_entries=1000) as made:
        await made.prepare()
        yield made


async def now(store: Partitions) -> float:
    return (await store.home.snapshot()).time


async def test_the_first_is_kept_and_holds_from_later_on(store: Partitions) -> None:
    assert await calibrations(store.home) == {}
    before = await now(store)
    first = await calibrate(store.home, {"a.lower": b'{"clip": 1}', "b": b" x y "}, newest=0.0, grace=2.5, resets=0)
    after = await now(store)
    assert {name: payload for name, (_, payload) in first.items()} == {"a.lower": b'{"clip": 1}', "b": b" x y "}
    for since, _ in first.values():
        assert before + 2.499 <= since <= after + 2.5
    again = await calibrate(store.home, {"a.lower": b"other", "c": b"new"}, newest=0.0, grace=9.0, resets=0)
    assert again == {**first, "c": again["c"]} == await calibrations(store.home)
    assert again["c"][0] > first["b"][0]


async def test_it_holds_after_every_start_that_was_seen(store: Partitions) -> None:
    ahead = await now(store) + 1000.25
    found = await calibrate(store.home, {"a": b"1"}, newest=ahead, grace=2.0, resets=0)
    assert found["a"][0] == pytest.approx(ahead + 2, abs=0.001)


async def test_a_reset_forgets_it_and_what_rests_on_before_is_not_written(store: Partitions) -> None:
    await calibrate(store.home, {"a": b"1"}, newest=0.0, grace=0.0, resets=0)
    await store.home.change_controls(ControlChange(stopped=True))
    await reset(store, by="", reason="")
    assert await calibrations(store.home) == {}
    assert await calibrate(store.home, {"a": b"old"}, newest=0.0, grace=0.0, resets=0) == {}
    found = await calibrate(store.home, {"a": b"new"}, newest=0.0, grace=0.0, resets=1)
    assert found["a"][1] == b"new"


async def test_what_is_damaged_is_said(store: Partitions) -> None:
    await store.home.command("HSET", "calibration", "a", "soon {}")
    with pytest.raises(PayloadError, match="the calibration of b'a'"):
        await calibrations(store.home)
