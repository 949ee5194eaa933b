import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from demo.ministack import MiniStack
from rich.console import Console

from shadowproxy.config import Settings
from shadowproxy.demo import data
from shadowproxy.demo.run import Event, Observed, Options, Prepared, Result, StackUrls, Started, as_json, run
from shadowproxy.demo.scenarios import SCENARIOS
from shadowproxy.demo.view import DemoView, bar, kept, watch
from shadowproxy.errors import StartError
from shadowproxy.verdict.record import EXIT_CODES, State, Verdict


@pytest.fixture(scope="module")
def options(models_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Options]:
    """Only the generated catalogue: small, and the same everywhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(data.VARIABLE, raising=False)
        patch.setattr(data, "CACHE", tmp_path_factory.mktemp("nothing"))
        yield Options(SCENARIOS["score-shift"], rate=200, max_seconds=60, models=models_file.parent)


async def collect(options: Options, stack: MiniStack, stop: asyncio.Event | None = None) -> list[Event]:
    async with contextlib.aclosing(run(options, stack, stop=stop or asyncio.Event())) as events:
        return [event async for event in events]


async def again(events: list[Event]) -> AsyncIterator[Event]:
    for event in events:
        yield event


def ended(events: list[Event]) -> Result:
    assert isinstance(events[-1], Result)
    return events[-1]


@pytest.fixture(scope="module")
def shifted(options: Options) -> tuple[list[Event], MiniStack]:
    stack = MiniStack()
    return asyncio.run(collect(options, stack)), stack


@pytest.fixture(scope="module")
def regressed(options: Options) -> list[Event]:
    return asyncio.run(collect(replace(options, scenario=SCENARIOS["cohort-regression"]), MiniStack()))


def test_a_run_tells_what_happens_and_ends_with_the_expected_verdict(shifted: tuple[list[Event], MiniStack]) -> None:
    events, stack = shifted
    assert [type(event) for event in events[:3]] == [Prepared, Started, Observed]
    prepared, result = events[0], ended(events)
    assert isinstance(prepared, Prepared)
    assert "generated catalogue, seed 7" in prepared.dataset
    assert result.verdict.state is State.ROLLBACK
    assert result.reached
    assert result.exit_code == 1
    assert result.replay.statuses == {200: result.replay.sent}
    assert sorted(stack.requests) == [f"7-{at:08d}" for at in range(result.replay.sent)]
    assert stack.stopped == 1
    assert not stack.copies


def test_json_is_plain_and_says_what_was_expected(shifted: tuple[list[Event], MiniStack]) -> None:
    result = ended(shifted[0])
    value = json.loads(json.dumps(as_json(result), allow_nan=False))
    assert value["state"] == value["expected"] == "rollback"
    assert (value["scenario"], value["reached"], value["seed"]) == ("score-shift", True, 7)
    assert value["pairs"] == value["verdict"]["pairs"] == result.verdict.pairs
    assert value["dataset"].startswith("generated catalogue")
    assert msgspec.convert(value["verdict"], Verdict) == result.verdict


@pytest.mark.parametrize("terminal", [False, True])
async def test_the_view_shows_the_way_and_the_outcome(shifted: tuple[list[Event], MiniStack], terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal, _environ={"TERM": "xterm"})
    await watch(again(shifted[0]), console)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "score-shift: the same ranking, inflated scores" in text
    assert "all scores are multiplied by 1.15" in text
    assert "generated catalogue, seed 7" in text
    assert "as expected" in text
    assert "expected rollback; came rollback" in text
    assert "exit code 1" in text
    assert ("proven harm" in text) == terminal
    assert ("\x1b" in text) == terminal


async def test_events_without_a_result_are_an_error(shifted: tuple[list[Event], MiniStack]) -> None:
    with pytest.raises(StartError, match="without a result"):
        await watch(again(shifted[0][:-1]), Console(file=io.StringIO()))


def test_the_cohort_is_blamed_over_sockets(regressed: list[Event]) -> None:
    assert (ended(regressed).verdict.state, ended(regressed).reached) == (State.ROLLBACK, True)


def test_the_running_view_reads_at_80_columns(regressed: list[Event]) -> None:
    view = DemoView()
    console = Console(file=io.StringIO(), width=80)
    for event in regressed:
        view.update(event)
        console.print(view)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    last = text[text.rindex("scenario") :]
    rbo = next(line for line in last.splitlines() if "ranking.rbo" in line)
    assert "occupation=educator" in rbo
    assert "█" in rbo


async def test_a_better_model_is_promoted_over_sockets(options: Options) -> None:
    result = ended(await collect(replace(options, scenario=SCENARIOS["better"], rate=300), MiniStack()))
    assert (result.verdict.state, result.reached, result.exit_code) == (State.PROMOTE, True, 0)


class Undecided(MiniStack):
    """A stack whose verdict is always to continue."""

    exhausted = False

    async def verdict(self) -> Verdict:
        return msgspec.structs.replace(await super().verdict(), state=State.CONTINUE, exhausted=self.exhausted)


async def test_an_undecided_run_ends_at_its_bounds(options: Options) -> None:
    stacks = [Undecided() for _ in range(4)]
    stacks[2].exhausted = True
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(60):
        runs = await asyncio.gather(
            collect(replace(options, max_pairs=50), stacks[0]),
            collect(replace(options, max_seconds=0.6), stacks[1]),
            collect(options, stacks[2]),
            collect(options, stacks[3], stop),
        )
    for events, stack in zip(runs, stacks, strict=True):
        result = ended(events)
        assert (result.verdict.state, result.reached, result.exit_code) == (State.CONTINUE, False, 3)
        assert stack.stopped == 1
    assert ended(runs[0]).verdict.pairs >= 50
    assert ended(runs[1]).seconds >= 0.6


class Refusing(MiniStack):
    async def start(self, settings: Settings) -> StackUrls:
        raise StartError("port 80: in use")


async def test_a_stack_that_cannot_start_is_stopped_and_its_error_passed_on(options: Options) -> None:
    stack = Refusing()
    with pytest.raises(StartError, match="in use"):
        await collect(options, stack)
    assert stack.stopped == 1


async def test_closing_early_stops_everything(options: Options) -> None:
    stack = MiniStack()
    services: list[str] = []
    async with contextlib.aclosing(run(options, stack, stop=asyncio.Event())) as events:
        async for event in events:
            if isinstance(event, Started):
                services += [event.baseline, event.candidate]
            if isinstance(event, Observed):
                break
    assert stack.stopped == 1
    for url in services:
        host, _, port = url.removeprefix("http://").partition(":")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))


async def test_keep_holds_everything_up_until_it_is_done(options: Options) -> None:
    stack = MiniStack()
    answered: list[bool] = []

    async def held(result: Result) -> None:
        host, _, port = result.started.urls.proxy.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
        await writer.wait_closed()
        answered.append(stack.stopped == 0)

    console = Console(file=io.StringIO(), width=100)
    async with contextlib.aclosing(run(options, stack, stop=asyncio.Event(), keep=held)) as events:
        result = await watch(events, console)
    assert answered == [True]
    assert stack.stopped == 1
    console.print(kept(result))
    assert result.started.urls.proxy in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_bar_is_logarithmic_and_full_at_its_threshold() -> None:
    assert bar(0.0, 20.0, width=10) == bar(1.0, 20.0, width=10) == "··········"
    assert bar(20.0**0.5, 20.0, width=10) == "█████·····"
    assert bar(19.9, 20.0, width=10) == "█████████·"
    assert bar(20.0, 20.0, width=10) == bar(1e300, 20.0, width=10) == "██████████"


def test_exit_codes_are_those_of_the_verdict() -> None:
    assert EXIT_CODES == {State.PROMOTE: 0, State.ROLLBACK: 1, State.CONTINUE: 3}
