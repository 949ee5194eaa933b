"""What one writes in an afternoon: comparing pair by pair, with orjson, jmespath, scipy and `rbo`, summed in Python.

It computes what shadowproxy computes of plain rankings with scores that both sides answered, and nothing else: no
answers that failed, no lists of different shape, no histograms, no evidence. That is to its advantage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import jmespath
import orjson
from rbo import RankingSimilarity
from scipy import stats

from shadowproxy.model import Exchange, Pair

Answer = tuple[Sequence[Any], Sequence[float]]
"""The ids and the scores of one side."""
Read = Callable[[Exchange], Answer]

_K: Final = 10
_P: Final = 0.9
_SLOW: Final = 0.02


def json_reader(ids: str, scores: str) -> Read:
    """How answers in JSON are read: by two JMESPath expressions over the body."""
    find_ids, find_scores = jmespath.compile(ids), jmespath.compile(scores)

    def read(exchange: Exchange) -> Answer:
        body = orjson.loads(exchange.body)
        return find_ids.search(body), find_scores.search(body)

    return read


def observe(read: Read, pair: Pair) -> dict[str, float]:
    """The metrics of one pair."""
    (a, of_a), (b, of_b) = read(pair.baseline), read(pair.candidate)
    by_a, by_b = dict(zip(a, of_a, strict=True)), dict(zip(b, of_b, strict=True))
    common = [name for name in a if name in by_b]
    x, y = [by_a[name] for name in common], [by_b[name] for name in common]
    return {
        "ranking.rbo": RankingSimilarity(a, b).rbo_ext(p=_P),
        "ranking.overlap": len(set(a[:_K]) & set(b[:_K])) / min(_K, len(a)),
        "ranking.top1": float(a[0] == b[0]),
        "ranking.kendall": float(stats.kendalltau(x, y).statistic),
        "ranking.spearman": float(stats.spearmanr(x, y).statistic),
        "ranking.weighted_tau": float(stats.weightedtau(x, y).statistic),
        "ranking.ndcg": _ndcg([by_a.get(name, 0.0) for name in b], of_a),
        "ranking.displacement": _displacement(a, b),
        "ranking.new": sum(name not in by_a for name in b[:_K]) / min(_K, len(b)),
        "ranking.length": (len(b) - len(a)) / max(len(a), len(b)),
        "scores.relative_delta": sum(map(_relative, x, y)) / len(common),
        "scores.relative_change": sum(abs(_relative(one, other)) for one, other in zip(x, y, strict=True))
        / len(common),
        "scores.undefined": (sum(map(math.isnan, y)) - sum(map(math.isnan, x))) / len(common),
        "failures.difference": float(pair.candidate.status >= 400) - float(pair.baseline.status >= 400),
        "latency.ttfb_log2": _log2(pair.baseline.ttfb, pair.candidate.ttfb),
        "latency.total_log2": _log2(pair.baseline.total, pair.candidate.total),
        "latency.total_slow": float(pair.candidate.total > _SLOW) - float(pair.baseline.total > _SLOW),
    }


def _ndcg(gains: Sequence[float], ideal: Sequence[float]) -> float:
    """NDCG@k; gains below 0 are not looked for."""
    return _dcg(gains) / _dcg(sorted(ideal, reverse=True))


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(at + 2) for at, gain in enumerate(gains[:_K]))


def _displacement(a: Sequence[Any], b: Sequence[Any]) -> float:
    places = {name: at for at, name in enumerate(a)}
    farthest = max(abs(places[name] - at) for at, name in enumerate(b) if name in places)
    return farthest / (max(len(a), len(b)) - 1)


def _relative(a: float, b: float) -> float:
    total = abs(a) + abs(b)
    return (b - a) / total if total else 0.0


def _log2(a: float, b: float) -> float:
    return max(-1.0, min(1.0, math.log2(b / a)))


@dataclass
class Sums:
    """n, Σx and Σx² by metric."""

    by_metric: dict[str, list[float]] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if not math.isnan(value):
                sums = self.by_metric.setdefault(name, [0, 0.0, 0.0])
                sums[0] += 1
                sums[1] += value
                sums[2] += value * value


def compared(read: Read, pairs: Iterable[Pair]) -> Sums:
    """All pairs, one after the other."""
    sums = Sums()
    for pair in pairs:
        sums.add(observe(read, pair))
    return sums
