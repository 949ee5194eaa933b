"""What each process is made of: the parts are built, started, and drained in order when a signal comes.

Every function here runs one process from its settings to its end, and returns when it is drained. The rooms that a
process doesn't need are not imported: a sidecar that only proxies never loads numpy.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, get_args

import orjson

from shadowproxy import metrics
from shadowproxy.children import Stop, on_hangup
from shadowproxy.config import Settings, experiment_id, exposures, frozen
from shadowproxy.errors import StoreUnavailable
from shadowproxy.model import Side
from shadowproxy.tasks import Pauses, Tasks, watch_lag
from shadowproxy.tasks import end as end_tasks

if TYPE_CHECKING:
    from shadowproxy.pairs.partitions import Partitions
    from shadowproxy.pairs.recorder import Recorder
    from shadowproxy.proxy.server import ProxyServer
    from shadowproxy.tracing.outbox import Outbox

log = logging.getLogger(__name__)

_COLLECT_EVERY = 20_000
"""Objects made and not freed after which a proxy or a comparator looks for cycles among them."""
_SWITCH_AFTER = 0.0005
"""Seconds after which a thread, such as that which redacts and packs, gives way to the loop: Python's own 5 ms would
be seen in clients' latency."""
_LAST_WRITE = 2.0
"""Seconds that the store has for the last pairs where the clients have used up the grace: with the last word of the
recorder, less than what a supervisor adds to the grace before it kills."""

EXIT_AT_ONCE = 130
"""As a shell has it for Ctrl-C."""
_STORE_FIRST, _STORE_MOST = 0.5, 4.0
"""Seconds between attempts to reach a store that was away when the process started."""

Announce = Callable[[Mapping[str, str]], None]
"""Told once, when everything listens: by name, where."""


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """An event that SIGTERM or Ctrl-C sets. A second Ctrl-C, or SIGQUIT, ends the process at once.

    So does no second SIGTERM: an init system sends it to every process of a service, and then a supervisor does again.
    """
    loop = asyncio.get_running_loop()
    stop = Stop()

    def interrupted() -> None:
        if stop.is_set():
            at_once()
        stop.set()

    def at_once() -> None:
        # By now loaded, if there is a server to end.
        from shadowproxy.pairs.embedded import end_owned

        for end in (*stop.at_once, end_owned):
            end()
        os._exit(EXIT_AT_ONCE)

    handlers = {signal.SIGTERM: stop.set, signal.SIGINT: interrupted, signal.SIGQUIT: at_once}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield stop
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


def watch_parent(stop: asyncio.Event, tasks: Tasks) -> None:
    """Where a supervisor holds our standard input open, its end means that the supervisor is gone: then stop."""

    async def watch() -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        try:
            await reader.read()
            log.warning("the supervisor is gone; stopping")
            stop.set()
        finally:
            transport.close()

    tasks.start(watch(), name="parent")


def unique_name() -> str:
    """A name that no other process of the experiment has: workers hold state and entries under it."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


@contextlib.asynccontextmanager
async def open_store(settings: Settings, patience: Tasks | None = None) -> AsyncIterator[Partitions]:
    """The experiment's store, on the configured server or an embedded one that lives as long as this.

    Raises StoreUnavailable where that can't be reached; with `patience` it is yielded all the same, and tried again in
    a task until it can.
    """
    from shadowproxy.pairs.connect import resolve

    async with resolve(settings.redis) as url:
        store = _partitions(settings, url)
        description = orjson.dumps(frozen(settings), option=orjson.OPT_SORT_KEYS)
        try:
            try:
                await _introduce(store, description)
            except StoreUnavailable as error:
                if patience is None:
                    raise
                log.warning("%s; it is tried again, and pairs wait for it", error)
                patience.start(_introduce_later(store, description), name="store")
            yield store
        finally:
            await store.close()


@contextlib.asynccontextmanager
async def open_to_look(settings: Settings) -> AsyncIterator[Partitions]:
    """The experiment's store for people to look at: as `open_store`, but nothing is written, and nothing asked yet."""
    from shadowproxy.pairs.connect import resolve

    async with resolve(settings.redis) as url, _partitions(settings, url) as store:
        yield store


