"""What stands in place of a value that must not leave the process: nothing, or its keyed hash."""

from __future__ import annotations

import enum
from collections.abc import Callable
from hashlib import blake2b
from typing import Final, Literal


class Gone(enum.Enum):
    """Says that a value is to be taken out."""

    GONE = "gone"


GONE: Final = Gone.GONE

Mask = Callable[[bytes], "str | Gone"]
"""From a value, as bytes, to what stands in its place."""


class Hash:
    """Keyed BLAKE2b (RFC 7693, section 2.9), 128 bits: a MAC by itself, so that no HMAC around it is needed.

    >>> mask = Hash(b"a key of some length")
    >>> mask(b"alice") == mask(b"alice"), mask(b"alice") == mask(b"bob"), mask(b"alice")[:5]
    (True, False, 'hash:')
    """

    def __init__(self, key: bytes) -> None:
        self._key = key if len(key) <= blake2b.MAX_KEY_SIZE else blake2b(key).digest()

    def digest(self, value: bytes) -> bytes:
        """16 bytes."""
        return blake2b(value, key=self._key, digest_size=16).digest()

    def __call__(self, value: bytes) -> str:
        """The hash as text."""
        return "hash:" + self.digest(value).hex()

    def __repr__(self) -> str:
        return "Hash(…)"


def drop(_value: bytes) -> Gone:
    """Take the value out."""
    return GONE


def masks(entries: dict[str, Literal["drop", "hash", "keep"]], hashed: Hash) -> dict[str, Mask]:
    """By name, what is to be done; without those that are kept."""
    return {name: drop if mask == "drop" else hashed for name, mask in entries.items() if mask != "keep"}
