"""`shadowproxy run`: the parts as processes of their own, started, watched and stopped in the order of the data.

They are processes and not tasks of one loop, since comparing is arithmetic that would hold up a client's answer. A part
that dies is started again; on the way out the proxy drains first, so that the comparator still counts its last pairs
and the API still shows them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shadowproxy.config import Settings
from shadowproxy.errors import StartError
from shadowproxy.tasks import Tasks

log = logging.getLogger(__name__)

PARTS = ("proxy", "compare", "serve")
_RESTART_FIRST, _RESTART_LAST = 0.2, 5.0


class PartFailed(StartError):  # noqa: N818  (read as an event at the call site)
    """A part ended before it was ready. It has said why, in a line of its own, where the user reads it."""


@dataclass(slots=True)
class Part:
    """One child process. `urls` is what it announced when it was ready."""

    name: str
    process: asyncio.subprocess.Process
    urls: Mapping[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self.process.pid


class Supervisor:
    """Runs the parts of one configuration file (`settings` is what it says) against the store at `redis_url`.

    Each child holds the read end of a pipe of ours as its standard input: should we die without a word, they notice and
    drain by themselves.
    """

    def __init__(self, config: Path, settings: Settings, redis_url: str, *, ready_within: float = 30.0) -> None:
        self._config = config
        self._redis_url = redis_url
        # The parts keep their grace themselves; what is added is for their last words to the store.
        self._grace = max(settings.proxy.grace, settings.comparator.grace) + 5.0
        self._ready_within = ready_within
        self._parts: dict[str, Part] = {}
        self._tasks = Tasks()

    def __repr__(self) -> str:
        return f"<Supervisor {', '.join(f'{part.name}={part.pid}' for part in self._parts.values())}>"

    @property
    def parts(self) -> Mapping[str, Part]:
        """By name, what runs."""
        return self._parts

    @property
    def urls(self) -> dict[str, str]:
        """By name, where the parts answer: `proxy`, `proxy_admin`, `comparator_admin` and `api`."""
        return {key: url for part in self._parts.values() for key, url in part.urls.items()}

    async def start(self, names: Sequence[str] = PARTS) -> None:
        """Start all parts and wait until each is ready.

        Raises PartFailed where a part can't start, StartError where one isn't ready in time; what was started is
        stopped again.
        """
        try:
            parts = await asyncio.gather(*(self._spawn(name) for name in names))
        except BaseException:
            await self.stop()
            raise
        for part in parts:
            self._tasks.start(self._watch(part.name), name=f"watch {part.name}")

    async def _spawn(self, name: str) -> Part:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "shadowproxy",
            name,
            "--config",
            str(self._config),
            "--supervised",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "SHADOWPROXY_REDIS_URL": self._redis_url},
            # Ctrl-C goes to the whole group of the terminal; the order of stopping is ours to give.
            start_new_session=True,
        )
        part = self._parts[name] = Part(name, process)
        assert process.stdout is not None  # noqa: S101  (PIPE was asked for; this is for the type checker)
        try:
            line = await asyncio.wait_for(process.stdout.readline(), self._ready_within)
        except TimeoutError:
            # What hangs on the way up would be watched for ever: only its end starts another.
            await self._kill(part)
            raise StartError(f"{name}: not ready within {self._ready_within:.0f} s; see its messages above") from None
        if not line:
            await process.wait()
            raise PartFailed(f"{name} could not start; it said why on standard error")
        part.urls = json.loads(line)
        return part

    async def _watch(self, name: str) -> None:
        delay = _RESTART_FIRST
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            code = await self._parts[name].process.wait()
            log.error("%s ended with code %d; starting it again", name, code)
            delay = _RESTART_FIRST if loop.time() - started > 10 * _RESTART_LAST else min(delay * 2, _RESTART_LAST)
            await asyncio.sleep(delay)
            try:
                await self._spawn(name)
            except (StartError, OSError) as error:
                log.error("%s could not be started again: %s", name, error)

    async def stop(self) -> None:
        """Drain and end the parts in the order of the data; what outlives its grace is killed."""
        # The watchers first: none may start a part again that has had its turn.
        await self._tasks.cancel()
        for name in PARTS:
            part = self._parts.get(name)
            if part is not None and part.process.returncode is None:
                await self._end(part)

    async def _end(self, part: Part) -> None:
        with contextlib.suppress(ProcessLookupError):
            part.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(part.process.wait(), self._grace)
        except TimeoutError:
            log.error("%s did not end within its grace of %.0f s and is killed", part.name, self._grace)
            await self._kill(part)

    @staticmethod
    async def _kill(part: Part) -> None:
        with contextlib.suppress(ProcessLookupError):
            part.process.kill()
        await part.process.wait()
