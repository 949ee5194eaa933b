"""Every metric of lists against others' implementations, or its definition written out, on 10,000 random pairs.

Ours sees them all at once, the oracle one by one. The lists are empty, short, uneven, disjoint, alike; scores tie, are
negative, huge, or missing. What is sampled stands in `sample`; each metric has an oracle that shares no code with it.
"""

from __future__ import annotations

import functools
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ir_measures
import numpy as np
import pytest
from compare.samples import A, B
from ir_measures import RR, R, nDCG
from rbo import RankingSimilarity
from scipy import stats

from shadowproxy.compare.families.quality import ndcg as quality_ndcg
from shadowproxy.compare.families.quality import recall, reciprocal_rank
from shadowproxy.compare.families.ranking import displacement, length, ndcg
from shadowproxy.compare.families.scores import relative, undefined
from shadowproxy.compare.later import truths_of
from shadowproxy.compare.lists.align import Lists, Ranking, align
from shadowproxy.compare.lists.correlation import Correlations, correlations
from shadowproxy.compare.lists.overlap import new, overlap, rbo, top1

COUNT = 10_000
K = 5


class Sample(NamedTuple):
    """Pairs of rankings, and what is right for each."""

    pairs: list[tuple[Ranking, Ranking]]
    truths: list[dict[str, float]]

    def aligned(self, *, by_score: bool = False) -> Lists:
        return align({A: [a for a, _ in self.pairs], B: [b for _, b in self.pairs]}, by_score=by_score)


@functools.cache
def sample(*, by_score: bool = False) -> Sample:
    """`by_score`: both lists in the order of their scores, highest first, undefined last."""
    rng = random.Random(20 + by_score)
    levels: Sequence[Callable[[], float]] = (
        lambda: rng.randint(0, 1),
        lambda: rng.randint(-2, 3) / 4,
        rng.random,
        lambda: rng.gauss(0, 1e300),
        lambda: 0.0,
    )

    def ranking(pool: list[str]) -> Ranking:
        ids = rng.sample(pool, rng.choice([len(pool), rng.randint(0, len(pool))]))
        level = rng.choice(levels)
        missing = rng.choice([0, 0, 0, 0.2, 1])
        scores = [math.nan if rng.random() < missing else float(level()) for _ in ids]
        if by_score:
            order = sorted(range(len(ids)), key=lambda at: math.inf if math.isnan(scores[at]) else -scores[at])
            ids, scores = [ids[at] for at in order], [scores[at] for at in order]
        return Ranking(ids, scores)

    pairs, truths = [], []
    for _ in range(COUNT):
        pool = [f"i{at}" for at in range(rng.choice([1, 2, 3, 8, 12]))]
        a = ranking(pool)
        draw = rng.random()
        b = a if draw < 0.05 else ranking([f"j{at}" for at in range(4)] if draw < 0.15 else pool)
        pairs.append((a, b))
        truths.append({name: rng.choice([0.25, 0.5, 1.0]) for name in rng.sample(pool, rng.randint(1, len(pool)))})
    return Sample(pairs, truths)


def close(found: np.ndarray, expected: Sequence[float], tolerance: float = 1e-9) -> None:
    assert len(found) == COUNT
    defined = ~np.isnan(np.asarray(expected, float))
    assert defined.sum() > COUNT / 4, "the sample must have something to say"
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True)


def test_the_sample_has_what_it_is_for() -> None:
    made = sample().pairs
    assert sum(not a.ids for a, _ in made) > 100
    assert sum(bool(a.ids) and bool(b.ids) and not {*a.ids} & {*b.ids} for a, b in made) > 500
    assert sum(len(a.ids) != len(b.ids) for a, b in made) > 2000
    assert sum(len({*a.scores}) < len(a.ids) for a, _ in made) > 3000
    assert sum(any(map(math.isnan, a.scores)) for a, _ in made) > 1000


@pytest.mark.parametrize("p", [0.3, 0.9])
def test_rbo_is_that_of_the_package(p: float) -> None:
    expected = [RankingSimilarity(a.ids, b.ids).rbo_ext(p=p) for a, b in sample().pairs]
    close(rbo(sample().aligned(), p), expected)


@pytest.mark.parametrize("p", [0.3, 0.9])
def test_rbo_with_ties_is_the_papers(p: float) -> None:
    made = sample(by_score=True)
    close(rbo(made.aligned(by_score=True), p), [rbo_w(groups(a), groups(b), p) for a, b in made.pairs])


def groups(ranking: Ranking) -> list[list[str]]:
    """The ranking as groups of tied items."""
    found: list[list[str]] = []
    before: object = None
    for name, score in zip(ranking.ids, ranking.scores or [], strict=True):
        level = None if math.isnan(score) else score
        if not found or level != before:
            found.append([])
        found[-1].append(name)
        before = level
    return found


