"""What is drawn of scores and of latency, read from the sums of closed buckets when somebody asks for it.

Both have few enough points for a plot. The score histograms of the two sides share their bins, which are unions of bins
of the grid that was counted on (`stats.histogram.ScoreHistogram`): splitting one of those would draw a comb.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from shadowproxy.model import Side
from shadowproxy.stats.additive import FloatArray, IntArray
from shadowproxy.stats.distances import distances
from shadowproxy.stats.histogram import LatencyHistogram, ScoreHistogram
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.reported.distributions import PREFIX, score_counts
from shadowproxy.verdict.reported.summaries import ALL_ROUTES, TIMINGS, latency_sums

MOST_BINS: Final = 80
"""Bins of a score histogram that is drawn."""
PROBABILITIES: Final = (*(percent / 100 for percent in range(1, 100)), 0.995, 0.999)
"""Of the points of a latency curve."""

_SCORES = ScoreHistogram()
_LATENCY = LatencyHistogram()
_TAIL: Final = 0.005
"""Share of either side beyond which scores are far out, where they would squeeze the rest into few bins."""
_FAR: Final = 4.0
"""What is beyond that many times the range of the rest is far out."""
_MOST_OF_THEM: Final = 0.05
"""Share of either side that is left out at both ends to tell how far most scores spread."""
_DECADES: Final = 300.0
"""Ratio of the largest to the smallest of most scores from which they are drawn by their logarithm."""


class ScoreCurve(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of both sides in one route and cohort, in n bins common to both, and how far these are apart.

    The bins differ in width: what is drawn is a count by the width of its bin. The first and the last may be wide and
    hold what is far out.
    """

    route: str
    cohort: str
    scale: str
    """`linear`, or `log` where scores of one sign spread over decades: what the bins are equally wide on, roughly."""
    edges: tuple[float, ...]
    """n + 1, ascending, in the unit of the scores; finite."""
    baseline: tuple[int, ...]
    """Items in each bin."""
    candidate: tuple[int, ...]
    ks: float | None
    """As in `verdict.record.Distribution`, likewise the next three; None where a side has no scores."""
    psi: float | None
    wasserstein: float | None
    jensen_shannon: float | None


class LatencyCurve(msgspec.Struct, frozen=True, kw_only=True):
    """The quantiles of one upstream's latency, of all its pairs in one route and cohort."""

    side: str
    timing: str
    """`ttfb` or `total`."""
    route: str
    """Empty: over all routes."""
    cohort: str
    pairs: int
    probabilities: tuple[float, ...]
    seconds: tuple[float | None, ...]
    """By probability; None where the quantile lies among the failures (+∞). Off by 4.9% at the most."""


class Distributions(msgspec.Struct, frozen=True, kw_only=True):
    """The score histograms of one cohort."""

    distributions: tuple[ScoreCurve, ...]
    """By route, in the configuration's order; routes without scores are left out."""


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """The latency curves of one cohort."""

    latencies: tuple[LatencyCurve, ...]
    """Over all routes first, then by route; each by side and timing."""


class Curves:
    """The sums that curves are drawn from, of one reading."""

    def __init__(self, routes: Sequence[str], total: Tally, places: Mapping[str, int]) -> None:
        """`places` are the slots of the cohorts that have pairs, by name."""
        self._routes = routes
        # All else of the total may be forgotten.
        self._sums = Tally(
            {name: sums for name, sums in total.items() if name.startswith(PREFIX) or "latency/" in name}
        )
        self._places = places

    @property
    def cohorts(self) -> Sequence[str]:
        """Those that there are curves of."""
        return tuple(self._places)

    @property
    def routes(self) -> Sequence[str]:
        """The configured ones."""
        return self._routes

    def scores(self, route: str | None, cohort: str) -> Iterator[ScoreCurve]:
        """Of one route or of all, those with scores in this cohort. Raises KeyError for a cohort that isn't there."""
        slot = self._places[cohort]
        for name in self._routes if route is None else (route,):
            a, b = (score_counts(self._sums, name, side, slot) for side in (Side.BASELINE, Side.CANDIDATE))
            if a.any() or b.any():
                yield _score_curve(name, cohort, a, b)

    def latencies(self, route: str | None, cohort: str) -> Iterator[LatencyCurve]:
        """Of one route (empty: over all of them) or of each and all. Raises KeyError likewise.

        A route that takes every path has no sums of its own, and is found under all of them.
        """
        slot = self._places[cohort]
        for name in (ALL_ROUTES, *self._routes) if route is None else (route,):
            for side in Side:
                for timing in TIMINGS:
                    sums = self._sums.get(latency_sums(name, side, timing))
                    if sums is not None and slot < len(sums) and sums[slot].any():
                        yield _latency_curve(name, cohort, side, timing, sums[slot])


