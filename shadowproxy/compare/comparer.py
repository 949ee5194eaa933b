"""A batch of pairs to columns of numbers: read each, then compare all of a route at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.align import SIDES, align, hits
from shadowproxy.compare.columns import Columns
from shadowproxy.compare.families import FAMILIES
from shadowproxy.compare.latency import times
from shadowproxy.compare.plan import Plan, Reading, read_unrouted
from shadowproxy.compare.ragged import Ints
from shadowproxy.compare.routes import Router, request_path
from shadowproxy.compare.view import Truth, View
from shadowproxy.config import CATALOGUE, Route
from shadowproxy.model import Exchange, Pair, Side


class Comparer:
    """Compares batches of pairs by the configured routes. Globs and expressions are compiled once.

    It has no state between batches: a pair's row depends on that pair alone, whatever stands beside it. No content of
    a pair makes it raise: what can't be read is a failure of the side that sent it, or leaves values undefined.
    `Columns` of the two sides carry baseline and candidate; a replica's exchange is not looked at.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._router = Router([route.path for route in routes])
        self._plans = tuple(Plan(route) for route in routes)

    def __call__(self, pairs: Sequence[Pair]) -> Columns:
        """Compare a batch, of any size. Every metric of the catalogue has its column, in the pairs' order."""
        route = np.array([self._router(request_path(pair.request.target)) for pair in pairs], np.int32)
        readings = [
            self._plans[at].read(pair) if at >= 0 else read_unrouted(pair)
            for pair, at in zip(pairs, route.tolist(), strict=True)
        ]
        failed = {side: np.array([bool(reading.failure[side]) for reading in readings], np.bool_) for side in SIDES}
        exchanges = {
            Side.BASELINE: [pair.baseline for pair in pairs],
            Side.CANDIDATE: [pair.candidate for pair in pairs],
        }
        columns = Columns(
            started=np.array([pair.started for pair in pairs], np.float64),
            route=route,
            cohorts=tuple(reading.cohorts for reading in readings),
            account=np.array([reading.account for reading in readings], np.uint64),
            values={name: np.full(len(pairs), np.nan) for name in CATALOGUE},
            applicable={name: np.zeros(len(pairs), np.bool_) for name in CATALOGUE},
            failed=failed,
            failure={side: tuple(reading.failure[side] for reading in readings) for side in SIDES},
            ttfb={side: times(_ttfb(exchanges[side]), failed[side]) for side in SIDES},
            total={side: times(_total(exchanges[side]), failed[side]) for side in SIDES},
        )
        for at in np.unique(route).tolist():
            rows = np.flatnonzero(route == at)
            plan = self._plans[at] if at >= 0 else None
            _fill(columns, rows, _view(plan, [readings[row] for row in rows.tolist()], columns, rows))
        return columns


def _ttfb(exchanges: Sequence[Exchange]) -> NDArray[np.float64]:
    return np.array([exchange.ttfb for exchange in exchanges], np.float64)


def _total(exchanges: Sequence[Exchange]) -> NDArray[np.float64]:
    return np.array([exchange.total for exchange in exchanges], np.float64)


def _view(plan: Plan | None, readings: Sequence[Reading], columns: Columns, rows: Ints) -> View:
    lists = truth = None
    if plan is not None and plan.route.ids is not None:
        rankings = {side: [reading.rankings[side] for reading in readings] for side in SIDES}
        lists = align(rankings)
        if plan.route.truth is not None:
            truths = [reading.truth for reading in readings]
            truth = Truth(
                known=np.array([truth is not None for truth in truths], np.bool_),
                ideal=tuple(tuple(sorted((truth or {}).values(), reverse=True)) for truth in truths),
                hits={side: hits(rankings[side], truths, by_score=plan.by_score) for side in SIDES},
            )
    route = None if plan is None else plan.route
    return View(
        failed={side: columns.failed[side][rows] for side in SIDES},
        ttfb={side: columns.ttfb[side][rows] for side in SIDES},
        total={side: columns.total[side][rows] for side in SIDES},
        comparable=np.array([reading.comparable for reading in readings], np.bool_),
        lists=lists,
        truth=truth,
        slow=None if route is None else route.slow,
        k=10 if route is None else route.k,
        rbo_p=0.9 if route is None else route.rbo_p,
    )


def _fill(columns: Columns, rows: Ints, view: View) -> None:
    for family in FAMILIES:
        for name, (values, applicable) in family(view).items():
            columns.values[name][rows] = np.where(applicable, values, np.nan)
            columns.applicable[name][rows] = applicable