def _partitions(settings: Settings, url: str) -> Partitions:
    from shadowproxy.pairs.partitions import Partitions

    return Partitions.at(
        url,
        experiment_id(settings),
        partitions=settings.redis.partitions,
        max_entries=settings.redis.max_entries,
        max_bytes=settings.redis.max_bytes,
        keep=settings.redis.keep,
        max_labels=settings.redis.max_labels,
    )


async def _introduce(store: Partitions, description: bytes) -> None:
    await store.prepare()
    await store.home.experiment(description)


async def _introduce_later(store: Partitions, description: bytes) -> None:
    pauses = Pauses(_STORE_FIRST, _STORE_MOST)
    while True:
        await asyncio.sleep(pauses.after_failure())
        with contextlib.suppress(StoreUnavailable):
            await _introduce(store, description)
            return


async def run_proxy(settings: Settings, stop: asyncio.Event, announce: Announce, *, reuse_port: bool = False) -> None:
    """The data plane. Returns when every accepted request is answered and every pair is written, or the grace is over.

    With `reuse_port` it is one of several that listen on the same port.

    Raises StartError or StoreUnavailable where it can't begin.
    """
    from shadowproxy.pairs.controls import Watcher
    from shadowproxy.pairs.journal import Journal
    from shadowproxy.pairs.ledger import Ledger
    from shadowproxy.pairs.recorder import Recorder
    from shadowproxy.pairs.spool import spool_of
    from shadowproxy.proxy.redact import Redactor
    from shadowproxy.proxy.server import ProxyServer
    from shadowproxy.serve.admin import AdminServer

    tasks = Tasks()
    registry = metrics.registry()
    outbox = _outbox(settings, registry)
    spool = spool_of(settings.recorder.spool, settings.redis.data_dir, experiment_id(settings))
    # A first start with a store that can't be reached is a mistake in the settings, likely. A start after a proxy that
    # died is not: its clients are waiting, and must not wait for the store.
    follows = spool is not None and spool.has_producers()
    async with open_store(settings, tasks if follows else None) as store:
        ledger = Ledger()
        redactor = Redactor(settings.proxy.redact)
        recorder = Recorder(
            store,
            settings.recorder,
            ledger,
            unique_name(),
            tasks,
            spool=spool,
            scrub=redactor if outbox is None else outbox.after(redactor),
            at_once=redactor.light,
        )
        observed = metrics.ProxyMetrics(registry)
        server = ProxyServer(settings, recorder, tasks=tasks, observer=observed.observer, reuse_port=reuse_port)
        observed.watch(
            account=ledger.snapshot,
            in_flight=lambda: server.in_flight,
            connections=lambda: server.connections,
            waiting=lambda: (recorder.waiting_pairs, recorder.waiting_bytes),
            spooled=lambda: (*recorder.spooled, recorder.adopted_pairs),
            most=(settings.recorder.max_bytes, settings.recorder.spool.max_bytes),
        )
        observed.watch_edits(lambda: server.unapplied, lambda: redactor.left_out)
        observed.watch_network(
            addresses=lambda: server.addresses,
            failed_lookups=lambda: server.failed_lookups,
            failed_handshakes=lambda: server.failed_handshakes,
        )

        metrics.MirrorMetrics(registry, lambda: _mirroring(server))
        watcher = Watcher(store.home, recorder.producer, server.control)

        async def ready() -> Mapping[str, str]:
            # Without the candidate the proxy still serves its clients, so only the baseline decides.
            return {"draining": "stopping" if stop.is_set() else "", "baseline": (await server.probe())[Side.BASELINE]}

        admin = AdminServer("proxy", registry, ready)
        admin_address = await admin.start(settings.proxy.admin, "$.proxy.admin")
        try:
            # Before the first request: a proxy that starts while mirroring is paused mirrors nothing.
            await watcher.begin()
            watching = tasks.start(watcher.run(), name="controls")
            # For whoever takes the spool over if we are killed; without one nobody will.
            journal = None if spool is None else Journal.of(recorder.producer, ledger)
            recorder.start()
            if outbox is not None:
                outbox.start()
            address = await server.start()
            _favour_the_loop()
            tasks.start(watch_lag(observed.lag.observe), name="loop lag")
            for side, wrong in (await server.probe()).items():
                if wrong:
                    log.warning("%s is not reachable: %s; requests to it fail until it is", side.value, wrong)
            scheme = "http" if settings.proxy.tls.certificate is None else "https"
            with on_hangup(settings.tls_files, server.read_certificates):
                announce({"proxy": f"{scheme}://{address}", "proxy_admin": f"http://{admin_address}"})
                await stop.wait()
                await _drain(server, recorder, outbox, settings.proxy.grace)
            if journal is not None:
                journal.remove()
            # Not before: what drains is still mirrored, or not, as people say.
            await end_tasks([watching])
            await watcher.leave()
            log.info("drained: %s", ledger.snapshot())
        finally:
            await tasks.cancel()
            await admin.stop()


