"""Real clients before real upstreams: what a client gets through the proxy is what it gets without it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx
import pytest
from conformance import contract
from conformance.clients import CLIENTS, Call, Client, Reply
from conformance.conftest import Services
from programs import program
from proxy.harness import Running, ask, client, get, proxy, read_response, talk

from shadowproxy.config import Address
from shadowproxy.model import Pair

UPSTREAMS = ("nginx", "uvicorn", "aiohttp")
EVERYTHING = {"methods": ["GET", "HEAD", "POST", "PUT", "DELETE"], "max_body": "16MB"}
OF_A_HOP = {"connection", "keep-alive", "transfer-encoding", "date", "server"}

POSTED = bytes(range(256)) * 40
CASES = {
    "GET": Call("GET", "/echo?a=1"),
    "HEAD": Call("HEAD", "/echo"),
    "HEAD of a file": Call("HEAD", "/file"),
    "HEAD of chunks": Call("HEAD", "/chunked"),
    "POST": Call("POST", "/echo", POSTED),
    "POST of nothing": Call("POST", "/echo", b""),
    "POST in chunks": Call("POST", "/echo", POSTED, chunked=True),
    "POST that expects": Call("POST", "/echo", POSTED, headers=(("Expect", "100-continue"),)),
    "PUT of 8 MB": Call("PUT", "/echo", contract.file()),
    "PUT of 8 MB in chunks": Call("PUT", "/echo", contract.file(), chunked=True),
    "GET of 8 MB": Call("GET", "/file"),
    "GET of chunks": Call("GET", "/chunked"),
    "GET of what is packed": Call("GET", "/gzip"),
    "DELETE": Call("DELETE", "/echo"),
    "204": Call("GET", "/status/204"),
    "304": Call("GET", "/status/304"),
    "404": Call("GET", "/status/404"),
    "500": Call("GET", "/status/500"),
    "redirect": Call("GET", "/redirect"),
    "cookies": Call("GET", "/cookies"),
}
TARGETS = (
    "/echo/a%2Fb%2fc",
    "/echo//a///b/",
    "/echo/a;b=c;d",
    "/echo?a=b?c",
    "/echo??",
    "/echo?a=%20+%ZZ&a=&&=b",
    "/echo/./a/../b",
    "/echo/~!$&'()*+,=:@",
    "/echo/%00%ff",
    "/echo/\xc3\xa9?\xe9",
    "/echo?[]|\\^`{}",
)


def address_of(url: str) -> Address:
    parts = urlsplit(url)
    return Address(parts.hostname or "", parts.port or 80)


def lasting(reply: Reply) -> Counter[tuple[str, str]]:
    """The headers that a proxy has to pass on."""
    return Counter(pair for pair in reply.headers if pair[0] not in OF_A_HOP)


def check_same(got: Reply, direct: Reply, call: Call) -> None:
    assert got.status == direct.status
    assert got.get("set-cookie") == direct.get("set-cookie")
    if not call.target.startswith("/echo"):
        assert got.body == direct.body
        assert lasting(got) == lasting(direct)
    elif call.method != "HEAD" and got.status == 200:
        ours, theirs = json.loads(got.body), json.loads(direct.body)
        assert {**ours, "headers": 0} == {**theirs, "headers": 0}
        assert (ours["method"], ours["digest"]) == (call.method, contract.digest(call.body or b""))


def check_copied(pair: Pair, call: Call) -> None:
    """The candidate got the same request, and its answer was recorded."""
    first, second = pair.baseline, pair.candidate
    assert (first.outcome, first.status, first.detail) == (second.outcome, second.status, second.detail)
    if not call.target.startswith("/echo") or call.method == "HEAD" or first.status != 200:
        assert first.body == second.body
        return
    ours, theirs = json.loads(first.body), json.loads(second.body)
    theirs["headers"].remove(["x-shadow-request", "1"])
    assert ours == theirs


@contextlib.asynccontextmanager
async def before(url: str) -> AsyncIterator[Running]:
    """A proxy whose baseline and candidate are both the service at `url`."""
    async with proxy(url, url, mirror=EVERYTHING, capture="16MB", limits={"target": 9000}) as running:
        yield running


@pytest.fixture(params=CLIENTS)
def one(request: pytest.FixtureRequest) -> Client:
    return CLIENTS[request.param]


@pytest.fixture(params=UPSTREAMS)
def url(request: pytest.FixtureRequest, services: Services) -> str:
    return str(getattr(services, request.param))


@pytest.mark.parametrize("name", CASES)
async def test_a_client_gets_what_it_would_get_without_the_proxy(one: Client, url: str, name: str) -> None:
    call = CASES[name]
    if not one.chunks:
        # HTTP/1.0 has neither chunks nor expectations.
        call = Call(call.method, call.target, call.body)
    (direct,), _ = await one.ask(address_of(url), [call])
    async with before(url) as running:
        (got,), _ = await one.ask(running.address, [call])
        check_same(got, direct, call)
        check_copied((await running.recorded(1))[0], call)
    expected = {
        "/file": contract.file(),
        "/chunked": b"".join(contract.PIECES),
        "/gzip": contract.PACKED,
        **{f"/status/{status}": body for status, body in contract.STATUSES.items()},
    }
    if call.method == "GET" and call.target in expected:
        assert got.body == expected[call.target]
    if name == "redirect":
        assert (got.status, got.get("location")) == (302, [contract.ELSEWHERE])
    if name == "cookies":
        assert got.get("set-cookie") == list(contract.COOKIES)


@pytest.mark.parametrize("name", [name for name, client in CLIENTS.items() if client.exact])
async def test_targets_arrive_byte_for_byte(name: str, url: str) -> None:
    one = CLIENTS[name]
    calls = [Call("GET", target) for target in TARGETS]
    direct = [(await one.ask(address_of(url), [call]))[0][0] for call in calls]
    async with before(url) as running:
        for call, expected in zip(calls, direct, strict=True):
            (got,), _ = await one.ask(running.address, [call])
            check_same(got, expected, call)
        # A pair is recorded when its copy is answered, which may be after the next one's.
        pairs = sorted(await running.recorded(len(calls)), key=lambda pair: pair.started)
        for pair, call in zip(pairs, calls, strict=True):
            check_copied(pair, call)
            if name == "raw":
                assert pair.request.target == call.target


@pytest.mark.parametrize("name", [name for name, client in CLIENTS.items() if client.version == "1.1"])
async def test_a_hundred_requests_use_one_connection(name: str, url: str) -> None:
    calls = [
        Call("POST", f"/echo?{number}", b"x" * number) if number % 2 else Call("GET", f"/echo?{number}")
        for number in range(100)
    ]
    async with before(url) as running:
        replies, connections = await CLIENTS[name].ask(running.address, calls)
        assert connections == 1
        for number, reply in enumerate(replies):
            content = json.loads(reply.body)
            assert content["target"] == f"/echo?{number}"
            assert content["size"] == (number if number % 2 else 0)
        await running.recorded(100)


async def test_http_1_0_keeps_its_connection_only_if_it_says_so(url: str) -> None:
    async with before(url) as running:
        answer = await talk(running.address, b"GET /chunked HTTP/1.0\r\n\r\n")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"chunked" not in head.lower()
        assert body == b"".join(contract.PIECES)
        async with client(running.address) as (reader, writer):
            for _ in range(3):
                writer.write(b"GET /cookies HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                response = await read_response(reader)
                assert (response.status, response.get(b"connection")) == (200, [b"keep-alive"])
        await running.recorded(4)


async def test_an_upstream_that_keeps_connections_for_three_requests_loses_none(services: Services) -> None:
    async with before(services.short) as running:
        for name in ("curl", "aiohttp", "httpx", "requests", "raw"):
            calls = [Call("POST" if number % 3 == 0 else "GET", f"/{name}/{number}") for number in range(60)]
            replies, connections = await CLIENTS[name].ask(running.address, calls)
            assert connections == 1
            for number, reply in enumerate(replies):
                assert reply.body.endswith(f"of /{name}/{number}".encode())
        pairs = await running.recorded(300)
        assert {(pair.baseline.status, pair.candidate.status) for pair in pairs} == {(200, 200)}


class Stream:
    """The bytes of an event stream as a client gets them."""

    def __init__(self, read: Any) -> None:
        self._read = read
        self._got = b""

    async def until(self, event: bytes) -> None:
        async with asyncio.timeout(20):
            while event not in self._got:
                piece = await self._read()
                assert piece, self._got
                self._got += piece


@contextlib.asynccontextmanager
async def streaming(name: str, address: str) -> AsyncIterator[Stream]:
    async with contextlib.AsyncExitStack() as stack:
        if name == "curl -N":
            process = await asyncio.create_subprocess_exec(
                program("curl"), "-q", "-sSN", "--globoff", "--max-time", "30", address, stdout=subprocess.PIPE
            )
            stack.push_async_callback(process.wait)
            assert process.stdout is not None
            stdout = process.stdout
            yield Stream(lambda: stdout.read(1000))
        elif name == "aiohttp":
            session = await stack.enter_async_context(aiohttp.ClientSession())
            response = await stack.enter_async_context(session.get(address))
            yield Stream(response.content.readany)
        else:
            client_ = await stack.enter_async_context(httpx.AsyncClient(timeout=30, trust_env=False))
            reply = await stack.enter_async_context(client_.stream("GET", address))
            pieces = reply.aiter_raw()
            yield Stream(lambda: anext(pieces))


@pytest.mark.parametrize("name", ["curl -N", "aiohttp", "httpx"])
async def test_each_event_arrives_before_the_next_is_made(name: str, url: str, request: pytest.FixtureRequest) -> None:
    key = hashlib.sha256(request.node.name.encode()).hexdigest()
    async with before(url) as running:
        async with streaming(name, f"http://{running.address}/sse?{key}") as stream:
            for number in range(contract.EVENTS):
                await stream.until(contract.event(number))
                if number < contract.EVENTS - 1:
                    # Past the proxy: it is the upstream that is told to go on.
                    assert (await ask(address_of(url), get(f"/release?{key}"))).body == b"released"
        pair = (await running.recorded(1))[0]
        whole = b"".join(map(contract.event, range(contract.EVENTS)))
        assert pair.baseline.body == pair.candidate.body == whole


@pytest.mark.parametrize("name", ["raw", "curl", "aiohttp", "httpx"])
async def test_early_hints_are_passed_on_and_do_no_harm(name: str, services: Services) -> None:
    async with before(services.aiohttp) as running:
        (reply,), _ = await CLIENTS[name].ask(running.address, [Call("GET", "/early")])
        assert (reply.status, reply.body) == (200, b"late")
        async with client(running.address) as (reader, writer):
            writer.write(get("/early"))
            for link in (b"a", b"b"):
                hint = await read_response(reader)
                assert (hint.status, hint.get(b"link")) == (103, [b"</%b.css>; rel=preload" % link])
            assert (await read_response(reader)).body == b"late"
        assert {pair.candidate.body for pair in await running.recorded(2)} == {b"late"}


async def test_what_a_client_unpacks_by_itself_stays_packed_on_the_way(url: str, services: Services) -> None:
    async with before(url) as running:
        command = [program("curl"), "-q", "-sS", "--compressed", f"http://{running.address}/gzip"]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        out, _ = await process.communicate()
        assert out == b"a body that is packed " * 200
        async with httpx.AsyncClient(trust_env=False) as session:
            assert (await session.get(f"http://{running.address}/gzip")).content == out
        pairs = await running.recorded(2)
        assert {pair.candidate.body for pair in pairs} == {contract.PACKED}
        if url == services.nginx:
            # nginx packs as it sends, in chunks.
            process = await asyncio.create_subprocess_exec(
                *command[:-1], command[-1][:-4] + "packed", stdout=subprocess.PIPE
            )
            assert (await process.communicate())[0] == b"a body to be packed " * 5000
            assert b"gzip" in (await running.recorded(3))[-1].baseline.head


@pytest.mark.parametrize("posting", [False, True])
async def test_h2load_sees_every_request_succeed(url: str, posting: bool, tmp_path: Any) -> None:
    program("h2load")
    body = tmp_path / "body"
    body.write_bytes(POSTED)
    options = ["-d", str(body)] if posting else []
    async with before(url) as running:
        process = await asyncio.create_subprocess_exec(
            *(program("h2load"), "--h1", "-n", "1000", "-c", "10", "-t", "1", *options),
            f"http://{running.address}/echo",
            stdout=subprocess.PIPE,
        )
        out = (await process.communicate())[0].decode()
        assert "1000 succeeded, 0 failed, 0 errored, 0 timeout" in out, out
        assert "1000 2xx" in out, out
        pairs = await running.recorded(1000)
        assert {(pair.baseline.status, pair.candidate.status) for pair in pairs} == {(200, 200)}
        digests = {json.loads(pair.candidate.body)["digest"] for pair in pairs}
        assert digests == {contract.digest(POSTED if posting else b"")}
