import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from shadowproxy.demo.faults import FAULTS, Answer, Asked, Draws
from shadowproxy.demo.models import Model, Trained
from shadowproxy.demo.run import ServiceProcess
from shadowproxy.errors import StartError


@contextlib.asynccontextmanager
async def running(models: Path, model: Model = Model.ITEM_CF, fault: str = "none") -> AsyncIterator[str]:
    service = await ServiceProcess.start("candidate", model, models=models, fault=fault, seed=7)
    try:
        yield service.url
    finally:
        await service.stop()


async def ask(
    client: aiohttp.ClientSession, url: str, user: str, request: str, **more: Any
) -> tuple[int, dict[str, Any]]:
    async with client.post(
        f"{url}/recommend", json={"user_id": user, **more}, headers={"X-Request-Id": request}
    ) as response:
        return response.status, orjson.loads(await response.read())


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["id"] for item in answer["items"]]


def listed(trained: Trained, user: str, model: Model = Model.ITEM_CF) -> list[str]:
    return [trained.items[at] for at in trained.lists[model].items[trained.users.index(user)].tolist()]


@pytest.mark.parametrize("model", [Model.ITEM_CF, Model.EASE])
async def test_answers_are_the_models_lists(trained: Trained, models_file: Path, model: Model) -> None:
    async with running(models_file, model) as url, aiohttp.ClientSession() as client:
        status, answer = await ask(client, url, "42", "r1", k=20)
        assert status == 200
        assert answer["model"] == model.value
        assert ids(answer) == listed(trained, "42", model)
        row = trained.users.index("42")
        assert [item["score"] for item in answer["items"]] == pytest.approx(trained.lists[model].scores[row], abs=1e-4)
        first = answer["items"][0]
        assert first["title"] == trained.titles[trained.items.index(first["id"])]
        assert ids((await ask(client, url, "42", "r2", k=3))[1]) == ids(answer)[:3]
        # A stranger gets what is popular.
        assert ids((await ask(client, url, "nobody", "r3"))[1]) == [trained.items[at] for at in trained.cold[0]]
        async with client.get(f"{url}/healthz") as health:
            assert (await health.json())["status"] == "ok"


NONSENSE = (b"", b"[]", b"{", b"{}", b'{"user_id": 42}', b'{"user_id": "42", "k": 0}', b'{"user_id": "42", "k": true}')


async def test_what_makes_no_sense_is_refused(models_file: Path) -> None:
    async with running(models_file) as url, aiohttp.ClientSession() as client:
        for body in NONSENSE:
            async with client.post(f"{url}/recommend", data=body) as response:
                assert response.status == 400, body
                assert (await response.json())["error"]


async def test_every_fault_is_served_as_it_is_defined(trained: Trained, models_file: Path) -> None:
    educator = next(
        user for user, cohort in zip(trained.users, trained.cohorts, strict=True) if cohort["occupation"] == "educator"
    )
    other = next(
        user for user, cohort in zip(trained.users, trained.cohorts, strict=True) if cohort["occupation"] == "writer"
    )
    async with aiohttp.ClientSession() as client:
        async with running(models_file, fault="wrong-user") as url:
            following = trained.users[trained.users.index(educator) + 1]
            assert ids((await ask(client, url, educator, "r"))[1]) == listed(trained, following)
            assert ids((await ask(client, url, other, "r"))[1]) == listed(trained, other)
        async with running(models_file, fault="score-shift") as url:
            answer = (await ask(client, url, other, "r"))[1]
            assert ids(answer) == listed(trained, other)
            expected = trained.lists[Model.ITEM_CF].scores[trained.users.index(other)] * 1.15
            assert [item["score"] for item in answer["items"]] == pytest.approx(expected, abs=2e-4)
        async with running(models_file, fault="truncated") as url:
            assert ids((await ask(client, url, other, "r", k=20))[1]) == listed(trained, other)[:10]


def drawn(fault: str, request: str) -> tuple[int, float]:
    """Status and slowdown that the seed gives this request."""
    answer = FAULTS[fault].serve(Asked(0, {}, Draws(7, request)), lambda _: Answer(((0, 1.0),)))
    return answer.status, answer.slowdown


async def test_flaky_fails_exactly_the_requests_that_the_seed_says(models_file: Path) -> None:
    requests = [f"r{at}" for at in range(300)]
    async with running(models_file, fault="flaky") as url:
        client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1.5))

        async def outcome(request: str) -> str:
            try:
                return str((await ask(client, url, "42", request))[0])
            except TimeoutError:
                return "hangs"

        async with client:
            outcomes = await asyncio.gather(*map(outcome, requests))
    expected = ["hangs" if drawn("flaky", each)[1] > 1 else str(drawn("flaky", each)[0]) for each in requests]
    assert list(outcomes) == expected
    assert {"hangs", "500", "200"} == set(outcomes)


async def test_slow_tail_takes_the_time_it_says(models_file: Path) -> None:
    slow = next(f"r{at}" for at in range(1000) if drawn("slow-tail", f"r{at}")[1] > 1)
    async with running(models_file, fault="slow-tail") as url, aiohttp.ClientSession() as client:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await ask(client, url, "42", slow))[0] == 200
        # Only the lower bound is the service's doing: ten times the service time, which is above 2 ms for any request.
        assert loop.time() - began > 0.02


async def start_alone(models: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "shadowproxy.demo.service",
            "--model",
            "item-cf",
            "--models",
            str(models),
            "--with-parent",
        ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("how", ["sigterm", "end of input"])
async def test_ends_at_sigterm_and_with_its_parent(models_file: Path, how: str) -> None:
    process = await start_alone(models_file)
    assert process.stdout is not None
    assert process.stdin is not None
    ready = orjson.loads(await process.stdout.readline())
    assert (ready["model"], ready["pid"]) == ("item-cf", process.pid)
    if how == "sigterm":
        os.kill(process.pid, signal.SIGTERM)
    else:
        process.stdin.close()
    async with asyncio.timeout(20):
        assert await process.wait() == 0
    process.stdin.close()


async def test_a_service_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"no models")
    with pytest.raises(StartError, match=r"candidate service ended with code 2: .*broken\.npz can't be read"):
        await ServiceProcess.start("candidate", Model.EASE, models=tmp_path / "broken.npz")


async def test_a_service_that_died_is_noticed(models_file: Path) -> None:
    service = await ServiceProcess.start("baseline", Model.EASE, models=models_file)
    service.check()
    async with aiohttp.ClientSession() as client, client.get(f"{service.url}/healthz") as health:
        assert health.status == 200
    os.kill(service.pid, signal.SIGKILL)
    async with asyncio.timeout(20):
        await service.ended()
    with pytest.raises(StartError, match="baseline service ended with code -9"):
        service.check()
    await service.stop()