def rbo_w(x: list[list[str]], y: list[list[str]], p: float) -> float:
    """RBO^w_ext by sets, after Corsi & Urbano 2024; what lies beyond both lists as a geometric sum."""
    short, long = sorted((x, y), key=lambda one: sum(map(len, one)))
    s, l = (sum(map(len, one)) for one in (short, long))  # noqa: E741
    if l == 0:
        return 1.0
    if s == 0:
        return 0.0

    def standing(ranking: list[list[str]], depth: int) -> set[str]:
        found: set[str] = set()
        for group in ranking:
            if len(found) >= depth:
                break
            found |= {*group}
        return found

    def agreement(depth: int) -> float:
        one, other = standing(short, depth), standing(long, depth)
        if depth <= s:
            return 2 * len(one & other) / (len(one) + len(other))
        seen = len(one & other) + (depth - s) * agreement(s)
        return 2 * seen / (depth + len(other))

    tail = (len(standing(short, s) & standing(long, l)) + (l - s) * agreement(s)) / l
    walked = sum(agreement(depth) * p**depth for depth in range(1, l + 1))
    return (1 - p) / p * (walked + tail * p ** (l + 1) / (1 - p))


@functools.cache
def correlated() -> Correlations:
    return correlations(sample().aligned())


@pytest.mark.parametrize("name", Correlations._fields)
def test_correlations_are_scipys(name: str) -> None:
    statistic = {"kendall": stats.kendalltau, "spearman": stats.spearmanr, "weighted": stats.weightedtau}[name]
    expected = []
    for a, b in sample().pairs:
        x, y = worth(a, b)
        constant = len({*x}) < 2 or len({*y}) < 2
        expected.append(math.nan if constant else float(statistic(x, y).statistic))
    close(getattr(correlated(), name), expected)


def worth(a: Ranking, b: Ranking) -> tuple[list[float], list[float]]:
    """What the common items are worth on either side: scores, or how far they stand from the end."""
    common = [name for name in a.ids if name in b.ids]
    x, y = ([dict(zip(one.ids, one.scores, strict=True))[name] for name in common] for one in (a, b))
    if any(map(math.isnan, x + y)):
        x, y = ([-one.ids.index(name) for name in common] for one in (a, b))
    return x, y


def test_overlap_top1_and_new_by_sets() -> None:
    lists, made = sample().aligned(), sample().pairs
    ids = [(a.ids, b.ids) for a, b in made]
    close(
        overlap(lists, K),
        [len({*a[:K]} & {*b[:K]}) / min(K, len(a)) if a else float(not b) for a, b in ids],
    )
    close(top1(lists), [float(a[:1] == b[:1]) for a, b in ids])
    close(new(lists, K), [len({*b[:K]} - {*a}) / len(b[:K]) if b else 0.0 for a, b in ids])
    close(length(lists), [(len(b) - len(a)) / max(len(a), len(b), 1) for a, b in ids])


@pytest.mark.parametrize("by_score", [False, True], ids=["as-listed", "by-score"])
def test_displacement_by_places(by_score: bool) -> None:
    made = sample(by_score=by_score)

    def places(ranking: Ranking) -> dict[str, float]:
        if not by_score:
            return {name: float(at) for at, name in enumerate(ranking.ids)}
        levels = [math.inf if math.isnan(score) else -score for score in ranking.scores or []]
        return dict(zip(ranking.ids, stats.rankdata(levels) - 1, strict=True))

    def largest(a: Ranking, b: Ranking) -> float:
        one, other = places(a), places(b)
        moved = [abs(one[name] - other[name]) for name in one if name in other]
        if not moved:
            return math.nan if one or other else 0.0
        return max(moved) / max(len(one) - 1, len(other) - 1, 1)

    close(displacement(made.aligned(by_score=by_score)), [largest(a, b) for a, b in made.pairs])


@pytest.mark.parametrize("by_score", [False, True], ids=["as-listed", "by-score"])
def test_ndcg_is_that_of_ir_measures_with_the_baselines_scores_as_gains(by_score: bool) -> None:
    """In whole numbers, as ir_measures has them, and over all orders of what is tied."""
    rng = random.Random(31)
    pairs = []
    for _ in range(COUNT):
        pool = [f"i{at}" for at in range(rng.randint(1, 9))]
        sides = []
        for _ in range(2):
            ids = rng.sample(pool, rng.randint(1, len(pool)))
            scores = [float(rng.randint(0, 5)) for _ in ids]
            if by_score:
                scores = rng.sample(range(1, 100), len(ids))
                scores.sort(reverse=True)
            sides.append(Ranking(ids, list(map(float, scores))))
        if not any(sides[0].scores or []):
            sides[0] = Ranking(sides[0].ids, [1.0] * len(sides[0].ids))
        pairs.append((sides[0], sides[1]))
    lists = align({A: [a for a, _ in pairs], B: [b for _, b in pairs]}, by_score=by_score)
    qrels = {str(at): dict(zip(a.ids, map(int, a.scores or []), strict=True)) for at, (a, _) in enumerate(pairs)}
    run = {str(at): {name: -float(place) for place, name in enumerate(b.ids)} for at, (_, b) in enumerate(pairs)}
    expected = np.zeros(COUNT)
    for result in ir_measures.iter_calc([nDCG @ K], qrels, run):
        expected[int(result.query_id)] = result.value
    close(ndcg(lists, lists.scores[A], K), expected)


