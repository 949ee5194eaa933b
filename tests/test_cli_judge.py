"""`shadowproxy judge`, as a user runs it: the verdict on an export is the one that the store gives."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from servers import unique
from typer.testing import CliRunner

from shadowproxy import metrics
from shadowproxy.cli import app
from shadowproxy.comparator.worker import Worker
from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.versions import VersionReader
from shadowproxy.config import experiment_id, load
from shadowproxy.errors import StartError
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs import EmbeddedServer, encode
from shadowproxy.pairs.partitions import Partitions, Watermarks
from shadowproxy.pairs.recorded import Seen
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.record import Cell, Verdict

HEAD = b"Content-Type: application/json\r\nX-Version: %s\r\n"


def pair(at: int) -> Pair:
    """One of many kinds: other orders, other scores, slow ones, failures, three regions, a repeated header."""
    asked = json.dumps({"user": at % 5, "region": f"r{at % 3}", "account": at * 7 % 411}).encode()
    ids = ["a", "b", "c", "d"]
    ours = json.dumps({"ids": ids, "scores": [4, 3, 2, 1]}).encode()
    other = ids[at % 2 :] + ids[: at % 2]
    theirs = json.dumps({"ids": other, "scores": [4.1 + at % 5 / 10, 3, 2, 1]}).encode()
    request = Request("POST", "/rank?k=4", b"Accept: a\r\naccept: b\r\n", asked, len(asked))
    compressed = gzip.compress(ours, mtime=0)
    baseline = Exchange(
        Outcome.OK, 200, HEAD % b"1" + b"Content-Encoding: gzip\r\n", compressed, len(compressed), b"", 0.01, 0.02
    )
    candidate = Exchange(Outcome.OK, 200, HEAD % b"2", theirs, len(theirs), b"", 0.01, 0.02 + at % 7 / 1000)
    if at % 23 == 0:
        candidate = Exchange(Outcome.TIMEOUT, detail="no answer within 10 s")
    elif at % 29 == 0:
        candidate = Exchange(Outcome.OK, 200, HEAD % b"2", b"\xff{", 2, b"", 0.01, 0.02)
    return Pair(f"id-{at}", 1_700_000_000.125 + at / 50, request, baseline, candidate)


CONFIG = """
experiment: {name}
baseline: http://a
candidate: http://b
redis: {{url: {url}, partitions: 2}}
routes:
  - name: rank
    path: /rank
    ids: response.body.ids
    scores: response.body.scores
    cohorts: {{region: request.body.region, user: request.body.user}}
verdict:
  version_header: x-version
  max_cohorts: 12
  guardrails:
    - {{metric: failures.difference, margin: 0.2}}
    - {{metric: latency.total_log2, margin: 0.27}}
    - {{metric: ranking.rbo, margin: 0.4}}
    - {{metric: scores.relative_delta, margin: 0.03}}
