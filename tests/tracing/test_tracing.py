"""Spans of mirrored requests as a collector gets them from a proxy that runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from proxy.harness import RawUpstream, answering, ask, echo, get, hang, post, reset, upstream
from servers import unique, until
from tracing.collector import collector, said

from shadowproxy.config import Address, Settings, experiment_id, loads
from shadowproxy.errors import ConfigError
from shadowproxy.model import Exchange, Outcome, Pair, Request, Side
from shadowproxy.pairs import EmbeddedServer
from shadowproxy.processes import run_proxy
from shadowproxy.tracing.context import read_traceparent
from shadowproxy.tracing.outbox import BATCH, Outbox
from shadowproxy.tracing.record import Picker, Traced

ROOT = Path(__file__).parent.parent.parent
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SECRET = "s3cr3t-0815"  # noqa: S105


def written(
    to: str | None, one: str, two: str, store: str, *, three: str | None = None, grace: float = 3.0, **tracing: Any
) -> str:
    return json.dumps(
        {
            "experiment": unique("tracing"),
            "baseline": one,
            "candidate": {"url": two, "deadline": "0.3s"},
            "replica": three,
            "routes": [{"name": "rank", "path": "/rank/*"}],
            "proxy": {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "grace": grace},
            "recorder": {"linger": "10ms"},
            "redis": {"url": store},
            "tracing": {"endpoint": to, "sample": 1.0, "headers": {"x-key": "${KEY}"}, **tracing},
        }
    )


@dataclass
class Running:
    address: Address
    admin: str
    stop: asyncio.Event
    ended: asyncio.Task[None]

    async def count(self, metric: str) -> float:
        async with aiohttp.ClientSession() as session, session.get(f"{self.admin}/metrics") as response:
            found = re.search(rf"^{re.escape(metric)} (\S+)$", await response.text(), re.MULTILINE)
        assert found, metric
        return float(found[1])

    async def counted(self, metric: str, least: float) -> None:
        async def there() -> bool:
            return await self.count(metric) >= least

        await until(there, metric)


@contextlib.asynccontextmanager
async def running(settings: str) -> AsyncIterator[Running]:
    stop = asyncio.Event()
    told: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
    chosen = loads(settings, environ={"KEY": SECRET})
    ended = asyncio.ensure_future(run_proxy(chosen, stop, lambda urls: told.set_result(dict(urls))))
    try:
        async with asyncio.timeout(20):
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                ended.result()
            urls = await told
        host, _, port = urls["proxy"].removeprefix("http://").rpartition(":")
        yield Running(Address(host, int(port)), urls["proxy_admin"], stop, ended)
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await ended


def tree(spans: list[Span]) -> tuple[Span, dict[str, Span]]:
    """The span of the request, and those under it by side."""
    (top,) = (span for span in spans if span.kind == Span.SPAN_KIND_SERVER)
    under = {said(span.attributes)["shadowproxy.side"]: span for span in spans if span is not top}
    assert all(span.parent_span_id == top.span_id for span in under.values())
    assert {span.trace_id for span in spans} == {top.trace_id}
    assert len({span.span_id for span in spans}) == len(spans)
    return top, under


def seconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9


def copied(one: RawUpstream) -> list[bytes]:
    return [got.get(b"traceparent")[0] for got in one.requests if got.get(b"traceparent")]


async def test_a_traced_request_has_a_span_and_one_for_each_upstream_under_it(valkey: EmbeddedServer) -> None:
    busy = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy"
    async with (
        upstream(echo) as one,
        upstream(answering(busy)) as two,
        upstream(echo) as three,
        collector() as taking,
        running(written(taking.url, one.url, two.url, valkey.url, three=three.url)) as proxy,
    ):
        began = time.time()
        request = post(
            b"{}",
            f"/rank/7?token={SECRET}",
            f"traceparent: 00-{TRACE}-{PARENT}-01",
            "tracestate: vendor=1",
            f"authorization: {SECRET}",
            "x-request-id: asked-1",
        )
        assert (await ask(proxy.address, request)).status == 200
        top, under = tree(await taking.has(4))
        assert top.trace_id.hex() == TRACE
        assert top.parent_span_id.hex() == PARENT
        assert top.trace_state == "vendor=1"
        assert set(under) == {"baseline", "candidate", "replica"}
        assert {span.kind for span in under.values()} == {Span.SPAN_KIND_CLIENT}
        # What the upstreams were told, as they read it off the wire: their own spans stand under the copies' spans, and
        # the baseline's, whose request nobody touches, beside ours.
        assert copied(one) == [f"00-{TRACE}-{PARENT}-01".encode()]
        assert copied(two) == [f"00-{TRACE}-{under['candidate'].span_id.hex()}-01".encode()]
        assert copied(three) == [f"00-{TRACE}-{under['replica'].span_id.hex()}-01".encode()]

        common = {
            "http.request.method": "POST",
            "shadowproxy.request_id": "asked-1",
            "shadowproxy.route": "rank",
        }
        assert top.name == "POST /rank/*"
        size = len(f"POST /rank/7?token={SECRET} HTTP/1.1\n{{}}")
        answered = {"http.response.status_code": 200, "http.response.body.size": size}
        assert said(top.attributes) == {**common, "url.path": "/rank/7", "http.route": "/rank/*", **answered}
        assert under["baseline"].name == "POST baseline"
        assert said(under["baseline"].attributes) == {
            **common,
            **answered,
            "server.address": "127.0.0.1",
            "server.port": one.port,
            "url.scheme": "http",
            "shadowproxy.side": "baseline",
            "shadowproxy.outcome": "ok",
        }
        failed = said(under["candidate"].attributes)
        assert (failed["http.response.status_code"], failed["error.type"]) == (503, "503")
        assert under["candidate"].status.code == Status.STATUS_CODE_ERROR
        assert top.status.code == under["baseline"].status.code == Status.STATUS_CODE_UNSET
        for span in (top, *under.values()):
            assert began <= span.start_time_unix_nano / 1e9 <= span.end_time_unix_nano / 1e9 <= time.time()
        for span in under.values():
            (first,) = span.events
            assert span.start_time_unix_nano <= first.time_unix_nano <= span.end_time_unix_nano

        assert taking.headers[0]["x-key"] == SECRET
        (resource,) = taking.resources
        assert resource["service.name"] == "shadowproxy"
        assert resource["shadowproxy.experiment"].startswith("tracing-")
        assert SECRET.encode() not in taking.raw
        await proxy.counted("shadowproxy_traced_requests_total", 1)


@pytest.mark.parametrize(
    ("traceparent", "sample", "traced"),
    [
        (f"00-{TRACE}-{PARENT}-00", 1.0, False),
        (f"00-{TRACE}-{PARENT}-03", 0.0, True),
        (f"cc-{TRACE}-{PARENT}-01-what", 0.0, True),
        (f"cc-{TRACE}-{PARENT}-02", 1.0, False),
        (f"ff-{TRACE}-{PARENT}-01", 0.0, False),
        ("", 0.0, False),
    ],
)
def test_a_clients_trace_goes_by_its_own_flag(traceparent: str, sample: float, *, traced: bool) -> None:
    head = b"Host: a" + (f"\r\nTraceParent: {traceparent}".encode() if traceparent else b"")
    picked = Picker(sample, {}, lambda: 2.0)(pair(head=head))
    assert (picked is not None) == traced
    if picked is not None:
        assert (picked.trace, picked.parent) == (TRACE.encode(), PARENT.encode())


def test_without_a_clients_trace_a_share_is_traced_and_always_the_same() -> None:
    pick = Picker(0.25, {}, lambda: 2.0)
    first, again = ([pick(pair(id=f"r{at}")) for at in range(4000)] for _ in range(2))
    assert first == again
    traced = [one for one in first if one is not None]
    # Four standard deviations of a binomial count.
    assert abs(len(traced) - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75)
    assert len({one.trace for one in traced}) == len(traced)
    assert Picker(0.0, {}, lambda: 2.0)(pair()) is None
    assert Picker(1.0, {}, lambda: 2.0)(pair()) is not None


def pair(*, id: str = "r", head: bytes = b"", candidate: Exchange | None = None) -> Pair:  # noqa: A002
    ok = Exchange(Outcome.OK, 200, ttfb=0.01, total=0.02)
    return Pair(id, 1.0, Request("GET", "/", head), ok, candidate or ok)


async def test_a_request_without_a_trace_gets_one_that_no_upstream_is_told_of(valkey: EmbeddedServer) -> None:
    async with (
        upstream(echo) as one,
        upstream(echo) as two,
        collector() as taking,
        running(written(taking.url, one.url, two.url, valkey.url)) as proxy,
    ):
        assert (await ask(proxy.address, get("/", "x-request-id: asked-2"))).status == 200
        top, under = tree(await taking.has(3))
        assert not top.parent_span_id
        assert set(under) == {"baseline", "candidate"}
        assert top.name == "GET"
        assert copied(one) == copied(two) == []


@pytest.mark.parametrize(("behaviour", "outcome"), [(hang, "timeout"), (reset, "reset"), (None, "connect")])
async def test_a_candidate_that_fails_has_a_span_that_says_so(
    behaviour: Any, outcome: str, valkey: EmbeddedServer
) -> None:
    async with upstream(echo) as one, upstream(behaviour or echo) as two, collector() as taking:
        url = two.url if behaviour else "http://127.0.0.1:9"
        async with running(written(taking.url, one.url, url, valkey.url)) as proxy:
            began = time.time()
            assert (await ask(proxy.address, get("/rank/1"))).status == 200
            top, under = tree(await taking.has(3))
            waited = time.time() - began
    failed = said(under["candidate"].attributes)
    assert failed["error.type"] == failed["shadowproxy.outcome"] == outcome
    assert "http.response.status_code" not in failed
    assert under["candidate"].status.code == Status.STATUS_CODE_ERROR
    assert under["candidate"].status.message
    # No longer than its deadline, and than it can have taken.
    assert 0 <= seconds(under["candidate"]) <= min(0.3, waited)
    if outcome == "timeout":
        assert seconds(under["candidate"]) == pytest.approx(0.3)
    # The client was answered by the baseline: nothing failed for it.
    assert top.status.code == Status.STATUS_CODE_UNSET
    assert seconds(top) == seconds(under["baseline"])


async def test_a_collector_that_hangs_harms_nobody(valkey: EmbeddedServer) -> None:
    async with (
        upstream(echo) as one,
        collector(None) as taking,
        running(written(taking.url, one.url, one.url, valkey.url, grace=1.0)) as proxy,
    ):
        for at in range(3):
            assert (await ask(proxy.address, get(f"/rank/{at}"))).status == 200
        await taking.has(asked=1)
        for at in range(3):
            assert (await ask(proxy.address, get(f"/rank/{at}"))).status == 200
        await proxy.counted("shadowproxy_recorded_total", 6)
        assert await proxy.count("shadowproxy_traced_requests_total") == 0
        proxy.stop.set()
        # Its grace is 1 s, and the collector's timeout 10.
        async with asyncio.timeout(6):
            await proxy.ended


@pytest.mark.parametrize("status", [400, None])
async def test_what_the_collector_does_not_take_is_counted(
    status: int | None, valkey: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with upstream(echo) as one, collector(status) as taking:
        settings = written(taking.url, one.url, one.url, valkey.url, timeout="200ms")
        async with running(settings) as proxy:
            for at in range(5):
                assert (await ask(proxy.address, get(f"/rank/{at}"))).status == 200
            await proxy.counted('shadowproxy_untraced_requests_total{reason="export_failed"}', 5)
            taking.status = 200
            assert (await ask(proxy.address, get("/rank/again"))).status == 200
            await taking.has(3)
            await proxy.counted("shadowproxy_traced_requests_total", 1)
    told = [record.getMessage() for record in caplog.records if "collector" in record.getMessage()]
    assert len(told) == 1
    assert "Failed to export spans batch" in told[0]


def protobuf_is_loaded(pid: int) -> bool:
    """By the libraries that the process has mapped."""
    return "google/_upb" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("traced", [True, False])
async def test_what_waits_is_sent_when_the_proxy_is_told_to_stop(
    tmp_path: Path, valkey: EmbeddedServer, *, traced: bool
) -> None:
    """A process of its own, as it is run. Without a collector it loads nothing of OpenTelemetry."""
    async with upstream(echo) as one, collector() as taking:
        config = tmp_path / "shadowproxy.yaml"
        config.write_text(written(taking.url if traced else None, one.url, one.url, valkey.url))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shadowproxy", "proxy", "--config", str(config)),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "KEY": SECRET},
        )
        try:
            async with asyncio.timeout(30):
                assert process.stdout is not None
                while not (found := re.search(rb"^proxy:? +http://127.0.0.1:(\d+)", await process.stdout.readline())):
                    assert process.returncode is None
                assert (await ask(Address("127.0.0.1", int(found[1])), get("/rank/1"))).status == 200
                assert protobuf_is_loaded(process.pid) == traced
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if traced:
            _, under = tree(taking.spans)
            assert set(under) == {"baseline", "candidate"}
        else:
            assert not taking.asked


class Blocked:
    """A sender that waits to be let go."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.go = threading.Event()
        self.batches: list[int] = []

    def __call__(self, requests: list[Traced]) -> str:
        self.batches.append(len(requests))
        self.go.wait(20)
        return ""

    def give_up(self) -> None:
        self.go.set()


