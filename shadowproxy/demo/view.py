"""The demo on the terminal: what is planted, how the evidence grows, and what came of it."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shadowproxy.demo.models import Model
from shadowproxy.demo.run import Event, Observed, Prepared, Result, Started, where
from shadowproxy.demo.scenarios import BASELINE
from shadowproxy.errors import StartError
from shadowproxy.report import words
from shadowproxy.report.terminal import STYLES, accounting_line, verdict_report
from shadowproxy.verdict import record
from shadowproxy.verdict.record import OVERALL, Cell, Verdict

_BAR = 14
_NARROW_BAR = 11
_WIDE = 110
"""Columns from which the weakest cohort is named too."""
_FEW = 0.01
"""Share of requests that may leave late before it is worth a line."""
_PLAIN_EVERY = 5.0
"""Seconds between two lines where the output is not a terminal."""


def bar(value: float, threshold: float, *, width: int = _BAR) -> str:
    """An e-value on a logarithmic scale: empty at 1 (no evidence), full at its threshold.

    >>> bar(1.0, 20.0, width=4), bar(4.5, 20.0, width=4), bar(1e9, 20.0, width=4)
    ('····', '██··', '████')
    """
    share = math.log(max(value, 1.0)) / math.log(threshold)
    full = min(width, math.floor(share * width + 1e-9))
    return "█" * full + "·" * (width - full)


class DemoView:
    """A renderable that shows the events it was given. Give it to `rich.live.Live`, or print it."""

    def __init__(self) -> None:
        self._prepared: Prepared | None = None
        self._started: Started | None = None
        self._observed: Observed | None = None

    def update(self, event: Event) -> None:
        """Take in the next event."""
        match event:
            case Prepared():
                self._prepared = event
            case Started():
                self._started = event
            case Observed():
                self._observed = event
            case Result():
                pass

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._prepared is None:
            yield Text("reading the data and training the models …")
            return
        yield introduction(self._prepared)
        if self._started is None:
            yield Text("starting the services and shadowproxy …", style="dim")
        elif self._observed is None:
            yield Text(f"replaying through {self._started.urls.proxy} …", style="dim")
        else:
            yield Text()
            yield progress_line(self._observed)
            yield evidence_table(self._observed.verdict, wide=options.max_width >= _WIDE)
            yield accounting_line(self._observed.verdict)


def introduction(prepared: Prepared) -> RenderableType:
    """The scenario, what is planted in the candidate, and what the models and data are."""
    scenario = prepared.scenario
    lines = Table.grid(padding=(0, 2))
    lines.add_row(Text("scenario", style="dim"), Text(f"{scenario.name}: {scenario.title}", style="bold"))
    lines.add_row(Text("planted", style="dim"), Text(scenario.fault.planted))
    lines.add_row(
        Text("models", style="dim"),
        Text(f"{_model(prepared, BASELINE)} in service, {_model(prepared, scenario.candidate)} as the candidate"),
    )
    lines.add_row(Text("data", style="dim"), Text(f"{words.plain(prepared.dataset)}; {prepared.accounts} accounts"))
    blame = f", because of {scenario.cohort}" if scenario.cohort else ""
    lines.add_row(Text("expected", style="dim"), Text(f"{scenario.expected.value}{blame}"))
    return lines


def _model(prepared: Prepared, model: Model) -> str:
    return f"{model.value} (NDCG@10 {prepared.ndcg[model]:.3f})"


def progress_line(observed: Observed) -> Text:
    """The verdict so far, time, requests and pairs."""
    verdict, progress = observed.verdict, observed.progress
    rate = progress.sent / progress.elapsed if progress.elapsed > 0 else 0.0
    text = Text()
    text.append(verdict.state.value, style=STYLES[verdict.state])
    text.append(f" after {observed.elapsed:.0f} s: {progress.sent:,} requests sent ({rate:.0f}/s), ")
    text.append(words.rests_on(verdict))
    return text


def evidence_table(verdict: Verdict, *, wide: bool = True) -> Table:
    """Per guardrail two e-values on their way to their thresholds, with the cohort that each is of.

    They are that of safety in the cell that promote needs and that has the least of it, and that of harm in the cell
    that has the most.
    """
    table = Table(box=None, padding=(0, 1, 0, 0), show_edge=False)
    for name in ("guardrail", "proven safe", *(["weakest"] if wide else []), "proven harm", "strongest"):
        table.add_column(name, header_style="dim", overflow="ellipsis", no_wrap=True)
    everywhere = record.cells(verdict)
    width = _BAR if wide else _NARROW_BAR
    for overall in verdict.guardrails:
        same = [cell for cell in everywhere if cell.guardrail == overall.guardrail]
        weakest = min((cell for cell in same if cell.required), key=_safe, default=overall)
        strongest = max(same, key=_harm)
        table.add_row(
            Text(words.plain(overall.guardrail)),
            Text(bar(weakest.e_promote, weakest.promote_at, width=width), style="green"),
            *([_where(weakest)] if wide else []),
            Text(bar(strongest.e_rollback, strongest.rollback_at, width=width), style="red"),
            _where(strongest) if strongest.e_rollback > 1 else Text("–", style="dim"),
        )
    return table


def _safe(cell: Cell) -> float:
    return cell.e_promote / cell.promote_at


def _harm(cell: Cell) -> float:
    return cell.e_rollback / cell.rollback_at


def _where(cell: Cell) -> Text:
    return Text("all pairs" if cell.cohort == OVERALL else words.plain(cell.cohort), style="dim")


def outcome(result: Result) -> RenderableType:
    """The verdict in full, what was expected against what came, the client's own latency, and the exit code."""
    replay, scenario = result.replay, result.scenario
    mark, style = ("as expected", "bold green") if result.reached else ("NOT as expected", "bold red")
    blame = f", because of {scenario.cohort}" if scenario.cohort else ""
    final = Text()
    final.append(mark, style=style)
    final.append(f": expected {scenario.expected.value}{blame}; came {result.verdict.state.value} after ")
    final.append(f"{result.verdict.pairs:,} pairs and {result.seconds:.1f} s (seed {result.seed}, {result.dataset})")
    quantiles = ", ".join(
        f"{name} {words.seconds(value)}"
        for name, value in (("p50", replay.p50), ("p90", replay.p90), ("p99", replay.p99))
    )
    client = f"the client: {replay.sent:,} requests, {words.counts(_answers(result))}; {quantiles}"
    parts: list[RenderableType] = [verdict_report(result.verdict), Text(client, style="dim")]
    if replay.late + replay.throttled > _FEW * replay.sent:
        late = f"{replay.late:,} requests left late, {replay.throttled:,} waited for a place"
        held = f"{late}: for them the client was the bottleneck"
        parts.append(Text(held, style="yellow"))
    return Group(*parts, Text(), final, Text(f"exit code {result.exit_code}", style="dim"))


