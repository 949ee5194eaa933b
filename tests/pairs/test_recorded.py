"""What was exported is read back: from Parquet as from lines, in order of writing, and nothing twice."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pairs.samples import PAIRS, pair

from shadowproxy.model import Exchange, Outcome, Pair, headers
from shadowproxy.pairs.export import LinesSink, ParquetSink, Sink
from shadowproxy.pairs.lines import Recorded
from shadowproxy.pairs.reading import START, Batch
from shadowproxy.pairs.recorded import Recording, Source, Unreadable, open_recording


def undo(head: bytes, body: bytes) -> bytes | None:
    return body.replace(b"z", b"") if b"z" in body else body


def write(sink: Sink, *entries: tuple[int, str, list[Pair]]) -> None:
    for partition, entry, pairs in entries:
        sink.write(Batch(partition=partition, entry=entry, first=0, pairs=pairs, size=1, position=START, before=START))
    sink.finish()


def folded(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers(head):
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def comparable(exchange: Exchange | None) -> object:
    """All of it that a table keeps."""
    if exchange is None:
        return None
    times = (exchange.ttfb if exchange.ttfb > -math.inf else math.inf, exchange.total)
    return folded(exchange.head), times, replace(exchange, head=b"", ttfb=0.0, total=0.0)


ANSWERS = (
    Exchange(Outcome.OK, 200, b"A: 1\r\na: 2\r\n", b"zcoded", 6, b"", 0.25, 0.5),
    Exchange(Outcome.OK, 503, b"", b"\xff\x00", 9, b"\x01\x02", 0.25, math.inf, "reset"),
    Exchange(Outcome.SHED, detail="in_flight"),
)


@settings(max_examples=12)
@given(st.permutations(ANSWERS), st.booleans())
def test_a_table_gives_back_what_a_comparison_looks_at(
    tmp_path_factory: pytest.TempPathFactory, answers: list[Exchange], with_replica: bool
) -> None:
    asked = replace(
        pair("a"),
        started=1_700_000_000.123456,
        baseline=answers[0],
        candidate=answers[1],
        replica=answers[2] if with_replica else None,
        annotations=b'{"a":1}',
        notes=("something left out",),
    )
    path = tmp_path_factory.mktemp("table") / "a.parquet"
    write(ParquetSink(path, undo), (1, "5-16385", [asked]))
    (found,) = Source(str(path), io.BytesIO())
    assert isinstance(found, Recorded)
    partition, entry, position, got = found
    assert (partition, entry, position) == (1, "5-16385", 0)
    assert (got.id, got.started, got.annotations, got.notes) == (
        asked.id,
        asked.started,
        asked.annotations,
        asked.notes,
    )
    assert replace(got.request, head=b"") == replace(asked.request, head=b"")
    assert folded(got.request.head) == folded(asked.request.head)
    for mine, theirs in zip(
        (got.baseline, got.candidate, got.replica), (asked.baseline, asked.candidate, asked.replica), strict=True
    ):
        assert comparable(mine) == comparable(theirs)


@settings(max_examples=30)
@given(PAIRS)
def test_any_pair_there_can_be_is_read_or_said_to_be_none(
    tmp_path_factory: pytest.TempPathFactory, any_pair: Pair
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.parquet"
    write(ParquetSink(path, undo), (0, "5-16385", [any_pair]))
    (found,) = Recording([Source(str(path), io.BytesIO())])
    assert isinstance(found, Unreadable) or found.pair.request.body == any_pair.request.body


def test_files_are_read_together_in_the_order_of_writing(tmp_path: Path) -> None:
    entries = [
        (at % 2, f"{1000 + at}-{16384 * (at // 2 + 1) + 2}", [pair(f"{at}a"), pair(f"{at}b")]) for at in range(9)
    ]
    names = [str(tmp_path / name) for name in ("late.jsonl", "early.jsonl.gz", "some.parquet")]
    write(LinesSink(Path(names[0]), undo), *entries[5:])
    write(LinesSink(Path(names[1]), undo), *entries[:6])
    write(ParquetSink(Path(names[2]), undo), *entries[2:4], entries[8])
    recording = open_recording(names, io.BytesIO())
    found = [one.pair.id for one in recording if isinstance(one, Recorded)]
    assert found == [f"{at}{which}" for at in range(9) for which in "ab"]
    assert recording.duplicates == 8
    assert recording.missing == (0, 0)
    assert recording.done == recording.size == sum(Path(name).stat().st_size for name in names)
