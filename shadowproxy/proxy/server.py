"""The proxy as one thing: what is built from the settings, started, probed and drained."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from shadowproxy.certificates import CertificateWatch, listener_contexts, upstream_contexts
from shadowproxy.config import Address, Settings
from shadowproxy.model import Side
from shadowproxy.pairs.controls import Controls
from shadowproxy.proxy.acceptor import Acceptor
from shadowproxy.proxy.admission import Admission
from shadowproxy.proxy.arrivals import Arrivals
from shadowproxy.proxy.connector import Connector, Resolve, system_resolver
from shadowproxy.proxy.framing import RequestRules
from shadowproxy.proxy.gate import Gate, GateReading
from shadowproxy.proxy.listener import ClientConnection, Front
from shadowproxy.proxy.mirror import Mirror, PairRecorder
from shadowproxy.proxy.redact import guarded_headers
from shadowproxy.proxy.reserve import listen_error
from shadowproxy.proxy.trace import NewSpan
from shadowproxy.proxy.upstream import Observe, Pool
from shadowproxy.tasks import Tasks
from shadowproxy.tracing.context import derived_span

BACKLOG = 2048
_ACCEPT_TURNS = 3
"""Turns of the loop in which a connection that the kernel holds for us is accepted."""


class RandomIds:
    """Request ids of 32 hexadecimal digits (128 random bits); the kernel is asked for many at a time."""

    def __init__(self) -> None:
        self._ready: list[str] = []

    def __call__(self) -> str:
        """The next id."""
        if not self._ready:
            digits = os.urandom(16 * 256).hex()
            self._ready = [digits[at : at + 32] for at in range(0, len(digits), 32)]
        return self._ready.pop()


class ProxyServer:
    """Answers clients from the baseline, copies requests to the shadow sides, offers pairs to the recorder.

    `clock` gives Unix time, `monotonic` the seconds that durations are measured in, `new_id` ids for requests that come
    without one, `new_span` span ids for the copies of traced requests. `observer(side)` gives
    what is called once per exchange with that side (see `Observe`); it must be cheap and not raise.
    With `reuse_port` other processes of ours may listen on the same port. `resolve` looks up the hosts of upstreams.
    """

    def __init__(
        self,
        settings: Settings,
        recorder: PairRecorder,
        *,
        tasks: Tasks,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.perf_counter,
        new_id: Callable[[], str] | None = None,
        new_span: NewSpan = derived_span,
        observer: Callable[[Side], Observe] | None = None,
        resolve: Resolve = system_resolver,
        reuse_port: bool = False,
    ) -> None:
        self._settings = settings
        self._recorder = recorder
        self._tasks = tasks
        self._clock = clock
        self._monotonic = monotonic
        self._new_id = RandomIds() if new_id is None else new_id
        self._new_span = new_span
        self._observer = observer
        self._resolve = resolve
        self._acceptor: Acceptor | None = None
        self._certificates: CertificateWatch | None = None
        self._reuse_port = reuse_port
        self._pools: dict[Side, Pool] = {}
        self._front: Front | None = None
        self._server: asyncio.Server | None = None
        self._quiet = asyncio.Event()

    async def start(self) -> Address:
        """Listen. Returns the address that was bound; raises StartError where it can't be, or for a certificate."""
        loop = asyncio.get_running_loop()
        front = self._built()
        listen = self._settings.proxy.listen
        try:

            def protocol() -> Any:
                return ClientConnection(front)

            self._server = await loop.create_server(
                self._acceptor or protocol,
                listen.host or None,
                listen.port,
                backlog=BACKLOG,
                reuse_port=self._reuse_port,
            )
        except OSError as error:
            raise listen_error(listen, error) from None
        for pool in self._pools.values():
            pool.connector.start()
        if self._certificates is not None:
            self._certificates.start()
        host, port = self._server.sockets[0].getsockname()[:2]
        return Address(host, port)

    def _built(self) -> Front:
        if self._front is None:
            self._front = self._build(asyncio.get_running_loop())
        return self._front

    def _build(self, loop: asyncio.AbstractEventLoop) -> Front:
        settings, proxy = self._settings, self._settings.proxy
        upstreams = {
            Side.BASELINE: settings.baseline,
            Side.CANDIDATE: settings.candidate,
            Side.REPLICA: settings.replica,
        }
        tls = {
            side: upstream_contexts(side.value, upstream.tls, clock=self._clock)
            for side, upstream in upstreams.items()
            if upstream is not None and upstream.url.startswith("https:")
        }
        guarded = guarded_headers(proxy.redact)
        arrivals = Arrivals(loop, self._monotonic)
        pools = self._pools = {
            side: Pool(
                side,
                upstream,
                Connector(side, upstream, tls.get(side), loop=loop, tasks=self._tasks, resolve=self._resolve),
                capture=proxy.capture,
                guarded=guarded,
                new_span=self._new_span,
                loop=loop,
                tasks=self._tasks,
                monotonic=self._monotonic,
                arrivals=arrivals,
                observe=None if self._observer is None else self._observer(side),
            )
            for side, upstream in upstreams.items()
            if upstream is not None
        }
        # Half of the settling time is left to the recorder: a pair that is later than its bucket would not count.
        admission = Admission(proxy.mirror, settings.experiment, slow_upload=settings.verdict.settle / 2)
        mirror = Mirror(
            admission,
            pools[Side.BASELINE],
            [Gate(pool, proxy.mirror) for side, pool in pools.items() if side is not Side.BASELINE],
            self._recorder,
            marker_header=proxy.marker_header,
            emptied=self._check_quiet,
        )
        secure = listener_contexts(proxy.tls, clock=self._clock) if proxy.tls.certificate is not None else None
        self._certificates = CertificateWatch([*tls.values(), *([] if secure is None else [secure])], self._tasks)
        rules = RequestRules(
            proxy.limits,
            annotation_header=proxy.annotation_header,
            marker_header=proxy.marker_header,
            scheme=b"http" if secure is None else b"https",
            guarded=guarded,
        )
        front = Front(
            loop,
            proxy.limits,
            rules,
            pools[Side.BASELINE],
            mirror,
            max_body=min(proxy.mirror.max_body, proxy.limits.body),
            clock=self._clock,
            monotonic=self._monotonic,
            arrivals=arrivals,
            new_id=self._new_id,
            emptied=self._check_quiet,
        )
        if secure is not None:
            self._acceptor = Acceptor(
                loop,
                secure,
                lambda: ClientConnection(front),
                seconds=proxy.limits.header_timeout,
                most=proxy.limits.connections,
                emptied=self._check_quiet,
            )
        return front

    def control(self, controls: Controls) -> None:
        """From here on these controls are in force: a paused proxy only answers its clients."""
        self._built().mirror.control(controls)

    async def probe(self) -> dict[Side, str]:
        """For each upstream: empty if a connection can be made (with TLS, a handshake too), else why not."""
        self._built()
        pools = self._pools
        reasons = await asyncio.gather(*(pool.probe() for pool in pools.values()))
        return dict(zip(pools, reasons, strict=True))

    async def drain(self, grace: float) -> None:
        """Stop: accept nothing more, answer what is under way, let copies finish so that their pairs are recorded.

        Whatever outlives `grace` seconds is cut: clients by a reset, open pairs counted as dropped.
        """
        front = self._front
        if front is None:
            return
        if self._server is not None:
            # To a client, a connection that waits to be accepted is open: closing the listener would reset it.
            for _ in range(_ACCEPT_TURNS):
                await asyncio.sleep(0)
            self._server.close()
        if self._acceptor is not None:
            self._acceptor.drain()
        if self._certificates is not None:
            self._certificates.stop()
        front.drain()
        self._check_quiet()
        try:
            async with asyncio.timeout(grace):
                await self._quiet.wait()
        except TimeoutError:
            front.mirror.drop_open()
        if self._acceptor is not None:
            self._acceptor.close()
        front.close()
        for pool in self._pools.values():
            pool.close()

    def _check_quiet(self) -> None:
        """Called when the last connection or the last open pair is gone."""
        front = self._front
        accepting = self._acceptor is not None and self._acceptor.under_way
        if front is not None and front.draining and not front.connections and not front.mirror and not accepting:
            self._quiet.set()

    def read_certificates(self) -> None:
        """Read keys and certificates anew now, changed or not. Those that can't be used leave the old ones in force."""
        if self._certificates is not None:
            self._certificates.look_now()

    @property
    def addresses(self) -> Mapping[Side, tuple[int, int]]:
        """By upstream: addresses that are known, and how many of them are not put aside."""
        return {side: pool.connector.known for side, pool in self._pools.items()}

    @property
    def failed_lookups(self) -> Mapping[Side, int]:
        """By upstream: how often its host could not be resolved."""
        return {side: pool.connector.failed_lookups for side, pool in self._pools.items()}

    @property
    def failed_handshakes(self) -> Mapping[str, int]:
        """TLS handshakes with clients that failed, by why; empty where clients speak plain HTTP."""
        return {} if self._acceptor is None else self._acceptor.failures

    @property
    def in_flight(self) -> Mapping[Side, int]:
        """Exchanges under way, by upstream."""
        return {side: pool.in_flight for side, pool in self._pools.items()}

    @property
    def controls(self) -> Controls:
        """What was said at run time, and is in force."""
        return self._built().mirror.admission.controls

    @property
    def sample(self) -> float:
        """The share of requests that is mirrored where no route says otherwise; 0 while paused."""
        return self._built().mirror.admission.sample

    @property
    def gates(self) -> Mapping[Side, GateReading]:
        """What the copies cost, by shadow side."""
        return {} if self._front is None else {gate.side: gate.read() for gate in self._front.mirror.gates}

    @property
    def unapplied(self) -> Mapping[Side, Mapping[str, int]]:
        """Requests in which JSON fields could not be set, by upstream and by obstacle (see `overrides`)."""
        return {side: pool.shape.unapplied for side, pool in self._pools.items()}

    @property
    def connections(self) -> int:
        """Client connections that are open."""
        return 0 if self._front is None else len(self._front.connections)

    def __repr__(self) -> str:
        return f"<ProxyServer {self.connections} connections, {list(self._pools.values())}>"
