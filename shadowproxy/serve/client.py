"""The API's client: for the command line and the demo, which ask a running API over HTTP like everybody else."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import aiohttp
import msgspec

from shadowproxy.errors import ApiUnavailable, Refused
from shadowproxy.pairs.controls import ControlChange, ControlStatus
from shadowproxy.verdict.record import Verdict

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Remote:
    """An API, and what it is asked with."""

    url: str
    """Its root."""
    token: str = field(default="", repr=False)
    """One of its `serve.tokens`; empty where it knows none."""
    cacert: Path | None = None
    """Who signed its certificate (PEM), instead of the system's store."""


class _Problem(msgspec.Struct):
    """What an API says that refuses (RFC 9457)."""

    detail: str


async def fetch_verdict(url: str | Remote, *, patience: float = 10.0) -> Verdict:
    """The current verdict of the API at `url` (its root).

    Raises ApiUnavailable where it doesn't answer within `patience` seconds, has no verdict to give, or isn't this API.
    """
    return await _ask(url, "verdict", Verdict, patience)


async def fetch_control(url: str | Remote, *, patience: float = 10.0) -> ControlStatus:
    """What is in force for the experiment of the API at `url`. Raises ApiUnavailable, as above."""
    return await _ask(url, "control", ControlStatus, patience)


async def change_control(url: str | Remote, change: ControlChange, *, patience: float = 10.0) -> ControlStatus:
    """Put a change in force. Raises ApiUnavailable, as above, and Refused for what can't be now."""
    return await _ask(url, "control", ControlStatus, patience, body=msgspec.json.encode(change))


async def _ask(api: str | Remote, what: str, kind: type[_T], patience: float, *, body: bytes | None = None) -> _T:
    remote = Remote(api) if isinstance(api, str) else api
    where = f"{remote.url.rstrip('/')}/api/v1/{what}"
    headers = {} if body is None else {"Content-Type": "application/json"}
    if remote.token:
        headers["Authorization"] = f"Bearer {remote.token}"
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(patience)) as session,
            session.request(
                "GET" if body is None else "POST",
                where,
                data=body,
                headers=headers,
                ssl=_trusted(remote.cacert),
                # Whoever it leads to has no right to the token.
                allow_redirects=False,
            ) as response,
        ):
            answer = await response.read()
            status = response.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise ApiUnavailable(
            f"{where} does not answer ({str(error) or type(error).__name__}); "
            "is `shadowproxy serve` or `run` running, and is --url right?"
        ) from None
    if status in (401, 403):
        raise ApiUnavailable(f"{where} answers {status}: {_detail(answer)} (--token, or SHADOWPROXY_API_TOKEN)")
    if status == 409:
        raise Refused(_detail(answer))
    if status != 200:
        raise ApiUnavailable(f"{where} answers {status}: {answer[:300].decode('utf-8', 'replace')}")
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.MsgspecError as error:
        article = "a verdict" if kind is Verdict else "the controls"
        raise ApiUnavailable(f"{where} does not answer with {article} ({error}); is --url right?") from None


def _trusted(cacert: Path | None) -> ssl.SSLContext | bool:
    if cacert is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(cacert))
    except (OSError, ssl.SSLError) as error:
        raise ApiUnavailable(f"--cacert {cacert} can't be used ({error}); give a PEM file with certificates") from None


def _detail(answer: bytes) -> str:
    try:
        return msgspec.json.decode(answer, type=_Problem).detail
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return answer[:300].decode("utf-8", "replace")
