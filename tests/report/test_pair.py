"""A pair in the terminal: nothing that was recorded steers it, and what differs is said."""

from __future__ import annotations

import gzip
import io
import math

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from pairs.samples import PAIRS, pair
from rich.console import Console

from shadowproxy.model import Exchange, Outcome, Pair, Request
from shadowproxy.report.pair import body_lines, difference_lines, pair_view, summary


def shown(of: Pair, *, raw: bool = False) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(pair_view(of, "now", "partition 0", raw=raw))
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r\b\x00"


def test_recorded_bytes_do_not_reach_the_terminal() -> None:
    raw = HOSTILE.encode()
    answer = Exchange(Outcome.OK, 200, b"X: " + raw + b"\r\n" + raw + b": y", raw, len(raw), detail=HOSTILE)
    of = Pair(HOSTILE, 1.0, Request(HOSTILE, HOSTILE, b"a: " + raw, raw, 9), answer, answer, answer, raw, (HOSTILE,))
    other = replace(of, candidate=replace(answer, head=b"X: z", outcome=Outcome.RESET, body=b'{"' + raw + b'": 1}'))
    for text in (shown(of), shown(of, raw=True), shown(other), summary(of, "now")):
        assert not {sign for sign in text if not sign.isprintable()} - {"\n"}
        assert "\\x1b" in text


@given(PAIRS, st.booleans())
def test_any_pair_can_be_shown(of: Pair, raw: bool) -> None:
    text = shown(of, raw=raw) + summary(of, "now")
    assert not {sign for sign in text if not sign.isprintable()} - {"\n"}


def test_markup_is_shown_as_it_stands() -> None:
    of = replace(pair("[bold]a[/bold]", body=b"[red]x[/red]"), notes=("[/nonsense]",))
    text = shown(of)
    for word in ("[bold]a[/bold]", "[red]x[/red]", "[/nonsense]"):
        assert word in text


def test_a_summary() -> None:
    of = replace(pair("a"), replica=Exchange(Outcome.SHED))
    assert summary(of, "now").split("  ") == [
        "now", "a", "POST /v1/rank?k=50", "baseline 200 12.5 ms 212 B", "candidate timeout (no answer within 10 s)",
        "replica shed",
    ]  # fmt: skip


def test_bodies() -> None:
    coded = gzip.compress(b'{"a":1.10,"a":2}')
    head = b"Content-Encoding: gzip"
    assert body_lines(head, coded, len(coded)) == ["{", '  "a": 1.10,', '  "a": 2', "}"]
    assert body_lines(head, coded, len(coded), raw=True)[0].startswith(f"{len(coded)} bytes, no text: 1f 8b 08")
    assert body_lines(head, b"none", 4) == ["gzip that can't be undone (bad_encoding)", "4 bytes, no text: 6e 6f 6e 65"]
    assert body_lines(b"", b"a\r\n\tb", 1000) == ["a", "    b", "… 5 of 1,000 bytes were captured"]
    assert body_lines(b"", b"\xff" * 100, 100) == [f"100 bytes, no text: {'ff ' * 64}…"]
    assert body_lines(b"", b"", 0) == []
    assert body_lines(b"", b"x\n" * 1000, 2000)[-1] == "… 800 more lines (--json has them)"
    assert body_lines(b"", b'{"a":1}', 7, raw=True) == ['{"a":1}']


def answer(body: bytes, head: bytes = b"", status: int = 200) -> Exchange:
    return Exchange(Outcome.OK, status, head, body, len(body), b"", 0.1, 0.1)


def test_what_differs() -> None:
    assert difference_lines(answer(b"{}"), answer(b"{}")) == []
    ours = answer(b'{"a": [1, 2, {"b c": null}], "d": "x", "t": true, "n": 1}', b"A: 1\r\nB: 2", 200)
    coded = gzip.compress(b'{"a": [1, 3, {"b c": 0}, 4], "t": 1, "n": 1.0, "e": {}}')
    theirs = answer(coded, b"a: 1\r\nb: 3\r\nContent-Encoding: gzip", 500)
    assert difference_lines(ours, theirs) == [
        "status: 200 → 500",
        "header b: 2 → 3",
        "header content-encoding: nothing → gzip",
        "$.a[1]: 2 → 3",
        '$.a[2]["b c"]: null → 0',
        "$.a[3]: nothing → 4",
        '$.d: "x" → nothing',
        "$.t: true → 1",
        "$.e: nothing → {}",
    ]


def test_what_differs_is_told_in_few_words() -> None:
    many = difference_lines(answer(b"[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"), answer(b"[]"))
    assert (len(many), many[-1]) == (21, "… and 2 more places")
    assert difference_lines(answer(b'"%s"' % (b"x" * 100)), answer(b"1")) == [f'$: "{"x" * 59}… → 1']
    assert difference_lines(answer(b"{ }"), answer(b"{}")) == ["body: the same JSON, written otherwise"]
    assert difference_lines(answer(b"{ }"), answer(b"<p>")) == ["body: 3 B → 3 B, not both JSON"]
    assert difference_lines(answer(b"[" * 100_000), answer(b"[" * 99_999)) == [
        "body: 100.0 kB → 100.0 kB, not both JSON"
    ]


def test_a_side_without_an_answer_differs_in_that_alone() -> None:
    failed = Exchange(Outcome.TIMEOUT, ttfb=math.inf, detail="too late")
    assert difference_lines(answer(b"{}", b"A: 1"), failed) == ["outcome: ok → timeout", "status: 200 → –"]
