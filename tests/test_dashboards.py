"""The Grafana dashboards: made by the code beside them, of queries that mean what shadowproxy exports."""

from __future__ import annotations

import itertools
import math
import re

import pages
import promql_parser
import pytest
import yaml
from dashboards import BUILT_IN, FOLDER, dashboards, filled, panels, queries, selectors, used, variables
from prometheus import Observed

DASHBOARDS = dashboards()
ASKED = {name: list(queries(name, dashboard)) for name, dashboard in DASHBOARDS.items()}
OVERVIEW = DASHBOARDS["overview"]

TYPES = {"stat", "timeseries", "state-timeline", "table", "heatmap"}
"""None of them deprecated: `graph`, `singlestat`, `table-old` and `grafana-worldmap-panel` are."""

PROCESS = {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}
"""Of prometheus_client's own collector, which every process exports."""

EMPTY = {
    "Pairs to a promote": "there is none where harm is in sight, as in the run that is looked at",
    "Time to a promote": "as above",
    "Versions": "verdict.version_header is not set",
}
"""Panels that say so themselves where there is nothing, and why there is nothing."""

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


@pytest.mark.parametrize("name", DASHBOARDS)
def test_queries_parse_and_name_only_what_is_exported(name: str) -> None:
    assert {str(asked): wrong for asked in ASKED[name] if (wrong := faults(asked.expr))} == {}


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
    for asked in ASKED[name]:
        expr = filled(asked.expr, values)
        if asked.instant:
            told = [value for _, value in ask.query(expr)]
        else:
            series = ask.get("query_range", query=expr, start=f"{now - 60}", end=f"{now}", step="5")["result"]
            told = [float(value) for one in series for _, value in one["values"]]
        if not any(map(math.isfinite, told)) and asked.panel not in EMPTY:
            empty.append(str(asked))
    assert empty == [], "\n".join(empty)


def shown(title: str, observed: Observed, name: str = "overview") -> dict[tuple[str, ...], float]:
    """What a panel of one query shows now, by the values of the labels."""
    (expr,) = {asked.expr for asked in ASKED[name] if asked.panel == title}
    told = observed.prometheus.query(filled(expr, variables(DASHBOARDS[name], observed.prometheus)))
    return {tuple(labels[name] for name in sorted(labels)): value for labels, value in told}


def words(title: str) -> dict[float, str]:
    """What a panel of the overview calls its values."""
    (panel,) = (panel for panel in panels(OVERVIEW) if panel["title"] == title)
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    return {float(value): result["text"].lower() for value, result in mapping["options"].items()}


def test_the_overview_shows_what_the_api_says(observed: Observed) -> None:
    verdict = observed.api("verdict")
    cells = [*verdict["guardrails"], *(cell for one in verdict["cohorts"].values() for cell in one["guardrails"])]
    by_name = {(cell["cohort"], cell["guardrail"]): cell for cell in cells}
    assert {cell["finding"] for cell in cells} >= {"harmful", "undecided"}, "the run has little to show"

    (state,) = shown("Verdict", observed).values()
    assert words("Verdict")[state] == verdict["state"]
    assert shown("Pairs", observed) == {(): verdict["pairs"]}
    findings = shown("What is proven, by cohort", observed)
    assert {name: words("What is proven, by cohort")[value] for name, value in findings.items()} == {
        name: cell["finding"] for name, cell in by_name.items()
    }
    assert shown("What is proven, over time", observed) == findings
    assert shown("Estimate ÷ margin, by cohort", observed) == {
        name: pytest.approx(cell["estimate"] / cell["margin"])
        for name, cell in by_name.items()
        if cell["estimate"] is not None
    }
    for title, evidence, threshold in (
        ("Evidence that it is safe", "e_promote", "promote_at"),
        ("Evidence of harm, by cohort", "e_rollback", "rollback_at"),
    ):
        assert shown(title, observed) == {
            name: pytest.approx(min(2, max(0, math.log(max(cell[evidence], 1e-300)) / math.log(cell[threshold]))))
            for name, cell in by_name.items()
        }, title


def test_only_failures_that_happened_are_drawn(observed: Observed) -> None:
    failed = {
        (kind, side) for side, kinds in observed.api("verdict")["failures"].items() for kind, n in kinds.items() if n
    }
    assert failed, "the run has little to show"
    assert shown("Failures in pairs, by upstream and kind", observed, "comparator").keys() == failed
    assert shown("Dropped, by reason", observed, "traffic") == {("none",): 0}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_several_instances_and_workers_are_one_series(name: str) -> None:
    assert {str(asked): single for asked in ASKED[name] if (single := bare(parsed(asked.expr)))} == {}


def test_a_query_of_single_instances_would_be_noticed() -> None:
    assert bare(parsed('max by (side) (a{job="x"}) / (b{job="x"} > 0)')) == ["b"]


def bare(node: promql_parser.Expr) -> list[str]:
    """Metrics whose series no aggregation brings together."""
    if isinstance(node, promql_parser.AggregateExpr):
        return []
    if isinstance(node, promql_parser.VectorSelector):
        return [node.name]
    if isinstance(node, promql_parser.MatrixSelector):
        return [node.vector_selector.name]
    if isinstance(node, promql_parser.Call):
        return [name for argument in node.args for name in bare(argument)]
    if isinstance(node, promql_parser.BinaryExpr):
        return bare(node.lhs) + bare(node.rhs)
    return bare(node.expr) if hasattr(node, "expr") else []


def parsed(expr: str) -> promql_parser.Expr:
    """With something for every variable."""
    return promql_parser.parse(filled(expr, {name: BUILT_IN.get(name, "any") for name in used(expr)}))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_legends_have_all_labels_that_tell_series_apart_and_no_others(name: str) -> None:
    for asked in ASKED[name]:
        if not asked.instant and "by (le)" not in asked.expr:
            named = set(re.findall(r"\{\{(\w+)\}\}", asked.legend))
            assert named == left(parsed(asked.expr)) - {asked.repeated}, str(asked)


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
        assert live["url"] == "${page:raw}/"


def test_the_files_are_what_the_code_makes() -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="the extra `dashboards` is not installed")
    from generator import written

    there = {path.name: path.read_text() for path in (FOLDER / "dashboards").glob("*.json")}
    assert there == written(), "run `make dashboards`"


def test_grafana_finds_all_that_it_is_given(observed: Observed) -> None:
    (source,) = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "prometheus.yaml").read_text())["datasources"]
    scraped = yaml.safe_load((FOLDER.parent / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]
    (pair,) = source["jsonData"]["exemplarTraceIdDestinations"]
    assert f'# {{{pair["name"]}="' in observed.page("proxy_admin", accept="application/openmetrics-text; version=1.0.0")
    (provider,) = yaml.safe_load((FOLDER / "provisioning" / "dashboards" / "shadowproxy.yaml").read_text())["providers"]
    assert f"/dashboards:{provider['options']['path']}:ro" in (FOLDER.parent.parent / "docs" / "grafana.md").read_text()
