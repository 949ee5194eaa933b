"""Pairs in files: lossless lines, tables that DuckDB, pandas and Delta readers open with the right types."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import math
import re
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zstandard
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pairs.samples import PAIRS, pair
from servers import unique

from shadowproxy.cli.pairs import undo
from shadowproxy.errors import PayloadError, StartError
from shadowproxy.model import Accounting, Exchange, Outcome, Pair
from shadowproxy.pairs import EmbeddedServer, encode
from shadowproxy.pairs.delta import DeltaSink
from shadowproxy.pairs.export import Format, export, format_of, sink_for
from shadowproxy.pairs.lines import line_of, read_line
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.reading import Batch, Position, Reading
from shadowproxy.pairs.tables import COLUMNS, GROUP_ROWS, Rows

# Lines


def line(of: Pair) -> bytes:
    return line_of(of, partition=1, entry="1700000000000-16385", position=3, undo=undo)


@given(PAIRS)
def test_a_line_gives_the_same_pair(of: Pair) -> None:
    written = line(of)
    assert b"\n" not in written
    assert read_line(written) == of
    # Any reader of JSON reads it: no infinities, no lone surrogates.
    json.loads(written.decode(), parse_constant=pytest.fail)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1.7976931348623157e308])
def test_a_line_with_what_no_clock_gives(value: float) -> None:
    odd = read_line(line(replace(pair("a"), started=value)))
    assert str(odd.started) == str(value)


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists, max_leaves=5).map(lambda x: json.dumps(x).encode()))
def test_what_is_no_line_is_refused(raw: bytes) -> None:
    with pytest.raises(PayloadError, match="not a line"):
        read_line(raw)


@pytest.mark.parametrize(
    ("of", "to", "says"),
    [
        (b'"v":1', b'"v":2', "version 2, this one reads up to 1"),
        (b'"body":"{', b'"body":null,"x":"{', "_base64"),
        (b'"digest":""', b'"digest":"xy"', "hexadecimal"),
        (b'"outcome":"ok"', b'"outcome":"fine"', "outcome"),
        (b'"started":1700000000.25', b'"started":"soon"', "started"),
        (b'"notes":[]', b'"notes":[],"annotations_base64":"%"', "base64"),
    ],
)
def test_a_spoilt_line_says_what_is_wrong(of: bytes, to: bytes, says: str) -> None:
    spoilt = line(pair("a")).replace(of, to, 1)
    assert spoilt != line(pair("a"))
    with pytest.raises(PayloadError, match=says):
        read_line(spoilt)


def test_a_line_that_a_newer_version_added_to_is_read() -> None:
    added = line(pair("a")).replace(b'"v":1', b'"v":1,"weather":"fine"', 1)
    assert read_line(added) == pair("a")


def test_bodies_in_lines() -> None:
    text = '{"größe": 1}'
    coded = gzip.compress(text.encode())
    head = b"Content-Encoding: gzip\r\nX-Latin: \xe9\r\n"
    of = replace(pair("a"), baseline=Exchange(Outcome.OK, 200, head, coded, len(coded)))
    read = json.loads(line(of))
    assert read["baseline"]["body"] is None
    assert base64.b64decode(read["baseline"]["body_base64"]) == coded
    assert read["baseline"]["body_text"] == text
    assert base64.b64decode(read["baseline"]["head_base64"]) == head
    assert read["request"]["body"] == '{"user": 7}'
    assert read["candidate"]["ttfb"] is None
    assert (read["partition"], read["entry"], read["position"]) == (1, "1700000000000-16385", 3)


# Files


def batch(pairs: Sequence[Pair], *, partition: int = 0, ordinal: int = 1) -> Batch:
    entry = f"170000000000{ordinal}-{ordinal * 16384 + len(pairs)}"
    before = Position(f"170000000000{ordinal}-{ordinal * 16384 + len(pairs) - 1}", ordinal - 1, 0)
    return Batch(partition, entry, 0, pairs, 100, Position(entry, ordinal, len(pairs)), before)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.jsonl", "jsonl"),
        ("a.b.jsonl.gz", "jsonl"),
        ("/x/a.jsonl.zst", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.delta", "delta"),
        ("abfss://c@a.dfs.core.windows.net/x.delta/", "delta"),
    ],
)
def test_the_format_by_the_name(name: str, form: str) -> None:
    assert format_of(name) is Format(form)


@pytest.mark.parametrize("name", ["pairs", "pairs.csv", "a.delta.txt", ""])
def test_a_name_that_says_nothing_is_refused(name: str) -> None:
    with pytest.raises(StartError, match="--format"):
        format_of(name)


def test_a_delta_table_that_is_there_is_known_by_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "table" / "_delta_log").mkdir(parents=True)
    assert format_of(str(tmp_path / "table")) is Format.DELTA


def lines_in(path: Path) -> list[bytes]:
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw = gzip.decompress(raw)
    elif path.suffix == ".zst":
        raw = zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    assert raw.endswith(b"\n")
    return raw.splitlines()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_files_of_lines(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"pairs{suffix}"
    pairs = [pair(f"{number}") for number in range(300)]
    sink = sink_for(str(path), Format.JSONL, "e", undo)
    sink.write(batch(pairs[:100]))
    sink.write(batch(pairs[100:], ordinal=2))
    assert not path.exists()
    sink.finish()
    assert [read_line(line) for line in lines_in(path)] == pairs
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


FILES = ("pairs.jsonl", "pairs.jsonl.gz", "pairs.jsonl.zst", "pairs.parquet")


@pytest.mark.parametrize("name", FILES)
def test_what_is_not_complete_leaves_nothing(tmp_path: Path, name: str) -> None:
    sink = sink_for(str(tmp_path / name), format_of(name), "e", undo)
    sink.write(batch([pair("a")]))
    assert len(list(tmp_path.iterdir())) == 1
    sink.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_there_is_replaced_only_if_asked_and_only_when_complete(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"mine")
    with pytest.raises(StartError, match="--overwrite"):
        sink_for(str(path), format_of(name), "e", undo)
    sink = sink_for(str(path), format_of(name), "e", undo, overwrite=True)
    sink.write(batch([pair("a")]))
    assert path.read_bytes() == b"mine"
    sink.finish()
    assert path.read_bytes() != b"mine"


@pytest.mark.parametrize(
    ("name", "says"), [("", "is a directory"), ("none/pairs.jsonl", "No such file"), ("s3://b/p.jsonl", "URL")]
)
def test_places_that_can_not_be_written(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(StartError, match=says):
        sink_for(name if "://" in name else f"{tmp_path}/{name}", Format.JSONL, "e", undo)


# Tables


BODY = '{"items": ["größe"], "scores": [0.5]}'


def samples() -> list[Pair]:
    coded = gzip.compress(BODY.encode())
    head = b"Content-Encoding: gzip\r\nSet-Cookie: a=1\r\nSET-COOKIE: b=2\r\n"
    full = Pair(
        id="full",
        started=1_700_000_000.123457,
        request=replace(pair("x").request, target="/v1/rank?k=50"),
        baseline=Exchange(Outcome.OK, 200, head, coded, 5000, b"\x01\xff", 0.010, 0.0125),
        candidate=Exchange(Outcome.OK, 503, b"", b"\xff\x00", 2, b"", 0.1, 0.2),
        replica=Exchange(Outcome.RESET, 200, b"", b"", 0, b"", 0.5, detail="the connection ended"),
        annotations=b'{"cohort": "new"}',
        notes=("candidate.body left out: not_json",),
    )
    return [full, pair("plain"), replace(pair("odd"), started=math.inf, annotations=b"\xff")]


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.parquet"
    sink = sink_for(str(path), Format.PARQUET, "e", undo)
    sink.write(batch(samples(), partition=2))
    sink.finish()
    return path


def test_parquet_has_the_documented_columns(parquet: Path) -> None:
    schema = pq.read_schema(parquet)
    assert [(field.name, field.type) for field in schema] == [(name, kind) for name, kind, _ in COLUMNS]


def test_parquet_in_duckdb(parquet: Path) -> None:
    with duckdb.connect() as db:
        # The server's own zone must not matter.
        db.execute("SET TimeZone = 'UTC'")
        db.read_parquet(str(parquet)).create_view("pairs")
        kinds = dict(db.execute("SELECT column_name, column_type FROM (DESCRIBE pairs)").fetchall())
        assert kinds["started"] == "TIMESTAMP WITH TIME ZONE"
        assert (kinds["baseline_status"], kinds["baseline_total"]) == ("INTEGER", "DOUBLE")
        assert (kinds["baseline_body"], kinds["baseline_body_raw"]) == ("VARCHAR", "BLOB")
        assert (kinds["baseline_headers"], kinds["notes"]) == ("MAP(VARCHAR, VARCHAR)", "VARCHAR[]")
        assert (kinds["baseline_body_size"], kinds["baseline_truncated"]) == ("BIGINT", "BOOLEAN")
        row = db.execute(
            """SELECT epoch_us(started), path, baseline_headers['set-cookie'], baseline_body->>'$.items[0]',
                baseline_truncated, baseline_digest, candidate_body, candidate_body_raw, replica_outcome, replica_total,
                annotations->>'cohort', notes, partition, position
                FROM pairs WHERE id = 'full'"""
        ).fetchone()
        assert row == (
            1_700_000_000_123_457, "/v1/rank", "a=1, b=2", "größe", True, "01ff", None, b"\xff\x00", "reset", None,
            "new", ["candidate.body left out: not_json"], 2, 0,
        )  # fmt: skip
        rows = db.execute(
            "SELECT id, started IS NULL, candidate_outcome, candidate_status, candidate_total, replica_outcome, "
            "annotations, request_body_raw FROM pairs WHERE id != 'full' ORDER BY position"
        ).fetchall()
        assert rows == [
            ("plain", False, "timeout", None, None, None, None, None),
            ("odd", True, "timeout", None, None, None, None, None),
        ]


def test_parquet_in_pandas(parquet: Path) -> None:
    frame = pd.read_parquet(parquet).set_index("id")
    assert str(frame["started"].dtype) == "datetime64[us, UTC]"
    assert frame["started"]["full"] == datetime(2023, 11, 14, 22, 13, 20, 123457, UTC)
    assert pd.isna(frame["started"]["odd"])
    assert frame["baseline_total"].dtype == "float64"
    assert frame["partition"].dtype == "int32"
    assert json.loads(frame["baseline_body"]["full"])["items"] == ["größe"]
    assert gzip.decompress(frame["baseline_body_raw"]["full"]).decode() == BODY
    assert dict(frame["baseline_headers"]["full"])["set-cookie"] == "a=1, b=2"
    assert frame["candidate_body_raw"]["full"] == b"\xff\x00"


@given(st.lists(PAIRS, max_size=3))
def test_any_pair_is_a_row(pairs: list[Pair]) -> None:
    rows = Rows(undo)
    rows.add(batch(pairs))
    table = rows.take()
    table.validate(full=True)
    assert [row["id"] for row in table.to_pylist()] == [of.id for of in pairs]
    assert len(rows) == 0


def test_row_groups_are_bounded(tmp_path: Path) -> None:
    sink = sink_for(str(tmp_path / "a.parquet"), Format.PARQUET, "e", undo)
    small = [replace(pair("a", body=b"{}"))] * 1000
    for ordinal in range(1, 26):
        sink.write(batch(small, ordinal=ordinal))
    large = [pair("b", body=b"x" * 1024**2)] * 10
    for ordinal in range(26, 36):
        sink.write(batch(large, ordinal=ordinal))
    sink.finish()
    meta = pq.read_metadata(tmp_path / "a.parquet")
    groups = [meta.row_group(number).num_rows for number in range(meta.num_row_groups)]
    assert groups[:2] == [GROUP_ROWS, GROUP_ROWS]
    assert sum(groups) == 25_100
    # What waited of the small ones, then four times ten of 1 MB.
    assert groups[2:] == [5030, 40, 30]


# Delta


def rows(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = DeltaTable(str(path)).to_pyarrow_table().to_pylist()
    return found


def test_delta_is_read_back_with_the_same_columns(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "pairs.delta"
    sink = sink_for(str(path), Format.DELTA, "e", undo)
    sink.write(batch(samples()))
    sink.finish()
    table = DeltaTable(str(path)).to_pyarrow_table()
    assert table.schema.names == [name for name, _, _ in COLUMNS]
    assert str(table.schema.field("started").type) == "timestamp[us, tz=UTC]"
    with duckdb.connect() as db:
        db.register("pairs", table)
        found = db.execute("SELECT id, baseline_headers['set-cookie'], baseline_body FROM pairs").fetchall()
    assert found[0] == ("full", "a=1, b=2", BODY)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_delta_at_a_url(tmp_path: Path) -> None:
    for ordinal in (1, 2):
        sink = sink_for(f"file://{tmp_path}/pairs.delta", Format.DELTA, "e", undo)
        sink.write(batch([pair("a")], ordinal=ordinal))
        sink.finish()
    assert len(rows(tmp_path / "pairs.delta")) == 2


def test_delta_commits_are_bounded_and_never_far_behind(tmp_path: Path) -> None:
    now = 0.0
    sink = DeltaSink(str(tmp_path / "t"), "e", undo, clock=lambda: now)
    small = [pair("a", body=b"{}")] * 1000
    for ordinal in range(1, 15):
        sink.write(batch(small, ordinal=ordinal))
    assert len(rows(tmp_path / "t")) == GROUP_ROWS
    now = 59.0
    sink.write(batch(small, ordinal=15))
    assert len(rows(tmp_path / "t")) == GROUP_ROWS
    now = 60.0
    sink.write(batch(small, ordinal=16))
    assert len(rows(tmp_path / "t")) == 16_000
    sink.finish()
    # Made in one, and filled in two.
    assert DeltaTable(str(tmp_path / "t")).version() == 2


def test_another_table_is_not_appended_to(tmp_path: Path) -> None:
    from deltalake import write_deltalake

    write_deltalake(str(tmp_path / "t"), pd.DataFrame({"a": [1]}))
    with pytest.raises(StartError, match="other columns"):
        sink_for(str(tmp_path / "t"), Format.DELTA, "e", undo)


def test_delta_in_a_place_that_can_not_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StartError, match=r"file/t.delta") as refusal:
        sink_for(str(tmp_path / "file" / "t.delta"), Format.DELTA, "e", undo)
    assert "\n" not in str(refusal.value)


# From the store


@pytest.fixture
async def three(valkey: EmbeddedServer) -> AsyncIterator[Partitions]:
    async with Partitions.at(valkey.url, unique("export"), partitions=3, max_entries=1000) as made:
        await made.prepare()
        yield made


async def fill(store: Partitions, entries: int, first: int = 1) -> list[str]:
    written = []
    for sequence in range(first, first + entries):
        names = [f"{sequence}-{number}" for number in range(10)]
        count = sequence * 10
        await store.append("p", sequence, encode([pair(name) for name in names]), 10, Accounting(count, count, count))
        written += names
    return written


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def run(store: Partitions, target: Path, **options: Any) -> tuple[int, Reading]:
    sink = sink_for(str(target), format_of(str(target)), store.name, undo)
    reading = Reading(store, positions=sink.positions(len(store.stores)))
    stop = options.pop("stop", None) or asyncio.Event()
    return await export(reading, sink, stop=stop, **options), reading


async def test_a_whole_store_into_a_file(three: Partitions, tmp_path: Path) -> None:
    expected = await fill(three, 20)
    told: list[int] = []
    written, reading = await run(three, tmp_path / "a.jsonl", progress=told.append)
    lines = lines_in(tmp_path / "a.jsonl")
    assert sorted(read_line(line).id for line in lines) == sorted(expected)
    assert written == reading.tally.pairs == told[-1] == 200
    keys = {
        tuple(json.loads(line)[key] for key in ("partition", "entry", "position"))
        for line in lines_in(tmp_path / "a.jsonl")
    }
    assert len(keys) == 200


async def test_an_empty_store_gives_an_empty_file(three: Partitions, tmp_path: Path) -> None:
    assert (await run(three, tmp_path / "a.parquet"))[0] == 0
    assert pd.read_parquet(tmp_path / "a.parquet").shape == (0, len(COLUMNS))


@pytest.mark.parametrize("limit", [1, 10, 25, 200, 1000])
async def test_a_limit(three: Partitions, tmp_path: Path, limit: int) -> None:
    await fill(three, 6)
    written, _ = await run(three, tmp_path / "a.jsonl", limit=limit)
    assert written == len(lines_in(tmp_path / "a.jsonl")) == min(limit, 60)


async def test_a_stop_completes_the_file_with_what_was_read(three: Partitions, tmp_path: Path) -> None:
    await fill(three, 6)
    stop = asyncio.Event()
    written, reading = await run(
        three, tmp_path / "a.parquet", stop=stop, progress=lambda pairs: stop.set() if pairs >= 20 else None
    )
    assert written == len(pd.read_parquet(tmp_path / "a.parquet")) == 20
    assert reading.tally.unread_pairs == 40


async def test_following_writes_what_comes(three: Partitions, tmp_path: Path) -> None:
    expected = await fill(three, 3)
    stop, seen = asyncio.Event(), asyncio.Event()

    def progress(pairs: int) -> None:
        if pairs == 30:
            seen.set()
        elif pairs == 60:
            stop.set()

    running = asyncio.ensure_future(run(three, tmp_path / "a.jsonl", follow=True, stop=stop, progress=progress))
    await asyncio.wait_for(seen.wait(), 20)
    expected += await fill(three, 3, first=4)
    written, _ = await asyncio.wait_for(running, 20)
    assert written == 60
    assert sorted(read_line(line).id for line in lines_in(tmp_path / "a.jsonl")) == sorted(expected)


async def test_a_failure_leaves_no_file(three: Partitions, tmp_path: Path) -> None:
    await fill(three, 3)

    def broken(_: int) -> None:
        raise StartError("no more")

    with pytest.raises(StartError, match="no more"):
        await run(three, tmp_path / "a.parquet", progress=broken)
    assert names_in(tmp_path) == []


async def test_a_delta_table_gets_each_pair_once_however_often_it_is_exported(
    three: Partitions, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.delta"
    expected = await fill(three, 7)
    counts = [(await run(three, path, limit=limit))[0] for limit in (3, 4, 25, None, None)]
    assert counts == [3, 4, 25, 38, 0]
    expected += await fill(three, 2, first=8)
    assert (await run(three, path))[0] == 20
    found = rows(path)
    assert sorted(row["id"] for row in found) == sorted(expected)
    assert len({(row["partition"], row["entry"], row["position"]) for row in found}) == 90


async def test_an_export_that_dies_between_commits_is_gone_on_with(three: Partitions, tmp_path: Path) -> None:
    path = tmp_path / "pairs.delta"
    expected = await fill(three, 9)
    now = 0.0
    sink = DeltaSink(str(path), three.name, undo, clock=lambda: now)

    def progress(pairs: int) -> None:
        nonlocal now
        now += 20
        if pairs == 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await export(Reading(three), sink, stop=asyncio.Event(), progress=progress)
    committed = len(rows(path))
    assert 0 < committed < 70
    assert (await run(three, path))[0] == 90 - committed
    assert sorted(row["id"] for row in rows(path)) == sorted(expected)


async def test_what_was_deleted_between_two_exports_is_counted(three: Partitions, tmp_path: Path) -> None:
    path = tmp_path / "pairs.delta"
    await fill(three, 3)
    await run(three, path)
    await fill(three, 6, first=4)
    for store in three.stores:
        entries = await store.read("w", 2, 0)
        await store.commit("w", [entry.id for entry in entries], b"state")
    written, reading = await run(three, path)
    assert written == 30
    assert (reading.tally.gone_entries, reading.tally.gone_pairs) == (3, 30)


async def test_of_two_exports_at_a_time_one_is_refused(three: Partitions, tmp_path: Path) -> None:
    path = tmp_path / "pairs.delta"
    await fill(three, 3)
    await run(three, path)
    expected = await fill(three, 3, first=4)
    sinks = [DeltaSink(str(path), three.name, undo) for _ in range(2)]
    readings = [Reading(three, positions=sink.positions(3)) for sink in sinks]
    assert await export(readings[0], sinks[0], stop=asyncio.Event()) == 30
    with pytest.raises(StartError, match="can't be appended to"):
        await export(readings[1], sinks[1], stop=asyncio.Event())
    assert len(rows(path)) == 30 + len(expected)


async def test_two_experiments_in_one_table(valkey: EmbeddedServer, three: Partitions, tmp_path: Path) -> None:
    path = tmp_path / "pairs.delta"
    await fill(three, 3)
    await run(three, path)
    async with Partitions.at(valkey.url, unique("other"), max_entries=10) as other:
        await other.prepare()
        await fill(other, 1)
        assert (await run(other, path))[0] == 10
    assert (await run(three, path))[0] == 0
    assert len(rows(path)) == 40


# The page


def examples(language: str) -> list[str]:
    page = (Path(__file__).parents[2] / "docs" / "pairs.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answers = [b'{"items": [1, 2]}', b'{"items": [2, 1]}', b"no JSON"]
    some = [
        replace(pair(f"{number}", body=body), candidate=pair("x", body=answers[0]).baseline)
        for number, body in enumerate(answers)
    ]
    for name in ("pairs.jsonl", "pairs.parquet", "pairs.delta"):
        sink = sink_for(name, format_of(name), "e", undo)
        sink.write(batch([*some, pair("failed")]))
        sink.finish()


@pytest.mark.usefixtures("exported")
def test_the_examples_for_duckdb() -> None:
    [block] = examples("sql")
    with duckdb.connect() as db:
        # By way of Arrow: what Python makes of times with a zone is not what is asked.
        tables = [db.sql(statement).to_arrow_table() for statement in block.split(";") if statement.strip()]
    results = [[tuple(row.values()) for row in table.to_pylist()] for table in tables]
    outcomes, differing, headers = results
    assert outcomes == [("ok", 200, 3, [0.0, 0.0]), ("timeout", None, 1, None)]
    assert [row[0] for row in differing] == ["1", "2", "failed"]
    assert {row[1:] for row in headers} == {(200, "application/json")}


@pytest.mark.usefixtures("exported")
def test_the_examples_in_python() -> None:
    names: dict[str, Any] = {}
    for block in examples("python"):
        exec(block, names)  # noqa: S102
    assert names["slower"].loc["/v1/rank", "count"] == 3
    assert names["by_minute"].tolist() == [4]
    assert names["failed"]["id"].tolist() == ["failed"]


# Without the extras


BARE = """
import sys
for name in ("pyarrow", "deltalake"):
    sys.modules[name] = None
from shadowproxy.errors import StartError
from shadowproxy.pairs.export import format_of, sink_for
try:
    sink_for(sys.argv[1], format_of(sys.argv[1]), "e", None).finish()
except StartError as error:
    print(error)
"""


@pytest.mark.parametrize(("name", "extra"), [("a.parquet", "parquet"), ("a.delta", "delta")])
def test_a_missing_extra_is_named(tmp_path: Path, name: str, extra: str) -> None:
    done = subprocess.run([sys.executable, "-c", BARE, name], capture_output=True, text=True, cwd=tmp_path)
    assert f"pip install 'shadowproxy[{extra}]'" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_lines_need_no_extra(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", BARE, "a.jsonl.zst"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "a.jsonl.zst").exists()
