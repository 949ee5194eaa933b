"""Figures as self-contained HTML pages (extra `plots`): one file, which needs no network to be looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence

from shadowproxy.errors import StartError
from shadowproxy.report.planning import pairs
from shadowproxy.report.words import figure, lasting, plain
from shadowproxy.verdict.planning import Curve, Row

try:
    import plotly.graph_objects as go
except ImportError:
    raise StartError("--html needs plotly, which is not installed: pip install 'shadowproxy[plots]'") from None

_TIMES = (1, 10, 60, 600, 3600, 6 * 3600, 86_400, 7 * 86_400, 30 * 86_400, 365 * 86_400)
_ROOM = 1.6
"""Free space above and below the curves, as a factor."""


def plan_page(rows: Sequence[Row], curves: Sequence[Curve], *, rate: float | None, horizon: int | None) -> str:
    """Pairs that prove each guardrail safe against its margin, the chosen one marked; with a rate, time beside them."""
    chart = go.Figure()
    seen: list[float] = []
    for row, found in zip(rows, curves, strict=True):
        name = plain(row.case.name)
        heights = [value if math.isfinite(value) else None for value in found.median]
        seen += [value for value in (*heights, row.safe.median) if value is not None and math.isfinite(value)]
        chart.add_scatter(
            x=list(found.margins), y=heights, mode="lines", name=name, legendgroup=name,
            hovertemplate=f"{name}<br>margin %{{x:.3g}}: %{{y:,.0f}} pairs<extra></extra>",
        )  # fmt: skip
        if math.isfinite(row.safe.median):
            said = f"{name}: margin {figure(row.case.margin, signed=False)}, {pairs(row.safe.median)} pairs"
            time = f", {lasting(row.safe.median / rate)}" if rate else ""
            chart.add_scatter(
                x=[row.case.margin], y=[row.safe.median], mode="markers", name=f"{name}, chosen", legendgroup=name,
                showlegend=False, marker={"size": 11, "symbol": "diamond"},
                hovertemplate=f"{said}{time}<extra></extra>",
            )  # fmt: skip
    ends = (max(1.0, min(seen, default=1.0) / _ROOM), max(seen, default=1000.0) * _ROOM)
    _lay_out(chart, ends, rate)
    if horizon is not None:
        chart.add_hline(y=horizon, line_dash="dash", annotation_text=f"horizon, {horizon:,} pairs")
    page: str = chart.to_html(include_plotlyjs=True, full_html=True, div_id="plan")
    return page


def _lay_out(chart: go.Figure, ends: tuple[float, float], rate: float | None) -> None:
    low, high = (math.log10(end) for end in ends)
    chart.update_layout(
        title="Pairs until a guardrail is proven safe, in half of the experiments",
        template="plotly_white",
        colorway=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"],
        xaxis={"type": "log", "title": "margin, in the unit of the metric"},
        yaxis={"type": "log", "title": "pairs", "range": [low, high]},
        legend={"orientation": "h", "y": -0.2},
    )
    if rate:
        ticks = [time for time in _TIMES if ends[0] / rate <= time <= ends[1] / rate]
        chart.add_scatter(x=[None], y=[None], yaxis="y2", showlegend=False, hoverinfo="skip")
        chart.update_layout(
            yaxis2={
                "type": "log", "overlaying": "y", "side": "right", "title": f"time, at {rate:g} pairs a second",
                "range": [low - math.log10(rate), high - math.log10(rate)], "showgrid": False,
                "tickvals": ticks, "ticktext": [lasting(time) for time in ticks],
            }
        )  # fmt: skip
