"""`shadowproxy inspect`, as a user runs it: on files as tools save them, and against a real HTTP server."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import zstandard

from shadowproxy.cli import main
from shadowproxy.config import Route, loads
from shadowproxy.model import Exchange, Outcome, Pair, Request
from shadowproxy.pairs.lines import line_of

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "compare" / "presets" / "golden"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "120", "TERM": "dumb"}
ITEMS = {"items": [{"sku": "a", "score": 0.98}, {"sku": "b", "score": None}, {"sku": "c", "score": 0.12}]}
PASTED = "\nproposed configuration\n\n"


class Done(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def inspect(*words: str) -> Done:
    """The command, run in this process: the start of another takes longer than all that it does."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.setattr(sys, "argv", ["shadowproxy", "inspect", *words])
        for name in ("NO_COLOR", "COLUMNS", "TERM"):
            patched.setenv(name, ENVIRONMENT[name])
        with pytest.raises(SystemExit) as ended:
            main()
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def elsewhere(*words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "shadowproxy", *words], capture_output=True, timeout=60, env=ENVIRONMENT, **options
    )


def as_json(*words: str) -> dict[str, Any]:
    done = inspect(*words, "--json")
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["found"] else 1)
    return found


def route_of(proposal: str) -> Route:
    """The proposal, read as a user's configuration is."""
    settings = loads(proposal)
    assert len(settings.routes) == 1
    return settings.routes[0]


def says(found: dict[str, Any]) -> dict[str, str]:
    return {one["key"]: one["says"] for one in found["findings"]}


def saved(folder: Path, data: Any, name: str = "answer") -> str:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else orjson.dumps(data))
    return str(path)


def exchange(body: Any, status: int = 200, head: bytes = b"Content-Type: application/json") -> Exchange:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return Exchange(Outcome.OK, status, head, raw, len(raw), ttfb=0.01, total=0.02)


def test_unknown_json_is_shown_and_a_configuration_proposed(tmp_path: Path) -> None:
    done = inspect(saved(tmp_path, ITEMS))
    assert done.returncode == 0, done.stderr
    shown, _, proposal = done.stdout.partition(PASTED)
    assert re.search(r"response\.body\.items\[\*\]\.score +number × 2, null +0\.98", shown)
    assert re.search(r"response\.body\.items +list of 3", shown)
    assert '3 ids: "a", "b", "c"' in shown
    assert "3 numbers: 0.12 to 0.98; 1 undefined" in shown
    route = route_of(proposal)
    assert (route.ids, route.scores) == ("response.body.items[*].sku", "response.body.items[*].score")


def test_the_proposal_passes_check_config(tmp_path: Path) -> None:
    odd = {"ids ${HOME}": {"größe\x1b": [{"id": 1, "score": 0.5}, {"id": 2, "score": 0.25}]}}
    proposal = inspect(saved(tmp_path, odd)).stdout.partition(PASTED)[2]
    assert proposal.isascii()
    file = tmp_path / "proposed.yaml"
    file.write_text(proposal)
    done = elsewhere("check-config", str(file))
    assert done.returncode == 0, done.stderr
    # It finds in the same answer what it was proposed for.
    again = as_json(saved(tmp_path, odd), "--config", str(file))
    assert says(again) == {"ids": '2 ids: "1", "2"', "scores": "2 numbers: 0.25 to 0.5"}


@pytest.mark.parametrize(
    ("name", "preset"),
    [("search-elasticsearch", "elasticsearch"), ("search-solr-scored", "solr"), ("openai-chat", "openai-chat")],
)
def test_a_known_protocol(name: str, preset: str, tmp_path: Path) -> None:
    case = json.loads((GOLDEN / f"{name}.json").read_text())
    done = inspect(saved(tmp_path, case["body"]))
    assert done.returncode == 0, done.stderr
    assert f"protocol: {preset}, by {case['detected']}" in done.stdout
    proposal = done.stdout.partition(PASTED)[2]
    assert route_of(proposal) == Route(name=preset, preset=preset)
    # What the preset says need not be written down.
    assert "response.body" not in proposal


