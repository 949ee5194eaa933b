"""The documents are held to the code, and the README's commands run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pages import DOCS, PAGES

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if not line.startswith("#")
]


@pytest.mark.parametrize("name", PAGES)
def test_pages_made_from_the_code_are_current(name: str) -> None:
    assert (DOCS / name).read_text() == PAGES[name](), "write them anew: make docs"


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_links_into_a_page_name_a_heading() -> None:
    def headings(page: Path) -> set[str]:
        titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}

    pages = (ROOT / "README.md", *DOCS.glob("*.md"))
    for page in pages:
        for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            assert anchor in headings(page.parent / target if target else page), f"{page.name}: {target}#{anchor}"


def test_targets_of_make_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    asked = [shlex.split(line)[1] for line in COMMANDS if line.startswith("make ")]
    assert {"demo", "test"} <= set(asked)
    for target in asked:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    # These two, and the set-up that they bring, are what CI runs.
    assert {"make demo", "make test"} <= set((ROOT / ".ci" / "run").read_text().splitlines())


def tool(line: str) -> list[str]:
    words = shlex.split(line)
    if words[0] == "shadowproxy":
        return [sys.executable, "-m", *words]
    if words[0] == "curl" and shutil.which("curl") is None:
        return [sys.executable, "-c", "import sys, urllib.request as u; u.urlopen(sys.argv[1]).read()", *words[1:]]
    return words


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


@contextmanager
def running(line: str, folder: Path) -> Iterator[None]:
    process = subprocess.Popen(tool(line), cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for said in process.stdout:
            if said.startswith("experiment: "):
                break
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_commands_run_as_they_stand(tmp_path: Path) -> None:
    """All but `make` (CI runs them) and `pip install` (make does it), in order, against what `run` starts."""
    for port in (8080, 9100, 9101, 9102):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"the README's port {port} is taken on this machine")
    (tmp_path / "config").symlink_to(ROOT / "config")
    lines = [line for line in COMMANDS if not line.startswith(("make ", "pip "))]
    start = next(line for line in lines if line.startswith("shadowproxy run"))
    before, after = lines[: lines.index(start)], lines[lines.index(start) + 1 :]
    codes = {}
    for line in before:
        codes[line] = subprocess.run(tool(line), cwd=tmp_path, env=environment(), timeout=60).returncode
    with running(start, tmp_path):
        for line in after:
            codes[line] = subprocess.run(tool(line), cwd=tmp_path, env=environment(), timeout=60).returncode
    # No traffic came: the verdict is continue, and says so by its code.
    asked = ("shadowproxy verdict", "shadowproxy judge")
    assert codes == {line: 3 if line.startswith(asked) else 0 for line in lines if line != start}
