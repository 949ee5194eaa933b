"""TLS towards upstreams."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from proxy.harness import ask, client, closed, echo, get, go_away, post, proxy, read_response, upstream
from proxy.secure import Authority, Wire, served, wire

from shadowproxy.model import Outcome, Side


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    (tmp_path / "stranger").mkdir()
    return Authority(tmp_path / "stranger")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_upstream_of_ones_own_authority_is_believed(authority: Authority, version: ssl.TLSVersion) -> None:
    context = authority.server()
    context.minimum_version = context.maximum_version = version
    async with (
        upstream(echo, tls=context) as one,
        proxy({"url": one.url + "/v1", "tls": {"ca": authority.file}}, one.url) as running,
    ):
        assert await running.server.probe() == {
            Side.BASELINE: "",
            Side.CANDIDATE: "its certificate is refused: unable to get local issuer certificate",
        }
        async with client(running.address) as (reader, writer):
            for at in range(3):
                writer.write(post(b"body", f"/{at}"))
                assert (await read_response(reader)).body == f"POST /v1/{at} HTTP/1.1\nbody".encode()
        # The probe, and one connection that was kept.
        assert len({request.line for request in one.requests}) == 3
        assert one.requests[0].get(b"host") == [f"127.0.0.1:{one.port}".encode()]
        assert one.requests[0].get(b"x-forwarded-proto") == [b"http"]
        for pair in await running.recorded(3):
            assert (pair.baseline.outcome, pair.candidate.outcome) == (Outcome.OK, Outcome.CONNECT)


DAY = datetime.timedelta(days=1)


async def refusal(context: ssl.SSLContext, tls: dict[str, Any]) -> str:
    """What a client is told with such an upstream."""
    async with upstream(echo, tls=context) as one, proxy({"url": one.url, "tls": tls}, one.url) as running:
        response = await ask(running.address, get())
        assert response.status == 502
        pair = (await running.recorded(1))[0]
        assert pair.baseline.outcome is Outcome.CONNECT
        assert not one.requests
        detail: str = json.loads(response.body)["detail"]
        assert detail == f"baseline: {pair.baseline.detail}"
        return pair.baseline.detail


async def test_whoever_can_not_be_believed_gets_nothing_and_the_client_is_told_why(
    authority: Authority, stranger: Authority
) -> None:
    ours = {"ca": authority.file}
    refused = "its certificate is refused: "
    now = datetime.datetime.now(datetime.UTC)
    expired = served(authority.issue("expired", not_before=now - 9 * DAY, not_after=now - DAY))
    assert await refusal(stranger.server(), ours) == refused + "unable to get local issuer certificate"
    assert await refusal(authority.server(), {}) == refused + "unable to get local issuer certificate"
    assert await refusal(expired, ours) == refused + "certificate has expired"
    elsewhere = served(authority.issue("elsewhere", "elsewhere.test"))
    assert await refusal(elsewhere, ours) == (refused + "IP address mismatch, certificate is not valid for '127.0.0.1'")
    assert "Hostname mismatch" in await refusal(authority.server(), {**ours, "server_name": "elsewhere.test"})


async def test_the_name_that_is_expected_may_be_another_than_the_urls(authority: Authority) -> None:
    context = served(authority.issue("elsewhere", "elsewhere.test"))
    names: list[str | None] = []
    context.sni_callback = lambda _object, name, _context: names.append(name)
    tls = {"ca": authority.file, "server_name": "elsewhere.test"}
    async with (
        upstream(echo, tls=context) as one,
        proxy({"url": one.url, "tls": tls}, {"url": one.url, "tls": tls}) as running,
    ):
        assert (await ask(running.address, get())).status == 200
        assert set(names) == {"elsewhere.test"}
        assert one.requests[0].get(b"host") == [f"127.0.0.1:{one.port}".encode()]
        await running.recorded(1)


async def test_without_verification_anyone_is_believed(stranger: Authority) -> None:
    async with (
        upstream(echo, tls=stranger.server()) as one,
        proxy({"url": one.url, "tls": {"verify": False}}, {"url": one.url, "tls": {"verify": False}}) as running,
    ):
        assert (await ask(running.address, get())).status == 200
        await running.recorded(1)


async def test_an_upstream_without_tls_is_told_as_such(authority: Authority) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        await closed(writer)

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with upstream(echo) as candidate, proxy(url, candidate.url) as running:
        response = await ask(running.address, get())
        assert response.status == 502
        assert json.loads(response.body)["detail"] == "baseline: no TLS with it: wrong version number"
        await running.recorded(1)
    server.close()


async def test_a_certificate_is_shown_to_upstreams_that_ask(authority: Authority, stranger: Authority) -> None:
    mine, wrong = authority.issue("me", "me"), stranger.issue("me", "me")
    async with upstream(echo, tls=authority.server(client_ca=authority)) as one:
        good = {"url": one.url, "tls": {"ca": authority.file, **mine}}
        async with proxy(good, {"url": one.url, "tls": {"ca": authority.file}}) as running:
            assert (await ask(running.address, get())).status == 200
            assert (await running.recorded(1))[0].candidate.outcome is Outcome.RESET
        async with proxy({"url": one.url, "tls": {"ca": authority.file, **wrong}}, good) as running:
            assert (await ask(running.address, get())).status == 502
            assert (await running.recorded(1))[0].candidate.outcome is Outcome.OK


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_upstream_that_refuses_our_certificate_is_told_as_such(
    version: ssl.TLSVersion, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """With TLS 1.3 it says so after the handshake, as far as we can see that: only the log can tell."""
    context = authority.server(client_ca=authority)
    context.minimum_version = context.maximum_version = version
    async with (
        ending(context, b"", fin) as url,
        upstream(echo) as candidate,
        proxy({"url": url, "tls": {"ca": authority.file}}, candidate.url) as running,
    ):
        for _ in range(3):
            assert (await ask(running.address, get())).status == 502
        baseline = (await running.recorded(3))[0].baseline
        if version == ssl.TLSVersion.TLSv1_2:
            assert baseline.outcome is Outcome.CONNECT
            assert "alert handshake failure" in baseline.detail
        else:
            assert baseline.outcome is Outcome.RESET
            said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
            assert len(said) == 1
            assert said[0].startswith("baseline: an open connection broke off: ")
            assert "certificate required" in said[0]


async def test_a_certificate_that_is_exchanged_is_shown_from_then_on(authority: Authority, stranger: Authority) -> None:
    mine, wrong = authority.issue("me", "me"), stranger.issue("wrong", "me")
    shown = {name: str(authority.folder / f"shown.{name}") for name in mine}

    def show(files: dict[str, str]) -> None:
        for name, path in files.items():
            Path(shown[name]).write_bytes(Path(path).read_bytes())

    show(wrong)
    async with upstream(echo, tls=authority.server(client_ca=authority)) as one:
        tls = {"ca": authority.file, **shown}
        async with proxy({"url": one.url, "tls": tls, "max_idle": 0}, one.url) as running:
            assert (await ask(running.address, get())).status == 502
            show(mine)
            running.server.read_certificates()
            async with asyncio.timeout(20):
                while (await ask(running.address, get())).status != 200:
                    pass
            await running.balanced()


async def test_sessions_are_resumed_with_the_same_certificates_only(authority: Authority) -> None:
    resumed: list[bool] = []

    async def handler(one: Any, request: Any, reader: Any, writer: asyncio.StreamWriter) -> bool:
        resumed.append(writer.get_extra_info("ssl_object").session_reused)
        return await echo(one, request, reader, writer)

    async with (
        upstream(echo) as candidate,
        upstream(handler, tls=authority.server()) as one,
        proxy({"url": one.url, "max_idle": 0, "tls": {"ca": authority.file}}, candidate.url) as running,
    ):
        for _ in range(3):
            assert (await ask(running.address, get())).status == 200
        assert resumed == [False, True, True]
        contexts = running.server._pools[Side.BASELINE].connector._contexts
        assert contexts is not None
        await contexts.refresh(force=True)
        assert (await ask(running.address, get())).status == 200
        assert resumed == [False, True, True, False]
        await running.recorded(4)


# How an upstream ends

End = Callable[[Wire], Awaitable[None]]


@contextlib.asynccontextmanager
async def ending(context: ssl.SSLContext, answer: bytes, end: End) -> AsyncIterator[str]:
    """The URL of an upstream that gives `answer` to a request, then does `end` on the bare connection."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Wire(reader, writer, context, None)
        with contextlib.suppress(ssl.SSLError):
            await peer.handshake()
            await peer.read(b"\r\n\r\n")
            peer.write(answer)
        await end(peer)
        # Until the proxy has ended too.
        with contextlib.suppress(OSError):
            await reader.read()
        await closed(writer)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def close_notify(peer: Wire) -> None:
    peer.close_notify()


