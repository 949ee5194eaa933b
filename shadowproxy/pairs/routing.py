"""Which server a command goes to, where that can change: the master that Sentinels name, the nodes of a Cluster.

redis-py has clients for both. That for a Cluster sends ASKING as a command of its own, by whichever connection is free,
so that of several tasks the wrong one may be let through; asks the server where the key of an XREADGROUP stands each
time; and raises some errors that are no RedisError. All keys of one of our commands carry one hash tag, so little is
needed of a router, and it is here: one map from slots to servers, and a plain pool of connections for each of them.

Nothing here waits and tries again. A command is sent to where it is directed, a few times at the most, and to the
server's successor where there is one already; whatever else comes of it is raised, and callers pause before they ask
again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, Protocol

import redis.exceptions as errors
from redis.asyncio import Redis
from redis.crc import key_slot

from shadowproxy.config.store_url import ServerAddress
from shadowproxy.tasks import first

_REDIRECTIONS: Final = 5
"""Times that one command follows MOVED and ASK: more only where servers disagree, who need time and no questions."""
_STAGGER: Final = 0.1
"""Seconds that one server has to say who serves, before the next is asked beside it."""
_LOOK_AGAIN: Final = 1.0
"""Seconds between questions to the Sentinels where nothing seems wrong: a master that has been replaced goes on to
answer until they reach it, and what it is given by then is lost."""

Words = Sequence[Any]
Ranges = Sequence[tuple[int, int, ServerAddress]]
"""First slot, last slot, who serves them."""

_GONE: Final = (errors.ConnectionError, errors.TimeoutError, OSError)
_NOT_THE_MASTER: Final = (*_GONE, errors.ReadOnlyError, errors.ClusterDownError)


class Server(Protocol):
    """Where commands are sent."""

    async def command(self, words: Words, near: str | None = None) -> Any:
        """One command, its raw reply; where it has no key, of the server that has the key `near`.

        Raises what redis-py raises, and OSError.
        """

    async def close(self) -> None:
        """Close all connections."""


class Single:
    """One server that stays where it is."""

    def __init__(self, redis: Redis) -> None:
        # What redis-py makes of a reply differs by its version and the protocol; the plain reply does not.
        redis.response_callbacks.clear()
        self._redis = redis

    async def command(self, words: Words, near: str | None = None) -> Any:
        """See `Server.command`."""
        # redis-py leaves this one method without types.
        return await self._redis.execute_command(*words)  # type: ignore[no-untyped-call]

    async def command_asking(self, words: Words) -> Any:
        """As `command`, to the server that a slot is on its way to. ASKING holds for one command of one connection."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.execute_command("ASKING")
        pipeline.execute_command(*words)
        _, reply = await pipeline.execute(raise_on_error=False)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def close_idle(self) -> None:
        """Close the connections that nobody uses."""
        await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """See `Server.close`."""
        await self._redis.aclose()


Connect = Callable[[ServerAddress], Single]


