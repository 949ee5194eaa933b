"""The spool's files under any damage: what is read back was written, and what can't be read is counted."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shadowproxy.pairs.folder import Backlog
from shadowproxy.pairs.segments import (
    SEGMENT_HEAD,
    Damage,
    NewerFormat,
    Record,
    Segment,
    record_parts,
    record_size,
    segment_head,
)

MARKER = b"\x00marker\xff"

SIZES = st.lists(st.tuples(st.integers(1, 200), st.binary(max_size=60), st.binary(max_size=300)), max_size=6)


def records(sizes: list[tuple[int, bytes, bytes]], first: int = 1, through: int = 0) -> list[Record]:
    made = []
    for sequence, (pairs, account, payload) in enumerate(sizes, first):
        through += pairs
        made.append(Record(sequence, pairs, through, account, payload))
    return made


def segment(written: list[Record], marker: bytes = MARKER) -> bytes:
    before = written[0].through - written[0].pairs if written else 0
    return segment_head(marker, before) + b"".join(b"".join(record_parts(marker, record)) for record in written)


def read(data: bytes) -> list[Record]:
    return [found for found in Segment(data) if isinstance(found, Record)]


def ends(written: list[Record]) -> list[int]:
    at, found = SEGMENT_HEAD, []
    for record in written:
        at += record_size(record)
        found.append(at)
    return found


@given(SIZES)
def test_what_was_written_is_read(sizes: list[tuple[int, bytes, bytes]]) -> None:
    written = records(sizes)
    assert list(Segment(segment(written))) == written


@given(SIZES, st.data())
def test_a_segment_cut_anywhere_gives_the_batches_before(
    sizes: list[tuple[int, bytes, bytes]], data: st.DataObject
) -> None:
    written = records(sizes)
    whole = segment(written)
    cut = data.draw(st.integers(0, len(whole)))
    found = list(Segment(whole[:cut]))
    kept = [record for record, end in zip(written, ends(written), strict=True) if end <= cut]
    assert [entry for entry in found if isinstance(entry, Record)] == kept
    damage = [entry for entry in found if isinstance(entry, Damage)]
    # Cut between two records nothing is torn; anywhere else one gap reaches to the end.
    assert len(damage) == (cut not in {SEGMENT_HEAD, *ends(written)})
    assert all(gap.offset + gap.size == cut for gap in damage)


@given(SIZES.filter(bool), st.data())
def test_a_flipped_bit_costs_one_batch_at_most(sizes: list[tuple[int, bytes, bytes]], data: st.DataObject) -> None:
    written = records(sizes)
    whole = bytearray(segment(written))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    if at < SEGMENT_HEAD:
        assert read(bytes(whole)) == []
        return
    hit = next(number for number, end in enumerate(ends(written)) if at < end)
    assert read(bytes(whole)) == written[:hit] + written[hit + 1 :]


@given(SIZES.filter(bool), st.data())
def test_whatever_overwrites_a_segment_no_batch_comes_out_that_did_not_go_in(
    sizes: list[tuple[int, bytes, bytes]], data: st.DataObject
) -> None:
    written = records(sizes)
    whole = segment(written)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + data.draw(st.binary(max_size=400)) + whole[end:]
    found = iter(written)
    # In order, each once.
    assert all(record in found for record in read(damaged))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    assert [type(found) for found in Segment(data)] == [Damage]


def test_what_a_client_sent_is_never_taken_for_a_batch() -> None:
    """A body that is a segment itself, in a record whose length can't be trusted any more."""
    forged = records([(9, b"forged", b"forged")], first=99)
    body = segment(forged, marker=b"guessed!")
    written = records([(1, b"", b"one"), (1, b"", body), (1, b"", b"three")])
    whole = bytearray(segment(written))
    whole[ends(written)[0] + 20] ^= 1
    assert read(bytes(whole)) == [written[0], written[2]]


def test_a_segment_of_a_later_version_is_left_to_it() -> None:
    head = bytearray(segment_head(MARKER, 0)[:-4])
    head[7] += 1
    with pytest.raises(NewerFormat, match="version 2"):
        Segment(bytes(head) + struct.pack("<I", zlib.crc32(head)))


def stored(folder: Path, written: list[Record], per_segment: int, damage: dict[int, bytes | None]) -> list[Path]:
    """Segments of `per_segment` records each; `damage` replaces one by these bytes, or deletes it."""
    paths = []
    for number, at in enumerate(range(0, len(written), per_segment), 1):
        path = folder / f"{number:08d}.seg"
        data = damage.get(number, segment(written[at : at + per_segment]))
        if data is not None:
            path.write_bytes(data)
        paths.append(path)
    return paths


def drained(backlog: Backlog) -> list[Record]:
    found = []
    while (record := backlog.peek()) is not None:
        found.append(record)
        backlog.pop()
    return found


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=12),
    st.integers(1, 4),
    st.dictionaries(st.integers(1, 12), st.none() | st.binary(max_size=80), max_size=4),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_pair_is_read_or_known_to_be_lost(
    tmp_path: Path, counts: list[int], per_segment: int, damage: dict[int, bytes | None]
) -> None:
    written = records([(pairs, b"{}", b"payload") for pairs in counts])
    backlog = Backlog(stored(tmp_path, written, per_segment, damage), 0)
    found = drained(backlog)
    backlog.settle(sum(counts))
    bad = {
        record.sequence for number in damage for record in written[(number - 1) * per_segment : number * per_segment]
    }
    assert found == [record for record in written if record.sequence not in bad]
    assert backlog.lost == sum(counts) - sum(record.pairs for record in found)
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_batch_is_counted_where_its_header_is_whole(tmp_path: Path) -> None:
    written = records([(10, b"{}", b"one"), (7, b"{}", b"two")])
    path = tmp_path / "00000001.seg"
    path.write_bytes(segment(written)[:-1])
    backlog = Backlog([path])
    assert drained(backlog) == written[:1]
    backlog.settle()
    assert backlog.lost == 7


def test_what_is_delivered_otherwise_is_passed_over_and_not_missing(tmp_path: Path) -> None:
    written = records([(10, b"{}", b"one"), (7, b"{}", b"two"), (5, b"{}", b"three")])
    data = bytearray(segment(written))
    data[ends(written)[0] - 1] ^= 1
    path = tmp_path / "00000001.seg"
    path.write_bytes(data)
    backlog = Backlog([path], 0)
    backlog.delivered(1, 10)
    assert drained(backlog) == written[1:]
    assert backlog.lost == 0


def test_damage_is_named_with_its_file_and_offset(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = records([(10, b"{}", b"one"), (7, b"{}", b"two")])
    data = bytearray(segment(written))
    data[ends(written)[0] - 1] ^= 1
    path = tmp_path / "00000001.seg"
    path.write_bytes(data)
    drained(Backlog([path]))
    [said] = [record.getMessage() for record in caplog.records]
    assert f"{path}, offset {SEGMENT_HEAD}: batch 1 is damaged" in said
