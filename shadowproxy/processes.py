"""What each process is made of: the parts are built, started, and drained in order when a signal comes.

Every function here runs one process from its settings to its end, and returns when it is drained. The rooms that a
process doesn't need are not imported: a sidecar that only proxies never loads numpy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from shadowproxy import metrics
from shadowproxy.config import Settings, experiment_id, frozen
from shadowproxy.model import Side
from shadowproxy.tasks import Tasks

if TYPE_CHECKING:
    from shadowproxy.pairs.recorder import Recorder
    from shadowproxy.pairs.store import Store
    from shadowproxy.proxy.server import ProxyServer

log = logging.getLogger(__name__)

_LAST_WRITE = 2.0
"""Seconds that the store has for the last pairs where the clients have used up the grace: with the last word of the
recorder, less than what a supervisor adds to the grace before it kills."""

Announce = Callable[[Mapping[str, str]], None]
"""Told once, when everything listens: by name, where."""


@contextlib.contextmanager
def stop_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM or Ctrl-C sets. A second Ctrl-C ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def asked() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
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
async def open_store(settings: Settings) -> AsyncIterator[Store]:
    """The experiment's store, on the configured server or an embedded one that lives as long as this."""
    from shadowproxy.pairs.connect import resolve
    from shadowproxy.pairs.store import Store

    async with resolve(settings.redis) as url:
        store = await Store.open(url, experiment_id(settings), max_entries=settings.redis.max_entries)
        try:
            await store.experiment(orjson.dumps(frozen(settings), option=orjson.OPT_SORT_KEYS))
            yield store
        finally:
            await store.close()


async def run_proxy(settings: Settings, stop: asyncio.Event, announce: Announce) -> None:
    """The data plane. Returns when every accepted request is answered and every pair is written, or the grace is over.

    Raises StartError or StoreUnavailable where it can't begin.
    """
    from shadowproxy.pairs.ledger import Ledger
    from shadowproxy.pairs.recorder import Recorder
    from shadowproxy.proxy.redact import Redactor
    from shadowproxy.proxy.server import ProxyServer
    from shadowproxy.serve.admin import AdminServer

    tasks = Tasks()
    registry = metrics.registry()
    async with open_store(settings) as store:
        ledger = Ledger()
        redactor = Redactor(settings.proxy.redact)
        recorder = Recorder(store, settings.recorder, ledger, unique_name(), tasks, scrub=redactor)
        observed = metrics.ProxyMetrics(registry)
        server = ProxyServer(settings, recorder, tasks=tasks, observe=observed.observe)
        observed.watch(
            account=ledger.snapshot,
            in_flight=lambda: server.in_flight,
            connections=lambda: server.connections,
            waiting=lambda: (recorder.waiting_pairs, recorder.waiting_bytes),
        )
        observed.watch_edits(lambda: server.unapplied, lambda: redactor.left_out)

        async def ready() -> Mapping[str, str]:
            # Without the candidate the proxy still serves its clients, so only the baseline decides.
            return {"draining": "stopping" if stop.is_set() else "", "baseline": (await server.probe())[Side.BASELINE]}

        admin = AdminServer("proxy", registry, ready)
        admin_address = await admin.start(settings.proxy.admin, "$.proxy.admin")
        try:
            recorder.start()
            address = await server.start()
            for side, wrong in (await server.probe()).items():
                if wrong:
                    log.warning("%s is not reachable: %s; requests to it fail until it is", side.value, wrong)
            announce({"proxy": f"http://{address}", "proxy_admin": f"http://{admin_address}"})
            await stop.wait()
            await _drain(server, recorder, settings.proxy.grace)
            log.info("drained: %s", ledger.snapshot())
        finally:
            await tasks.cancel()
            await admin.stop()


async def _until_stop(stop: asyncio.Event, running: asyncio.Task[None], tasks: Tasks) -> None:
    """Wait for the stop; raises what ends `running` before it: a process without its work must end, and be seen to."""
    stopping = tasks.start(stop.wait(), name="stop")
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()


async def _drain(server: ProxyServer, recorder: Recorder, grace: float) -> None:
    """One grace for both: what the clients leave of it is the recorder's, and hardly ever less than _LAST_WRITE."""
    log.info("draining, for %.0f s at most", grace)
    clock = asyncio.get_running_loop().time
    until = clock() + grace
    await server.drain(grace)
    await recorder.drain(max(min(_LAST_WRITE, grace), until - clock()))


async def run_comparator(settings: Settings, stop: asyncio.Event, announce: Announce) -> None:
    """One comparator worker. Returns when it has counted what was in the stream at the stop."""
    from shadowproxy.comparator.worker import Worker
    from shadowproxy.compare.comparer import Comparer
    from shadowproxy.serve.admin import AdminServer
    from shadowproxy.verdict.plan import Plan

    tasks = Tasks()
    registry = metrics.registry()
    async with open_store(settings) as store:
        worker = Worker(
            store,
            Comparer(settings.routes),
            Plan(settings),
            metrics.ComparatorMetrics(registry),
            name=unique_name(),
            read=settings.comparator.read,
            claim_idle=settings.comparator.claim_idle,
            max_cohorts=settings.verdict.max_cohorts,
        )

        async def ready() -> Mapping[str, str]:
            return {"redis": "" if worker.connected else "not connected"}

        admin = AdminServer("comparator", registry, ready)
        admin_address = await admin.start(settings.comparator.admin, "$.comparator.admin")
        try:
            running = tasks.start(worker.run(), name="worker")
            announce({"comparator_admin": f"http://{admin_address}"})
            await _until_stop(stop, running, tasks)
            worker.stop()
            await asyncio.wait({running}, timeout=settings.comparator.grace)
            if running.done():
                running.result()
        finally:
            await tasks.cancel()
            await admin.stop()


async def run_api(settings: Settings, stop: asyncio.Event, announce: Announce) -> None:
    """The API: verdict, metrics, probes."""
    from shadowproxy.serve.admin import AdminServer
    from shadowproxy.serve.api import VerdictApi
    from shadowproxy.serve.reader import VerdictReader

    tasks = Tasks()
    registry = metrics.registry()
    async with open_store(settings) as store:
        api = VerdictApi(VerdictReader(store, settings), refresh=settings.serve.refresh)
        metrics.VerdictMetrics(registry, api.exported)
        admin = AdminServer("api", registry, api.ready, api.routes)
        address = await admin.start(settings.serve.listen, "$.serve.listen")
        try:
            await api.update()
            running = tasks.start(api.run(), name="verdict")
            announce({"api": f"http://{address}"})
            await _until_stop(stop, running, tasks)
        finally:
            await tasks.cancel()
            await admin.stop()


PROCESSES: Mapping[str, Callable[[Settings, asyncio.Event, Announce], Coroutine[Any, Any, None]]] = {
    "proxy": run_proxy,
    "compare": run_comparator,
    "serve": run_api,
}