def test_the_queue_is_bounded_and_what_it_has_no_room_for_is_counted() -> None:
    sender = Blocked()
    outbox = Outbox(Picker(1.0, {}, lambda: 2.0), sender, rate=10_000, clock=lambda: 0.0, most=2 * BATCH)
    for at in range(2 * BATCH + 5):
        outbox.offer(pair(id=f"r{at}"))
    assert (outbox.waiting, outbox.dropped["queue_full"]) == (2 * BATCH, 5)
    sender.go.set()
    outbox.start()
    outbox.close(20)
    assert sender.batches == [BATCH, BATCH]
    assert (outbox.sent, outbox.waiting) == (2 * BATCH, 0)


def test_what_is_not_sent_within_the_grace_is_given_up_and_counted() -> None:
    sender = Blocked()
    outbox = Outbox(Picker(1.0, {}, lambda: 2.0), sender, rate=1, clock=lambda: 0.0)
    outbox.offer(pair())
    outbox.start()
    outbox.close(0.05)
    assert outbox.dropped["shutdown"] == 1
    assert sender.go.is_set()


def test_no_more_than_the_rate_are_traced_in_a_second() -> None:
    now = [5.0]
    outbox = Outbox(Picker(0.5, {}, lambda: 2.0), Blocked(), rate=3, clock=lambda: now[0])
    offered = [pair(id=f"r{at}") for at in range(40)]
    wanted = sum(Picker(0.5, {}, lambda: 2.0)(one) is not None for one in offered)
    for one in offered:
        outbox.offer(one)
    # Those that were not sampled take nothing of it.
    assert (outbox.waiting, outbox.dropped["over_rate"]) == (3, wanted - 3)
    now[0] = 6.5
    outbox.offer(pair(head=f"traceparent: 00-{TRACE}-{PARENT}-01".encode()))
    assert outbox.waiting == 4


