"""One pair for the terminal: in a line, or side by side with all that was recorded.

Whatever was recorded was written by others. Nothing of it reaches the terminal but as printable characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shadowproxy.encodings import EncodingError, codings, decoded
from shadowproxy.model import Exchange, Pair, Side, headers
from shadowproxy.report.words import plain, size, took

_MOST_LINES: Final = 200
_MOST_DIFFERENCES: Final = 20
_HEX_BYTES: Final = 64
_SHORT: Final = 60


def summary(pair: Pair, when: str) -> str:
    """One line: when, which request, and how each side answered."""
    sides = "  ".join(f"{side.value} {_ended(exchange)}" for side, exchange in _exchanges(pair))
    return f"{when}  {plain(pair.id)}  {plain(pair.request.method)} {plain(pair.request.target)}  {sides}"


def _ended(exchange: Exchange) -> str:
    if exchange.outcome.value == "ok":
        return f"{exchange.status} {took(exchange.total)} {size(exchange.body_size)}"
    return f"{exchange.outcome.value} ({plain(exchange.detail)})" if exchange.detail else exchange.outcome.value


def _exchanges(pair: Pair) -> Iterator[tuple[Side, Exchange]]:
    yield Side.BASELINE, pair.baseline
    yield Side.CANDIDATE, pair.candidate
    if pair.replica is not None:
        yield Side.REPLICA, pair.replica


def pair_view(pair: Pair, when: str, place: str, *, raw: bool = False) -> RenderableType:
    """All of a pair: the request, its answers side by side, and what differs.

    `place` says where it was found. Bodies are shown without content codings, JSON in lines; with `raw` as they came.
    """
    request = pair.request
    parts: list[RenderableType] = [
        Text(f"{plain(pair.id)}  {when}  {place}", style="bold"),
        Text(f"{plain(request.method)} {plain(request.target)}"),
        *_indented(_header_lines(request.head)),
        *_indented(body_lines(request.head, request.body, request.body_size, raw=raw)),
    ]
    if pair.annotations:
        parts += [Text("annotations", style="bold"), *_indented(_text_lines(_pretty(pair.annotations)))]
    parts += [Text(f"note: {plain(note)}", style="yellow") for note in pair.notes]
    parts += [Text(), _sides(pair, raw)]
    for side, exchange in _exchanges(pair):
        if side is not Side.BASELINE:
            parts += [Text(), Text(f"{side.value}, compared with the baseline", style="bold")]
            parts += _indented(differences(pair.baseline, exchange) or ["nothing differs"])
    return Group(*parts)


def _sides(pair: Pair, raw: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column("", no_wrap=True)
    sides = [exchange for _, exchange in _exchanges(pair)]
    for side, _ in _exchanges(pair):
        table.add_column(side.value, ratio=1, overflow="fold")

    def row(name: str, *cells: str) -> None:
        table.add_row(name, *map(Text, cells))

    row("outcome", *(" ".join(filter(None, (side.outcome.value, plain(side.detail)))) for side in sides))
    row("status", *(str(side.status or "–") for side in sides))
    row("ttfb", *(took(side.ttfb) for side in sides))
    row("total", *(took(side.total) for side in sides))
    row("size", *(f"{size(side.body_size)}{', truncated' if side.truncated else ''}" for side in sides))
    row("headers", *("\n".join(_header_lines(side.head)) for side in sides))
    row("body", *("\n".join(body_lines(side.head, side.body, side.body_size, raw=raw)) for side in sides))
    return table


def _indented(lines: list[str]) -> list[RenderableType]:
    return [Text(f"  {line}") for line in lines]


def _header_lines(head: bytes) -> list[str]:
    return [f"{plain(name)}: {plain(value)}" for name, value in headers(head)]


def body_lines(head: bytes, body: bytes, whole: int, *, raw: bool = False) -> list[str]:
    """A captured body of `whole` bytes in lines that a terminal may be given."""
    lines = _captured(head, body, raw)
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"… {len(lines) - _MOST_LINES:,} more lines (--json has them)"]
    if whole > len(body):
        lines.append(f"… {len(body):,} of {whole:,} bytes were captured")
    return lines


def _captured(head: bytes, body: bytes, raw: bool) -> list[str]:
    if not body:
        return []
    coding = ", ".join(map(plain, codings(head)))
    if not raw and coding:
        try:
            body = decoded(head, body).data
        except EncodingError as error:
            return [f"{coding} that can't be undone ({error.kind})", *_binary(body)]
    try:
        body.decode()
    except UnicodeDecodeError:
        return _binary(body)
    return _text_lines(body if raw else _pretty(body))


def _binary(body: bytes) -> list[str]:
    more = " …" if len(body) > _HEX_BYTES else ""
    return [f"{len(body):,} bytes, no text: {body[:_HEX_BYTES].hex(' ')}{more}"]


def _pretty(body: bytes) -> bytes:
    try:
        # Formats what is there: numbers keep their digits, and repeated keys stay.
        return msgspec.json.format(body, indent=2)
    except (msgspec.MsgspecError, RecursionError):
        return body


def _text_lines(body: bytes) -> list[str]:
    text = body.decode("utf-8", "replace").replace("\r\n", "\n").removesuffix("\n")
    return [plain(line.replace("\t", "    ")) for line in text.split("\n")]


def differences(baseline: Exchange, other: Exchange) -> list[str]:
    """What differs between two answers, one line each, the most telling first; empty where nothing does."""
    found = []
    if baseline.outcome is not other.outcome:
        found.append(f"outcome: {baseline.outcome.value} → {other.outcome.value}")
    if baseline.status != other.status:
        found.append(f"status: {baseline.status or '–'} → {other.status or '–'}")
    if not (baseline.status and other.status):
        # One side has no answer; that everything in the other's differs from it says nothing more.
        return found
    return [*found, *_in_headers(baseline.head, other.head), *_in_bodies(baseline, other)]


def _in_headers(baseline: bytes, other: bytes) -> Iterator[str]:
    ours, theirs = _by_name(baseline), _by_name(other)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            yield f"header {plain(name)}: {_short(ours.get(name))} → {_short(theirs.get(name))}"


def _by_name(head: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in headers(head):
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


_ABSENT: Final = object()


def _in_bodies(baseline: Exchange, other: Exchange) -> list[str]:
    ours, theirs = _plain_body(baseline), _plain_body(other)
    if ours == theirs:
        return []
    try:
        found = list(_in_documents(json.loads(ours), json.loads(theirs), "$"))
    except (ValueError, RecursionError):
        return [f"body: {size(len(ours))} → {size(len(theirs))}, not both JSON"]
    if len(found) > _MOST_DIFFERENCES:
        found = [*found[:_MOST_DIFFERENCES], f"… and {len(found) - _MOST_DIFFERENCES:,} more places"]
    return found or ["body: the same JSON, written otherwise"]


def _plain_body(exchange: Exchange) -> bytes:
    try:
        return decoded(exchange.head, exchange.body).data
    except EncodingError:
        return exchange.body


def _in_documents(ours: Any, theirs: Any, path: str) -> Iterator[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in {**ours, **theirs}:
            name = f".{key}" if key.isidentifier() else f"[{json.dumps(key, ensure_ascii=False)}]"
            yield from _in_documents(ours.get(key, _ABSENT), theirs.get(key, _ABSENT), path + name)
    elif isinstance(ours, list) and isinstance(theirs, list):
        for at in range(max(len(ours), len(theirs))):
            left = ours[at] if at < len(ours) else _ABSENT
            right = theirs[at] if at < len(theirs) else _ABSENT
            yield from _in_documents(left, right, f"{path}[{at}]")
    # In Python true is 1 and 1 is 1.0; in JSON only the latter two are one number.
    elif isinstance(ours, bool) is not isinstance(theirs, bool) or ours != theirs:
        yield f"{plain(path)}: {_value(ours)} → {_value(theirs)}"


def _value(value: Any) -> str:
    return "nothing" if value is _ABSENT else _short(json.dumps(value, ensure_ascii=False))


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    shown = plain(text[: _SHORT + 1])
    return f"{shown[:_SHORT]}…" if len(text) > _SHORT else shown
