"""The overview: may the candidate go out, and, when not, for whom and why."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import units

from generator.parts import (
    AMBER,
    API,
    BLUE,
    GREEN,
    GREY,
    LIVE,
    OF_SERIES,
    PROXY,
    RED,
    Box,
    Query,
    Value,
    colored,
    figure,
    lines,
    linked,
    listing,
    matrix,
    or_zero,
    pairs,
    prop,
    start,
    steps,
    timeline,
    variable,
)

# Of several API processes that differ for a moment the graver state counts.
STATE = {"continue": 0, "promote": 1, "rollback": 2}
STATES = {0: Value("CONTINUE", BLUE), 1: Value("PROMOTE", GREEN), 2: Value("ROLLBACK", RED)}
FINDING = {"undecided": 0, "safe": 1, "harmful": 2}
FINDINGS = {0: Value("undecided", GREY), 1: Value("safe", GREEN), 2: Value("harmful", RED)}

THIRD, HALF, THIRD_LOW, WIDE = Box(8, 8), Box(12, 8), Box(8, 4), Box(24, 4)
OVERALL = 'cohort="all"'
CHOSEN = ('guardrail=~"$guardrail"', 'cohort=~"$cohort"')


def _cells(name: str) -> str:
    """A figure of each guardrail and cohort that are chosen."""
    series = API.of(f"shadowproxy_guardrail_{name}", *CHOSEN)
    return f"max by (guardrail, cohort) ({series})"


def _overall(name: str) -> str:
    """The same of all pairs together."""
    series = API.of(f"shadowproxy_guardrail_{name}", CHOSEN[0], OVERALL)
    return f"max by (guardrail) ({series})"


def _score(name: str) -> str:
    return API.of(f"shadowproxy_score_{name}")


def _towards(what: str) -> str:
    """Evidence as a share of what proof takes, both as logarithms: they grow by about as much with every pair."""
    evidence, threshold = _cells(f"e_{what}"), _cells(f"{what}_threshold")
    return f"clamp(ln({evidence}) / ln({threshold}), 0, 2)"


def _verdict() -> list[stat.Panel | statetimeline.Panel]:
    state = API.states("shadowproxy_verdict", STATE)
    harm, threshold = (f"max({API.of(f'shadowproxy_evidence_rollback{end}')})" for end in ("", "_threshold"))
    return [
        figure(
            "Verdict",
            "PROMOTE: every guardrail is proven to be within its margin. ROLLBACK: some harm is proven. CONTINUE: not "
            "known yet. It may be read at any moment; looking early is no cheat. No data is never a promote.",
            Query(state),
            units.NoUnit,
            Box(6, 4),
            values=STATES,
            missing="no verdict",
        ).data_links(linked("Reasons, on the live page", LIVE)),
        figure(
            "Since",
            "How long the verdict has been what it is.",
            Query(f"time() - max({API.of('shadowproxy_verdict_changed_timestamp_seconds')})"),
            units.Seconds,
            Box(3, 4),
            missing="not known",
        ),
        figure(
            "Pairs",
            "Pairs of answers that the verdict rests on. Each is counted once, whatever crashed meanwhile.",
            Query(f"max({API.of('shadowproxy_verdict_pairs')})"),
            units.Short,
            Box(3, 4),
        ),
        figure(
            "Pairs to a promote",
            "How many more pairs a promote takes, if things go on as they did: a rough figure, and no promise. Nothing "
            "here: it is decided, or an estimate is beyond its margin, and more pairs would not help.",
            Query(f"max({API.of('shadowproxy_forecast_pairs')})"),
            units.Short,
            Box(3, 4),
            missing="–",
        ),
        figure(
            "Time to a promote",
            "How long these pairs take at the rate at which they come now.",
            Query(f"max({API.of('shadowproxy_forecast_seconds')})"),
            units.Seconds,
            Box(3, 4),
            missing="–",
        ),
        figure(
            "Evidence of harm",
            "How far the evidence for a rollback as a whole is on its way to its threshold, on a logarithmic scale: at "
            "100% it is a rollback, and stays one.",
            Query(f"clamp(ln({harm}) / ln({threshold}), 0, 1)"),
            units.PercentUnit,
            Box(3, 4),
            colors=steps(GREEN, {0.5: AMBER, 1: RED}),
        ),
        figure(
            "Last worked out",
            "How long ago the verdict was worked out from the store. Minutes: the API or the store is in trouble, and "
            "what is shown here is old.",
            Query(f"max({API.of('shadowproxy_verdict_age_seconds')})"),
            units.Seconds,
            Box(3, 4),
            colors=steps(GREEN, {60: AMBER, 300: RED}),
        ),
        timeline(
            "Verdict over time",
            "What the verdict was. Promote and continue may take turns while evidence is thin; a rollback stands until "
            "the experiment is reset. A gap: nobody worked it out.",
            [Query(state, "verdict")],
            STATES,
            WIDE,
        ),
    ]


def _whom() -> list[table.Panel | statetimeline.Panel]:
    finding = API.states("shadowproxy_guardrail_finding", FINDING, *CHOSEN, by="guardrail, cohort")
    return [
        matrix(
            "What is proven, by cohort",
            "For whom which guardrail is proven to be kept (safe) or broken (harmful); the cohort `all` is every pair. "
            "Undecided is neither, and takes more pairs. No cell: the guardrail does not apply to that cohort.",
            Query(finding),
            units.NoUnit,
            Box(12, 10),
            row="cohort",
            column="guardrail",
            links=pairs("__field.name", "__data.fields[0]"),
            colors=steps(GREY),
            values=FINDINGS,
        ),
        matrix(
            "Estimate ÷ margin, by cohort",
            "How much of what is tolerated each guardrail uses up, as it looks now: above 1 the estimate is beyond the "
            "margin. It is an estimate and no proof, above all with few pairs; below 0 the candidate is the better.",
            Query(f"{_cells('estimate')} / {_cells('margin')}"),
            units.NoUnit,
            Box(12, 10),
            row="cohort",
            column="guardrail",
            links=pairs("__field.name", "__data.fields[0]"),
            colors=steps(GREEN, {0.8: "yellow", 1: AMBER, 2: RED}),
        ).decimals(2),
        timeline(
            "What is proven, over time",
            "The same over time, a row for each guardrail and cohort that are chosen above.",
            [Query(finding, "{{guardrail}} · {{cohort}}")],
            FINDINGS,
            Box(24, 9),
            rows=20,
        ).data_links(pairs(*OF_SERIES)),
    ]


def _evidence() -> list[timeseries.Panel]:
    return [
        lines(
            "Evidence that it is safe",
            "How far each guardrail's evidence for being within its margin is on its way to its threshold (1, the red "
            "line), as logarithms, since evidence multiplies. Above the line it is proven; drawn up to 2. A line that "
            "stays at 0 is one whose estimate is not within the margin.",
            [Query(_towards("promote"), "{{guardrail}} · {{cohort}}")],
            units.NoUnit,
            HALF,
            limit=1,
        ).data_links(pairs(*OF_SERIES)),
        lines(
            "Evidence of harm, by cohort",
            "The same of the evidence for being beyond the margin: at 1 that harm is proven.",
            [Query(_towards("rollback"), "{{guardrail}} · {{cohort}}")],
            units.NoUnit,
            HALF,
            limit=1,
        ).data_links(pairs(*OF_SERIES)),
    ]


def _guardrail() -> list[timeseries.Panel]:
    margin = _overall("margin")
    named = {"interval_high": "interval, high end", "interval_low": "interval, low end", "estimate": "estimate"}
    interval = lines(
        "Estimate and interval ÷ margin, all pairs",
        "How much of what is tolerated is used up: 1, the red line, is the margin, below 0 the candidate is better. "
        "The band is where it lies, with an error rate that holds however often one looks: wholly below 1 it is safe, "
        "wholly above 1 there is harm. Drawn from −3 to 5: with few pairs it is far wider.",
        [Query(f"clamp({_overall(name)} / {margin}, -3, 5)", legend) for name, legend in named.items()],
        units.NoUnit,
        HALF,
        least=None,
        limit=1,
    )
    colored(interval, {"interval": BLUE, "estimate": BLUE})
    interval.override_by_name(
        "interval, high end",
        [prop("custom.fillBelowTo", "interval, low end"), prop("custom.fillOpacity", 20), prop("custom.lineWidth", 0)],
    )
    interval.override_by_name("interval, low end", [prop("custom.lineWidth", 0), prop("custom.fillOpacity", 0)])
    interval.override_by_name("estimate", [prop("custom.lineWidth", 2), prop("custom.fillOpacity", 0)])
    return [
        interval,
        lines(
            "Estimate ÷ margin, over time and by cohort",
            "How much of what is tolerated is used up in each cohort: above 1, the red line, the estimate is beyond "
            "the margin. Cohorts that are far apart: an average hides someone's harm.",
            [Query(f"{_cells('estimate')} / {_cells('margin')}", "{{cohort}}")],
            units.NoUnit,
            HALF,
            least=None,
            limit=1,
        ).data_links(pairs(*OF_SERIES)),
    ]


def _figures() -> table.Panel:
    names = {
        "estimate": "estimate",
        "interval from": "interval_low",
        "to": "interval_high",
        "margin": "margin",
        "pairs": "pairs",
        "without a value": "undefined_pairs",
        "pairs still needed": "needed_pairs",
        "a promote needs it": "required",
    }
    other: dict[str, str] = {"a promote needs it": units.BoolYesNo}
    other |= dict.fromkeys(("pairs", "without a value", "pairs still needed"), units.Short)
    columns = {name: (_cells(figure), other.get(name, units.NoUnit)) for name, figure in names.items()}
    return listing(
        "All figures",
        "Mean loss of the candidate, in the unit of each guardrail's metric (docs/comparisons.md); larger is worse. "
        "The interval holds at every look; the margin is what is tolerated. Pairs that are still needed: 0 where it is "
        "proven, none where more pairs would not help or no promote needs it.",
        columns,
        ("guardrail", "cohort"),
        Box(24, 9),
    )


def _checks() -> list[timeseries.Panel | statetimeline.Panel]:
    fates = lines(
        "What became of requests",
        "Every request is in one of these, or on its way: requests = skipped + eligible, and eligible = recorded + "
        "dropped. Dropped is a fault; shadowproxy: traffic and shedding says which.",
        [
            Query(f"sum({PROXY.rate('shadowproxy_recorded_total')})", "recorded"),
            Query(or_zero(f"sum({PROXY.rate('shadowproxy_dropped_total')})"), "dropped"),
            Query(or_zero(f"sum({PROXY.rate('shadowproxy_skipped_total')})"), "skipped"),
        ],
        units.RequestsPerSecond,
        HALF,
        stacked=True,
    )
    return [
        timeline(
            "Conditions on the data",
            "What has to hold, beside the guardrails, before anything is promoted: enough pairs for long enough, none "
            "lost, no bias; whether the verdict could be worked out just now; and whether its horizon, after which it "
            "stays undecided, is still to come. The live page says what is wanting.",
            [
                Query(f"min by (check) ({API.of('shadowproxy_check_passed')})", "{{check}}"),
                Query(f"min({API.of('shadowproxy_verdict_readable')})", "verdict can be read"),
                Query(f"1 - max({API.of('shadowproxy_verdict_exhausted')})", "before verdict.horizon"),
            ],
            {0: Value("not met", AMBER), 1: Value("met", GREEN)},
            HALF,
        ),
        colored(fates, {"recorded": GREEN, "dropped": RED, "skipped": GREY}),
        lines(
            "Pairs that the verdict rests on",
            "Pairs counted, in closed buckets of time, and those in buckets that are still open.",
            [
                Query(f"max({API.of('shadowproxy_verdict_pairs')})", "counted"),
                Query(f"max({API.of('shadowproxy_verdict_open_pairs')})", "not closed yet"),
            ],
            units.Short,
            THIRD,
        ),
        lines(
            "Pairs that could not be judged",
            "Pairs that should have had a value for a guardrail and did not, such as those where a list was missing. "
            "An answer that did not come at all is a failure, and is judged as one.",
            [Query(_overall("undefined_pairs"), "{{guardrail}}")],
            units.Short,
            THIRD,
        ),
        lines(
            "Pairs that each guardrail still needs",
            "How many more pairs it takes to prove each guardrail, all pairs together, if things go on as they did; 0 "
            "where it is proven. No line: its estimate is beyond the margin, and more pairs would not help.",
            [Query(_overall("needed_pairs"), "{{guardrail}}")],
            units.Short,
            THIRD,
        ),
    ]


def _reported() -> list[timeseries.Panel]:
    inflation = f"max by (guardrail, by) ({API.of('shadowproxy_guardrail_inflation_ratio', CHOSEN[0])})"
    distances = (("ks", "Kolmogorov–Smirnov"), ("jensen_shannon", "Jensen–Shannon"), ("psi", "PSI"))
    return [
        lines(
            "Distance of the score distributions",
            "How far apart the scores of baseline and candidate are, by route, each 0 where they are alike. "
            "Kolmogorov–Smirnov and Jensen–Shannon end at 1; a PSI above 0.25 is commonly called a major shift. They "
            "are reported and decide nothing, unless a guardrail says so.",
            [Query(f"max by (route) ({_score(name)})", f"{legend} {{{{route}}}}") for name, legend in distances],
            units.NoUnit,
            THIRD,
        ),
        lines(
            "Distance in the scores' own unit",
            "Wasserstein-1 distance of the scores of baseline and candidate, by route: by how much a score moves on "
            "the average, if they are paired by rank.",
            [Query(f"max by (route) ({_score('wasserstein')})", "{{route}}")],
            units.NoUnit,
            THIRD,
        ),
        lines(
            "Dependence between pairs",
            "By what factor pairs that share an account or a moment make a guardrail's mean vary more than as many "
            "independent pairs would: 1 is none. Well above 1 the stated error rates no longer hold; judge blocks "
            "of time then (docs/verdict.md).",
            [Query(inflation, "{{guardrail}} · {{by}}")],
            units.NoUnit,
            THIRD,
        ),
    ]


def _compared() -> list[stat.Panel]:
    return [
        figure(
            "Experiment",
            "The experiment that is shown. A change of what must not change, such as a margin, starts a new one.",
            Query(f"max by (experiment) ({API.of('shadowproxy_experiment_info')})", "{{experiment}}"),
            units.NoUnit,
            THIRD_LOW,
            named=True,
        ),
        figure(
            "Versions",
            "The version that answered last, of each upstream, as the header of verdict.version_header has it.",
            Query(f"max by (side, version) ({API.of('shadowproxy_upstream_version_info')})", "{{side}} {{version}}"),
            units.NoUnit,
            THIRD_LOW,
            missing="verdict.version_header is not set",
            named=True,
        ),
        figure(
            "shadowproxy",
            "The version of shadowproxy that works out the verdict.",
            Query(f"max by (version) ({API.of('shadowproxy_build_info')})", "{{version}}"),
            units.NoUnit,
            THIRD_LOW,
            named=True,
        ),
    ]


def overview() -> dashboard.Dashboard:
    """May the candidate go out?"""
    made = start(
        "shadowproxy-overview",
        "shadowproxy: overview",
        "May the candidate go out, and, when not, for whom and why?",
        API,
        PROXY,
    )
    known = API.of("shadowproxy_guardrail_margin")
    for label, why in (("guardrail", "What is guarded."), ("cohort", "For whom; `all` is every pair.")):
        made.with_variable(variable(label, label.capitalize(), why, known, label))
    for row, panels in (
        ("Verdict", _verdict()),
        ("For whom, and what", [*_whom(), _figures()]),
        ("Evidence against its threshold", _evidence()),
        ("Accounting: what the verdict rests on", _checks()),
        ("Reported beside it", [*_reported(), *_compared()]),
    ):
        made.with_row(dashboard.Row(row))
        for panel in panels:
            made.with_panel(panel)
    # Last, since it is as long as there are guardrails.
    made.with_row(dashboard.Row("Guardrail: $guardrail").repeat("guardrail"))
    for panel in _guardrail():
        made.with_panel(panel)
    return made
