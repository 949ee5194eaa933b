"""The pages of docs/ that are made from the code. `python tests/pages.py` writes them anew; a test compares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from agent import mapping
from exposed import at_most, families, filled
from figures import tables

from shadowproxy.config import CATALOGUE, GUARDABLE
from shadowproxy.config.catalogue import TABLES, Direction
from shadowproxy.config.catalogue import Metric as Comparison
from shadowproxy.pairs.ledger import DROPPED, SHED, SKIPPED
from shadowproxy.pairs.tables import PAIR_COLUMNS, SIDE_COLUMNS
from shadowproxy.stats.betting import MeanGrid
from shadowproxy.stats.blocks import Schedule
from shadowproxy.stats.histogram import LatencyHistogram, ScoreHistogram
from shadowproxy.stats.inflation import VarianceInflation
from shadowproxy.stats.moments import Moments
from shadowproxy.stats.quantiles import BLOCK as BINS
from shadowproxy.stats.quantiles import RatioGrid
from shadowproxy.tracing.outbox import DROPPED as UNTRACED
from shadowproxy.verdict.guardrails.batch import SPANS
from shadowproxy.verdict.guardrails.calibration import THRESHOLDS, FirstPairs
from shadowproxy.verdict.guardrails.dependence import SEGMENT
from shadowproxy.verdict.plan import FAILURES
from shadowproxy.verdict.reported.distributions import BLOCK
from shadowproxy.verdict.reported.tables import MOST_KEYS

DOCS = Path(__file__).parent.parent / "docs"


METRICS = """\
# Metrics

Each process answers `GET /metrics` at its admin address, in Prometheus text or, where `Accept` asks for it,
OpenMetrics; beside these it exports CPU, memory and descriptors (`process_*`). A scrape configuration, recording rules
and alerts are in [deploy/prometheus](../deploy/prometheus/prometheus.yml); what to do about an alert stands in
[alerts.md](alerts.md).

All labels are bounded: by the words of the code, by the guardrails and routes of the settings, and cohorts by
`verdict.max_cohorts`, beside which there are `all` and `other`. *At most* is the number of series of a family. A cohort
is printable and has 64 characters at the most, whatever a client calls it. No user, item, request id or path is ever a
label.

With `proxy.workers` more than 1 the parent answers for all of them. Each sample of a worker then has the label
`worker`, `0` to N-1, and there are N times as many. A worker that is started again keeps its number and counts anew,
which `rate` and `increase` take for the restart that it is; one that does not answer in time is left out, and not
counted as up. Write `sum without (worker) (rate(shadowproxy_requests_total[5m]))`, which is right for one process too.

## Exemplars

