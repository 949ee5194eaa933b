"""What every dashboard is made of: selections of series, queries, panels, variables and links.

A panel here always has a description, a unit and a size: they are parameters without a default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from grafana_foundation_sdk.builders import common as build
from grafana_foundation_sdk.builders import (
    dashboard,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "shadowproxy"

GREEN, RED, AMBER, GREY, BLUE, PURPLE = "green", "red", "orange", "#808080", "blue", "purple"
SIDES = {"baseline": BLUE, "candidate": AMBER, "replica": PURPLE}
"""An upstream has the same colour on every panel."""

LIVE = "${page:raw}/"

Panel = TypeVar("Panel", timeseries.Panel, stat.Panel, table.Panel, heatmap.Panel, statetimeline.Panel)


class Query(NamedTuple):
    """One line of PromQL and what its series are called."""

    expr: str
    legend: str = ""


class Box(NamedTuple):
    """Size of a panel: a row has 24 columns; one unit of height is about 30 pixels."""

    width: int
    height: int


class Value(NamedTuple):
    """What a number stands for."""

    text: str
    color: str


class Process(NamedTuple):
    """One kind of process; `name` is the variable that says which instances of it are shown.

    Kinds have a variable each, since a link takes the variables along to dashboards that show another kind.
    """

    name: str
    label: str
    why: str
    known_by: str
    """A metric that only this kind has, always."""

    def of(self, metric: str, *matchers: str) -> str:
        """Series of a metric in the chosen job and instances."""
        chosen = ('job=~"$job"', f'instance=~"${self.name}"')
        return f"{metric}{{{', '.join((*chosen, *matchers))}}}"

    def rate(self, metric: str, *matchers: str) -> str:
        """A counter's growth a second; what was reset by a restart is no fall."""
        return f"rate({self.of(metric, *matchers)}[$__rate_interval])"

    def happened(self, metric: str, by: str, *matchers: str) -> str:
        """A counter's growth a second, by some labels: of those that grew in the time range at all. Most of what can
        go wrong never does, and would be a line at 0 each.
        """
        grew = f"increase({self.of(metric, *matchers)}[$__range])"
        return f"sum by ({by}) ({self.rate(metric, *matchers)}) and sum by ({by}) ({grew}) > 0"

    def quantile(self, q: float, histogram: str, *matchers: str, by: str = "") -> str:
        """A quantile of a histogram's last minutes, all instances and workers together."""
        labels = f"le, {by}" if by else "le"
        return f"histogram_quantile({q:g}, sum by ({labels}) ({self.rate(f'{histogram}_bucket', *matchers)}))"

    def states(self, metric: str, values: Mapping[str, int], *matchers: str, by: str = "") -> str:
        """A state set as one number: of what several instances say the greatest."""
        parts = []
        for state, number in values.items():
            in_it = self.of(metric, f'{metric}="{state}"', *matchers)
            parts.append(f"{in_it} * {number}")
        return f"max by ({by}) ({' or '.join(parts)})"


API = Process("api", "API", "Processes that work out the verdict.", "shadowproxy_experiment_info")
PROXY = Process("proxy", "Proxy", "Proxies; one with several workers is one instance.", "shadowproxy_requests_total")
COMPARATOR = Process("comparator", "Comparator", "Comparator processes.", "shadowproxy_compared_pairs_total")


def or_zero(expr: str, **labels: str) -> str:
    """0 where there are no series at all: of what never happened a counter by reason has none, and a panel that says
    "no data" then reads as a fault. `labels` name the zero as the legend of the others does.
    """
    zero = "vector(0)"
    for label, value in labels.items():
        zero = f'label_replace({zero}, "{label}", "{value}", "", "")'
    return f"({expr}) or on () {zero}"


def target(query: Query, ref: str, *, instant: bool = False, exemplars: bool = False) -> prometheus.Dataquery:
    """As Grafana has it; `ref` is the letter that overrides and transformations know it by."""
    made = prometheus.Dataquery().datasource(SOURCE).expr(query.expr).ref_id(ref)
    if query.legend:
        made.legend_format(query.legend)
    if instant:
        return made.instant()
    return made.range().exemplar(exemplars)


def _described(panel: Panel, title: str, why: str, unit: str, box: Box) -> Panel:
    panel.title(title).description(why).datasource(SOURCE).unit(unit).span(box.width).height(box.height)
    return panel


def mapping(values: Mapping[int, Value]) -> list[model.ValueMapping]:
    """Numbers shown as words in colour; the word alone says it too."""
    results = {
        str(number): model.ValueMappingResult(text=value.text, color=value.color, index=index)
        for index, (number, value) in enumerate(values.items())
    }
    return [model.ValueMap(options=results)]