def _latency_curve(route: str, cohort: str, side: Side, timing: str, counts: IntArray) -> LatencyCurve:
    found = _LATENCY.quantiles(counts, PROBABILITIES)
    return LatencyCurve(
        side=side.value,
        timing=timing,
        route=route,
        cohort=cohort,
        pairs=int(counts.sum()),
        probabilities=PROBABILITIES,
        seconds=tuple(float(one) if np.isfinite(one) else None for one in found),
    )


def _score_curve(route: str, cohort: str, a: IntArray, b: IntArray) -> ScoreCurve:
    apart = distances(a, b, _SCORES.values())
    ends, log = _ends(a, b)
    # The first bin of the grid that is in each bin of the plot.
    starts = ends[:-1]
    return ScoreCurve(
        route=route,
        cohort=cohort,
        scale="log" if log else "linear",
        edges=tuple(_edges()[ends].tolist()),
        baseline=tuple(np.add.reduceat(a[: ends[-1]], starts).tolist()),
        candidate=tuple(np.add.reduceat(b[: ends[-1]], starts).tolist()),
        ks=None if apart is None else apart.ks,
        psi=None if apart is None else apart.psi,
        wasserstein=None if apart is None else apart.wasserstein,
        jensen_shannon=None if apart is None else apart.jensen_shannon,
    )


def _ends(a: IntArray, b: IntArray) -> tuple[IntArray, bool]:
    """Which edges of the grid are those of the plot, ascending, and whether they are equally far apart by logarithm."""
    there = np.flatnonzero(a + b)
    first, last = int(there[0]), int(there[-1]) + 1
    edges = _edges()
    inner_first, inner_last = _inner(a, b, _TAIL)
    if edges[last] - edges[first] <= (1 + 2 * _FAR) * (edges[inner_last] - edges[inner_first]):
        inner_first, inner_last = first, last
    low, high = edges[inner_first], edges[inner_last]
    log = bool(low * high > 0 and _spread(a, b) > _DECADES)
    # One bin on either side may be that of what is far out.
    bins = MOST_BINS - 2
    if log:
        inside = np.linspace(inner_first, inner_last, bins + 1).round().astype(np.int64)
    else:
        inside = _nearest(np.linspace(low, high, bins + 1))
    inside = inside[(inside >= inner_first) & (inside <= inner_last)]
    return np.unique(np.concatenate([[first, inner_first], inside, [inner_last, last]])), log


def _spread(a: IntArray, b: IntArray) -> float:
    """The ratio of the largest to the smallest of most scores, all of one sign."""
    ends = np.abs(_edges()[[*_inner(a, b, _MOST_OF_THEM)]])
    return float(ends.max() / ends.min())


def _inner(a: IntArray, b: IntArray, tail: float) -> tuple[int, int]:
    """The first and the last edge of what is left without this share of either side at either end."""
    firsts, lasts = [], []
    for counts in (a, b):
        if counts.any():
            cumulated = counts.cumsum()
            n = int(cumulated[-1])
            firsts.append(int(np.searchsorted(cumulated, tail * n, side="right")))
            lasts.append(int(np.searchsorted(cumulated, n - tail * n)) + 1)
    return min(firsts), max(lasts)


def _nearest(values: FloatArray) -> IntArray:
    """The edge of the grid that is nearest to each of these."""
    edges = _edges()
    after = np.clip(np.searchsorted(edges, values), 1, len(edges) - 1)
    nearer = values - edges[after - 1] < edges[after] - values
    found: IntArray = after - nearer
    return found


def _edges() -> FloatArray:
    """Those of the grid, finite: numbers beyond its ends are drawn as if they were just there."""
    edges = _SCORES.edges()
    edges[[0, -1]] = edges[[1, -2]] * _SCORES.ratio
    return edges