def test_settings() -> None:
    base: dict[str, Any] = {"baseline": "http://a:1", "candidate": "http://b:1"}
    made = Settings.model_validate(
        {**base, "tracing": {"endpoint": "http://c:4318/", "headers": {"Authorization": f"Bearer {SECRET}"}}}
    )
    assert made.tracing.endpoint == "http://c:4318/v1/traces"
    assert SECRET not in repr(made)
    given = Settings.model_validate({**base, "tracing": {"endpoint": "http://c:4318/otlp/v1/traces"}})
    assert given.tracing.endpoint == "http://c:4318/otlp/v1/traces"
    # Who is traced changes nothing that was counted.
    assert experiment_id(made) == experiment_id(Settings.model_validate(base))
    with pytest.raises(ConfigError, match=r"\$\.tracing\.endpoint"):
        loads(json.dumps({**base, "tracing": {"endpoint": "c:4317"}}), environ={})


def test_a_package_that_is_missing_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "shadowproxy.yaml"
    config.write_text(written("http://127.0.0.1:9", "http://127.0.0.1:9", "http://127.0.0.1:9", "redis://127.0.0.1:9"))
    code = (
        "import sys\nsys.modules['opentelemetry'] = None\n"
        f"sys.argv = ['shadowproxy', 'proxy', '--config', {str(config)!r}]\n"
        "from shadowproxy.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, "KEY": SECRET}
    )
    assert done.returncode == 2
    assert "pip install 'shadowproxy[otlp]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_versions_of_the_header() -> None:
    assert read_traceparent(f"00-{TRACE}-{PARENT}-01-more".encode()) is None
    later = read_traceparent(f"01-{TRACE}-{PARENT}-ff".encode())
    assert later is not None
    assert later.flags == 1


def test_sides_of_a_pair_are_all_told() -> None:
    shed = Exchange(Outcome.SHED, detail="breaker")
    picked = Picker(1.0, {Side.CANDIDATE: 0.5}, lambda: 9.0)(pair(candidate=shed))
    assert picked is not None
    assert [(one.side, one.seconds) for one in picked.exchanges] == [(Side.BASELINE, 0.02), (Side.CANDIDATE, 0.0)]
