"""One partition of an experiment: its keys, the connections to its server, and how a script is run on it."""

from __future__ import annotations

import functools
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Self

from redis.exceptions import ResponseError

from shadowproxy.errors import StartError
from shadowproxy.pairs import scripts
from shadowproxy.pairs.client import Client, Script, boundary, redacted
from shadowproxy.pairs.exemplars import Exemplars
from shadowproxy.pairs.labels import MOST as MOST_LABELS
from shadowproxy.pairs.labels import Labels
from shadowproxy.pairs.records import mapping_of

log = logging.getLogger(__name__)

GROUP: Final = "comparators"
"""The consumer group of every partition's stream."""
MAX_BYTES: Final = 1024**3
"""Bytes of the stream, where nothing else is asked for."""
TIMEOUT: Final = 5.0
"""Seconds that a reply may take, where nothing else is asked for."""
_SOON: Final = 0.5
"""Seconds for what a kill switch needs: a lost connection must be noticed, and another made, within a second."""
_OLDEST: Final = (7, 0)

_MAKE_GROUP: Final = Script(scripts.MAKE_GROUP)


def _version(info: bytes) -> str:
    """The Redis version that a server says it is compatible with (Valkey 8 and 9 say 7.2.4)."""
    found = re.search(rb"^redis_version:(\d+\.\d+[^\r\n]*)", info, re.MULTILINE)
    return found[1].decode("ascii", "replace") if found else "0.0"


class Connections:
    """The connections to a store of any kind, for whatever number of partitions is there."""

    def __init__(self, url: str, *, reply_within: float = TIMEOUT) -> None:
        """Connects to nothing yet. Raises StartError for a URL that can't be used."""
        self.usual = Client(url, reply_within=reply_within, connect_within=reply_within, attempts=2)
        # A blocking read outlasts any socket timeout, so it has connections of its own without one; `read` bounds it.
        self.blocking = Client(url, reply_within=None, connect_within=reply_within, attempts=1)
        # What a batch of pairs may take must not hold up a kill switch.
        self.prompt = Client(url, reply_within=_SOON, connect_within=_SOON, attempts=2)

    async def close(self) -> None:
        """Close all connections."""
        for client in (self.usual, self.blocking, self.prompt):
            await client.close()


class Partition:
    """What all parts of a `Store` stand on. The constructor connects to nothing."""

    def __init__(
        self,
        url: str,
        experiment: str,
        *,
        max_entries: int,
        max_bytes: int = MAX_BYTES,
        keep: int = 0,
        partition: int = 0,
        reply_within: float = TIMEOUT,
        clock: Callable[[], float] = time.time,
        max_labels: int = MOST_LABELS,
        connections: Connections | None = None,
    ) -> None:
        """The stream holds at most `max_entries` entries and about `max_bytes` bytes: the oldest are trimmed, those
        that are committed first. `keep` bytes of the latter are kept, for people to look at. `max_labels` bounds the
        labels, and the pairs that wait for one (see `Labels`). `connections` may be shared by several stores: once one
        of them is closed, all are."""
        if not experiment or any(character in "{}\r\n " for character in experiment):
            raise ValueError(f"{experiment!r} can't name an experiment: no spaces, no braces")
        self.url = url
        self.name = experiment
        self.partition = partition
        self.max_entries = max_entries
        self.max_bytes = max_bytes
        self.keep = keep
        self._reply_within = reply_within
        self._clock = clock
        self._versions: dict[str, bytes] = {}
        prefix = f"shadow:{{{experiment}:{partition}}}:"
        self._pairs = f"{prefix}pairs"
        self._index = f"{prefix}index"
        self._kept = f"{prefix}kept"
        self._dead = f"{prefix}dead"
        self._dead_sizes = f"{prefix}dead:sizes"
        self._totals = f"{prefix}totals"
        self._sequences = f"{prefix}sequences"
        self._accounts = f"{prefix}accounts"
        self._bases = f"{prefix}accounts:bases"
        self._states = f"{prefix}states"
        self._state_versions = f"{prefix}versions"
        self._firsts = (f"{prefix}firsts", f"{prefix}firsts:starts")
        self._slots = f"{prefix}slots"
        self._latch = f"{prefix}latch"
        self._clocks = f"{prefix}clocks"
        self._experiment = f"{prefix}experiment"
        self._controls = f"{prefix}controls"
        self._control_history = f"{prefix}controls:history"
        self._watchers = f"{prefix}controls:proxies"
        self.connections = connections or Connections(url, reply_within=reply_within)
        self._client = self.connections.usual
        self._reader = self.connections.blocking
        self._watcher = self.connections.prompt
        self.labels = Labels(url, prefix, self._client, self._reader, max_labels, reply_within=reply_within)
        self.exemplars = Exemplars(url, prefix, self._client)

    async def prepare(self) -> None:
        """Check the server and make the consumer group, from the stream's beginning, where there is none."""
        with boundary(self.url):
            found = _version(await self._client.command("INFO", "server", near=self._pairs))
            if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
                raise StartError(
                    f"{redacted(self.url)} is version {found}; shadowproxy needs Redis ≥ 7.0 or Valkey ≥ 8"
                )
            await self._make_group()

    async def close(self) -> None:
        """Close all connections."""
        await self.connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Store {self.name}:{self.partition} at {redacted(self.url)}>"

    # For rooms that know more keys and scripts

    def key(self, name: str) -> str:
        """A key of this partition."""
        return f"shadow:{{{self.name}:{self.partition}}}:{name}"

    async def run(self, script: Script, names: Sequence[str], *args: Any) -> Any:
        """One script on keys of this partition, its raw reply."""
        return await self._run_in_group(script, [self.key(name) for name in names], *args)

    async def command(self, word: str, name: str, *args: Any) -> Any:
        """One command on a key of this partition, its raw reply."""
        with boundary(self.url):
            return await self._client.command(word, self.key(name), *args)

    # Below: how

    @staticmethod
    def _slot_numbers(flat: Sequence[bytes]) -> dict[str, int]:
        return {name: int(slot) for name, slot in mapping_of(flat).items()}

    async def _make_group(self) -> None:
        await self._client.run(_MAKE_GROUP, (self._pairs, self._totals, self._kept), GROUP)

    async def _run(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        with boundary(self.url):
            return await self._client.run(script, keys, *args)

    async def _run_in_group(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        return await self._in_group(functools.partial(self._client.run, script, keys, *args))

    async def _in_group(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask, and where the stream or its group is gone (flushed, evicted), make it again and ask once more."""
        with boundary(self.url):
            try:
                return await ask()
            except ResponseError as error:
                if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                    raise
                log.warning("%r has no stream or no consumer group (never made, deleted or evicted); making it", self)
                await self._make_group()
                return await ask()
