"""redis-py at arm's length: how this project connects, what it asks, and what a failure is called.

Everything goes through here, so that no exception of redis-py and no password leaves the room.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlencode

import redis.exceptions as errors
from redis.asyncio import Redis, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shadowproxy.config.store_url import TLS_FILES, ServerAddress, parse_store_url
from shadowproxy.errors import StartError, StoreUnavailable
from shadowproxy.pairs.routing import Cluster, Router, Sentinels, Server, Single

_SEND_BYTES: Final = 2 * 1024**2
_ADVICE: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (errors.AuthenticationError, "check the user and the password in redis.url"),
    (errors.AuthorizationError, "check the user and the password in redis.url"),
    (errors.NoPermissionError, "give the user in redis.url the commands that docs/stores.md lists, on keys shadow:*"),
    (errors.BusyLoadingError, "it is still loading its data; wait"),
    (errors.OutOfMemoryError, "raise its maxmemory, or lower redis.max_entries"),
    (
        errors.ReadOnlyError,
        "redis.url must name the primary, this is a replica; or the Sentinels, as redis+sentinel://",
    ),
    (errors.MovedError, "it is a node of a Cluster; write redis+cluster:// in redis.url"),
    (errors.AskError, "it is a node of a Cluster; write redis+cluster:// in redis.url"),
    (errors.TryAgainError, "a slot is on its way to another node; wait"),
    (errors.ClusterDownError, "wait for the Cluster to mend, or look at CLUSTER INFO of its nodes"),
    (errors.InvalidResponse, "what listens there doesn't speak the Redis protocol; check redis.url"),
    (errors.TimeoutError, "it doesn't answer in time; check its load and the network"),
    (TimeoutError, "it doesn't answer in time; check its load and the network"),
    (ssl.SSLError, "check ssl_ca_certs, ssl_certfile and ssl_keyfile in redis.url, and the server's certificate"),
    (errors.ConnectionError, "check that it runs and that redis.url is right"),
    (OSError, "check that it runs and that redis.url is right"),
    (errors.ResponseError, "it refused the command; Redis ≥ 7 or Valkey ≥ 8 is needed, and a redis.url of its kind"),
)


COMMANDS: Final = (
    "del", "eval", "evalsha", "exists", "get", "hdel", "hexists", "hget", "hgetall", "hincrby", "hkeys", "hlen",
    "hmget", "hset", "hsetnx", "info", "lpop", "lpush", "lrange", "ltrim", "rpush", "set", "time", "xack", "xadd",
    "xclaim", "xdel", "xgroup", "xinfo", "xlen", "xpending", "xrange", "xread", "xreadgroup", "xrevrange", "xtrim",
    "zadd", "zcard", "zcount", "zpopmin", "zrange", "zrangebyscore", "zrem", "zscore",
)  # fmt: skip
"""What a user of the store must be allowed to do, on the keys shadow:*, as an ACL names it."""

CLUSTER_COMMANDS: Final = ("asking", "cluster|slots")
"""And besides in a Cluster."""


def redacted(url: str) -> str:
    """A store's URL as it may be shown: without password and without query.

    Never raises. Where a password holds characters that should have been encoded, nobody can tell where it ends, and
    nothing but the scheme is shown.

    >>> redacted("redis://me:secret@host:6379/0?password=secret"), redacted("redis://:sec/ret@host")
    ('redis://me:***@host:6379/0', 'redis://***')
    """
    found = re.match(r"[a-z+]+://", url)
    scheme, rest = (found[0], url[found.end() :]) if found else ("", url)
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    place = re.split("[?#]", rest, maxsplit=1)[0]
    if "@" not in rest:
        return f"{scheme}{place}"
    if not scheme or rest.count("@") > 1 or "@" not in host:
        return f"{scheme}***"
    credentials, _, place = place.partition("@")
    user, secret, _ = credentials.partition(":")
    return f"{scheme}{user}{':***' if secret else ''}@{place}"


@contextmanager
def boundary(url: str) -> Iterator[None]:
    """Turn whatever redis-py raises within into StoreUnavailable, with what to do about it."""
    try:
        yield
    except (errors.RedisError, OSError) as error:
        # redis-py tells what went wrong in TLS as a connection that failed.
        cause = error.__cause__ or error.__context__
        known = cause if isinstance(cause, ssl.SSLError) else error
        if "ACL failure in script" in str(error):
            known = errors.NoPermissionError()
        advice = next((advice for kind, advice in _ADVICE if isinstance(known, kind)), "check redis.url")
        what = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise StoreUnavailable(f"{redacted(url)}: {what}; {advice}") from error


class Script:
    """A Lua script, and the name by which a server remembers it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Client:
    """Connections to a store of any kind, and raw replies: bytes, integers and lists, as RESP2 has them.

    Raises what redis-py raises; callers stand in `boundary`.
    """

    def __init__(self, url: str, *, reply_within: float | None, connect_within: float, attempts: int) -> None:
        """`reply_within` seconds for a reply, None for no bound; `attempts` on a broken connection.

        Raises StartError for a URL that can't be used.
        """
        try:
            where = parse_store_url(url)
        except ValueError as error:
            raise StartError(f"redis.url {redacted(url)} can't be used: {error}") from None
        for name, value in where.options:
            if name in TLS_FILES and not os.access(value, os.R_OK):
                raise StartError(f"redis.url {redacted(url)} can't be used: {name} {value} can't be read")
        pinned: dict[str, Any] = {
            "protocol": 2,
            "decode_responses": False,
            "socket_timeout": reply_within,
            "socket_connect_timeout": connect_within,
            "health_check_interval": 0,
        }

        def connect(base: str, username: str | None = None, password: str | None = None) -> Single:
            # In redis-py what the URL says would win over what the code says.
            query = urlencode([item for item in where.options if item[0] not in pinned])
            chosen = {**pinned, "username": username, "password": password} if password is not None else pinned
            # Only a broken connection, such as a pooled one from before a restart, is worth another try here: after a
            # timeout the caller decides.
            retry = Retry(NoBackoff(), attempts - 1, supported_errors=(errors.ConnectionError,))
            client = Redis.from_url(f"{base}?{query}", retry=retry, **chosen)
            if client.connection_pool.connection_class is UnixDomainSocketConnection:
                client.connection_pool.connection_class = _RoomySocket
            return Single(client)

        def server(address: ServerAddress) -> Single:
            return connect(_base(address, where.tls, where.db), where.username, where.password)

        def sentinel(address: ServerAddress) -> Single:
            return connect(_base(address, where.tls, 0), where.sentinel_username, where.sentinel_password)

        self._server: Server
        if where.kind == "single":
            self._server = connect(url.partition("?")[0])
            return
        directory = Cluster(where.hosts) if where.kind == "cluster" else Sentinels(where.hosts, where.service, sentinel)
        within = None if reply_within is None else connect_within + reply_within
        self._server = Router(directory, server, within=within, look_within=connect_within)

    async def command(self, *words: Any, near: str | None = None) -> Any:
        """One command, its raw reply. In a Cluster it goes where its key is; one without a key, where `near` is."""
        return await self._server.command(words, near)

    async def run(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        """One script, sent in full only where the server doesn't know it yet (anew after each of its restarts)."""
        try:
            return await self.command("EVALSHA", script.sha, len(keys), *keys, *args)
        except errors.NoScriptError:
            return await self.command("EVAL", script.text, len(keys), *keys, *args)

    async def close(self) -> None:
        """Close all connections."""
        await self._server.close()


class _RoomySocket(UnixDomainSocketConnection):
    """A Unix socket that takes a batch in one piece.

    By default it takes 200 KiB, and a batch of half a megabyte goes out in several writes, each waiting for the server
    to read: a tenth of what recording costs. TCP sockets grow by themselves. What the system doesn't allow
    (`net.core.wmem_max`) it leaves out without a word.
    """

    async def _connect(self) -> None:
        await super()._connect()  # type: ignore[no-untyped-call]  # (redis-py has no types there)
        writer = self._writer
        if writer is not None:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)


def _base(address: ServerAddress, tls: bool, db: int) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{'rediss' if tls else 'redis'}://{host}:{address.port}/{db}"
