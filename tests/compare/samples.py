"""Pairs made by hand: the routes and records that the tests of `compare/` share."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from shadowproxy.compare.columns import Columns
from shadowproxy.config import Route
from shadowproxy.model import Exchange, Outcome, Pair, Request, Side

A, B = Side.BASELINE, Side.CANDIDATE

LISTS = Route(
    name="lists",
    ids="response.body.items[*].id",
    scores="response.body.items[*].score",
    truth="annotations.truth",
    slow=0.5,
)


def answer(body: Any = None, *, status: int = 200, head: bytes = b"", took: float = 0.02) -> Exchange:
    """A complete response; `body` is JSON unless it is bytes."""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return Exchange(Outcome.OK, status, head, raw, len(raw), ttfb=took / 2, total=took)


def failure(outcome: Outcome = Outcome.TIMEOUT) -> Exchange:
    return Exchange(outcome, detail="made to fail")


def pair(
    baseline: Exchange,
    candidate: Exchange,
    *,
    body: Any = b"",
    annotations: Any = b"",
    target: str = "/rank",
    method: str = "POST",
    head: bytes = b"",
) -> Pair:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    notes = annotations if isinstance(annotations, bytes) else orjson.dumps(annotations)
    request = Request(method, target, head, raw, len(raw))
    return Pair("id", 1e9, request, baseline, candidate, annotations=notes)


def items(ids: list[Any], scores: list[Any] | None = None) -> dict[str, Any]:
    """The body that `LISTS` reads."""
    values = scores if scores is not None else [None] * len(ids)
    return {"items": [{"id": name, "score": score} for name, score in zip(ids, values, strict=True)]}


def value(columns: Columns, metric: str, row: int = 0) -> float | None:
    """The value of one row: NaN where undefined, None where not applicable."""
    if not columns.applicable[metric][row]:
        assert np.isnan(columns.values[metric][row])
        return None
    return float(columns.values[metric][row])
