"""What is reported of every metric and of latency: over all pairs and by route, each for every cohort.

Names of sums, each with a row for every slot: `moments/METRIC` and `latency/SIDE/TIMING` over all pairs, and likewise
under `route/ROUTE/` those of one route. A configuration whose single route takes every path has no second set: it would
be the first over again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns
from shadowproxy.config.catalogue import CATALOGUE
from shadowproxy.config.settings import Route
from shadowproxy.model import Side
from shadowproxy.stats.additive import Grouping, IntArray
from shadowproxy.stats.histogram import LatencyHistogram
from shadowproxy.stats.moments import Moments
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.record import Quantiles, Summary

ALL_ROUTES = ""
"""The route's name in what is over all of them."""

TIMINGS = ("ttfb", "total")
"""What is timed of an exchange."""
_LATENCY = LatencyHistogram()
_EVERY_PATH = frozenset({"/**", "/*"})


class Summaries:
    """Moments of metrics and histograms of latency."""

    def __init__(self, routes: Sequence[Route], slots: int) -> None:
        """`slots`: how many rows a sum may have."""
        apart = len(routes) > 1 or any(route.path not in _EVERY_PATH for route in routes)
        self._routes = [route.name for route in routes] if apart else []
        self._slots = slots

    def counted(self, columns: Columns, grouping: Grouping) -> Iterator[tuple[str, NDArray[Any]]]:
        """What a batch adds, by the name of the sum: an array (groups, width) each. `grouping` is of the pairs."""
        groupings = {ALL_ROUTES: (np.ones(len(columns), np.bool_), grouping)}
        for at, name in enumerate(self._routes):
            chosen = columns.route == at
            inside = chosen[grouping.members]
            if inside.any():
                few = Grouping(grouping.members[inside], grouping.group[inside], grouping.values, grouping.groups)
                groupings[name] = chosen, few
        for name, values in columns.values.items():
            metric = CATALOGUE.get(name)
            applicable = columns.applicable.get(name)
            if metric is None or applicable is None or not applicable.any():
                continue
            known = np.where(applicable, np.clip(values, metric.low, metric.high), np.nan)
            for route, (chosen, group) in groupings.items():
                if (applicable & chosen).any():
                    yield f"{_prefix(route)}moments/{name}", Moments(metric.ideal).fold(known, group)
        for timing, sides in zip(TIMINGS, (columns.ttfb, columns.total), strict=True):
            for side, seconds in sides.items():
                for route, (_, group) in groupings.items():
                    yield latency_sums(route, side, timing), _LATENCY.fold(seconds, group)

    def summaries(self, total: Tally, places: Mapping[str, int]) -> Iterator[Summary]:
        """By route (all of them first), metric and cohort; `places` are the slots of the cohorts, by name."""
        for route in (ALL_ROUTES, *self._routes):
            for metric in CATALOGUE.values():
                name = f"{_prefix(route)}moments/{metric.name}"
                if name not in total:
                    continue
                moments = Moments(metric.ideal)
                n, mean, deviation = moments.get(total.rows(name, self._slots, (moments.width,)))
                for cohort, slot in places.items():
                    if n[slot]:
                        yield Summary(
                            metric=metric.name,
                            route=route,
                            cohort=cohort,
                            pairs=int(n[slot]),
                            mean=_finite(mean[slot]),
                            deviation=_finite(deviation[slot]),
                        )

    def latencies(self, total: Tally, places: Mapping[str, int]) -> Iterator[Quantiles]:
        """By route (all of them first), side, timing and cohort; of one route, the cohorts that it has pairs of."""
        for route in (ALL_ROUTES, *self._routes):
            for side in Side:
                for timing in TIMINGS:
                    name = latency_sums(route, side, timing)
                    if name in total:
                        yield from self._quantiles(total, name, places, route=route, side=side, timing=timing)

    def _quantiles(
        self, total: Tally, name: str, places: Mapping[str, int], *, route: str, side: Side, timing: str
    ) -> Iterator[Quantiles]:
        counts: IntArray = total.rows(name, self._slots, (_LATENCY.width,))
        p50, p90, p99 = _LATENCY.get(counts)
        for cohort, slot in places.items():
            pairs = int(counts[slot].sum())
            if pairs or route == ALL_ROUTES:
                yield Quantiles(
                    side=side.value,
                    timing=timing,
                    route=route,
                    cohort=cohort,
                    pairs=pairs,
                    p50=_finite(p50[slot]),
                    p90=_finite(p90[slot]),
                    p99=_finite(p99[slot]),
                )


def latency_sums(route: str, side: Side, timing: str) -> str:
    """The name of the sums of one upstream's latency; of no route, over all of them."""
    return f"{_prefix(route)}latency/{side.value}/{timing}"


def _prefix(route: str) -> str:
    return f"route/{route}/" if route else ""


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
