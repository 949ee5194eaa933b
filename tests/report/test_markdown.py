import re

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report.verdicts import DEPENDENT, HOSTILE, harmful, verdict

from shadowproxy.report.markdown import escape, verdict_markdown

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