In OpenMetrics each bucket of `shadowproxy_exchange_duration_seconds` names one request that fell into it since the
scrape before (or the last that did), and each of `shadowproxy_failed_exchanges_total` and
`shadowproxy_bad_bodies_total` one of the pairs that failed last, as `request_id`, and `trace_id` where the client's
`traceparent` has one: `shadowproxy pairs show ID` finds the pair. Prometheus keeps them with
`--enable-feature=exemplar-storage`. A request id of more than 118 characters is not named: OpenMetrics has no room.
"""


def metrics_page() -> str:
    """docs/metrics.md"""
    lines = [METRICS.rstrip()]
    told: set[str] = set()
    for process, registry in filled().items():
        lines += [
            "",
            f"## {process}",
            "",
            "| metric | type | labels | at most | meaning |",
            "| --- | --- | --- | --- | --- |",
        ]
        for family in families(registry):
            if family.name in told:
                continue
            told.update({family.name} & {"shadowproxy_build"})
            suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
            labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
            named = ", ".join(f"`{label}`" for label in labels) or "–"
            lines.append(
                f"| `{family.name}{suffix}` | {family.type} | {named} | {at_most(family.name)} | {family.documentation} |"
            )
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
        (
            "untraced_requests_total",
            "A request that was to have [spans](tracing.md) and has none. Its pair is recorded all the same.",
            UNTRACED,
        ),
    ):
        lines += ["", f"## Reasons of `shadowproxy_{metric}`", "", meaning, "", "| reason | when |", "| --- | --- |"]
        lines += [f"| `{reason}` | {when} |" for reason, when in table.items()]
    return "\n".join(lines) + "\n"


def comparisons_page() -> str:
    """docs/comparisons.md: written by hand, but for the table of metrics."""
    before, _, rest = (DOCS / "comparisons.md").read_text().partition(_BEGIN)
    table = [
        "| metric | value of a pair | unit | range | ideal | worse | needs | margin | default |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        *(_row(metric) for metric in GUARDABLE.values()),
    ]
    return "\n".join([f"{before}{_BEGIN}", *table, _END + rest.partition(_END)[2]])


def _row(metric: Comparison) -> str:
    needed = [f"`{need}`" for need in sorted(metric.needs)] + ["a replica"] * metric.replicated
    needs = ", ".join(needed) or "–"
    title = metric.title.replace("|", "\\|")
    return (
        f"| `{metric.name}` | {title} | {metric.unit} | {metric.low:g} … {metric.high:g} | {metric.ideal:g} "
        f"| {', '.join(metric.worse)} | {needs} | {f'{metric.margin:.3g}' if metric.margin else '–'} | {_default(metric)} |"
    )


def _default(metric: Comparison) -> str:
    if any(other.in_place_of == metric.name for other in CATALOGUE.values()):
        return "without a replica"
    return "with a replica" if metric.in_place_of else "yes" if metric.default else ""


def verdict_page() -> str:
    """docs/verdict.md: written by hand, but for the table of what a worker's state holds."""
    begin, end = "<!-- state -->", "<!-- /state -->"
    before, _, rest = (DOCS / "verdict.md").read_text().partition(begin)
    widths = [
        _guardrail(metric, direction) for metric in CATALOGUE.values() if metric.margin for direction in metric.worse
    ]
    blocks = -(-ScoreHistogram().width // BLOCK)
    latency = LatencyHistogram().width
    blocks_of_latency = -(-RatioGrid(1.1, deadline=10.0).bins // BINS)
    in_a_month = int(Schedule(10.0, 0.0).index(np.array([30 * 86_400.0]))[0])
    tables = ", ".join(f"{len(table.columns)} of `{name}`" for name, table in TABLES.items())
    rows = (
        ("`pairs`", "1", "one"),
        ("`seconds`", "256, of all pairs only", "one"),
        ("`guardrail/NAME`", f"{min(widths)} to {max(widths)} with default margins", "one a guardrail"),
        (
            "`inflation/NAME`",
            f"{VarianceInflation().width}, by account and by time ({', '.join(SPANS)}), of all pairs only",
            "one a guardrail on a mean",
        ),
        (
            "`blocks/NAME/ORIGIN/SEGMENT`",
            f"{2 * SEGMENT}",
            f"with `blocks`: one for {SEGMENT} blocks of a guardrail on a mean, {in_a_month // SEGMENT + 1} in a month of 10s",
        ),
        (
            "`ratio/LATENCY@MARGINS/all/BLOCK`, `…/cohorts/BLOCK`",
            f"{6 * BINS}",
            f"a block of latencies where one fell, of {blocks_of_latency} with a margin of 0.1 and a deadline of 10 s",
        ),
        ("`moments/METRIC`", f"{Moments(0.0).width}", f"one a metric that some pair has, of {len(CATALOGUE)}"),
        ("`latency/SIDE/TIMING`", f"{latency}", "4: two sides, first and last byte"),
        ("`route/ROUTE/…`", "as these two", "again for each route, where there are several or one that isn't `/**`"),
        ("`scores/ROUTE/SIDE/BLOCK`", f"{BLOCK}", f"a block where a score fell, of {blocks} a side and route"),
        (
            "`calibration/NAME`, `calibration/NAME/scores`",
            f"{FirstPairs.WIDTH} and 3, of all pairs only",
            "one a guardrail that is calibrated, of the pairs before it is",
        ),
        (
            "`shift/NAME`",
            f"{2 * THRESHOLDS} times as many as `guardrail/NAME`",
            "one a guardrail on `scores.shift`, in place of that",
        ),
        ("`clipped/NAME`", "1", "one a guardrail that clips"),
        ("`failures/SIDE`", f"{len(FAILURES)}, of all pairs only", "2"),
        (
            "`table/ROUTE/TABLE/KEY`",
            f"{tables}; of all pairs only",
            f"at most {MOST_KEYS} keys each, the rest as `other`",
        ),
    )
    table = [
        "| sums | numbers in a row | how many |",
        "| --- | --- | --- |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    return "\n".join([f"{before}{begin}", *table, end + rest.partition(end)[2]])


def _guardrail(metric: Comparison, direction: Direction) -> int:
    intercept, slope = metric.loss(direction)
    low, high = sorted(intercept + slope * value for value in (metric.low, metric.high))
    return MeanGrid(low, high, metric.margin).width


_BEGIN = "<!-- metrics -->"
_END = "<!-- /metrics -->"

_TYPES = {
    "timestamp[us, tz=UTC]": "timestamp (µs, UTC)",
    "map<string, string>": "map of strings",
    "list<item: string>": "list of strings",
}

PAIRS = """\
# Looking at pairs

`shadowproxy pairs` reads the store of a configuration. What is in it are the pairs that wait for the comparators and,
within `redis.keep` bytes, those that were counted already; the oldest are deleted first. Reading takes nothing from the
comparators and changes nothing. What is shown is what was recorded: [redacted](shaping.md#redaction) before it left the
proxy.

- `pairs tail [-n 10] [--follow] [--json]`: the newest pairs, a line each.
- `pairs show ID [--json] [--raw]`: one pair side by side, and what differs. Bodies are shown without content codings, JSON
  in lines; control characters are written out. Exit code 1 if the pair isn't there.
- `pairs worst [--guardrail NAME] [--cohort NAME] [--limit 10] [--json]`: the pairs with the greatest loss of each
  guardrail, and `pairs sample [--limit 100] [--json]`: pairs chosen by chance; see [below](#exemplars).
- `pairs dead-letters [-n 10] [--json] [--raw DIR]`: entries that no comparator could read, newest first, and why;
  `--raw` writes their payloads to files.
- `pairs export FILE [--follow | --for 10m] [--limit N]`: all pairs into a file or a table, below.

All take `--config FILE`. A store that can't be reached is exit code 4. `shadowproxy judge` gives the
[verdict on an export](verdict.md#judging-recorded-pairs).

## Exemplars

What differs between the models is seldom among the newest pairs. So the comparator keeps, beside what it counts:

- of each guardrail, over all pairs and in each cohort (`--cohort region=us`; `other` for those that are pooled), the
  `comparator.worst` pairs with the greatest loss. Among equals, such as failures, chance decides and not who was first. A
  pair whose loss is 0 or less, or undefined, is not among them; nor is one for what a later [label](labels.md) said;
- `comparator.sample` pairs by chance, each that was counted as likely as any other.

They stay until the experiment is reset, whatever becomes of the stream, and `pairs show ID` finds them. They are kept in
the step that counts them, so that crashes neither lose one nor keep one twice. They are shown as soon as they are
counted, in closed start-time buckets or not: they say what a figure is made of, and are no evidence of their own. In
particular the worst pairs say nothing of how many there are like them; the sample does.

Bodies are [redacted](shaping.md#redaction) as recorded. A body past 64 KiB is cut, which `show` says; of a pair that takes
more than 256 KiB all the same, heads and bodies are left out. All together take at most `comparator.exemplar_bytes` of the
store for each comparator process (a process that died counts until another has taken over what it counted): where that
is not enough, each guardrail and cohort keeps fewer, its worst. A pair that stands out in several ways is stored once.
With 7 guardrails and 32 cohorts, 120,000 pairs of two 50-item rankings left 840 exemplars of 0.5 KB, compressed.

`GET /api/v1/pairs/worst?guardrail=NAME&cohort=NAME&limit=10` and `/api/v1/pairs/sample?limit=100` have the same lists as
`--json`, without heads and bodies: the API does not ask who wants to know.

## Exporting

| name | what is written | needs |
| --- | --- | --- |
| `pairs.jsonl`, `.jsonl.gz`, `.jsonl.zst` | lines of JSON; nothing is left out | |
| `pairs.parquet` | a table, in row groups of bounded size | `pip install 'shadowproxy[parquet]'` |
| `pairs.delta` (a directory or a URL) | a Delta table, in commits of bounded size | `pip install 'shadowproxy[delta]'` |

Without `--follow` it ends with what was written when it began. With it, it goes on with what comes until Ctrl-C, and waits
for a store that is away. A file is written under another name, and gets its own when it is complete; Ctrl-C completes it
with what was read. Files are made readable for their owner alone: they hold personal data.

**Nothing is missed silently.** Entries may be deleted before an export gets to them. Each entry says which of its partition
it is and how many pairs came before it, so what is missing is known exactly, and said at the end: *12 entries (1,200 pairs)
had been deleted before they were read*. Likewise what can't be read, and what had come and was not read when it stopped.
If pairs are missing, raise `redis.keep`.

**A Delta table gets each pair once**, however often it is exported and whatever ended the last export: each commit carries
how far it goes, in the table's own log, and the next export goes on there. Several experiments may share a table. With
`--follow` pairs are committed when there are 10,000, or 32 MiB of them, or, as others come, after a minute. Of two exports
of an experiment at a time into one table the later to commit is refused. A URL's credentials are taken from the
environment, as [deltalake](https://delta-io.github.io/delta-rs/) has them.

## Lines

One JSON object a line, a pair each; durations are seconds and sizes bytes. A key may be added later, and none changes its
meaning while `v` is 1. In Python `shadowproxy.pairs.lines.read_line` makes the same `Pair` of it again.

| key | value |
| --- | --- |
| `v` | 1 |
| `partition`, `entry`, `position` | where the pair stands in the stream; the three together name it for good |
| `id` | request id |
| `started` | when the request's head was complete, Unix time |
| `request` | object: `method`, `target`, `head`, `body`, `body_size` |
| `baseline`, `candidate`, `replica` | object: `outcome` (`ok`, `timeout`, `connect`, `reset`, `protocol` or `shed`), `status` (0: no response came), `head`, `body`, `body_size`, `digest`, `ttfb` and `total` (null: it never came), `detail`; `replica` is null where there is none |
| `annotations` | JSON of the annotation header, as text; empty if none was sent |
| `notes` | what redaction left out for not being able to look into it |

`head` are the header lines as received. `body` is as received too, with its content coding, up to the capture cap;
`body_size` is that of the whole, and `digest` (hexadecimal) is there where the body is truncated. `head`, `body` and
`annotations` are text where they are UTF-8; else they are null, and `head_base64`, `body_base64` or `annotations_base64`
stands beside them. Where an answer's body has a content coding, `body_text` is the text without it.

## Columns

Parquet and Delta have the same columns.

| column | type | meaning |
| --- | --- | --- |
COLUMNS

In [DuckDB](https://duckdb.org/docs/):

```sql
-- How each side ended, and how long it took
SELECT candidate_outcome, candidate_status, count(*) AS pairs,
       quantile_cont(candidate_total - baseline_total, [0.5, 0.99]) AS slower_by
FROM 'pairs.parquet' GROUP BY ALL ORDER BY pairs DESC;

-- Pairs whose first item differs
SELECT id, started, TRY_CAST(baseline_body AS JSON)->>'$.items[0]' AS ours,
       TRY_CAST(candidate_body AS JSON)->>'$.items[0]' AS theirs
FROM 'pairs.parquet' WHERE ours IS DISTINCT FROM theirs ORDER BY started;

-- A header, of lines
SELECT id, baseline.status, regexp_extract(baseline.head, '(?i)content-type: *([^\\r]*)', 1) AS content_type
FROM read_json('pairs.jsonl');
```

In pandas:

```python
import pandas as pd

pairs = pd.read_parquet("pairs.parquet")
slower = (pairs["candidate_total"] - pairs["baseline_total"]).groupby(pairs["path"]).describe()
by_minute = pairs.set_index("started").resample("1min")["id"].count()
```

A Delta table in Python; in Databricks it is `` SELECT * FROM delta.`/path/to/pairs.delta` ``:

```python
from deltalake import DeltaTable

failed = DeltaTable("pairs.delta").to_pyarrow_table(filters=[("candidate_outcome", "!=", "ok")]).to_pandas()
```
"""


def pairs_page() -> str:
    """docs/pairs.md"""
    rows = [f"| `{name}` | {_TYPES.get(str(kind), kind)} | {meaning} |" for name, kind, meaning in PAIR_COLUMNS]
    rows += [
        f"| `baseline_{name}`, `candidate_{name}`, `replica_{name}` | {_TYPES.get(str(kind), kind)} | {meaning} |"
        for name, kind, meaning in SIDE_COLUMNS
    ]
    return PAIRS.replace("COLUMNS", "\n".join(rows))


def statistics_page() -> str:
    """docs/statistics.md: written by hand, but for its tables."""
    return tables.filled((DOCS / "statistics.md").read_text())


PAGES = {
    "metrics.md": metrics_page,
    "comparisons.md": comparisons_page,
    "pairs.md": pairs_page,
    "verdict.md": verdict_page,
    "statistics.md": statistics_page,
}

DATADOG = {
    "openmetrics.d/conf.yaml": lambda: mapping.configuration(filled()),
    "pod.yaml": mapping.pod,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
    for name, page in DATADOG.items():
        (mapping.DEPLOYED / name).write_text(page())
