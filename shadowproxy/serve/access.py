"""Who may do what: every request passes here before an endpoint sees it, and every answer gets its security headers.

The checks stand in the order of what they cost, and none says more than one must know to do better.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from shadowproxy.config import Serve, is_loopback
from shadowproxy.serve.endpoint import Endpoint, Needs
from shadowproxy.serve.problems import Unfit, explained
from shadowproxy.serve.rates import Rates, client_of
from shadowproxy.serve.sessions import SESSION, Tokens

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COOKIE: Final = "shadowproxy_session"
LONGEST_TARGET: Final = 4096
"""Characters of a path with its query."""
_BODY_WITHIN: Final = 15.0
"""Seconds in which a whole body must be here."""
_FORWARDED: Final = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
"""Who sends one of these speaks for somebody else, who may be anywhere."""

HEADERS: Final[Mapping[str, str]] = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
"""On every answer."""
_NOTHING: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY: Final = (
    # The hash is that of the empty text: Plotly makes an empty <style>, and fills it by script.
    "default-src 'none'; script-src 'self'; style-src 'self' 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: what it is made of comes from here, and nothing in the markup is a script."""


@dataclass(frozen=True, slots=True)
class Caller:
    """What somebody may do who sends a request."""

    reads: bool = False
    controls: bool = False
    sees: bool = False
    """Whether the heads and bodies of what the services were asked and answered may be shown."""

    def may(self, needs: Needs) -> bool:
        """Whether what an endpoint needs is allowed."""
        return needs == "nothing" or (self.controls if needs == "control" else self.reads)


NOBODY: Final = Caller()
_CALLER: Final = web.RequestKey("caller", Caller)


def caller(request: web.Request) -> Caller:
    """Who sent this request; where nobody asked (another server than the API), one who may nothing."""
    found: Caller = request.get(_CALLER, NOBODY)
    return found


