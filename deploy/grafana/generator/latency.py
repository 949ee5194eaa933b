"""Latency: is the candidate slower, for whom, and by how much."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, heatmap, timeseries
from grafana_foundation_sdk.models import units

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

THIRD, HALF = Box(8, 8), Box(12, 8)
TOOK = "shadowproxy_exchange_duration_seconds"
PAIRED = "shadowproxy_latency_seconds"
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


def _paired() -> list[timeseries.Panel]:
    """What the verdict itself says of latency: of the same requests, failures included."""
    made = []
    for timing, name in (("total", "last byte"), ("ttfb", "first byte")):
        for quantile in ("0.5", "0.9", "0.99"):
            series = API.of(PAIRED, f'timing="{timing}"', f'quantile="{quantile}"')
            made.append(
                colored(
                    lines(
                        f"p{float(quantile) * 100:g} to the {name}, of the pairs counted",
                        f"The {float(quantile):.0%} quantile of the time to the {name} of the answer, of all pairs "
                        "that the verdict has counted since the experiment began: every upstream answered the same "
                        "requests. No line where the quantile lies among the failures, which count as slower than any "
                        "answer.",
                        [Query(f"max by (side) ({series})", "{{side}}")],
                        units.Seconds,
                        THIRD,
                    ),
                    SIDES,
                )
            )
    return made


def _guarded() -> list[timeseries.Panel]:
    chosen = ('guardrail=~"latency.*"', 'cohort=~"$cohort"')
    estimate, margin = (
        f"max by (guardrail, cohort) ({API.of(f'shadowproxy_guardrail_{name}', *chosen)})"
        for name in ("estimate", "margin")
    )
    return [
        lines(
            "Guardrails on latency: estimate ÷ margin, by cohort",
            "How much of the slowness that is tolerated is used up, in each cohort; above 1, the red line, the "
            "estimate is beyond the margin. Whether that is proven says the overview. Empty where no guardrail "
            "is on latency.",
            [Query(f"{estimate} / {margin}", "{{guardrail}} · {{cohort}}")],
            units.NoUnit,
            Box(24, 8),
            least=None,
            limit=1,
        )
    ]


def _distributions() -> list[heatmap.Panel]:
    made = []
    for side in SIDES:
        took = PROXY.rate(f"{TOOK}_bucket", f'side="{side}"')
        made.append(
            buckets(
                side.capitalize(),
                f"How many answers of the {side} took how long, a second. Two bands are two kinds of request or of "
                "answer; a band that climbs is one that gets slower.",
                f"sum by (le) ({took})",
                THIRD,
            )
        )
    return made


def _means() -> list[timeseries.Panel]:
    seconds, answers = (f"sum by (side) ({PROXY.rate(f'{TOOK}_{what}')})" for what in ("sum", "count"))
    ended = f"sum by (side) ({PROXY.rate('shadowproxy_exchanges_total')})"
    failed = PROXY.rate("shadowproxy_exchanges_total", 'outcome!="ok"')
    return [
        colored(
            lines(
                "Mean, by upstream",
                "Mean time of answers that came whole.",
                [Query(f"{seconds} / ({answers} > 0)", "{{side}}")],
                units.Seconds,
                HALF,
            ),
            SIDES,
        ),
        colored(
            lines(
                "No whole answer, by upstream",
                "Share of the exchanges that brought none: they count as slower than any answer, and are in none of "
                "the other figures of this row. An upstream can look quick by failing.",
                [Query(f"sum by (side) ({failed}) / ({ended} > 0)", "{{side}}")],
                units.PercentUnit,
                HALF,
            ),
            SIDES,
        ),
    ]


def latency() -> dashboard.Dashboard:
    """Whether the candidate is slower."""
    made = start(
        "shadowproxy-latency",
        "shadowproxy: latency",
        "Is the candidate slower than the baseline, for whom, and by how much?",
        PROXY,
        API,
    )
    cohorts = API.of("shadowproxy_guardrail_margin")
    made.with_variable(variable("cohort", "Cohort", "For whom; `all` is every pair.", cohorts, "cohort"))
    for row, panels in (
        ("As the verdict has it, pair by pair", [*_guarded(), *_paired()]),
        ("As the proxy sees it, answer by answer", [*_by_upstream(), *_means()]),
        ("Distributions", _distributions()),
    ):
        made.with_row(dashboard.Row(row))
        for panel in panels:
            made.with_panel(panel)
    return made
