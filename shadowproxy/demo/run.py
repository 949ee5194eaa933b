"""One demonstration from start to verdict: train, start two services and a stack, replay, watch, stop everything.

The stack (proxy, stream, comparator, API) is a parameter: what the demo needs of it is three calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import msgspec
import orjson

from shadowproxy.config import Settings
from shadowproxy.demo import configuration, data
from shadowproxy.demo.models import Model, Trained, train_or_load
from shadowproxy.demo.scenarios import BASELINE, Scenario
from shadowproxy.errors import StartError
from shadowproxy.report.words import harmed
from shadowproxy.tasks import Tasks
from shadowproxy.traffic.accounts import Account, requests
from shadowproxy.traffic.replay import Progress, ReplaySummary, replay
from shadowproxy.verdict.record import EXIT_CODES, State, Verdict, cells

_POLL = 0.5
_START_WITHIN = 30.0
_STOP_WITHIN = 3.0


@dataclass(frozen=True, slots=True)
class StackUrls:
    """Where a running stack answers: base URLs without a trailing slash; empty where it has no such part."""

    proxy: str
    api: str
    proxy_admin: str = ""
    comparator_admin: str = ""


class Stack(Protocol):
    """The shadowproxy under demonstration. Its methods raise ShadowproxyError with a message for the user."""

    async def start(self, settings: Settings) -> StackUrls:
        """Start everything and return when the proxy takes requests and the API answers."""

    async def verdict(self) -> Verdict:
        """The verdict of this moment."""

    async def stop(self) -> None:
        """Stop everything that was started; harmless before `start` and when called twice."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to show and how much of it."""

    scenario: Scenario
    seed: int = 7
    rate: float = 300.0
    """Requests a second."""
    max_pairs: int = configuration.HORIZON
    max_seconds: float = 120.0
    data: Path | None = None
    """Directory or recbole wheel with MovieLens 100k; found by itself where None."""
    models: Path | None = None
    """Folder for the trained models; among the temporary files where None."""
    data_dir: str | None = None
    """For the embedded Redis; a temporary folder, removed at the end, where None."""
    redis_url: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """The data are read and the models trained."""

    scenario: Scenario
    seed: int
    dataset: str
    accounts: int
    ndcg: Mapping[Model, float]


@dataclass(frozen=True, slots=True)
class Started:
    """Services and stack answer; the replay begins."""

    urls: StackUrls
    baseline: str
    candidate: str


@dataclass(frozen=True, slots=True)
class Observed:
    """The verdict and the replay at one moment. `elapsed`: seconds since the replay began."""

    verdict: Verdict
    progress: Progress
    elapsed: float


@dataclass(frozen=True, slots=True)
class Result:
    """How it ended."""

    scenario: Scenario
    seed: int
    dataset: str
    seconds: float
    verdict: Verdict
    replay: ReplaySummary
    started: Started

    @property
    def reached(self) -> bool:
        """Whether the expected state came, and with it, where one is expected, the blame on the right cohort."""
        right = self.verdict.state is self.scenario.expected
        return right and (self.scenario.cohort is None or self.scenario.cohort in blamed(self.verdict))

    @property
    def exit_code(self) -> int:
        """The verdict's: promote 0, rollback 1, continue 3."""
        return EXIT_CODES[self.verdict.state]


Event = Prepared | Started | Observed | Result


def blamed(verdict: Verdict) -> frozenset[str]:
    """Cohorts with a proven harm, and the one that stands nearest to it."""
    nearest = max(cells(verdict), key=lambda cell: cell.e_rollback / cell.rollback_at, default=None)
    return frozenset(harmed(verdict)) | (frozenset() if nearest is None else {nearest.cohort})


def where(result: Result) -> dict[str, str]:
    """By name, where everything answers, or answered."""
    started = result.started
    urls = dataclasses.asdict(started.urls) | {"baseline": started.baseline, "candidate": started.candidate}
    return {name: url for name, url in urls.items() if url}


