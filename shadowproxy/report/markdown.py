"""A verdict as GitHub-flavoured Markdown, for a step summary or a comment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from shadowproxy.report import shown, sides, words
from shadowproxy.report.contents import When
from shadowproxy.report.material import Change, Material
from shadowproxy.report.view import PairView
from shadowproxy.verdict.record import Cell, Finding, State, Verdict

_SIGNS = {State.PROMOTE: "✅", State.ROLLBACK: "❌", State.CONTINUE: "⏳"}
_FINDING_SIGNS = {Finding.SAFE: "✅", Finding.HARMFUL: "❌", Finding.UNDECIDED: "⏳"}
_SPECIAL = re.compile(r"[\\`*_{}\[\]()+!|~$]|^[-=]|(?<=^\d)\.")
_LINKED = re.compile(r"[@#]|:(?=//)|(?<=www)\.")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_CELLS = (("guardrail", "l"), ("finding", "l"), *((name, "r") for name in ("loss", "interval", "margin")))
_EVIDENCE = (("e safe", "r"), ("e harm", "r"), ("pairs", "r"))


MOST_BYTES: Final = 1024 * 1024
"""Of a step summary: GitHub takes no more, and shows nothing of one that is larger."""
_MOST_CHANGES: Final = 20
_MOST_DIFFERENCES: Final = 10
_MOST_RANKS: Final = 20
_MOST_VALUE: Final = 200


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
    return _bounded(_verdict(verdict))


def report_markdown(material: Material, when: When) -> str:
    """The verdict as above, how it changed, and the worst pairs, each folded away; at most MOST_BYTES."""
    parts = _verdict(material.verdict)
    if changes := material.history.history:
        parts += ["### How the verdict changed", "\n".join(_changed(one, when) for one in changes[:_MOST_CHANGES])]
    for guardrail, views in material.worst.items():
        parts += [f"### Worst pairs: {escape(guardrail)}", *(_pair(view) for view in views)]
    made = material.made
    parts.append(
        f"Made by shadowproxy {escape(made.version)} from {escape(made.source)}, {when(material.verdict.at)} UTC."
    )
    return _bounded(parts)


def _bounded(parts: Iterable[str]) -> str:
    """As many of the parts as GitHub takes, each whole: half a table or an open fold would spoil what follows."""
    kept: list[str] = []
    left, out = MOST_BYTES - 200, 0
    for part in parts:
        left -= len(part.encode()) + 2
        if left < 0:
            out += 1
        else:
            kept.append(part)
    if out:
        kept.append(f"*{shown.many(out, 'part')} left out, for a summary takes no more; the HTML report has it all.*")
    return "\n\n".join(kept) + "\n"


def _changed(one: Change, when: When) -> str:
    by = f" by {one.by}" if one.by else ""
    about = f": {'; '.join(one.reasons)}" if one.reasons else ""
    return f"- {when(one.at)} UTC **{escape(one.what)}**{escape(f'{by}, {one.pairs:,} pairs{about}')}"


def _pair(view: PairView) -> str:
    """One pair, folded: its two lists and what differs. Bodies are for a page."""
    exemplar = view.exemplar
    loss = "" if exemplar.loss is None else f", loss {shown.figure(exemplar.loss, signed=True)}"
    # Inside a summary element Markdown's own escapes would be seen.
    title = _entities(f"{exemplar.id}: {view.request.method} {view.request.target}{loss}")
    return "\n\n".join([f"<details><summary>{title}</summary>", *_about(view), "</details>"])


def _about(view: PairView) -> Iterator[str]:
    exemplar = view.exemplar
    if exemplar.cohorts:
        yield f"In {escape(', '.join(exemplar.cohorts))}."
    answered = (("baseline", view.baseline), ("candidate", view.candidate))
    columns = (("side", "l"), ("outcome", "l"), ("status", "r"), ("first byte", "r"), ("last byte", "r"))
    rows = (
        (
            side,
            escape(f"{one.outcome} {one.detail}".strip()),
            str(one.status or "–"),
            *map(sides.ended, (one.ttfb, one.total)),
        )
        for side, one in answered
    )
    yield _table(columns, rows)
    if view.ranking is not None and view.ranking.items:
        lines = sides.lists(view.ranking.items)
        heads = (("rank", "r"), ("baseline", "l"), ("candidate", "l"), ("move", "l"))
        yield _table(heads, ((str(one.rank), *_both(one), escape(one.move)) for one in lines[:_MOST_RANKS]))
    if view.differences:
        rows = (
            (escape(one.where), *map(_value, (one.baseline, one.candidate)))
            for one in view.differences[:_MOST_DIFFERENCES]
        )
        yield _table((("where", "l"), ("baseline", "l"), ("candidate", "l")), rows)
        if (more := view.more + len(view.differences) - _MOST_DIFFERENCES) > 0:
            yield f"and {shown.many(more, 'more place')}"


def _both(line: sides.Line) -> tuple[str, str]:
    ours, theirs = line.baseline, line.candidate
    return "" if ours is None else escape(ours.id), "" if theirs is None else escape(theirs.id)


def _value(value: str | None) -> str:
    if value is None:
        return "nothing"
    return escape(value if len(value) <= _MOST_VALUE else f"{value[:_MOST_VALUE]}…")


def _entities(text: str) -> str:
    """`text` within HTML, all of whose signs are safe from Markdown too."""
    return "".join(sign if sign.isalnum() or sign == " " else f"&#{ord(sign)};" for sign in words.plain(text))


def _verdict(verdict: Verdict) -> list[str]:
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
    return parts


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
