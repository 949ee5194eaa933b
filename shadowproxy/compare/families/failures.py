"""Failures: which exchanges failed, and which pairs have content to compare.

Both are decided symmetrically, from the two exchanges alike, so that which pairs count never favours a side.

An exchange **failed** when, in this order,

* transport failed: kind `timeout`, `connect`, `reset`, `protocol` or `shed`, the outcome's word;
* the status is no final HTTP status (below 200 or above 599): `protocol`;
* the status is 5xx: `http_5xx`;
* the status is 4xx *and the other side's is not*: `http_4xx`. Where both answer 4xx the request was wrong; that is the
  client's fault and nobody's failure. Where only one does, that side refuses what the other serves;
* the route needs the body, and it can't be used: a kind of `bodies.BodyError`. A status without a body (204, 3xx, an
  answer to HEAD) fails in this way too where the other side sent one.

Content is **comparable** unless both sides answer 4xx, or both without a body: then there is nothing in the answers
that the route could compare, and the metrics of content are not applicable. A pair with a failed side stays
comparable: each family defines what a failed side is worth.

Metric `failures.difference` = 1{candidate failed} − 1{baseline failed}, in {−1, 0, 1}; always applicable, never
undefined. STATISTICS §5.

Metric `failures.candidate` = 1{candidate failed}: how often it fails, whatever the baseline does; for a promise that is
absolute. Always applicable, never undefined. (A 4xx is still no failure where the baseline answers 4xx too.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import numpy as np

from shadowproxy.compare.extraction.bodies import BodyFault
from shadowproxy.compare.view import Values, View
from shadowproxy.model import Exchange, Outcome, Pair, Side

KINDS: tuple[str, ...] = (
    *(outcome.value for outcome in Outcome if outcome is not Outcome.OK),
    "http_4xx",
    "http_5xx",
    *get_args(BodyFault),
)
"""Every kind of failure there is. Appended to, never reordered: they are columns of stored counts."""


_OK = Outcome.OK
_BODILESS = (204, 205)


def kinds(pair: Pair) -> tuple[str, str]:
    """The kind of failure of (baseline, candidate) as far as it shows without their bodies; empty where none does."""
    baseline, candidate = _alone(pair.baseline), _alone(pair.candidate)
    if _refused(pair.baseline) != _refused(pair.candidate):
        baseline = baseline or ("http_4xx" if _refused(pair.baseline) else "")
        candidate = candidate or ("http_4xx" if _refused(pair.candidate) else "")
    return baseline, candidate


def answered(pair: Pair) -> bool:
    """Whether both sides gave a 2xx with a body, as nearly all do: then neither failed, and content is compared."""
    a, b = pair.baseline, pair.candidate
    return (
        a.outcome is _OK
        and b.outcome is _OK
        and 200 <= a.status < 300
        and 200 <= b.status < 300
        and a.status not in _BODILESS
        and b.status not in _BODILESS
        and pair.request.method != "HEAD"
    )


def kind_alone(exchange: Exchange) -> str:
    """The kind of failure of a replica's exchange, as far as it shows without its body; empty where none does.

    Where content is compared the others' answers are no 4xx, or have failed: it should not be one either.
    """
    return _alone(exchange) or ("http_4xx" if _refused(exchange) else "")


def comparable(pair: Pair) -> bool:
    """Whether the content of the two answers is to be compared."""
    if _refused(pair.baseline) and _refused(pair.candidate):
        return False
    return not (_bodiless(pair, pair.baseline) and _bodiless(pair, pair.candidate))


def _alone(exchange: Exchange) -> str:
    if exchange.outcome is not _OK:
        return str(exchange.outcome)
    if not 200 <= exchange.status <= 599:
        return "protocol"
    return "http_5xx" if exchange.status >= 500 else ""


def _refused(exchange: Exchange) -> bool:
    return exchange.outcome is _OK and 400 <= exchange.status < 500


def _bodiless(pair: Pair, exchange: Exchange) -> bool:
    if exchange.outcome is not _OK or not 200 <= exchange.status < 400:
        return False
    return pair.request.method == "HEAD" or exchange.status in _BODILESS or exchange.status >= 300


def failures(view: View) -> Mapping[str, Values]:
    """The family `failures`."""
    always = np.ones(len(view), np.bool_)
    candidate = view.failed[Side.CANDIDATE].astype(np.float64)
    return {
        "failures.difference": Values(candidate - view.failed[Side.BASELINE], always),
        "failures.candidate": Values(candidate, always),
    }