def as_json(result: Result) -> dict[str, Any]:
    """The result as plain objects for `--json`. `reached` says whether what was expected came."""
    return {
        "state": result.verdict.state.value,
        "scenario": result.scenario.name,
        "expected": result.scenario.expected.value,
        "cohort": result.scenario.cohort,
        "reached": result.reached,
        "exit_code": result.exit_code,
        "seed": result.seed,
        "pairs": result.verdict.pairs,
        "seconds": round(result.seconds, 3),
        "dataset": result.dataset,
        "urls": where(result),
        "traffic": msgspec.to_builtins(result.replay, str_keys=True),
        "verdict": msgspec.to_builtins(result.verdict),
    }


def accounts(dataset: data.Dataset) -> tuple[Account, ...]:
    """The users with a known truth, as accounts. Where nobody knows what is right, nobody can be judged."""
    return tuple(
        Account(user.id, cohorts, truth)
        for user, cohorts, truth in zip(dataset.users, dataset.cohorts(), dataset.truth(), strict=True)
        if truth
    )


async def run(
    options: Options,
    stack: Stack,
    *,
    stop: asyncio.Event,
    keep: Callable[[Result], Awaitable[None]] | None = None,
) -> AsyncGenerator[Event, None]:
    """Run the options and yield what happens; the last event is the `Result`.

    It ends at promote or rollback, when the verdict calls itself exhausted, at `max_pairs` or `max_seconds`, or when
    `stop` is set. With `keep`, everything stays up after the result until what `keep(result)` returns is done. Close
    the generator (`contextlib.aclosing`) if it isn't read to the end: that stops what was started.
    Raises StartError if a service can't start or dies, and whatever ShadowproxyError the stack raises.
    """
    dataset = await asyncio.to_thread(data.load, options.data, seed=options.seed)
    path, trained = await asyncio.to_thread(train_or_load, dataset, options.models)
    population = accounts(dataset)
    yield _prepared(options, dataset, trained, len(population))
    async with contextlib.AsyncExitStack() as held:
        data_dir = options.data_dir or held.enter_context(tempfile.TemporaryDirectory(prefix="shadowproxy-demo-"))
        services = await _start_services(options, path, held)
        held.push_async_callback(stack.stop)
        urls = await stack.start(
            configuration.settings(
                *(service.url for service in services),
                experiment=f"demo-{options.scenario.name}",
                data_dir=data_dir,
                redis_url=options.redis_url,
            )
        )
        started = Started(urls, *(service.url for service in services))
        yield started
        watch = _Watch(options, stack, services, stop)
        async with contextlib.aclosing(watch.observe(urls, population)) as observed:
            async for observation in observed:
                yield observation
        result = watch.result(dataset.source, started)
        yield result
        if keep is not None:
            await keep(result)


def _prepared(options: Options, dataset: data.Dataset, trained: Trained, accounts: int) -> Prepared:
    ndcg = {model: lists.ndcg for model, lists in trained.lists.items()}
    return Prepared(options.scenario, options.seed, dataset.source, accounts, ndcg)


class _Watch:
    """Replays through the proxy and reads the verdict until it is time to stop."""

    def __init__(
        self, options: Options, stack: Stack, services: tuple[ServiceProcess, ...], stop: asyncio.Event
    ) -> None:
        self._options = options
        self._stack = stack
        self._services = services
        self._asked_to_stop = stop
        self._progress = Progress(0, 0, 0, 0.0)
        self._last: Observed | None = None
        self._summary: ReplaySummary | None = None

    async def observe(self, urls: StackUrls, population: tuple[Account, ...]) -> AsyncGenerator[Observed, None]:
        enough = asyncio.Event()
        tasks = Tasks()
        stream = requests(population, self._options.seed, path=configuration.route().path, k=configuration.LIST_LENGTH)
        began = time.monotonic()
        sending = tasks.start(
            replay(
                urls.proxy,
                stream,
                self._options.rate,
                stop=enough,
                on_progress=self._note,
                seed=self._options.seed,
                timeout=5 * configuration.DEADLINE,
            ),
            name="demo replay",
        )
        try:
            while not self._done(began):
                await _pause(self._asked_to_stop)
                self._check(sending)
                verdict = await self._stack.verdict()
                self._last = Observed(verdict, self._progress, time.monotonic() - began)
                yield self._last
            enough.set()
            self._summary = await sending
        finally:
            await tasks.cancel()

    def _note(self, progress: Progress) -> None:
        self._progress = progress

    def _check(self, sending: asyncio.Task[ReplaySummary]) -> None:
        for service in self._services:
            service.check()
        if sending.done():
            sending.result()

    def _done(self, began: float) -> bool:
        if self._last is None:
            return False
        verdict = self._last.verdict
        return (
            verdict.state is not State.CONTINUE
            or verdict.exhausted
            or verdict.pairs >= self._options.max_pairs
            or time.monotonic() - began >= self._options.max_seconds
            or self._asked_to_stop.is_set()
        )

    def result(self, dataset: str, started: Started) -> Result:
        if self._last is None or self._summary is None:
            raise StartError("the demo ended before a verdict could be read")
        last = self._last
        options = self._options
        return Result(options.scenario, options.seed, dataset, last.elapsed, last.verdict, self._summary, started)


