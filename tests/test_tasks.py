"""Tasks are held, their deaths are told, and a drain ends all of them."""

from __future__ import annotations

import asyncio
import time

import pytest

from shadowproxy.tasks import Pauses, Tasks, first, watch_lag


async def test_a_task_that_dies_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, str]] = []
    tasks = Tasks(on_crash=lambda name, crash: told.append((name, str(crash))))

    async def die() -> None:
        raise ValueError("no more")

    task = tasks.start(die(), name="mortal")
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert told == [("mortal", "no more")]
    assert "mortal" in caplog.text
    assert len(tasks) == 0


async def test_a_drain_waits_and_then_cancels() -> None:
    tasks = Tasks()
    go = asyncio.Event()
    quick = tasks.start(go.wait(), name="quick")
    stuck = tasks.start(asyncio.Event().wait(), name="stuck")
    assert repr(tasks) == "<Tasks ['quick', 'stuck']>"
    go.set()
    assert await tasks.drain(0.05) == 1
    assert quick.result() is True
    assert stuck.cancelled()
    assert len(tasks) == 0
    assert await tasks.drain(0) == 0


async def test_a_task_that_loses_its_cancellation_is_cancelled_again() -> None:
    tasks = Tasks()
    lost = asyncio.Event()

    async def forgetful() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost.set()
        await asyncio.Event().wait()

    task = tasks.start(forgetful(), name="forgetful")
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await tasks.cancel()
    assert lost.is_set()
    assert task.cancelled()
    assert len(tasks) == 0


async def test_the_first_that_succeeds_is_taken_and_the_others_end() -> None:
    begun: list[str] = []
    ended: list[str] = []

    async def never() -> str:
        begun.append("never")
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("never")
        raise AssertionError

    async def fails() -> str:
        begun.append("fails")
        raise ConnectionError("refused")

    async def succeeds() -> str:
        begun.append("succeeds")
        return "answer"

    assert await first([fails, never, succeeds, never], 0.01) == "answer"
    assert (begun, ended) == (["fails", "never", "succeeds"], ["never"])
    # A failure is not waited out.
    assert await first([fails, succeeds], 1e9) == "answer"
    with pytest.raises(ConnectionError, match="refused"):
        await first([fails, fails], 0.01)


def test_pauses_grow_and_differ_and_begin_anew() -> None:
    most = Pauses(0.1, 0.5, jitter=lambda: 1.0)
    assert [most.after_failure() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    most.reset()
    assert most.after_failure() == 0.1
    assert Pauses(0.1, 0.5, jitter=lambda: 0.0).after_failure() == 0.05


@pytest.mark.parametrize(
    ("slept", "told"),
    [
        ([0.125, 0.1875], [0.0, 0.0625]),
        ([0.1], [0.0]),
        # Whoever came every eighth of a second meanwhile has waited too, the last of them hardly.
        ([0.625], [0.5, 0.375, 0.25, 0.125, 0.0]),
        ([0.125, 3600.0], [0.0, *(3599.875 - 0.125 * missed for missed in range(601))]),
    ],
)
async def test_a_halt_of_the_loop_is_told_as_those_would_who_came_meanwhile(
    slept: list[float], told: list[float]
) -> None:
    now = 100.0
    left = iter(slept)
    heard: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        assert seconds == 0.125
        now += next(left)

    with pytest.raises(RuntimeError):
        await watch_lag(heard.append, every=0.125, monotonic=lambda: now, sleep=sleep)
    assert heard == told


async def test_a_loop_that_is_held_up_is_seen_to_be() -> None:
    """The real loop and the real clock."""
    held = asyncio.get_running_loop().create_future()

    def tell(lag: float) -> None:
        if lag >= 0.05 and not held.done():
            held.set_result(lag)

    tasks = Tasks()
    tasks.start(watch_lag(tell, every=0.01), name="lag")
    await asyncio.sleep(0)
    # Before its turn in 10 ms comes, the loop stands still.
    time.sleep(0.1)  # noqa: ASYNC251
    assert await held >= 0.05
    await tasks.cancel()
