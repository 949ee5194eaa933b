"""One pair for the terminal: in a line, or side by side with all that was recorded.

Whatever was recorded was written by others. Nothing of it reaches the terminal but as printable characters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shadowproxy.encodings import EncodingError, codings, decoded
from shadowproxy.model import Exchange, Pair, Side, headers
from shadowproxy.report.differences import Difference, differences
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
            parts += _indented(difference_lines(pair.baseline, exchange) or ["nothing differs"])
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


def difference_lines(baseline: Exchange, other: Exchange) -> list[str]:
    """What differs between two answers, one line each, the most telling first; empty where nothing does."""
    found = differences(baseline, other)
    in_body = [one for one in found if one.where.startswith("$")]
    lines = [_line(one) for one in found[: len(found) - len(in_body)] + in_body[:_MOST_DIFFERENCES]]
    if len(in_body) > _MOST_DIFFERENCES:
        lines.append(f"… and {len(in_body) - _MOST_DIFFERENCES:,} more places")
    return lines


def _line(one: Difference) -> str:
    if one.baseline is None and one.other is None:
        return f"{plain(one.where)}: {one.remark}"
    remark = f", {one.remark}" if one.remark else ""
    return f"{plain(one.where)}: {_short(one.baseline)} → {_short(one.other)}{remark}"


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    shown = plain(text[: _SHORT + 1])
    return f"{shown[:_SHORT]}…" if len(text) > _SHORT else shown
