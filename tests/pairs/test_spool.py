"""The recorder with its spool: servers that hang and die, disks that fill, and processes that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from pairs.rig import Rig, names_of, numbered
from servers import kill_and_restart, relay_to, unique, until

from shadowproxy.config.settings import Spool as Settings
from shadowproxy.model import Accounting, Pair
from shadowproxy.pairs import EmbeddedServer, Ledger, Spool, Store, codec, journal
from shadowproxy.pairs.folder import bytes_in
from shadowproxy.pairs.journal import Journal
from shadowproxy.pairs.segments import Record, Segment, segment_head
from shadowproxy.pairs.spool import spool_of

ROOT = Path(__file__).parent.parent.parent
BODY = 3000
"""Bytes of an answer that compression makes no smaller."""
SMALL = 40_000
"""Memory for some eight of them."""


@pytest.fixture
async def store(own_valkey: EmbeddedServer) -> AsyncIterator[Store]:
    async with await Store.open(own_valkey.url, "spool", max_entries=10_000, reply_within=0.5) as opened:
        yield opened


@contextlib.contextmanager
def hung(server: EmbeddedServer) -> Iterator[None]:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def spool(folder: Path, max_bytes: int = 10_000_000, experiment: str = "e") -> Spool:
    return Spool(folder, experiment, max_bytes, retry=0.05)


async def fill(rig: Rig, names: list[str]) -> None:
    """Offer pairs no faster than the spool takes them."""
    for name in names:
        rig.offer(name, body=os.urandom(BODY))
        await until(lambda: rig.recorder.waiting_bytes < SMALL - 6000 or rig.ledger.recorded > 0)


def folders(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*"))


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*.seg"))


def spooled(folder: Path) -> list[str]:
    found = (entry for path in segments(folder) for entry in Segment(path.read_bytes()))
    return [pair.id for entry in found if isinstance(entry, Record) for pair in codec.decode(entry.payload)]


async def test_what_does_not_fit_into_memory_waits_on_disk_and_is_delivered_in_order(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    own_valkey.stop()
    rig = Rig(store, spool(tmp_path), batch=4, max_bytes=SMALL)
    rig.recorder.start()
    await fill(rig, numbered(100))
    assert len(rig.taken) == 100
    await until(lambda: rig.recorder.waiting_bytes <= SMALL / 2)
    pairs, size = rig.recorder.spooled
    assert pairs + rig.recorder.waiting_pairs == 100
    assert pairs > 80
    assert size == bytes_in(tmp_path)
    own_valkey.start()
    await until(lambda: rig.recorder.spooled == (0, 0), "an empty spool")
    assert segments(tmp_path) == []
    rig.offer("after")
    await rig.finish()
    assert await names_of(store) == [*numbered(100), "after"]
    assert (await store.snapshot()).accounting == rig.ledger.snapshot() == Accounting(101, 101, 101)
    assert folders(tmp_path) == []


async def test_a_hung_server_gets_what_was_spooled_once(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    rig = Rig(store, spool(tmp_path), batch=4, max_bytes=SMALL)
    rig.recorder.start()
    rig.offer("before")
    await until(lambda: rig.ledger.recorded == 1)
    with hung(own_valkey):
        for name in numbered(60):
            rig.offer(name, body=os.urandom(BODY))
            await until(lambda: rig.recorder.waiting_bytes < SMALL - 6000)
        assert rig.recorder.spooled[0] > 40
    await rig.finish()
    assert await names_of(store) == ["before", *numbered(60)]
    assert (await store.snapshot()).accounting == rig.ledger.snapshot()


async def test_memory_and_disk_are_bounded_and_the_newest_are_dropped(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    bound = 300_000
    own_valkey.stop()
    rig = Rig(store, spool(tmp_path, bound), batch=4, max_bytes=SMALL)
    rig.recorder.start()
    for name in numbered(200):
        rig.offer(name, body=os.urandom(BODY))
        assert rig.recorder.waiting_bytes <= SMALL
        await asyncio.sleep(0.002)
    assert bound - 20_000 < bytes_in(tmp_path) <= bound
    dropped = rig.ledger.dropped["recorder_full"]
    assert 50 < dropped == 200 - len(rig.taken)
    # What had been taken stays: of those that came when all was full none is there.
    assert rig.taken[-1] not in numbered(200)[-20:]
    own_valkey.start()
    await rig.finish()
    assert rig.ledger.dropped == {"recorder_full": dropped}
    assert await names_of(store) == rig.taken


async def test_a_full_spool_takes_pairs_again_when_some_are_delivered(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own_valkey.stop()
    rig = Rig(store, spool(tmp_path, 100_000), batch=4, max_bytes=SMALL)
    rig.recorder.start()
    for name in numbered(80):
        rig.offer(name, body=os.urandom(BODY))
        await asyncio.sleep(0.002)
    assert "is full (100000 bytes)" in caplog.text
    own_valkey.start()
    await until(lambda: rig.recorder.spooled == (0, 0), "an empty spool")
    own_valkey.stop()
    before = len(rig.taken)
    for name in numbered(15, "again"):
        rig.offer(name, body=os.urandom(BODY))
        await asyncio.sleep(0.002)
    assert len(rig.taken) == before + 15
    await until(lambda: rig.recorder.spooled[0] > 0)
    own_valkey.start()
    await rig.finish()
    assert await names_of(store) == rig.taken


async def test_a_server_killed_again_and_again_under_load_counts_each_pair_once(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    rig = Rig(store, spool(tmp_path), batch=5, linger=0.001, max_bytes=SMALL)
    rig.recorder.start()
    loop = asyncio.get_running_loop()
    for round_number in range(3):
        restarting = loop.run_in_executor(None, kill_and_restart, own_valkey)
        for number in range(150):
            rig.offer(f"{round_number}-{number}", body=os.urandom(BODY))
            await asyncio.sleep(0.001)
        await restarting
    await rig.finish()
    assert await names_of(store) == rig.taken
    assert (await store.snapshot()).accounting == rig.ledger.snapshot()


async def test_lost_replies_while_batches_go_to_disk_are_made_up_for(valkey: EmbeddedServer, tmp_path: Path) -> None:
    async with relay_to(valkey.url) as relay, Store(relay.url, unique("replies"), max_entries=1000) as store:
        rig = Rig(store, spool(tmp_path), batch=3, max_bytes=SMALL)
        rig.recorder.start()
        for round_number in range(8):
            relay.hold()
            for name in numbered(15, f"round-{round_number}"):
                rig.offer(name, body=os.urandom(BODY))
                await until(lambda: rig.recorder.waiting_bytes < SMALL - 6000)
            relay.lose_replies += round_number % 4
            relay.release()
            await until(lambda: rig.recorder.waiting_pairs + rig.recorder.spooled[0] == 0)
        await rig.finish()
        assert relay.lost >= 5
        assert await names_of(store) == rig.taken
        assert (await store.snapshot()).accounting == rig.ledger.snapshot() == Accounting(120, 120, 120)


async def test_a_stop_while_the_store_is_away_leaves_everything_to_the_next_start(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    first = Rig(store, spool(tmp_path), batch=4)
    first.recorder.start()
    first.ledger.skip("method")
    first.offer("before")
    await until(lambda: first.ledger.recorded == 1)
    own_valkey.stop()
    first.offer(*numbered(30))
    await first.stop(grace=0.2)
    assert first.ledger.dropped == {}
    assert first.ledger.snapshot().in_flight == 30
    assert spooled(tmp_path) == numbered(30)
    own_valkey.start()
    second = Rig(store, spool(tmp_path))
    second.recorder.start()
    second.offer("second")
    await until(lambda: folders(tmp_path) == [tmp_path / "e" / second.recorder.producer], "the first one's end")
    await second.finish()
    assert Counter(await names_of(store)) == Counter(["before", *numbered(30), "second"])
    assert second.recorder.adopted_pairs == 30
    assert second.ledger.snapshot() == Accounting(1, 1, 1)
    accounts = (await store.snapshot()).accounts
    assert accounts[first.recorder.producer] == Accounting(32, 31, 31, {"method": 1})
    assert accounts[second.recorder.producer] == Accounting(1, 1, 1)


async def test_a_stop_while_the_store_hangs_keeps_to_its_grace(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    rig = Rig(store, spool(tmp_path), batch=4)
    rig.recorder.start()
    with hung(own_valkey):
        rig.offer(*numbered(30))
        await rig.stop(grace=0)
        assert spooled(tmp_path) == numbered(30)
    heir = Rig(store, spool(tmp_path))
    heir.recorder.start()
    await until(lambda: len(folders(tmp_path)) == 1 and segments(tmp_path) == [])
    await heir.finish()
    assert await names_of(store) == numbered(30)
    assert (await store.snapshot()).accounting == Accounting(30, 30, 30)


async def test_an_account_that_could_not_be_published_is_published_by_the_next_start(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    rig = Rig(store, spool(tmp_path))
    rig.recorder.start()
    rig.offer("one")
    await until(lambda: rig.ledger.recorded == 1)
    own_valkey.stop()
    rig.ledger.skip("method")
    await rig.stop(grace=0)
    own_valkey.start()
    heir = Rig(store, spool(tmp_path))
    heir.recorder.start()
    await until(lambda: folders(tmp_path) == [tmp_path / "e" / heir.recorder.producer])
    await heir.finish()
    assert (await store.snapshot()).accounts[rig.recorder.producer] == Accounting(2, 1, 1, {"method": 1})


async def test_a_living_producer_keeps_its_spool(own_valkey: EmbeddedServer, store: Store, tmp_path: Path) -> None:
    own_valkey.stop()
    first, second = (Rig(store, spool(tmp_path), batch=4, max_bytes=SMALL) for _ in range(2))
    first.recorder.start()
    await fill(first, numbered(40, "first"))
    second.recorder.start()
    await fill(second, numbered(40, "second"))
    own_valkey.start()
    await asyncio.gather(first.finish(), second.finish())
    assert (first.recorder.adopted_pairs, second.recorder.adopted_pairs) == (0, 0)
    assert Counter(await names_of(store)) == Counter(first.taken + second.taken)
    assert (await store.snapshot()).accounting == Accounting(80, 80, 80)


KILLED = """
import asyncio, os, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from pairs.rig import Rig
from shadowproxy.pairs import Spool, Store