@pytest.mark.parametrize("by_score", [False, True], ids=["as-listed", "by-score"])
def test_ndcg_by_definition_on_scores_of_any_kind(by_score: bool) -> None:
    made = sample(by_score=by_score)
    lists = made.aligned(by_score=by_score)
    assert lists.scores is not None
    close(ndcg(lists, lists.scores[A], K), [ndcg_by_definition(a, b, by_score) for a, b in made.pairs])


def ndcg_by_definition(a: Ranking, b: Ranking, by_score: bool) -> float:
    if not a.ids:
        return float(not b.ids)
    scored = {name: score for name, score in zip(a.ids, a.scores or [], strict=True) if not math.isnan(score)}
    if not scored:
        return math.nan
    unit = max(map(abs, scored.values())) or 1.0
    shift = min(0.0, *(score / unit for score in scored.values()))
    gain = {name: score / unit - shift for name, score in scored.items()}
    if not any(gain.values()):
        gain = dict.fromkeys(gain, 1.0)
    discount = [1 / math.log2(at + 2) if at < K else 0.0 for at in range(max(len(a.ids), len(b.ids)))]
    ideal = sum(g * d for g, d in zip(sorted(gain.values(), reverse=True), discount, strict=False))
    found = at = 0.0
    for group in groups(b) if by_score else [[name] for name in b.ids]:
        mean = sum(discount[int(at) : int(at) + len(group)]) / len(group)
        found += sum(gain.get(name, 0.0) * mean for name in group)
        at += len(group)
    return found / ideal


def test_scores_by_definition() -> None:
    deltas, changes, lost = [], [], []
    for a, b in sample().pairs:
        x, y = (dict(zip(one.ids, one.scores or [], strict=True)) for one in (a, b))
        both = [(x[name], y[name]) for name in x if name in y]
        r = [
            0.0 if not p and not q else (q / 2 - p / 2) / (abs(p) / 2 + abs(q) / 2)
            for p, q in both
            if not math.isnan(p) and not math.isnan(q)
        ]
        deltas.append(float(np.mean(r)) if r else math.nan)
        changes.append(float(np.mean(np.abs(r))) if r else math.nan)
        missing = Counter(math.isnan(q) - math.isnan(p) for p, q in both)
        empty = math.nan if x or y else 0.0
        lost.append((missing[1] - missing[-1]) / len(both) if both else empty)
    lists = sample().aligned()
    assert lists.score is not None
    delta, change = relative(lists, lists.score)
    close(delta, deltas)
    close(change, changes)
    close(undefined(lists, lists.score), lost)


def test_quality_is_that_of_ir_measures() -> None:
    """Gains of 1, 2 and 4 for 0.25, 0.5 and 1: ir_measures takes whole numbers, and NDCG knows no unit of gain."""
    made = sample()
    rankings = {A: [a for a, _ in made.pairs], B: [b for _, b in made.pairs]}
    truth = truths_of(rankings, made.truths, by_score=False)
    qrels = {str(at): {name: int(4 * gain) for name, gain in one.items()} for at, one in enumerate(made.truths)}
    measures = {nDCG @ K: quality_ndcg, R @ K: recall, RR: reciprocal_rank}
    for side in (A, B):
        run = {
            str(at): {name: -float(place) for place, name in enumerate(one.ids)}
            for at, one in enumerate(rankings[side])
        }
        expected = {measure: np.zeros(COUNT) for measure in measures}
        for result in ir_measures.iter_calc(measures, qrels, run):
            expected[result.measure][int(result.query_id)] = result.value
        for measure, ours in measures.items():
            close(ours(truth, truth.hits[side], K), expected[measure])


def test_quality_with_ties_is_the_mean_over_many_orders() -> None:
    """Expectation over all orders of the tied, by definition: each takes each of its group's places alike."""
    made = sample(by_score=True)
    rankings = {A: [a for a, _ in made.pairs], B: [b for _, b in made.pairs]}
    truth = truths_of(rankings, made.truths, by_score=True)
    gained, shown, first = [], [], []
    for ranking, gains in zip(rankings[A], made.truths, strict=True):
        at, dcg, hits, best = 0, 0.0, 0.0, 0.0
        for group in groups(ranking):
            places = range(at, at + len(group))
            discount = np.mean([1 / math.log2(place + 2) if place < K else 0.0 for place in places])
            share = np.mean([float(place < K) for place in places])
            true = [gains[name] for name in group if name in gains]
            dcg, hits = dcg + discount * sum(true), hits + share * len(true)
            best = max(best, 1 / (float(np.mean(places)) + 1)) if true else best
            at += len(group)
        ideal = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(gains.values(), reverse=True)[:K]))
        gained.append(dcg / ideal)
        shown.append(hits / len(gains))
        first.append(best)
    close(quality_ndcg(truth, truth.hits[A], K), gained)
    close(recall(truth, truth.hits[A], K), shown)
    close(reciprocal_rank(truth, truth.hits[A], K), first)
