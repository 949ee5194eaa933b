"""A batch of pairs to columns of numbers: read each, then compare all of a route at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shadowproxy.compare.columns import Columns, Scores, Table
from shadowproxy.compare.extraction.answer import NOTHING, Answer
from shadowproxy.compare.families.fields import changes_of
from shadowproxy.compare.families.latency import times
from shadowproxy.compare.families.table import FAMILIES, TABLES
from shadowproxy.compare.later import truths_of
from shadowproxy.compare.lists.align import SIDES, Aligner, Lists
from shadowproxy.compare.lists.ragged import Ints
from shadowproxy.compare.lists.triplets import TripletAligner, Triplets
from shadowproxy.compare.reader import Reading, RouteReader, read_unrouted
from shadowproxy.compare.routes import Router, request_path
from shadowproxy.compare.unlabelled import Unlabelled, classes_of, unlabelled
from shadowproxy.compare.view import View
from shadowproxy.config import CATALOGUE, Route
from shadowproxy.model import Pair, Side


class Comparer:
    """Compares batches of pairs by the configured routes. Globs and expressions are compiled once.

    It has no state between batches: a pair's row depends on that pair alone, whatever stands beside it. No content of
    a pair makes it raise: what can't be read is a failure of the side that sent it, or leaves values undefined.
    `Columns` of the two sides carry baseline and candidate; a replica's answer tells what is noise, and which rules it
    breaks.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self._router = Router([route.path for route in routes])
        self._readers = tuple(RouteReader(route) for route in routes)
        self._weighted = any(route.weight is not None for route in routes)

    def __call__(self, pairs: Sequence[Pair]) -> Columns:
        """Compare a batch, of any size. Every metric of the catalogue has its column, in the pairs' order."""
        parts = [_compare(part, weighted=self._weighted) for part in self._parts(pairs)]
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _parts(self, pairs: Sequence[Pair]) -> Iterator[_Part]:
        """All pairs read, in parts of a bounded number of items; one empty part of an empty batch."""
        part = _Part()
        for pair in pairs:
            at = self._router(request_path(pair.request.target))
            part.add(pair, at, self._readers[at] if at >= 0 else None)
            if part.items >= _ITEMS:
                yield part
                part = _Part()
        if part.rows or not pairs:
            yield part


_ITEMS = 50_000
"""Items of lists, labels and probabilities that are compared at once: enough to forget the price of a numpy call,
little enough for the cache, and a bound on memory however long the lists are."""


class _Row(NamedTuple):
    pair: Pair
    route: int
    reader: RouteReader | None
    reading: Reading


class _Part:
    """Some pairs, read, and their lists aligned by route."""

    def __init__(self) -> None:
        self.rows: list[_Row] = []
        self.aligners: dict[int, Aligner] = {}
        self.triplets: dict[int, TripletAligner] = {}
        self.items = 0

    def add(self, pair: Pair, route: int, reader: RouteReader | None) -> None:
        """Read one more."""
        reading = read_unrouted(pair) if reader is None else reader.read(pair)
        self.items += sum(map(_items, reading.answers.values()))
        if reader is not None and reader.has_ids:
            aligner = self.aligners.get(route)
            if aligner is None:
                aligner = self.aligners[route] = Aligner(by_score=reader.by_score)
            aligner.add(reading.answers[Side.BASELINE].ranking, reading.answers[Side.CANDIDATE].ranking)
            if reading.replicated:
                self._add_triplet(route, reader, aligner.n - 1, reading)
            reading = reader.without_rankings(reading)
        self.rows.append(_Row(pair, route, reader, reading))

    def _add_triplet(self, route: int, reader: RouteReader, row: int, reading: Reading) -> None:
        triplets = self.triplets.get(route)
        if triplets is None:
            triplets = self.triplets[route] = TripletAligner(by_score=reader.by_score)
        triplets.add(row, *(reading.answers[side].ranking for side in (Side.BASELINE, Side.REPLICA, Side.CANDIDATE)))


def _items(found: Answer) -> int:
    ranked = 0 if found.ranking is None else len(found.ranking.ids)
    return ranked + len(found.labels or ()) + sum(map(len, found.probabilities or ()))


def _compare(whole: _Part, *, weighted: bool) -> Columns:
    part = whole.rows
    readings = [row.reading for row in part]
    failed = {side: np.array([bool(reading.failure[side]) for reading in readings], np.bool_) for side in SIDES}
    exchanges = {
        Side.BASELINE: [row.pair.baseline for row in part],
        Side.CANDIDATE: [row.pair.candidate for row in part],
    }
    ttfb = {side: np.array([exchange.ttfb for exchange in exchanges[side]], np.float64) for side in SIDES}
    total = {side: np.array([exchange.total for exchange in exchanges[side]], np.float64) for side in SIDES}
    columns = Columns(
        started=np.array([row.pair.started for row in part], np.float64),
        route=np.array([row.route for row in part], np.int32),
        cohorts=tuple(reading.cohorts for reading in readings),
        account=np.array([reading.account for reading in readings], np.uint64),
        values={name: np.full(len(part), np.nan) for name in CATALOGUE},
        applicable={name: np.zeros(len(part), np.bool_) for name in CATALOGUE},
        failed=failed,
        failure={side: tuple(reading.failure[side] for reading in readings) for side in SIDES},
        ttfb={side: times(ttfb[side], failed[side]) for side in SIDES},
        total={side: times(total[side], failed[side]) for side in SIDES},
        weight=np.array([reading.weight for reading in readings], np.float64) if weighted else None,
        unlabelled=tuple(_unlabelled(part)),
    )
    tables: list[Table] = []
    scores: list[dict[Side, Scores]] = []
    for route in np.unique(columns.route).tolist():
        rows = np.flatnonzero(columns.route == route)
        aligner = whole.aligners.get(route)
        lists = None if aligner is None else aligner.lists()
        triplets = whole.triplets[route].triplets() if route in whole.triplets else None
        view = _view(part[rows[0]].reader, [readings[row] for row in rows], columns, rows, lists, triplets)
        _fill(columns, rows, view)
        scores += _scores(view, rows)
        tables += (Table(route, counts._replace(pair=rows[counts.pair])) for some in TABLES for counts in some(view))
    return replace(columns, tables=tuple(tables), scores=_gathered(scores))


