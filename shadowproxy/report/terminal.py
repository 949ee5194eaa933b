"""A verdict for the terminal: rich renderables that read at 80 columns, and without colour."""

from __future__ import annotations

import re

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from shadowproxy.report import words
from shadowproxy.verdict.record import OVERALL, Cell, Finding, State, Verdict

STYLES = {
    State.PROMOTE: "bold green",
    State.ROLLBACK: "bold red",
    State.CONTINUE: "bold yellow",
}
FINDING_STYLES = {Finding.SAFE: "green", Finding.HARMFUL: "bold red", Finding.UNDECIDED: "yellow"}
_MARKS = {
    Finding.SAFE: ("safe", FINDING_STYLES[Finding.SAFE]),
    Finding.HARMFUL: ("HARM", FINDING_STYLES[Finding.HARMFUL]),
    Finding.UNDECIDED: ("·", "dim"),
}
_WIDE = 110
"""Columns from which the confidence intervals are shown."""


class _ByWidth:
    """A table that is built when the width is known."""

    def __init__(self, verdict: Verdict, *, every_cell: bool) -> None:
        self._verdict = verdict
        self._every_cell = every_cell

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= _WIDE
        if self._verdict.guardrails:
            yield _overall(self._verdict.guardrails, wide=wide)
        else:
            yield Text("no guardrail has data yet", style="dim")
        if self._verdict.cohorts:
            yield Text()
            matrix = _matrix(self._verdict)
            fits = console.measure(matrix, options=options.update(max_width=10_000)).minimum <= options.max_width
            yield matrix if fits else _cohorts(self._verdict, wide=wide)
        if self._every_cell and self._verdict.cohorts:
            yield Text()
            for name, report in self._verdict.cohorts.items():
                yield _overall(report.guardrails, wide=wide, title=words.plain(name))


def verdict_table(verdict: Verdict, *, every_cell: bool = False) -> RenderableType:
    """Guardrails × cohorts: every guardrail overall, then a row per cohort.

    Where there is room for it the row has the finding of every guardrail; else the worst of them. With `every_cell`,
    each cohort's whole table follows.
    """
    return _ByWidth(verdict, every_cell=every_cell)


def _grid(title: str, *columns: str) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        title=Text(title),
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in columns:
        # The findings and names may wrap at 80 columns; figures may not, since half a figure misleads.
        wraps = name in {"guardrail", "cohort", "findings", "worst of them"}
        table.add_column(
            name, justify="left" if wraps or name == "finding" else "right", no_wrap=not wraps, overflow="fold"
        )
    return table


def _overall(cells: tuple[Cell, ...], *, wide: bool, title: str = "All pairs") -> Table:
    names = [
        "guardrail",
        "finding",
        "loss",
        *(["interval"] if wide else []),
        "margin",
        "e safe",
        "e harm",
        "pairs",
    ]
    table = _grid(title, *names)
    for cell in cells:
        table.add_row(
            Text(words.plain(cell.guardrail)),
            Text(cell.finding.value, style=FINDING_STYLES[cell.finding]),
            words.figure(cell.estimate),
            *([Text(words.interval(cell.interval))] if wide else []),
            words.figure(cell.margin, signed=False),
            words.evidence(cell.e_promote),
            words.evidence(cell.e_rollback),
            f"{cell.pairs:,}",
        )
    return table


def _matrix(verdict: Verdict) -> Table:
    table = _grid("Cohorts × guardrails", "cohort", "pairs")
    names = [cell.guardrail for cell in verdict.guardrails]
    for name in names:
        # A name breaks where its parts do, so that a column is as narrow as what stands in it.
        table.add_column(Text(re.sub(r"[._]", r"\n", words.plain(name))), no_wrap=True, vertical="bottom")
    for cohort, report in verdict.cohorts.items():
        found = {cell.guardrail: cell.finding for cell in report.guardrails}
        marks = (_MARKS[found[name]] if name in found else ("", "") for name in names)
        table.add_row(Text(words.plain(cohort)), f"{report.pairs:,}", *(Text(*mark) for mark in marks))
    return table


