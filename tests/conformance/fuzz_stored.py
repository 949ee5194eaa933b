"""Any bytes where the store has a batch or a state: they are read, or refused as a PayloadError, and nothing else.

The first byte of an input says what the rest stands for. What is stored compressed is compressed here: no search finds
its way through a checksum and entropy codes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import numpy as np
import zstandard

from shadowproxy.errors import PayloadError
from shadowproxy.model import Exchange, Outcome, Pair, Request
from shadowproxy.pairs import codec
from shadowproxy.pairs.controls import decode as decode_controls
from shadowproxy.stats.state import State, Tally

_ZSTD = zstandard.ZstdCompressor(level=1, write_content_size=True)


def check(data: bytes) -> None:
    """Read one input as what it says it is. Raises AssertionError, or whatever a reader lets out."""
    if not data:
        return
    read = (_batch, _plain_batch, _squeezed_batch, _state, _squeezed_state, _controls)[data[0] % 6]
    with contextlib.suppress(PayloadError):
        read(data[1:])


def _batch(stored: bytes) -> None:
    pairs = codec.decode(stored)
    # By their bytes: a time may be NaN, which differs from itself.
    again = codec.encode(pairs)
    assert codec.encode(codec.decode(again)) == again


def _plain_batch(content: bytes) -> None:
    _batch(b"SP\x01\x00" + content)


def _squeezed_batch(content: bytes) -> None:
    _batch(b"SP\x01\x01" + _ZSTD.compress(content))


def _state(stored: bytes) -> None:
    state = State.from_bytes(stored)
    assert state.open_pairs == sum(bucket.pairs for bucket in state.open.values())


def _squeezed_state(content: bytes) -> None:
    _state(_ZSTD.compress(content))


def _controls(stored: bytes) -> None:
    assert decode_controls(stored).story


def seeds() -> Iterable[tuple[str, bytes]]:
    """Inputs to begin with, by name."""
    asked = Request("POST", "/rank?a=b", b"content-type: application/json\r\n", b'{"id":1}', 8)
    answer = Exchange(Outcome.OK, 200, b"x-model: 7\r\n", b'{"ids":["a"]}', 13, b"", 0.01, 0.02)
    late = Exchange(Outcome.TIMEOUT, 0, b"", b"", 0, b"", None, None)
    batch = codec.encode([Pair("one", 1000.5, asked, answer, late), Pair("two", 1001.0, asked, answer, answer)], 0)
    yield "batch", b"\0" + batch
    yield "plain batch", b"\1" + batch[4:]
    yield "squeezed batch", b"\2" + batch[4:]
    sums = Tally({"pairs": np.array([2, 1]), "moments/a": np.array([[0.5, 0.25], [0.0, 0.0]])})
    state = State(1.0, 11.0).add(100, sums, 2).add(101, sums, 2).close(112.5)
    yield "state", b"\3" + state.to_bytes()
    yield "plain state", b"\4" + zstandard.ZstdDecompressor().decompress(state.to_bytes())
    yield "controls", b'\5{"paused":true,"sample":0.5,"version":3,"at":1.5,"by":"me","reason":"why"}'
