"""An inspection for the terminal, and as JSON. What comes from an answer reaches the terminal printable only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shadowproxy.compare.inspecting.inspection import Inspection
from shadowproxy.compare.inspecting.outline import Line
from shadowproxy.report.words import plain, size

FAULTS = {
    "bad_body": "is not what the protocol says (no JSON, or an event stream that breaks off)",
    "truncated_capture": "was not captured whole",
    "unsupported_encoding": "has a content coding other than gzip, deflate, br and zstd",
    "bad_encoding": "is not what its content coding says, or is cut short",
    "too_large": "is too large once its coding is undone",
}


def inspection_view(found: Inspection, *, known_status: bool) -> RenderableType:
    """What was found; `known_status`: whether the status was seen."""
    parts: list[RenderableType] = [*_facts(found, known_status)]
    if found.fault:
        parts += [Text(f"body: {FAULTS.get(found.fault, found.fault)} ({found.fault})", style="yellow")]
    if found.outline is not None:
        parts += [Text(), Text("document", style="bold"), _outline_table(found.outline.lines)]
        if found.outline.cut:
            parts.append(Text("… and more paths or values than are shown", style="dim"))
    if found.route is not None:
        parts += [Text(), Text(f"what the route {plain(found.route.name)} finds", style="bold")]
        parts += _findings(found)
        parts += [Text(line) for line in _coverage(found)]
    return Group(*parts)


def _facts(found: Inspection, known_status: bool) -> Iterator[Text]:
    status = f"status {found.status}" if known_status else "a body alone"
    if found.ended != "ok":
        status = f"no answer: {found.ended}"
    parts = [status, plain(found.content_type), *map(plain, found.codings), size(found.size)]
    yield Text(", ".join(filter(None, parts)))
    for at, (preset, reason) in enumerate(found.detected):
        yield Text(f"{'protocol' if at == 0 else 'or'}: {preset}, by {plain(reason)}", style="green")
    if not found.detected and found.route is None:
        yield Text("protocol: none that is known, and nothing in it that can be compared", style="yellow")


def _outline_table(lines: list[Line]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0))
    for name in ("path", "is", "such as"):
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(Text(plain(line.path)), Text(_types(line)), Text(plain(line.example)))
    return table


def _types(line: Line) -> str:
    """The types with their counts, a list's with its length."""
    words = []
    for name, count in line.types.items():
        times = f" × {count:,}" if count > 1 else ""
        length = ""
        if name == "list" and line.lengths is not None:
            low, high = line.lengths
            length = f" of {low:,}" if low == high else f" of {low:,} to {high:,}"
        words.append(f"{name}{length}{times}")
    return ", ".join(words)


def _findings(found: Inspection) -> Iterator[Text]:
    for finding in found.findings:
        mark, style = ("✓", "green") if finding.good else ("✗", "yellow")
        yield Text.assemble(
            (f"{mark} {finding.key}", style), f"  {plain(finding.expression)}\n    ", plain(finding.says)
        )


def _coverage(found: Inspection) -> Iterator[str]:
    if found.answers > 1 or not found.found:
        yield f"something to compare in {found.found:,} of {found.answers:,} answers" + (
            "; not in " + ", ".join(f"{count:,} ({kind})" for kind, count in sorted(found.failed.items()))
            if found.failed
            else ""
        )


def inspection_json(found: Inspection, *, proposal: str, known_status: bool) -> dict[str, Any]:
    """The same as one object; strings are as they came."""
    lines = [] if found.outline is None else found.outline.lines
    return {
        "answers": found.answers,
        "status": found.status if known_status else None,
        "ended": found.ended,
        "content_type": found.content_type,
        "codings": list(found.codings),
        "size": found.size,
        "fault": found.fault or None,
        "detected": [one._asdict() for one in found.detected],
        "document": [
            {"path": line.path, "types": dict(line.types), "lengths": line.lengths, "example": line.example}
            for line in lines
        ],
        "document_cut": found.outline is not None and found.outline.cut,
        "route": None if found.route is None else found.route.name,
        "findings": [one._asdict() for one in found.findings],
        "found": found.found,
        "failed": dict(found.failed),
        "proposal": proposal or None,
    }


def as_line(value: dict[str, Any]) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False)
