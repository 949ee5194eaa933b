"""The API as a whole with TLS and tokens: its clients, its events, its end; and what the settings refuse."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from api import CONTROL, READ, TOKENS, ask, configured, counted, running
from servers import until

from shadowproxy.config import exposures, loads, risks
from shadowproxy.errors import ApiUnavailable, ConfigError, StartError, StoreUnavailable
from shadowproxy.pairs.controls import ControlChange
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.serve.client import Remote, change_control, fetch_control, fetch_verdict
from shadowproxy.serve.events import Events

UPSTREAMS = "baseline: http://a\ncandidate: http://b\n"


# TLS


def issue(ca: trustme.CA, folder: Path, name: str) -> None:
    ca.issue_cert("127.0.0.1", common_name=name).private_key_and_cert_chain_pem.write_to_path(str(folder / "api.pem"))


async def shown(port: int, ca: Path) -> bytes:
    """The certificate that a new connection is shown, as DER."""
    context = ssl.create_default_context(cafile=str(ca))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="127.0.0.1")
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return bytes(found)


async def test_clients_show_tokens_by_tls_and_new_certificates_are_taken(
    valkey: EmbeddedServer, tmp_path: Path
) -> None:
    ca, authority = trustme.CA(), tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(authority))
    issue(ca, tmp_path, "first")
    settings = configured(valkey.url, f'{TOKENS}, tls: {{certificate: "{tmp_path}/api.pem"}}')
    async with counted(settings, 5), running(settings) as url:
        assert url.startswith("https://127.0.0.1:")
        assert (await fetch_verdict(Remote(url, READ, authority))).pairs == 5
        with pytest.raises(ApiUnavailable, match=r"401.*--token"):
            await fetch_verdict(Remote(url, "", authority))
        with pytest.raises(ApiUnavailable, match=r"403.*may control.*--token"):
            await change_control(Remote(url, READ, authority), ControlChange(paused=True))
        assert not (await fetch_control(Remote(url, READ, authority))).controls.paused
        assert (await change_control(Remote(url, CONTROL, authority), ControlChange(paused=True))).controls.paused
        with pytest.raises(ApiUnavailable, match="certificate"):
            await fetch_verdict(Remote(url, READ))
        with pytest.raises(ApiUnavailable, match=r"--cacert .*none\.pem"):
            await fetch_verdict(Remote(url, READ, tmp_path / "none.pem"))
        assert READ not in repr(Remote(url, READ))
        port = int(url.rpartition(":")[2])
        before = await shown(port, authority)
        issue(ca, tmp_path, "second")
        os.kill(os.getpid(), signal.SIGHUP)

        async def is_new() -> bool:
            return await shown(port, authority) != before

        await until(is_new, "the new certificate")
        # The cookie of a browser never leaves it in clear, nor does the browser come back without TLS.
        context = ssl.create_default_context(cafile=str(authority))
        own = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
        _, headers, _ = await ask(f"{url}/login", "POST", READ, headers=own, ssl=context)
        assert "Secure" in headers["Set-Cookie"].split("; ")
        assert headers["Strict-Transport-Security"] == "max-age=31536000"


async def test_a_certificate_that_is_not_there_is_told_at_the_start(valkey: EmbeddedServer) -> None:
    settings = configured(valkey.url, "tls: {certificate: /none.pem}")
    with pytest.raises(StartError, match=r"serve\.tls\.certificate: there is no file /none\.pem"):
        async with running(settings):
            pass


# Events


@asynccontextmanager
async def listening(url: str, token: str = READ, **headers: str) -> AsyncIterator[aiohttp.StreamReader]:
    sent = {"Authorization": f"Bearer {token}", **headers}
    async with aiohttp.ClientSession() as session, session.get(f"{url}/api/v1/events", headers=sent) as response:
        assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
        yield response.content


async def event(stream: aiohttp.StreamReader) -> dict[str, str]:
    """The next event or comment, by field."""
    found: dict[str, str] = {}
    while line := (await stream.readline()).decode():
        if line == "\n":
            if found:
                return found
            continue
        name, _, value = line.rstrip("\n").partition(": ")
        found[name] = value
    return found


async def test_listeners_are_told_what_holds_and_when_it_changes(valkey: EmbeddedServer) -> None:
    settings = configured(valkey.url, TOKENS)
    async with counted(settings, 5), running(settings) as url:
        async with listening(url, **{"Last-Event-ID": "99999 \t what"}) as stream:
            assert await event(stream) == {"retry": "2000"}
            first = await event(stream)
            assert first["event"] == "verdict"
            told = json.loads(first["data"])
            assert (told["state"], told["pairs"]) == ("continue", 5)
            # What it names is what is there, so nothing is sent again.
            code, headers, _ = await ask(
                f"{url}/api/v1/verdict", token=READ, headers={"If-None-Match": f'W/"{told["etag"]}"'}
            )
            assert (code, headers["ETag"]) == (304, f'W/"{told["etag"]}"')
            await change_control(Remote(url, CONTROL), ControlChange(paused=True, reason="<b>"))
            second = await event(stream)
            assert (second["event"], int(second["id"])) == ("verdict", int(first["id"]) + 1)
            assert json.loads(second["data"])["etag"] != told["etag"]
        assert (await ask(f"{url}/api/v1/events"))[0] == 401


async def test_the_store_going_away_is_told(own_valkey: EmbeddedServer) -> None:
    settings = configured(own_valkey.url, TOKENS)
    async with counted(settings, 5), running(settings) as url, listening(url) as stream:
        await event(stream)
        assert (await event(stream))["event"] == "verdict"
        own_valkey.stop()
        trouble = await event(stream)
        assert trouble["event"] == "trouble"
        assert json.loads(trouble["data"])["status"] == 503


async def test_listeners_are_so_many_and_hold_up_no_stop(valkey: EmbeddedServer) -> None:
    settings = configured(valkey.url, f"{TOKENS}, limits: {{listeners: 1}}")
    async with counted(settings, 5), AsyncExitStack() as left_open:
        async with running(settings) as url:
            stream = await left_open.enter_async_context(listening(url))
            assert await event(stream) == {"retry": "2000"}
            code, headers, body = await ask(f"{url}/api/v1/events", token=READ)
            assert (code, headers["Retry-After"]) == (503, "5")
            assert b"1 are listening" in body
        # It ended in order, or reading would fail: with the process, which it did not hold up.
        assert b"event: verdict" in await stream.read()


async def test_one_who_left_makes_room_and_silence_is_broken() -> None:
    from aiohttp import web

    def current() -> object:
        raise StoreUnavailable("away")

    events = Events(current, lambda: "", listeners=1, heartbeat=0.01)  # type: ignore[arg-type]
    events.look()
    app = web.Application()
    app.add_routes(events.routes)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for _ in range(2):
        async with listening(url) as stream:
            assert await event(stream) == {"retry": "2000"}
            assert (await event(stream))["event"] == "trouble"
            assert await event(stream) == {"": "still here"}
        await until(lambda: events.listeners == 0, "the end of a listener that has gone")
    events.end()
    await runner.cleanup()


# Settings


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        ("{tokens: [{token: short-secret}]}", r"serve\.tokens\[0\]\.token: has 12 characters, and must have 16"),
        ("{tokens: [{token: 'a secret with spaces'}]}", r"letters, digits"),
        ("{tokens: [{token: 1234567890123456}]}", r"must be text"),
        ("{tokens: [a-secret-of-many-letters]}", r"serve\.tokens\[0\]"),
        ("{tokens: a-secret-of-many-letters}", r"serve\.tokens"),
        ("{tokens: [{token: a-secret-of-many-letters, may: secret}]}", r"tokens\[0\]\.may"),
        ("{tokens: [{token: a-secret-of-many-letters}, {token: a-secret-of-many-letters}]}", "twice"),
        ("{metrics_token: true}", r"serve\.metrics_token: there are no `tokens`"),
        ("{tls: {key: a.pem}}", r"serve\.tls\.key: is of no use without a `certificate`"),
        ("{hosts: ['http://a']}", r"serve\.hosts\[0\]"),
        ("a-secret-of-many-letters", r"\$\.serve"),
    ],
)
def test_what_can_not_be_is_refused_and_no_secret_is_shown(serve: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        loads(f"{UPSTREAMS}serve: {serve}\n")
    assert "short-secret" not in str(caught.value)
    assert "secret with" not in str(caught.value)
    assert not re.search("[0-9]{16}", str(caught.value))
    if serve != "a-secret-of-many-letters":
        assert "a-secret-of" not in str(caught.value)


def test_tokens_come_from_the_environment_and_are_never_shown() -> None:
    text = f"{UPSTREAMS}serve: {{tokens: [{{token: '${{A}}'}}, {{token: '${{B:-null}}', may: control}}]}}\n"
    settings = loads(text, environ={"A": "1" * 16})
    (only,) = settings.serve.tokens
    assert only.token is not None
    assert only.token.get_secret_value() == "1" * 16
    for shown_as in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert "1" * 16 not in shown_as


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        ("{listen: ':9100'}", "there are no serve.tokens"),
        (f"{{listen: '0.0.0.0:9100', tokens: [{{token: {READ}}}]}}", "plain text"),
        (f"{{listen: '0.0.0.0:9100', tokens: [{{token: {READ}}}], tls: {{certificate: a.pem}}}}", None),
        ("{listen: 'localhost:9100'}", None),
        ("{listen: '[::1]:9100'}", None),
    ],
)
def test_what_others_may_do_is_said(serve: str, says: str | None) -> None:
    settings = loads(f"{UPSTREAMS}serve: {serve}\n")
    said = exposures(settings.serve)
    assert (len(said) == 1 and says in said[0]) if says else said == []
    assert set(said) <= set(risks(settings))
