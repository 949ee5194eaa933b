"""`shadowproxy report` as a user runs it: against a live API, into its store, and where there is nothing to be had."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from click.testing import Result
from page.live import CONFIGURATION, WORST, System, broken, healthy, system
from report.test_html import Parsed
from report.verdicts import harmful
from servers import until
from typer.testing import CliRunner

from shadowproxy.cli import app
from shadowproxy.config import experiment_id
from shadowproxy.errors import Refused
from shadowproxy.pairs import EmbeddedServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def ask(*words: object) -> Result:
    """The command, in a thread: it runs a loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, ["report", *map(str, words)])


async def answer(url: str, what: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/api/v1/{what}") as response:
        return await response.json()


def data(path: Path) -> Any:
    """What a report has for its scripts."""
    return next(json.loads(text) for attributes, text in Parsed(path.read_text()).raw if attributes.get("id") == "data")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(valkey: EmbeddedServer) -> AsyncIterator[System]:
    """600 pairs, of which a third went wrong."""
    async with system(valkey.url) as one:
        await one.count([*healthy(0, 300), *broken(300, 300)])

        async def counted() -> bool:
            return bool((await answer(one.url, "verdict"))["pairs"] >= 590)

        await until(counted)
        yield one


@pytest.fixture
def configured(live: System, valkey: EmbeddedServer, tmp_path: Path) -> Path:
    path = tmp_path / "shadowproxy.yaml"
    path.write_text(CONFIGURATION.format(experiment=live.settings.experiment, redis=valkey.url))
    return path


def timeless(found: Any) -> Any:
    """Without the times of reading, which the figures do not rest on."""
    if isinstance(found, dict):
        return {key: timeless(value) for key, value in found.items() if key not in ("at", "seconds")}
    return [timeless(value) for value in found] if isinstance(found, list) else found


async def test_the_figures_are_those_of_the_api_from_the_store_too(
    live: System, configured: Path, tmp_path: Path
) -> None:
    asked, looked = tmp_path / "asked.html", tmp_path / "looked.html"
    for words in (("--url", live.url, "--html", asked), ("--config", configured, "--html", looked)):
        done = await ask(*words, "--small")
        assert done.exit_code == 0, done.output
    found = data(asked)
    assert timeless(found) == timeless(data(looked))
    for name in ("verdict", "history", "distributions", "latencies"):
        assert timeless(found[name]) == timeless(await answer(live.url, name)), name
    assert found["evidence"]["points"][-1]["pairs"] == found["verdict"]["pairs"]
    assert WORST in [one["exemplar"]["id"] for one in found["pairs"]["worst"]["ranking.rbo"]]
    text = Parsed(asked.read_text()).text
    assert text.count(WORST) >= 2
    assert "x 1 new; a is gone" not in text
    assert "verdict.min_pairs 50" in text
    assert f"From {live.url}" in text
    assert "From its store" in Parsed(looked.read_text()).text


async def test_looking_into_a_store_writes_nothing(live: System, configured: Path, tmp_path: Path) -> None:
    before = await live.store.home.command("XLEN", "trail"), await live.store.home.command("XLEN", "verdicts")
    assert (await ask("--config", configured, "--html", tmp_path / "a.html", "--small")).exit_code == 0
    assert before == (await live.store.home.command("XLEN", "trail"), await live.store.home.command("XLEN", "verdicts"))


async def test_heads_and_bodies_can_be_left_out(live: System, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    whole = await ask("--url", live.url, "--html", path, "--small")
    assert whole.exit_code == 0
    assert "content-type" in path.read_text()
    done = await ask("--url", live.url, "--html", path, "--small", "--no-bodies", "--pairs", 1)
    assert done.exit_code == 0
    page = path.read_text()
    assert "content-type" not in page
    assert '\\"user\\"' not in page
    views = data(path)["pairs"]["worst"]["ranking.rbo"]
    assert {one["withheld"] for one in views} == {True}
    assert WORST in page
    assert "Heads and bodies are left out." in page


async def test_an_experiment_is_found_by_its_id(live: System, configured: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    name = experiment_id(live.settings)
    done = await ask("--config", configured, "--experiment", name, "--html", path, "--small", "--pairs", 0)
    assert done.exit_code == 0, done.output
    assert data(path)["verdict"]["experiment"] == name
    done = await ask("--config", configured, "--experiment", "other-00000000", "--html", path)
    assert isinstance(done.exception, Refused)
    assert "other-00000000" in str(done.exception)


async def test_it_can_be_piped(live: System) -> None:
    done = await ask("--url", live.url, "--markdown", "-")
    assert done.exit_code == 0
    assert done.stdout.startswith("## ")
    assert "### How the verdict changed" in done.stdout
    assert WORST in done.stdout


async def test_an_api_that_has_a_verdict_alone_is_enough(tmp_path: Path) -> None:
    async def verdict(_request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(harmful()), content_type="application/json")

    served = web.Application()
    served.add_routes([web.get("/api/v1/verdict", verdict)])
    runner = web.AppRunner(served)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        path = tmp_path / "report.html"
        done = await ask("--url", url.replace("http://", "http://me:secret@"), "--html", path, "--small")
        assert done.exit_code == 0, done.output
        page = path.read_text()
        assert "there is no evidence: the API is an older one" in page
        assert f"From</dt><dd>{url}<" in page
        assert "secret" not in page
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "say what to write"),
        (("--html", "-", "--markdown", "-"), 2, "only one"),
        (("--html", "a", "--experiment", "x"), 2, "--config"),
        (("--html", "a", "--url", "http://127.0.0.1:9"), 4, "does not answer"),
    ],
)
async def test_what_can_not_be_is_said(words: tuple[str, ...], code: int, said: str) -> None:
    done = await ask(*words)
    assert done.exit_code == code
    assert said in done.stderr
