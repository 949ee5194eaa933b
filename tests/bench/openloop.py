"""Clients in a process of their own: `python -m bench.openloop HOST PORT`; `Clients` is the handle to it.

*Open loop*: requests leave at given times whether or not earlier ones were answered, over a bounded pool of kept
connections; one that finds no free connection waits for one. Its latency is measured twice, from the time it was to
leave and from the time it left; only the first tells what a user waits (a closed loop leaves out what a stalled
server would have been asked meanwhile).

*Its own jitter*: times to leave come from a timerfd, not from the loop's timers of 1 ms (see `bench.alarm`); the
process does nothing else, checks answers only after it has read the clock, and puts its garbage collection off. What
is left is in the result as `late`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self, cast

import uvloop
from bench import wire
from bench.alarm import Alarms
from bench.remote import Remote, Reply, obey

PATIENCE = 15.0
"""Seconds after which an answer that has not come is an error."""


@dataclass
class Outcome:
    """What became of a run's requests. Latencies (seconds, in the order of the answers) leave out the lead."""

    sent: int = 0
    answered: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    from_due: list[float] = field(default_factory=list)
    from_sent: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    """How long after its time each request was given to the pool, seconds: the jitter of the client itself."""
    most_open: int = 0
    """Connections that were open at once."""
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


class Asking(asyncio.Protocol):
    """One kept connection."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.transport = cast("asyncio.Transport", None)
        self._got = b""
        self._asked: Asked | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def ask(self, asked: Asked) -> None:
        self._asked = asked
        self._got = b""
        asked.sent = time.perf_counter()
        self.transport.write(asked.wire)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._got = got = self._got + data if self._got else data
        end = got.find(b"\r\n\r\n")
        if end < 0 or len(got) - end - 4 < wire.length(got[:end]):
            return
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.over(now, _fault(got, end, asked.number))
            self._pool.release(self)

    def connection_lost(self, exc: Exception | None) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.over(time.perf_counter(), "cut off amid an answer" if self._got else "cut off before an answer")
        self._pool.lost(self)


def _fault(got: bytes, end: int, number: int) -> str:
    if not got.startswith(b"HTTP/1.1 200"):
        return f"status {got[9:12].decode('latin-1')}"
    return "" if got[end + 4 :] == wire.expected(number) else "another's answer"


class Asked:
    """One request under way."""

    __slots__ = ("_run", "due", "left", "number", "sent", "wire")

    def __init__(self, run: Run, number: int, due: float) -> None:
        self._run = run
        self.number = number
        self.due = due
        self.left = 0.0
        self.sent = 0.0
        self.wire = wire.request(number)

    def over(self, now: float, fault: str) -> None:
        self._run.over(self, now, fault)


class Pool:
    """Kept connections, bounded. Requests that find none free wait in their order."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._loop = asyncio.get_running_loop()
        self._idle: deque[Asking] = deque()
        self._waiting: deque[Asked] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self.bound = 0
        self.open = 0
        self.most_open = 0

    def ask(self, asked: Asked) -> None:
        if self._idle:
            # The one that was used last: at a low rate the others stay as they are, and nothing is opened anew.
            self._idle.pop().ask(asked)
            return
        self._waiting.append(asked)
        if self.open < self.bound:
            self.connect()

    def connect(self) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        task = self._loop.create_task(self._connect())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        try:
            _, asking = await self._loop.create_connection(lambda: Asking(self), *self._address)
        except OSError:
            self.open -= 1
            if self._waiting:
                self._waiting.popleft().over(time.perf_counter(), "no connection")
            return
        self.release(asking)

    async def warm(self, connections: int) -> None:
        """Open so many connections."""
        self.bound = connections
        while self.open < connections:
            self.connect()
        if self._connecting:
            await asyncio.wait(set(self._connecting))

    def release(self, asking: Asking) -> None:
        if asking.transport.is_closing():
            return
        if self._waiting:
            asking.ask(self._waiting.popleft())
        else:
            self._idle.append(asking)

    def lost(self, asking: Asking) -> None:
        self.open -= 1
        with contextlib.suppress(ValueError):
            self._idle.remove(asking)
        if self._waiting and self.open < self.bound:
            self.connect()


