"""The fuzzers' checks over the checked-in inputs, over the tables, and over a few new inputs, without atheris."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from conformance import fuzz_listener, fuzz_stored, fuzz_upstream, fuzzing
from conformance.scene import Service
from hypothesis import given
from hypothesis import strategies as st

CHECKS = {"listener": fuzz_listener, "upstream": fuzz_upstream, "stored": fuzz_stored}
INPUTS = [path for name in CHECKS for path in fuzzing.inputs(name)]


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name[:8]}")
def test_a_stored_input_passes(path: Path) -> None:
    CHECKS[path.parent.name].check(path.read_bytes())


@pytest.mark.parametrize("name", CHECKS)
def test_the_tables_pass(name: str) -> None:
    for _, data in CHECKS[name].seeds():
        CHECKS[name].check(data)


@pytest.mark.parametrize("name", CHECKS)
@given(seed=st.integers(0, 2**32))
def test_mutations_of_stored_inputs_pass(name: str, seed: int) -> None:
    """Few, and blind: that the search is not the test's is what `make fuzz` is for."""
    rng = random.Random(seed)
    data = bytearray(rng.choice(fuzzing.inputs(name)).read_bytes())
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        piece = rng.choice([*fuzzing.TOKENS, rng.randbytes(1), bytes(data[at : at + 20])])
        data[at : at + rng.choice([0, 1, len(piece)])] = piece
    CHECKS[name].check(bytes(data))


@pytest.mark.parametrize("name", CHECKS)
def test_the_search_runs_under_atheris(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is the extra `fuzz`")
    command = [sys.executable, "-W", "error::RuntimeWarning", fuzzing.__file__, name, "-runs=300", "-seed=1"]
    environment = {"FUZZ_CORPUS": str(tmp_path), "PYTHONPATH": str(fuzzing.ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 300 runs" in done.stderr


def _a_proxy_that_adds(extra: bytes) -> None:
    """Everything that upstreams get has `extra` in it, as if the proxy had let it through."""
    original = Service.changed

    def changed(self: Service) -> None:
        if extra not in self.got:
            self.got += extra
        original(self)

    Service.changed = changed  # type: ignore[method-assign]


@pytest.mark.parametrize(
    "extra", [b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", b"0\r\n\r\n"]
)
def test_what_went_upstream_without_being_asked_is_noticed(extra: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Service, "changed", Service.changed)
    _a_proxy_that_adds(extra)
    with pytest.raises(AssertionError):
        fuzz_listener.check(b"\0GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
