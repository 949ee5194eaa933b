"""A bounded copy of a body, with the size and digest of the whole."""

from __future__ import annotations

import hashlib


class Capture:
    """Keeps the first `cap` bytes of a body that comes in pieces.

    The digest (BLAKE2b-128 of the whole) is begun only when a body outgrows the cap: most never do.
    """

    __slots__ = ("_cap", "_hash", "_pieces", "size")

    def __init__(self, cap: int) -> None:
        self.size = 0
        self._cap = cap
        self._pieces: list[bytes] = []
        self._hash: hashlib.blake2b | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        self.size += len(piece)
        if self.size <= self._cap:
            self._pieces.append(piece)
            return
        if self._hash is None:
            self._hash = hashlib.blake2b(digest_size=16)
            kept = b"".join(self._pieces)
            self._hash.update(kept)
            self._pieces = [kept, piece[: self._cap - len(kept)]]
        self._hash.update(piece)

    @property
    def held(self) -> int:
        """How many bytes are kept."""
        return min(self.size, self._cap)

    @property
    def overflowed(self) -> bool:
        """Whether the body has outgrown the cap."""
        return self._hash is not None

    @property
    def body(self) -> bytes:
        """What was kept."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    @property
    def digest(self) -> bytes:
        """16 bytes over all that came, or empty while everything is kept."""
        return b"" if self._hash is None else self._hash.digest()
