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
from shadowproxy.verdict.plan import Plan

_AT_ONCE = 500


def seen_noise(found: Iterable[Recorded | Unreadable], settings: Settings) -> dict[str, tuple[float, float]]:
    """By guardrail, mean and standard deviation of its loss over the pairs that have one."""
    comparer, plan = Comparer(settings.routes), Plan(settings)
    sums: dict[str, tuple[int, float, float]] = {}
    for pairs in _batches(found):
        for rule, _, losses in plan.losses(comparer(pairs)):
            known = losses[~np.isnan(losses)]
            n, total, squares = sums.get(rule.name, (0, 0.0, 0.0))
            sums[rule.name] = n + len(known), total + float(known.sum()), squares + float(np.square(known).sum())
    return {
        name: (total / n, math.sqrt(max(0.0, squares / n - (total / n) ** 2)))
        for name, (n, total, squares) in sums.items()
        if n
    }


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