class Pools:
    """A pool of connections for each server."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._open: dict[ServerAddress, Single] = {}
        self._retired: list[Single] = []

    def at(self, address: ServerAddress) -> Single:
        """The pool of that server."""
        found = self._open.get(address)
        if found is None:
            found = self._open[address] = self._connect(address)
        return found

    async def keep(self, addresses: set[ServerAddress]) -> None:
        """Give up those of all other servers.

        What is under way there ends as it does: redis-py has no word for a connection that is taken from under a
        command. What it leaves open is closed the next time.
        """
        retired, self._retired = self._retired, [self._open.pop(one) for one in [*self._open.keys() - addresses]]
        for pool in (*retired, *self._retired):
            await pool.close_idle()

    async def close(self) -> None:
        """Close them all."""
        while self._open or self._retired:
            await (self._retired.pop() if self._retired else self._open.popitem()[1]).close()


class Directory(Protocol):
    """Knows which server serves which slots."""

    @property
    def look_again(self) -> float | None:
        """Seconds after which it is asked without a reason, None for never."""

    def slot(self, key: bytes | None) -> int | None:
        """Where a key is, None where any server will do."""

    def informants(self, known: Sequence[ServerAddress]) -> Sequence[ServerAddress]:
        """Who can be asked, `known` being the servers of the last answer."""

    async def ask(self, address: ServerAddress, servers: Pools) -> Ranges:
        """One of them is asked. Raises what redis-py raises, and OSError."""

    async def close(self) -> None:
        """Close connections of its own."""


class Router:
    """Sends each command to the server that serves its key. Belongs to one event loop."""

    def __init__(
        self,
        directory: Directory,
        connect: Connect,
        *,
        within: float | None,
        look_within: float,
        shuffle: Callable[[list[Any]], None] = random.shuffle,
    ) -> None:
        """A command takes at most `within` seconds, all of its ways together; None for no bound. To find out who serves
        takes at most `look_within`."""
        self._directory = directory
        self._pools = Pools(connect)
        self._within = within
        self._look_within = look_within
        self._shuffle = shuffle
        self._ranges: Ranges = ()
        self._owners: dict[int | None, ServerAddress] = {}
        self._doubtful: set[ServerAddress] = set()
        self._looking = asyncio.Lock()
        self._looks = 0
        self._looked_at = 0.0
        self._failure: Exception | None = None

    async def command(self, words: Words, near: str | None = None) -> Any:
        """See `Server.command`."""
        slot = self._directory.slot(key_of(words) if near is None else near.encode("utf-8", "surrogatepass"))
        async with asyncio.timeout(self._within):
            return await self._routed(words, slot)

    async def _routed(self, words: Words, slot: int | None) -> Any:
        at, asking, succeeded = await self._owner(slot), False, False
        for _ in range(_REDIRECTIONS):
            server = self._pools.at(at)
            try:
                return await (server.command_asking if asking else server.command)(words)
            except errors.MovedError as moved:
                at, asking = _target(moved, at), False
                self._owners[slot] = at
            except errors.AskError as ask:
                at, asking = _target(ask, at), True
            except _NOT_THE_MASTER:
                self._doubtful.add(at)
                successor = at if succeeded else await self._owner(slot)
                if successor == at:
                    raise
                at, asking, succeeded = successor, False, True
            except asyncio.CancelledError:
                # Somebody's patience is over, likely.
                self._doubtful.add(at)
                raise
        raise errors.ClusterDownError(f"after {_REDIRECTIONS} redirections still nobody serves slot {slot}")

    async def _owner(self, slot: int | None) -> ServerAddress:
        again, clock = self._directory.look_again, asyncio.get_running_loop().time
        at = self._known(slot)
        if at is None or at in self._doubtful:
            await self._look()
        elif again is not None and clock() - self._looked_at > again:
            try:
                await self._look()
            except (errors.RedisError, OSError):
                # Those that serve may be well while those that watch them are not.
                self._looked_at = clock()
        at = self._known(slot)
        if at is None:
            raise errors.ClusterDownError(f"no server serves slot {slot}")
        return at

    def _known(self, slot: int | None) -> ServerAddress | None:
        at = self._owners.get(slot)
        if at is None:
            serving = (owner for low, high, owner in self._ranges if slot is None or low <= slot <= high)
            at = next(serving, None)
            if at is not None:
                self._owners[slot] = at
        return at

    async def _look(self) -> None:
        """Find out who serves. Of several tasks that want to know, one asks for all."""
        looks = self._looks
        async with self._looking:
            if self._looks == looks:
                try:
                    self._ranges = await self._found()
                except (errors.RedisError, OSError) as error:
                    self._looks += 1
                    self._failure = error
                else:
                    self._looks += 1
                    self._failure = None
                    self._owners.clear()
                    self._doubtful.clear()
                    self._looked_at = asyncio.get_running_loop().time()
                    await self._pools.keep({*self._serving(), *self._directory.informants(())})
            if self._failure is not None:
                raise self._failure

    def _serving(self) -> list[ServerAddress]:
        return list({owner for _, _, owner in self._ranges})

    async def _found(self) -> Ranges:
        informants = list(dict.fromkeys(self._directory.informants(self._serving())))
        self._shuffle(informants)
        informants.sort(key=self._doubtful.__contains__)
        questions: list[Callable[[], Coroutine[Any, Any, Ranges]]] = [
            partial(self._directory.ask, address, self._pools) for address in informants
        ]
        async with asyncio.timeout(self._look_within):
            return await first(questions, _STAGGER)

    async def close(self) -> None:
        """See `Server.close`."""
        await self._pools.close()
        await self._directory.close()


class Cluster:
    """The directory of a Cluster: each node knows them all."""

    look_again: float | None = None

    def __init__(self, nodes: Sequence[ServerAddress]) -> None:
        """`nodes` are where to ask first."""
        self._nodes = nodes

    def slot(self, key: bytes | None) -> int | None:
        """See `Directory.slot`."""
        return None if key is None else key_slot(key)

    def informants(self, known: Sequence[ServerAddress]) -> Sequence[ServerAddress]:
        """See `Directory.informants`."""
        return [*self._nodes, *known]

    async def ask(self, address: ServerAddress, servers: Pools) -> Ranges:
        """See `Directory.ask`."""
        ranges = []
        for low, high, master, *_ in await servers.at(address).command(("CLUSTER", "SLOTS")):
            # A node that doesn't know its own name means: where you reached me.
            host = (master[0] or b"").decode("utf-8", "replace")
            if host != "?":
                ranges.append((int(low), int(high), ServerAddress(host or address.host, int(master[1]))))
        if not ranges:
            raise errors.ClusterDownError(f"{address.host}:{address.port} knows of no node that serves slots")
        return ranges

    async def close(self) -> None:
        """See `Directory.close`."""


class Sentinels:
    """The directory of a service that Sentinels watch: one master serves everything."""

    look_again: float | None = _LOOK_AGAIN

    def __init__(self, sentinels: Sequence[ServerAddress], service: str, connect: Connect) -> None:
        self._addresses = sentinels
        self._service = service
        self._sentinels = Pools(connect)

    def slot(self, key: bytes | None) -> int | None:
        """See `Directory.slot`."""
        return None

    def informants(self, known: Sequence[ServerAddress]) -> Sequence[ServerAddress]:
        """See `Directory.informants`."""
        return self._addresses

    async def ask(self, address: ServerAddress, servers: Pools) -> Ranges:
        """See `Directory.ask`."""
        found = await self._sentinels.at(address).command(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service))
        if not found:
            raise errors.ResponseError(
                f"the Sentinel {address.host}:{address.port} doesn't know the service {self._service!r}"
            )
        return [(0, 0, ServerAddress(found[0].decode("utf-8", "replace"), int(found[1])))]

    async def close(self) -> None:
        """See `Directory.close`."""
        await self._sentinels.close()


_WITHOUT_KEY: Final = frozenset({"INFO", "TIME", "PING"})
_KEY_THIRD: Final = frozenset({"XGROUP", "XINFO", "OBJECT", "MEMORY"})


def key_of(words: Words) -> bytes | None:
    """The first key of a command, None where it has none. All keys of one command are in the same slot.

    >>> key_of(("XREAD", "BLOCK", 5, "STREAMS", "{a}:s", "0")), key_of(("EVALSHA", "abc", 0)), key_of(("GET", "k"))
    (b'{a}:s', None, b'k')
    """
    name = words[0]
    if name in _WITHOUT_KEY:
        return None
    if name in ("EVAL", "EVALSHA"):
        at = 3 if int(words[2]) else len(words)
    elif name in ("XREAD", "XREADGROUP"):
        at = words.index("STREAMS") + 1
    else:
        at = 2 if name in _KEY_THIRD else 1
    if at >= len(words):
        return None
    key = words[at]
    return bytes(key) if isinstance(key, bytes | memoryview) else str(key).encode("utf-8", "surrogatepass")


def _target(redirection: errors.AskError, at: ServerAddress) -> ServerAddress:
    # Without a host it is the one that was asked, at another port.
    return ServerAddress(redirection.host or at.host, redirection.port)