async def close_notify_and_fin(peer: Wire) -> None:
    peer.close_notify()
    peer.fin()


async def fin(peer: Wire) -> None:
    peer.fin()


async def reset(peer: Wire) -> None:
    await peer.writer.drain()
    go_away(peer.writer)


CLOSE_DELIMITED = b"HTTP/1.1 200 OK\r\n\r\nso far"
CASES = {
    "close_notify": (CLOSE_DELIMITED, close_notify, Outcome.OK),
    "close_notify and fin": (CLOSE_DELIMITED, close_notify_and_fin, Outcome.OK),
    "fin": (CLOSE_DELIMITED, fin, Outcome.RESET),
    "length, then fin": (b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nso far", fin, Outcome.OK),
    "chunked, then fin": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nso far\r\n", fin, Outcome.RESET),
    "length, close_notify too early": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nso far",
        close_notify_and_fin,
        Outcome.RESET,
    ),
}


@pytest.mark.parametrize("secure_client", [False, True])
@pytest.mark.parametrize("name", CASES)
async def test_only_close_notify_ends_an_answer_without_a_length(
    name: str, secure_client: bool, authority: Authority
) -> None:
    answer, end, outcome = CASES[name]
    tls = authority.issue("server") if secure_client else {}
    async with (
        ending(authority.server(), answer, end) as url,
        upstream(echo) as candidate,
        proxy({"url": url, "tls": {"ca": authority.file}}, candidate.url, tls=tls) as running,
    ):
        request = get().replace(b"HTTP/1.1", b"HTTP/1.0")
        reader, writer = await asyncio.open_connection(*running.address)
        if secure_client:
            peer = Wire(reader, writer, authority.client(), "localhost")
            await peer.handshake()
            peer.write(request)
            received = await peer.read()
            # A client that keeps to TLS is told how it ended; bytes that were on their way may be lost by a reset.
            assert peer.end == ("close_notify" if outcome is Outcome.OK else "reset")
        else:
            writer.write(request)
            received, ended = b"", "close_notify"
            try:
                while data := await reader.read(1000):
                    received += data
            except ConnectionResetError:
                ended = "reset"
            assert ended == ("close_notify" if outcome is Outcome.OK else "reset")
        assert outcome is not Outcome.OK or received.endswith(b"\r\n\r\nso far")
        await closed(writer)
        pair = (await running.recorded(1))[0]
        assert pair.baseline.outcome is outcome
        assert pair.baseline.body == b"so far"


