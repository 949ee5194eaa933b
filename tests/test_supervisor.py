"""The supervisor with real child processes: what dies comes back, what can't start takes everything with it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import aiohttp
import pytest
from servers import unique, until

from shadowproxy.children import PartFailed
from shadowproxy.config import load
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.supervisor import PARTS, Supervisor


def written(folder: Path, serve: str = "127.0.0.1:0") -> Path:
    path = folder / "shadowproxy.yaml"
    path.write_text(
        f"experiment: {unique('supervised')}\n"
        "baseline: http://127.0.0.1:9\ncandidate: http://127.0.0.1:9\n"
        'proxy: {listen: "127.0.0.1:0", admin: "127.0.0.1:0", grace: 1}\n'
        f'comparator: {{admin: "127.0.0.1:0", grace: 1}}\nserve: {{listen: "{serve}"}}\n'
    )
    return path


@contextlib.asynccontextmanager
async def supervised(config: Path, store: EmbeddedServer, names: Sequence[str] = PARTS) -> AsyncIterator[Supervisor]:
    """Running parts, all of which are gone afterwards."""
    supervisor = Supervisor(config, load(config), store.url)
    await supervisor.start(names)
    try:
        yield supervisor
    finally:
        await supervisor.stop()
        assert not any(alive(part.pid) for part in supervisor.parts.values())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def healthy(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def test_a_part_that_dies_is_started_again_and_the_others_go_on(tmp_path: Path, valkey: EmbeddedServer) -> None:
    async with supervised(written(tmp_path), valkey) as supervisor:
        before = {name: part.pid for name, part in supervisor.parts.items()}
        assert set(before) == set(PARTS)
        for name, key in (("proxy", "proxy_admin"), ("compare", "comparator_admin"), ("serve", "api")):
            os.kill(before[name], signal.SIGKILL)

            async def back(name: str = name, key: str = key) -> bool:
                again = supervisor.parts[name]
                return again.pid != before[name] and key in again.urls and await healthy(supervisor.urls[key])

            await until(back, f"another {name}", within=60)
            assert not alive(before[name])
        # Each was started again once: what went on was left alone.
        assert await healthy(supervisor.urls["proxy_admin"])
        assert len({part.pid for part in supervisor.parts.values()} | set(before.values())) == 2 * len(PARTS)


async def test_a_part_that_hangs_when_it_is_started_again_is_not_waited_for_for_ever(
    tmp_path: Path, valkey: EmbeddedServer
) -> None:
    async with supervised(written(tmp_path), valkey, ["serve"]) as supervisor:
        first = supervisor.parts["serve"].pid
        supervisor._ready_within = 2.0  # enough to be stopped in, and no longer than the test should take
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.parts["serve"].pid != first, "another part")
        hanging = supervisor.parts["serve"].pid
        os.kill(hanging, signal.SIGSTOP)
        supervisor._ready_within = 30.0
        try:

            async def back() -> bool:
                part = supervisor.parts["serve"]
                return part.pid != hanging and "api" in part.urls and await healthy(part.urls["api"])

            await until(back, "a part that does not hang", within=60)
            assert not alive(hanging)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(hanging, signal.SIGCONT)


async def test_where_one_part_cannot_start_none_is_left(tmp_path: Path, valkey: EmbeddedServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        host, port = taken.getsockname()
        config = written(tmp_path, f"{host}:{port}")
        supervisor = Supervisor(config, load(config), valkey.url)
        with pytest.raises(PartFailed, match="serve"):
            await supervisor.start()
    assert set(supervisor.parts) == set(PARTS)
    assert not any(alive(part.pid) for part in supervisor.parts.values())
