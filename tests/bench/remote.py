"""A process that is told what to do on its standard input and answers on its output: one JSON object a line."""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

from bench.peers import PACKAGE

TESTS = Path(__file__).parent.parent
Reply = dict[str, Any]


class Remote:
    """One such process, `python -m MODULE ARGUMENTS`. Its first line says that it is ready, and is in `hello`.

    It ends when its input does, so that it can't outlive whoever started it.
    """

    def __init__(self, module: str, *arguments: str, niceness: int = 0) -> None:
        self.name = module
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS), str(PACKAGE)))},
            bufsize=0,
        )
        self._partial = b""
        if niceness:
            os.setpriority(os.PRIO_PROCESS, self._process.pid, niceness)
        self.hello = self.answer(30)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, within: float = 30.0, **command: Any) -> Reply:
        """Give a command and wait for what it comes to."""
        self.tell(**command)
        return self.answer(within)

    def tell(self, **command: Any) -> None:
        """Give a command whose answer is fetched later."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    def answer(self, within: float) -> Reply:
        """The next answer; TimeoutError if it doesn't come within so many seconds."""
        output = self._process.stdout
        assert output is not None
        deadline = time.monotonic() + within
        while b"\n" not in self._partial:
            if not select.select([output], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"{self.name} did not answer within {within:g} s")
            data = os.read(output.fileno(), 1 << 20)
            if not data:
                raise RuntimeError(f"{self.name} has ended with status {self._process.wait()}")
            self._partial += data
        line, _, self._partial = self._partial.partition(b"\n")
        reply: Reply = json.loads(line)
        return reply

    def close(self) -> None:
        """Let it end."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def obey(hello: Reply, handle: Callable[[Reply], Awaitable[Reply]]) -> None:
    """The other end: say `hello`, then answer commands in their order until the input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say(hello)
    while line := await reader.readline():
        _say(await handle(json.loads(line)))


def _say(reply: Reply) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
