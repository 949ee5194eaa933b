"""The commands, run as a user runs them: help with examples, one clear line for a fault, codes that mean something."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from redis import Redis
from servers import unique

from shadowproxy import __version__
from shadowproxy.config import experiment_id, load
from shadowproxy.pairs.embedded import EmbeddedServer

ROOT = Path(__file__).parent.parent
COMMANDS = (
    "run", "proxy", "compare", "serve", "check-config", "verdict", "pause", "resume", "sample", "control", "demo",
    "inspect", "judge", "plan", "report",
    "experiment list", "experiment show", "experiment start", "experiment stop", "experiment reset",
    "pairs tail", "pairs show", "pairs dead-letters", "pairs export", "pairs worst",
    "pairs sample",
)  # fmt: skip
FREE = (
    'proxy: {listen: "127.0.0.1:0", admin: "127.0.0.1:0", grace: 2}\n'
    'comparator: {admin: "127.0.0.1:0", grace: 2}\nserve: {listen: "127.0.0.1:0"}\n'
)


def shadowproxy(*arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shadowproxy", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd or ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "120", "TERM": "dumb", **environ},
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("shadowproxy: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def written(folder: Path, text: str = "", baseline: str = "http://127.0.0.1:9") -> Path:
    path = folder / "shadowproxy.yaml"
    path.write_text(f"baseline: {baseline}\ncandidate: http://127.0.0.1:9\nredis: {{data_dir: {folder}/data}}\n{text}")
    return path


def test_version() -> None:
    assert shadowproxy("--version").stdout == f"shadowproxy {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str) -> None:
    done = shadowproxy(*command.split(), "--help")
    assert done.returncode == 0
    assert re.search(rf"Example\W+shadowproxy {command}", done.stdout), done.stdout


def test_all_commands_are_known_to_this_test() -> None:
    from shadowproxy.cli import app

    def names(group: typer.Typer, before: str) -> set[str]:
        found = {
            before + (command.name or command.callback.__name__)
            for command in group.registered_commands
            if command.callback
        }
        for inner in group.registered_groups:
            if inner.typer_instance is not None:
                found |= names(inner.typer_instance, f"{before}{inner.name} " if inner.name else before)
        return found

    assert names(app, "") == set(COMMANDS)


def test_a_missing_file() -> None:
    for command in ("run", "proxy", "compare", "serve"):
        done = shadowproxy(command, "--config", "none.yaml")
        assert done.returncode == 2
        assert "none.yaml" in one_line(done)


def test_a_bad_configuration_lists_all_faults(tmp_path: Path) -> None:
    done = shadowproxy("check-config", str(written(tmp_path, "a: 1\nb: 2\n")))
    assert done.returncode == 2
    assert "2 faults" in one_line(done)
    assert "$.a: there is no such key" in done.stderr
    assert "$.b: there is no such key" in done.stderr


def test_a_good_configuration_is_shown() -> None:
    done = shadowproxy("check-config", "config/shadowproxy.yaml")
    assert done.returncode == 0, done.stderr
    for word in ("http://127.0.0.1:8001", "recommend", "quality.ndcg", "scores.relative_delta.higher"):
        assert word in done.stdout


def test_the_schema_is_printed() -> None:
    done = shadowproxy("check-config", "--schema")
    assert done.stdout == (ROOT / "config" / "shadowproxy.schema.json").read_text()


def test_unknown_options_are_usage_errors() -> None:
    assert shadowproxy("verdict", "--nonsense").returncode == 2


def test_no_api_means_cannot_tell() -> None:
    done = shadowproxy("verdict", "--url", f"http://127.0.0.1:{unused_port()}")
    assert done.returncode == 4
    assert "does not answer" in one_line(done)


@pytest.mark.parametrize("words", [("pause",), ("resume",), ("sample", "0.5"), ("control",)])
def test_a_control_that_nobody_takes_is_code_4(words: tuple[str, ...]) -> None:
    done = shadowproxy(*words, "--url", f"http://127.0.0.1:{unused_port()}")
    assert done.returncode == 4
    assert "does not answer" in one_line(done)


@pytest.mark.parametrize(
    "words", [("sample",), ("sample", "0.5", "--reset"), ("sample", "1.5"), ("sample", "half"), ("pause", "now")]
)
def test_a_control_that_means_nothing_is_a_usage_error(words: tuple[str, ...]) -> None:
    done = shadowproxy(*words, "--url", f"http://127.0.0.1:{unused_port()}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_too_long_a_reason_is_a_usage_error() -> None:
    done = shadowproxy("pause", "--reason", "x" * 501)
    assert done.returncode == 2
    assert "500 characters" in one_line(done)


def test_controls_without_a_proxy_say_so_and_hold_for_the_next(tmp_path: Path, valkey: EmbeddedServer) -> None:
    config = tmp_path / "shadowproxy.yaml"
    config.write_text(
        f"experiment: {unique('cli')}\nbaseline: http://a\ncandidate: http://b\nredis: {{url: {valkey.url}}}"
    )
    done = shadowproxy("pause", "--config", str(config), "--reason", "it \x1b[2J falls over")
    assert done.returncode == 0, done.stderr
    assert "mirroring is paused, since 2" in done.stdout
    assert "it  [2J falls over" in done.stdout
    assert "no proxy of this experiment runs now; one that starts will go by it" in done.stdout
    assert '"paused":true' in shadowproxy("control", "--config", str(config), "--json").stdout
    assert "note: mirroring is paused" in shadowproxy("verdict", "--config", str(config)).stdout


def test_no_redis_is_one_line_and_code_2(tmp_path: Path) -> None:
    port = unused_port()
    path = (
        written(tmp_path, FREE)
        .read_text()
        .replace(f"data_dir: {tmp_path}/data", f'url: "redis://:secret@127.0.0.1:{port}"')
    )
    (tmp_path / "shadowproxy.yaml").write_text(path)
    for command in ("proxy", "compare", "serve", "run"):
        done = shadowproxy(command, "--config", str(tmp_path / "shadowproxy.yaml"))
        assert done.returncode == 2, done.stderr
        assert str(port) in one_line(done)
        assert "secret" not in done.stderr
    assert shadowproxy("verdict", "--config", str(tmp_path / "shadowproxy.yaml")).returncode == 4


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


@pytest.mark.parametrize(
    ("command", "key"),
    [("proxy", "proxy.listen"), ("proxy", "proxy.admin"), ("compare", "comparator.admin"), ("serve", "serve.listen")],
)
def test_a_port_in_use_is_one_line_and_code_2(command: str, key: str, tmp_path: Path) -> None:
    room, _, setting = key.partition(".")
    with taken_port() as port:
        text = re.sub(rf'({room}: {{[^}}]*?{setting}: )"127.0.0.1:0"', rf'\g<1>"127.0.0.1:{port}"', FREE)
        done = shadowproxy(command, "--config", str(written(tmp_path, text)))
    assert done.returncode == 2, done.stderr
    line = one_line(done)
    assert str(port) in line
    assert key in line


@contextlib.contextmanager
def started(command: str, config: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "shadowproxy", command, "--config", str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_everything_in_order(number: int, tmp_path: Path) -> None:
    with started("run", written(tmp_path, FREE)) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        assert lines[0].startswith("proxy: http://127.0.0.1:"), lines
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    # The upstream was never there: that is a warning at the start, not an end.
    assert "baseline is not reachable" in errors
    assert "Traceback" not in errors
    assert not any("valkey-server" in line and str(tmp_path) in line for line in processes())


def processes() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines


def test_a_verdict_without_data_is_continue(tmp_path: Path) -> None:
    config = written(tmp_path, FREE)
    done = shadowproxy("verdict", "--config", str(config), "--json")
    assert done.returncode == 3, done.stderr
    assert '"state":"continue"' in done.stdout
    assert shadowproxy("verdict", "--config", str(config)).returncode == 3


def test_a_state_that_cannot_be_read_means_cannot_tell(tmp_path: Path, valkey: EmbeddedServer) -> None:
    config = tmp_path / "shadowproxy.yaml"
    config.write_text(
        f"experiment: {unique('cli')}\nbaseline: http://a\ncandidate: http://b\nredis: {{url: {valkey.url}}}"
    )
    with Redis.from_url(valkey.url) as raw:
        raw.hset(f"shadow:{{{experiment_id(load(config))}:0}}:states", "damaged", b"garbage")
    done = shadowproxy("verdict", "--config", str(config))
    assert done.returncode == 4
    assert "damaged" in one_line(done)


def test_experiments_need_a_store_and_say_so() -> None:
    for command in ("list", "show x"):
        done = shadowproxy("experiment", *command.split())
        assert done.returncode == 2
        assert "--config FILE or --redis URL" in one_line(done)


def test_a_store_that_cannot_be_reached_is_named_without_its_password() -> None:
    for command in ("list", "show x"):
        done = shadowproxy("experiment", *command.split(), "--redis", "redis://me:geheim@127.0.0.1:1")
        assert done.returncode == 4
        assert "redis://me:***@127.0.0.1:1" in one_line(done)
        assert "geheim" not in done.stderr + done.stdout


def test_a_reset_is_asked_about(tmp_path: Path) -> None:
    config = str(written(tmp_path))
    assert shadowproxy("experiment", "stop", "--config", config).returncode == 0
    asked = subprocess.run(
        [sys.executable, "-m", "shadowproxy", "experiment", "reset", "--config", config],
        input="n\n",
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert asked.returncode == 2
    assert f"Forget all pairs of {experiment_id(load(Path(config)))}" in asked.stdout
    assert "nothing was done" in asked.stderr
    shown = shadowproxy("experiment", "list", "--config", config)
    assert "stopped" in shown.stdout
    assert "reset" not in shown.stdout
    assert shadowproxy("experiment", "reset", "--config", config, "--yes").returncode == 0
    assert "reset" in shadowproxy("experiment", "list", "--config", config).stdout