def steps(base: str, above: Mapping[float, str] = {}) -> dashboard.ThresholdsConfig:
    """`base`, and another colour from each value on."""
    made = [model.Threshold(value=None, color=base)]
    made += [model.Threshold(value=value, color=color) for value, color in above.items()]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def figure(
    title: str,
    why: str,
    query: Query,
    unit: str,
    box: Box,
    *,
    colors: dashboard.ThresholdsConfig | None = None,
    values: Mapping[int, Value] | None = None,
    missing: str = "no data",
    named: bool = False,
) -> stat.Panel:
    """One number, large, as it is now; or, with `named`, what its series are called."""
    panel = _described(stat.Panel(), title, why, unit, box).with_target(target(query, "A", instant=True))
    panel.no_value(missing).graph_mode(common.BigValueGraphMode.NONE).reduce_options(
        build.ReduceDataOptions().calcs(["lastNotNull"])
    )
    panel.color_mode(common.BigValueColorMode.BACKGROUND if values else common.BigValueColorMode.VALUE)
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    panel.thresholds(colors or steps("text"))
    if named:
        panel.text_mode(common.BigValueTextMode.NAME)
    if values:
        panel.mappings(mapping(values))
    return panel


def lines(
    title: str,
    why: str,
    queries: Sequence[Query],
    unit: str,
    box: Box,
    *,
    least: float | None = 0,
    stacked: bool = False,
    exemplars: bool = False,
    limit: float | None = None,
) -> timeseries.Panel:
    """Series over time. `limit` draws a red line at a value that means something."""
    panel = _described(timeseries.Panel(), title, why, unit, box)
    for ref, query in zip("ABCDEFGHIJKL", queries, strict=False):
        panel.with_target(target(query, ref, exemplars=exemplars))
    panel.line_width(1).fill_opacity(35 if stacked else 6).show_points(common.VisibilityMode.NEVER)
    panel.legend(
        build.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    panel.tooltip(build.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    if least is not None:
        panel.axis_soft_min(least)
    if stacked:
        panel.stacking(build.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if limit is not None:
        panel.thresholds(steps("transparent", {limit: RED}))
        panel.thresholds_style(build.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    return panel


def colored(panel: timeseries.Panel, colors: Mapping[str, str]) -> timeseries.Panel:
    """Series whose names begin so have that colour."""
    for name, color in colors.items():
        panel.override_by_regexp(f"/^{name}/", [prop("color", {"mode": "fixed", "fixedColor": color})])
    return panel


def prop(name: str, value: Any) -> model.DynamicConfigValue:
    """A property of an override."""
    return model.DynamicConfigValue(id_val=name, value=value)


def linked(title: str, url: str) -> list[Builder[model.DashboardLink]]:
    """What a click on a value offers."""
    return [dashboard.DashboardLink(title).url(url).target_blank(True)]


def pairs(guardrail: str, cohort: str) -> list[Builder[model.DashboardLink]]:
    """A link to the pairs that stand out by a guardrail in a cohort, by what Grafana calls the two for a value."""
    chosen = f"guardrail=${{{guardrail}:percentencode}}&cohort=${{{cohort}:percentencode}}"
    return linked("Worst pairs, on the live page", f"{LIVE}#pairs&{chosen}")


OF_SERIES = ("__field.labels.guardrail", "__field.labels.cohort")


def timeline(
    title: str, why: str, queries: Sequence[Query], values: Mapping[int, Value], box: Box, *, rows: int = 0
) -> statetimeline.Panel:
    """States over time, a row each; with `rows` so many at a time."""
    panel = _described(statetimeline.Panel(), title, why, units.NoUnit, box)
    for ref, query in zip("ABCDEFGHIJKL", queries, strict=False):
        panel.with_target(target(query, ref))
    panel.mappings(mapping(values)).thresholds(steps(GREY))
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS))
    panel.show_value(common.VisibilityMode.AUTO).merge_values(True).row_height(0.85).fill_opacity(80).line_width(0)
    panel.legend(
        build.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    return panel.per_page(rows) if rows else panel


def buckets(title: str, why: str, expr: str, box: Box) -> heatmap.Panel:
    """A Prometheus histogram over time; `expr` sums its buckets by `le`."""
    panel = _described(heatmap.Panel(), title, why, units.OpsPerSecond, box)
    query = target(Query(expr, "{{le}}"), "A", exemplars=True).format(PromQueryFormat.HEATMAP)
    panel.with_target(query).calculate(False).cell_gap(1).show_legend()
    panel.y_axis(heatmap.YAxisConfig().unit(units.Seconds).axis_placement(common.AxisPlacement.LEFT))
    panel.color(
        heatmap.HeatmapColorOptions()
        .mode(heat.HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(heat.HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
    )
    panel.cell_values(heatmap.CellValues().unit(units.RequestsPerSecond))
    return panel.filter_values(heatmap.FilterValueRange().le(1e-9))


def matrix(
    title: str,
    why: str,
    query: Query,
    unit: str,
    box: Box,
    *,
    row: str,
    column: str,
    colors: dashboard.ThresholdsConfig,
    links: list[Builder[model.DashboardLink]],
    values: Mapping[int, Value] | None = None,
) -> table.Panel:
    """A cell for each value of two labels, coloured by the number in it."""
    panel = _described(table.Panel(), title, why, unit, box)
    panel.with_target(target(query, "A", instant=True).format(PromQueryFormat.TABLE))
    panel.with_transformation(
        model.DataTransformerConfig(
            id_val="groupingToMatrix",
            options={"rowField": row, "columnField": column, "valueField": "Value", "emptyValue": "null"},
        )
    )
    panel.cell_options(common.TableColoredBackgroundCellOptions(mode=common.TableCellBackgroundDisplayMode.BASIC))
    panel.color_scheme(dashboard.FieldColor().mode(model.FieldColorModeId.THRESHOLDS)).thresholds(colors)
    panel.align(common.FieldTextAlignment.CENTER).min_width(90).no_value("–").filterable(False)
    panel.cell_height(common.TableCellHeight.SM).show_header(True)
    panel.data_links(links)
    if values:
        panel.mappings(mapping(values))
    named = [
        prop("links", []),
        prop("custom.cellOptions", {"type": "auto"}),
        prop("displayName", row),
        prop("custom.align", "left"),
        prop("custom.filterable", True),
    ]
    return panel.override_by_name(f"{row}\\{column}", named)


def listing(title: str, why: str, columns: Mapping[str, tuple[str, str]], by: Sequence[str], box: Box) -> table.Panel:
    """A row for each combination of labels; of each column the PromQL, which leaves just these labels, and its unit."""
    panel = _described(table.Panel(), title, why, units.NoUnit, box)
    names = {}
    for ref, (name, (expr, unit)) in zip("ABCDEFGHIJKL", columns.items(), strict=False):
        panel.with_target(target(Query(expr), ref, instant=True).format(PromQueryFormat.TABLE))
        panel.override_by_name(name, [prop("unit", unit)])
        names[f"Value #{ref}"] = name
    order = {name: place for place, name in enumerate((*by, *names))}
    for step, options in (
        ("merge", {}),
        ("organize", {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names}),
    ):
        panel.with_transformation(model.DataTransformerConfig(id_val=step, options=options))
    panel.sort_by([build.TableSortByFieldState().display_name(by[0]).desc(False)])
    return panel.filterable(True).cell_height(common.TableCellHeight.SM).show_header(True).no_value("–")


def variable(
    name: str, label: str, why: str, metric: str, of_label: str, *, multi: bool = True
) -> dashboard.QueryVariable:
    """The values that a label has in a metric, anew whenever the time range changes; several at a time, or all."""
    query = f"label_values({metric}, {of_label})"
    made = dashboard.QueryVariable(name).label(label).description(why).datasource(SOURCE)
    made.query({"query": query, "refId": name})
    made.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(model.VariableSort.NATURAL_ASC)
    if not multi:
        return made
    everything = model.VariableOption(selected=True, text="All", value="$__all")
    return made.multi(True).include_all(True).current(everything)


def start(uid: str, title: str, why: str, *processes: Process) -> dashboard.Dashboard:
    """An empty dashboard with what all have: where data come from, and links to the others and to the live page."""
    made = dashboard.Dashboard(title).uid(uid).description(why).tags([TAG]).timezone("browser").readonly()
    made.time("now-1h", "now").refresh("30s").tooltip(model.DashboardCursorSync.CROSSHAIR)
    made.link(
        dashboard.DashboardLink("shadowproxy")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .include_vars(True)
        .keep_time(True)
    )
    made.link(
        dashboard.DashboardLink("Live page")
        .type(model.DashboardLinkType.LINK)
        .icon("external link")
        .url(LIVE)
        .tooltip("The verdict with its reasons, and single pairs of answers side by side.")
        .target_blank(True)
    )
    made.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    known = "|".join(process.known_by for process in (API, PROXY, COMPARATOR))
    made.with_variable(variable("job", "Job", "Scrape jobs.", f'{{__name__=~"{known}"}}', "job"))
    for process in processes:
        metric = f'{process.known_by}{{job=~"$job"}}'
        if process is API:
            # One at a time: figures of two experiments on one panel would mean nothing.
            made.with_variable(_experiment(metric))
            metric = f'{process.known_by}{{job=~"$job", experiment=~"$experiment"}}'
        made.with_variable(variable(process.name, process.label, process.why, metric, "instance"))
    return made.with_variable(_page())


def _experiment(metric: str) -> dashboard.QueryVariable:
    return variable("experiment", "Experiment", "One at a time.", metric, "experiment", multi=False)


def _page() -> dashboard.TextBoxVariable:
    """Where the links to the live page lead. Only who runs Grafana knows how a browser reaches the API."""
    here = "http://127.0.0.1:9100"
    return (
        dashboard.TextBoxVariable("page")
        .label("Live page")
        .description("Address of shadowproxy's API as your browser reaches it (serve.listen); links lead there.")
        .default_value(here)
        .current(model.VariableOption(selected=True, text=here, value=here))
    )
