"""Curves as geometry, read back from the pictures' paths: where a point stands says which figure it is."""

from __future__ import annotations

import math
import re

import pytest
from report.materials import PROBABILITIES, evidence, latencies
from report.verdicts import cell, verdict

from shadowproxy.report import plots
from shadowproxy.verdict.reported.curves import ScoreCurve


def score_curve(edges: tuple[float, ...], baseline: tuple[int, ...], candidate: tuple[int, ...]) -> ScoreCurve:
    apart = dict.fromkeys(("ks", "psi", "wasserstein", "jensen_shannon"))
    return ScoreCurve(
        route="r", cohort="all", scale="linear", edges=edges, baseline=baseline, candidate=candidate, **apart
    )


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


def between(ticks: tuple[plots.Tick, ...], values: dict[str, float], at: float) -> float:
    """The value at a place, by two ticks whose values are known."""
    (first, low), (second, high) = ((tick.at, values[tick.text]) for tick in ticks if tick.text in values)
    return low + (at - first) / (second - first) * (high - low)


def test_a_latency_curve_stands_where_its_quantiles_are_and_ends_at_the_failures() -> None:
    rows = [row for row in latencies().latencies if row.timing == "total"]
    plot = plots.latency_plot(rows)
    assert plot is not None
    for line, row in zip(plot.lines, rows, strict=True):
        known = [(share, value) for share, value in zip(PROBABILITIES, row.seconds, strict=True) if value is not None]
        assert len(points(line.path)) == len(known) == (5 if row.side == "baseline" else 4)
        for (x, y), (share, value) in zip(points(line.path), known, strict=True):
            seconds = 10 ** between(plot.up, {"1.00 ms": -3, "10.0 ms": -2}, y)
            assert seconds == pytest.approx(value, rel=0.02)
            nines = between(plot.across, {"90%": 1, "99%": 2}, x)
            assert 1 - 10**-nines == pytest.approx(share, abs=0.01)


def test_scores_are_drawn_as_densities_whatever_their_bins_are() -> None:
    curves = score_curve((0.0, 1.0, 3.0), (50, 50), (0, 10))
    plot = plots.score_plot(curves)
    assert plot is not None
    heights = [
        [round(between(plot.up, {"0.1": 0.1, "0.5": 0.5}, y), 2) for _, y in points(line.path)] for line in plot.lines
    ]
    assert heights == [[0.5, 0.5, 0.25, 0.25], [0.0, 0.0, 0.5, 0.5]]


def test_nothing_is_drawn_of_nothing() -> None:
    empty = score_curve((0.0, 1.0), (0,), (0,))
    assert plots.score_plot(empty) is None
    assert plots.latency_plot([]) is None
    assert plots.spark([(1, None)], 1.0) is None


def test_a_way_crosses_its_threshold_where_the_e_value_does() -> None:
    drawn = plots.spark([(10, -1.0), (20, 1.0), (30, 2.5), (40, 99.0)], 2.0)
    assert drawn is not None
    places = points(drawn.path)
    assert [x for x, _ in places] == [40, 80, 120, 160]
    # Further up is more evidence; far beyond the threshold it stays in the frame.
    assert [y < drawn.threshold for _, y in places] == [False, False, True, True]
    assert all(0 <= y <= plots.SPARK_HEIGHT for _, y in places)


def test_ways_are_those_of_the_cells_that_the_trail_has() -> None:
    known, unknown = cell("a"), cell("b", "new")
    (way,) = plots.ways(evidence(verdict(guardrails=(known,))), [unknown, known])
    assert way.cell is known
    assert way.promote is not None
    assert way.promote.threshold == pytest.approx(
        (math.log10(20) + 2 - math.log10(20)) / (math.log10(20) + 3) * 28, abs=0.1
    )
