"""redis-py at arm's length: how this project connects, what it asks, and what a failure is called.

Everything goes through here, so that no exception of redis-py and no password leaves the room.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import redis.exceptions as errors
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from shadowproxy.errors import StartError, StoreUnavailable

_ADVICE: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (errors.AuthenticationError, "check the user and the password in redis.url"),
    (errors.NoPermissionError, "give the user in redis.url all commands on the keys shadow:*"),
    (errors.BusyLoadingError, "it is still loading its data; wait"),
    (errors.OutOfMemoryError, "raise its maxmemory, or lower redis.max_entries"),
    (errors.ReadOnlyError, "redis.url must name the primary, this is a replica"),
    (errors.InvalidResponse, "what listens there doesn't speak the Redis protocol; check redis.url"),
    (errors.TimeoutError, "it doesn't answer in time; check its load and the network"),
    (TimeoutError, "it doesn't answer in time; check its load and the network"),
    (errors.ConnectionError, "check that it runs and that redis.url is right"),
    (OSError, "check that it runs and that redis.url is right"),
    (errors.ResponseError, "it refused the command; Redis ≥ 7 or Valkey ≥ 8, not a Cluster, is needed"),
)


def redacted(url: str) -> str:
    """A store's URL as it may be shown: without password and without query.

    Never raises. Where a password holds characters that should have been encoded, nobody can tell where it ends, and
    nothing but the scheme is shown.

    >>> redacted("redis://me:secret@host:6379/0?password=secret"), redacted("redis://:sec/ret@host")
    ('redis://me:***@host:6379/0', 'redis://***')
    """
    scheme, colon, rest = url.rpartition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    place = re.split("[?#]", rest, maxsplit=1)[0]
    if "@" not in rest:
        return f"{scheme}{colon}{place}"
    if not colon or rest.count("@") > 1 or "@" not in host:
        return f"{scheme}{colon}***"
    credentials, _, place = place.partition("@")
    user, secret, _ = credentials.partition(":")
    return f"{scheme}://{user}{':***' if secret else ''}@{place}"


@contextmanager
def boundary(url: str) -> Iterator[None]:
    """Turn whatever redis-py raises within into StoreUnavailable, with what to do about it."""
    try:
        yield
    except (errors.RedisError, OSError) as error:
        advice = next((advice for kind, advice in _ADVICE if isinstance(error, kind)), "check redis.url")
        what = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise StoreUnavailable(f"{redacted(url)}: {what}; {advice}") from error


def _without(url: str, names: Iterable[str]) -> str:
    """The URL less these query parameters: in redis-py what the URL says would win over what the code says."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in names]
    return url.partition("?")[0] + (f"?{urlencode(kept)}" if kept else "")


class Script:
    """A Lua script, and the name by which a server remembers it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Client:
    """A pool of connections to one server, and raw replies: bytes, integers and lists, as RESP2 has them.

    Raises what redis-py raises; callers stand in `boundary`.
    """

    def __init__(self, url: str, *, reply_within: float | None, connect_within: float, attempts: int) -> None:
        """`reply_within` seconds for a reply, None for no bound; `attempts` on a broken connection.

        Raises StartError for a URL that can't be used.
        """
        pinned: dict[str, Any] = {
            "protocol": 2,
            "decode_responses": False,
            "socket_timeout": reply_within,
            "socket_connect_timeout": connect_within,
            "health_check_interval": 0,
        }
        try:
            # Only a broken connection, such as a pooled one from before a restart, is worth another try here: after a
            # timeout the caller decides.
            retry = Retry(NoBackoff(), attempts - 1, supported_errors=(errors.ConnectionError,))
            self._redis = Redis.from_url(_without(url, pinned), retry=retry, **pinned)
        except ValueError:
            # Not in redis-py's words: they quote whatever stands where the port should, a part of the password maybe.
            raise StartError(
                f"redis.url {redacted(url)} can't be used; write redis://[user:password@]host:port/db, rediss://… or "
                "unix:///path, and percent-encode what is special in user and password (`/` as %2F)"
            ) from None
        # What redis-py makes of a reply differs by its version and the protocol; the plain reply does not.
        self._redis.response_callbacks.clear()

    async def command(self, *words: Any) -> Any:
        """One command, its raw reply."""
        # redis-py leaves this one method without types.
        return await self._redis.execute_command(*words)  # type: ignore[no-untyped-call]

    async def run(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        """One script, sent in full only where the server doesn't know it yet (anew after each of its restarts)."""
        try:
            return await self.command("EVALSHA", script.sha, len(keys), *keys, *args)
        except errors.NoScriptError:
            return await self.command("EVAL", script.text, len(keys), *keys, *args)

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose()
