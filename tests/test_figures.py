"""The pictures of docs/: each that a page names is there, small, and its text is text; and what they show holds."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from figures.data import DATA, FIGURES, Data
from pages import DOCS

from shadowproxy.stats.betting import MeanGrid
from shadowproxy.stats.sizes import Paths, bell, sizes

FOLDER = DOCS / "figures"
RUNS = 8


def small(name: str, runs: int = RUNS, **options: int) -> Data:
    function, _ = DATA[name]
    # What is written down is JSON.
    return json.loads(json.dumps(function(np.random.default_rng(3), runs, **options), allow_nan=False))


def test_pages_show_the_pictures_that_there_are() -> None:
    named = {name for page in DOCS.glob("*.md") for name in re.findall(r"\]\(figures/([^)]+)\)", page.read_text())}
    assert named == {file.name for file in FOLDER.glob("*.svg")} == {f"{name}.svg" for name in FIGURES}


@pytest.mark.parametrize("name", FIGURES)
def test_a_picture_is_small_and_its_text_is_text(name: str) -> None:
    file = FOLDER / f"{name}.svg"
    assert file.stat().st_size < 60_000
    assert len(set(re.findall(r"<text[^>]*>([^<]+)</text>", file.read_text()))) > 5


def test_the_data_that_are_written_down_are_those_of_the_functions() -> None:
    stored = json.loads((FOLDER / "data.json").read_text())
    assert list(stored) == list(DATA)
    for name in ("peeking", "capital", "drift", "order", "dependence", "noise"):
        assert stored[name].keys() == small(name, 4).keys(), f"{name}: draw them anew: make figures"


def test_a_peeked_z_test_cries_wolf_and_the_e_process_does_not() -> None:
    found = small("peeking", 100, looks=200)
    assert found["z_test"] == sorted(found["z_test"])
    assert found["z_test"][-1] > 0.25
    assert found["e_process"][-1] <= 0.05


def test_capital_grows_where_the_candidate_is_no_worse() -> None:
    found = small("capital", 4)
    assert found["reached"]["at_the_margin"] <= 0.07
    assert found["reached"]["no_worse"] > 0.5
    assert np.median([path[-1] for path in found["at_the_margin"]]) < 1


def test_only_constant_bets_take_a_proof_back() -> None:
    found = small("drift", 40)
    early, late = found["pairs"].index(1000), found["pairs"].index(3000)
    assert found["constant"][early] == found["maximum"][late] == 1
    assert found["constant"][late] <= 0.05
    assert found["adaptive"][late] > 0.5


def test_more_noise_and_narrower_margins_take_more_pairs() -> None:
    found = small("sizes", 20)
    table = np.array(found["median"])
    assert (np.diff(table[:, [0, 2, 3]], axis=1) >= 0).all()
    assert (np.diff(table, axis=0) > 0).all()
    # The floor is that of the largest bet alone; the others take off some hundredths of it.
    assert (table[:, 0] >= 0.95 * np.array(found["floor"]) - 1).all()


def test_the_table_of_sizes_agrees_with_what_is_planned() -> None:
    found = json.loads((FOLDER / "data.json").read_text())["sizes"]
    paths = Paths.drawn(np.random.default_rng(1))
    for margin, medians in zip(found["margins"], found["median"], strict=True):
        for deviation, median in zip(found["deviations"], medians, strict=True):
            grid, law = MeanGrid(-1, 1, margin), bell(0, deviation, -1, 1)
            assert sizes(grid, law, "safe", math.log(20), paths).median == pytest.approx(median, rel=0.25)


def test_harm_is_found_the_sooner_the_greater_it_is() -> None:
    found = small("harm", 20)
    for pairs in (found["alone"], found["of_ten"]):
        assert pairs == sorted(pairs, reverse=True)
        assert pairs[-1] == 30
    assert found["of_ten"][0] > found["alone"][0]


def test_pairs_that_examples_take() -> None:
    rows = {(row["metric"], row["margin"]): row["pairs"] for row in small("examples", 15)["rows"]}
    # A cohort has a tenth of the pairs; at twice the margin it needs far fewer of them than all do.
    assert 0.5 < rows["quality.ndcg", 0.04] / rows["quality.ndcg", 0.02] < 6
    assert rows["failures.candidate", 0.001] >= 3600


def test_pairs_of_a_latency_are_worth_more_than_two_sequences() -> None:
    for row in small("latency", 3, most=5000)["rows"][:2]:
        assert row["paired"] < row["separate"]


def test_completed_pairs_leave_out_timeouts() -> None:
    found = small("order", 20, seconds=30)
    assert found["completed_promoted"][-1] == 1
    assert found["buckets_promoted"][-1] <= 0.05
    assert found["completed"][11] < 0.03 < found["buckets"][-1]


def test_dependence_breaks_the_promise_and_blocks_keep_it() -> None:
    found = small("dependence", 40, pairs=2000)
    assert found["pairs"][-1] > 0.3
    assert found["held"][-1] < 0.7 * found["pairs"][-1]
    assert max(found["blocks"]) <= 0.1


def test_the_replica_takes_the_noise_out() -> None:
    rows = small("noise", 2000)["rows"]
    same = [row for row in rows if row["candidate"] == "same"]
    assert [row["plain"] > 0.1 for row in same] == [False, True, True]
    assert all(abs(row["excess"]) < 0.02 for row in same)
    assert rows[1]["excess"] == pytest.approx(rows[1]["plain"])
