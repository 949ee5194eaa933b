"""What stands in a report, worked out from its material; the template only says where."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from shadowproxy.model import Side
from shadowproxy.report import forest, plots, shown, words
from shadowproxy.report.material import Change, Material
from shadowproxy.verdict import record
from shadowproxy.verdict.record import OVERALL, Cell, Distribution, Finding, State, Verdict

_SAID: Final = {
    State.PROMOTE: "The candidate may go out",
    State.ROLLBACK: "The candidate must not go out",
    State.CONTINUE: "Not decided yet",
}
_CHECKS: Final = {
    "min_pairs": "enough pairs",
    "recorded": "enough is recorded",
    "nothing_lost": "nothing is lost",
    "no_dead_letters": "everything can be read",
    "clocks": "clocks agree",
    "undefined": "values are defined",
    "versions": "one version of each side",
    "duration": "long enough",
    "independence": "pairs are independent enough",
}
_OPEN_ROWS: Final = 60
"""Cells of cohorts that are shown at once; more are folded away."""
_MOST_ROWS: Final = 50
"""Rows of a table that is counted beside the metrics."""
_SEVERITY: Final = {Finding.HARMFUL: 0, Finding.UNDECIDED: 1, Finding.SAFE: 2}

When = Callable[[float], str]
"""Unix seconds as text, in UTC; a pure room has no calendar."""


def contents(material: Material, when: When) -> dict[str, Any]:
    """By the names that the template knows them under."""
    verdict = material.verdict
    cells = record.cells(verdict)
    of_cohorts = sorted(cells[len(verdict.guardrails) :], key=_severity)
    required = [cell for cell in cells if cell.required]
    experiment = material.experiment
    settings = None if experiment is None else experiment.settings
    return {
        "made": material.made,
        "verdict": verdict,
        "said": _said(verdict),
        "check_name": lambda name: _CHECKS.get(name, name),
        "since": _since(verdict, material.history.history),
        "required": len(required),
        "proven": sum(cell.pairs > 0 and cell.e_promote >= cell.promote_at for cell in required),
        "harmful": sum(cell.finding is Finding.HARMFUL for cell in cells),
        "failed": sum(not check.passed for check in verdict.checks),
        "latest": [(side, seen[-1].value) for side, seen in verdict.versions.items() if seen],
        "cells": cells,
        "first": _pictured([*(cell for cell in of_cohorts if cell.finding is Finding.HARMFUL), *verdict.guardrails]),
        "rest": _pictured([cell for cell in of_cohorts if cell.finding is not Finding.HARMFUL]),
        "open_rows": _OPEN_ROWS,
        "unit_name": lambda unit: shown.unit_of(unit).removeprefix("% "),
        **_figures(material),
        **_accounts(verdict, when),
        "history": material.history.history,
        "happened": _happened,
        "worst": material.worst,
        "judged": [_judged(cell) for cell in verdict.guardrails],
        "policy_rows": [] if settings is None else list(_policy(settings)),
        "settings": None if settings is None else json.dumps(settings, indent=2, ensure_ascii=False, sort_keys=True),
        "begun": None if experiment is None else experiment.begun,
    }


def _said(verdict: Verdict) -> str:
    if verdict.exhausted:
        return "The horizon is reached, and nothing is proven either way"
    return _SAID[verdict.state]


def _since(verdict: Verdict, history: Sequence[Change]) -> Change | None:
    """Since when the verdict is what it is."""
    last = history[0] if history else None
    same = last is not None and (last.what, last.exhausted) == (verdict.state.value, verdict.exhausted)
    return last if same else None


def _happened(change: Change) -> str:
    if change.what == "reset":
        return f"{shown.many(change.pairs, 'pair')} forgotten{f', by {change.by}' if change.by else ''}"
    harm = f", evidence of harm {shown.evidence(change.evidence)}" if change.what == State.ROLLBACK.value else ""
    return f"on {shown.many(change.pairs, 'pair')}{harm}"


def _pictured(cells: Sequence[Cell]) -> list[tuple[Cell, forest.Mark | None]]:
    return [(cell, forest.mark(cell)) for cell in cells]


def _severity(cell: Cell) -> tuple[int, float]:
    return _SEVERITY[cell.finding], -cell.e_rollback / cell.rollback_at


def _figures(material: Material) -> dict[str, Any]:
    verdict, evidence = material.verdict, material.evidence
    harmful = [cell for cell in record.cells(verdict) if cell.finding is Finding.HARMFUL and cell.cohort != OVERALL]
    return {
        "evidence": evidence,
        "whole": plots.whole(evidence.points, evidence.rollback_at),
        "ways": plots.ways(evidence, [*harmful, *verdict.guardrails]),
        "latency_plots": list(_latency_plots(material)),
        "quantiles": _quantiles(verdict, overall=True),
        "by_cohort": _quantiles(verdict, overall=False),
        "scores": [(row, _score_plot(material, row)) for row in verdict.distributions if row.cohort == OVERALL],
    }


def _quantiles(verdict: Verdict, *, overall: bool) -> list[tuple[str, ...]]:
    rows = [row for row in words.latencies(verdict) if row.pairs and (row.cohort == OVERALL) is overall]
    sides, timings = [side.value for side in Side], ["total", "ttfb"]
    rows.sort(key=lambda row: (row.cohort, row.route, timings.index(row.timing), sides.index(row.side)))
    return [
        (
            row.side,
            "last byte" if row.timing == "total" else "first byte",
            "all pairs" if row.cohort == OVERALL else row.cohort,
            row.route or "all routes",
            *(shown.duration(value) for value in (row.p50, row.p90, row.p99)),
            shown.count(row.pairs),
        )
        for row in rows
    ]


def _latency_plots(material: Material) -> Iterator[tuple[str, plots.Plot, str]]:
    rows = [row for row in material.latencies.latencies if row.cohort == OVERALL and not row.route]
    for timing in ("total", "ttfb"):
        drawn = plots.latency_plot([row for row in rows if row.timing == timing])
        if drawn is not None:
            yield timing, drawn, _told(material.verdict, timing)


def _told(verdict: Verdict, timing: str) -> str:
    by_side = {
        row.side: row
        for row in verdict.latencies
        if row.cohort == OVERALL and not row.route and row.timing == timing and row.pairs
    }
    ours, theirs = by_side.get(Side.BASELINE.value), by_side.get(Side.CANDIDATE.value)
    if ours is None or theirs is None:
        return "The quantiles of each upstream's latency."
    return (
        f"Half of the candidate's answers come within {shown.duration(theirs.p50)} (the baseline's: "
        f"{shown.duration(ours.p50)}), 99% within {shown.duration(theirs.p99)} ({shown.duration(ours.p99)})."
    )


def _score_plot(material: Material, row: Distribution) -> plots.Plot | None:
    found = (one for one in material.distributions.distributions if (one.route, one.cohort) == (row.route, row.cohort))
    curves = next(found, None)
    return None if curves is None else plots.score_plot(curves)


def _accounts(verdict: Verdict, when: When) -> dict[str, Any]:
    sides = [side for side in Side if side.value in verdict.failures]
    kinds = dict.fromkeys(kind for side in sides for kind, number in verdict.failures[side.value].items() if number)
    return {
        "failure_columns": [("Kind", "text"), *((side.value, "number") for side in sides)],
        "failures": [
            (kind, *(shown.count(verdict.failures[side.value].get(kind, 0)) for side in sides)) for kind in kinds
        ],
        "versions": [
            (side, seen.value or "an empty value", f"{when(seen.first)} UTC", f"{when(seen.last)} UTC")
            for side, found in verdict.versions.items()
            for seen in found
        ],
        "dependent": [(guardrail, by, f"× {inflation}") for guardrail, by, inflation in words.dependence(verdict)],
        "tables": list(_tables(verdict)),
    }


_TITLES: Final = {
    "labels": "Labels, baseline → candidate",
    "fields": "Fields that differ",
    "validity": "Answers that break a rule",
}


def _tables(verdict: Verdict) -> Iterator[tuple[str, list[tuple[str, str]], list[tuple[str, ...]]]]:
    for name, found in groupby(verdict.tables, lambda row: row.table):
        rows = list(found)
        counts = dict.fromkeys(key for row in rows for key, number in row.counts.items() if number)
        columns = [("What", "text"), ("Route", "text"), *((key.replace("_", " "), "number") for key in counts)]
        title = _TITLES.get(name, name)
        more = f" (the first {_MOST_ROWS} of {len(rows):,})" if len(rows) > _MOST_ROWS else ""
        lines = [
            (row.key, row.route, *(shown.count(row.counts.get(key, 0)) for key in counts)) for row in rows[:_MOST_ROWS]
        ]
        yield f"{title}{more}", columns, lines


def _judged(cell: Cell) -> tuple[str, ...]:
    return (
        cell.guardrail,
        cell.metric,
        shown.amount(cell.margin, cell.unit),
        shown.unit_of(cell.unit),
        shown.evidence(cell.promote_at),
        shown.evidence(cell.rollback_at),
    )


def _policy(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The verdict's settings but for its guardrails, which have a table."""
    said = settings.get("verdict")
    if isinstance(said, Mapping):
        for name, value in sorted(said.items()):
            if name != "guardrails":
                yield f"verdict.{name}", json.dumps(value, ensure_ascii=False)
