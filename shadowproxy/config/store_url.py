"""What `redis.url` may be: one server, a Sentinel's service, a Cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

FORMS: Final = (
    "write redis://[user:password@]host:port/db, unix:///path, redis+sentinel://host:port,host:port/SERVICE or "
    "redis+cluster://host:port,host:port (rediss… for TLS)"
)
_ENCODE: Final = "percent-encode what is special in user and password (`/` as %2F)"

_KINDS: Final[dict[str, tuple[Literal["single", "sentinel", "cluster"], bool]]] = {
    "redis": ("single", False),
    "rediss": ("single", True),
    "unix": ("single", False),
    "redis+sentinel": ("sentinel", False),
    "rediss+sentinel": ("sentinel", True),
    "redis+cluster": ("cluster", False),
    "rediss+cluster": ("cluster", True),
}
_PORTS: Final = {"sentinel": 26379, "cluster": 6379}

TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
"""Query parameters that name files."""

_TLS: Final = frozenset(
    {*TLS_FILES, "ssl_ca_path", "ssl_ca_data", "ssl_password", "ssl_check_hostname", "ssl_cert_reqs", "ssl_ciphers"}
)
_SENTINEL: Final = frozenset({"sentinel_username", "sentinel_password"})
# What the code decides itself is taken and has no effect: such URLs are handed round between programs.
_DECIDED: Final = frozenset(
    {
        "protocol",
        "decode_responses",
        "socket_timeout",
        "socket_connect_timeout",
        "health_check_interval",
        "retry_on_timeout",
        "retry_on_error",
    }
)
_USUAL: Final = frozenset({"db", "username", "password", "client_name", "max_connections", "socket_keepalive"})


class ServerAddress(NamedTuple):
    """Where a server listens. `host` is a name or an IP address, an IPv6 one without brackets."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, repr=False)
class StoreUrl:
    """A store's URL in its parts. Holds passwords: never shown."""

    kind: Literal["single", "sentinel", "cluster"]
    tls: bool
    hosts: tuple[ServerAddress, ...]
    """Sentinels, or the nodes that a Cluster is first asked at; empty for a single server."""
    username: str | None = None
    password: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    service: str = ""
    """What Sentinel calls the master."""
    db: int = 0
    options: tuple[tuple[str, str], ...] = ()
    """Query parameters for each connection, decoded; without the Sentinels' user and what the code decides itself."""


def parse_store_url(url: str) -> StoreUrl:
    """The parts of `redis.url`.

    Raises ValueError, in words that quote nothing of the URL that could be a password.

    >>> parse_store_url("redis+sentinel://:secret@a,[::1]:5000/models/2").hosts
    (ServerAddress(host='a', port=26379), ServerAddress(host='::1', port=5000))
    """
    scheme, _, rest = url.partition("://")
    if scheme not in _KINDS or not rest:
        raise ValueError(FORMS)
    kind, tls = _KINDS[scheme]
    if re.search(r"[\x00-\x20\x7f]", url):
        raise ValueError(f"has a space or a control character; {_ENCODE}")
    place, _, query = rest.partition("?")
    if "#" in rest:
        raise ValueError(f"is not a URL: {_ENCODE}, `#` as %23")
    options = _options(query, kind, tls)
    if kind == "single":
        _check_single(url)
        return StoreUrl(kind, tls, (), options=_for_connections(options))
    authority, slash, path = place.partition("/")
    credentials, _, hosts = authority.rpartition("@")
    if "@" in credentials or "@" in path:
        raise ValueError(f"is not a URL: {_ENCODE}, `@` as %40")
    user, _, secret = credentials.partition(":")
    given = dict(options)
    service, db = _path(kind, path, slash)
    return StoreUrl(
        kind,
        tls,
        tuple(_address(host, _PORTS[kind]) for host in hosts.split(",")),
        username=unquote(user) or given.pop("username", None),
        password=unquote(secret) or given.pop("password", None),
        sentinel_username=given.get("sentinel_username"),
        sentinel_password=given.get("sentinel_password"),
        service=service,
        db=db,
        options=_for_connections([item for item in options if item[0] not in ("username", "password", "db")]),
    )


def _for_connections(options: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return tuple(item for item in options if item[0] not in _DECIDED | _SENTINEL)


def _options(query: str, kind: str, tls: bool) -> list[tuple[str, str]]:
    options = parse_qsl(query, keep_blank_values=True)
    known = _USUAL | _DECIDED | _TLS | _SENTINEL
    for name, value in options:
        # The name is not quoted either: a password with a question mark that nobody encoded ends up here.
        if name not in known:
            readable = ", ".join(sorted(_TLS | _USUAL))
            raise ValueError(f"has a query parameter that isn't known; there are {readable}; or {_ENCODE}, `?` as %3F")
        if name in _TLS and not tls:
            raise ValueError(f"`{name}` needs TLS: write rediss:// in place of redis://")
        if name in _SENTINEL and kind != "sentinel":
            raise ValueError(f"`{name}` is for redis+sentinel:// only")
        if name == "ssl_cert_reqs" and value not in ("none", "optional", "required"):
            raise ValueError("`ssl_cert_reqs` is none, optional or required")
        if name in ("db", "max_connections") and not value.isdecimal():
            raise ValueError(f"`{name}` is a number")
    return options


def _check_single(url: str) -> None:
    try:
        parts = urlsplit(url)
        if parts.scheme != "unix" and "," in parts.netloc.rpartition("@")[2]:
            raise ValueError("names several hosts: write redis+sentinel:// or redis+cluster://, as they are")
        usable = parts.port != 0 and (parts.scheme != "unix" or bool(parts.path.strip("/")))
    except ValueError as error:
        if str(error).startswith("names several"):
            raise
        usable = False
    if not usable:
        # Not in Python's words: they quote whatever stands where the port should, a part of the password maybe.
        raise ValueError(f"is not a URL: {_ENCODE}")


def _path(kind: str, path: str, slash: str) -> tuple[str, int]:
    """Service and database."""
    if kind == "cluster":
        if path not in ("", "0"):
            raise ValueError("a Cluster has no databases: leave the path away")
        return "", 0
    service, _, db = path.partition("/")
    if not slash or not service or (db and not db.isdecimal()):
        raise ValueError(
            "needs the name of the service that the Sentinels watch, and may have a database behind it: "
            "redis+sentinel://host:port,host:port/SERVICE/0"
        )
    return unquote(service), int(db or 0)


def _address(text: str, port: int) -> ServerAddress:
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]/]+))(?::(\d{1,5}))?", text)
    if found is None or not 0 < int(found[3] or port) < 65536:
        raise ValueError(f"needs host:port,host:port (an IPv6 address in brackets); or {_ENCODE}")
    return ServerAddress(found[1] or found[2], int(found[3] or port))