async def _pause(stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_POLL):
            await stop.wait()


class ServiceProcess:
    """A model's process. Its standard input stays open: when this process dies, it ends and the service with it."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
        self._name = name
        self._process = process
        self._log = log
        self.url = ""

    @classmethod
    async def start(
        cls, name: str, model: Model, *, models: Path, fault: str = "none", seed: int = 7
    ) -> ServiceProcess:
        """Start `python -m shadowproxy.demo.service` on a free loopback port and wait until it answers.

        Raises StartError with what it wrote to standard error if it ends, or says nothing for 30 s.
        """
        arguments = ["--model", model, "--name", name, "--fault", fault, "--seed", str(seed)]
        log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `stop`)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shadowproxy.demo.service", *arguments),
            *("--models", str(models), "--listen", "127.0.0.1:0", "--with-parent"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            # Ctrl-C reaches every process of the terminal's group; the service is stopped in its turn, after the stack.
            start_new_session=True,
        )
        service = cls(name, process, log)
        try:
            await service._until_ready()
        except BaseException:
            await service.stop()
            raise
        return service

    async def _until_ready(self) -> None:
        output = self._process.stdout
        if output is None:
            raise StartError(f"the {self._name} service has no standard output")
        try:
            async with asyncio.timeout(_START_WITHIN):
                line = await output.readline()
        except TimeoutError:
            raise StartError(f"the {self._name} service was not ready within {_START_WITHIN:g} s") from None
        if not line:
            await self._process.wait()
            raise self._failure()
        self.url = f"http://127.0.0.1:{orjson.loads(line)['port']}"

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    async def ended(self) -> None:
        """Wait until the process has ended."""
        await self._process.wait()

    def check(self) -> None:
        """Raises StartError if the process has ended."""
        if self._process.returncode is not None:
            raise self._failure()

    def _failure(self) -> StartError:
        code = self._process.returncode
        return StartError(f"the {self._name} service ended with code {code}: {self._said()}; start again")

    def _said(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing on standard error"

    async def stop(self) -> None:
        """End the process: SIGTERM, and SIGKILL if that does not do."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(_STOP_WITHIN):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._log.close()


async def _start_services(
    options: Options, models: Path, held: contextlib.AsyncExitStack
) -> tuple[ServiceProcess, ServiceProcess]:
    scenario = options.scenario
    seed, fault = options.seed, scenario.fault.name
    starting = (
        ServiceProcess.start("baseline", BASELINE, models=models, seed=seed),
        ServiceProcess.start("candidate", scenario.candidate, models=models, fault=fault, seed=seed),
    )
    # Both at once, and both to their end: one that can't start must not leave the other behind.
    baseline, candidate = await asyncio.gather(*starting, return_exceptions=True)
    for service in (baseline, candidate):
        if isinstance(service, ServiceProcess):
            held.push_async_callback(service.stop)
    if isinstance(baseline, BaseException):
        raise baseline
    if isinstance(candidate, BaseException):
        raise candidate
    return baseline, candidate
