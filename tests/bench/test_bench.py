"""The benchmarks at work, each in a small version: what they count and check, never how fast anything is."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench import accounts, compare, cpu, latency, messages, paced, pairwise, peers, producing, throughput
from bench.__main__ import main
from bench.peers import SIDES, NotMeasured, Running, Side
from bench.procs import Failed, Process, Rack, free_ports
from bench.report import Check, Goal, Report, Spread, ratios, write_markdown
from bench.stage import Counts
from bench.stage import rounds as in_turn
from programs import program
from rich.console import Console


@pytest.fixture
def rack() -> Iterator[Rack]:
    with Rack() as made:
        yield made


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> str:
    """A side whose program is on no machine."""

    def start(_place: peers.Place) -> Running:
        return Running(0, Process(peers.program("no-such-proxy"), subprocess.Popen("true"), Path()))

    monkeypatch.setitem(SIDES, "absent", Side("absent", "Absent", True, start))
    return "absent"


def run(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """One benchmark through its command; what it wrote as JSON."""
    for needed in ("nginx", "wrk"):
        program(needed)
    out = tmp_path / "figures.json"
    assert main([*arguments, "--json", str(out)]) == 0
    (report,) = json.loads(out.read_text())
    return dict(report)


# The benchmarks


def test_proxy_cpu_counts_every_request_and_gives_each_side_its_ratio(tmp_path: Path, absent: str) -> None:
    sides = "shadowproxy,nginx-mirror,nginx-plain,aiohttp"
    report = run(tmp_path, "proxy-cpu", "--rounds", "1", "--seconds", "1", "--only", f"{sides},{absent}")
    turns = report["turns"]
    assert Counter(turn["side"] for turn in turns) == dict.fromkeys(sides.split(","), 1)
    for turn in turns:
        assert turn["answered"] > 0
        assert turn["cpu"] > 0
        copies = turn["candidate"] / turn["baseline"]
        assert copies == 0 if turn["side"] == "nginx-plain" else copies > 0.5
    ratios = report["ratios"]["nginx-mirror"]
    assert ratios["nginx-mirror"] == {"median": 1, "least": 1, "most": 1}
    assert all(one["least"] <= one["median"] <= one["most"] for one in ratios.values())
    assert report["good"]
    assert {check["what"] for check in report["checks"]} >= {
        "shadowproxy: the candidate got them all",
        "requests = skipped + eligible, eligible = recorded + dropped",
        "the stream got every pair",
    }
    assert "no-such-proxy is not on the PATH" in report["not_measured"][absent]


def test_proxy_latency_compares_each_side_with_asking_directly(tmp_path: Path) -> None:
    report = run(
        tmp_path, "proxy-latency", "--rounds", "1", "--seconds", "0.5", "--only", "shadowproxy,nginx-plain,nginx-mirror"
    )
    answered = {(turn["side"], turn["rate"]): turn["answered"] for turn in report["turns"]}
    sides = ("direct", "shadowproxy", "nginx-plain", "nginx-mirror")
    assert answered == {(side, rate): rate / 2 for side in sides for rate in (200, 500)}
    copied = {(delay["side"], delay["rate"]): delay["pairs"] for delay in report["delays"]}
    assert copied == {(side, rate): rate / 4 for side in ("shadowproxy", "nginx-mirror") for rate in (200, 500)}
    assert report["good"]
    assert report["rows"][0][0] == "shadowproxy, recording"
    assert all(len(row) == len(report["columns"]) for row in report["rows"])


def test_pairs_throughput_counts_every_pair_that_was_written(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert main(["pairs-throughput", "--quick", "--only", "two,compressed", "--json", str(out)]) == 0
    (report,) = json.loads(out.read_text())
    turns = {turn["side"]: turn for turn in report["turns"]}
    assert turns.keys() == {"two", "compressed"}
    for turn in turns.values():
        assert turn["pairs"] == turn["committed"] == turn["account"]["recorded"] == 5000
        assert min(turn["producer_cpu"], turn["comparator_cpu"], turn["comparator_seconds"]) > 0
    # The pairs are all there, and differ so much that compression has no easy job.
    assert turns["two"]["memory"] > 5000 * turns["two"]["size"]
    assert 0.1 < turns["compressed"]["memory"] / turns["two"]["memory"] < 0.7


def test_compare_measures_both_ways_on_the_same_pairs_and_finds_them_equal(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    assert main(["compare", "--quick", "--json", str(out)]) == 0
    (report,) = json.loads(out.read_text())
    turns = {turn["side"]: turn for turn in report["turns"]}
    absent = {name for name, side in compare.SIDES.items() if side.title in report["not_measured"]}
    assert turns.keys() == compare.SIDES.keys() - absent
    assert absent <= {"tensors"}
    assert len(report["checks"]) == len(turns)
    for turn in turns.values():
        assert turn["pairs"] == 100
        assert turn["others"] == 20
        assert min(turn["decode"], turn["compare"], turn["count"], turn["other"]) > 0


def test_two_ways_of_comparing_that_differ_by_anything_fail_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = compare.Bench("10", 1, 20)
    assert bench.difference() <= compare.CLOSE
    right = pairwise.observe
    for wrong in (1e-8, math.nan):
        monkeypatch.setattr(
            pairwise,
            "observe",
            lambda read, pair, by=wrong: {
                name: value + by if name == "ranking.spearman" else value for name, value in right(read, pair).items()
            },
        )
        assert not bench.difference() <= compare.CLOSE


def test_binary_tensors_are_read_as_they_were_written() -> None:
    side = compare.SIDES["tensors"]
    (made,) = compare.pairs_of(side, 1)
    ids, scores = side.read(made.baseline)
    assert len(set(ids)) == len(scores) == 50
    assert sorted(scores, reverse=True) == scores
    assert made.baseline.body[:1] == b"{"


def test_pairs_that_are_produced_are_of_five_kilobytes_and_hold_what_is_to_be_masked() -> None:
    made = producing.offers(20)
    assert all(4500 < producing.content(one.pair) < 5500 for one in made)
    assert all(line in one.pair.request.head for one in made for line in one.guarded)
    assert {len(one.guarded) for one in made} == {1}
    assert len({one.pair.baseline.body for one in made} | {one.pair.candidate.body for one in made}) == 40


def test_a_pair_that_was_not_recorded_or_not_counted_fails_the_check_of_throughput() -> None:
    account = {"requests": 10, "eligible": 10, "recorded": 10, "skipped": {}, "dropped": {}}
    whole = throughput.Turn("one", 10, 5000, 1.0, 1.0, 1, 1.0, 1.0, account, 10, 0)
    assert whole.whole
    for turn in (
        replace(whole, committed=9),
        replace(whole, committed=11),
        replace(whole, lost=1),
        replace(whole, account={**account, "recorded": 9, "dropped": {"recorder_full": 1}}),
    ):
        assert not turn.whole


def test_a_side_that_loses_copies_fails_its_check() -> None:
    whole = cpu.Turn("shadowproxy", 1.0, 1000, 0, 1000, 1000, 0, 1.0)
    for turn, good in (
        (whole, True),
        (replace(whole, candidate=999), False),
        (replace(whole, side="nginx-mirror", candidate=1000 - cpu.CONNECTIONS), True),
        (replace(whole, side="nginx-mirror", candidate=999 - cpu.CONNECTIONS), False),
        (replace(whole, errors=1), False),
        (replace(whole, answered=1001), False),
        (replace(whole, side="nginx-plain", candidate=0), True),
    ):
        assert all(check.holds for check in cpu.counted(turn.side, [turn])) == good, turn


def test_a_latency_turn_whose_requests_went_elsewhere_fails_its_check() -> None:
    def good(side: str, baseline: int, candidate: int) -> bool:
        return all(check.holds for check in latency.counted({side: 10}, {side: [Counts(baseline, candidate, 0)]}))

    assert good("direct", 10, 0)
    assert good("shadowproxy", 10, 10)
    assert not good("shadowproxy", 10, 9)
    assert not good("nginx-plain", 10, 10)
    assert not good("direct", 11, 0)


def test_what_a_side_adds_is_taken_within_a_round() -> None:
    def turn(side: str, number: int, p50: float) -> latency.Turn:
        return latency.Turn(side, number, 200, 10, p50, p50, 0.0, 0.0)

    turns = [turn("nginx-plain", 2, 5.0), turn("direct", 1, 1.0), turn("direct", 2, 4.0), turn("nginx-plain", 1, 3.0)]
    assert latency.added(turns, 200) == {"nginx-plain": [2.0, 1.0]}


def test_every_side_has_its_turn_in_each_round_and_another_begins() -> None:
    assert [*in_turn(3, "abc")] == [
        *((1, side) for side in "abc"),
        *((2, side) for side in "bca"),
        *((3, side) for side in "cab"),
    ]


@pytest.mark.parametrize("change", ["requests", "eligible", "recorded", "skipped", "dropped"])
def test_an_account_that_lost_one_does_not_balance(change: str) -> None:
    account = {"requests": 10.0, "eligible": 8.0, "recorded": 7.0, "skipped": 2.0, "dropped": 1.0}
    assert accounts.balanced(account)
    assert not accounts.balanced({**account, change: account[change] - 1})


# What is sent


def test_requests_differ_in_id_trace_and_body_and_are_the_same_for_a_seed() -> None:
    made = messages.requests(500)
    assert made == messages.requests(500)
    assert made[0] != messages.requests(1, seed=8)[0]
    for marker in (b"X-Request-Id: ", b"traceparent: ", b"Authorization: ", b"\r\n\r\n"):
        assert len({one.partition(marker)[2].partition(b"\r\n")[0] for one in made}) == 500
    for one in made:
        head, _, body = one.partition(b"\r\n\r\n")
        assert b"Content-Length: %d" % len(body) in head
        assert abs(len(body) - messages.BODY_BYTES) < 20
    assert abs(len(messages.answer()) - messages.ANSWER_BYTES) < 50
    json.loads(messages.answer())


def test_wrk_sends_exactly_the_requests_of_the_file(rack: Rack, tmp_path: Path) -> None:
    wrk = program("wrk")
    ports = free_ports()
    baseline, candidate, out = next(ports), next(ports), tmp_path / "out"
    (tmp_path / "answer").write_bytes(messages.answer())
    command = [sys.executable, "-P", peers.HERE / "stamping.py", baseline, candidate, tmp_path / "answer", out]
    upstream = rack.start("stamping", command, port=candidate)
    made = messages.requests(50)
    messages.write(tmp_path / "requests", made)
    script = ["--script", peers.HERE / "wrk.lua", f"http://127.0.0.1:{baseline}/", "--", tmp_path / "requests"]
    said = rack.run("wrk", [wrk, "-t", 1, "-c", 2, "-d", "1s", *script], within=30)
    load = json.loads(said.strip().splitlines()[-1])
    assert load["requests"] > 50
    assert load["status"] == load["read"] == load["timeout"] == 0
    assert upstream.stop() == 0
    arrivals = json.loads(out.read_text())
    assert arrivals["baseline"].keys() == {messages.request_id(one) for one in made}
    assert arrivals["candidate"] == {}


def test_the_paced_client_reads_what_was_written(tmp_path: Path) -> None:
    made = messages.requests(20)
    messages.write(tmp_path / "requests", made)
    assert paced.read(tmp_path / "requests") == made


def test_a_schedule_is_a_poisson_process_of_its_rate() -> None:
    moments = paced.schedule(20_000, 500, seed=3)
    assert moments == sorted(moments) == paced.schedule(20_000, 500, seed=3)
    assert moments[-1] == pytest.approx(20_000 / 500, rel=0.05)


def test_an_answer_is_complete_with_its_last_byte_and_no_sooner() -> None:
    answer = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 5\r\n\r\nabcde"
    for size in range(len(answer) + 1):
        assert paced.complete(answer[:size]) == (size == len(answer))
    for bad in (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"):
        with pytest.raises(RuntimeError):
            paced.complete(bad)


# Processes


BUSY = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n"


def test_cpu_counts_threads_and_children_that_live_and_that_have_ended(rack: Rack) -> None:
    work = BUSY.format(0.2)
    code = (
        "import subprocess, sys, threading, time\n"
        f"work = {work!r}\n"
        "def used(): subprocess.run([sys.executable, '-c', work], check=True)\n"
        "thread = threading.Thread(target=used); thread.start(); thread.join()\n"
        "lives = subprocess.Popen([sys.executable, '-c', work + 'print(1, flush=True); time.sleep(600)'], stdout=-1)\n"
        "lives.stdout.readline()\n"
        f"{work}\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = rack.start("worker", [sys.executable, "-c", code])
    process.wait_for(lambda: "ready" in process.output(), "print", within=30)
    assert process.cpu() >= 0.58
    assert len(process.tree()) == 2
    assert process.rss() > 2**20
    assert process.descriptors() >= 6
    family = [os.pidfd_open(pid) for pid in process.tree()]
    process.signal(signal.SIGSTOP)
    assert process.stop() == -signal.SIGTERM
    assert process.cpu() == process.rss() == process.descriptors() == 0
    for handle in family:
        assert select.select([handle], [], [], 10)[0]
        os.close(handle)


def test_whatever_ends_a_rack_its_processes_end_and_its_folder_goes() -> None:
    with pytest.raises(ZeroDivisionError), Rack() as rack:  # noqa: PT012  (what raises is what the rack must outlive)
        process = rack.start("sleep", ["sleep", "600"])
        assert process.running
        _ = 1 / 0
    assert not process.running
    assert not rack.folder.exists()


def test_a_benchmark_that_is_killed_leaves_no_process() -> None:
    code = (
        "import time\nfrom bench.procs import Rack\nrack = Rack()\n"
        "print(rack.start('sleep', ['sleep', '600']).pid, rack.folder, flush=True)\ntime.sleep(600)\n"
    )
    path = {"PYTHONPATH": f"{peers.PACKAGE}:{Path(__file__).parent.parent}"}
    killed = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, **path}
    )
    assert killed.stdout is not None
    with killed.stdout:
        pid, folder = killed.stdout.readline().split()
    handle = os.pidfd_open(int(pid))
    killed.kill()
    killed.wait()
    assert select.select([handle], [], [], 10)[0]
    os.close(handle)
    for file in Path(folder).iterdir():
        file.unlink()
    Path(folder).rmdir()


def test_what_fails_to_start_says_what_it_printed(rack: Rack) -> None:
    with pytest.raises(Failed, match="grump ended with 3; it said: no mood"):
        rack.start("grump", ["sh", "-c", "echo no mood; exit 3"], port=next(free_ports()))
    with pytest.raises(Failed, match="ended with 4: oh"):
        rack.run("grump", ["sh", "-c", "echo oh; exit 4"], within=10)
    with pytest.raises(Failed, match=r"still runs after 0\.1 s"):
        rack.run("slow", ["sleep", "600"], within=0.1)
    assert not any(process.running for process in rack.processes)


def test_free_ports_are_free_and_differ() -> None:
    ports = free_ports()
    taken = [next(ports) for _ in range(20)]
    assert len(set(taken)) == 20
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(1024 <= port < lowest for port in taken)


# Reports


REPORT = Report(
    name="a-thing",
    title="A thing",
    columns=("side", "ratio"),
    rows=(("ours", "0.50"),),
    goals=(Goal("its ratio", 0.4, 0.5),),
    not_measured={"other": "not there"},
    notes=("a note",),
)


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([1.0, 4.0, 3.0], [2.0, 2.0, 2.0]) == Spread(1.5, 0.5, 2.0)
    assert Spread(0.5, 0.25, 1).text() == "0.50 (0.25–1.00)"


def test_a_missed_goal_is_said_and_a_failed_check_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert REPORT.good
    failed = replace(REPORT, checks=[Check("counts agree", False, "1 and 2")])
    assert not failed.good
    failed.show(Console(width=100))
    shown = capsys.readouterr().out
    for line in ("ours", "FAILS counts agree: 1 and 2", "NOT MET its ratio", "not measured other: not there", "a note"):
        assert line in shown
    assert "FAILS: counts agree" in failed.markdown()


def test_tables_are_written_between_their_marks_again_and_again(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Before\n\n<!-- a-thing -->\nold\n<!-- /a-thing -->\n\nAfter\n")
    write_markdown(page, [REPORT])
    once = page.read_text()
    assert once.startswith("# Before\n\n<!-- a-thing -->\nOn ")
    assert once.endswith("<!-- /a-thing -->\n\nAfter\n")
    assert "| ours | 0.50 |" in once
    assert "- Not measured: other: not there" in once
    assert "old" not in once
    write_markdown(page, [REPORT, replace(REPORT, name="new")])
    assert page.read_text().startswith(once)
    assert page.read_text().count("<!-- new -->") == 1


def test_a_benchmark_that_cannot_run_says_why_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(_options: object) -> Report:
        raise NotMeasured("wrk is not on the PATH")

    monkeypatch.setitem(main.__globals__["BENCHMARKS"], "proxy-cpu", without)
    assert main(["proxy-cpu"]) == 1
    assert "wrk is not on the PATH" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["no-such-benchmark"])
    assert "there is no benchmark no-such-benchmark" in capsys.readouterr().err


def test_a_program_that_is_nowhere_is_not_measured() -> None:
    with pytest.raises(NotMeasured, match="no-such-program is not on the PATH"):
        peers.program("no-such-program")
    assert Path(peers.program("sh")).exists()
