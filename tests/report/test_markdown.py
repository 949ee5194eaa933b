import html
import re

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report.materials import material, view
from report.test_html import WORST, when
from report.verdicts import DEPENDENT, HOSTILE, harmful, verdict

from shadowproxy.report.markdown import MOST_BYTES, escape, report_markdown, verdict_markdown

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")


def tables(text: str) -> list[list[list[str]]]:
    """Rows of cells of every table that a Markdown parser finds, head included."""
    found: list[list[list[str]]] = []
    for token in MARKDOWN.parse(text):
        match token.type:
            case "table_open":
                found.append([])
            case "tr_open":
                found[-1].append([])
            case "inline" if found and token.level > 3:
                found[-1][-1].append(plain(token))
    return found


def plain(token) -> str:
    return "".join(child.content for child in token.children or () if child.type == "text")


def test_notes_are_quoted_and_nothing_in_them_is_markup() -> None:
    noted = verdict_markdown(msgspec.structs.replace(harmful(), notes=(f"mirroring is paused: {HOSTILE}",)))
    kinds = [token.type for token in MARKDOWN.parse(noted)]
    assert kinds.count("blockquote_open") == 1
    assert "> mirroring is paused" in noted
    assert "<script" not in noted
    assert "> " not in verdict_markdown(harmful())


def test_a_parser_finds_the_tables_and_their_figures() -> None:
    text = verdict_markdown(harmful())
    overall, cohorts, every, latency = tables(text)
    assert overall[0] == ["guardrail", "finding", "loss", "interval", "margin", "e safe", "e harm", "pairs"]
    assert overall[1] == ["quality.ndcg", "✅ safe", "-0.0164", "[-0.0240, -0.0088]", "0.02", "4,321", "0.25", "1,234"]
    assert cohorts[2][:5] == ["occupation=educator", "123", "1 harmful, 1 undecided", "❌ quality.ndcg", "+0.134"]
    assert every[3][:3] == ["occupation=educator", "quality.ndcg", "❌ harmful"]
    assert latency[2][1:6] == ["candidate", "total", "4.2 ms", "7 ms", "–"]


def test_headline_reasons_and_accounting() -> None:
    text = verdict_markdown(harmful())
    assert text.startswith("## ❌ rollback: demo\n")
    assert "- occupation=educator: quality.ndcg is beyond its margin" in text
    assert "1,300 requests = 5 skipped" in text
    assert "- candidate: timeout 3, http\\_5xx 2" in text


def test_an_empty_verdict_has_a_view() -> None:
    text = verdict_markdown(verdict())
    assert "## ⏳ continue: demo" in text
    assert "No guardrail has data yet." in text
    assert tables(text) == []


def test_hostile_names_neither_break_the_table_nor_mark_up() -> None:
    text = verdict_markdown(harmful(HOSTILE))
    _, cohorts, every, _ = tables(text)
    assert [len(row) for row in cohorts] == [7, 7, 7]
    assert [len(row) for row in every] == [9, 9, 9, 9]
    assert "<script>" not in text
    assert "\x1b" not in text
    assert not re.search(r"@team|#1|http://", text)


@given(st.text(max_size=40))
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    source = escape(f"x{text}x")
    shown = tables(f"| a |\n| --- |\n| {source} |")[0][1]
    written = "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in f"x{text}x")
    assert shown == [written]


def test_pairs_that_depend_on_each_other_have_a_table() -> None:
    (found,) = tables(verdict_markdown(verdict(dependence=DEPENDENT)))
    assert found == [
        ["guardrail", "by", "variance of the mean"],
        ["ranking.rbo", "10 s", "× 19 ± 0.4"],
        ["quality.ndcg", "account", "× 2 ± 0.6"],
    ]
    assert tables(verdict_markdown(verdict(dependence=DEPENDENT[:1]))) == []


def test_a_report_has_the_worst_pairs_and_the_history() -> None:
    text = report_markdown(material(), when)
    assert "- 1800000000 s UTC **rollback**, 1,200 pairs: p-1" in text
    lists = next(table for table in tables(text) if table[0] == ["rank", "baseline", "candidate", "move"])
    assert lists[1:] == [
        ["1", "ap-1", "c", "from 3 to 1"], ["2", "b", "d", "new; b is gone"], ["3", "c", "ap-1", "from 1 to 3"]
    ]  # fmt: skip
    differing = next(table for table in tables(text) if table[0] == ["where", "baseline", "candidate"])
    assert differing[1] == ["$.p-1", "p-1", "nothing"]
    assert text.count("<details>") == text.count("</details>") == 3
    assert "p-1: POST /rank?p-1, loss +0.432" in html.unescape(text)


def test_nothing_hostile_in_a_report_is_markup() -> None:
    """The tokens that a parser finds are of the same kinds, whatever names and values are."""

    def kinds(text: str) -> list[str]:
        # Texts are broken into pieces by what is escaped in them.
        nested = (child.type for token in MARKDOWN.parse(text) for child in (token, *(token.children or ())))
        return [kind for kind in nested if kind not in ("text", "text_special", "html_inline")]

    wild = report_markdown(material(WORST), when)
    assert kinds(wild) == kinds(report_markdown(material("tame"), when))
    assert "<script" not in wild
    assert "<img" not in wild


def test_a_report_is_never_larger_than_a_summary_may_be() -> None:
    views = tuple(view(f"{at}", notes=()) for at in range(3000))
    text = report_markdown(material(worst={"quality.ndcg": views}), when)
    assert 900_000 < len(text.encode()) <= MOST_BYTES
    assert "left out, for a summary takes no more" in text
    assert text.count("<details>") == text.count("</details>")