def test_an_event_stream() -> None:
    found = as_json(str(GOLDEN / "openai-chat-streamed.sse"))
    assert found["detected"] == [{"preset": "openai-chat", "reason": "`choices` with `message`"}]
    assert says(found) == {"text": '6 characters: "Hello!"', "finish": '"stop"'}


BODY = orjson.dumps(ITEMS)
RAW = {
    "as it was on the wire": b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"5\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\n\r\n" % (BODY[:5], len(BODY) - 5, BODY[5:]),
    "as curl -i leaves it": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/2 200 \r\nContent-Type: text/x\r\n"
    b"transfer-encoding: chunked\r\n\r\n" + BODY,
    "with LF alone": b"HTTP/1.0 200 OK\nContent-Type: text/x\n\n" + BODY,
    "as curl --compressed leaves it": b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Encoding: br\r\n\r\n" + BODY,
    "behind a redirect and a tunnel": b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 302 Found\r\nX: y\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_a_raw_response(raw: bytes, tmp_path: Path) -> None:
    found = as_json(saved(tmp_path, raw))
    assert (found["status"], found["content_type"], found["codings"]) == (200, "text/x", [])
    assert (found["size"], found["fault"]) == (len(BODY), None)
    assert "response.body.items[*].sku" in found["proposal"]
    assert says(found)["ids"] == '3 ids: "a", "b", "c"'


def test_a_raw_response_with_a_content_coding(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"
    found = as_json(saved(tmp_path, head + gzip.compress(orjson.dumps(ITEMS))))
    assert found["codings"] == ["gzip"]
    assert found["found"] == 1


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_json_lines_are_several_answers(pack: Any, tmp_path: Path) -> None:
    lines = [ITEMS, {"items": []}, {"error": "none"}, ITEMS]
    found = as_json(saved(tmp_path, pack(b"\n".join(map(orjson.dumps, lines)) + b"\n")))
    assert (found["answers"], found["found"], found["failed"]) == (4, 2, {"bad_body": 1, "empty": 1})


def exported(folder: Path) -> str:
    request = Request("POST", "/v1/rank?x=1", b"Content-Type: application/json", b'{"user": 7}', 11)
    failed = Exchange(Outcome.TIMEOUT)
    rows = [(exchange(ITEMS), exchange(ITEMS)), (exchange(ITEMS), failed), (exchange(ITEMS, 503), exchange({}))]
    pairs = [Pair(f"id-{at}", 1e9, request, *sides) for at, sides in enumerate(rows)]
    pairs.append(Pair("other", 1e9, Request("GET", "/health"), exchange({"up": 1}), exchange({"up": 1})))
    lines = [line_of(pair, partition=0, entry="1-0", position=0, undo=lambda _, body: body) for pair in pairs]
    return saved(folder, b"\n".join(lines) + b"\n", "pairs.jsonl")


def test_pairs_as_they_are_exported(tmp_path: Path) -> None:
    found = as_json(exported(tmp_path))
    assert (found["answers"], found["found"]) == (8, 3)
    assert found["failed"] == {"timeout": 1, "http_5xx": 1, "bad_body": 3}
    route = route_of(found["proposal"])
    assert (route.name, route.path, route.ids) == ("rank", "/v1/rank", "response.body.items[*].sku")


CONFIGURED = """
baseline: http://127.0.0.1:8001
candidate: http://127.0.0.1:8002
routes:
  - {name: health, path: /health, text: response.body.up}
  - {name: rank, path: /v1/*, ids: "response.body.items[*].id", scores: "response.body.items[*].score",
     truth: request.body.truth, cohorts: {user: request.body.user}}
"""


def test_a_configured_route_says_what_it_finds_and_why_not(tmp_path: Path) -> None:
    config = saved(tmp_path, CONFIGURED.encode(), "shadowproxy.yaml")
    found = as_json(exported(tmp_path), "--config", config)
    assert (found["route"], found["answers"], found["found"], found["proposal"]) == ("rank", 6, 0, None)
    assert says(found) == {
        "ids": "element 0 is null null, which is no id",
        "scores": "3 numbers: 0.12 to 0.98; 1 undefined",
        "truth": 'nothing: `request.body.truth` is not there; there is "user"',
        "cohorts.user": '"7"',
    }
    named = as_json(exported(tmp_path), "--config", config, "--route", "health")
    assert (named["route"], named["answers"]) == ("health", 8)


def test_a_route_finds_the_request_beside_the_answer(tmp_path: Path) -> None:
    raw = b'POST /score HTTP/1.1\r\nHost: x\r\n\r\n{"candidates": [{"id": 7}, {"id": 8}]}'
    answer = saved(tmp_path, {"scores": [0.5, 0.7]})
    route = route_of(as_json(answer, "--request", saved(tmp_path, raw, "request"))["proposal"])
    assert (route.path, route.ids, route.scores) == (
        "/score", "request.body.candidates[*].id", "response.body.scores",
    )  # fmt: skip
    body = saved(tmp_path, {"candidates": ["x", "y"]}, "body")
    assert route_of(as_json(answer, "--request", body)["proposal"]).ids == "request.body.candidates"


def test_a_path_of_any_bytes_can_be_pasted(tmp_path: Path) -> None:
    for path, globbed in ((b"/v1/\xe9\x9b/rank", "/v1/\xe9\x9b/rank"), (b"/a*b/rank", "/*")):
        raw = saved(tmp_path, b"POST " + path + b" HTTP/1.1\r\n\r\n", "request")
        proposal = as_json(saved(tmp_path, ITEMS), "--request", raw)["proposal"]
        assert proposal.isascii()
        assert (route_of(proposal).name, route_of(proposal).path) == ("rank", globbed)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\x00\xff", b"<html>", b'{"up": 1}', b'{"hits": {"hits": []}}'])
def test_nothing_to_compare(body: bytes, tmp_path: Path) -> None:
    done = inspect(saved(tmp_path, body))
    assert done.returncode == 1, done.stdout
    assert not done.stderr


def test_no_control_characters_reach_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;gone\x07\x9b31m\u202e\r\n"
    odd = {f"{evil}id": [{"id": f"{evil}1", f"score {evil}": 0.5, "score": 0.25}], "text": evil}
    raw = b"HTTP/1.1 200 OK\r\nContent-Type: a\x1b[31m/\x07b\r\n\r\n" + orjson.dumps(odd)
    for words in ((), ("--json",)):
        done = inspect(saved(tmp_path, raw), *words)
        assert done.returncode == 0
        assert [sign for sign in done.stdout if not sign.isprintable() and sign != "\n"] == []


def test_bad_use_is_one_line(tmp_path: Path) -> None:
    answer = saved(tmp_path, ITEMS)
    config = saved(tmp_path, CONFIGURED.encode(), "shadowproxy.yaml")
    for words, told in {
        (str(tmp_path / "none"),): "none: can't be read",
        (str(tmp_path),): "can't be read",
        (answer, "--route", "rank"): "--config",
        (answer, "--config", config, "--route", "none"): "health, rank",
        (answer, "--config", config): "--route",
        (answer, "--data", "{}"): "--request",
        (exported(tmp_path), "--request", answer): "pairs hold their requests",
        ("redis://localhost/0",): "pairs export",
        ("ftp://localhost/",): "http://",
        ("http://localhost:1/", "--header", "none"): "NAME: VALUE",
        (saved(tmp_path, b'{"request": 1, "baseline": 2, "candidate": 3}', "bad.jsonl"),): "line 1",
    }.items():
        done = inspect(*words)
        assert done.returncode == 2, (words, done.stdout)
        assert done.stderr.startswith("shadowproxy: "), done.stderr
        assert told in done.stderr
        assert done.stderr.count("\n") == 1


class Service(BaseHTTPRequestHandler):
    """Answers by the path, and remembers what it was asked."""

    seen: list[tuple[str, str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if self.path == "/hang":
            threading.Event().wait(30)
        if self.path == "/v1/chat/completions":
            answer, kind = (GOLDEN / "openai-chat-streamed.sse").read_bytes(), "text/event-stream"
        else:
            answer, kind = gzip.compress(orjson.dumps(ITEMS)), "application/json"
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("Content-Type", kind)
        if kind == "application/json":
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Location", "/rank")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST  # noqa: N815  (http.server's names)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def service() -> Iterator[tuple[str, list[tuple[str, str, dict[str, str], bytes]]]]:
    seen: list[tuple[str, str, dict[str, str], bytes]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Seeing", (Service,), {"seen": seen})) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()


def test_a_service_is_asked_once(service: Any, tmp_path: Path) -> None:
    url, seen = service
    body = saved(tmp_path, b'{"user": 7}', "request.json")
    found = as_json(
        f"{url}/api/rank?x=%20", "--data", f"@{body}", "-H", "X-Api-Key: k", "-H", "Content-Type: text/json"
    )
    [(method, path, headers, sent)] = seen
    assert (method, path, sent) == ("POST", "/api/rank?x=%20", b'{"user": 7}')
    assert (headers["x-api-key"], headers["content-type"]) == ("k", "text/json")
    assert (found["status"], found["codings"], found["content_type"]) == (200, ["gzip"], "application/json")
    settings = loads(found["proposal"])
    assert settings.baseline.url == url
    assert (settings.routes[0].name, settings.routes[0].path) == ("rank", "/api/rank")


def test_a_streaming_service(service: Any) -> None:
    url, seen = service
    done = inspect(f"{url}/v1/chat/completions", "--data", '{"stream": true}')
    assert done.returncode == 0, done.stderr
    assert "protocol: openai-chat, by `choices` with `message`, streamed" in done.stdout
    assert '6 characters: "Hello!"' in done.stdout
    assert seen[0][2]["content-type"] == "application/json"
    route = route_of(done.stdout.partition(PASTED)[2])
    assert (route.preset, route.path) == ("openai-chat", "/v1/chat/completions")


def test_redirects_are_shown_and_not_followed(service: Any) -> None:
    url, seen = service
    found = as_json(f"{url}/moved", "--method", "get")
    assert (found["status"], [one[:2] for one in seen]) == (302, [("GET", "/moved")])
    assert (found["found"], found["failed"]) == (0, {"not_compared": 1})


def test_a_service_that_does_not_answer(service: Any) -> None:
    done = inspect(f"{service[0]}/hang", "--timeout", "0.2")
    assert done.returncode == 4
    assert "within 0.2 s" in done.stderr
    done = inspect("http://me:secret@127.0.0.1:1/")
    assert done.returncode == 4
    assert done.stderr.startswith("shadowproxy: http://***@127.0.0.1:1/: ")


def test_what_is_no_http_is_said_in_printable_characters() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as client:
                client.recv(1)
                client.sendall(b"\x1b[31m\x9bgone\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        done = inspect(f"http://127.0.0.1:{server.getsockname()[1]}/", "--timeout", "10")
        thread.join()
    assert done.returncode == 4
    assert done.stderr.endswith("; is an HTTP service running there?\n")
    assert done.stderr[:-1].isprintable()


def test_in_a_process_of_its_own_from_standard_input() -> None:
    done = elsewhere("inspect", "-", input=orjson.dumps(ITEMS))
    assert done.returncode == 0, done.stderr
    assert b"ids: response.body.items[*].sku" in done.stdout
    assert elsewhere("inspect", "-", input=b"{}").returncode == 1


def test_the_page_shows_what_is_printed(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "inspect.md").read_text()
    body = {"model": "v7", "items": [{"sku": sku, "score": score} for sku, score in SKUS]}
    shown = "\n".join(line.rstrip() for line in inspect(saved(tmp_path, json.dumps(body).encode())).stdout.split("\n"))
    assert f"```text\n{shown}```" in page


SKUS = (("B00X4", 0.98), ("B01Q2", 0.41), ("B07T9", None))
