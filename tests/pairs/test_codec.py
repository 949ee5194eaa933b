from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs.samples import BATCHES, pair

from shadowproxy.errors import PayloadError
from shadowproxy.model import Pair
from shadowproxy.pairs import codec
from shadowproxy.pairs.batch import Batch, Gathering
from shadowproxy.pairs.ledger import Ledger

GOLDEN = Path(__file__).with_name("golden_v1.bin")


@given(BATCHES)
def test_what_goes_in_comes_out(batch: list[Pair]) -> None:
    assert codec.decode(codec.encode(batch)) == batch


@given(BATCHES, st.integers(0, 5))
def test_a_batch_that_grew_pair_by_pair_reads_the_same(pairs: list[Pair], last: int) -> None:
    batch = Batch()
    for found in pairs:
        before = batch.size
        assert batch.add(found) == batch.size - before
    if last < len(pairs):
        batch.take_back(batch.add(pairs[last]))
    with pytest.raises(UnicodeEncodeError):
        batch.add(pair("\ud800"))
    assert batch.pairs == len(pairs)
    assert codec.decode(bytes(batch.payload())) == pairs
    # Its memory may serve another while somebody still holds its payload, and larger pairs go there too.
    held = batch.payload()
    other = Batch(batch.memory)
    large = pair("large", body=b"x" * 3 * len(held))
    other.take_back(other.add(large))
    assert other.add(large) == other.size
    assert codec.decode(bytes(other.payload())) == [large]
    other.take_back(other.size)
    assert (other.pairs, other.size, codec.decode(bytes(other.payload()))) == (0, 0, [])


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=20))
@settings(max_examples=50)
def test_batches_in_memory_that_is_used_again_read_as_if_it_were_new(rounds: list[tuple[int, bool]]) -> None:
    gathering = Gathering(Ledger(), None, most=2)
    held: list[tuple[Batch, list[Pair]]] = []
    number = 0
    for count, done in rounds:
        for _ in range(count):
            number += 1
            assert gathering.take(pair(str(number), body=b"x" * (number * 7919 % 20_000)), None, 10**6)
        gathering.close()
        while gathering.complete:
            batch = gathering.pop()
            held.append((batch, codec.decode(bytes(batch.payload()))))
        for batch, read in held:
            assert codec.decode(bytes(batch.payload())) == read
        if done:
            for batch, _ in held:
                gathering.give_back(batch)
            held.clear()
    assert gathering.pairs == 0


def test_memory_that_is_kept_for_later_is_bounded() -> None:
    gathering = Gathering(Ledger(), None, most=1)
    for size in (3 * 1024**2, 3 * 1024**2, 512, 512):
        gathering.take(pair("one", body=bytes(size)), None, 10**8)
    batches = [gathering.pop() for _ in range(4)]
    kept = [sys.getrefcount(batch.memory) for batch in batches]
    for batch in batches:
        gathering.give_back(batch)
    assert [sys.getrefcount(batch.memory) > before for batch, before in zip(batches, kept, strict=True)] == [
        True,
        False,
        True,
        True,
    ]


def _decode_or_refuse(payload: bytes) -> None:
    try:
        pairs = codec.decode(payload)
    except PayloadError as error:
        assert str(error)  # noqa: PT017  (either outcome is right)
    else:
        assert all(isinstance(found, Pair) for found in pairs)


@given(st.binary(max_size=300), st.sampled_from([b"", b"SP\x01\x00", b"SP\x01\x01", b"SP\x01\x01\x28\xb5\x2f\xfd"]))
@settings(max_examples=300)
def test_any_bytes_give_pairs_or_a_payload_error(noise: bytes, prefix: bytes) -> None:
    _decode_or_refuse(prefix + noise)


@pytest.mark.parametrize("payload", [codec.encode([pair("a")]), codec.encode([pair(str(n)) for n in range(8)])])
def test_every_truncation_is_refused(payload: bytes) -> None:
    for length in range(len(payload)):
        with pytest.raises(PayloadError):
            codec.decode(payload[:length])
    with pytest.raises(PayloadError):
        codec.decode(payload + b"\x00")


@given(BATCHES.filter(bool), st.data())
@settings(max_examples=150)
def test_any_mutation_gives_pairs_or_a_payload_error(batch: list[Pair], data: st.DataObject) -> None:
    payload = bytearray(codec.encode(batch))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    _decode_or_refuse(bytes(payload))


def _packed(content: object) -> bytes:
    return b"SP\x01\x00" + msgspec.msgpack.encode(content)