def _cohorts(verdict: Verdict, *, wide: bool) -> Table:
    figures = ("loss", "margin") if wide else ()
    names = ("cohort", "pairs", "findings", "worst of them", *figures, "evidence")
    table = _grid("Cohorts", *names)
    for name, report in verdict.cohorts.items():
        worst = words.worst(report.guardrails)
        row: list[RenderableType] = [Text(words.plain(name)), f"{report.pairs:,}"]
        if worst is not None:
            style = FINDING_STYLES[worst.finding]
            found = words.findings(report.guardrails) if wide else worst.finding.value
            row += [
                Text(found, style="" if wide else style),
                Text(words.plain(worst.guardrail), style=style),
                *([words.figure(worst.estimate), words.figure(worst.margin, signed=False)] if wide else []),
                words.telling(worst),
            ]
        table.add_row(*row)
    return table


def headline(verdict: Verdict) -> Text:
    """The state, the experiment and what it rests on, in a line."""
    text = Text()
    text.append(verdict.state.value.upper(), style=STYLES[verdict.state])
    if verdict.exhausted:
        text.append(" (horizon reached)")
    text.append(f"  {words.plain(verdict.experiment)}  ")
    text.append(words.rests_on(verdict), style="dim")
    return text


def reasons(verdict: Verdict) -> Text:
    """The reasons as a list, one a line."""
    return Text("\n").join(Text(f"• {words.plain(reason)}") for reason in verdict.reasons)


def accounting_line(verdict: Verdict) -> Text:
    """Where every request went."""
    return Text(words.accounting(verdict.accounting), style="dim")


def verdict_report(verdict: Verdict, *, every_cell: bool = False) -> RenderableType:
    """All of it: headline, reasons, tables, checks that failed, failures by side, latencies, accounting."""
    parts: list[RenderableType] = [headline(verdict)]
    if verdict.reasons:
        parts.append(reasons(verdict))
    parts += [Text.assemble(("note: ", "yellow"), words.plain(note)) for note in verdict.notes]
    parts += [Text(), verdict_table(verdict, every_cell=every_cell)]
    # They hold a promote back; a rollback does not wait for them.
    failed = [check for check in verdict.checks if not check.passed and verdict.state is not State.ROLLBACK]
    parts += [
        Text.assemble(("not sound: ", "yellow"), f"{words.plain(check.name)}: {words.plain(check.detail)}")
        for check in failed
    ]
    if found := words.dependence(verdict):
        table = _grid("Pairs that depend on each other", "guardrail", "by", "variance of the mean")
        for guardrail, by, inflation in found:
            table.add_row(Text(words.plain(guardrail)), Text(words.plain(by)), f"× {inflation}")
        parts += [Text(), table, Text()]
    for side, kinds in verdict.failures.items():
        if any(kinds.values()):
            parts.append(Text(f"failures of the {words.plain(side)}: {words.counts(kinds.items())}"))
    if verdict.latencies:
        parts += [Text(), _latencies(verdict)]
    if verdict.distributions:
        parts += [Text(), _distributions(verdict)]
    parts += [Text(), accounting_line(verdict)]
    if verdict.labels is not None:
        parts.append(Text(words.labels(verdict.labels), style="dim"))
    return Group(*parts)


def _latencies(verdict: Verdict) -> Table:
    """Over all pairs, and by route."""
    rows = [row for row in words.latencies(verdict) if row.cohort == OVERALL]
    routes = any(row.route for row in rows)
    names = (*(("route",) if routes else ()), "side", "timing")
    table = _grid("Latency over all pairs", *names, "p50", "p90", "p99", "pairs")
    for row in rows:
        quantiles = (words.seconds(value) for value in (row.p50, row.p90, row.p99))
        told = (*((row.route or "all",) if routes else ()), row.side, row.timing)
        table.add_row(*(Text(words.plain(name)) for name in told), *quantiles, f"{row.pairs:,}")
    return table


def _distributions(verdict: Verdict) -> Table:
    """Of the distributions over all pairs, the medians and how far the two are apart."""
    table = _grid("Scores over all pairs", "route", "items", "p50", "p50 candidate", "KS", "PSI", "W1", "JS")
    table.columns[0].justify, table.columns[0].no_wrap = "left", False
    for row in verdict.distributions:
        if row.cohort != OVERALL:
            continue
        figures = (row.baseline.p50, row.candidate.p50, row.ks, row.psi, row.wasserstein, row.jensen_shannon)
        shown = (words.figure(value, signed=False) for value in figures)
        table.add_row(Text(words.plain(row.route)), f"{row.baseline.items + row.candidate.items:,}", *shown)
    return table
