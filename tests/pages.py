"""The pages of docs/ that are made from the code. `python tests/pages.py` writes them anew; a test compares."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Metric

from shadowproxy import metrics
from shadowproxy.config import CATALOGUE
from shadowproxy.config.catalogue import Metric as Comparison
from shadowproxy.model import Accounting, Outcome, Side
from shadowproxy.pairs.ledger import DROPPED, SHED, SKIPPED

DOCS = Path(__file__).parent.parent / "docs"


def filled() -> dict[str, metrics.Registry]:
    """By process, a registry in which every family has a sample."""
    account = Accounting(requests=3, eligible=2, recorded=1, skipped={"method": 1}, dropped={"recorder_full": 1})
    made = {name: metrics.registry() for name in ("proxy", "comparator", "api")}
    proxy = metrics.ProxyMetrics(made["proxy"])
    proxy.watch(lambda: account, lambda: {Side.BASELINE: 1}, lambda: 1, lambda: (1, 1))
    proxy.watch_edits(lambda: {Side.CANDIDATE: {"not_json": 1}}, lambda: {"truncated": 1})
    proxy.watch_network(lambda: {Side.BASELINE: (1, 1)}, lambda: {Side.BASELINE: 1}, lambda: {"timeout": 1})
    proxy.observer(Side.BASELINE)(Outcome.OK, 0.01)
    shadow = metrics.ShadowReading(breaker="closed", transitions={"open": 1}, held=1, shed={"in_flight": 1})
    mirroring = metrics.MirrorReading(paused=False, sample=1.0, sides={Side.CANDIDATE: shadow})
    metrics.MirrorMetrics(made["proxy"], lambda: mirroring)
    metrics.ComparatorMetrics(made["comparator"]).failure(Side.CANDIDATE, "timeout", 1)
    guardrail = metrics.GuardrailReading(
        guardrail="g", cohort="all", margin=0.1, estimate=0.0, e_promote=1.0, e_rollback=1.0, pairs=1
    )
    reading = metrics.VerdictReading(
        state="continue", age=0.0, pairs=1, open_pairs=0, changed_at=1.0, stream=metrics.StreamReading(
            lag=0, pending=0, waiting_bytes=0, kept_bytes=0, lost_entries=0, lost_pairs=0, missing_pairs=0,
            dead_letters=0,
        ),
        guardrails=(guardrail,), labels={field: 1 for field, *_ in metrics.VerdictMetrics.LABELS},
    )  # fmt: skip
    metrics.VerdictMetrics(made["api"], lambda: reading)
    made["parent of several proxy workers"] = metrics.of_workers(metrics.registry(), {}, configured=1, restarts=0)
    return made


def _families(registry: metrics.Registry) -> Iterable[Metric]:
    return (family for family in registry.collect() if family.name.startswith("shadowproxy_"))


def metrics_page() -> str:
    """docs/metrics.md"""
    lines = [
        "# Metrics",
        "",
        "Each process answers `GET /metrics` at its admin address, in Prometheus text or, where `Accept` asks for it,",
        "OpenMetrics; beside these it exports CPU, memory and descriptors (`process_*`). All labels are bounded: cohorts by",
        "`verdict.max_cohorts`, the rest by the words of the code. A scrape configuration is in",
        "[deploy/prometheus.yml](../deploy/prometheus.yml).",
        "",
        "With `proxy.workers` more than 1 the parent answers for all of them. Each sample of a worker then has the label",
        "`worker`, `0` to N-1. A worker that is started again keeps its number and counts anew, which `rate` and `increase`",
        "take for the restart that it is; one that does not answer in time is left out, and not counted as up. Write",
        "`sum without (worker) (rate(shadowproxy_requests_total[5m]))`, which is right for one process too.",
    ]
    for process, registry in filled().items():
        lines += ["", f"## {process}", "", "| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
        for family in _families(registry):
            suffix = "_total" if family.type == "counter" else ""
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            named = ", ".join(f"`{label}`" for label in labels) or "–"
            lines.append(f"| `{family.name}{suffix}` | {family.type} | {named} | {family.documentation} |")
    for metric, meaning, table in (
        (
            "skipped_total",
            "A request that was proxied and not mirrored; it was decided before any upstream saw it.",
            SKIPPED,
        ),
        (
            "dropped_total",
            "An eligible request whose pair was not recorded; none of it is the candidate's doing.",
            DROPPED,
        ),
        (
            "shed_copies_total",
            "A copy that was not made; its pair is recorded, and counts as a failure of that side (`shed`).",
            SHED,
        ),
    ):
        lines += ["", f"## Reasons of `shadowproxy_{metric}`", "", meaning, "", "| reason | when |", "| --- | --- |"]
        lines += [f"| `{reason}` | {when} |" for reason, when in table.items()]
    return "\n".join(lines) + "\n"


def comparisons_page() -> str:
    """docs/comparisons.md"""
    lines = [
        "# What is compared",
        "",
        "Each metric has one value per pair. A guardrail bounds how far its mean may be from the ideal in the direction that is",
        "worse; the margin is in the metric's own unit. A metric is computed where the pair's route extracts what it needs.",
        "Without guardrails of your own, each metric marked *default* that a route offers gets one with its default margin.",
        "",
        "| metric | value of a pair | unit | range | ideal | worse | needs | margin | default |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_row(metric) for metric in CATALOGUE.values()]
    lines += [
        "",
        "What failed, ties, duplicates, empty and short lists: the definitions stand at the head of each family's file,",
        "[failures](../shadowproxy/compare/failures.py), [latency](../shadowproxy/compare/latency.py),",
        "[ranking](../shadowproxy/compare/ranking.py), [scores](../shadowproxy/compare/scores.py) and",
        "[quality](../shadowproxy/compare/quality.py).",
    ]
    return "\n".join(lines) + "\n"


def _row(metric: Comparison) -> str:
    needs = ", ".join(f"`{need}`" for need in sorted(metric.needs)) or "–"
    title = metric.title.replace("|", "\\|")
    return (
        f"| `{metric.name}` | {title} | {metric.unit} | {metric.low:g} … {metric.high:g} | {metric.ideal:g} "
        f"| {', '.join(metric.worse)} | {needs} | {metric.margin:.3g} | {'yes' if metric.default else ''} |"
    )


PAGES = {"metrics.md": metrics_page, "comparisons.md": comparisons_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