def _joined(parts: Sequence[Columns]) -> Columns:
    def by_side(name: str) -> dict[Side, NDArray[Any]]:
        return {side: np.concatenate([getattr(part, name)[side] for part in parts]) for side in SIDES}

    weights = [part.weight for part in parts if part.weight is not None]
    return Columns(
        started=np.concatenate([part.started for part in parts]),
        route=np.concatenate([part.route for part in parts]),
        cohorts=tuple(chain.from_iterable(part.cohorts for part in parts)),
        account=np.concatenate([part.account for part in parts]),
        values={name: np.concatenate([part.values[name] for part in parts]) for name in CATALOGUE},
        applicable={name: np.concatenate([part.applicable[name] for part in parts]) for name in CATALOGUE},
        failed=by_side("failed"),
        failure={side: tuple(chain.from_iterable(part.failure[side] for part in parts)) for side in SIDES},
        ttfb=by_side("ttfb"),
        total=by_side("total"),
        scores=_gathered(list(_shifted(parts))),
        tables=tuple(_tables(parts)),
        weight=None if not weights else np.concatenate(weights),
        unlabelled=tuple(chain.from_iterable(part.unlabelled for part in parts)),
    )


def _scores(view: View, rows: Ints) -> Iterator[dict[Side, Scores]]:
    lists = view.lists
    if lists is None or lists.scores is None:
        return
    found = {}
    for side in SIDES:
        pair, _ = lists.items(side)
        both = lists.both[pair]
        found[side] = Scores(rows[pair[both]], lists.scores[side][both])
    yield found


def _shifted(parts: Sequence[Columns]) -> Iterator[dict[Side, Scores]]:
    before = 0
    for part in parts:
        yield {side: Scores(pair + before, value) for side, (pair, value) in part.scores.items()}
        before += len(part)


def _gathered(several: Sequence[Mapping[Side, Scores]]) -> dict[Side, Scores]:
    by_side = {side: [scores[side] for scores in several if side in scores] for side in SIDES}
    return {side: Scores(*map(np.concatenate, zip(*found, strict=True))) for side, found in by_side.items() if found}


def _tables(parts: Sequence[Columns]) -> Iterator[Table]:
    before = 0
    for part in parts:
        for route, counts in part.tables:
            yield Table(route, counts._replace(pair=counts.pair + before))
        before += len(part)


def _unlabelled(part: Sequence[_Row]) -> Iterator[Unlabelled]:
    for row in part:
        if row.reader is None or row.reader.route.labels is None:
            continue
        if row.reading.truth is not None or row.reading.true_labels is not None:
            continue
        yield unlabelled(
            row.pair.id,
            row.pair.started,
            row.pair.started + row.reader.route.labels,
            route=row.route,
            k=row.reader.route.k,
            comparable=row.reading.comparable,
            failed={side: bool(row.reading.failure[side]) for side in SIDES},
            rankings={side: row.reading.answers[side].ranking for side in SIDES},
            by_score=row.reader.by_score,
            cohorts=row.reading.cohorts,
            weight=row.reading.weight,
            classes=classes_of(row.reader.route, row.reading.answers),
            account=row.reading.account,
        )


def _view(
    reader: RouteReader | None,
    readings: Sequence[Reading],
    columns: Columns,
    rows: Ints,
    lists: Lists | None,
    triplets: Triplets | None,
) -> View:
    truth = None
    answers = {side: [reading.answers.get(side, NOTHING) for reading in readings] for side in Side}
    if reader is not None and reader.has_ids and reader.route.truth is not None:
        rankings = {side: [found.ranking for found in answers[side]] for side in SIDES}
        truth = truths_of(rankings, [reading.truth for reading in readings], by_score=reader.by_score)
    route = None if reader is None else reader.route
    replicated = np.array([reading.replicated for reading in readings], np.bool_)
    changes = None
    if reader is not None and reader.places is not None and reader.route.fields is not None:
        changes = changes_of(answers, reader.places, reader.route.fields.max_leaves)
    return View(
        failed={side: columns.failed[side][rows] for side in SIDES},
        ttfb={side: columns.ttfb[side][rows] for side in SIDES},
        total={side: columns.total[side][rows] for side in SIDES},
        comparable=np.array([reading.comparable for reading in readings], np.bool_),
        answers=answers,
        true_labels=[reading.true_labels for reading in readings],
        lists=lists,
        truth=truth,
        changes=changes,
        replicated=replicated if replicated.any() else None,
        triplets=triplets,
        route=route,
        slow=None if route is None else route.slow,
        k=10 if route is None else route.k,
        rbo_p=0.9 if route is None else route.rbo_p,
    )


def _fill(columns: Columns, rows: Ints, view: View) -> None:
    for family in FAMILIES:
        for name, (values, applicable) in family(view).items():
            columns.values[name][rows] = np.where(applicable, values, np.nan)
            columns.applicable[name][rows] = applicable
