"""Child processes of ours: started, watched, started again where they die, and stopped in order.

Two use it: `shadowproxy run` for its parts, and a proxy of several workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shadowproxy.errors import StartError
from shadowproxy.tasks import Tasks

log = logging.getLogger(__name__)

MARGIN: Final = 5.0
"""Seconds that a child has beyond its own grace, for its last words to the store, before it is killed."""

_RESTART_FIRST, _RESTART_LAST = 0.2, 5.0


class PartFailed(StartError):  # noqa: N818  (read as an event at the call site)
    """A part ended before it was ready. It has said why, in a line of its own, where the user reads it."""


class Stop(asyncio.Event):
    """Set when the process is to stop. `at_once` is called where there is no time left for order."""

    def __init__(self) -> None:
        super().__init__()
        self.at_once: list[Callable[[], None]] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What a child is started as: `shadowproxy` with `arguments`. `grace` is how long it has to end, seconds."""

    name: str
    arguments: tuple[str, ...]
    grace: float


@dataclass(slots=True)
class Part:
    """One child process. `urls` is what it announced when it was ready."""

    role: Role
    process: asyncio.subprocess.Process
    urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its role: the one that is started in its place has it too."""
        return self.role.name

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self.process.pid

    @property
    def up(self) -> bool:
        """Whether it has announced itself and runs."""
        return bool(self.urls) and self.process.returncode is None


@contextlib.contextmanager
def on_hangup(from_files: bool, act: Callable[[], None]) -> Iterator[None]:
    """Where TLS uses files, SIGHUP means to read them anew: `act`. Else it ends the process, as anywhere."""
    loop = asyncio.get_running_loop()
    if from_files:
        loop.add_signal_handler(signal.SIGHUP, act)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


class Children:
    """Runs `stages` of child processes, `environ` added to our own environment. They start together, or as they are
    named to `start`; they stop stage by stage, those of one stage together.

    Each child holds the read end of a pipe of ours as its standard input: should we die without a word, they notice and
    drain by themselves.
    """

    def __init__(
        self, stages: Sequence[Sequence[Role]], environ: Mapping[str, str], *, ready_within: float = 30.0
    ) -> None:
        self._stages = tuple(tuple(stage) for stage in stages)
        self._environ = dict(environ)
        self._ready_within = ready_within
        self._parts: dict[str, Part] = {}
        self._tasks = Tasks()
        self.restarts = 0
        """How often a child has ended unasked."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(f'{part.name}={part.pid}' for part in self._parts.values())}>"

    @property
    def parts(self) -> Mapping[str, Part]:
        """By name, what runs."""
        return self._parts

    @property
    def urls(self) -> dict[str, str]:
        """By name, where the parts answer."""
        return {key: url for part in self._parts.values() for key, url in part.urls.items()}

    def _roles(self) -> Iterator[Role]:
        for stage in self._stages:
            yield from stage

    async def start(self, names: Sequence[str] | None = None) -> None:
        """Start these parts (all, unless named) and wait until each is ready.

        Raises PartFailed where a part can't start, StartError where one isn't ready in time; what was started is
        stopped again.
        """
        chosen = [role for role in self._roles() if names is None or role.name in names]
        try:
            parts = await asyncio.gather(*(self._spawn(role) for role in chosen))
        except BaseException:
            await self.stop()
            raise
        for part in parts:
            self._tasks.start(self._watch(part.role), name=f"watch {part.name}")

    async def _spawn(self, role: Role) -> Part:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "shadowproxy",
            *role.arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **self._environ},
            # Ctrl-C goes to the whole group of the terminal; the order of stopping is ours to give.
            start_new_session=True,
        )
        part = self._parts[role.name] = Part(role, process)
        assert process.stdout is not None  # noqa: S101  (PIPE was asked for; this is for the type checker)
        try:
            line = await asyncio.wait_for(process.stdout.readline(), self._ready_within)
        except TimeoutError:
            # What hangs on the way up would be watched for ever: only its end starts another.
            await self._kill(part)
            raise StartError(
                f"{role.name}: not ready within {self._ready_within:.0f} s; see its messages above"
            ) from None
        if not line:
            await process.wait()
            raise PartFailed(f"{role.name} could not start; it said why on standard error")
        part.urls = json.loads(line)
        return part

    async def _watch(self, role: Role) -> None:
        delay = _RESTART_FIRST
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            code = await self._parts[role.name].process.wait()
            self.restarts += 1
            log.error("%s ended with code %d; starting it again", role.name, code)
            delay = _RESTART_FIRST if loop.time() - started > 10 * _RESTART_LAST else min(delay * 2, _RESTART_LAST)
            await asyncio.sleep(delay)
            try:
                await self._spawn(role)
            except (StartError, OSError) as error:
                log.error("%s could not be started again: %s", role.name, error)

    async def stop(self) -> tuple[str, ...]:
        """Drain and end the parts, stage by stage; what outlives its grace is killed.

        At worst this takes the sum over the stages of their longest grace. Returns the names of those that did not end
        in order: killed here, or ended with an error of their own.
        """
        # The watchers first: none may start a part again that has had its turn.
        await self._tasks.cancel()
        failed: list[str] = []
        for stage in self._stages:
            running = [
                part
                for role in stage
                if (part := self._parts.get(role.name)) is not None and part.process.returncode is None
            ]
            ended = await asyncio.gather(*(self._end(part) for part in running))
            failed += [part.name for part, well in zip(running, ended, strict=True) if not well]
        return tuple(failed)

    async def _end(self, part: Part) -> bool:
        """Whether it ended in order. What was not ready yet had nothing to put in order."""
        with contextlib.suppress(ProcessLookupError):
            part.process.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(part.process.wait(), part.role.grace)
        except TimeoutError:
            log.error("%s did not end within its grace of %.0f s and is killed", part.name, part.role.grace)
            await self._kill(part)
            return False
        if code and part.urls:
            log.error("%s ended with code %d when it was stopped", part.name, code)
            return False
        return True

    @staticmethod
    async def _kill(part: Part) -> None:
        with contextlib.suppress(ProcessLookupError):
            part.process.kill()
        await part.process.wait()

    def hang_up(self, *names: str) -> None:
        """Pass a SIGHUP on to those of these parts (all, unless named) that are ready for it."""
        for part in self._parts.values():
            if part.up and (not names or part.name in names):
                with contextlib.suppress(ProcessLookupError):
                    part.process.send_signal(signal.SIGHUP)

    def end_at_once(self) -> None:
        """Tell all to end now, children of theirs included, and don't wait."""
        for part in self._parts.values():
            with contextlib.suppress(ProcessLookupError):
                part.process.send_signal(signal.SIGQUIT)