"""


@dataclass
class Recorded:
    """An experiment that workers have counted, and its files."""

    config: Path
    folder: Path
    verdict: Verdict

    def export(self, name: str, *options: str) -> Path:
        done = run("pairs", "export", str(self.folder / name), "--config", str(self.config), *options)
        assert done.exit_code == 0, done.output
        return self.folder / name


def run(*words: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(words), input=stdin)


def judged(recorded: Recorded, *files: Path | str, code: int | None = None, stdin: bytes | None = None) -> Verdict:
    done = run("judge", *map(str, files), "--config", str(recorded.config), "--json", stdin=stdin)
    assert done.exit_code in ({code} if code is not None else {0, 1, 3}), done.output
    return msgspec.json.decode(done.stdout, type=Verdict)


BLOCKS = CONFIG.replace("  max_cohorts: 12", "  max_cohorts: 12\n  blocks: 2s").replace("margin: 0.4", "margin: 0.6")

FIRSTS = (
    CONFIG.replace("  max_cohorts: 12", "  max_cohorts: 12\n  first_per_account: true")
    .replace("partitions: 2", "partitions: 1")
    .replace("    cohorts:", "    account: request.body.account\n    cohorts:")
)


async def _count(config: Path, url: str, pairs: Sequence[Pair]) -> Verdict:
    settings = load(config)
    async with Partitions.at(
        url, experiment_id(settings), partitions=settings.redis.partitions, max_entries=1000, keep=1 << 30
    ) as store:
        await store.prepare()
        for number, first in enumerate(range(0, len(pairs), 30), 1):
            batch, count = pairs[first : first + 30], min(first + 30, len(pairs))
            await store.append("p", number, encode(batch), len(batch), Accounting(count, count, count))
        plan, watermarks = Plan(settings), Watermarks(settings.redis.partitions)
        workers = [
            Worker(
                partition, Comparer(settings.routes), plan, metrics.ComparatorMetrics(metrics.registry()), name="w",
                read=3, claim_idle=1, max_cohorts=12, home=store.home, watermarks=watermarks,
                versions=VersionReader("x-version"),
            )
            for partition in store.stores
        ]  # fmt: skip
        for worker in workers:
            worker.stop()
        # One after the other: which cohort gets which slot is then the same in every run.
        for worker in workers:
            await worker.run()
        return (await VerdictReader(store, settings).read()).verdict


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, valkey: EmbeddedServer) -> Recorded:
    return counted(tmp_path_factory.mktemp("recorded"), valkey, CONFIG)


def counted(folder: Path, valkey: EmbeddedServer, text: str) -> Recorded:
    config = folder / "shadowproxy.yaml"
    config.write_text(text.format(name=unique("judge"), url=valkey.url))
    verdict = asyncio.run(_count(config, valkey.url, [pair(at) for at in range(900)]))
    return Recorded(config, folder, verdict)


def cells(verdict: Verdict) -> dict[tuple[str, str], Cell]:
    found = (*verdict.guardrails, *(cell for report in verdict.cohorts.values() for cell in report.guardrails))
    return {(cell.guardrail, cell.cohort): cell for cell in found}


def figures(cell: Cell) -> list[float]:
    assert cell.estimate is not None
    assert cell.interval is not None
    # E-values are exponentials of sums of hundreds of terms: their logarithms are equal to rounding.
    logs = [math.log(value) for value in (cell.e_promote, cell.e_rollback)]
    return [*logs, cell.estimate, *cell.interval, cell.pairs, cell.undefined, cell.margin, cell.rollback_at]


def alike(got: Verdict, expected: Verdict) -> None:
    assert (got.state, got.pairs, got.open_pairs) == (expected.state, expected.pairs, 0)
    assert got.versions == expected.versions
    assert got.failures == expected.failures
    mine, theirs = cells(got), cells(expected)
    assert mine.keys() == theirs.keys()
    for place, cell in mine.items():
        assert figures(cell) == pytest.approx(figures(theirs[place]), rel=1e-9, abs=1e-9), place
        assert (cell.finding, cell.required) == (theirs[place].finding, theirs[place].required)


def test_the_store_had_something_to_say(recorded: Recorded) -> None:
    found = cells(recorded.verdict)
    assert recorded.verdict.pairs == 900
    assert {cell.finding.value for cell in found.values()} >= {"safe", "undecided"}
    assert recorded.verdict.failures["candidate"].keys() == {"timeout", "bad_body"}
    assert len(recorded.verdict.cohorts) == 8
    assert recorded.verdict.versions["candidate"][0].value == "2"


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_an_export_is_judged_as_the_store_is(recorded: Recorded, suffix: str) -> None:
    alike(judged(recorded, recorded.export(f"whole{suffix}")), recorded.verdict)


def test_blocks_of_time_are_judged_as_the_store_does(tmp_path: Path, valkey: EmbeddedServer) -> None:
    found = counted(tmp_path, valkey, BLOCKS)
    assert {cell.pairs for cell in found.verdict.guardrails} != {900}
    for name in ("blocks.jsonl", "blocks.parquet"):
        alike(judged(found, found.export(name)), found.verdict)


def test_only_an_accounts_first_pair_is_judged_where_the_store_counts_no_other(
    tmp_path: Path, valkey: EmbeddedServer
) -> None:
    found = counted(tmp_path, valkey, FIRSTS)
    assert found.verdict.pairs == 411
    for name in ("firsts.jsonl", "firsts.parquet"):
        alike(judged(found, found.export(name)), found.verdict)


def test_overlapping_files_count_each_pair_once(recorded: Recorded) -> None:
    whole = recorded.export("a.jsonl")
    part = recorded.export("b.jsonl.gz", "--limit", "333")
    lines = whole.read_bytes().splitlines(keepends=True)
    tail, table = recorded.folder / "tail.jsonl", recorded.export("c.parquet")
    tail.write_bytes(b"".join(lines[500:] + lines[700:800]))
    got = judged(recorded, tail, part, whole, table)
    alike(got, recorded.verdict)
    assert any("1,733 pairs stood in the files more than once" in note for note in got.notes)


def test_files_that_are_parts_of_one_may_come_in_any_order(recorded: Recorded) -> None:
    lines = recorded.export("parts.jsonl").read_bytes().splitlines(keepends=True)
    parts = [recorded.folder / f"part-{at}.jsonl" for at in range(3)]
    for at, path in enumerate(parts):
        path.write_bytes(b"".join(lines[300 * at : 300 * at + 300]))
    alike(judged(recorded, *reversed(parts)), recorded.verdict)


def test_what_is_missing_in_between_is_noted(recorded: Recorded) -> None:
    lines = recorded.export("gaps.jsonl").read_bytes().splitlines(keepends=True)
    entries = sorted({(line["partition"], int(line["entry"].split("-")[1])) for line in map(json.loads, lines)})
    # Of 15 entries in a partition two in the middle and the last, of which nobody can know; and one pair more.
    first = [number for partition, number in entries if partition == 0]
    left_out = {(0, first[at]) for at in (3, 7, 14)}
    kept = [
        line
        for line in lines
        if ((found := json.loads(line))["partition"], int(found["entry"].split("-")[1])) not in left_out
    ]
    path = recorded.folder / "left-out.jsonl"
    path.write_bytes(b"".join(kept[:100] + kept[101:]))
    got = judged(recorded, path)
    assert got.pairs == 900 - 91
    assert "2 entries of the stream, and 1 pairs of others, are in no file" in got.notes
    whole = judged(recorded, recorded.folder / "gaps.jsonl")
    assert not any("entries of the stream" in note for note in whole.notes)


def test_standard_input_is_read_compressed_or_not(recorded: Recorded) -> None:
    for name in ("in.jsonl", "in.jsonl.zst"):
        alike(judged(recorded, "-", stdin=recorded.export(name).read_bytes()), recorded.verdict)


def test_lines_that_are_no_pairs_are_said_and_hold_a_promote_back(recorded: Recorded) -> None:
    lines = recorded.export("good.jsonl").read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[0])
    wrong = [b"no\x1b[2J pair\n", b"{}\n", json.dumps({**entry, "entry": "x-1"}).encode() + b"\n"]
    wrong += [json.dumps({**entry, "started": None}).encode() + b"\n", json.dumps({**entry, "v": 2}).encode() + b"\n"]
    path = recorded.folder / "bad.jsonl"
    path.write_bytes(b"".join([*lines[:100], *wrong, b"\n", *lines[100:]]))
    done = run("judge", str(path), "--config", str(recorded.config), "--json")
    got = msgspec.json.decode(done.stdout, type=Verdict)
    said = done.stderr.splitlines()
    assert [line.split(": ")[0] for line in said] == [f"{path}, line {number}" for number in range(101, 106)]
    assert "version 2" in said[4]
    assert "\x1b" not in done.stderr
    failed = {check.name for check in got.checks if not check.passed}
    assert "no_dead_letters" in failed
    assert cells(got).keys() == cells(recorded.verdict).keys()
    assert got.pairs == 900
    assert got.state.value != "promote"
    assert any("5 lines could not be read" in note for note in got.notes)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".jsonl"])
def test_a_file_that_is_cut_is_no_whole_recording(recorded: Recorded, suffix: str) -> None:
    whole = recorded.export(f"cut{suffix}").read_bytes()
    path = recorded.folder / f"half{suffix}"
    path.write_bytes(whole[: len(whole) // 2])
    done = run("judge", str(path), "--config", str(recorded.config), "--json")
    got = msgspec.json.decode(done.stdout, type=Verdict)
    assert 0 < got.pairs < 900
    assert str(path) in done.stderr
    assert "no_dead_letters" in {check.name for check in got.checks if not check.passed}


def test_what_is_no_recording_is_a_usage_error(recorded: Recorded, tmp_path: Path) -> None:
    table, folder = tmp_path / "t.parquet", tmp_path / "d.delta"
    table.write_bytes(b"PAR1 and nothing")
    folder.mkdir()
    for name, words in ((table, "as Parquet"), (folder, "directory"), (tmp_path / "none.jsonl", "No such file")):
        done = run("judge", str(name), "--config", str(recorded.config))
        assert isinstance(done.exception, StartError), done.output
        assert words in str(done.exception)
        assert str(name) in str(done.exception)


def test_a_parquet_file_of_others_is_named_for_what_it_lacks(recorded: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"id": ["a"]}), path)
    done = run("judge", str(path), "--config", str(recorded.config))
    assert "no column started" in str(done.exception)


def test_markdown_is_written_beside_the_report(recorded: Recorded) -> None:
    path, pairs = recorded.folder / "verdict.md", recorded.export("m.jsonl")
    done = run("judge", str(pairs), "--config", str(recorded.config), "--markdown", str(path))
    assert recorded.verdict.state.value.upper() in done.stdout
    assert path.read_text().startswith("## ")
    assert "quality" not in path.read_text()
    only = run("judge", str(pairs), "--config", str(recorded.config), "--markdown", "-").stdout
    # All but the moment of the reading is the same.
    assert only == path.read_text()


def test_slots_go_to_the_cohorts_that_come_first(recorded: Recorded, tmp_path: Path) -> None:
    config = tmp_path / "shadowproxy.yaml"
    config.write_text(recorded.config.read_text().replace("max_cohorts: 12", "max_cohorts: 3"))
    pairs = recorded.export("slots.jsonl")
    got = judged(Recorded(config, tmp_path, recorded.verdict), pairs)
    first = [json.loads(line)["id"] for line in pairs.read_text().splitlines()[:2]]
    numbers = [int(name.removeprefix("id-")) for name in first]
    expected = [name for at in numbers for name in (f"region=r{at % 3}", f"user={at % 5}")][:3]
    assert got.cohorts.keys() == {*expected, "other"}


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 1), st.integers(1, 3), st.integers(0, 4))))
def test_each_place_is_new_once(places: list[tuple[int, int, int, int]]) -> None:
    seen, known = Seen(), set[tuple[int, int, int, int]]()
    for place in places:
        assert seen.add(place) == (place not in known)
        known.add(place)
