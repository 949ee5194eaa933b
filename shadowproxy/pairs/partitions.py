"""An experiment that is spread over several partitions: where a batch goes, and what all of them say together.

A partition is a stream with the state that was made of it, all in one slot of a Cluster, so that a commit can be one
atomic step. Several of them let several servers share the work. What concerns the experiment as a whole (the controls,
the slots of the cohorts, the latch) lives in the first, `home`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Self

from shadowproxy.errors import StoreUnavailable
from shadowproxy.model import Accounting
from shadowproxy.pairs.labels import MOST as MOST_LABELS
from shadowproxy.pairs.labels import CountedLabels
from shadowproxy.pairs.store import MAX_BYTES, Connections, Snapshot, Standing, Store, since_reset, weight

_TIMEOUT: Final = 5.0


class Partitions:
    """All partitions of one experiment. Connects to nothing before it is asked something; see `Store`."""

    def __init__(self, *stores: Store) -> None:
        """`stores` are partitions 0, 1, 2, … of one experiment; they are the caller's to close, or `close`'s."""
        self.stores = stores

    @classmethod
    def at(
        cls,
        url: str,
        experiment: str,
        *,
        partitions: int = 1,
        max_entries: int,
        max_bytes: int = MAX_BYTES,
        keep: int = 0,
        reply_within: float = _TIMEOUT,
        clock: Callable[[], float] = time.time,
        max_labels: int = MOST_LABELS,
    ) -> Partitions:
        """Those at `url`, which share connections. The bounds are for all of them together, but for `max_labels`: every
        label is in each of them."""
        connections = Connections(url, reply_within=reply_within)
        return cls(
            *(
                Store(
                    url,
                    experiment,
                    max_entries=-(-max_entries // partitions),
                    max_bytes=-(-max_bytes // partitions),
                    keep=keep // partitions,
                    partition=number,
                    reply_within=reply_within,
                    clock=clock,
                    max_labels=max_labels,
                    connections=connections,
                )
                for number in range(partitions)
            )
        )

    @property
    def home(self) -> Store:
        """The partition that also holds what concerns the experiment as a whole."""
        return self.stores[0]

    @property
    def url(self) -> str:
        """Where they are."""
        return self.home.url

    @property
    def name(self) -> str:
        """The experiment's id."""
        return self.home.name

    async def prepare(self) -> None:
        """See `Store.prepare`."""
        await asyncio.gather(*(store.prepare() for store in self.stores))

    async def close(self) -> None:
        """Close all connections."""
        for store in self.stores:
            await store.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<Partitions {self.name} {len(self.stores)}>"

    # What producers do

    async def append(
        self, producer: str, sequence: int, payload: bytes | memoryview, pairs: int, account: Accounting
    ) -> None:
        """See `Store.append`. A batch goes where its sequence says, so that a repetition meets the first."""
        await self.stores[sequence % len(self.stores)].append(producer, sequence, payload, pairs, account)

    async def publish(self, producer: str, account: Accounting) -> None:
        """See `Store.publish`."""
        await self.home.publish(producer, account)

    async def standing(self, producer: str) -> Standing:
        """See `Store.standing`. A producer sends one batch after the other: the last that any partition has is last."""
        found = await asyncio.gather(*(store.standing(producer) for store in self.stores))
        accounts = [standing.account for standing in found if standing.account is not None]
        return Standing(max(standing.sequence for standing in found), max(accounts, key=weight, default=None))

    # What those do who know the truth later

    async def add_labels(self, labels: Sequence[tuple[str, bytes]]) -> None:
        """See `Labels.add`. Where a pair is can't be told from its id, so every partition is told."""
        await asyncio.gather(*(store.labels.add(labels) for store in self.stores))

    # What a verdict rests on

    async def snapshot(self) -> Snapshot:
        """See `Store.snapshot`; the partitions are read one by one, so that the whole is as safe as each.

        The watermark is the least: what was written before it has been committed in all. Accounts are read before what
        they account for, and slots after the states that use them: a batch or a cohort that comes meanwhile is not
        missed.
        """
        if len(self.stores) == 1:
            return await self.home.snapshot()
        books = await asyncio.gather(*(store.books() for store in self.stores))
        found = await asyncio.gather(*(store.snapshot() for store in self.stores))
        slots = await self.home.slots((), 0)
        resets = {one.resets for one in books} | {one.resets for one in found}
        if len(resets) > 1:
            raise StoreUnavailable(
                f"experiment {self.name} is being reset; if this stays, the reset was cut short: repeat it with "
                "`shadowproxy experiment reset`"
            )
        accounts = since_reset(_latest(one.accounts for one in books), _latest(one.bases for one in books))

        def total(name: str) -> int:
            return sum(getattr(snapshot, name) for snapshot in found)

        return Snapshot(
            states={
                f"{worker} (partition {number})": state
                for number, snapshot in enumerate(found)
                for worker, state in snapshot.states.items()
            },
            watermark=min(snapshot.watermark for snapshot in found),
            time=found[0].time,
            accounts=accounts,
            slots=slots,
            latch=found[0].latch,
            entries=total("entries"),
            pairs=total("pairs"),
            committed_entries=total("committed_entries"),
            committed_pairs=total("committed_pairs"),
            lost_entries=total("lost_entries"),
            lost_pairs=total("lost_pairs"),
            clocks={
                f"{producer} (partition {number})": clock
                for number, snapshot in enumerate(found)
                for producer, clock in snapshot.clocks.items()
            },
            dead_entries=total("dead_entries"),
            dead_pairs=total("dead_pairs"),
            pending=total("pending"),
            undelivered=total("undelivered"),
            waiting_bytes=total("waiting_bytes"),
            kept_bytes=total("kept_bytes"),
            resets=found[0].resets,
            labels=CountedLabels.over([snapshot.labels for snapshot in found]),
        )


class Watermarks:
    """The watermarks of all partitions, as far as one process has heard.

    A start-time bucket may be closed by the least of them alone: its pairs are spread over all partitions, and those
    that took longest may still be on their way in another.
    """

    def __init__(self, partitions: int) -> None:
        self._heard = [float("-inf")] * partitions

    def hear(self, partition: int, watermark: float) -> float:
        """Note a partition's watermark (Unix seconds), and return the least of all; they never go back."""
        self._heard[partition] = max(self._heard[partition], watermark)
        return min(self._heard)

    def __len__(self) -> int:
        return len(self._heard)


def _latest(accounts: Iterable[Mapping[str, Accounting]]) -> dict[str, Accounting]:
    latest: dict[str, Accounting] = {}
    for some in accounts:
        for producer, account in some.items():
            latest[producer] = max(latest.get(producer, Accounting()), account, key=weight)
    return latest
