"""A whole proxy in memory, between upstreams that judge every byte, and the account that must balance at the end."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Self

from conformance import oracle
from conformance.network import Loop, Remote
from proxy.memory import MemoryRecorder

from shadowproxy.config import Settings
from shadowproxy.model import Outcome, Side
from shadowproxy.proxy.server import ProxyServer
from shadowproxy.tasks import Tasks

LONG = 1000.0
"""Seconds after which every timeout of the proxy has passed."""
MAX_BODY = 48
"""The scenes' cap of the mirror: longer bodies are streamed. Small, so that both ways are taken."""

Answer = Callable[["Service", oracle.Message], None]


def digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=6).hexdigest().encode()


def echo_body(message: oracle.Message) -> bytes:
    """What `echo` says: which request it was."""
    return b"%b %b %b" % (message.first, message.second, digest(message.body))


def echo(service: Service, message: oracle.Message) -> None:
    """Answers at once, with a body that names the request."""
    body = echo_body(message)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    service.send(head if message.first == b"HEAD" else head + body)


class Service(Remote):
    """One connection to an upstream: reads requests strictly and answers each when it is complete."""

    def __init__(self, upstream: Upstream) -> None:
        super().__init__()
        self.upstream = upstream
        self.room = upstream.room
        self.done = 0
        """Bytes of `got` that belong to complete requests."""
        upstream.connections.append(self)

    def changed(self) -> None:
        while self.done < len(self.got) and not self.end:
            raw = bytes(self.got[self.done :])
            try:
                message = oracle.read_request(raw)
                oracle.agrees(message, raw[: message.size])
            except oracle.IncompleteError:
                return
            except oracle.ViolationError as violation:
                self.upstream.violations.append(f"{violation} in {raw[:300]!r}")
                return
            self.done += message.size
            self.upstream.requests.append(message)
            self.upstream.answer(self, message)


class Upstream:
    """All connections to one upstream, and the requests that came complete, in order."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.room: int | None = None
        """Bytes that each connection takes, see `Remote`."""
        self.connections: list[Service] = []
        self.requests: list[oracle.Message] = []
        self.violations: list[str] = []

    @property
    def partial(self) -> list[Service]:
        """Connections that ended within a request."""
        return [one for one in self.connections if one.done < len(one.got)]


@functools.lru_cache(maxsize=64)
def _settings(section: str) -> Settings:
    return Settings.model_validate_json(section)


class Scene:
    """A proxy between clients and two upstreams. Use it as a context: its end checks what must hold in any case."""

    def __init__(
        self,
        baseline: Answer = echo,
        candidate: Answer = echo,
        *,
        mirror: dict[str, Any] | None = None,
        limits: dict[str, Any] | None = None,
        **section: Any,
    ) -> None:
        self.loop = Loop()
        self.baseline = Upstream(baseline)
        self.candidate = Upstream(candidate)
        self.loop.services = {81: lambda: Service(self.baseline), 82: lambda: Service(self.candidate)}
        self.recorder = MemoryRecorder()
        self.crashes: list[BaseException] = []
        self.observed: list[tuple[Side, Outcome]] = []
        self.clients: list[Remote] = []
        self._tasks = Tasks(lambda _name, crash: self.crashes.append(crash))
        proxy = {
            "listen": "127.0.0.1:8080",
            "mirror": {"max_body": MAX_BODY, **(mirror or {})},
            "limits": limits or {},
            **section,
        }
        settings = {"baseline": "http://127.0.0.1:81", "candidate": "http://127.0.0.1:82", "proxy": proxy}
        serial = itertools.count(1)
        self.server = ProxyServer(
            _settings(json.dumps(settings)),
            self.recorder,
            tasks=self._tasks,
            clock=self.loop.time,
            monotonic=self.loop.time,
            new_id=lambda: f"made-{next(serial)}",
            observer=lambda side: lambda outcome, _total, _request: self.observed.append((side, outcome)),
        )

    def __enter__(self) -> Self:
        self.loop.run_until_complete(self.server.start())
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            self.loop.close()

    def client(self) -> Remote:
        """A client that connects now."""
        remote = Remote()
        self.clients.append(remote)
        self.loop.connect(remote)
        return remote

    def ask(self, request: bytes) -> bytes:
        """What another client gets for one request."""
        remote = self.client()
        remote.send(request)
        self.loop.settle()
        return bytes(remote.got)

    def finish(self) -> None:
        """Every client leaves, every timeout passes, and the proxy stops."""
        for remote in self.clients:
            if not remote.end:
                remote.send_eof()
        self.loop.settle(LONG)
        remotes = [*self.clients, *self.baseline.connections, *self.candidate.connections]
        # By itself, without being stopped: a connection that is left now would be left for ever.
        assert self.server.connections == 0
        assert set(self.server.in_flight.values()) == {0}
        assert {remote.end for remote in remotes} <= {"closed", "reset"}, [remote.end for remote in remotes]
        assert not self.loop.timers
        self.loop.run_until_complete(self.server.drain(1.0))
        self.loop.run_until_complete(self._tasks.drain(1.0))
        account = self.recorder.ledger.snapshot()
        assert account.balanced, account
        assert not self.crashes, self.crashes
        assert not self.loop.errors, self.loop.errors
        assert not self.baseline.violations, self.baseline.violations
        assert not self.candidate.violations, self.candidate.violations
        assert len(self.recorder.pairs) == account.recorded


def pieces(data: bytes, mode: int) -> list[bytes]:
    """`data` cut up: 0 is whole, 1 byte by byte, any other number a random split of its own."""
    if mode == 0 or len(data) < 2:
        return [data] if data else []
    if mode == 1:
        return [data[at : at + 1] for at in range(len(data))]
    rng = random.Random(mode)
    # Often around line ends, where parsers keep state.
    likely = [at + shift for at, byte in enumerate(data) if byte in b"\r\n" for shift in (0, 1)]
    places = likely if likely and rng.random() < 0.5 else range(1, len(data))
    return cut(data, [rng.choice(places) for _ in range(rng.randint(1, 8))])


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` cut at each of `places`."""
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


def feed(scene: Scene, remote: Remote, parts: Sequence[bytes], *, settle: bool = True) -> None:
    """Send pieces: each after the proxy has done all it can with the one before, or all in successive reads."""
    for part in parts:
        remote.send(part)
        if settle:
            scene.loop.settle()
    scene.loop.settle()


def answers(data: bytes, methods: Sequence[bytes]) -> tuple[list[oracle.Message], bytes]:
    """The final responses that a client got, by the methods it asked with, and what is left of the bytes."""
    found = []
    for method in [*methods, b"GET"]:
        if not data:
            break
        _, final = oracle.read_response(data, method, ended=True)
        found.append(final)
        data = data[final.size :]
    return found, data
