"""What a benchmark found: figures with their spread, what was checked, and what could not be measured."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Spread:
    """Median, least and most of the figures of all rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))

    def text(self, digits: int = 2) -> str:
        """`0.52 (0.50–0.55)`"""
        return f"{self.median:.{digits}f} ({self.least:.{digits}f}–{self.most:.{digits}f})"


def ratios(values: Sequence[float], to: Sequence[float]) -> Spread:
    """Round by round, so that what both sides of a round suffered alike cancels out."""
    return Spread.of([value / other for value, other in zip(values, to, strict=True)])


@dataclass(frozen=True)
class Check:
    """Something that must hold for the figures to mean anything."""

    what: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Goal:
    """What the project wants a figure to be at most. Missing it is a finding and no error of the run's."""

    what: str
    most: float
    found: float

    @property
    def met(self) -> bool:
        """Whether the figure is within the goal."""
        return self.found <= self.most

    def text(self) -> str:
        """The figure beside its goal."""
        return f"{self.what}: {self.found:.3g}, wanted at most {self.most:g}"


@dataclass(frozen=True)
class Report:
    """One benchmark's outcome. `rows` are cells as text; `raw` is everything behind them, for JSON."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    checks: Sequence[Check] = ()
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()
    not_measured: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)

    def show(self, console: Console) -> None:
        """To a terminal."""
        table = Table(title=self.title, title_justify="left", title_style="bold")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        for check in self.checks:
            style, word = ("green", "holds") if check.holds else ("bold red", "FAILS")
            console.print(f"[{style}]{word}[/] {check.what}: {check.detail}", highlight=False)
        for goal in self.goals:
            style, word = ("green", "met") if goal.met else ("bold yellow", "NOT MET")
            console.print(f"[{style}]{word}[/] {goal.text()}", highlight=False)
        for name, why in self.not_measured.items():
            console.print(f"[yellow]not measured[/] {name}: {why}", highlight=False)
        for note in self.notes:
            console.print(note, style="dim", highlight=False)

    def markdown(self) -> str:
        """The same for a document: a table, what was not measured, and the notes."""
        lines = [f"| {' | '.join(self.columns)} |", f"| --- |{' ---: |' * (len(self.columns) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        lines += ["", *(f"- FAILS: {check.what}: {check.detail}" for check in self.checks if not check.holds)]
        lines += [f"- {'Met' if goal.met else 'Not met'}: {goal.text()}." for goal in self.goals]
        lines += [f"- Not measured: {name}: {why}" for name, why in self.not_measured.items()]
        lines += [f"- {note}" for note in self.notes]
        return "\n".join(lines).strip() + "\n"

    def as_json(self) -> dict[str, Any]:
        """Everything, the machine included."""
        return {
            "benchmark": self.name,
            "machine": machine(),
            "good": self.good,
            "checks": [{"what": check.what, "holds": check.holds, "detail": check.detail} for check in self.checks],
            "goals": [{"what": goal.what, "most": goal.most, "found": goal.found} for goal in self.goals],
            "not_measured": dict(self.not_measured),
            "columns": list(self.columns),
            "rows": [list(row) for row in self.rows],
            **self.raw,
        }


def machine() -> str:
    """What the figures were taken on, in one line."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", _text("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", _text("/proc/meminfo"), re.MULTILINE)
    return (
        f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}, "
        f"{int(memory[1]) / 2**20 if memory else 0:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()} in {sys.base_prefix}"
    )


def write_json(path: Path, reports: Sequence[Report]) -> None:
    """A list, one object for each benchmark."""
    path.write_text(json.dumps([report.as_json() for report in reports], indent=2) + "\n")


def write_markdown(path: Path, reports: Sequence[Report]) -> None:
    """Put each table between its marks, `<!-- NAME -->` and `<!-- /NAME -->`, or at the end where there are none."""
    text = _text(str(path))
    for report in reports:
        begin, end = f"<!-- {report.name} -->", f"<!-- /{report.name} -->"
        block = f"{begin}\nOn {machine()}:\n\n{report.markdown()}{end}"
        if begin in text and end in text:
            before, _, rest = text.partition(begin)
            text = before + block + rest.partition(end)[2]
        else:
            text = f"{text.rstrip()}\n\n{block}\n".lstrip()
    path.write_text(text)


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
