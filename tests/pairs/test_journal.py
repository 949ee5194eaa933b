"""The account that outlives its process: whatever was counted is read, whenever the process ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.model import Accounting
from shadowproxy.pairs import Ledger, journal
from shadowproxy.pairs.journal import Journal
from shadowproxy.pairs.ledger import DROPPED, SKIPPED

ROOT = Path(__file__).parent.parent.parent

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("skip"), st.sampled_from([*SKIPPED])),
        st.tuples(st.just("drop"), st.sampled_from([*DROPPED])),
        st.tuples(st.just("record"), st.integers(0, 2**40)),
        st.tuples(st.just("admit")),
    )
)


def do(ledger: Ledger, steps: list[tuple[object, ...]]) -> None:
    for name, *arguments in steps:
        getattr(ledger, str(name))(*arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("journal")


@given(STEPS, STEPS)
def test_what_is_counted_is_read_at_once(
    place: Path, before: list[tuple[object, ...]], after: list[tuple[object, ...]]
) -> None:
    ledger = Ledger()
    do(ledger, before)
    kept = Journal.of("one", ledger, place)
    assert kept is not None
    try:
        assert journal.read("one", place) == ledger.snapshot()
        do(ledger, after)
        assert journal.read("one", place) == ledger.snapshot()
    finally:
        kept.remove()
    assert journal.read("one", place) is None


def test_it_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from shadowproxy.pairs import Ledger
from shadowproxy.pairs.journal import Journal
ledger = Ledger()
Journal.of("dead", ledger, Path({str(tmp_path)!r}))
for at in range(1000):
    ledger.admit()
    if at % 3 == 0:
        ledger.skip("method")
ledger.record(600)
ledger.drop("client_slow", 7)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == -signal.SIGKILL
    found = journal.read("dead", tmp_path)
    assert found == Accounting(1334, 1000, 600, {"method": 334}, {"client_slow": 7})
    journal.forget("dead", tmp_path)
    assert not list(tmp_path.iterdir())


def test_reasons_are_read_by_their_names(tmp_path: Path) -> None:
    """An heir of another version may know others, or the same in another order."""
    ledger = Ledger()
    Journal.of("one", ledger, tmp_path)
    do(ledger, [("skip", "method"), ("drop", "recorder_full")])
    (path,) = tmp_path.iterdir()
    stored = path.read_bytes()
    path.write_bytes(stored.replace(b'"method"', b'"lunacy"').replace(b'"recorder_full"', b'"recorder_fool"'))
    found = journal.read("one", tmp_path)
    assert found is not None
    assert (found.skipped, found.dropped) == ({"lunacy": 1}, {"recorder_fool": 1})


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: b"",
        lambda stored: stored[:3],
        lambda stored: stored[:60],
        lambda stored: b"\xff\xff\xff\xff" + stored[4:],
        lambda stored: stored[:-9],
        lambda stored: stored.replace(b'"v":1', b'"v":2'),
        lambda stored: bytes(len(stored)),
    ],
)
def test_what_is_damaged_is_done_without(tmp_path: Path, damage, caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger()
    Journal.of("one", ledger, tmp_path)
    ledger.admit()
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert journal.read("one", tmp_path) is None
    assert f"{path} can't be read and is done without" in caplog.text


def test_what_somebody_else_put_there_is_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Journal.of("one", Ledger(), tmp_path)
    (path,) = tmp_path.iterdir()
    target = tmp_path / "elsewhere"
    path.rename(target)
    path.symlink_to(target)
    assert journal.read("one", tmp_path) is None
    path.unlink()
    target.rename(path)
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 4321, -1)
    assert journal.read("one", tmp_path) is None
    assert "is not ours" in caplog.text


def test_without_shared_memory_none_is_kept(tmp_path: Path) -> None:
    ledger = Ledger()
    assert Journal.of("one", ledger, tmp_path / "nowhere") is None
    Journal.of("one", ledger, tmp_path)
    assert Journal.of("one", ledger, tmp_path) is None, "a name is used once"
    ledger.admit()
    assert ledger.snapshot() == journal.read("one", tmp_path)