def _mirroring(server: ProxyServer) -> metrics.MirrorReading:
    return metrics.MirrorReading(
        paused=server.controls.silent,
        sample=server.sample,
        sides={
            side: metrics.ShadowReading(
                breaker=gate.breaker.value,
                transitions={state.value: count for state, count in gate.transitions.items()},
                held=gate.held,
                shed=gate.shed,
            )
            for side, gate in server.gates.items()
        },
    )


def _favour_the_loop() -> None:
    """Before the first request: clients' answers come first from here on."""
    _collect_seldom()
    sys.setswitchinterval(_SWITCH_AFTER)


def _collect_seldom() -> None:
    """What was loaded by now stays: the collector need not walk through it again and again.

    The objects of a request, or of a batch of pairs, are freed by their counts; few form cycles, so looking for those
    less often costs little memory. It is 15% of what comparing a batch costs.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_EVERY, 50, 50)


async def _until_stop(stop: asyncio.Event, running: set[asyncio.Task[None]], tasks: Tasks) -> None:
    """Wait for the stop; raises what ends one of `running` before it: a process without its work must end, and be seen
    to."""
    stopping = tasks.start(stop.wait(), name="stop")
    done, _ = await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    for ended in done & running:
        ended.result()


def _outbox(settings: Settings, registry: metrics.Registry) -> Outbox | None:
    """What sends spans, where the settings name a collector."""
    if settings.tracing.endpoint is None:
        return None
    # Not before: OpenTelemetry takes half as much memory as all else in this process.
    from shadowproxy.tracing.outbox import Outbox
    from shadowproxy.tracing.record import Picker
    from shadowproxy.tracing.spans import OtlpSender

    picker = Picker(
        settings.tracing.sample, {side: one.deadline for side, one in settings.upstreams.items()}, time.time
    )
    outbox = Outbox(picker, OtlpSender(settings), rate=settings.tracing.rate, clock=time.monotonic)
    metrics.TracingMetrics(registry, lambda: outbox.sent, lambda: outbox.dropped)
    return outbox


async def _drain(server: ProxyServer, recorder: Recorder, outbox: Outbox | None, grace: float) -> None:
    """One grace for all: what the clients leave of it is the recorder's, and hardly ever less than _LAST_WRITE; what
    that leaves is for the last spans."""
    log.info("draining, for %.0f s at most", grace)
    clock = asyncio.get_running_loop().time
    until = clock() + grace
    await server.drain(grace)
    await recorder.drain(max(min(_LAST_WRITE, grace), until - clock()))
    if outbox is not None:
        await asyncio.to_thread(outbox.close, max(0.0, until - clock()))


async def run_comparator(settings: Settings, stop: asyncio.Event, announce: Announce) -> None:
    """One worker for each partition. Returns when they have counted what was in the streams at the stop."""
    from shadowproxy.comparator.worker import Worker
    from shadowproxy.compare.comparer import Comparer
    from shadowproxy.compare.extraction.bodies import BodyFault
    from shadowproxy.compare.families.failures import KINDS
    from shadowproxy.compare.versions import VersionReader
    from shadowproxy.pairs.partitions import Watermarks
    from shadowproxy.serve.admin import AdminServer
    from shadowproxy.verdict.exemplars import Limits
    from shadowproxy.verdict.plan import Plan

    tasks = Tasks()
    registry = metrics.registry()
    async with open_store(settings) as store:
        watermarks = Watermarks(len(store.stores))
        counted = metrics.ComparatorMetrics(registry, kinds=KINDS, faults=get_args(BodyFault))
        comparer, plan, name = Comparer(settings.routes), Plan(settings), unique_name()
        header = settings.verdict.version_header
        versions = None if header is None else VersionReader(header)
        kept = settings.comparator
        exemplars = Limits(kept.worst, kept.sample, kept.exemplar_bytes // len(store.stores))
        workers = [
            Worker(
                partition,
                comparer,
                plan,
                counted,
                name=name,
                read=settings.comparator.read,
                claim_idle=settings.comparator.claim_idle,
                max_cohorts=settings.verdict.max_cohorts,
                home=store.home,
                watermarks=watermarks,
                versions=versions,
                exemplars=exemplars,
            )
            for partition in store.stores
        ]
        counted.late.set_function(lambda: sum(worker.late for worker in workers))

        async def ready() -> Mapping[str, str]:
            return {"redis": "" if all(worker.connected for worker in workers) else "not connected"}

        admin = AdminServer("comparator", registry, ready)
        admin_address = await admin.start(settings.comparator.admin, "$.comparator.admin")
        try:
            _collect_seldom()
            running = {tasks.start(worker.run(), name=repr(worker)) for worker in workers}
            announce({"comparator_admin": f"http://{admin_address}"})
            await _until_stop(stop, running, tasks)
            for worker in workers:
                worker.stop()
            done, _ = await asyncio.wait(running, timeout=settings.comparator.grace)
            for worked in done:
                worked.result()
        finally:
            await tasks.cancel()
            await admin.stop()


async def run_api(settings: Settings, stop: asyncio.Event, announce: Announce) -> None:
    """The API and the page: verdict, metrics, probes."""
    from shadowproxy.certificates import CertificateWatch, listener_contexts
    from shadowproxy.serve.api.verdict import VerdictApi
    from shadowproxy.serve.reader import VerdictReader
    from shadowproxy.serve.server import api_server

    tasks = Tasks()
    registry = metrics.registry()
    tls = settings.serve.tls
    secure = None if tls.certificate is None else listener_contexts(tls, clock=time.time, where="serve.tls")
    for warning in exposures(settings.serve):
        log.warning("%s", warning)
    async with open_store(settings) as store:
        reader = VerdictReader(store, settings)
        api = VerdictApi(reader, refresh=settings.serve.refresh)
        admin = api_server(settings, store, reader, api, registry, secure)
        address = await admin.start(settings.serve.listen, "$.serve.listen")
        try:
            await api.update()
            running = tasks.start(api.run(), name="verdict")
            watch = CertificateWatch([] if secure is None else [secure], tasks)
            watch.start()
            with on_hangup(secure is not None, watch.look_now):
                announce({"api": f"{'http' if secure is None else 'https'}://{address}"})
                await _until_stop(stop, {running}, tasks)
        finally:
            await tasks.cancel()
            await admin.stop()
