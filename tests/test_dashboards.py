"""The Grafana dashboards: made by the code beside them, of queries that mean what shadowproxy exports."""

from __future__ import annotations

import itertools
import math
import re

import pages
import promql_parser
import pytest
from dashboards import BUILT_IN, FOLDER, Asked, dashboards, filled, panels, queries, selectors, used, variables
from prometheus import Observed

DASHBOARDS = dashboards()
ASKED = [asked for name, dashboard in DASHBOARDS.items() for asked in queries(name, dashboard)]

TYPES = {"stat", "timeseries", "state-timeline", "table", "heatmap"}
"""None of them deprecated: `graph`, `singlestat`, `table-old` and `grafana-worldmap-panel` are."""

PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}
"""Of prometheus_client's own collector, which every process exports."""

ADDED = {"job", "instance", "worker"}
"""Labels that come with the scrape, or with a proxy of several workers."""


def exported() -> dict[str, set[str]]:
    """Every series that shadowproxy has, by name, and the labels it may bear."""
    found: dict[str, set[str]] = {name: set() for name in PROCESS}
    for registry in pages.filled().values():
        for family in registry.collect():
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


EXPORTED = exported()


def faults(expr: str) -> list[str]:
    """What is wrong with a query, its variables filled in with anything: no PromQL, or not of what is exported."""
    known = EXPORTED
    wrong = []
    try:
        found = selectors(filled(expr, {name: BUILT_IN.get(name, "any") for name in used(expr)}))
    except ValueError as error:
        return [f"{expr}: {error}"]
    for selector in found:
        if selector.name not in known:
            wrong.append(f"{selector.name} is not exported")
            continue
        labels = {matcher.name for matcher in selector.matchers.matchers}
        wrong += [f"{selector.name} has no label {label}" for label in labels - known[selector.name] - ADDED]
        wrong += [f"{selector.name} is of any {label}" for label in {"job", "instance"} - labels]
    return wrong


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_query_parses_and_names_only_what_is_exported(asked: Asked) -> None:
    assert faults(asked.expr) == []


@pytest.mark.parametrize(
    ("expr", "fault"),
    [
        ("sum(rate(shadowproxy_request_total[5m]))", "not exported"),
        ('sum(rate(shadowproxy_requests_total{job="a", instance="b", side="c"}[5m]))', "no label side"),
        ('shadowproxy_requests_total{job="a"}', "any instance"),
        ("sum(rate(shadowproxy_requests_total[5m])", "unclosed"),
    ],
)
def test_a_wrong_query_would_be_noticed(expr: str, fault: str) -> None:
    assert any(fault in found for found in faults(expr)), faults(expr)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_query_has_data_of_a_running_shadowproxy(name: str, observed: Observed) -> None:
    ask = observed.prometheus
    values = variables(DASHBOARDS[name], ask)
    now = ask.value("time()")
    empty = []
    for asked in (asked for asked in ASKED if asked.dashboard == name):
        expr = filled(asked.expr, values)
        if asked.instant:
            told = [value for _, value in ask.query(expr)]
        else:
            series = ask.get("query_range", query=expr, start=f"{now - 60}", end=f"{now}", step="5")["result"]
            told = [float(value) for one in series for _, value in one["values"]]
        if not any(map(math.isfinite, told)):
            empty.append(str(asked))
    assert empty == []


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_legend_has_only_labels_that_the_query_leaves(asked: Asked) -> None:
    top = promql_parser.parse(filled(asked.expr, {name: BUILT_IN.get(name, "any") for name in used(asked.expr)}))
    named = set(re.findall(r"\{\{(\w+)\}\}", asked.legend))
    assert named <= left(top)


def left(node: promql_parser.Expr) -> set[str]:
    """The labels that an expression's series have, as far as its aggregations say."""
    if isinstance(node, promql_parser.AggregateExpr):
        return set(node.modifier.labels) if node.modifier is not None else set()
    if isinstance(node, promql_parser.ParenExpr | promql_parser.UnaryExpr):
        return left(node.expr)
    if isinstance(node, promql_parser.BinaryExpr):
        return left(node.lhs) | left(node.rhs)
    if isinstance(node, promql_parser.Call):
        labels = set().union(*map(left, node.args))
        return labels - {"le"} if node.func.name == "histogram_quantile" else labels
    return set()


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_are_explained_and_none_is_deprecated(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard["schemaVersion"] >= 39
    for panel in panels(dashboard):
        assert panel["type"] in TYPES, panel["title"]
        assert len(panel["description"].split()) >= 6, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), panel["title"]
    identifiers = [panel["id"] for panel in panels(dashboard, rows=True)]
    assert len(set(identifiers)) == len(identifiers)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap(name: str) -> None:
    places = [panel["gridPos"] for panel in panels(DASHBOARDS[name], rows=True)]
    for place in places:
        assert place["x"] + place["w"] <= 24
    for one, other in itertools.combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_variables_are_there_and_are_used(name: str) -> None:
    dashboard = DASHBOARDS[name]
    defined = {variable["name"] for variable in dashboard["templating"]["list"]}
    bodies = [*dashboard["panels"], *dashboard["templating"]["list"], *dashboard["links"]]
    places = set().union(*(used(text) for body in bodies for text in texts(body)))
    assert places - BUILT_IN.keys() - {"__value", "__field", "__data", "__all"} == defined
    assert {"datasource", "job", "page"} <= defined


def texts(body: object) -> list[str]:
    """Every text in a document that Grafana fills in."""
    if isinstance(body, dict):
        repeated = [f"${body['repeat']}"] if body.get("repeat") else []
        return repeated + [text for key, value in body.items() if key != "description" for text in texts(value)]
    if isinstance(body, list):
        return [text for value in body for text in texts(value)]
    return [body] if isinstance(body, str) else []


def test_dashboards_lead_to_each_other_and_to_the_live_page() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)
    for dashboard in DASHBOARDS.values():
        assert "shadowproxy" in dashboard["tags"]
        others, live = dashboard["links"]
        assert (others["type"], others["tags"], others["includeVars"], others["keepTime"]) == (
            "dashboards",
            ["shadowproxy"],
            True,
            True,
        )
        assert live["url"] == "${page}/"


def test_the_files_are_what_the_code_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="the extra `dashboards` is not installed")
    from generator import written

    there = {path.name: path.read_text() for path in (FOLDER / "dashboards").glob("*.json")}
    assert there == written(), "run `make dashboards`"
