"""The distributions of scores: from a batch's columns to counts by route and slot, and from counts to a report.

The grid of scores is fine, and most of it stays empty: the scores of a service fill a few of its decades. So it is kept
in blocks of bins, a sum each, and blocks in which nothing fell are not there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from shadowproxy.compare.columns import Columns
from shadowproxy.model import Side
from shadowproxy.stats.additive import Grouping, IntArray
from shadowproxy.stats.distances import distances
from shadowproxy.stats.histogram import ScoreHistogram
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.record import Distribution, ScoreQuantiles

BLOCK = 64
"""Bins in a block."""

_HISTOGRAM = ScoreHistogram()
_BLOCKS = -(-_HISTOGRAM.width // BLOCK)
PREFIX = "scores/"
"""Of the names of sums."""


class Distributions:
    """Names of sums for blocks of histograms: `scores/ROUTE/SIDE/BLOCK`, with a row for each slot."""

    def __init__(self, routes: Sequence[str]) -> None:
        self._routes = routes

    def counted(self, columns: Columns, grouping: Grouping) -> Iterator[tuple[str, IntArray]]:
        """What a batch adds, by the name of the sum: an array (groups, BLOCK) each. `grouping` is of the pairs."""
        for side, (pair, value) in columns.scores.items():
            bins = _HISTOGRAM.index(value)
            route = columns.route[pair]
            for at, name in enumerate(self._routes):
                chosen = np.flatnonzero((route == at) & (bins >= 0))
                if not len(chosen):
                    continue
                block = bins[chosen] // BLOCK
                there = np.flatnonzero(np.bincount(block, minlength=_BLOCKS))
                column = np.searchsorted(there, block) * BLOCK + bins[chosen] % BLOCK
                counts = grouping.table(pair[chosen], column, len(there) * BLOCK)
                for found, index in enumerate(there.tolist()):
                    yield f"{PREFIX}{name}/{side.value}/{index}", counts[:, found * BLOCK : (found + 1) * BLOCK]

    def rows(self, total: Tally, places: Mapping[str, int]) -> Iterator[Distribution]:
        """All distributions, by route in the configuration's order; `places` are the slots of the cohorts, by name."""
        found: dict[str, dict[str, dict[int, IntArray]]] = defaultdict(lambda: defaultdict(dict))
        for name, sums in total.items():
            if name.startswith(PREFIX):
                route, side, block = name.removeprefix(PREFIX).rsplit("/", 2)
                found[route][side][int(block)] = sums
        for route in self._routes:
            if route in found:
                yield from _of_route(route, found[route], places)


def baseline_scores(total: Tally, routes: Iterable[str]) -> IntArray:
    """The baseline's scores over all pairs of these routes: how many are in each bin of `ScoreHistogram`, (width,)."""
    counts = np.zeros(_HISTOGRAM.width, np.int64)
    for route in routes:
        counts += score_counts(total, route, Side.BASELINE, 0)
    return counts


def score_counts(total: Tally, route: str, side: Side, slot: int) -> IntArray:
    """One side's scores in one route and slot: how many are in each bin of `ScoreHistogram`, (width,)."""
    prefix = f"{PREFIX}{route}/{side.value}/"
    return _counts(
        {int(name.removeprefix(prefix)): sums for name, sums in total.items() if name.startswith(prefix)}, slot
    )


def _of_route(
    route: str, blocks: Mapping[str, Mapping[int, IntArray]], places: Mapping[str, int]
) -> Iterator[Distribution]:
    values = _HISTOGRAM.values()
    for cohort, slot in places.items():
        a, b = (_counts(blocks.get(side, {}), slot) for side in ("baseline", "candidate"))
        if not (a.any() or b.any()):
            continue
        apart = distances(a, b, values)
        yield Distribution(
            route=route,
            cohort=cohort,
            baseline=_quantiles(a),
            candidate=_quantiles(b),
            ks=None if apart is None else apart.ks,
            psi=None if apart is None else apart.psi,
            wasserstein=None if apart is None else apart.wasserstein,
            jensen_shannon=None if apart is None else apart.jensen_shannon,
        )


def _counts(blocks: Mapping[int, IntArray], slot: int) -> IntArray:
    """One slot's histogram, shape (width,)."""
    counts = np.zeros((_BLOCKS, BLOCK), np.int64)
    for block, sums in blocks.items():
        if sums.shape[1:] != (BLOCK,) or not 0 <= block < _BLOCKS:
            raise ValueError(f"scores: block {block} of shape {sums.shape} was not counted by this plan")
        if slot < len(sums):
            counts[block] = sums[slot]
    return counts.ravel()[: _HISTOGRAM.width]


def _quantiles(counts: IntArray) -> ScoreQuantiles:
    items = int(counts.sum())
    p10, p50, p90 = (float(found[0]) if items else None for found in _HISTOGRAM.get(counts[None, :]))
    return ScoreQuantiles(items=items, p10=p10, p50=p50, p90=p90)