async def main():
    store = Store({url!r}, "spool", max_entries=10_000, reply_within=0.5)
    rig = Rig(store, Spool(Path({folder!r}), "e", 10_000_000), batch=4, max_bytes={memory})
    rig.recorder.start()
    number = 0
    while True:
        if rig.recorder.waiting_bytes < {memory} - 6000:
            rig.offer(f"pair-{{number}}", body=os.urandom({body}))
            number += 1
        print(rig.ledger.requests, rig.ledger.recorded, rig.recorder.spooled[0], flush=True)
        await asyncio.sleep(0.001)

asyncio.run(main())
"""


@contextlib.contextmanager
def writer(url: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that offers pairs until it is killed, and says how many went where."""
    code = KILLED.format(tests=str(ROOT / "tests"), url=url, folder=str(folder), memory=SMALL, body=BODY)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str], spooled: int) -> tuple[int, int, int]:
    """(offered, recorded, spooled) when at least so many were spooled."""
    assert process.stdout is not None
    for line in process.stdout:
        offered, recorded, on_disk = map(int, line.split())
        if on_disk >= spooled:
            return offered, recorded, on_disk
    raise AssertionError("the process ended by itself")


@pytest.mark.parametrize("at", [1, 37, 200])
async def test_kill_9_loses_nothing_that_was_spooled_and_doubles_nothing(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path, at: int
) -> None:
    own_valkey.stop()
    with writer(own_valkey_url(own_valkey), tmp_path) as process:
        offered, recorded, on_disk = await asyncio.to_thread(said, process, at)
        process.kill()
    assert recorded == 0
    own_valkey.start()
    before = spooled(tmp_path)
    assert before[:on_disk] == numbered(on_disk)
    [dead] = folders(tmp_path)
    heir = Rig(store, spool(tmp_path))
    heir.recorder.start()
    await until(lambda: not dead.exists(), "the account's end")
    await heir.finish()
    found = await names_of(store)
    assert found == before
    account = (await store.snapshot()).accounts[dead.name]
    assert account.balanced
    assert account.recorded == len(found)
    assert account.eligible <= offered + 200
    # What the last batch in the spool knew of was still in memory.
    assert account.dropped.keys() == {"proxy_crashed"}


