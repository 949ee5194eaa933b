"""The dashboards as Grafana reads them: their panels, their queries, and what it puts in for variables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
from prometheus import Prometheus

FOLDER = Path(__file__).parent.parent / "deploy" / "grafana"

# As Grafana computes them from the time range and the panel's width. A range of an hour: whatever was counted since
# the server under test was started is in it.
BUILT_IN = {"__rate_interval": "1h", "__interval": "15s", "__range": "1h", "__range_s": "3600"}

_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)(?:\.[^}:]*)?(?::\w+)?\}|\[\[(\w+)\]\]")
_LABEL_VALUES = re.compile(r"label_values\((?:(.*),\s*)?(\w+)\)")


@dataclass(frozen=True)
class Asked:
    """One query of one panel."""

    dashboard: str
    panel: str
    expr: str
    instant: bool
    legend: str
    repeated: str | None
    """The variable of whose values each has a panel of its own."""

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel}: {self.expr}"


def dashboards() -> dict[str, dict[str, Any]]:
    """Those that are checked in, by the names of their files."""
    return {path.stem: json.loads(path.read_text()) for path in sorted((FOLDER / "dashboards").glob("*.json"))}


def panels(dashboard: Mapping[str, Any], *, rows: bool = False) -> Iterator[dict[str, Any]]:
    """All panels, those in closed rows included."""
    for panel in dashboard["panels"]:
        if panel["type"] != "row" or rows:
            yield panel
        yield from panel.get("panels") or ()


def queries(name: str, dashboard: Mapping[str, Any]) -> Iterator[Asked]:
    """All that a dashboard asks."""
    row: dict[str, Any] = {}
    for panel in panels(dashboard, rows=True):
        if panel["type"] == "row":
            row = panel
        for target in panel.get("targets", ()):
            instant, legend = target.get("instant", False), target.get("legendFormat", "")
            yield Asked(name, panel["title"], target["expr"], instant, legend, row.get("repeat"))


def used(text: str) -> set[str]:
    """The variables that a text has places for."""
    return {next(filter(None, match.groups())) for match in _VARIABLE.finditer(text)}


def filled(text: str, values: Mapping[str, str]) -> str:
    """With values in these places. Raises KeyError where there is none: Grafana would leave the name standing."""
    return _VARIABLE.sub(lambda match: values[next(filter(None, match.groups()))], text)


def variables(dashboard: Mapping[str, Any], ask: Prometheus) -> dict[str, str]:
    """What stands for each variable when a dashboard is opened: all that there is, as a regular expression; of a
    variable of one value the first. Those that are asked for see the values of those before them."""
    values = dict(BUILT_IN)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = label_values(filled(variable["query"]["query"], values), ask)
            assert found, f"{dashboard['title']}: nothing to choose from for {variable['name']}"
            chosen = found if variable.get("includeAll") else found[:1]
            values[variable["name"]] = "|".join(re.escape(one).replace("\\", "\\\\") for one in chosen)
        elif variable["type"] == "datasource":
            values[variable["name"]] = "prometheus"
        else:
            values[variable["name"]] = variable["query"]
    return values


def label_values(query: str, ask: Prometheus) -> list[str]:
    """As Grafana's Prometheus data source reads it."""
    asked = _LABEL_VALUES.fullmatch(query)
    assert asked, f"{query} is no query for the values of a label"
    found: list[str] = ask.get(f"label/{asked[2]}/values", **{"match[]": asked[1]})
    return found


def selectors(expr: str) -> list[promql_parser.VectorSelector]:
    """Every selection of series in a query. Raises ValueError where it is no PromQL."""
    found: list[promql_parser.VectorSelector] = []

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expr), visit)
    return found
