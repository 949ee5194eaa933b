"""Errors as RFC 9457 has them: what every endpoint answers with where it can't answer with what was asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
from aiohttp import web

from shadowproxy.errors import PayloadError, StoreUnavailable

CONTENT_TYPE = "application/problem+json"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    """The status in words."""
    status: int
    detail: str
    """What is wrong and what to do, as text: it may quote what was asked."""


class Unknown(Exception):  # noqa: N818  (what was asked for, read as such at the call site)
    """What was asked for by name is not there: answered with 404. The message is for whoever asked."""


class Unfit(Exception):  # noqa: N818  (as above)
    """A parameter that can't be: answered with 400. The message is for whoever asked."""


def problem(status: int, title: str, detail: str) -> web.Response:
    """An error as RFC 9457 has it."""
    said = Problem(title=title, status=status, detail=detail)
    return web.Response(body=msgspec.json.encode(said), status=status, content_type=CONTENT_TYPE)


def explained(status: HTTPStatus, detail: str) -> web.Response:
    """A problem under the usual title of its status."""
    return problem(status, status.phrase, detail)


@web.middleware
async def problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Answers with a problem for whatever an endpoint raises that says whose fault it is."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return explained(HTTPStatus.NOT_FOUND, f"there is nothing at {request.path}")
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = explained(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.path} takes {allowed}")
        response.headers["Allow"] = allowed
        return response
    except web.HTTPClientError as error:
        return problem(error.status, error.reason, error.text or error.reason)
    except Unknown as error:
        return explained(HTTPStatus.NOT_FOUND, str(error))
    except Unfit as error:
        return explained(HTTPStatus.BAD_REQUEST, str(error))
    except (StoreUnavailable, PayloadError) as error:
        return explained(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
