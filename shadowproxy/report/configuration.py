"""A configuration as a table: what is compared, and which guardrails follow."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from shadowproxy.config import Settings
from shadowproxy.verdict.guardrails.rules import Rule


def configuration_table(settings: Settings, rules: Sequence[Rule]) -> RenderableType:
    """Upstreams, routes and the resolved guardrails with their margins."""
    upstreams = Table("upstream", "url", "deadline", title="upstreams", title_justify="left")
    for side in ("baseline", "candidate", "replica"):
        upstream = getattr(settings, side)
        if upstream is not None:
            upstreams.add_row(side, Text(upstream.url), f"{upstream.deadline:g} s")
    routes = Table("route", "path", "extracts", "cohorts", title="routes", title_justify="left")
    for route in settings.routes:
        routes.add_row(
            route.name, Text(route.path), ", ".join(sorted(route.offers)) or "–", ", ".join(route.cohorts) or "–"
        )
    guardrails = Table("guardrail", "margin", "in a cohort", title="guardrails", title_justify="left")
    for rule in rules:
        guardrails.add_row(rule.name, f"{rule.margin:g}", f"{rule.cohort_margin:g}")
    shown: list[RenderableType] = [upstreams, *([routes] if settings.routes else []), guardrails]
    return Group(*shown)
