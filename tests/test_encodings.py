"""Content codings undone: whole, cut anywhere, hostile; always within the bound."""

from __future__ import annotations

import contextlib
import gzip
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.encodings import EncodingError, codings, decoded


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def members(data: bytes) -> bytes:
    step = 7 + len(data) // 20
    return b"".join(gzip.compress(data[at : at + step]) for at in range(0, max(len(data), 1), step))


def frames(data: bytes) -> bytes:
    checked = zstandard.ZstdCompressor(write_checksum=True)
    streamed = zstandard.ZstdCompressor().compressobj()
    skippable = (0x184D2A53).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    half = len(data) // 2
    return checked.compress(data[:half]) + skippable + streamed.compress(data[half:]) + streamed.flush()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip of several members": ("gzip", members),
    "zlib": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstandard.compress),
    "zstd of several frames": ("zstd", frames),
}
NAMES = st.sampled_from(sorted(ENCODERS))
TEXTS = st.binary(max_size=300) | st.binary(min_size=1, max_size=3).map(lambda unit: unit * 1500)


def encode(names: list[str], data: bytes) -> tuple[bytes, bytes]:
    """(head, body)."""
    for name in names:
        data = ENCODERS[name][1](data)
    return b"Content-Encoding: " + ", ".join(ENCODERS[name][0] for name in names).encode(), data


@given(names=st.lists(NAMES, max_size=4), data=TEXTS)
def test_any_codings_are_undone_in_their_order(names: list[str], data: bytes) -> None:
    head, body = encode(names, data)
    assert decoded(head, body) == (data, True)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("data", [b"", b'{"items": [1, 2, 3], "name": "a longer text"}' * 3, bytes(range(256)) * 40])
def test_a_body_cut_at_any_byte_gives_a_prefix_and_says_that_it_is_cut(name: str, data: bytes) -> None:
    head, body = encode([name], data)
    ends = {at for at in range(len(body)) if decoded(head, body[:at]).complete}
    for at in range(len(body)):
        assert data.startswith(decoded(head, body[:at]).data)
    # Between two members or frames the data is whole as far as anyone can tell.
    assert ends == set() or name.endswith(("members", "frames"))
    assert not any(0 < at < 8 for at in ends)


@given(names=st.lists(NAMES, min_size=2, max_size=3), data=TEXTS, cut=st.floats(0, 1, exclude_max=True))
def test_a_cut_goes_through_all_codings(names: list[str], data: bytes, cut: float) -> None:
    head, body = encode(names, data)
    found = decoded(head, body[: int(len(body) * cut)])
    assert data.startswith(found.data)
    assert not found.complete or found.data == data or "several" in "".join(names)


def test_a_cut_of_the_outer_coding_alone_is_told() -> None:
    head, body = encode(["zlib", "gzip"], b"a longer text")
    assert decoded(head, body[:-1]) == (b"a longer text", False)


@pytest.mark.parametrize("name", ENCODERS)
def test_large_runs_of_one_byte_are_whole(name: str) -> None:
    head, body = encode([name], bytes(3_000_000))
    assert decoded(head, body) == (bytes(3_000_000), True)


@given(names=st.lists(NAMES, max_size=3), body=st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(names: list[str], body: bytes) -> None:
    head = b"Content-Encoding: " + ", ".join(ENCODERS[name][0] for name in names).encode()
    with contextlib.suppress(EncodingError):
        assert len(decoded(head, body, limit=5000).data) <= 5000


@pytest.mark.parametrize("name", ENCODERS)
def test_the_limit_itself_is_allowed_and_one_byte_more_is_not(name: str) -> None:
    head, body = encode([name], b"a" * 100)
    assert decoded(head, body, limit=100) == (b"a" * 100, True)
    with pytest.raises(EncodingError) as caught:
        decoded(head, body, limit=99)
    assert caught.value.kind == "too_large"


@pytest.mark.parametrize("names", [["gzip"], ["zlib"], ["raw deflate"], ["br"], ["zstd"], ["gzip", "br"]])
def test_a_bomb_costs_no_more_memory_than_the_bound(names: list[str]) -> None:
    head, body = encode(names, bytes(64 * 1024**2))
    tracemalloc.start()
    try:
        with pytest.raises(EncodingError) as caught:
            decoded(head, body, limit=1024**2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.kind == "too_large"
    assert peak < 8 * 1024**2


@pytest.mark.parametrize(("name", "empty"), [("gzip", gzip.compress(b"")), ("zstd", zstandard.compress(b""))])
def test_thousands_of_empty_parts_are_refused(name: str, empty: bytes) -> None:
    with pytest.raises(EncodingError) as caught:
        decoded(b"Content-Encoding: " + name.encode(), empty * 50_000)
    assert caught.value.kind == "bad_encoding"
    assert decoded(b"Content-Encoding: " + name.encode(), empty * 1000) == (b"", True)


def test_codings_of_several_lines_stand_in_one_order() -> None:
    assert codings(b"A: 1\r\ncontent-ENCODING: deflate, identity\r\nContent-Encoding: X-GZIP\r\n") == [
        "deflate",
        "x-gzip",
    ]
    assert codings(b"A: content-encoding") == []
