"""Whatever requests and services say, a page stays readable, and has no more series than is documented."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Iterator

import exposed
from programs import program
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from servers import unique

from shadowproxy import metrics
from shadowproxy.comparator.worker import Worker
from shadowproxy.compare.comparer import Comparer
from shadowproxy.compare.versions import VersionReader
from shadowproxy.config import loads
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.pairs.codec import encode
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.pairs.partitions import Partitions
from shadowproxy.pairs.store import Store
from shadowproxy.serve.exported import exported
from shadowproxy.serve.reader import VerdictReader
from shadowproxy.verdict.plan import Plan

COHORTS = 5
SETTINGS = loads(
    f"""
baseline: {{url: http://127.0.0.1:1, deadline: 0.1}}
candidate: {{url: http://127.0.0.1:2, deadline: 0.1}}
routes:
  - {{name: rank, path: /rank, ids: response.body.ids, scores: response.body.scores,
     cohorts: {{who: request.body.who}}}}
verdict:
  bucket: 0.1
  settle: 0.0
  max_cohorts: {COHORTS}
  version_header: x-version
  guardrails: [{{metric: failures.difference, margin: 0.1}}, {{metric: ranking.rbo, margin: 0.2}}]
"""
)
HOSTILE = (
    'a"} 1\n# EOF\n', "\\", 'x\\"', "a\nb 1", "\x00\x1b[31m", "\u202eevil", "é" * 500, "x" * 100_000, "", " ", "{}",
    "# HELP x", "all", "other", "Inf", "NaN", "<script>alert(1)</script>", "\U0001f600", "\u2028", '",guardrail="x',
)  # fmt: skip


def pairs() -> Iterator[Pair]:
    """Each of another cohort, by other ids; every third fails in some way that has words of its own."""
    answer = b'{"ids":["a","b"],"scores":[2,1]}'
    for at in range(120):
        word = HOSTILE[at % len(HOSTILE)] + ("" if at < len(HOSTILE) else str(at))
        asked = json.dumps({"who": word}).encode()
        request = Request("POST", "/rank", b"traceparent: " + word.encode()[:99], asked, len(asked))
        version = b"X-Version: " + word.replace("\n", "").encode()[:300]
        ok = Exchange(Outcome.OK, 200, version, answer, len(answer), b"", 0.01, 0.02)
        bad = (
            Exchange(Outcome.RESET, detail=word),
            Exchange(Outcome.OK, 200, version, word.encode()[:50], len(word.encode()[:50]), b"", 0.01, 0.02),
            Exchange(Outcome.OK, 100 + at * 7, version, b"", 0, b"", 0.01, 0.02),
        )[at // 3 % 3]
        yield Pair(word[:200], 1000.0 + at, request, ok, ok if at % 3 else bad)


def series(families: list[Metric]) -> dict[str, int]:
    return {one.name: len(one.samples) for one in families if one.name.startswith("shadowproxy_")}


def readable_and_bounded(registry: metrics.Registry) -> None:
    dimensions = {"guardrails": 2, "(`verdict.max_cohorts` + 2)": COHORTS + 2, "routes": 1}
    page = metrics.render(registry, metrics.OPENMETRICS)[0].decode()
    text = metrics.render(registry, "")[0]
    found = list(parse_openmetrics(page))
    for name, count in series(found).items():
        assert count <= math.prod(most or dimensions[what] for most, what in exposed.factors(name)), name
    assert sum(series(list(parse_text(text.decode()))).values()) == sum(series(found).values())
    done = subprocess.run([program("promtool"), "check", "metrics"], input=text, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    values = [value for family in found for sample in family.samples for value in sample.labels.values()]
    assert all(value.isprintable() and len(value) <= 128 for value in values)


async def test_hostile_words_neither_break_a_page_nor_make_it_grow(valkey: EmbeddedServer) -> None:
    of_comparator, of_api = metrics.registry(), metrics.registry()
    counted = metrics.ComparatorMetrics(of_comparator, kinds=exposed.KINDS, faults=exposed.FAULTS)
    before = series(list(of_comparator.collect()))
    async with await Store.open(valkey.url, unique("hostile"), max_entries=1000) as store:
        sent = list(pairs())
        await store.append("producer", 1, encode(sent), len(sent), Accounting(120, 120, 120))
        worker = Worker(
            store, Comparer(SETTINGS.routes), Plan(SETTINGS), counted, name="one", read=10, claim_idle=1.0,
            max_cohorts=COHORTS, versions=VersionReader("x-version"),
        )  # fmt: skip
        worker.stop()
        await worker.run()
        reading = await VerdictReader(Partitions(store), SETTINGS).read()
    verdict = reading.verdict
    assert verdict.pairs == len(sent)
    assert sum(verdict.failures["candidate"].values()) == 40
    told = exported(verdict, reading.stream, alpha_rollback=0.05, age=0.0, changed_at=None)
    metrics.VerdictMetrics(of_api, lambda: told)

    assert series(list(of_comparator.collect())) == before
    for registry in (of_comparator, of_api):
        readable_and_bounded(registry)
    # As many cohorts as may be, the rest pooled: the bound is reached, so that it is one.
    cohorts = {row.cohort for row in told.guardrails}
    assert len(cohorts) == COHORTS + 2
    assert {"all", "other"} <= cohorts