class Run:
    """Requests `first`, `first + 1`, … until it is told to end."""

    def __init__(self, pool: Pool, first: int, *, keep: bool) -> None:
        self._pool = pool
        self._first = first
        self._keep = keep
        self.outcome = Outcome()
        self.errors: Counter[str] = Counter()
        self.measured_from = 0.0
        self.changed: Callable[[], None] = lambda: None

    @property
    def under_way(self) -> int:
        return self.outcome.sent - self.outcome.answered - self.errors.total()

    def made(self, due: float) -> Asked:
        """The next request."""
        asked = Asked(self, self._first + self.outcome.sent, due)
        self.outcome.sent += 1
        return asked

    def send(self, due: float) -> None:
        """The next request, at once."""
        self._pool.ask(self.made(due))

    def over(self, asked: Asked, now: float, fault: str) -> None:
        if fault:
            self.errors[fault] += 1
        else:
            self.outcome.answered += 1
            if self._keep and asked.due >= self.measured_from:
                self.outcome.from_due.append(now - asked.due)
                self.outcome.from_sent.append(now - asked.sent)
                self.outcome.late.append(asked.left - asked.due)
        self.changed()

    async def end(self) -> Outcome:
        """Wait for what is under way."""
        quiet = asyncio.Event()
        self.changed = lambda: None if self.under_way else quiet.set()
        self.changed()
        try:
            async with asyncio.timeout(PATIENCE):
                await quiet.wait()
        except TimeoutError:
            self.errors["no answer"] += self.under_way
        self.outcome.errors = dict(self.errors)
        self.outcome.most_open = self._pool.most_open
        return self.outcome


async def open_loop(
    pool: Pool, alarms: Alarms, first: int, *, rate: float, seconds: float, lead: float, seed: int
) -> Outcome:
    """`rate` requests a second, each at a random point of its own slot: nearly even, and not periodic.

    The first `lead` seconds are sent and checked like the rest, but not timed.
    """
    run = Run(pool, first, keep=True)
    draw = random.Random(seed)
    begin = time.perf_counter() + 0.01
    run.measured_from = begin + lead
    times = [begin + (slot + draw.random()) / rate for slot in range(round(rate * (lead + seconds)))]
    last = asyncio.Event()

    def prepare(at: int) -> None:
        if at == len(times):
            last.set()
            return
        # Made before its time: what is left to do at its time is to write it.
        asked = run.made(times[at])

        def send() -> None:
            asked.left = time.perf_counter()
            pool.ask(asked)
            prepare(at + 1)

        alarms.at(times[at], send)

    prepare(0)
    await last.wait()
    return await run.end()


async def closed_loop(pool: Pool, first: int, *, requests: int) -> Outcome:
    """So many requests, on every connection the next as soon as the last is answered. Nothing is timed."""
    run = Run(pool, first, keep=False)
    done = asyncio.Event()

    def next_one() -> None:
        if run.outcome.sent < requests:
            run.send(0.0)
        elif not run.under_way:
            done.set()

    begin = time.perf_counter()
    for _ in range(min(pool.bound, requests)):
        run.send(0.0)
    run.changed = next_one
    await done.wait()
    outcome = await run.end()
    outcome.seconds = time.perf_counter() - begin
    return outcome


class Clients:
    """The process. Requests are numbered on and on, from 1."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("http://").rpartition(":")
        self._remote = Remote("bench.openloop", host, port)
        self.sent = 0

    def begin(
        self, *, rate: float, seconds: float, lead: float = 0.0, connections: int = 64, seed: int = 0
    ) -> Callable[[], Outcome]:
        """Start an open-loop run; what is returned waits for its end."""
        self._remote.tell(
            do="open", first=self.sent + 1, rate=rate, seconds=seconds, lead=lead, connections=connections, seed=seed
        )
        return lambda: self._ended(lead + seconds + PATIENCE + 30)

    def open_loop(self, **load: Any) -> Outcome:
        """An open-loop run from its begin to its end; see `begin`."""
        return self.begin(**load)()

    def closed_loop(self, requests: int, *, connections: int) -> Outcome:
        """So many requests, as fast as they are answered."""
        self._remote.tell(do="closed", first=self.sent + 1, requests=requests, connections=connections)
        return self._ended(60 + requests / 100)

    def _ended(self, within: float) -> Outcome:
        outcome = Outcome(**self._remote.answer(within))
        self.sent += outcome.sent
        return outcome

    def close(self) -> None:
        self._remote.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def serve(host: str, port: int) -> None:
    """The process itself."""
    pool = Pool(host, port)
    alarms = Alarms(asyncio.get_running_loop())

    async def handle(command: Reply) -> Reply:
        what = command.pop("do")
        await pool.warm(command.pop("connections"))
        gc.collect()
        gc.disable()
        try:
            outcome = await (open_loop(pool, alarms, **command) if what == "open" else closed_loop(pool, **command))
        finally:
            gc.enable()
        return {name: getattr(outcome, name) for name in Outcome.__dataclass_fields__}

    await obey({}, handle)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(given.host, given.port))


if __name__ == "__main__":
    main()
