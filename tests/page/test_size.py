"""What is measured of the page, in a small version: that it is measured, and of what, never how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

from bench.__main__ import main
from bench.page import TITLES
from browser import chromium


def test_the_benchmark_measures_a_page_that_shows_all_there_is(tmp_path: Path) -> None:
    chromium()
    out = tmp_path / "figures.json"
    assert main(["page", "--quick", "--json", str(out)]) == 0
    (report,) = json.loads(out.read_text())
    rows, kept = (check["detail"] for check in report["checks"])
    assert rows == "15 of 15"
    # The sample, and those of the worst that are not in it.
    assert int(kept) >= 300
    assert report["milliseconds"].keys() == TITLES.keys()
    assert all(len(values) == 1 for values in report["milliseconds"].values())
    assert report["milliseconds"]["interactive"][0] > 0
