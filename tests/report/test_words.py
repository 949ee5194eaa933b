import doctest

import pytest
from report.verdicts import cell, harmful

from shadowproxy.report import markdown, words
from shadowproxy.verdict.record import Finding


@pytest.mark.parametrize("module", [words, markdown])
def test_examples_hold(module) -> None:
    failed, tried = doctest.testmod(module)
    assert tried
    assert not failed


def test_the_worst_is_harm_then_nearness_to_harm_then_lack_of_proof() -> None:
    proven = cell("a", e_rollback=400.0, finding=Finding.HARMFUL)
    near = cell("b", e_rollback=300.0, finding=Finding.UNDECIDED)
    unproven = cell("c", e_promote=2.0, finding=Finding.UNDECIDED)
    safe = cell("d")
    assert words.worst((safe, unproven, near, proven)) is proven
    assert words.worst((safe, unproven, near)) is near
    assert words.worst((safe, unproven)) is unproven
    assert words.worst(()) is None
    assert [words.telling(each) for each in (proven, near, unproven)] == ["harm 400", "harm 300", "safe 2"]


def test_harmed_names_the_cohorts_with_proven_harm() -> None:
    assert words.harmed(harmful()) == ("occupation=educator",)
