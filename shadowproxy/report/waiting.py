"""How far a verdict has come, while somebody waits for it: a view for a terminal, a line for a log."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shadowproxy.report import terminal, words
from shadowproxy.report.explain import progress
from shadowproxy.verdict import record
from shadowproxy.verdict.record import Cell, Finding, Verdict

_BAR = 24


def waiting_line(verdict: Verdict | None, trouble: str = "") -> str:
    """One line: state, pairs, how many guardrails are proven, and what is to be expected.

    >>> waiting_line(None, "nobody answers")
    'waiting: nobody answers'
    """
    if trouble or verdict is None:
        return f"waiting: {words.plain(trouble)}"
    needed = [cell for cell in record.cells(verdict) if cell.required]
    safe = sum(cell.finding is Finding.SAFE for cell in needed)
    text = f"{verdict.state.value}: {verdict.pairs:,} pairs, {safe} of {len(needed)} guardrails proven safe"
    failed = [words.plain(check.name) for check in verdict.checks if not check.passed]
    if failed:
        text += f", not sound: {', '.join(failed)}"
    return f"{text}, {forecast(verdict)}"


def forecast(verdict: Verdict) -> str:
    """What a promote still takes, as far as it can be said."""
    expected = verdict.forecast
    if expected is None:
        return "no forecast yet"
    text = f"about {words.rough(expected.pairs)} more pairs to a promote"
    return text if expected.seconds is None else f"{text}, {words.lasting(expected.seconds)}"


def waiting_view(verdict: Verdict | None, trouble: str, elapsed: float, timeout: float) -> RenderableType:
    """Each guardrail's evidence on its way to its threshold, over all pairs and where a cohort must be proven too."""
    time = f"{words.lasting(elapsed)} of {words.lasting(timeout)}"
    parts: list[RenderableType] = [Text(f"waiting for a verdict, {time}", style="dim")]
    if verdict is not None:
        parts.append(terminal.headline(verdict))
        parts.append(_bars([cell for cell in record.cells(verdict) if cell.required]))
        parts.append(Text(forecast(verdict)))
    if trouble:
        parts.append(Text(words.plain(trouble), style="yellow"))
    return Group(*parts)


def _bars(cells: list[Cell]) -> RenderableType:
    table = Table.grid(padding=(0, 1))
    table.add_row(*(Text(name, style="dim") for name in ("guardrail", "safe", "", "harm", "")))
    for cell in cells:
        name = cell.guardrail if cell.cohort == "all" else f"{cell.guardrail} ({cell.cohort})"
        ways = ((cell.e_promote, cell.promote_at, "green"), (cell.e_rollback, cell.rollback_at, "red"))
        row: list[RenderableType] = [Text(words.plain(name), style=terminal.FINDING_STYLES[cell.finding])]
        for value, threshold, style in ways:
            width = _BAR if style == "green" else _BAR // 3
            way = progress(value, threshold)
            row.append(ProgressBar(1, way, width=width, complete_style=style, finished_style=f"bold {style}"))
            row.append(Text(f"{100 * way:3.0f}%"))
        table.add_row(*row)
    return table
