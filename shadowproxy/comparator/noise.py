"""What recorded pairs say of each guardrail's loss: its mean and its deviation, for planning."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from shadowproxy.compare.comparer import Comparer
from shadowproxy.config import Settings
from shadowproxy.model import Pair
from shadowproxy.pairs.lines import Recorded
from shadowproxy.pairs.recorded import Unreadable
from shadowproxy.stats.additive import FloatArray
from shadowproxy.verdict.guardrails.ratios import PairedLatencies
from shadowproxy.verdict.plan import Plan
from shadowproxy.verdict.planning import Noise

_AT_ONCE = 500


def seen_noise(found: Iterable[Recorded | Unreadable], settings: Settings) -> dict[str, Noise]:
    """By guardrail, mean and standard deviation of its loss over the pairs that have one.

    Of a quantile of latency: by how much the candidate is slower (the geometric mean), the deviation of the baseline's
    logarithm, and the correlation; of the pairs in which both answered in time.
    """
    comparer, plan = Comparer(settings.routes), Plan(settings)
    latencies = {
        rule.name: PairedLatencies(rule, settings, 1) for rule in plan.rules if rule.metric.quantile is not None
    }
    sums: dict[str, FloatArray] = {}
    for pairs in _batches(found):
        columns = comparer(pairs)
        rows = {rule.name: losses[:, np.newaxis] for rule, _, losses in plan.losses(columns)}
        with np.errstate(divide="ignore"):
            rows |= {name: np.log(paired.seconds(columns)) for name, paired in latencies.items()}
        for name, values in rows.items():
            known = values[np.isfinite(values).all(axis=1)]
            moments = np.concatenate([np.ones((len(known), 1)), known], axis=1)
            sums[name] = sums.get(name, 0.0) + moments.T @ moments
    return {name: _noise(moments) for name, moments in sums.items() if moments[0, 0]}


def _noise(moments: FloatArray) -> Noise:
    mean = moments[0, 1:] / moments[0, 0]
    covariance = moments[1:, 1:] / moments[0, 0] - np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    if len(mean) == 1:
        return Noise(float(mean[0]), float(deviation[0]), "recorded")
    both = float(deviation[0] * deviation[1])
    correlation = min(1.0, max(-1.0, float(covariance[0, 1]) / both)) if both else 0.0
    return Noise(math.expm1(float(mean[1] - mean[0])), float(deviation[0]), "recorded", correlation)


def _batches(found: Iterable[Recorded | Unreadable]) -> Iterator[list[Pair]]:
    batch: list[Pair] = []
    for one in found:
        if isinstance(one, Recorded):
            batch.append(one.pair)
        if len(batch) >= _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