@pytest.mark.parametrize(
    "content",
    [
        {"pairs": []},
        [1],
        [["only an id"]],
        [["id", "not a time", ["GET", "/"], ["ok"], ["ok"]]],
        [["id", 1.0, ["GET", "/"], ["no such outcome"], ["ok"]]],
        [["id", 1.0, ["GET", "/"], ["ok", 200, "text, not bytes"]]],
    ],
)
def test_wrong_types_are_refused(content: object) -> None:
    with pytest.raises(PayloadError, match="damaged batch"):
        codec.decode(_packed(content))


def test_bad_text_and_deep_nesting_are_refused() -> None:
    bad_text = _packed([["IDID", 1.0, ["GET", "/"], ["ok"], ["ok"]]]).replace(b"IDID", b"\xff\xfe\xff\xfe")
    with pytest.raises(PayloadError):
        codec.decode(bad_text)
    nested = codec.encode([])[:4] + b"\x91\x98" + b"\xa1x" + b"\x91" * 200_000
    with pytest.raises(PayloadError):
        codec.decode(nested)
    appended = b"SP\x01\x00\x91" + b"\x98" + msgspec.msgpack.encode(pair("a"))[1:] + b"\x91" * 200_000
    with pytest.raises(PayloadError):
        codec.decode(appended)


def test_a_field_appended_by_a_newer_version_is_skipped() -> None:
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(pair("a")))
    assert codec.decode(_packed([[*fields, "a field of the future"]])) == [pair("a")]


def test_a_newer_format_says_what_to_do() -> None:
    with pytest.raises(PayloadError) as refusal:
        codec.decode(b"SP\x03\x00\x90")
    assert str(refusal.value) == (
        "written by a newer shadowproxy: version 3, this one reads up to 1; upgrade the comparator"
    )


def test_a_decompression_bomb_is_refused_before_it_is_inflated() -> None:
    def zeros(size: int) -> bytes:
        inflating = zstandard.ZstdCompressor(level=3).compressobj(size=size)
        block = bytes(1024**2)
        parts = [inflating.compress(block[: min(len(block), size - at)]) for at in range(0, size, len(block))]
        return b"SP\x01\x01" + b"".join(parts) + inflating.flush()

    with pytest.raises(PayloadError, match="claims"):
        codec.decode(zeros(codec.MAX_BYTES + 1))
    nameless = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    with pytest.raises(PayloadError, match="how large"):
        codec.decode(b"SP\x01\x01" + nameless)


def test_large_batches_are_compressed_and_what_does_not_shrink_is_not() -> None:
    repetitive = codec.encode([pair("a", body=b"x" * 10_000)])
    assert len(repetitive) < 1000
    assert codec.encode([pair("a", body=b"")])[3] == 0


def test_threads_do_not_share_contexts() -> None:
    batches = [[pair(f"{thread}-{n}", body=bytes([thread]) * 20_000) for n in range(20)] for thread in range(4)]
    wrong = []

    def work(batch: list[Pair]) -> None:
        wrong.extend(1 for _ in range(20) if codec.decode(codec.encode(batch)) != batch)

    threads = [threading.Thread(target=work, args=(batch,)) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_version_1_wrote_is_read_for_ever() -> None:
    assert codec.decode(GOLDEN.read_bytes()) == [pair("first"), pair("second", body="größe".encode())]


@given(BATCHES, st.sampled_from([0, 1, 3, 19]))
def test_a_batch_is_the_same_whatever_its_level(batch: list[Pair], level: int) -> None:
    payload = codec.encode(batch, level)
    assert codec.decode(payload) == batch
    assert codec.decode(codec.squeeze(payload)) == batch
    assert level or payload[3] == 0


def test_a_batch_is_squeezed_once_and_only_where_that_pays() -> None:
    plain = codec.encode([pair("a", body=b"x" * 10_000)], 0)
    squeezed = codec.squeeze(plain)
    assert len(squeezed) < len(plain) / 10
    assert codec.squeeze(squeezed) is squeezed
    random = codec.encode([pair("a", body=os.urandom(100_000))], 0)
    assert len(codec.squeeze(random)) <= len(random)


def test_a_batch_that_is_refused_leaves_nothing_in_the_next() -> None:
    sound = [pair("a")]
    before = codec.encode(sound, 0)
    with pytest.raises(ValueError, match="surrogate"):
        codec.encode([pair("b", body=b"x" * 5000), pair("\ud800")], 0)
    assert codec.encode(sound, 0) == before
    large = codec.encode([pair("a", body=bytes(9_000_000))], 0)
    assert len(large) > 9_000_000
    assert codec.encode(sound, 0) == before
