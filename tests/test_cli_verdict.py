"""`shadowproxy verdict --wait` and `--explain`, as a user runs them, against an API that says what the test says."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from click.testing import Result
from report.verdicts import cell, harmful, verdict
from servers import kill_and_restart, unique
from typer.testing import CliRunner

from shadowproxy.cli import app
from shadowproxy.errors import ApiUnavailable, PayloadError, StoreUnavailable
from shadowproxy.pairs import EmbeddedServer
from shadowproxy.serve.waiting import Look, follow
from shadowproxy.verdict.record import Finding, Forecast, State, Verdict


class Api:
    """Answers each look with what comes next; the last again and again. None: an error."""

    def __init__(self) -> None:
        self.answers: list[Verdict | None] = []
        self.asked = 0
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = api.answers[min(api.asked, len(api.answers) - 1)]
                api.asked += 1
                body = b'{"detail":"no verdict yet"}' if answer is None else msgspec.json.encode(answer)
                self.send_response(503 if answer is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def api() -> Iterator[Api]:
    made = Api()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def ask(*words: str) -> Result:
    return CliRunner().invoke(app, ["verdict", *words])


def undecided(pairs: int, **changes: object) -> Verdict:
    open_cell = cell(finding=Finding.UNDECIDED, e_promote=1.0 + pairs, estimate=0.0)
    return verdict(pairs=pairs, guardrails=(open_cell,), forecast=Forecast(pairs=4321.0, seconds=125.0), **changes)


PROMOTE = verdict(state=State.PROMOTE, pairs=900, guardrails=(cell(),))


@pytest.mark.parametrize(("end", "code"), [(PROMOTE, 0), (harmful(), 1), (undecided(9, exhausted=True), 3)])
def test_waiting_ends_with_the_verdict_that_decides_and_sits_out_what_is_away(
    api: Api, end: Verdict, code: int
) -> None:
    api.answers = [None, undecided(1), None, undecided(3), undecided(4), end]
    done = ask("--url", api.url, "--wait", "--timeout", "1m", "--every", "1ms", "--json")
    assert done.exit_code == code, done.output
    assert api.asked == 6
    assert msgspec.json.decode(done.stdout, type=Verdict) == end
    lines = done.stderr.splitlines()
    assert "503" in lines[0]
    assert lines[1] == "continue: 1 pairs, 0 of 1 guardrails proven safe, about 5,000 more pairs to a promote, 2 min"
    assert "503" in lines[2]
    # Nothing but figures changed between the third and the fourth.
    assert [line.split(":")[0] for line in lines[3:]] == ["continue", end.state.value]


def test_time_that_is_up_is_continue(api: Api) -> None:
    api.answers = [undecided(5)]
    done = ask("--url", api.url, "--wait", "--timeout", "50ms", "--every", "1ms")
    assert done.exit_code == 3, done.output
    assert "nothing was decided in 1 s" in done.stderr
    assert "CONTINUE" in done.stdout
    assert api.asked > 1


@pytest.mark.parametrize("answers", [[None], [undecided(5), None]])
def test_away_when_the_time_is_up_is_can_not_tell(api: Api, answers: list[Verdict | None]) -> None:
    api.answers = answers
    done = ask("--url", api.url, "--wait", "--timeout", "50ms", "--every", "1ms")
    assert done.exit_code == 4
    assert done.stdout == ""
    assert "answers 503" in done.stderr.splitlines()[-1]


def test_nobody_there_is_waited_for_until_the_time_is_up() -> None:
    done = ask("--url", "http://127.0.0.1:1", "--wait", "--timeout", "50ms", "--every", "1ms")
    assert done.exit_code == 4
    assert "does not answer" in done.stderr


def test_the_store_is_waited_for_likewise(tmp_path: Path, own_valkey: EmbeddedServer) -> None:
    config = tmp_path / "shadowproxy.yaml"
    text = f"experiment: {unique('wait')}\nbaseline: http://a\ncandidate: http://b\nredis: {{url: %s}}"
    config.write_text(text % own_valkey.url)
    kill_and_restart(own_valkey)
    done = ask("--config", str(config), "--wait", "--timeout", "200ms", "--every", "1ms", "--json")
    assert done.exit_code == 3, done.output
    assert json.loads(done.stdout)["state"] == "continue"
    config.write_text(text % "redis://me:geheim@127.0.0.1:1")
    done = ask("--config", str(config), "--wait", "--timeout", "200ms", "--every", "1ms", "--json")
    assert done.exit_code == 4
    assert "geheim" not in done.output + done.stderr


@pytest.mark.parametrize(
    "words",
    [("--timeout", "1m"), ("--wait", "--timeout", "soon"), ("--wait", "--every", "-1s"), ("--json", "--explain")],
)
def test_what_means_nothing_is_a_usage_error(api: Api, words: tuple[str, ...]) -> None:
    api.answers = [PROMOTE]
    done = ask("--url", api.url, *words)
    assert done.exit_code == 2
    assert api.asked == 0


def test_an_explanation_over_the_api(api: Api) -> None:
    api.answers = [harmful()]
    done = ask("--url", api.url, "--explain")
    assert done.exit_code == 1
    assert "How it is decided" in done.stdout
    assert "Cohort occupation=educator: 123 pairs" in done.stdout


async def looks(*answers: Verdict | Exception, timeout: float = 60.0, stop: asyncio.Event | None = None) -> list[Look]:  # noqa: ASYNC109
    waiting = list(answers)

    async def look() -> Verdict:
        answer = waiting.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return [seen async for seen in follow(look, every=0.0, timeout=timeout, stop=stop or asyncio.Event())]


async def test_a_look_remembers_the_last_verdict_through_an_outage() -> None:
    first = undecided(1)
    found = await looks(StoreUnavailable("away"), first, ApiUnavailable("away again"), PROMOTE)
    assert [(seen.verdict, seen.trouble, seen.decided) for seen in found] == [
        (None, "away", False), (first, "", False), (first, "away again", False), (PROMOTE, "", True)
    ]  # fmt: skip


async def test_a_look_that_the_end_cuts_short_does_not_make_it_unreachable() -> None:
    first = undecided(1)
    answers = [first]

    async def look() -> Verdict:
        if not answers:
            await asyncio.Event().wait()
        return answers.pop()

    found = [seen async for seen in follow(look, every=0.0, timeout=0.02, stop=asyncio.Event())]
    assert [(seen.verdict, seen.trouble) for seen in found] == [(first, "")]


async def test_what_can_not_mend_itself_is_not_waited_for() -> None:
    with pytest.raises(PayloadError):
        await looks(PayloadError("damaged"), PROMOTE)


async def test_a_stop_ends_the_waiting() -> None:
    stop = asyncio.Event()
    stop.set()
    assert [seen.decided for seen in await looks(undecided(1), PROMOTE, stop=stop)] == [False]


async def test_a_look_that_hangs_is_given_up_when_the_time_is_up() -> None:
    async def hang() -> Verdict:
        await asyncio.Event().wait()
        return PROMOTE

    (seen,) = [seen async for seen in follow(hang, every=1.0, timeout=0.01, stop=asyncio.Event())]
    assert (seen.verdict, seen.decided) == (None, False)
    assert "no answer before the time was up" in seen.trouble
