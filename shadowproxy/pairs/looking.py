"""Reading one partition, for verdicts and for people: nothing is taken from anybody, and hardly anything written."""

from __future__ import annotations

import asyncio
from typing import Final

from shadowproxy.pairs import scripts
from shadowproxy.pairs.accounts import accounts_of, since_reset
from shadowproxy.pairs.client import Script, boundary
from shadowproxy.pairs.labels import CountedLabels
from shadowproxy.pairs.partition import GROUP, Partition
from shadowproxy.pairs.records import Books, Entry, Snapshot, clock_of, entry_of, mapping_of, text_of

EXPERIMENTS: Final = "shadow:experiments"
"""The key of the list of all experiments of a store."""

_SNAPSHOT: Final = Script(scripts.SNAPSHOT)
_ACCOUNTS: Final = Script(scripts.ACCOUNTS)
_LATCH: Final = Script(scripts.LATCH)


class Looking(Partition):
    """What those who judge and those who look do with a partition; see `Store`."""

    async def snapshot(self) -> Snapshot:
        """Everything that a verdict rests on, read in one atomic step. Raises PayloadError for unreadable accounts."""
        keys = (
            self._pairs,
            self._totals,
            self._states,
            self._accounts,
            self._slots,
            self._latch,
            self._clocks,
            self._kept,
            self._bases,
            self.labels.stream,
            self.labels.totals,
            self.labels.unlabelled,
            self.labels.early,
            self.labels.labelled,
        )
        counts, mark, now, states, *rest = await self._run_in_group(_SNAPSHOT, keys, GROUP)
        accounts, slots, latch, clocks, bases, labels = rest
        (entries, pairs, committed, committed_pairs, lost, lost_pairs, dead, dead_pairs, *waiting) = counts
        pending, undelivered, waiting_bytes, kept_bytes, resets = waiting
        return Snapshot(
            states=mapping_of(states),
            watermark=int(mark) / 1000,
            time=int(now[0]) + int(now[1]) / 1e6,
            accounts=since_reset(accounts_of(accounts), accounts_of(bases)),
            slots=self._slot_numbers(slots),
            latch=latch,
            entries=entries,
            pairs=pairs,
            committed_entries=committed,
            committed_pairs=committed_pairs,
            lost_entries=lost,
            lost_pairs=lost_pairs,
            clocks={name: clock_of(stored) for name, stored in mapping_of(clocks).items()},
            dead_entries=dead,
            dead_pairs=dead_pairs,
            pending=pending,
            undelivered=undelivered,
            waiting_bytes=waiting_bytes,
            kept_bytes=kept_bytes,
            resets=resets,
            labels=CountedLabels.of(labels),
        )

    async def books(self) -> Books:
        """Last published account of every producer, and what it was at the last reset.

        Raises PayloadError for one that can't be read.
        """
        accounts, bases, resets = await self._run(_ACCOUNTS, (self._accounts, self._bases, self._totals))
        return Books(accounts_of(accounts), accounts_of(bases), resets)

    async def browse(self, after: str, entries: int) -> list[Entry]:
        """Up to `entries` entries behind the id `after` ("0" for the beginning), whoever was given them before.

        These are those that wait and those that are kept. Reading takes nothing from anybody.
        """
        with boundary(self.url):
            reply = await self._client.command("XRANGE", self._pairs, f"({after}", "+", "COUNT", entries)
        return [entry_of(entry) for entry in reply]

    async def newest(self, entries: int, before: str | None = None) -> list[Entry]:
        """The newest entries, or the newest ahead of the id `before`; oldest of them first."""
        end = "+" if before is None else f"({before}"
        with boundary(self.url):
            reply = await self._client.command("XREVRANGE", self._pairs, end, "-", "COUNT", entries)
        return [entry_of(entry) for entry in reversed(reply)]

    async def follow(self, after: str, entries: int, block: float) -> list[Entry]:
        """As `browse`, and where there is nothing it waits up to `block` seconds for it."""
        command = ["XREAD", "COUNT", entries, "BLOCK", max(1, round(block * 1000)), "STREAMS", self._pairs, after]
        with boundary(self.url):
            async with asyncio.timeout(block + self._reply_within):
                reply = await self._reader.command(*command)
        return [entry_of(entry) for entry in reply[0][1]] if reply else []

    async def written(self) -> tuple[int, int]:
        """Entries ever written to this partition, and the pairs in them."""
        with boundary(self.url):
            entries, pairs = await self._client.command("HMGET", self._totals, "entries", "pairs")
        return int(entries or 0), int(pairs or 0)

    async def dead_letters(self, entries: int) -> list[tuple[Entry, str]]:
        """The newest dead letters, newest first, each with its original id and payload and the reason."""
        with boundary(self.url):
            reply = await self._client.command("XREVRANGE", self._dead, "+", "-", "COUNT", entries)
        letters = []
        for _, fields in reply:
            values = dict(zip(fields[::2], fields[1::2], strict=True))
            letters.append((entry_of((values[b"id"], fields)), text_of(values[b"reason"])))
        return letters

    async def latch(self, payload: bytes, *, resets: int = 0) -> bool:
        """Keep `payload` until a reset, unless there is one already. Returns whether it is this one that is kept.

        `resets` is that of the snapshot that the payload rests on: after another reset it is no longer kept.
        """
        return bool(await self._run(_LATCH, (self._latch, self._totals), payload, resets) == payload)

    async def experiment(self, description: bytes) -> bytes:
        """Say what this experiment is, once: its frozen settings. Returns the description that was given first."""
        with boundary(self.url):
            seconds, _ = await self._client.command("TIME", near=self._experiment)
            await self._client.command("ZADD", EXPERIMENTS, "NX", int(seconds), self.name)
            await self._client.command("SET", self._experiment, description, "NX")
            return bytes(await self._client.command("GET", self._experiment))
