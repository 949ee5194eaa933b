"""The processes of a benchmark: started, measured through /proc, and gone at the end whatever happens."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_TICK: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

# Asks the kernel for SIGTERM when whoever started it dies, then becomes the program: so that a benchmark that is killed
# leaves nothing behind. It is done in the new process, since Python can't do it safely between fork and exec.
_BECOME: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() != int(sys.argv[1]): sys.exit("its parent is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class Failed(Exception):  # noqa: N818  (what became of a process, read as such at the call site)
    """A process ended, or didn't do in time what it was started for; says what it printed."""


class Process:
    """One process of a `Rack`, with those it starts itself (workers). Its output is in `log`."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._popen = popen

    @property
    def pid(self) -> int:
        """Of the process that was started; its workers have ids of their own."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def tree(self) -> list[int]:
        """Its id and those of all that descend from it."""
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += map(int, _read(task).split())
        return found

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that it has used: all threads, its workers, and workers that have ended.

        In ticks of 10 ms, as the kernel says it; measure over seconds.
        """
        return sum(map(cpu, self.tree()))

    def rss(self) -> int:
        """Bytes of memory that are resident, its workers' too."""
        sizes = (_read(Path(f"/proc/{pid}/statm")).split() for pid in self.tree())
        return sum(int(fields[1]) for fields in sizes if fields) * _PAGE

    def descriptors(self) -> int:
        """Open descriptors, its workers' too."""
        count = 0
        for pid in self.tree():
            try:
                count += len(list(Path(f"/proc/{pid}/fd").iterdir()))
            except OSError:
                continue
        return count

    def output(self) -> str:
        """What it has printed so far, on both streams."""
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process that was started."""
        if self.running:
            os.kill(self.pid, number)

    def wait(self, within: float) -> int:
        """Its exit code. Raises Failed if it still runs after `within` seconds."""
        try:
            return self._popen.wait(within)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} still runs after {within:g} s; {self._said()}") from None

    def stop(self, within: float = 10.0) -> int:
        """SIGTERM, and SIGKILL to whatever of it is left after `within` seconds, or when it has ended without them.

        Returns its exit code.
        """
        family = [handle for pid in self.tree() if (handle := _handle(pid)) is not None] if self.running else []
        for number in (signal.SIGCONT, signal.SIGTERM):
            self.signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(within)
        for handle in family:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)
        return self._popen.wait()

    def wait_for_port(self, port: int, within: float = 20.0) -> None:
        """Until something listens on 127.0.0.1:`port`. Raises Failed if the process ends first, or past the time."""
        self.wait_for(lambda: _listens(port), f"listen on port {port}", within)

    def wait_for(self, condition: Callable[[], bool], what: str, within: float = 20.0) -> None:
        """Until a condition on what the process does holds. Raises Failed if it ends first, or past the time."""
        deadline = time.monotonic() + within
        while not condition():
            if not self.running:
                raise Failed(f"{self.name} ended with {self._popen.returncode}; {self._said()}")
            if time.monotonic() > deadline:
                raise Failed(f"{self.name} doesn't {what} after {within:g} s; {self._said()}")
            time.sleep(0.02)

    def _said(self) -> str:
        lines = self.output().strip().splitlines()[-8:]
        return "it said: " + " | ".join(lines) if lines else "it said nothing"

    def __repr__(self) -> str:
        return f"<Process {self.name} pid={self.pid}{'' if self.running else ' ended'}>"


class Rack:
    """A temporary folder and the processes that work in it. When it is left, all of them are ended, the last first."""

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="sp-bench-", ignore_cleanup_errors=True)
        self.folder = Path(self._temporary.name)
        self.processes: list[Process] = []

    def start(
        self,
        name: str,
        command: Sequence[object],
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a program, each word of its command as text, and wait for its port if one is given. Raises Failed."""
        log = self.folder / f"{name}-{len(self.processes)}.log"
        become = [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid())]
        with log.open("wb") as file:
            popen = subprocess.Popen(
                [*become, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **(env or {})},
                # A Ctrl-C in the terminal is for the benchmark, which then ends them in order.
                start_new_session=True,
            )
        process = Process(name, popen, log)
        self.processes.append(process)
        if port is not None:
            process.wait_for_port(port)
        return process

    def run(self, name: str, command: Sequence[object], *, within: float) -> str:
        """Run a program to its end, and return what it printed. Raises Failed: exit code, time."""
        process = self.start(name, command)
        try:
            if process.wait(within) != 0:
                raise Failed(f"{name} ended with {process.wait(0)}: {process.output().strip()[-500:]}")
        finally:
            process.stop()
            self.processes.remove(process)
        return process.output()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self.processes):
            process.stop()
        self._temporary.cleanup()


def free_ports() -> Iterator[int]:
    """Ports of 127.0.0.1 that nobody uses, below those that the kernel gives to outgoing connections: a load that opens
    thousands of them would otherwise take a port between our look and the server's."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    tried = list(range(max(1024, first - 12_000), first))
    random.shuffle(tried)
    for port in tried:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


def cpu(pid: int | str) -> float:
    """Seconds of CPU, user and system, of one process (`self` for this one) and of its children that have ended.

    In ticks of 10 ms, as the kernel says it; 0 for one that has ended.
    """
    # The name in brackets may hold anything, spaces too; what follows has its place (proc(5)).
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _read(path: Path) -> str:
    """What the kernel says of a process; nothing if it has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _handle(pid: int) -> int | None:
    """Names this process for good, whoever gets its id later; None if it has ended."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
