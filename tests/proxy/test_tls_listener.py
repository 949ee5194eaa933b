"""TLS towards clients."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import logging
import os
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from programs import program
from proxy.harness import (
    RawUpstream,
    Received,
    answering,
    client,
    closed,
    echo,
    get,
    post,
    proxy,
    read_response,
    talk,
    until,
    upstream,
)
from proxy.memory import MemoryRecorder
from proxy.secure import Authority, Wire, secure, serial, wire

from shadowproxy.config import Settings
from shadowproxy.errors import StartError
from shadowproxy.model import Outcome
from shadowproxy.proxy import acceptor
from shadowproxy.proxy.server import ProxyServer
from shadowproxy.tasks import Tasks

OK = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_connections_are_kept_and_pipelined_requests_answered_in_order(authority: Authority) -> None:
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url, tls=authority.issue("server")) as running,
        secure(running.address, authority.client()) as (reader, writer),
    ):
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        for at in range(3):
            writer.write(post(b"x" * at, f"/{at}"))
            assert (await read_response(reader)).body == f"POST /{at} HTTP/1.1\n".encode() + b"x" * at
        writer.write(get("/a") + post(b"b", "/b") + get("/c", "Connection: close"))
        answers = [(await read_response(reader)).body for _ in range(3)]
        assert answers == [b"GET /a HTTP/1.1\n", b"POST /b HTTP/1.1\nb", b"GET /c HTTP/1.1\n"]
        assert await reader.read() == b""
        await running.recorded(6)
        assert {value for request in one.requests for value in request.get(b"x-forwarded-proto")} == {b"https"}


async def test_eight_megabytes_go_up_and_down_over_tls_on_both_sides(authority: Authority) -> None:
    body = os.urandom(1 << 20) * 8
    async with (
        upstream(echo, tls=authority.server()) as one,
        proxy(
            {"url": one.url, "tls": {"ca": authority.file}},
            {"url": one.url, "tls": {"ca": authority.file}},
            tls=authority.issue("server"),
        ) as running,
        secure(running.address, authority.client()) as (reader, writer),
    ):
        writer.write(post(body))
        await writer.drain()
        assert (await read_response(reader)).body == b"POST / HTTP/1.1\n" + body
        await running.balanced()


async def test_a_client_that_does_not_read_holds_the_baseline(authority: Authority) -> None:
    size = 64 * 1024 * 1024

    async def pour(
        self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while self.bytes_seen < size:
            writer.write(bytes(65536))
            self.bytes_seen += 65536
            await writer.drain()
        return True

    async with (
        upstream(pour, tls=authority.server()) as one,
        proxy({"url": one.url, "tls": {"ca": authority.file}}, one.url, tls=authority.issue("server")) as running,
    ):
        async with secure(running.address, authority.client()) as (reader, writer):
            writer.write(get())
            await reader.readuntil(b"\r\n\r\n")
            before = -1
            while before != one.bytes_seen:
                before = one.bytes_seen
                await asyncio.sleep(0.1)
            assert before < size
            assert len(await reader.readexactly(size)) == size
        await running.balanced()


async def test_a_request_and_its_copy_go_by_tls(authority: Authority) -> None:
    async with (
        upstream(echo) as baseline,
        upstream(echo, tls=authority.server()) as candidate,
        proxy(
            baseline.url, {"url": candidate.url, "tls": {"ca": authority.file}}, tls=authority.issue("server")
        ) as running,
        secure(running.address, authority.client()) as (reader, writer),
    ):
        writer.write(post(b"both"))
        assert (await read_response(reader)).body.endswith(b"\nboth")
        pair = (await running.recorded(1))[0]
        assert (pair.candidate.outcome, pair.candidate.body) == (Outcome.OK, pair.baseline.body)
        assert candidate.requests[0].get(b"host") == [f"127.0.0.1:{candidate.port}".encode()]


async def test_clients_must_show_a_certificate_of_the_right_authority(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other")
    tls = {**authority.issue("server"), "client_ca": authority.file}
    async with upstream(echo) as one, proxy(one.url, one.url, tls=tls) as running:
        async with secure(running.address, authority.client(authority.issue("client", "me"))) as (reader, writer):
            writer.write(get())
            assert (await read_response(reader)).status == 200
        for wrong in (None, other.issue("client", "me")):
            # With TLS 1.3 the refusal comes after the client's own handshake.
            async with wire(running.address, authority.client(wrong)) as peer:
                peer.write(get())
                with pytest.raises(ssl.SSLError, match="ALERT"):
                    await peer.read()
        await until(lambda: running.server.failed_handshakes["client_certificate"] == 2)
        assert len(one.requests) == 2  # the one request and its copy


async def test_a_client_that_ends_its_half_is_still_answered(authority: Authority) -> None:
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url, tls=authority.issue("server")) as running,
        wire(running.address, authority.client()) as peer,
    ):
        peer.write(get("/first") + get("/second"))
        peer.close_notify()
        received = await peer.read()
        assert [line in received for line in (b"GET /first HTTP/1.1\n", b"GET /second HTTP/1.1\n")] == [True, True]
        assert peer.end == "close_notify"
        await running.recorded(2)


async def test_a_client_that_is_cut_off_leaves_a_whole_pair(authority: Authority) -> None:
    """An end of TCP without close_notify is no end of TLS: nobody is there any more."""

    async def later(self: RawUpstream, request: Received, reader: Any, writer: asyncio.StreamWriter) -> bool:
        await self.release.wait()
        return await echo(self, request, reader, writer)

    async with (
        upstream(later) as one,
        proxy(one.url, one.url, tls=authority.issue("server")) as running,
        wire(running.address, authority.client()) as peer,
    ):
        peer.write(get())
        await until(lambda: len(one.requests) == 2)
        peer.fin()
        await until(lambda: not running.server.connections)
        one.release.set()
        assert (await running.recorded(1))[0].baseline.outcome is Outcome.OK


async def test_a_refusal_amid_an_upload_reaches_the_client_whole(authority: Authority) -> None:
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url, tls=authority.issue("server"), limits={"body": 1000}) as running,
        wire(running.address, authority.client()) as peer,
    ):
        peer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n" + bytes(2000))
        peer.write(bytes(200_000))
        received = await peer.read()
        assert received.startswith(b"HTTP/1.1 413 ")
        assert json.loads(received.partition(b"\r\n\r\n")[2])["status"] == 413
        assert peer.end == "close_notify"
        assert not one.requests


TRUNCATED = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nabc",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc|\r\nxx\r\n",
}


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
@pytest.mark.parametrize("name", TRUNCATED)
async def test_a_truncated_response_ends_without_close_notify(name: str, version: bytes, authority: Authority) -> None:
    async def in_two_parts(self: RawUpstream, request: Received, _: Any, writer: asyncio.StreamWriter) -> bool:
        first, _bar, second = request.body.partition(b"|")
        writer.write(first)
        await self.release.wait()
        writer.write(second)
        return False

    async with (
        upstream(in_two_parts) as baseline,
        upstream(OK) as candidate,
        proxy(baseline.url, candidate.url, tls=authority.issue("server")) as running,
        wire(running.address, authority.client()) as peer,
    ):
        peer.write(post(TRUNCATED[name]).replace(b"HTTP/1.1", b"HTTP/" + version, 1))
        await peer.read(b"abc")
        baseline.release.set()
        await peer.read()
        assert peer.end == "reset"
        await running.recorded(1)


async def test_a_close_delimited_answer_ends_with_close_notify(authority: Authority) -> None:
    async with (
        upstream(answering(b"HTTP/1.0 200 OK\r\n\r\nwhole", keep=False)) as one,
        proxy(one.url, one.url, tls=authority.issue("server")) as running,
        wire(running.address, authority.client()) as peer,
    ):
        peer.write(get().replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await peer.read()).endswith(b"\r\n\r\nwhole")
        assert peer.end == "close_notify"
        await running.recorded(1)


# Handshakes


async def test_a_handshake_that_is_not_completed_in_time_is_ended(authority: Authority) -> None:
    hello = client_hello(authority)
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url, tls=authority.issue("server"), limits={"header_timeout": "100ms"}) as running,
    ):
        async with client(running.address) as (silent, _), client(running.address) as (reader, writer):
            writer.write(hello[:40])
            assert await silent.read() == b""
            assert await reader.read() == b""
        assert running.server.failed_handshakes["timeout"] == 2
        assert not running.server.connections
        async with secure(running.address, authority.client()) as (reader, writer):
            writer.write(get())
            assert (await read_response(reader)).status == 200
        await running.recorded(1)


async def test_handshakes_at_once_are_limited(authority: Authority) -> None:
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url, tls=authority.issue("server"), limits={"connections": 2}) as running,
    ):
        async with client(running.address) as (_, first), client(running.address) as (_, second):
            for writer in (first, second):
                writer.write(b"\x16")
            async with client(running.address) as (reader, _):
                with contextlib.suppress(ConnectionResetError):
                    assert await reader.read() == b""
            assert running.server.failed_handshakes["shed"] == 1
        await until(lambda: running.server.failed_handshakes["closed"] == 2)
        async with secure(running.address, authority.client()) as (reader, writer):
            writer.write(get())
            assert (await read_response(reader)).status == 200
        await running.recorded(1)


async def test_plain_http_on_the_tls_port_is_told_so_and_harms_no_one(authority: Authority) -> None:
    async with upstream(echo) as one, proxy(one.url, one.url, tls=authority.issue("server")) as running:
        async with secure(running.address, authority.client()) as (reader, writer):
            answer = await talk(running.address, get())
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert "https" in json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]
            assert await talk(running.address, b"\x00\x01\x02 no protocol at all") == b""
            writer.write(get())
            assert (await read_response(reader)).status == 200
        failures = running.server.failed_handshakes
        assert (failures["plain_http"], failures["protocol"]) == (1, 1)
        assert len(one.requests) == 2  # one request and its copy
        await running.recorded(1)


async def test_a_client_that_distrusts_the_certificate_is_counted(authority: Authority) -> None:
    async with upstream(echo) as one, proxy(one.url, one.url, tls=authority.issue("server")) as running:
        with pytest.raises(ssl.SSLCertVerificationError):
            async with wire(running.address, ssl.create_default_context()):
                pass
        await until(lambda: running.server.failed_handshakes["alert"] == 1)


async def test_versions_below_the_configured_are_refused(authority: Authority) -> None:
    old = authority.client()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    tls = authority.issue("server")
    async with upstream(echo) as one:
        async with (
            proxy(one.url, one.url, tls=tls) as running,
            secure(running.address, old) as (reader, writer),
        ):
            writer.write(get())
            assert (await read_response(reader)).status == 200
        async with proxy(one.url, one.url, tls={**tls, "min_version": "TLSv1.3"}) as running:
            with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                async with secure(running.address, old):
                    pass
            await until(lambda: running.server.failed_handshakes["protocol"] == 1)


def client_hello(authority: Authority) -> bytes:
    out = ssl.MemoryBIO()
    tls = authority.client().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


# Stops


async def test_a_stop_waits_for_no_close_notify(authority: Authority) -> None:
    """A client that has pooled its connection reads nothing until it needs it."""
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url, tls=authority.issue("server")) as running,
        wire(running.address, authority.client()) as peer,
    ):
        peer.write(get())
        await peer.read(b"GET / HTTP/1.1\n")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(10):
            await running.server.drain(3600)
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await peer.read()
        assert peer.end == "close_notify"


async def test_a_handshake_that_is_stuck_does_not_hold_up_a_stop(authority: Authority) -> None:
    async with (
        upstream(echo) as one,
        proxy(one.url, one.url, tls=authority.issue("server")) as running,
        client(running.address) as (reader, writer),
    ):
        writer.write(client_hello(authority)[:20])
        await until(lambda: accepting(running.server))
        async with asyncio.timeout(10):
            await running.server.drain(3600)
        assert running.server.failed_handshakes["stopped"] == 1
        assert await reader.read() == b""


async def test_a_client_amid_its_handshake_at_a_stop_is_served(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "LAST_HANDSHAKE", 3600)
    async with upstream(echo) as one, proxy(one.url, one.url, tls=authority.issue("server")) as running:
        reader, writer = await asyncio.open_connection(*running.address)
        await until(lambda: accepting(running.server))
        drained = asyncio.ensure_future(running.server.drain(3600))
        await asyncio.sleep(0)
        peer = Wire(reader, writer, authority.client(), "localhost")
        await peer.handshake()
        peer.write(get("/late"))
        assert b"GET /late HTTP/1.1\n" in await peer.read()
        assert b"\r\nConnection: close\r\n" in peer.received
        assert peer.end == "close_notify"
        await drained
        await closed(writer)
        await running.recorded(1)


def accepting(server: ProxyServer) -> int:
    assert server._acceptor is not None
    return server._acceptor.under_way


# Certificates


def exchange(files: dict[str, str], new: dict[str, str]) -> None:
    """As a mounted secret changes: by renaming."""
    for name, path in files.items():
        shutil.copy(new[name], path + ".new")
        Path(path + ".new").rename(path)


def remove(path: str) -> None:
    Path(path).unlink()


def seen(writer: asyncio.StreamWriter) -> int:
    return int(writer.get_extra_info("ssl_object").getpeercert()["serialNumber"], 16)


async def shown(address: Any, context: ssl.SSLContext) -> int:
    async with secure(address, context) as (_, writer):
        return seen(writer)


async def test_a_new_certificate_is_shown_without_a_restart_and_open_connections_stay(authority: Authority) -> None:
    files, second, third = (authority.issue(name) for name in ("server", "second", "third"))
    serials = [serial(one) for one in (files, second, third)]
    context = authority.client()
    async with upstream(echo) as one, proxy(one.url, one.url, tls=files) as running:
        async with secure(running.address, context) as (reader, writer):
            assert seen(writer) == serials[0]
            exchange(files, second)
            running.server.read_certificates()
            async with asyncio.timeout(20):
                while await shown(running.address, context) != serials[1]:
                    pass
            exchange(files, third)
            # Nobody says so this time: the change is noticed.
            async with asyncio.timeout(20):
                while await shown(running.address, context) != serials[2]:  # noqa: ASYNC110  (a file's change has no event)
                    await asyncio.sleep(0.1)
            writer.write(get())
            assert (await read_response(reader)).status == 200
            assert seen(writer) == serials[0]
        await running.recorded(1)


@pytest.mark.parametrize("broken", ["certificate", "key"])
async def test_a_broken_certificate_leaves_the_old_one_in_force(
    broken: str, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files, other = authority.issue("server"), authority.issue("other")
    before, context = serial(files), authority.client()
    async with upstream(echo) as one, proxy(one.url, one.url, tls=files) as running:
        exchange({broken: files[broken]}, other)
        running.server.read_certificates()
        await until(lambda: caplog.records)
        assert f"{files['key']} is not the key of the certificate in {files['certificate']}" in caplog.text
        assert "stays in force" in caplog.text
        assert await shown(running.address, context) == before
        remove(files["certificate"])
        caplog.clear()
        running.server.read_certificates()
        await until(lambda: "there is no file" in caplog.text)
        assert await shown(running.address, context) == before
        exchange(files, other)
        running.server.read_certificates()
        async with asyncio.timeout(20):
            while await shown(running.address, context) != serial(other):
                pass


def texts(files: dict[str, str]) -> str:
    return "".join(Path(files[name]).read_text() for name in ("key", "certificate"))


def encrypted(key: str) -> bytes:
    private = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"secret")
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)


def started(tls: dict[str, str | None]) -> str:
    """The error that a start with these files ends with."""

    async def start() -> None:
        settings = Settings.model_validate(
            {"baseline": "http://127.0.0.1:1", "candidate": "http://127.0.0.1:1", "proxy": {"listen": ":0", "tls": tls}}
        )
        await ProxyServer(settings, MemoryRecorder(), tasks=Tasks()).start()

    with pytest.raises(StartError) as raised:
        asyncio.run(start())
    return str(raised.value)


def test_files_that_can_not_be_used_end_the_start_and_name_their_key(authority: Authority, tmp_path: Path) -> None:
    files, other = authority.issue("server"), authority.issue("other")
    text = tmp_path / "text"
    text.write_text("nothing")
    none = str(tmp_path / "none")
    assert started({**files, "certificate": none}) == f"proxy.tls.certificate: there is no file {none}"
    assert started({**files, "key": none}) == f"proxy.tls.key: there is no file {none}"
    assert started({**files, "key": str(tmp_path)}).startswith(f"proxy.tls.key: {tmp_path} can't be read: ")
    mismatch = started({**files, "key": other["key"]})
    assert mismatch.startswith(f"proxy.tls.key: {other['key']} is not the key of the certificate in ")
    assert started({**files, "certificate": str(text)}).startswith(
        f"proxy.tls.certificate: {text} holds no certificate"
    )
    assert started({**files, "key": str(text)}).startswith(f"proxy.tls.key: {text} and ")
    assert started({**files, "client_ca": str(text)}).startswith(f"proxy.tls.client_ca: {text} holds no certificates")
    locked = tmp_path / "locked.key"
    locked.write_bytes(encrypted(files["key"]))
    assert started({**files, "key": str(locked)}).endswith("without a passphrase")
    # The key may stand in the certificate's own file; here it doesn't.
    assert started({"certificate": files["certificate"]}).startswith("proxy.tls.certificate: ")


async def test_a_key_may_stand_in_the_certificates_own_file(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("server")
    both = tmp_path / "both.pem"
    both.write_text(texts(files))
    async with upstream(echo) as one, proxy(one.url, one.url, tls={"certificate": str(both)}) as running:
        assert await shown(running.address, authority.client()) == serial(files)


async def test_an_expired_certificate_is_served_and_warned_of_with_its_date(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    day = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
    files = authority.issue("server", not_before=day - datetime.timedelta(days=9), not_after=day)
    async with upstream(echo) as one, proxy(one.url, one.url, tls=files) as running:
        assert "proxy.tls.certificate" in caplog.text
        assert "expired on 2024-02-29 12:00 UTC" in caplog.text
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            await shown(running.address, authority.client())


async def test_failed_handshakes_are_no_news(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    async with upstream(echo) as one, proxy(one.url, one.url, tls=authority.issue("server")) as running:
        await talk(running.address, get())
        async with client(running.address) as (_, writer):
            writer.write(b"\x16\x03")
        await until(lambda: running.server.failed_handshakes["closed"] == 1)
        assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


# Programs


async def output(*command: str, data: bytes = b"") -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(30):
        said, _ = await process.communicate(data)
    return said


async def test_curl_is_content(authority: Authority, tmp_path: Path) -> None:
    curl = program("curl")
    body = tmp_path / "body"
    body.write_bytes(os.urandom(300_000))
    tls = {**authority.issue("server"), "client_ca": authority.file}
    me = authority.issue("client", "me")
    common = [curl, "--silent", "--show-error", "--cacert", authority.file, "--noproxy", "*"]
    async with upstream(echo) as one, proxy(one.url, one.url, tls=tls) as running:
        url = f"https://localhost:{running.address.port}"
        mine = [*common, "--cert", me["certificate"], "--key", me["key"], "--ipv4"]
        assert await output(*mine, f"{url}/a", f"{url}/b") == b"GET /a HTTP/1.1\nGET /b HTTP/1.1\n"
        said = await output(*mine, "--http2", "--data-binary", f"@{body}", f"{url}/p")
        assert said == b"POST /p HTTP/1.1\n" + body.read_bytes()
        assert b"alert certificate required" in await output(*common, "--ipv4", url)
        await running.recorded(3)


async def test_openssl_is_content(authority: Authority) -> None:
    openssl = program("openssl")
    async with upstream(echo) as one, proxy(one.url, one.url, tls=authority.issue("server")) as running:
        asked = [openssl, "s_client", "-connect", str(running.address), "-CAfile", authority.file]
        said = await output(
            *asked, "-alpn", "h2,http/1.1", "-ign_eof", data=get("/s", "Connection: close").replace(b"\r\n", b"\n")
        )
        assert b"ALPN protocol: http/1.1" in said
        assert b"Verify return code: 0 (ok)" in said
        assert b"HTTP/1.1 400" in said  # openssl sends the bare line ends that it was given
        said = await output(*asked, "-crlf", "-ign_eof", data=get("/s", "Connection: close").replace(b"\r\n", b"\n"))
        assert b"GET /s HTTP/1.1\n" in said
        await running.recorded(1)
