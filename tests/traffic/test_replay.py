import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import numpy as np
import pytest
from aiohttp import web

from shadowproxy.traffic.accounts import TrafficRequest
from shadowproxy.traffic.replay import Progress, replay

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def some(count: int | None = None, **headers: str) -> Iterator[TrafficRequest]:
    numbers = itertools.count() if count is None else range(count)
    return (TrafficRequest(f"r{at}", "POST", f"/ask?n={at}", b"body %d" % at, headers) for at in numbers)


async def answer(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def test_every_request_arrives_as_it_was_given() -> None:
    seen = []

    async def note(request: web.Request) -> web.Response:
        seen.append(
            (
                request.method,
                request.raw_path,
                request.headers["X-Request-Id"],
                request.headers["a"],
                await request.read(),
            )
        )
        return web.Response(status=201 if len(seen) % 2 else 500)

    async with server(note) as url:
        summary = await replay(url, some(40, a="b"), 2000, stop=asyncio.Event())
    assert sorted(seen) == sorted(("POST", f"/ask?n={at}", f"r{at}", "b", b"body %d" % at) for at in range(40))
    assert summary.sent == 40
    assert summary.statuses == {201: 20, 500: 20}
    assert summary.errors == {}
    assert summary.throttled == 0


async def test_the_loop_is_open_requests_leave_while_none_is_answered() -> None:
    everyone = asyncio.Event()
    waiting = 0

    async def hold(_: web.Request) -> web.Response:
        nonlocal waiting
        waiting += 1
        if waiting == 50:
            everyone.set()
        await everyone.wait()
        return web.Response()

    async with server(hold) as url:
        summary = await replay(url, some(50), 500, stop=asyncio.Event(), timeout=20)
    assert summary.statuses == {200: 50}
    assert summary.throttled == 0


async def test_latency_runs_from_the_intended_time_when_the_client_is_the_bottleneck() -> None:
    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response()

    async with server(slow) as url:
        summary = await replay(
            url, some(10), 1000, stop=asyncio.Event(), arrivals="constant", max_outstanding=1, timeout=20
        )
    # One at a time: the last was due after 9 ms, answered after ten times 50 ms. From when it left, it took only 50.
    assert summary.longest is not None
    assert summary.longest > 0.4
    assert summary.throttled == 9
    assert summary.late >= 8
    assert summary.statuses == {200: 10}


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
async def test_the_rate_is_that_of_the_intended_times(arrivals: str) -> None:
    async with server(answer) as url:
        summary = await replay(url, some(), 400, stop=asyncio.Event(), duration=1.0, arrivals=arrivals, seed=3)  # type: ignore[arg-type]
    # Poisson with mean 400 has a standard deviation of 20; the intended times are set by the seed, not by the machine.
    assert summary.sent == 400 if arrivals == "constant" else 320 < summary.sent < 480
    assert summary.statuses == {200: summary.sent}


async def test_the_same_seed_gives_the_same_number_of_requests() -> None:
    async with server(answer) as url:
        sent = [
            (await replay(url, some(), 300, stop=asyncio.Event(), duration=0.5, seed=seed)).sent for seed in (1, 1, 2)
        ]
    assert sent[0] == sent[1] != sent[2]


async def test_percentiles_agree_with_numpy() -> None:
    async def as_told(request: web.Request) -> web.Response:
        await asyncio.sleep(float(request.query["n"]) * 1e-3)
        return web.Response()

    seen: list[float] = []
    async with server(as_told) as url:
        began = time.monotonic()
        summary = await replay(url, some(100), 400, stop=asyncio.Event(), arrivals="constant")
        seen.append(time.monotonic() - began)
    asked = np.arange(100) * 1e-3
    p50, p90, p99 = np.percentile(asked, [50, 90, 99])
    assert summary.p50 is not None
    assert summary.p90 is not None
    assert summary.p99 is not None
    assert summary.longest is not None
    # No answer can come before it was told to; and none after the whole replay.
    grain = 0.002
    assert p50 - grain <= summary.p50 <= summary.p90 <= summary.p99 <= summary.longest <= seen[0]
    assert summary.p90 >= p90 - grain
    assert summary.p99 >= p99 - grain


async def test_failures_are_counted_by_kind_and_never_raised() -> None:
    async def misbehave(request: web.Request) -> web.StreamResponse:
        match int(request.query["n"]) % 4:
            case 0:
                await asyncio.Event().wait()
            case 1:
                assert request.transport is not None
                request.transport.abort()
            case 2:
                assert request.transport is not None
                request.transport.write(b"this is no HTTP\r\n\r\n")
                request.transport.close()
        return web.Response()

    async with server(misbehave) as url:
        summary = await replay(url, some(40), 400, stop=asyncio.Event(), timeout=0.5)
    assert summary.statuses == {200: 10}
    assert summary.errors == {"protocol": 10, "reset": 10, "timeout": 10}
    assert summary.sent == 40


async def test_a_refused_connection_is_an_error_of_its_kind() -> None:
    async with server(answer) as url:
        pass
    summary = await replay(url, some(3), 1000, stop=asyncio.Event())
    assert summary.errors == {"connect": 3}
    assert summary.p50 is None


async def test_stop_ends_the_sending_and_waits_for_what_is_under_way() -> None:
    stop = asyncio.Event()

    async def stop_then_answer(request: web.Request) -> web.Response:
        if request.query["n"] == "5":
            stop.set()
        await stop.wait()
        return web.Response()

    async with server(stop_then_answer) as url:
        summary = await replay(url, some(), 200, stop=stop)
    assert summary.sent >= 6
    assert summary.statuses == {200: summary.sent}


async def test_stop_is_seen_between_two_requests_far_apart() -> None:
    stop = asyncio.Event()

    async def stop_at_once(_: web.Request) -> web.Response:
        stop.set()
        return web.Response()

    async with server(stop_at_once) as url:
        async with asyncio.timeout(30):
            summary = await replay(url, some(), 0.01, stop=stop, arrivals="constant")
    assert summary.sent == 1


async def test_progress_ends_with_everything_done() -> None:
    told: list[Progress] = []
    async with server(answer) as url:
        summary = await replay(url, some(200), 300, stop=asyncio.Event(), on_progress=told.append)
    assert [step.sent for step in told] == sorted(step.sent for step in told)
    assert len(told) > 1
    assert (told[-1].sent, told[-1].done, told[-1].errors) == (200, 200, 0)
    assert summary.rate == pytest.approx(200 / summary.seconds)


async def test_connections_are_kept_alive() -> None:
    peers = set()

    async def note(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response()

    async with server(note) as url:
        await replay(url, some(30), 200, stop=asyncio.Event(), max_outstanding=1)
    assert len(peers) == 1


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"timeout": -1}, {"max_outstanding": 0}])
async def test_what_is_not_positive_is_refused(wrong: dict[str, float]) -> None:
    settings = {"rate": 10, **wrong}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        await replay("http://127.0.0.1:1", some(1), stop=asyncio.Event(), **settings)  # type: ignore[arg-type]
