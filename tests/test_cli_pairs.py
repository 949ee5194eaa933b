"""`shadowproxy pairs`, as a user runs it, on a real Valkey."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from msgspec.structs import replace
from pairs.samples import pair
from servers import unique, until
from typer.testing import CliRunner

from shadowproxy import metrics
from shadowproxy.cli import app
from shadowproxy.comparator.worker import Worker
from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import experiment_id, load
from shadowproxy.model import Accounting, Exchange, Outcome, Pair
from shadowproxy.pairs import EmbeddedServer, encode
from shadowproxy.pairs.exemplars import Record
from shadowproxy.pairs.lines import read_line
from shadowproxy.pairs.partitions import Partitions, Watermarks
from shadowproxy.proxy.redact import Redactor
from shadowproxy.verdict.exemplars import Boards, Limits
from shadowproxy.verdict.plan import Plan

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "120", "TERM": "dumb"}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "shadowproxy", "pairs", *words]


def pairs(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), capture_output=True, text=True, timeout=60, env=ENVIRONMENT, **options)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("shadowproxy: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


@dataclass
class Place:
    """A configuration of two partitions, and what to do in its store."""

    config: str
    url: str
    batches: int = 0

    def run(self, work: Callable[[Partitions], Any]) -> Any:
        async def within() -> Any:
            name = experiment_id(load(Path(self.config)))
            async with Partitions.at(self.url, name, partitions=2, max_entries=1000) as store:
                await store.prepare()
                return await work(store)

        return asyncio.run(within())

    def write(self, *batches: list[Pair] | bytes) -> None:
        async def work(store: Partitions) -> None:
            for batch in batches:
                self.batches += 1
                count = self.batches * 10
                payload = batch if isinstance(batch, bytes) else encode(batch)
                size = 10 if isinstance(batch, bytes) else len(batch)
                await store.append("p", self.batches, payload, size, Accounting(count, count, count))

        self.run(work)

    def commit(self, dead: str = "") -> None:
        async def work(store: Partitions) -> None:
            for part in store.stores:
                ids = [entry.id for entry in await part.read("w", 100, 0)]
                await part.commit("w", ids, b"state", dead=dict.fromkeys(ids, dead) if dead else {})

        self.run(work)


@pytest.fixture
def place(tmp_path: Path, valkey: EmbeddedServer) -> Place:
    config = tmp_path / "shadowproxy.yaml"
    config.write_text(
        f"experiment: {unique('pairs')}\nbaseline: http://a\ncandidate: http://b\n"
        f"redis: {{url: {valkey.url}, partitions: 2}}"
    )
    return Place(str(config), valkey.url)


@pytest.mark.parametrize("name", ["tail", "show", "dead-letters", "export", "worst", "sample"])
def test_every_command_has_help_with_an_example(name: str) -> None:
    done = pairs(name, "--help")
    assert done.returncode == 0
    assert re.search(rf"Example\W+shadowproxy pairs {name} ", done.stdout), done.stdout


def test_the_commands_of_the_group_are_known_to_this_test() -> None:
    from shadowproxy.cli import exemplars
    from shadowproxy.cli.pairs import app

    commands = [*app.registered_commands, *exemplars.app.registered_commands]
    assert [command.name or getattr(command.callback, "__name__", "") for command in commands] == [
        "tail", "show", "dead-letters", "export", "worst", "sample"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "words", [("tail",), ("show", "x"), ("dead-letters",), ("export", "a.jsonl"), ("worst",), ("sample",)]
)
def test_no_store_is_one_line_and_code_4(tmp_path: Path, words: tuple[str, ...]) -> None:
    config = tmp_path / "shadowproxy.yaml"
    config.write_text("baseline: http://a\ncandidate: http://b\nredis: {url: 'redis://me:geheim@127.0.0.1:1'}")
    done = pairs(*words, "--config", str(config), cwd=tmp_path)
    assert done.returncode == 4
    assert "127.0.0.1:1" in one_line(done)
    assert "geheim" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["shadowproxy.yaml"]


def test_an_empty_store_says_so(place: Place) -> None:
    for words in (("tail",), ("dead-letters",)):
        done = pairs(*words, "--config", place.config)
        assert (done.returncode, done.stdout) == (0, "")
        assert experiment_id(load(Path(place.config))) in done.stderr


def test_tail(place: Place) -> None:
    place.write([pair(f"a{number}") for number in range(10)])
    place.write([replace(pair("b\x1b[2J"), request=replace(pair("b").request, target="/\x07"))])
    lines = pairs("tail", "-n", "3", "--config", place.config).stdout.splitlines()
    assert [line.split("  ")[1] for line in lines] == ["a8", "a9", "b\\x1b[2J"]
    assert lines[0].startswith("2023-11-14 22:13:20.250Z  a8  POST /v1/rank?k=50  baseline 200 12.5 ms")
    assert "POST /\\x07" in lines[2]
    read = [read_line(line).id for line in pairs("tail", "--json", "--config", place.config).stdout.splitlines()]
    assert read == [*(f"a{number}" for number in range(1, 10)), "b\x1b[2J"]


def test_json_does_not_steer_the_terminal_either(place: Place) -> None:
    place.write([pair("\x9b2J\u202e größe \U000e0001\x7f", body="\x9b".encode())])
    (line,) = pairs("tail", "--json", "--config", place.config).stdout.splitlines()
    assert line.isprintable()
    assert "größe" in line
    assert read_line(line) == pair("\x9b2J\u202e größe \U000e0001\x7f", body="\x9b".encode())


def test_a_reader_that_goes_away_is_no_error(place: Place) -> None:
    place.write(*[[pair(f"{batch}-{number}") for number in range(1000)] for batch in range(5)])
    with subprocess.Popen(
        command("tail", "-n", "5000", "--config", place.config),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # Of the first batch or the second: they stand in two partitions, and may have come in the same millisecond.
        assert "-0  POST" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""


def test_tail_follows_until_it_is_interrupted(place: Place) -> None:
    place.write([pair("first")])
    with subprocess.Popen(
        command("tail", "--follow", "--config", place.config), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        assert "  first  " in process.stdout.readline()
        for name in ("second", "third"):
            place.write([pair(name)])
            assert f"  {name}  " in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
    assert process.returncode == 0


def test_tail_says_what_can_not_be_read(place: Place) -> None:
    place.write([pair("a")], b"garbage", [pair("b")])
    done = pairs("tail", "-n", "100", "--config", place.config)
    assert len(done.stdout.splitlines()) == 2
    assert "1 entry (10 pairs) can't be read: not a batch of pairs" in done.stderr


def test_show(place: Place) -> None:
    coded = gzip.compress(b'{"items": [1, 2]}')
    head = b"Content-Encoding: gzip\r\nX-Version: 1\r\n"
    of = replace(
        pair("it"),
        baseline=Exchange(Outcome.OK, 200, head, coded, len(coded), b"", 0.01, 0.02),
        candidate=Exchange(Outcome.OK, 200, b"X-Version: \x1b[31m2\r\n", b'{"items": [1, 3]}', 17, b"", 1.5, 2.5),
    )
    place.write([pair("other"), of], [pair("more")])
    done = pairs("show", "it", "--config", place.config)
    assert done.returncode == 0, done.stderr
    for word in ('"items": [', "x-version: \\x1b[31m2", "20 ms", "2.5 s", "$.items[1]: 2 → 3", "partition 1, entry "):
        assert word in done.stdout
    assert "\x1b" not in done.stdout
    assert read_line(pairs("show", "it", "--json", "--config", place.config).stdout) == of
    assert f"{len(coded)} bytes, no text: 1f 8b" in pairs("show", "it", "--raw", "--config", place.config).stdout


def test_show_of_what_is_not_there(place: Place) -> None:
    place.write([pair("a")])
    done = pairs("show", "b\x1b[2J", "--config", place.config)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no pair b\\x1b[2J among the 1 in the store" in one_line(done)
    assert "redis.keep" in one_line(done)


def test_show_of_an_id_that_was_used_twice(place: Place) -> None:
    place.write([pair("a", body=b"first"), pair("a", body=b"second")])
    done = pairs("show", "a", "--json", "--config", place.config)
    assert read_line(done.stdout).baseline.body == b"second"
    assert "2 pairs have this id" in done.stderr


@pytest.fixture
def counted(tmp_path: Path, valkey: EmbeddedServer) -> Place:
    """Pairs that were recorded by way of redaction, counted, and are gone from the stream."""
    config = tmp_path / "counted.yaml"
    config.write_text(
        f"experiment: {unique('counted')}\nbaseline: http://a\ncandidate: http://b\n"
        f"redis: {{url: {valkey.url}, partitions: 2, keep: 0}}\n"
        "proxy: {redact: {json_fields: {secret: drop}}}\n"
        "routes: [{name: rank, path: /v1/rank, cohorts: {user: request.body.user}}]\n"
        "comparator: {worst: 2, sample: 3}\n"
        "verdict: {guardrails: [{metric: failures.difference, margin: 0.01}]}\n"
    )
    made = Place(str(config), valkey.url)
    body = b'{"secret": "geheim", "items": [1]}'
    good = Exchange(Outcome.OK, 200, b"Content-Type: application/json\r\n", body, len(body), b"", 0.01, 0.02)
    settings = load(config)
    scrub = Redactor(settings.proxy.redact)
    written = [replace(pair(f"ok{at}"), baseline=good, candidate=good) for at in range(8)]
    written += [replace(pair(f"bad{at}\x07"), baseline=good) for at in range(4)]
    made.write(*(list(map(scrub, written[first : first + 3])) for first in range(0, 12, 3)))

    async def count(store: Partitions) -> None:
        marks = Watermarks(2)
        for part in store.stores:
            worker = Worker(
                part,
                Comparer(settings.routes),
                Plan(settings),
                metrics.ComparatorMetrics(metrics.registry()),
                name="w",
                read=10,
                claim_idle=15.0,
                max_cohorts=32,
                home=store.home,
                watermarks=marks,
                exemplars=Limits(settings.comparator.worst, settings.comparator.sample, 1 << 20),
            )
            worker.stop()
            await worker.run()
            assert await part.browse("0", 1) == []

    made.run(count)
    return made


def here(*words: str) -> Result:
    """The same without a process of its own, which takes a second to begin."""
    return CliRunner().invoke(app, ["pairs", *words])


def test_worst(counted: Place) -> None:
    done = pairs("worst", "--config", counted.config)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert re.fullmatch(
            r"failures\.difference  all  loss 1  2023-11-14 22:13:20\.250Z  bad\d\\x07  POST /v1/rank\?k=50  "
            r"baseline 200 .*candidate timeout .*  user=7",
            line,
        ), line
    rows = [json.loads(line) for line in here("worst", "--json", "--config", counted.config).stdout.splitlines()]
    assert [row["id"].removesuffix("\x07") for row in rows] == [re.findall(r"bad\d", line)[0] for line in lines]
    assert {(row["guardrail"], row["cohort"], row["loss"], row["route"], *row["cohorts"]) for row in rows} == {
        ("failures.difference", "all", 1.0, "rank", "user=7")
    }
    assert len(here("worst", "--cohort", "user=7", "-n", "1", "--config", counted.config).stdout.splitlines()) == 1
    assert rows[0]["candidate"] == {"outcome": "timeout", "status": 0, "total": None}


def test_worst_of_what_is_not_known_names_what_is(counted: Place) -> None:
    done = here("worst", "--guardrail", "ranking.rbo", "--config", counted.config)
    assert done.exit_code == 2
    assert "there is no guardrail ranking.rbo; there are failures.difference" in done.stderr
    done = here("worst", "--cohort", "user=8", "--config", counted.config)
    assert done.exit_code == 2
    assert "there is no cohort user=8; there are all, user=7, other" in done.stderr


def test_sample_and_show_of_a_pair_that_is_gone_from_the_stream(counted: Place) -> None:
    rows = [json.loads(line) for line in here("sample", "--json", "--config", counted.config).stdout.splitlines()]
    assert len(rows) == 3
    assert {(row["guardrail"], row["loss"]) for row in rows} == {(None, None)}
    lines = here("sample", "--config", counted.config).stdout.splitlines()
    assert [line.split("  ")[1] for line in lines] == [row["id"].replace("\x07", "\\x07") for row in rows]
    shown = here("show", rows[0]["id"], "--json", "--config", counted.config)
    assert shown.exit_code == 0, shown.stderr
    line = json.loads(shown.stdout)
    assert [line[key] for key in ("id", "partition", "entry", "position")] == [
        rows[0][key] for key in ("id", "partition", "entry", "position")
    ]
    assert line["baseline"]["body"] == '{"items":[1]}'
    assert "partition " in here("show", rows[0]["id"], "--config", counted.config).stdout


def test_what_was_redacted_is_in_no_exemplar(counted: Place) -> None:
    async def held(store: Partitions) -> bytes:
        found = [part.exemplars for part in store.stores]
        boards = [stored for one in found for stored in await one.all()]
        keys = [key for stored in boards for key in Boards.from_bytes(stored).sizes]
        records = [record for one in found for record in (await one.records(keys)).values()]
        assert len(records) >= 3
        return b"".join([*boards, *records, *(msgspec.msgpack.encode(Record.of(one).pair()) for one in records)])

    found = counted.run(held)
    assert b'{"items":[1]}' in found
    assert b"geheim" not in found


def test_no_exemplars_say_so(place: Place) -> None:
    for word in ("worst", "sample"):
        done = here(word, "--config", place.config)
        assert (done.exit_code, done.stdout) == (0, "")
        assert "no pair was kept" in done.stderr


def test_dead_letters(place: Place, tmp_path: Path) -> None:
    place.write(b"bad 1", b"bad 2", b"bad 3")
    place.commit(dead="damaged \x1b[2J batch")
    folder = tmp_path / "letters"
    done = pairs("dead-letters", "-n", "2", "--raw", str(folder), "--config", place.config)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert "damaged \\x1b[2J batch" in lines[0]
    assert "10 pairs  5 B" in lines[0]
    files = sorted(folder.iterdir())
    # Of one millisecond either may be the newer.
    assert {path.read_bytes() for path in files} < {b"bad 1", b"bad 2", b"bad 3"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder, *files)} == {0o700, 0o600}
    rows = [json.loads(line) for line in pairs("dead-letters", "--json", "--config", place.config).stdout.splitlines()]
    assert sorted((row["partition"], row["pairs"], row["bytes"]) for row in rows) == [
        (0, 10, 5),
        (1, 10, 5),
        (1, 10, 5),
    ]
    assert rows == sorted(rows, key=lambda row: row["written"], reverse=True)
    assert {row["reason"] for row in rows} == {"damaged \x1b[2J batch"}
    assert f"{rows[0]['partition']}-{rows[0]['entry']}.bin" in {path.name for path in files}


def test_dead_letters_that_can_not_be_written(place: Place, tmp_path: Path) -> None:
    place.write(b"bad")
    place.commit(dead="bad")
    (tmp_path / "file").write_text("mine")
    done = pairs("dead-letters", "--raw", str(tmp_path / "file"), "--config", place.config)
    assert done.returncode == 2
    assert "can't be written" in one_line(done)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.delta"])
def test_export(place: Place, tmp_path: Path, name: str) -> None:
    place.write([pair(f"a{number}") for number in range(10)], [pair("b")])
    done = pairs("export", name, "--config", place.config, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr == f"11 pairs written to {name}\n"
    again = pairs("export", name, "--config", place.config, cwd=tmp_path)
    if name == "a.delta":
        assert again.stderr.startswith("0 pairs written to a.delta\n")
    else:
        assert again.returncode == 2
        assert "--overwrite" in one_line(again)
        assert pairs("export", name, "--overwrite", "--config", place.config, cwd=tmp_path).returncode == 0


def test_export_says_what_is_no_longer_kept(place: Place, tmp_path: Path) -> None:
    place.write([pair("a"), pair("b")])
    place.commit()
    place.write([pair("c")])
    done = pairs("export", "a.jsonl", "--config", place.config, cwd=tmp_path)
    assert done.stderr.splitlines() == [
        "1 pair written to a.jsonl",
        "2 earlier pairs could no longer be read when it began (see redis.keep)",
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("a.csv",), "--format"),
        (("a.jsonl", "--format", "csv"), "there is no format 'csv'"),
        (("a.jsonl", "--for", "soon"), "not a duration"),
        (("none/a.jsonl",), "No such file"),
    ],
)
def test_an_export_that_means_nothing_is_a_usage_error(
    place: Place, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    done = pairs("export", *words, "--config", place.config, cwd=tmp_path)
    assert done.returncode == 2
    assert says in one_line(done)


def test_export_for_a_while(place: Place, tmp_path: Path) -> None:
    place.write([pair("a")])
    done = pairs("export", "a.jsonl", "--for", "50ms", "--config", place.config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_completes_the_file(place: Place, tmp_path: Path, number: int) -> None:
    # What is there first fills more than the file's buffer, so that its growth shows that it was read.
    place.write([pair("a", body=b"x" * 100_000)])
    with subprocess.Popen(
        command("export", "a.jsonl", "--follow", "--config", place.config),
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    ) as process:

        def begun() -> bool:
            assert process.poll() is None
            return any(path.stat().st_size for path in tmp_path.glob(".a.jsonl.*.partial"))

        asyncio.run(until(begun, "the first pair in the file"))
        assert not (tmp_path / "a.jsonl").exists()
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert errors == "1 pair written to a.jsonl\n"
    assert [read_line(line).id for line in (tmp_path / "a.jsonl").read_text().splitlines()] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "shadowproxy.yaml"]


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.delta"])
def test_a_disk_that_is_full_is_one_line_and_leaves_no_file(place: Place, tmp_path: Path, name: str) -> None:
    place.write([pair("a", body=os.urandom(200_000))])
    done = pairs("export", name, "--config", place.config, cwd=tmp_path, preexec_fn=_small_files)
    assert done.returncode == 2, done.stderr
    assert name in one_line(done)
    if name != "a.delta":
        assert [path.name for path in tmp_path.iterdir()] == ["shadowproxy.yaml"]
