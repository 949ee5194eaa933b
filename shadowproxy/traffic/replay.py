"""Replay at an open-loop rate: requests leave when they are due, whether or not earlier ones were answered.

A closed loop waits for a slow server and so asks it less, and its percentiles leave out the requests that would have
waited (coordinated omission). Here every latency runs from the *intended* send time, and a client that could not keep
up says so: `late` and `throttled`.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import aiohttp
import numpy as np

from shadowproxy.tasks import Tasks
from shadowproxy.traffic.accounts import TrafficRequest

LATE_AFTER = 0.010
"""Seconds. A request that leaves more than this after it was due is counted as late."""
_PROGRESS_EVERY = 0.25
Arrivals = Literal["poisson", "constant"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a replay is. `elapsed` in seconds; `done` counts answers of any status, `errors` requests without one."""

    sent: int
    done: int
    errors: int
    elapsed: float


@dataclass(frozen=True, slots=True)
class ReplaySummary:
    """What a replay did. `sent` is the sum of all `statuses` and all `errors`."""

    sent: int
    statuses: Mapping[int, int]
    errors: Mapping[str, int]
    """By kind: `timeout`, `connect`, `reset`, `protocol`; `abandoned` if the drain gave up waiting."""
    seconds: float
    """From the first intended send to the last answer."""
    p50: float | None
    """Latency of the answered requests from the intended send time, seconds; None without any. So p90, p99, longest."""
    p90: float | None
    p99: float | None
    longest: float | None
    late: int
    """Requests that left more than `LATE_AFTER` after they were due."""
    throttled: int
    """Requests that waited because the bound on outstanding ones was reached: the client was the bottleneck."""

    @property
    def rate(self) -> float:
        """Requests sent per second."""
        return self.sent / self.seconds if self.seconds > 0 else 0.0


async def replay(
    url: str,
    requests: Iterator[TrafficRequest],
    rate: float,
    *,
    stop: asyncio.Event,
    duration: float | None = None,
    count: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    arrivals: Arrivals = "poisson",
    seed: int = 7,
    timeout: float = 10.0,  # noqa: ASYNC109  (of each request, not of the replay)
    max_outstanding: int = 1024,
) -> ReplaySummary:
    """Send `requests` to `url` (scheme, host and port) at `rate` a second until one of the bounds is reached.

    The bounds: `requests` ends, `count` requests, `duration` seconds of intended send times, or `stop` is set. Then
    what is outstanding is waited for, each up to its `timeout`. Failures are counted, never raised. Raises ValueError
    for a rate, timeout or bound that isn't positive.
    """
    for name, value in (("rate", rate), ("timeout", timeout), ("max_outstanding", max_outstanding)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, not {value}")
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=timeout),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    ) as session:
        run = _Replay(session, url.rstrip("/"), max_outstanding, on_progress)
        due = _due_times(rate, arrivals, seed)
        await run.send(itertools.islice(requests, count), due, stop, duration)
        return await run.finish(timeout)


def _due_times(rate: float, arrivals: Arrivals, seed: int) -> Iterator[float]:
    """Intended send times, seconds from the start; the first is 0."""
    if arrivals == "constant":
        yield from (at / rate for at in itertools.count())
    generator = np.random.default_rng(seed)
    due = 0.0
    while True:
        for gap in generator.exponential(1 / rate, size=1024).tolist():
            yield due
            due += gap


class _Replay:
    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        max_outstanding: int,
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self._session = session
        self._url = url
        self._slots = asyncio.Semaphore(max_outstanding)
        self._on_progress = on_progress
        self._tasks = Tasks()
        self._began = time.monotonic()
        self._ended = self._began
        self._reported = self._began
        self._sent = self._late = self._throttled = 0
        self._statuses: Counter[int] = Counter()
        self._errors: Counter[str] = Counter()
        self._latencies: list[float] = []

    async def send(
        self, requests: Iterator[TrafficRequest], due: Iterator[float], stop: asyncio.Event, duration: float | None
    ) -> None:
        for request, offset in zip(requests, due, strict=False):
            if duration is not None and offset >= duration:
                return
            intended = self._began + offset
            if await _stopped_before(intended, stop) or not await self._slot(stop):
                return
            self._sent += 1
            now = time.monotonic()
            self._late += now - intended > LATE_AFTER
            # Timers have a millisecond's grain: a request that left early is timed from when it left.
            self._tasks.start(self._exchange(request, min(intended, now)), name=f"replay {request.id}")
            self._report()

    async def _slot(self, stop: asyncio.Event) -> bool:
        """Take a place among the outstanding requests; False if the stop came while waiting for one."""
        if not self._slots.locked():
            await self._slots.acquire()
            return True
        # The stop is not waited for beside the slot: every outstanding request has a timeout, so one comes free.
        await self._slots.acquire()
        if stop.is_set():
            self._slots.release()
            return False
        self._throttled += 1
        return True

    async def _exchange(self, request: TrafficRequest, intended: float) -> None:
        headers = {**request.headers, "X-Request-Id": request.id}
        kind = "abandoned"
        status = None
        try:
            async with self._session.request(
                request.method,
                self._url + request.path,
                data=request.body or None,
                headers=headers,
                allow_redirects=False,
            ) as response:
                await response.read()
                status = response.status
        except TimeoutError:
            kind = "timeout"
        except aiohttp.ClientConnectorError:
            kind = "connect"
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            kind = "reset"
        except aiohttp.ClientError:
            kind = "protocol"
        finally:
            self._slots.release()
            self._ended = time.monotonic()
            if status is None:
                self._errors[kind] += 1
            else:
                self._statuses[status] += 1
                self._latencies.append(self._ended - intended)

    def _report(self, *, always: bool = False) -> None:
        now = time.monotonic()
        if self._on_progress is None or (now - self._reported < _PROGRESS_EVERY and not always):
            return
        self._reported = now
        done, errors = sum(self._statuses.values()), sum(self._errors.values())
        self._on_progress(Progress(self._sent, done, errors, now - self._began))

    async def finish(self, grace: float) -> ReplaySummary:
        await self._tasks.drain(grace + 1.0)
        self._report(always=True)
        p50, p90, p99, longest = _percentiles(self._latencies)
        return ReplaySummary(
            self._sent,
            dict(sorted(self._statuses.items())),
            dict(sorted(self._errors.items())),
            self._ended - self._began,
            p50,
            p90,
            p99,
            longest,
            self._late,
            self._throttled,
        )


async def _stopped_before(moment: float, stop: asyncio.Event) -> bool:
    """Wait until the monotonic clock shows `moment`, give or take a timer's millisecond; True at once on `stop`."""
    if stop.is_set():
        return True
    try:
        async with asyncio.timeout(max(0.0, moment - time.monotonic())):
            await stop.wait()
    except TimeoutError:
        # A replay that is behind never blocks here; what is outstanding must still get its turn.
        await asyncio.sleep(0)
        return stop.is_set()
    return True


def _percentiles(latencies: list[float]) -> tuple[float, ...] | tuple[None, ...]:
    if not latencies:
        return (None,) * 4
    return tuple(map(float, np.percentile(latencies, [50, 90, 99, 100])))
