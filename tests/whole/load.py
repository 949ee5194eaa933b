"""Real processes under real load: a service to put the proxy before, clients that check every byte, and the account.

Every request has a number, and its answer follows from that alone: what the clients got, what the services saw and what
the verdict counted (each number is a cohort) are compared as sets.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from proxy.harness import RawUpstream, Received, closed, post, read_response, upstream
from servers import until

from shadowproxy.config import Address, Settings, experiment_id, loads
from shadowproxy.pairs.connect import resolve
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Store
from shadowproxy.serve.reader import Reading, VerdictReader
from shadowproxy.verdict.record import Verdict

ROOT = Path(__file__).parent.parent.parent
PATIENCE = 40.0
STREAM_PIECES = 5
ENOUGH = 120
"""Requests answered before something is done to the processes."""


def answer(number: int) -> bytes:
    """What the service says to request `number`."""
    return json.dumps({"items": [{"id": item, "score": 1.0} for item in ("a", "b", str(number))]}).encode()


@dataclass
class Service:
    """What the upstream does: takes 50 to 150 ms, and streams every fourth answer in pieces over 400 ms."""

    seen: Counter[int] = field(default_factory=Counter)

    async def __call__(
        self, _raw: RawUpstream, request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        number = json.loads(request.body)["id"]
        self.seen[number] += 1
        await asyncio.sleep(0.05 + 0.01 * (number % 11))
        body = answer(number)
        if number % 4:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()
            return True
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        size = -(-len(body) // STREAM_PIECES)
        for at in range(0, len(body), size):
            piece = body[at : at + size]
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.4 / STREAM_PIECES)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


@contextlib.asynccontextmanager
async def services() -> AsyncIterator[tuple[Service, str, Service, str]]:
    """Baseline and candidate with their URLs."""
    baseline, candidate = Service(), Service()
    async with upstream(baseline) as first, upstream(candidate) as second:
        yield baseline, first.url, candidate, second.url


def settings(folder: Path, baseline_url: str, candidate_url: str, **changes: str) -> Settings:
    """A whole configuration, quick to settle. `changes` replace sections, in YAML."""
    sections = {
        "baseline": f'{{url: "{baseline_url}", deadline: 2s}}',
        "candidate": f'{{url: "{candidate_url}", deadline: 2s}}',
        "proxy": '{listen: "127.0.0.1:0", admin: "127.0.0.1:0", grace: 8s}',
        "recorder": f'{{batch: 20, linger: 50ms, spool: {{dir: "{folder}/spool"}}}}',
        "redis": f'{{data_dir: "{folder}/data"}}',
        "routes": "[{name: rank, path: /rank, ids: 'response.body.items[*].id', cohorts: {id: request.body.id}}]",
        "comparator": '{admin: "127.0.0.1:0", claim_idle: 500ms, grace: 8s}',
        "verdict": "{bucket: 500ms, settle: 200ms, max_cohorts: 1000, guardrails: "
        "[{metric: failures.difference, margin: 0.01}, {metric: ranking.rbo, margin: 0.1}]}",
        "serve": '{listen: "127.0.0.1:0", refresh: 200ms}',
        "log_level": "warning",
        **changes,
    }
    return loads("\n".join(f"{name}: {section}" for name, section in sections.items()))


class Command:
    """`shadowproxy …` as a process, in a process group of its own as a shell would start it."""

    def __init__(self, folder: Path, chosen: Settings, *arguments: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "shadowproxy.yaml"
        config.write_text(chosen.model_dump_json(indent=2), encoding="utf-8")
        self._errors = folder / "stderr.log"
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shadowproxy", *arguments, "--config", str(config)],
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                process_group=0,
                text=True,
            )
        self.urls: dict[str, str] = {}

    @property
    def errors(self) -> str:
        """All that it and its children have said on standard error."""
        return self._errors.read_text(encoding="utf-8")

    @property
    def proxy(self) -> Address:
        """Where clients connect."""
        host, _, port = self.urls["proxy"].removeprefix("http://").partition(":")
        return Address(host, int(port))

    async def ready(self, last: str) -> Self:
        """Read what it announces, up to and with the line that `last` begins."""
        output = self.process.stdout
        assert output is not None
        while last not in self.urls:
            line = await asyncio.to_thread(output.readline)
            assert line, self.errors
            name, _, value = line.strip().partition(": ")
            self.urls[name] = value
        return self

    def children(self) -> dict[str, int]:
        """What runs now: by command, and `valkey` for the embedded server, the process ids."""
        found = {}
        # Each thread has children of its own: those that it started.
        lists = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        for child in itertools.chain.from_iterable(path.read_text().split() for path in lists):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if b"shadowproxy" in words:
                found[words[words.index(b"shadowproxy") + 1].decode()] = int(child)
            elif b"valkey" in words[0]:
                found["valkey"] = int(child)
        return found

    async def ended(self, within: float) -> int:
        """Its exit code; TimeoutExpired if it still runs after `within` seconds."""
        return await asyncio.to_thread(self.process.wait, within)

    def end(self) -> None:
        """Leave nothing behind, whatever the test did."""
        children = self.children() if self.process.poll() is None else {}
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                for pid in children.values():
                    os.kill(pid, signal.SIGKILL)
                self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


@contextlib.contextmanager
def command(folder: Path, chosen: Settings, *arguments: str) -> Iterator[Command]:
    """A process of ours. What nobody expected to be said on standard error fails the test."""
    running = Command(folder, chosen, *arguments)
    try:
        yield running
    finally:
        running.end()
    assert "Traceback" not in running.errors, running.errors


async def gone(pids: list[int], within: float) -> bool:
    """Whether processes that are not our children end in time."""

    def wait(handle: int) -> bool:
        return bool(select.select([handle], [], [], within)[0])

    handles = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            handles.append(os.pidfd_open(pid))
    try:
        return all(await asyncio.gather(*(asyncio.to_thread(wait, handle) for handle in handles)))
    finally:
        for handle in handles:
            os.close(handle)


@dataclass
class Load:
    """Clients that never stop asking until told, and what became of each request.

    Of every request one of these holds: `answered` (whole and right); `unanswered` (the connection ended before any
    byte of its answer, by connection kind); `broken` (anything else, in words). A connection whose answer said
    `Connection: close` must end after it without another byte.
    """

    address: Address
    numbers: Iterator[int] = field(default_factory=itertools.count)
    says: Callable[[int], Mapping[str, object]] = lambda _number: {}
    """By number, what its request says beside that."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    answered: list[int] = field(default_factory=list)
    unanswered: dict[str, list[int]] = field(default_factory=lambda: {"kept": [], "fresh": []})
    broken: list[str] = field(default_factory=list)
    told_to_close: int = 0

    async def run(self, *, kept: int = 15, fresh: int = 5) -> None:
        """Until `over`, or until nobody listens any more."""
        await asyncio.gather(
            *(self._client("kept") for _ in range(kept)), *(self._client("fresh") for _ in range(fresh))
        )

    async def _client(self, kind: str) -> None:
        while not self.over.is_set():
            try:
                reader, writer = await asyncio.open_connection(*self.address)
            except OSError:
                return
            try:
                again = kind == "kept"
                while await self._exchange(kind, reader, writer) and again:
                    await asyncio.sleep(0.01)
                    again = not self.over.is_set()
            finally:
                await closed(writer)

    async def _exchange(self, kind: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request. Whether the connection may be used again."""
        number = next(self.numbers)
        body = json.dumps({"id": number, "padding": "x" * 500, **self.says(number)}).encode()
        try:
            writer.write(post(body, "/rank"))
            first = await reader.read(1)
        except ConnectionError:
            first = b""
        if not first:
            self.unanswered[kind].append(number)
            return False
        try:
            response = await read_response(_Prefixed(first, reader))  # type: ignore[arg-type]
            if response.status != 200 or response.body != answer(number):
                self.broken.append(f"{number}: {response}")
                return False
            self.answered.append(number)
            if response.get(b"connection") != [b"close"]:
                return True
            self.told_to_close += 1
            if await reader.read():
                self.broken.append(f"{number}: bytes after the last answer")
        except (ConnectionError, asyncio.IncompleteReadError) as error:
            self.broken.append(f"{number}: {error!r}")
        return False


class _Prefixed:
    """A reader with its first byte put back."""

    def __init__(self, first: bytes, reader: asyncio.StreamReader) -> None:
        self._first = first
        self._reader = reader

    async def readuntil(self, separator: bytes) -> bytes:
        first, self._first = self._first, b""
        return first + await self._reader.readuntil(separator)

    async def readexactly(self, size: int) -> bytes:
        return await self._reader.readexactly(size)

    async def read(self) -> bytes:
        return await self._reader.read()


@contextlib.asynccontextmanager
async def under_load(address: Address, **clients: int) -> AsyncIterator[Load]:
    """Clients at work. Afterwards all of them have ended."""
    load = Load(address)
    running = asyncio.ensure_future(load.run(**clients))
    try:
        yield load
    finally:
        load.over.set()
        async with asyncio.timeout(PATIENCE):
            await running


@contextlib.asynccontextmanager
async def reading(chosen: Settings) -> AsyncIterator[Callable[[], Any]]:
    """How to read the verdict from the store itself, when no process of ours runs any more."""
    async with (
        resolve(chosen.redis) as url,
        await Store.open(url, experiment_id(chosen), max_entries=chosen.redis.max_entries) as store,
    ):
        yield VerdictReader(Partitions(store), chosen).read


async def settled(read: Callable[[], Any], met: Callable[[Verdict], bool]) -> Verdict:
    """The first verdict that meets a condition, or the last one read in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while True:
        found: Reading = await read()
        if met(found.verdict) or loop.time() > deadline:
            return found.verdict
        await asyncio.sleep(0.05)


def counted(verdict: Verdict) -> dict[int, int]:
    """By number of the request: how often its pair was counted."""
    return {int(name.removeprefix("id=")): report.pairs for name, report in verdict.cohorts.items()}


def once(numbers: list[int]) -> dict[int, int]:
    """What `counted` must be when each of these was counted once."""
    return dict.fromkeys(sorted(numbers), 1)


async def busy(load: Load, answers: int = ENOUGH) -> None:
    before = len(load.answered)
    await until(lambda: len(load.answered) >= before + answers, f"{answers} answers")


def nothing_was_lost(
    load: Load, baseline: Service, candidate: Service, verdict: Verdict, *, listeners: int = 1
) -> None:
    """Clients, services, account and verdict tell the same."""
    assert not load.broken
    assert not load.unanswered["kept"]
    # Of a fresh connection the handshake may have ended in the instant in which its listener closed.
    assert len(load.unanswered["fresh"]) <= listeners
    asked = once(load.answered)
    assert len(asked) == len(load.answered) >= ENOUGH
    assert baseline.seen == asked
    assert candidate.seen == asked
    assert counted(verdict) == asked
    assert (verdict.pairs, verdict.open_pairs) == (len(asked), 0)
    account = verdict.accounting
    assert account.balanced
    assert (account.requests, account.recorded, account.dropped, account.skipped) == (len(asked), len(asked), {}, {})