def own_valkey_url(server: EmbeddedServer) -> str:
    return f"unix://{server.data_dir / 'valkey.sock'}"


async def test_kill_9_while_the_store_takes_pairs(own_valkey: EmbeddedServer, store: Store, tmp_path: Path) -> None:
    with writer(own_valkey.url, tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line.split()[1]) > 100:
                break
        process.kill()
    [dead] = folders(tmp_path)
    heir = Rig(store, spool(tmp_path))
    heir.recorder.start()
    await until(lambda: not dead.exists(), "the account's end")
    await heir.finish()
    found = await names_of(store)
    account = (await store.snapshot()).accounts[dead.name]
    assert found == numbered(len(found))
    assert account.balanced
    assert account.recorded == len(found) > 100
    assert set(account.dropped) <= {"proxy_crashed"}


async def left_by_a_stop(own_valkey: EmbeddedServer, store: Store, tmp_path: Path, pairs: int) -> Path:
    """The folder of a producer that stopped in order with `pairs` pairs, four to a batch, in one segment."""
    own_valkey.stop()
    rig = Rig(store, spool(tmp_path), batch=4)
    rig.recorder.start()
    rig.offer(*numbered(pairs))
    await rig.stop(grace=0)
    own_valkey.start()
    assert spooled(tmp_path) == numbered(pairs)
    return tmp_path / "e" / rig.recorder.producer


