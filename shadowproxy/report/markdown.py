"""A verdict as GitHub-flavoured Markdown, for a step summary or a comment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from shadowproxy.report import words
from shadowproxy.verdict.record import Cell, Finding, State, Verdict

_SIGNS = {State.PROMOTE: "✅", State.ROLLBACK: "❌", State.CONTINUE: "⏳"}
_FINDING_SIGNS = {Finding.SAFE: "✅", Finding.HARMFUL: "❌", Finding.UNDECIDED: "⏳"}
_SPECIAL = re.compile(r"[\\`*_{}\[\]()+!|~$]|^[-=]|(?<=^\d)\.")
_LINKED = re.compile(r"[@#]|:(?=//)|(?<=www)\.")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_CELLS = (("guardrail", "l"), ("finding", "l"), *((name, "r") for name in ("loss", "interval", "margin")))
_EVIDENCE = (("e safe", "r"), ("e harm", "r"), ("pairs", "r"))


def escape(text: str) -> str:
    """`text` as Markdown that shows exactly it: no markup, no HTML, no mention, one line.

    >>> escape("a|b <i> *c*")
    'a\\\\|b &lt;i&gt; \\\\*c\\\\*'
    """
    entities = "".join(_ENTITIES.get(sign, sign) for sign in words.plain(text))
    # A backslash does not keep GitHub from linking a mention, an issue or a URL; an empty comment in between does.
    return _LINKED.sub(r"\g<0><!-- -->", _SPECIAL.sub(r"\\\g<0>", entities))


def verdict_markdown(verdict: Verdict) -> str:
    """The whole verdict: headline, reasons, guardrails, cohorts, every cell folded away, latencies, accounting."""
    title = f"## {_SIGNS[verdict.state]} {verdict.state.value}: {escape(verdict.experiment)}"
    parts = [title, f"{words.rests_on(verdict)}.{' The horizon is reached.' if verdict.exhausted else ''}"]
    if verdict.reasons:
        parts.append("\n".join(f"- {escape(reason)}" for reason in verdict.reasons))
    if verdict.notes:
        parts.append("\n".join(f"> {escape(note)}" for note in verdict.notes))
    parts.append("### Guardrails, all pairs")
    parts.append(_cells(verdict.guardrails) if verdict.guardrails else "No guardrail has data yet.")
    if verdict.cohorts:
        parts += ["### Cohorts", _cohorts(verdict), _every_cell(verdict)]
    failed = [check for check in verdict.checks if not check.passed]
    if failed:
        parts.append("### Data that is not sound")
        parts.append("\n".join(f"- {escape(check.name)}: {escape(check.detail)}" for check in failed))
    if found := words.dependence(verdict):
        columns = (("guardrail", "l"), ("by", "l"), ("variance of the mean", "r"))
        rows = ((escape(guardrail), escape(by), f"× {inflation}") for guardrail, by, inflation in found)
        parts += ["### Pairs that depend on each other", _table(columns, rows)]
    if verdict.latencies:
        parts += ["### Latency", _latencies(verdict)]
    kinds = {side: found for side, found in verdict.failures.items() if any(found.values())}
    if kinds:
        parts.append("### Failures")
        parts.append(
            "\n".join(f"- {escape(side)}: {escape(words.counts(found.items()))}" for side, found in kinds.items())
        )
    parts.append(escape(words.accounting(verdict.accounting)))
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(name for name, _ in columns) + " |"]
    lines.append("| " + " | ".join("---:" if side == "r" else "---" for _, side in columns) + " |")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _row(cell: Cell) -> tuple[str, ...]:
    return (
        escape(cell.guardrail),
        f"{_FINDING_SIGNS[cell.finding]} {cell.finding.value}",
        words.figure(cell.estimate),
        words.interval(cell.interval),
        words.figure(cell.margin, signed=False),
        _evidence(cell.e_promote),
        _evidence(cell.e_rollback),
        f"{cell.pairs:,}",
    )


def _evidence(value: float) -> str:
    return escape(words.evidence(value))


def _cells(cells: Iterable[Cell]) -> str:
    return _table((*_CELLS, *_EVIDENCE), map(_row, cells))


def _cohorts(verdict: Verdict) -> str:
    columns = (("cohort", "l"), ("pairs", "r"), ("findings", "l"), ("worst of them", "l"))
    figures = (("loss", "r"), ("margin", "r"), ("evidence", "r"))
    rows = []
    for name, report in verdict.cohorts.items():
        worst = words.worst(report.guardrails)
        figured = ("–",) * 4
        if worst is not None:
            figured = (
                f"{_FINDING_SIGNS[worst.finding]} {escape(worst.guardrail)}",
                words.figure(worst.estimate),
                words.figure(worst.margin, signed=False),
                escape(words.telling(worst)),
            )
        rows.append((escape(name), f"{report.pairs:,}", words.findings(report.guardrails) or "–", *figured))
    return _table((*columns, *figures), rows)


def _every_cell(verdict: Verdict) -> str:
    rows = [(escape(name), *_row(cell)) for name, report in verdict.cohorts.items() for cell in report.guardrails]
    table = _table((("cohort", "l"), *_CELLS, *_EVIDENCE), rows)
    return f"<details><summary>Every guardrail of every cohort</summary>\n\n{table}\n\n</details>"


def _latencies(verdict: Verdict) -> str:
    rows = words.latencies(verdict)
    routes = any(row.route for row in rows)
    columns = (
        *((("route", "l"),) if routes else ()),
        ("cohort", "l"),
        ("side", "l"),
        ("timing", "l"),
        ("p50", "r"),
        ("p90", "r"),
        ("p99", "r"),
        ("pairs", "r"),
    )
    return _table(
        columns,
        (
            (
                *((escape(row.route or "all"),) if routes else ()),
                escape(row.cohort),
                escape(row.side),
                escape(row.timing),
                *(words.seconds(value) for value in (row.p50, row.p90, row.p99)),
                f"{row.pairs:,}",
            )
            for row in rows
        ),
    )