class Access:
    """The middleware of the API, and the endpoints by which a browser comes in and leaves."""

    def __init__(
        self,
        serve: Serve,
        endpoints: Mapping[tuple[str, str], Endpoint],
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """`clock` is Unix time. `endpoints` may be filled until the first request comes."""
        self._endpoints = endpoints
        self._tokens = Tokens(serve.tokens)
        self._secure = serve.tls.certificate is not None
        self._hosts = {serve.listen.host.lower(), *serve.hosts} - {""} if serve.on_loopback or serve.hosts else None
        self._metrics_token = serve.metrics_token
        self._limits = serve.limits
        self._rates = Rates(serve.limits.rate, serve.limits.burst, monotonic)
        self._clock = clock

    @property
    def routes(self) -> list[web.RouteDef]:
        """What to serve."""
        return [web.post("/login", self._login), web.post("/logout", self._logout)]

    @property
    def middleware(self) -> Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]:
        """Stands before all others."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            endpoint = self._endpoint(request)
            try:
                refusal = await self._refusal(request, endpoint)
                return await handler(request) if refusal is None else refusal
            except Unfit as error:
                return explained(HTTPStatus.BAD_REQUEST, str(error))
            except web.HTTPException:
                raise
            except (ConnectionError, asyncio.CancelledError):
                # Whoever asked is gone.
                raise
            except Exception:
                log.exception("%s %s failed", request.method, request.path)
                return explained(HTTPStatus.INTERNAL_SERVER_ERROR, "an error of the API's own; its log says more")

        return guard

    async def protect(self, request: web.Request, response: web.StreamResponse) -> None:
        """Adds the security headers, when the head of an answer is about to be sent (`on_response_prepare`)."""
        response.headers.update(HEADERS)
        page = response.content_type == "text/html"
        # A browser that kept the page takes over the headers of "not modified", and would have no policy but this.
        if response.status != HTTPStatus.NOT_MODIFIED:
            response.headers["Content-Security-Policy"] = PAGE_POLICY if page else _NOTHING
        # What was shown to one who may see it stays in no cache of a proxy between.
        response.headers.setdefault("Cache-Control", "no-store")
        if len(self._tokens):
            response.headers.add("Vary", "Authorization, Cookie")
        if self._secure:
            response.headers["Strict-Transport-Security"] = "max-age=31536000"

    def _endpoint(self, request: web.Request) -> Endpoint | None:
        resource = request.match_info.route.resource
        method = "GET" if request.method == "HEAD" else request.method
        return None if resource is None else self._endpoints.get((method, resource.canonical))

    async def _refusal(self, request: web.Request, endpoint: Endpoint | None) -> web.Response | None:
        """Why this request is not answered; None where it is."""
        early = self._misdirected(request) or self._too_often(request, endpoint)
        if early is not None:
            return early
        who = self._who(request)
        request[_CALLER] = who
        needs: Needs = "read" if endpoint is None else endpoint.needs
        if endpoint is not None and endpoint.path == "/metrics":
            needs = "read" if self._metrics_token else "nothing"
        if not who.may(needs):
            return self._forbidden(request, who, needs)
        if endpoint is None:
            return None
        if (refusal := self._foreign(request, endpoint)) is not None:
            return refusal
        if endpoint.documented:
            endpoint.check_query({name: request.query.getall(name) for name in request.query})
        return await self._unfit_body(request, endpoint)

    def _misdirected(self, request: web.Request) -> web.Response | None:
        if len(request.raw_path) > LONGEST_TARGET:
            detail = f"path and query have {len(request.raw_path)} characters, and may have {LONGEST_TARGET}"
            return explained(HTTPStatus.REQUEST_URI_TOO_LONG, detail)
        if self._hosts is None:
            return None
        host = urlsplit(f"//{request.host}").hostname if _well_formed(request.host) else None
        # A name is what a page of elsewhere can have lead here; it can't be an address.
        if host is not None and (host in self._hosts or is_loopback(host) or _is_address(host)):
            return None
        return explained(
            HTTPStatus.MISDIRECTED_REQUEST,
            "this API is not asked under that name; add it to serve.hosts if it is to be",
        )

    def _too_often(self, request: web.Request, endpoint: Endpoint | None) -> web.Response | None:
        if endpoint is not None and endpoint.quiet:
            return None
        wait = self._rates.take(client_of(request.remote))
        if not wait:
            return None
        response = explained(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"more than {self._limits.rate:g} requests a second from one address (serve.limits.rate); ask later",
        )
        response.headers["Retry-After"] = str(math.ceil(wait))
        return response

    def _who(self, request: web.Request) -> Caller:
        if not len(self._tokens):
            here = is_loopback(request.remote or "") and not any(name in request.headers for name in _FORWARDED)
            return Caller(reads=True, controls=here, sees=here)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            may = self._tokens.may(token.strip())
            return NOBODY if may is None else Caller(reads=True, controls=may == "control", sees=True)
        if self._tokens.holds(request.cookies.get(COOKIE, ""), self._clock()):
            # A browser's session may only read, so that no page can have it change anything.
            return Caller(reads=True, sees=True)
        return NOBODY

    def _forbidden(self, request: web.Request, who: Caller, needs: Needs) -> web.Response:
        challenge = 'Bearer realm="shadowproxy"'
        if not who.reads:
            said = "Authorization" in request.headers
            response = explained(
                HTTPStatus.UNAUTHORIZED,
                "that token is not known; send one of serve.tokens as `Authorization: Bearer TOKEN`"
                if said
                else "send one of serve.tokens as `Authorization: Bearer TOKEN`, or log in at /",
            )
            response.headers["WWW-Authenticate"] = challenge + (', error="invalid_token"' if said else "")
            return response
        if len(self._tokens):
            detail = "this needs a token that may control, sent as `Authorization: Bearer TOKEN` (a login only reads)"
        else:
            detail = "without serve.tokens this is taken from this machine only; configure a token that may control"
        response = explained(HTTPStatus.FORBIDDEN, detail)
        if len(self._tokens):
            response.headers["WWW-Authenticate"] = challenge + ', error="insufficient_scope"'
        return response

    def _foreign(self, request: web.Request, endpoint: Endpoint) -> web.Response | None:
        """No web page may change anything behind the back of whoever looks at it. Browsers add Origin to every POST,
        also where a page has its own name lead here; so who sends one is refused, but for what our own page sends."""
        if endpoint.method == "GET":
            return None
        origin = request.headers.get("Origin")
        site = request.headers.get("Sec-Fetch-Site", "none")
        own = origin is not None and urlsplit(origin).netloc.lower() == request.host.lower() and site == "same-origin"
        if (origin is None and site == "none") or (own and endpoint.of_page):
            return None
        return explained(
            HTTPStatus.FORBIDDEN, "this can't be done from a web page; use the command line, or a client of your own"
        )

    async def _unfit_body(self, request: web.Request, endpoint: Endpoint) -> web.Response | None:
        """Reads the body, so that what an endpoint gets is whole and bounded."""
        if endpoint.body is not None and request.content_type not in endpoint.body.kinds:
            kinds = " or ".join(endpoint.body.kinds)
            return explained(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send it as Content-Type: {kinds}")
        try:
            async with asyncio.timeout(_BODY_WITHIN):
                # Bounded by the application's client_max_size.
                await request.read()
        except web.HTTPRequestEntityTooLarge:
            return explained(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a body of more than {self._limits.body} bytes (serve.limits.body) is not taken: split it",
            )
        except TimeoutError:
            response = explained(HTTPStatus.REQUEST_TIMEOUT, f"the body was not whole within {_BODY_WITHIN:g} s")
            response.force_close()
            return response
        except web.RequestPayloadError:
            return explained(HTTPStatus.BAD_REQUEST, "the body can't be unpacked, or ends too early")
        return None

    async def _login(self, request: web.Request) -> web.Response:
        # Whoever comes so far has shown a token, has a session already, or needs none.
        token = request.headers.get("Authorization", "").partition(" ")[2].strip()
        response = web.Response(status=HTTPStatus.NO_CONTENT)
        if len(self._tokens) and self._tokens.may(token) is not None:
            self._set_cookie(response, self._tokens.session(token, self._clock()), SESSION)
        return response

    async def _logout(self, _request: web.Request) -> web.Response:
        response = web.Response(status=HTTPStatus.NO_CONTENT)
        self._set_cookie(response, "", 0)
        return response

    def _set_cookie(self, response: web.Response, value: str, seconds: int) -> None:
        response.set_cookie(
            COOKIE, value, max_age=seconds, path="/", httponly=True, samesite="Strict", secure=self._secure
        )


def _well_formed(host: str) -> bool:
    return host.isascii() and not set(host) & set("/?#@\\ \t") and host.count("[") == host.count("]") <= 1


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
