"""Latency: is the candidate slower, for whom, and by how much."""

from __future__ import annotations

from generator.parts import (
    API,
    PROXY,
    SIDES,
    Box,
    Query,
    buckets,
    colored,
    lines,
    start,
    variable,
)
from grafana_foundation_sdk.builders import dashboard, heatmap, timeseries
from grafana_foundation_sdk.models import units

THIRD, HALF = Box(8, 8), Box(12, 8)
TOOK = "shadowproxy_exchange_duration_seconds"
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def _by_upstream() -> list[timeseries.Panel]:
    names = {"p50": "Median", "p90": "90th percentile", "p99": "99th percentile"}
    return [
        colored(
            lines(
                f"{names[name]}, by upstream",
                "From the last byte of the request written to the last byte of the answer, of answers that came whole, "
                "all requests together, interpolated within the buckets of a histogram. Dots are single requests: "
                "their id leads to the pair. For a comparison of the same requests see the verdict's own, above.",
                [Query(PROXY.quantile(q, TOOK, by="side"), "{{side}}")],
                units.Seconds,
                THIRD,
                exemplars=True,
            ),
            SIDES,
        )
        for name, q in QUANTILES.items()
    ]


def _distributions() -> list[heatmap.Panel]:
    return [
        buckets(
            f"{side.capitalize()}",
            f"How many answers of the {side} took how long, a second. Two bands are two kinds of request, or of "
            "answer; a band that climbs is one that gets slower.",
            f"sum by (le) ({PROXY.rate(f'{TOOK}_bucket', f'side="{side}"' if False else _side(side))})",
            THIRD,
        )
        for side in SIDES
    ]
