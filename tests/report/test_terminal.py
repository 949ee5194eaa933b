import io

import msgspec
import pytest
from report.verdicts import DEPENDENT, HOSTILE, cell, harmful, verdict
from rich.console import Console, RenderableType

from shadowproxy.report.terminal import verdict_report, verdict_table
from shadowproxy.verdict.record import Finding, Labels, State


def shown(what: RenderableType, width: int = 120, *, colour: bool = False) -> str:
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        legacy_windows=False,
        _environ={},
    )
    console.print(what)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def lines_with(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_a_note_is_shown_and_cannot_control_the_terminal() -> None:
    noted = msgspec.structs.replace(harmful(), notes=(f"mirroring is paused: {HOSTILE}",))
    (line,) = lines_with(shown(verdict_report(noted), 400), "note: mirroring is paused")
    assert "\x1b" not in line
    assert "note:" not in shown(verdict_report(harmful()))


def test_what_became_of_labels_is_said_where_a_route_waits_for_them() -> None:
    labels = Labels(
        received=1200,
        joined=1100,
        unmatched=30,
        duplicates=20,
        invalid=10,
        waiting=40,
        waiting_pairs=134,
        expired_pairs=5,
        overflow=7,
    )
    text = " ".join(shown(verdict_report(msgspec.structs.replace(harmful(), labels=labels)), 80).split())
    assert (
        "labels: 1,200 received = 1,100 joined + 20 repeated + 30 late or unknown + 10 unreadable + 40 waiting; "
        "134 pairs wait, 5 waited in vain, 7 could not wait"
    ) in text
    assert "labels" not in shown(verdict_report(harmful()))


@pytest.mark.parametrize("width", [80, 120])
def test_report_says_everything_in_words_without_colour(width: int) -> None:
    text = shown(verdict_report(harmful()), width)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    assert "ROLLBACK" in text
    assert "1,234 pairs counted, 56 waiting" in text
    assert lines_with(text, "quality.ndcg", "safe", "-0.0164", "0.02", "4,321", "0.25", "1,234")
    assert lines_with(text, "latency.total_slow", "undecided", "+0.0012", "0.01", "3.21")
    assert "• occupation=educator: quality.ndcg is beyond its margin" in text
    assert "recorded: 98.8% of 1,295" not in text  # a rollback does not wait for the checks
    assert "lost: nothing" not in text
    assert "failures of the candidate: timeout 3, http_5xx 2" in text
    assert "failures of the baseline" not in text
    assert lines_with(text, "candidate", "total", "4.2 ms", "7 ms", "–")
    if width >= 80:
        assert lines_with(text, "search", "23,000", "0.512", "0.623", "0.123", "0.234", "0.0345", "0.0456")
    assert "0.77" not in text  # of a cohort
    whole = " ".join(text.split())
    assert "1,300 requests = 5 skipped (method 5) + 1,295 eligible" in whole
    assert "1,280 recorded + 5 dropped (recorder_full 5) + 10 in flight" in whole


def test_every_finding_of_a_cohort_is_shown_where_there_is_room() -> None:
    text = shown(verdict_table(harmful()), 120)
    assert lines_with(text, "occupation=educator", "123", "HARM", "·")
    assert lines_with(text, "gender=F", "400", "safe")


def test_a_cohort_is_shown_by_the_worst_of_its_guardrails_where_there_is_not() -> None:
    many = tuple(cell(f"ranking.metric_{number}") for number in range(20))
    text = shown(verdict_table(msgspec.structs.replace(harmful(), guardrails=many)), 80)
    assert lines_with(text, "occupation=educator", "harmful", "quality.ndcg", "harm 23,456")
    assert lines_with(text, "gender=F", "safe", "safe 4,321")


def test_overall_stands_before_the_cohorts() -> None:
    text = shown(verdict_table(harmful()))
    assert text.index("All pairs") < text.index("latency.total_slow") < text.index("gender=F")


def test_a_wide_terminal_shows_intervals_and_a_narrow_one_not() -> None:
    assert "[-0.0240, -0.0088]" in shown(verdict_table(harmful()), 120)
    assert "interval" not in shown(verdict_table(harmful()), 80)


def test_every_cell_on_demand() -> None:
    text = shown(verdict_table(harmful(), every_cell=True))
    assert lines_with(text, "quality.ndcg", "harmful", "+0.134", "<0.001", "23,456")
    assert not lines_with(shown(verdict_table(harmful())), "quality.ndcg", "<0.001")


def test_findings_have_their_colours() -> None:
    text = shown(verdict_table(harmful()), colour=True)
    assert "\x1b[32msafe" in text
    assert "\x1b[1;31mHARM" in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_an_empty_verdict_has_a_view(width: int) -> None:
    text = shown(verdict_report(verdict()), width)
    assert "CONTINUE" in text
    assert "no guardrail has data yet" in " ".join(text.split())
    assert "0 requests = 0 skipped + 0 eligible" in " ".join(text.split())


def test_a_cell_without_data_has_a_view() -> None:
    bare = cell(estimate=None, interval=None, pairs=0, e_promote=1.0, e_rollback=1.0, finding=Finding.UNDECIDED)
    text = shown(verdict_table(verdict(guardrails=(bare,))))
    assert lines_with(text, "quality.ndcg", "undecided", "–", "1", "0")


def test_an_exhausted_experiment_says_so() -> None:
    assert "horizon reached" in shown(verdict_report(verdict(exhausted=True)))


def test_hostile_names_are_shown_as_text() -> None:
    text = shown(verdict_report(harmful(HOSTILE)), 300)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "occupation=[bold red]x[/]\\x1b[2J\\x07\\n| **b**" in text
    coloured = shown(verdict_report(verdict(experiment=HOSTILE, state=State.PROMOTE)), 300, colour=True)
    assert "\x1b[2J" not in coloured
    assert "[bold red]x[/]" in coloured


def test_pairs_that_depend_on_each_other_are_shown_the_worst_first() -> None:
    text = shown(verdict_report(verdict(dependence=DEPENDENT)))
    assert lines_with(text, "ranking.rbo", "10 s", "× 19 ± 0.4")
    assert lines_with(text, "quality.ndcg", "account", "× 2 ± 0.6")
    assert text.index("× 19") < text.index("× 2 ")
    assert "failures.difference" not in text
    assert "depend on each other" not in shown(verdict_report(verdict(dependence=DEPENDENT[:1])))
