"""A recorder with all that belongs to it, and what it made of the pairs it was offered."""

from __future__ import annotations

from pairs.samples import pair

from shadowproxy.config import Recorder as Settings
from shadowproxy.pairs import Entry, Ledger, Recorder, Spool, Store, codec
from shadowproxy.pairs.batch import Scrub
from shadowproxy.tasks import Tasks


class Rig:
    """A recorder, its ledger and its tasks, and the pairs that were offered and taken."""

    at_once = True
    """Whether pairs are encoded as they are offered, or in a thread; a test of both sets it."""

    def __init__(self, store: Store, spool: Spool | None = None, scrub: Scrub | None = None, **wishes: object) -> None:
        self.store = store
        self.spool = spool
        self.ledger = Ledger()
        self.crashes: list[str] = []
        self.tasks = Tasks(on_crash=lambda name, _: self.crashes.append(name))
        self.recorder = Recorder(
            store,
            Settings.model_validate({"linger": 0.02, **wishes}),
            self.ledger,
            "proxy",
            self.tasks,
            spool=spool,
            scrub=scrub,
            at_once=self.at_once,
        )
        self.taken: list[str] = []

    def offer(self, *names: str, body: bytes | None = None) -> None:
        for name in names:
            self.ledger.admit()
            if self.recorder.offer(pair(name, body=body)):
                self.taken.append(name)

    async def finish(self, grace: float = 20.0) -> None:
        await self.stop(grace)
        assert self.ledger.snapshot().balanced

    async def stop(self, grace: float = 20.0) -> None:
        """As `finish`, where pairs may be left in the spool."""
        await self.recorder.drain(grace)
        assert await self.tasks.drain(0) == 0
        assert self.crashes == []
        assert (self.recorder.waiting_pairs, self.recorder.waiting_bytes) == (0, 0)


async def entries_of(store: Store) -> list[Entry]:
    return await store.read("reader", 10_000, 0)


async def names_of(store: Store) -> list[str]:
    return [found.id for entry in await entries_of(store) for found in codec.decode(entry.payload)]


def numbered(count: int, prefix: str = "pair") -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]
