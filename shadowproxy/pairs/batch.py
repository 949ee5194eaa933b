"""Batches of pairs as they grow: each pair is encoded as it comes, while what it holds is in the processor's caches.

That is what makes it cheap; kept as objects until the batch is full, the same pairs cost several times as much.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from shadowproxy.model import Pair
from shadowproxy.pairs.codec import PLAIN_PREFIX
from shadowproxy.pairs.ledger import Ledger

log = logging.getLogger(__name__)

FULL: Final = "recorder_full"
"""Drop reason: more bytes wait than `recorder.max_bytes`, and no more go into the spool."""
UNENCODABLE: Final = "recorder_unencodable"
"""Drop reason: the pair has no place in the batch format."""
BATCH_BYTES: Final = 2 * 1024**2
"""A batch is cut where more would hold the loop and the server for long."""

Scrub = Callable[[Pair, "Sequence[bytes] | None"], Pair]
"""Takes out of a pair what must not be recorded. What it is told of are all lines of the heads that may hold such."""

_BEGIN: Final = len(PLAIN_PREFIX) + 5
"""Bytes before the first pair: the payload's head, and that of a msgpack array of any length."""
_FIRST_BYTES: Final = 16 * 1024
"""Little, since small batches may wait in great numbers; memory that is used again has the size that is usual."""
_SPARES_BYTES: Final = 4 * 1024**2
_SCRATCH_BYTES: Final = 1024**2

_ENCODER: Final = msgspec.msgpack.Encoder()


class Batch:
    """Pairs in the memory that their payload is sent from. `spare` is that of a batch which is done with."""

    __slots__ = ("_buffer", "_end", "_scratch", "pairs")

    def __init__(self, spare: bytearray | None = None) -> None:
        self._buffer = bytearray(_FIRST_BYTES) if spare is None else spare
        self._scratch = bytearray()
        self._end = _BEGIN
        self.pairs = 0

    def add(self, pair: Pair) -> int:
        """Take one more; returns its size. Raises ValueError, and takes nothing, where the text has no UTF-8 form."""
        # Not into the buffer itself: msgspec would cut it off behind the pair, and each growth move all of it.
        scratch = self._scratch
        _ENCODER.encode_into(pair, scratch)
        size, at = len(scratch), self._end
        end = at + size
        if end > len(self._buffer):
            # Another one: memory that somebody still holds a view of can't be resized.
            larger = bytearray(max(end, len(self._buffer) * 3 // 2))
            larger[:at] = memoryview(self._buffer)[:at]
            self._buffer = larger
        self._buffer[at:end] = scratch
        self._end = end
        self.pairs += 1
        if size > _SCRATCH_BYTES:
            self._scratch = bytearray()
        return size

    def take_back(self, size: int) -> None:
        """Forget the pair that was added last, which took `size` bytes."""
        self._end -= size
        self.pairs -= 1

    @property
    def size(self) -> int:
        """Bytes of the pairs."""
        return self._end - _BEGIN

    def payload(self) -> memoryview:
        """As `codec.encode` has it, uncompressed: this batch's own memory, so that nothing may be added any more."""
        self._buffer[:_BEGIN] = PLAIN_PREFIX + b"\xdd" + self.pairs.to_bytes(4, "big")
        return memoryview(self._buffer)[: self._end]

    @property
    def memory(self) -> bytearray:
        """For another batch, once nothing reads this one's payload any more."""
        return self._buffer


class Gathering:
    """The batch that grows, and those before it that are complete and wait to be taken."""

    __slots__ = ("_ledger", "_most", "_open", "_scrub", "_spare_bytes", "_spares", "complete", "pairs")

    def __init__(self, ledger: Ledger, scrub: Scrub | None, most: int) -> None:
        """`most` pairs make a batch."""
        self._ledger = ledger
        self._scrub = scrub
        self._most = most
        self._open = Batch()
        # Several: pairs come in bursts, and memory that grows anew with each batch costs as much as filling it.
        self._spares: list[bytearray] = []
        self._spare_bytes = 0
        self.complete: deque[Batch] = deque()
        self.pairs = 0
        """Pairs in all of them."""

    def take(self, pair: Pair, guarded: Sequence[bytes] | None, room: int) -> int:
        """Take a pair, scrubbed, and return its size; or drop and count it, and return 0.

        `room` is what it may take at most.
        """
        batch = self._open
        try:
            scrubbed = pair if self._scrub is None else self._scrub(pair, guarded)
            size = batch.add(scrubbed)
            if batch.size > BATCH_BYTES and batch.pairs > 1:
                batch.take_back(size)
                self.close()
                batch = self._open
                size = batch.add(scrubbed)
        except Exception as error:  # noqa: BLE001  (whatever a pair does to what scrubs it; a client is waiting)
            # Not the message: it may quote what was to be taken out.
            log.error("a pair can't be encoded and is dropped: %s", type(error).__name__)
            self._ledger.drop(UNENCODABLE)
            return 0
        if size > room:
            batch.take_back(size)
            self._ledger.drop(FULL)
            return 0
        self.pairs += 1
        if batch.pairs >= self._most:
            self.close()
        return size

    def close(self) -> None:
        """The batch that grows is complete, if anything is in it: begin another, in memory that is free if any is."""
        if self._open.pairs:
            self.complete.append(self._open)
            spare = self._spares.pop() if self._spares else None
            self._spare_bytes -= 0 if spare is None else len(spare)
            self._open = Batch(spare)

    def pop(self) -> Batch:
        """Take the oldest that is complete."""
        batch = self.complete.popleft()
        self.pairs -= batch.pairs
        return batch

    def give_back(self, batch: Batch) -> None:
        """Nobody reads this batch's payload any more."""
        memory = batch.memory
        if self._spare_bytes + len(memory) <= _SPARES_BYTES:
            self._spares.append(memory)
            self._spare_bytes += len(memory)

    def clear(self) -> None:
        """Forget all pairs."""
        self.complete.clear()
        self._open = Batch()
        self.pairs = 0
