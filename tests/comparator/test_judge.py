"""Judging recorded pairs: when buckets close, what is late, what is said of what files can't say."""

from __future__ import annotations

from collections.abc import Iterable

from shadowproxy.comparator.judge import Judge
from shadowproxy.config import Settings, loads
from shadowproxy.model import Exchange, Outcome, Pair, Request
from shadowproxy.pairs.lines import Recorded
from shadowproxy.pairs.recorded import Unreadable
from shadowproxy.verdict.record import Verdict

TEXT = """
baseline: {url: http://a, deadline: 2s}
candidate: {url: http://b, deadline: 2s}
routes: [{name: rank, path: /rank, ids: response.body.ids}]
"""
BASE = 1_700_000_000


def recorded(at: float, *, written: float | None = None, position: int = 0, version: str = "1") -> Recorded:
    """A pair that began `at` seconds after the first, in an entry that was written then or at another time."""
    answer = Exchange(Outcome.OK, 200, b"X-V: %s\r\n" % version.encode(), b'{"ids":["a"]}', 13, b"", 0.01, 0.02)
    pair = Pair(f"p{at}", BASE + at, Request("POST", "/rank"), answer, answer)
    entry = f"{round(1000 * (BASE + (at if written is None else written)))}-{16384 * (round(at * 10) + 1) + 1}"
    return Recorded(0, entry, position, pair)


def judged(found: Iterable[Recorded | Unreadable], settings: Settings | None = None) -> Verdict:
    judge = Judge(settings or loads(TEXT))
    for one in found:
        judge.add(one)
    return judge.verdict(at=2e9, notes=("and this",))


def test_a_recording_is_complete_so_its_last_buckets_count_too() -> None:
    verdict = judged(recorded(at / 10) for at in range(2500))
    assert (verdict.pairs, verdict.open_pairs, verdict.late_pairs) == (2500, 0, 0)
    assert verdict.accounting.recorded == verdict.accounting.requests == 2500
    assert verdict.at == 2e9


def test_what_was_written_long_after_it_began_is_late_as_it_was_then() -> None:
    in_time = [recorded(at / 10) for at in range(2000)]
    # As a spool delivers it: begun early, written when buckets of its time were closed.
    delivered = [recorded(at / 10 + 0.05, written=200.0) for at in range(500)]
    verdict = judged([*in_time, *delivered])
    assert (verdict.pairs, verdict.late_pairs) == (2500, 500)


def test_an_empty_recording_is_never_a_pass() -> None:
    verdict = judged([])
    assert verdict.state.value == "continue"
    assert verdict.pairs == 0
    assert {check.name for check in verdict.checks if not check.passed} >= {"min_pairs", "recorded", "undefined"}


def test_what_can_not_be_read_is_a_dead_letter_and_no_pair() -> None:
    verdict = judged([Unreadable("a", 1, "no"), *(recorded(at / 10) for at in range(3)), Unreadable("a", 5, "no")])
    (check,) = (check for check in verdict.checks if check.name == "no_dead_letters")
    assert (verdict.pairs, check.passed, check.detail.split()[0]) == (3, False, "2")


def test_a_second_version_on_either_side_is_found() -> None:
    settings = loads(TEXT + "verdict: {version_header: x-v}\n")
    verdict = judged((recorded(at / 10, version="1" if at < 1500 else "2") for at in range(3500)), settings)
    assert [seen.value for seen in verdict.versions["candidate"]] == ["1", "2"]
    first = verdict.versions["baseline"][0]
    assert (first.first, first.last) == (BASE, BASE + 149.9)
    assert "versions" in {check.name for check in verdict.checks if not check.passed}


def test_what_files_can_not_say_is_said() -> None:
    text = " ".join(judged([recorded(0.0)]).notes)
    assert "dropped, lost or left out before they were in a file is not known and this" in text
    assert "labels that came later" not in text
    waiting = loads(TEXT.replace("ids: response.body.ids", "ids: response.body.ids, labels: 1h"))
    assert "labels that came later are not in the recording" in " ".join(judged([recorded(0.0)], waiting).notes)