async def test_a_connection_that_is_reset_is_a_reset(authority: Authority) -> None:
    async with (
        ending(authority.server(), b"", reset) as url,
        upstream(echo) as candidate,
        proxy({"url": url, "tls": {"ca": authority.file}}, candidate.url) as running,
    ):
        assert (await ask(running.address, get())).status == 502
        assert (await running.recorded(1))[0].baseline.outcome is Outcome.RESET


async def test_a_tunnel_goes_through_tls_on_both_sides_and_its_halves_end_one_by_one(authority: Authority) -> None:
    async def gather(peer: Wire) -> None:
        peer.received = b""
        said = await peer.read()
        assert peer.end == "close_notify"
        peer.write(said.upper())
        peer.close_notify()

    switched = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: gather\r\nConnection: upgrade\r\n\r\nhello "
    async with (
        ending(authority.server(), switched, gather) as url,
        upstream(echo) as candidate,
        proxy({"url": url, "tls": {"ca": authority.file}}, candidate.url, tls=authority.issue("server")) as running,
        wire(running.address, authority.client()) as peer,
    ):
        peer.write(get("/", "Connection: Upgrade", "Upgrade: gather"))
        await peer.read(b"hello ")
        peer.write(b"word " * 40_000)
        peer.close_notify()
        received = await peer.read()
        assert received.partition(b"\r\n\r\n")[2] == b"hello " + b"WORD " * 40_000
        assert peer.end == "close_notify"
        await running.balanced()


async def test_an_upstream_that_never_completes_its_handshake_is_given_up(authority: Authority) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        await closed(writer)

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with (
        upstream(echo) as candidate,
        proxy({"url": url, "connect_timeout": "100ms", "tls": {"ca": authority.file}}, candidate.url) as running,
    ):
        response = await ask(running.address, get())
        assert response.status == 502
        assert json.loads(response.body)["detail"] == "baseline: no connection within 0.1 s"
        await running.recorded(1)
    server.close()


async def test_a_certificate_that_is_refused_is_not_logged_for_each_request(
    authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        upstream(echo, tls=stranger.server()) as one,
        proxy({"url": one.url, "tls": {"ca": authority.file}}, one.url) as running,
    ):
        for _ in range(5):
            assert (await ask(running.address, get())).status == 502
        assert [record for record in caplog.records if record.levelno > logging.INFO] == []
        await running.recorded(5)
