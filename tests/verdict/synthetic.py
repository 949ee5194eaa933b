"""Batches of compared pairs, made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from shadowproxy.compare.columns import Columns, Scores
from shadowproxy.config import Settings
from shadowproxy.model import Accounting, Side
from shadowproxy.verdict.record import Facts


def settings(**parts: object) -> Settings:
    # Most of what is made up here begins all at once.
    policy = {"min_duration": 0, **dict(parts.pop("verdict", {}))}
    return Settings.model_validate({"baseline": "http://a:1", "candidate": "http://b:1", "verdict": policy, **parts})


def columns(
    n: int,
    values: Mapping[str, ArrayLike] | None = None,
    *,
    started: ArrayLike = 1000.5,
    route: ArrayLike = 0,
    cohorts: Sequence[tuple[str, ...]] | None = None,
    applicable: Mapping[str, ArrayLike] | None = None,
    kinds: Mapping[Side, Sequence[str]] | None = None,
    seconds: float = 0.02,
) -> Columns:
    """n pairs; a metric of `values` is applicable to all of them unless said otherwise."""
    values = values or {}
    failure = {side: tuple((kinds or {}).get(side, ("",) * n)) for side in (Side.BASELINE, Side.CANDIDATE)}
    failed = {side: np.array([bool(kind) for kind in found], np.bool_) for side, found in failure.items()}
    latency = {side: np.where(down, np.inf, seconds) for side, down in failed.items()}
    return Columns(
        started=np.broadcast_to(np.asarray(started, float), n).copy(),
        route=np.broadcast_to(np.asarray(route, np.int32), n).copy(),
        cohorts=((),) * n if cohorts is None else tuple(cohorts),
        account=np.zeros(n, np.uint64),
        values={name: np.broadcast_to(np.asarray(column, float), n).copy() for name, column in values.items()},
        applicable={
            name: np.broadcast_to(np.asarray((applicable or {}).get(name, True), bool), n).copy() for name in values
        },
        failed=failed,
        failure=failure,
        ttfb=latency,
        total=latency,
    )


def take(batch: Columns, at: np.ndarray) -> Columns:
    """The pairs at these places, in this order."""
    return Columns(
        started=batch.started[at],
        route=batch.route[at],
        cohorts=tuple(batch.cohorts[i] for i in at),
        account=batch.account[at],
        values={name: column[at] for name, column in batch.values.items()},
        applicable={name: column[at] for name, column in batch.applicable.items()},
        failed={side: column[at] for side, column in batch.failed.items()},
        failure={side: tuple(column[i] for i in at) for side, column in batch.failure.items()},
        ttfb={side: column[at] for side, column in batch.ttfb.items()},
        total={side: column[at] for side, column in batch.total.items()},
    )


def with_scores(batch: Columns, scores: Mapping[Side, tuple[ArrayLike, ArrayLike]]) -> Columns:
    """The batch with scores: by side, the pairs they belong to and their values."""
    return replace(
        batch,
        scores={
            side: Scores(np.asarray(pair, np.int64), np.asarray(value, float)) for side, (pair, value) in scores.items()
        },
    )


def facts(**parts: object) -> Facts:
    defaults = {
        "at": 2000.0,
        "experiment": "default-0",
        "accounting": Accounting(requests=10_000, eligible=10_000, recorded=10_000),
    }
    return Facts(**{**defaults, **parts})
