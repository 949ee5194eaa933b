"""Runs a check of this folder under atheris (extra `fuzz`), which searches for inputs by the coverage they bring.

    python tests/conformance/fuzzing.py listener -max_total_time=600
    python tests/conformance/fuzzing.py upstream -max_total_time=600
    python tests/conformance/fuzzing.py stored -max_total_time=600

Further options are libFuzzer's. What it finds worth keeping goes to the folder FUZZ_CORPUS (.cache/fuzz), one per
check; the checked-in inputs are read, never written. An input that fails is stored where the message says, and
`--replay FILE...` instead of options checks it again without atheris. `--minimise` writes the checked-in inputs anew:
the fewest of the tables' and of FUZZ_CORPUS that bring all their coverage.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CORPUS = HERE / "corpus"
FOUND = Path(os.environ.get("FUZZ_CORPUS", ROOT / ".cache" / "fuzz"))
TOKENS = (
    *(b"GET", b"POST", b"HEAD", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b"\t"),
    *(b"Host: a\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n"),
    *(b"Connection: keep-alive\r\n", b"Connection: Upgrade\r\n", b"Upgrade: websocket\r\n", b"Upgrade: h2c\r\n"),
    *(b"Expect: 100-continue\r\n", b"X-Request-Id: a\r\n", b"http://a/", b"*", b"5\r\nhello\r\n", b"0\r\n\r\n"),
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 204 No\r\n", b"HTTP/1.1 304 No\r\n", b"HTTP/1.1 103 Hints\r\n\r\n"),
    *(b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 101 Switching\r\n", b"ffffffffffffffff", b"5;a=b\r\n"),
)  # fmt: skip
"""A dictionary for the mutations."""


def inputs(name: str) -> list[Path]:
    """The checked-in inputs of one check."""
    return sorted((CORPUS / name).iterdir())


def save(folder: Path, data: bytes) -> None:
    """Store an input under the digest of its bytes, as libFuzzer does."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)


def replay(name: str, paths: list[Path]) -> None:
    """Check stored inputs."""
    check = _module(name).check
    for path in paths:
        check(path.read_bytes())


def fuzz(name: str, options: list[str]) -> None:
    """Search until an input fails or the options' time is over. Does not return."""
    import atheris

    with atheris.instrument_imports(
        include=["shadowproxy.proxy", "shadowproxy.pairs.codec", "shadowproxy.stats.state"]
    ):
        module = _module(name)
    folder = FOUND / name
    folder.mkdir(parents=True, exist_ok=True)
    dictionary = FOUND / "tokens.dict"
    dictionary.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS))
    folders = [] if any(not option.startswith("-") for option in options) else [folder, CORPUS / name]
    # libFuzzer starts itself anew for a merge, by the name it was called by.
    runner = FOUND / f"run-{name}"
    runner.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
    runner.chmod(0o755)
    bounds = ["-timeout=30", "-max_len=1500", "-rss_limit_mb=2048"]
    given = [runner, f"-dict={dictionary}", f"-artifact_prefix={FOUND}/", *bounds, *options, *folders]
    atheris.Setup(list(map(str, given)), module.check)
    atheris.Fuzz()


def minimise(name: str) -> None:
    """Write the checked-in inputs anew."""
    with tempfile.TemporaryDirectory() as place:
        seeds, least = Path(place, "seeds"), Path(place, "least")
        for _, data in _module(name).seeds():
            save(seeds, data)
        for folder in (FOUND / name, least):
            folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, name, "-merge=1", least, seeds, FOUND / name]
        subprocess.run(list(map(str, command)), check=True)
        shutil.rmtree(CORPUS / name, ignore_errors=True)
        shutil.copytree(least, CORPUS / name)


def _module(name: str) -> Any:
    return importlib.import_module(f"conformance.fuzz_{name}")


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def main() -> None:
    """See the module."""
    name, *options = sys.argv[1:]
    if options[:1] == ["--replay"]:
        replay(name, [Path(option) for option in options[1:]])
    elif options[:1] == ["--minimise"]:
        minimise(name)
    else:
        fuzz(name, options)


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(ROOT)]
    main()
