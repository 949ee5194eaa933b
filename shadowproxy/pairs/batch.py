"""A batch of pairs as it grows: each is encoded as it comes, while what it holds is still in the processor's caches.

That is what makes it cheap; kept as objects until the batch is full, the same pairs cost several times as much.
"""

from __future__ import annotations

from typing import Final

import msgspec

from shadowproxy.model import Pair
from shadowproxy.pairs.codec import PLAIN_PREFIX

_BEGIN: Final = len(PLAIN_PREFIX) + 5
"""Bytes before the first pair: the payload's head, and that of a msgpack array of any length."""
_FIRST_BYTES: Final = 256 * 1024
_SPARE_BYTES: Final = 4 * 1024**2
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
            self._buffer.extend(bytes(max(size, len(self._buffer) // 4)))
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

    def spare(self) -> bytearray | None:
        """The memory, for another batch: nothing may read this one's payload any more. None where it isn't usual."""
        return self._buffer if len(self._buffer) <= _SPARE_BYTES else None
