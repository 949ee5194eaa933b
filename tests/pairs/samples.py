"""Pairs to write, and hypothesis strategies for any pair there can be."""

from __future__ import annotations

import json
import math

from hypothesis import strategies as st

from shadowproxy.model import Exchange, Outcome, Pair, Request


def pair(name: str, *, body: bytes | None = None) -> Pair:
    """A plausible pair of about 1 KB."""
    answer = json.dumps({"id": name, "items": list(range(50))}).encode() if body is None else body
    head = b"Content-Type: application/json\r\n"
    return Pair(
        id=name,
        started=1_700_000_000.25,
        request=Request("POST", "/v1/rank?k=50", b"Host: models\r\n", b'{"user": 7}', 11),
        baseline=Exchange(Outcome.OK, 200, head, answer, len(answer), b"", 0.010, 0.0125),
        candidate=Exchange(Outcome.TIMEOUT, detail="no answer within 10 s"),
    )


_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
_SECONDS = st.floats(allow_nan=False) | st.just(math.inf)
_SIZES = st.integers(0, 2**63 - 1)
_BYTES = st.binary(max_size=200)

EXCHANGES = st.builds(
    Exchange,
    outcome=st.sampled_from(Outcome),
    status=st.integers(0, 999),
    head=_BYTES,
    body=_BYTES | st.binary(min_size=1, max_size=20).map(lambda unit: unit * 300),
    body_size=_SIZES,
    digest=st.binary(max_size=16),
    ttfb=_SECONDS,
    total=_SECONDS,
    detail=_TEXT,
)
PAIRS = st.builds(
    Pair,
    id=_TEXT,
    started=_SECONDS,
    request=st.builds(Request, method=_TEXT, target=_TEXT, head=_BYTES, body=_BYTES, body_size=_SIZES),
    baseline=EXCHANGES,
    candidate=EXCHANGES,
    replica=st.none() | EXCHANGES,
    annotations=_BYTES,
)
BATCHES = st.lists(PAIRS, max_size=5)