async def inherited(store: Store, tmp_path: Path, dead: Path) -> Accounting:
    heir = Rig(store, spool(tmp_path))
    heir.recorder.start()
    await until(lambda: not (dead / "lock").exists(), "the account's end")
    await heir.finish()
    return (await store.snapshot()).accounts[dead.name]


async def test_a_flipped_bit_costs_its_batch_and_is_counted(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    dead = await left_by_a_stop(own_valkey, store, tmp_path, 40)
    [path] = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    account = await inherited(store, tmp_path, dead)
    assert account == Accounting(40, 40, 36, {}, {"spool_corrupt": 4})
    assert len(await names_of(store)) == 36


@pytest.mark.parametrize("left", [0, 10, 41, 2000])
async def test_a_truncated_segment_gives_what_is_left_of_it(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path, left: int
) -> None:
    dead = await left_by_a_stop(own_valkey, store, tmp_path, 40)
    [path] = segments(tmp_path)
    path.write_bytes(path.read_bytes()[:left])
    whole = len(spooled(tmp_path))
    account = await inherited(store, tmp_path, dead)
    assert account == Accounting(40, 40, whole, {}, {"spool_corrupt": 40 - whole})
    assert await names_of(store) == numbered(whole)


async def test_what_is_not_ours_is_left_and_named(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dead = await left_by_a_stop(own_valkey, store, tmp_path, 8)
    (tmp_path / "e" / "a file").write_text("of somebody's")
    (tmp_path / "e" / "a folder").mkdir()
    (dead / "notes.txt").write_text("of somebody's")
    (dead / "00000002.seg").write_bytes(b"not a segment")
    (dead / "account").write_text("not an account")
    # Without its account nobody knows that the producer had stopped in order; the batches know of every pair.
    assert await inherited(store, tmp_path, dead) == Accounting(8, 8, 8)
    assert await names_of(store) == numbered(8)
    assert [path.name for path in dead.iterdir()] == ["notes.txt"]
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == ["a file", "a folder", dead.name]
    assert f"{dead / '00000002.seg'}, offset 0: is not a segment" in caplog.text
    assert "notes.txt in it is not shadowproxy's" in caplog.text


async def test_what_a_later_version_left_stays_for_it(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await left_by_a_stop(own_valkey, store, tmp_path, 8)
    [path] = segments(tmp_path)
    head = bytearray(segment_head(b"x" * 8, 0)[:-4])
    head[7] += 1
    path.write_bytes(bytes(head) + struct.pack("<I", zlib.crc32(head)))
    heir = Rig(store, spool(tmp_path))
    heir.recorder.start()
    await until(lambda: "is left as it is" in caplog.text)
    await heir.finish()
    assert path.exists()
    assert (await store.snapshot()).accounting == Accounting()


async def test_pairs_of_another_experiment_are_left_and_named(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await left_by_a_stop(own_valkey, store, tmp_path, 8)
    rig = Rig(store, spool(tmp_path, experiment="another"))
    rig.recorder.start()
    await until(lambda: "pairs of experiment e lie in" in caplog.text)
    await rig.finish()
    assert spooled(tmp_path) == numbered(8)


async def test_an_heir_that_ends_half_way_leaves_the_rest_to_the_next(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    dead = await left_by_a_stop(own_valkey, store, tmp_path, 200)
    taken = 0

    class Reluctant(Store):
        """Takes ten batches, and is asked in vain for more."""

        async def append(self, *args: Any) -> None:
            nonlocal taken
            if taken == 10:
                await asyncio.Event().wait()
            taken += 1
            await super().append(*args)

    async with Reluctant(store.url, store.name, max_entries=10_000) as reluctant:
        first = Rig(reluctant, spool(tmp_path))
        first.recorder.start()
        await until(lambda: first.recorder.adopted_pairs == 40)
        await first.finish()
    assert dead.exists()
    assert await inherited(store, tmp_path, dead) == Accounting(200, 200, 200)
    assert await names_of(store) == numbered(200)


async def test_an_account_in_shared_memory_has_what_nobody_else_was_told(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    """Killed in the instant after it admitted ten more and passed three by: its spool and its store know of neither."""
    dead = await left_by_a_stop(own_valkey, store, tmp_path, 8)
    ledger = Ledger()
    for _ in range(18):
        ledger.admit()
    for _ in range(3):
        ledger.skip("method")
    (dead / "account").unlink()
    Journal.of(dead.name, ledger)
    account = await inherited(store, tmp_path, dead)
    assert account == Accounting(21, 18, 8, {"method": 3}, {"proxy_crashed": 10})
    assert journal.read(dead.name) is None


async def test_of_two_heirs_one_delivers(own_valkey: EmbeddedServer, store: Store, tmp_path: Path) -> None:
    dead = await left_by_a_stop(own_valkey, store, tmp_path, 80)
    heirs = [Rig(store, spool(tmp_path)) for _ in range(3)]
    for heir in heirs:
        heir.recorder.start()
    await until(lambda: not dead.exists())
    await asyncio.gather(*(heir.finish() for heir in heirs))
    assert sorted(heir.recorder.adopted_pairs for heir in heirs) == [0, 0, 80]
    assert await names_of(store) == numbered(80)


async def test_files_are_for_the_owner_alone(own_valkey: EmbeddedServer, store: Store, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        await left_by_a_stop(own_valkey, store, tmp_path / "spool", 8)
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "spool").rglob("*")}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700


async def test_what_is_scrubbed_never_reaches_the_disk_or_the_store(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scrub(found: Pair, _guarded: object) -> Pair:
        return replace(found, baseline=replace(found.baseline, body=b"scrubbed"))

    own_valkey.stop()
    # In a thread: at once there would be little left to wait for the disk.
    monkeypatch.setattr(Rig, "at_once", False)
    rig = Rig(store, spool(tmp_path), scrub, batch=4, max_bytes=SMALL)
    rig.recorder.start()
    await fill(rig, numbered(40))
    assert segments(tmp_path)
    for path in segments(tmp_path):
        for entry in Segment(path.read_bytes()):
            assert isinstance(entry, Record)
            assert {found.baseline.body for found in codec.decode(entry.payload)} == {b"scrubbed"}
    own_valkey.start()
    await rig.finish()
    bodies = [
        found.baseline.body for entry in await store.read("reader", 1000, 0) for found in codec.decode(entry.payload)
    ]
    assert bodies == [b"scrubbed"] * 40


async def test_a_pair_that_the_scrubber_fails_on_is_dropped_alone_and_not_quoted(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def scrub(found: Pair, _guarded: object) -> Pair:
        if found.id == "bad":
            raise KeyError("nobody thought of this")
        return found

    rig = Rig(store, None, scrub)
    rig.recorder.start()
    rig.offer("first", "bad", "last")
    await rig.finish()
    assert await names_of(store) == ["first", "last"]
    assert rig.ledger.dropped == {"recorder_unencodable": 1}
    assert "KeyError" in caplog.text
    assert "nobody thought of this" not in caplog.text


async def test_a_directory_that_is_no_directory_stops_nobody(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    rig = Rig(store, spool(tmp_path / "file" / "spool"))
    rig.recorder.start()
    rig.offer(*numbered(50))
    await rig.finish()
    assert await names_of(store) == numbered(50)
    said = [record for record in caplog.records if "out of service" in record.getMessage()]
    assert len(said) == 1


async def test_a_spool_that_can_be_written_to_again_is_used_again(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    own_valkey.stop()
    place = tmp_path / "spool"
    place.touch()
    rig = Rig(store, spool(place), batch=4, max_bytes=SMALL)
    rig.recorder.start()
    for name in numbered(40):
        rig.offer(name, body=os.urandom(BODY))
        await asyncio.sleep(0.002)
    assert rig.recorder.spooled == (0, 0)
    assert rig.ledger.dropped.keys() == {"recorder_full"}
    place.unlink()
    await until(lambda: rig.recorder.spooled[0] > 0)
    own_valkey.start()
    await rig.finish()
    assert await names_of(store) == rig.taken
    assert caplog.text.count("out of service") == 1
    assert f"the spool in {place} takes pairs again" in caplog.text


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No process of ours can write a file beyond this size (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_write_that_fails_half_way_leaves_no_half_batch(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    own_valkey.stop()
    rig = Rig(store, spool(tmp_path), batch=4, max_bytes=SMALL)
    rig.recorder.start()
    with files_of_at_most(30_000):
        for name in numbered(60):
            rig.offer(name, body=os.urandom(BODY))
            await asyncio.sleep(0.002)
    assert rig.recorder.spooled[0] > 4
    await until(lambda: rig.recorder.waiting_bytes < SMALL / 2)
    for path in segments(tmp_path):
        assert all(isinstance(entry, Record) for entry in Segment(path.read_bytes()))
    own_valkey.start()
    await rig.finish()
    assert await names_of(store) == rig.taken


@contextlib.contextmanager
def small_file_system(at: Path) -> Iterator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(at)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield
    finally:
        # What a failed test holds open must not hold up the others.
        subprocess.run(["umount", "--lazy", str(at)], check=True)


async def test_a_full_disk(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_file_system(tmp_path):
        own_valkey.stop()
        rig = Rig(store, spool(tmp_path), batch=4, max_bytes=SMALL)
        rig.recorder.start()
        for name in numbered(150):
            rig.offer(name, body=os.urandom(BODY))
            assert rig.recorder.waiting_bytes <= SMALL
            await asyncio.sleep(0.002)
        assert rig.ledger.dropped.keys() == {"recorder_full"}
        assert len(rig.taken) > 50
        assert caplog.text.count("out of service") == 1
        assert "No space left on device" in caplog.text
        own_valkey.start()
        await rig.finish()
        assert await names_of(store) == rig.taken
        assert segments(tmp_path) == []


async def test_segments_that_are_deleted_under_us_are_counted(
    own_valkey: EmbeddedServer, store: Store, tmp_path: Path
) -> None:
    own_valkey.stop()
    rig = Rig(store, spool(tmp_path, max_bytes=1_000_000), batch=4, max_bytes=SMALL)
    rig.recorder.start()
    await fill(rig, numbered(100))
    # The one that is read from and the one that is written to are open, and stay readable to whoever has them open.
    assert len(segments(tmp_path)) >= 4
    shutil.rmtree(tmp_path / "e")
    for name in numbered(20, "after"):
        rig.offer(name, body=os.urandom(BODY))
        await asyncio.sleep(0.002)
    own_valkey.start()
    await rig.finish()
    assert set(rig.ledger.dropped) <= {"spool_corrupt", "recorder_full"}
    assert rig.ledger.dropped["spool_corrupt"] >= 20
    found = await names_of(store)
    assert len(found) == rig.ledger.recorded == 120 - sum(rig.ledger.dropped.values())
    assert found == [name for name in rig.taken if name in set(found)]


class Faulty(Store):
    """A store with a fault of ours in it: an error that nobody foresaw, for batches that hold a certain pair."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.faults = 0
        self.bad = b""

    async def append(self, producer: str, sequence: int, payload: bytes, pairs: int, account: Accounting) -> None:
        if self.faults or (self.bad and self.bad in bytes(payload)):
            self.faults -= self.faults > 0
            raise RuntimeError("nobody thought of this")
        await super().append(producer, sequence, payload, pairs, account)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowproxy.pairs.recorder._BACKOFF_MOST", 0.01)


@pytest.mark.usefixtures("quick")
async def test_a_fault_of_ours_is_said_and_nothing_is_lost_by_it(
    valkey: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with Faulty(valkey.url, unique("faulty"), max_entries=100) as store:
        store.faults = 2
        rig = Rig(store, batch=4)
        rig.recorder.start()
        rig.offer(*numbered(20))
        await rig.finish()
        assert await names_of(store) == numbered(20)
    assert caplog.text.count("a fault in the recorder") == 2


@pytest.mark.usefixtures("quick")
async def test_a_batch_that_always_fails_is_dropped_and_holds_up_no_other(valkey: EmbeddedServer) -> None:
    async with Faulty(valkey.url, unique("faulty"), max_entries=100) as store:
        store.bad = b"pair-5"
        rig = Rig(store, batch=4)
        rig.recorder.start()
        rig.offer(*numbered(20))
        await rig.finish()
        assert rig.ledger.dropped == {"recorder_failed": 4}
        assert await names_of(store) == numbered(4) + numbered(20)[8:]
        assert (await store.snapshot()).accounting == rig.ledger.snapshot()


def test_where_the_spool_lies() -> None:
    assert spool_of(Settings(max_bytes=0), "data", "e") is None
    made = [spool_of(Settings(dir=place), "data", "e") for place in (None, "/var/spool/pairs")]
    assert [found.directory for found in made if found] == [Path("data/spool").absolute(), Path("/var/spool/pairs")]
