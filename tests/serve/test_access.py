"""Who may ask what, over real sockets: names, tokens, sessions, pages of elsewhere, rates and sizes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from api import CONTROL, READ, ask, guarded

from shadowproxy.config import Address, Serve
from shadowproxy.serve.access import COOKIE, LONGEST_TARGET, caller
from shadowproxy.serve.rates import Rates, client_of
from shadowproxy.serve.sessions import SESSION, Tokens

TOKENS = {"tokens": [{"token": READ}, {"token": CONTROL, "may": "control"}]}


async def seen(request: web.Request) -> web.Response:
    who = caller(request)
    sent = await request.read()
    return web.json_response({"controls": who.controls, "sees": who.sees, "bytes": len(sent)})


async def page(_request: web.Request) -> web.Response:
    return web.Response(text="<p>", content_type="text/html")


async def broken(_request: web.Request) -> web.Response:
    raise KeyError("a secret of the code")


@asynccontextmanager
async def api(**serve: Any) -> AsyncIterator[str]:
    """The guard before some of the endpoints, which say what they were told of the caller."""
    routes = [
        web.get("/api/v1/verdict", seen),
        web.get("/api/v1/history", broken),
        web.get("/api/v1/pairs/sample", seen),
        web.post("/api/v1/control", seen),
        web.post("/api/v1/labels", seen),
        web.get("/", page),
    ]
    # A free port in place of the usual one, which only the port of a Host header would tell.
    server = guarded(routes, Serve.model_validate(serve))
    try:
        yield f"http://{await server.start(Address('127.0.0.1', 0), '$.serve.listen')}"
    finally:
        await server.stop()


async def status(url: str, method: str = "GET", token: str = "", **headers: str) -> int:
    more: dict[str, Any] = {"data": b"{}"} if method == "POST" else {}
    if method == "POST":
        headers = {"Content-Type": "application/json", **headers}
    return (await ask(url, method, token, headers=headers, **more))[0]


# Names


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:9100", "192.0.2.1", "api.test:9100"])
async def test_it_is_asked_under_its_own_names(host: str) -> None:
    async with api(hosts=["API.test"]) as url:
        assert await status(f"{url}/api/v1/verdict", Host=host) == 200


@pytest.mark.parametrize("host", ["evil.test", "localhost.evil.test", "127.0.0.1.evil.test", "a@localhost", "[::1"])
async def test_a_name_that_somebody_else_has_lead_here_is_refused(host: str) -> None:
    async with api() as url:
        for path in ("/", "/api/v1/verdict", "/metrics", "/healthz", "/nothing"):
            assert await status(f"{url}{path}", Host=host) == 421
    async with api(listen="0.0.0.0:9100", hosts=["api.test"]) as url:
        assert await status(f"{url}/api/v1/verdict", Host=host) == 421


async def test_where_others_reach_it_any_name_is_good_unless_there_are_some() -> None:
    async with api(listen="0.0.0.0:9100") as url:
        assert await status(f"{url}/api/v1/verdict", Host="shadow.example.com") == 200


# Tokens


@pytest.mark.parametrize(
    ("token", "reads", "changes"),
    [("", 401, 401), (READ, 200, 403), (CONTROL, 200, 200), (READ + "x", 401, 401), (READ[:-1], 401, 401)],
)
async def test_a_token_may_so_much(token: str, reads: int, changes: int) -> None:
    async with api(**TOKENS) as url:
        assert await status(f"{url}/api/v1/verdict", token=token) == reads
        assert await status(f"{url}/api/v1/verdict", "HEAD", token=token) == reads
        assert await status(f"{url}/api/v1/control", "POST", token=token) == changes
        assert await status(f"{url}/api/v1/labels", "POST", token=token) == changes
        # What is there is nobody's business either.
        assert await status(f"{url}/api/v1/none", token=token) == (404 if token in (READ, CONTROL) else 401)


async def test_who_may_not_is_told_how_he_may() -> None:
    async with api(**TOKENS) as url:
        _, headers, body = await ask(f"{url}/api/v1/verdict")
        assert headers["WWW-Authenticate"] == 'Bearer realm="shadowproxy"'
        assert headers["Content-Type"] == "application/problem+json"
        assert "serve.tokens" in json.loads(body)["detail"]
        _, headers, body = await ask(f"{url}/api/v1/verdict", token="wrong-" + "w" * 16)
        assert 'error="invalid_token"' in headers["WWW-Authenticate"]
        assert b"wwww" not in body
        _, headers, _ = await ask(f"{url}/api/v1/control", "POST", READ, json={})
        assert 'error="insufficient_scope"' in headers["WWW-Authenticate"]


async def test_probes_and_the_page_need_none_and_metrics_only_if_said() -> None:
    async with api(**TOKENS) as url:
        for path in ("/healthz", "/readyz", "/metrics", "/"):
            assert await status(f"{url}{path}") == 200
    async with api(**TOKENS, metrics_token=True) as url:
        assert await status(f"{url}/metrics") == 401
        assert await status(f"{url}/metrics", token=READ) == 200
        assert await status(f"{url}/healthz") == 200


async def test_without_tokens_only_this_machine_may_change_and_see() -> None:
    async with api() as url:
        assert json.loads((await ask(f"{url}/api/v1/verdict"))[2]) == {"controls": True, "sees": True, "bytes": 0}
        assert await status(f"{url}/api/v1/control", "POST") == 200
        # A reverse proxy on this machine speaks for somebody who may be anywhere.
        for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
            told = await ask(f"{url}/api/v1/verdict", headers={name: "192.0.2.7"})
            assert json.loads(told[2]) == {"controls": False, "sees": False, "bytes": 0}
            assert await status(f"{url}/api/v1/control", "POST", **{name: "192.0.2.7"}) == 403


# Sessions


async def test_a_browser_shows_its_token_once_and_may_read_from_then_on() -> None:
    async with api(**TOKENS) as url:
        own = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
        assert (await ask(f"{url}/login", "POST", "wrong-" + "w" * 16, headers=own))[0] == 401
        code, headers, _ = await ask(f"{url}/login", "POST", CONTROL, headers=own)
        cookie = headers["Set-Cookie"]
        assert code == 204
        assert cookie.startswith(f"{COOKIE}=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={SESSION}"} <= set(cookie.split("; "))
        assert CONTROL not in cookie
        session = cookie.partition(";")[0]
        told = await ask(f"{url}/api/v1/verdict", headers={"Cookie": session})
        # Though the token may control: no page may have a browser change anything.
        assert json.loads(told[2]) == {"controls": False, "sees": True, "bytes": 0}
        assert await status(f"{url}/api/v1/control", "POST", Cookie=session) == 403
        assert await status(f"{url}/api/v1/verdict", Cookie=session[:-2]) == 401
        _, headers, _ = await ask(f"{url}/logout", "POST", headers={**own, "Cookie": session})
        assert headers["Set-Cookie"].startswith(f'{COOKIE}="";')


def test_a_session_ends_with_its_time_and_with_its_token() -> None:
    serve = Serve.model_validate(TOKENS)
    tokens, only_read = Tokens(serve.tokens), Tokens(serve.tokens[:1])
    session = tokens.session(CONTROL, 1000.0)
    assert tokens.holds(session, 1000.0)
    assert tokens.holds(session, 999.0 + SESSION)
    assert not tokens.holds(session, 1000.0 + SESSION)
    # One who could set his own time would have one for ever.
    assert not tokens.holds(f"{10**9}.{session.partition('.')[2]}", 1000.0)
    assert not only_read.holds(session, 1000.0)
    assert Tokens(serve.tokens).holds(session, 1000.0)
    for broken_one in ("", ".", "1.", "²." + session.partition(".")[2], session + "é", session + "\udcff"):
        assert not tokens.holds(broken_one, 1000.0)


# Pages of elsewhere


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.test"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.test", "Sec-Fetch-Site": "same-origin"},
    ],
)
async def test_a_page_of_elsewhere_changes_nothing(headers: dict[str, str]) -> None:
    async with api() as url:
        for path in ("/api/v1/control", "/api/v1/labels", "/login", "/logout"):
            assert await status(f"{url}{path}", "POST", **headers) == 403
        # Nor does our own: it only looks.
        assert await status(f"{url}/api/v1/control", "POST", Origin=url, **{"Sec-Fetch-Site": "same-origin"}) == 403


async def test_what_a_form_can_send_is_refused() -> None:
    async with api() as url:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a"):
            assert await status(f"{url}/api/v1/control", "POST", **{"Content-Type": kind}) == 415


async def test_every_answer_has_its_headers() -> None:
    async with api() as url:
        for path in ("/api/v1/verdict", "/none", "/healthz", "/metrics", "/api/v1/verdict?no=1"):
            _, headers, _ = await ask(f"{url}{path}")
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Security-Policy"].startswith("default-src 'none'; base-uri 'none'")
            assert headers["Cache-Control"] == "no-store"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert not any(name.lower().startswith("access-control") for name in headers)
        _, headers, _ = await ask(url)
        policy = headers["Content-Security-Policy"]
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


# What it bears


async def test_who_asks_too_often_has_to_wait_and_probes_never() -> None:
    async with api(limits={"rate": 0.01, "burst": 3}) as url:
        assert [await status(f"{url}/api/v1/verdict") for _ in range(4)] == [200, 200, 200, 429]
        _, headers, _ = await ask(f"{url}/api/v1/verdict")
        assert 1 <= int(headers["Retry-After"]) <= 100
        assert await status(f"{url}/healthz") == await status(f"{url}/metrics") == 200


def test_rates_are_of_each_client_and_bounded() -> None:
    now = 0.0
    rates = Rates(2.0, 3, lambda: now, most=2)
    assert [rates.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rates.take("b") == 0.0
    now = 0.25
    assert rates.take("a") == 0.25
    now = 0.5
    assert rates.take("a") == 0.0
    now = 100.0
    assert [rates.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    for at in range(100):
        rates.take(str(at))
    assert len(rates) == 2
    assert client_of("2001:db8::1") == client_of("2001:db8::2") != client_of("2001:db8:0:1::1")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("limt=3", "there is no parameter 'limt'; there are limit"),
        ("limit=3&limit=4", "2 times"),
        ("limit=0", "limit: expected `int` >= 1"),
        ("limit=a", "limit: expected `int`"),
        ("limit=" + "9" * 400, "limit"),
    ],
)
async def test_what_can_not_be_asked_is_told(query: str, says: str) -> None:
    async with api() as url:
        code, _, body = await ask(f"{url}/api/v1/pairs/sample?{query}")
        assert code == 400
        assert says in json.loads(body)["detail"]


async def test_sizes_are_bounded() -> None:
    async with api(limits={"body": 1000}) as url:
        code, _, _ = await ask(f"{url}/api/v1/control", "POST", json={"reason": "x" * 2000})
        assert code == 413
        code, _, body = await ask(f"{url}/api/v1/control", "POST", json={"reason": "x" * 900})
        assert (code, json.loads(body)["bytes"]) == (200, 914)
        assert await status(f"{url}/api/v1/verdict?a={'x' * LONGEST_TARGET}") == 414


async def test_an_error_of_ours_says_nothing_of_the_code(caplog: pytest.LogCaptureFixture) -> None:
    async with api() as url:
        code, headers, body = await ask(f"{url}/api/v1/history", headers={"Accept": "text/html"})
        assert (code, headers["Content-Type"]) == (500, "application/problem+json")
        assert b"secret" not in body
    assert "a secret of the code" in caplog.text


async def test_methods_that_there_are_not_are_told() -> None:
    async with api() as url:
        for method in ("DELETE", "OPTIONS", "PUT"):
            code, headers, _ = await ask(f"{url}/api/v1/verdict", method)
            assert (code, headers["Allow"]) == (405, "GET, HEAD")
        code, headers, body = await ask(f"{url}/api/v1/verdict", "HEAD")
        assert (code, body) == (200, b"")
        assert int(headers["Content-Length"]) > 0


async def test_what_is_no_http_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with api() as url:
        host, _, port = url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"\x16\x03\x01 no http\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.0 400 ")
        writer.close()
    assert "no http" not in caplog.text