def _answers(result: Result) -> Iterable[tuple[str, int]]:
    yield from ((f"status {status}:", count) for status, count in result.replay.statuses.items())
    yield from result.replay.errors.items()


def kept(result: Result) -> RenderableType:
    """What to show while `--keep` leaves everything running."""
    lines = Table.grid(padding=(0, 2))
    for name, url in where(result).items():
        path = {"api": "/api/v1/verdict", "proxy_admin": "/metrics", "comparator_admin": "/metrics"}.get(name, "")
        lines.add_row(Text(name.replace("_", " "), style="dim"), Text(url + path))
    return Group(Text("still running; Ctrl-C stops everything", style="bold"), lines)


async def watch(events: AsyncIterator[Event], console: Console) -> Result:
    """Show the events as they come, live on a terminal and as lines elsewhere; then the outcome. Returns the result.

    Reads the events to their end, so that what `run` does after the result (`keep`, stopping) is done.
    Raises what the events raise; StartError if they end without a result.
    """
    shown = _watch_live(events, console) if console.is_terminal else _watch_lines(events, console)
    result = await shown
    console.print(outcome(result))
    async for _ in events:
        pass
    return result


async def _watch_live(events: AsyncIterator[Event], console: Console) -> Result:
    view = DemoView()
    with Live(view, console=console, refresh_per_second=4):
        async for event in events:
            view.update(event)
            if isinstance(event, Result):
                return event
    raise StartError("the demo ended without a result")


async def _watch_lines(events: AsyncIterator[Event], console: Console) -> Result:
    told = 0.0
    async for event in events:
        match event:
            case Prepared():
                console.print(introduction(event))
            case Started():
                console.print(Text(f"replaying through {event.urls.proxy}; verdict at {event.urls.api}/api/v1/verdict"))
            case Observed() if event.elapsed >= told + _PLAIN_EVERY:
                told = event.elapsed
                console.print(progress_line(event))
            case Observed():
                pass
            case Result():
                return event
    raise StartError("the demo ended without a result")
