"""Section `serve`: where the API listens, who may ask it, and how much it bears."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo, field_validator

from shadowproxy.config.section import Section
from shadowproxy.config.units import Address, Count, Duration, Listen, Size

File = Annotated[str, Field(min_length=1)]
"""The path of a file, from the working directory."""

TOKEN_LENGTH: Final = 16
"""Fewest characters of a token: who may try as often as `serve.limits.rate` allows finds no such one by trying."""
_LOOPBACK: Final = re.compile(r"localhost|127(?:\.[0-9]{1,3}){3}|::1", re.IGNORECASE)
_HOST: Final = re.compile(r"[0-9A-Za-z_](?:[0-9A-Za-z_.-]{0,252})|[0-9a-fA-F:.]+")


def needs_certificate(file: str | None, info: ValidationInfo) -> str | None:
    """`file`, if the section it stands in has a certificate. Raises ValueError."""
    if file is not None and info.data.get("certificate", ...) is None:
        raise ValueError("is of no use without a `certificate`: give that too")
    return file


class ServerTls(Section):
    """TLS towards clients, where there is a certificate. Files are PEM; when they change they are read anew."""

    certificate: File | None = Field(
        None, description="the listener's own, and what it was signed by; none: clients speak plain HTTP"
    )
    key: File | None = Field(None, description="of that certificate; none: it stands in the same file")
    min_version: Literal["TLSv1.2", "TLSv1.3"] = Field("TLSv1.2", description="oldest that is spoken")

    @field_validator("key")
    @classmethod
    def _of_a_certificate(cls, file: str | None, info: ValidationInfo) -> str | None:
        return needs_certificate(file, info)


def _token(value: Any) -> Any:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    # Never quoted: it is a secret, or was meant to be one.
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError("must be text: put it in quotes, or write ${VARIABLE}")
    if len(text) < TOKEN_LENGTH:
        raise ValueError(
            f"has {len(text)} characters, and must have {TOKEN_LENGTH} at least: take one from `openssl rand -hex 24`"
        )
    if not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", text):
        raise ValueError("a bearer token has letters, digits and -._~+/ only (RFC 6750), and = at its end")
    return value


class AccessToken(Section):
    """Who shows this token (`Authorization: Bearer TOKEN`) may do so much."""

    token: Annotated[SecretStr | None, BeforeValidator(_token)] = Field(
        repr=False,
        description="16 characters or more; `${VAR}` keeps it out of the file, and with `${VAR:-null}` there is no "
        "such token where the variable is not set",
    )
    may: Literal["read", "control"] = Field(
        "read", description="control: also pause and resume mirroring, change the sample, stop, and add labels"
    )


class ServeLimits(Section):
    """What the API bears before it refuses."""

    rate: float = Field(
        100.0, gt=0, description="requests a second of one client address, in the long run; probes and /metrics aside"
    )
    burst: Count = Field(400, description="requests that one address may make at once")
    body: Size = Field(8 * 1024**2, gt=0, description="largest body of one request")
    connections: Count = Field(512, description="connections at once; one more is closed")
    listeners: Count = Field(64, description="readers of /api/v1/events at once")


def _host(value: Any) -> Any:
    if isinstance(value, str) and not _HOST.fullmatch(value):
        raise ValueError(
            f"{value!r} is not a host's name: write it without scheme and port, such as shadow.example.com"
        )
    return value.lower() if isinstance(value, str) else value


class Serve(Section):
    """The API and its page."""

    listen: Listen = Field(
        Address("127.0.0.1", 9100),
        description="the page at /, /api/v1/*, /metrics, /healthz and /readyz",
    )
    refresh: Duration = Field(1.0, gt=0, description="how often the verdict is worked out anew")
    tls: ServerTls = ServerTls()
    hosts: tuple[Annotated[str, BeforeValidator(_host)], ...] = Field(
        (),
        description="names under which the API is asked, beside its address. Where it listens on loopback, or names "
        "are given here, a request for any other name is refused: a web page may have its own name lead here",
    )
    tokens: tuple[AccessToken, ...] = Field(
        (),
        description="none: who reaches the API may read, and who does so from this machine may also control; else a "
        "token is needed for either, and to see the bodies of requests and answers",
    )
    metrics_token: bool = Field(False, description="whether /metrics needs a token too")
    limits: ServeLimits = ServeLimits()

    @field_validator("tokens")
    @classmethod
    def _distinct(cls, tokens: tuple[AccessToken, ...]) -> tuple[AccessToken, ...]:
        seen = [one.token.get_secret_value() for one in tokens if one.token is not None]
        if len(set(seen)) < len(seen):
            raise ValueError("one token stands there twice: take one out")
        return tuple(one for one in tokens if one.token is not None)

    @field_validator("metrics_token")
    @classmethod
    def _can_be_had(cls, needed: bool, info: ValidationInfo) -> bool:
        if needed and info.data.get("tokens", ...) == ():
            raise ValueError("there are no `tokens` that could be shown: give one, or take this out")
        return needed

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.listen.host)


def is_loopback(host: str) -> bool:
    """Whether a name or an address, as in a Host header without its port, means this machine.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("127.evil.test"), is_loopback("")
    (True, True, False, False)
    """
    return _LOOPBACK.fullmatch(host) is not None


def exposures(serve: Serve) -> list[str]:
    """What others on the network may do by these settings and are hardly meant to, one sentence each."""
    if serve.on_loopback:
        return []
    if not serve.tokens:
        open_to_all = (
            f"serve.listen is {serve.listen} and there are no serve.tokens: whoever reaches that address may read the "
            "verdict, the metrics and which pairs were kept; bodies are shown, and changes taken, on this machine only"
        )
        return [open_to_all]
    if serve.tls.certificate is None:
        in_clear = (
            f"serve.listen is {serve.listen} without serve.tls: tokens go over the network as plain text, unless "
            "something in front of it speaks TLS"
        )
        return [in_clear]
    return []
