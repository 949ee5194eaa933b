"""Comparator health: do comparisons keep up, is every pair counted, and what could not be."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, heatmap, stat, timeseries
from grafana_foundation_sdk.models import units

from generator.parts import (
    AMBER,
    API,
    BLUE,
    COMPARATOR,
    GREEN,
    PROXY,
    PURPLE,
    RED,
    Box,
    Query,
    buckets,
    colored,
    figure,
    lines,
    or_zero,
    start,
    steps,
)

SMALL, THIRD, HALF = Box(4, 4), Box(8, 7), Box(12, 7)
LABELS = (
    ("labels_joined", "joined with their pair"),
    ("labels_unmatched", "late, or of no known pair"),
    ("labels_duplicate", "repetitions"),
    ("labels_invalid", "not to be read"),
    ("labels_waiting", "waiting for their pair"),
)
UNLABELLED = (
    ("unlabelled_pairs", "waiting for a label"),
    ("unlabelled_pairs_expired", "waited in vain"),
    ("unlabelled_pairs_overflow", "could not wait"),
)


def _stream(name: str, by: str = "") -> str:
    """Of the streams, which every API process reads whole: the most that one says."""
    return f"max by ({by}) ({API.of(f'shadowproxy_stream_{name}')})"


def _now() -> list[stat.Panel]:
    compared = f"sum({COMPARATOR.rate('shadowproxy_compared_pairs_total')})"
    lost = " + ".join(_stream(name) for name in ("lost_pairs", "missing_pairs"))
    return [
        figure(
            "Compared",
            "Pairs a second that the comparators shown compared and committed.",
            Query(compared),
            units.CountsPerSecond,
            SMALL,
        ),
        figure(
            "Waiting",
            "Batches of pairs in the stream that are not committed yet. It moves around a small number; one that only "
            "grows is a comparator that can't keep up: start another.",
            Query(_stream("lag_entries")),
            units.Short,
            SMALL,
        ),
        figure(
            "Room that waiting pairs take",
            "Size in the store of what is not committed yet. Beyond the stream's bound the oldest are trimmed, and "
            "lost.",
            Query(_stream("waiting_bytes")),
            units.BytesIEC,
            SMALL,
        ),
        figure(
            "Pairs lost",
            "Pairs that were trimmed before they were read, or that the store acknowledged and has no more, as after a "
            "fail-over. Anything but 0 holds a promote back: what is missing might not be like the rest.",
            Query(lost),
            units.Short,
            SMALL,
            colors=steps(GREEN, {1: RED}),
        ),
        figure(
            "Dead letters",
            "Batches that no comparator could read, or that ended every comparator that tried. "
            "`shadowproxy pairs dead-letters` shows them and why.",
            Query(_stream("dead_letters")),
            units.Short,
            SMALL,
            colors=steps(GREEN, {1: RED}),
        ),
        figure(
            "Late",
            "Pairs that came after their bucket of time was closed. They are counted when they come; many of them are "
            "proxies whose clock is behind, or a store that was away.",
            Query(f"sum({COMPARATOR.of('shadowproxy_late_pairs')})"),
            units.Short,
            SMALL,
            colors=steps(GREEN, {1: AMBER}),
        ),
    ]


def _throughput() -> list[timeseries.Panel | heatmap.Panel]:
    pairs, entries = (COMPARATOR.rate(f"shadowproxy_compared_{what}_total") for what in ("pairs", "entries"))
    took, step = "shadowproxy_compare_duration_seconds", "shadowproxy_compare_batch_pairs"
    return [
        lines(
            "Pairs compared, and recorded",
            "Both are the same in the long run. Recorded above compared: pairs pile up in the stream.",
            [
                Query(f"sum by (instance) ({pairs})", "compared {{instance}}"),
                Query(f"sum({PROXY.rate('shadowproxy_recorded_total')})", "recorded"),
            ],
            units.CountsPerSecond,
            HALF,
        ),
        lines(
            "Waiting in the stream",
            "Batches that are written and not committed, and those of them that a comparator has been given.",
            [
                Query(_stream("lag_entries"), "not committed"),
                Query(_stream("pending_entries"), "given to a comparator"),
            ],
            units.Short,
            HALF,
        ),
        colored(
            lines(
                "Time for a step",
                "From entries read to state committed: the median and the 99th percentile of steps, over all "
                "comparators. A jump is the store or a machine short of CPU; a step takes as many entries as wait.",
                [Query(COMPARATOR.quantile(q, took), name) for q, name in ((0.5, "p50"), (0.99, "p99"))],
                units.Seconds,
                THIRD,
            ),
            {"p50": BLUE, "p99": PURPLE},
        ),
        buckets(
            "Time for a step, as it is distributed",
            "How many steps a second took how long.",
            f"sum by (le) ({COMPARATOR.rate(f'{took}_bucket')})",
            THIRD,
        ),
        lines(
            "Pairs in a batch, and in a step",
            "How many pairs a proxy writes at a time, on the average, and how many a comparator compares and commits "
            "together. Few cost more of everything; recorder.batch and recorder.linger decide how many are written.",
            [
                Query(f"sum({pairs}) / (sum({entries}) > 0)", "in a batch, mean"),
                Query(COMPARATOR.quantile(0.5, step), "in a step, p50"),
                Query(COMPARATOR.quantile(0.99, step), "in a step, p99"),
            ],
            units.Short,
            THIRD,
        ),
    ]


def _content() -> list[timeseries.Panel]:
    failed = COMPARATOR.happened("shadowproxy_failed_exchanges_total", "side, kind")
    bad = COMPARATOR.happened("shadowproxy_bad_bodies_total", "side, reason")
    return [
        lines(
            "Failures in pairs, by upstream and kind",
            "Answers that count as failures: none came in time, an error status, or a body that is not what the route "
            "expects. The candidate's, beyond the baseline's own, count against it.",
            [Query(or_zero(failed, side="none", kind=""), "{{side}} {{kind}}")],
            units.CountsPerSecond,
            THIRD,
            exemplars=True,
        ),
        lines(
            "Bad bodies, by upstream and reason",
            "Of these failures, answers that came whole and whose body could not be used, by what is wrong with it: "
            "not JSON, no list where the route expects one, and so on.",
            [Query(or_zero(bad, side="none", reason=""), "{{side}} {{reason}}")],
            units.CountsPerSecond,
            THIRD,
        ),
        lines(
            "Not closed yet, and late",
            "Pairs in buckets of time that are still open (they enter the verdict when their bucket closes), and those "
            "that came after.",
            [
                Query(f"max({API.of('shadowproxy_verdict_open_pairs')})", "open"),
                Query(f"sum({COMPARATOR.of('shadowproxy_late_pairs')})", "late"),
            ],
            units.Short,
            THIRD,
        ),
    ]


def _losses() -> list[timeseries.Panel]:
    recovered = (
        ("claimed_entries", "taken over from a silent comparator"),
        ("fenced_commits", "commits refused, taken over by another"),
        ("dead_letters", "dead letters"),
    )
    return [
        lines(
            "Lost",
            "Pairs trimmed before they were read, pairs that the store no more has, and batches in the dead-letter "
            "stream, as they add up. Each holds a promote back.",
            [
                Query(_stream("lost_pairs"), "trimmed unread"),
                Query(_stream("missing_pairs"), "gone from the store"),
                Query(_stream("dead_letters"), "dead letters (batches)"),
            ],
            units.Short,
            THIRD,
        ),
        lines(
            "Recoveries",
            "Entries a second that a comparator took over from one that had fallen silent, and commits that were "
            "refused since another had taken over: each pair is counted once all the same.",
            [Query(f"sum({COMPARATOR.rate(f'shadowproxy_{name}_total')})", legend) for name, legend in recovered],
            units.CountsPerSecond,
            THIRD,
        ),
        lines(
            "Room in the store",
            "Size of pairs that wait, and of those that are kept after they were counted (redis.keep), to be looked "
            "at and exported.",
            [Query(_stream("waiting_bytes"), "waiting"), Query(_stream("kept_bytes"), "kept")],
            units.BytesIEC,
            THIRD,
        ),
    ]


def _labels() -> list[timeseries.Panel]:
    joined = f"sum({COMPARATOR.rate('shadowproxy_joined_labels_total')})"
    return [
        lines(
            "Labels, by what became of them",
            "Labels that came after their pair, as they add up. 0 where no route waits for labels.",
            [Query(or_zero(f"max({API.of(f'shadowproxy_{name}')})"), legend) for name, legend in LABELS],
            units.Short,
            THIRD,
        ),
        lines(
            "Pairs without a label",
            "Pairs that wait for their label, that waited in vain, and that could not wait since too many did "
            "(redis.max_labels). 0 where no route waits for labels.",
            [Query(or_zero(f"max({API.of(f'shadowproxy_{name}')})"), legend) for name, legend in UNLABELLED],
            units.Short,
            THIRD,
        ),
        lines(
            "Labels joined",
            "Labels a second that were joined with their pair.",
            [Query(joined, "joined")],
            units.CountsPerSecond,
            THIRD,
        ),
    ]


def _processes() -> list[timeseries.Panel]:
    both = ((COMPARATOR, "comparator"), (API, "API"))
    return [
        lines(
            "CPU",
            "Cores in use, by instance. A comparator process is one core at the most.",
            [
                Query(f"sum by (instance) ({process.rate('process_cpu_seconds_total')})", f"{name} {{{{instance}}}}")
                for process, name in both
            ],
            units.Short,
            THIRD,
        ),
        lines(
            "Memory",
            "Resident memory, by instance. It grows with routes, cohorts and guardrails, and not with pairs.",
            [
                Query(f"sum by (instance) ({process.of('process_resident_memory_bytes')})", f"{name} {{{{instance}}}}")
                for process, name in both
            ],
            units.BytesIEC,
            THIRD,
        ),
        lines(
            "Open descriptors",
            "Files and connections that are open, by instance. One that only grows is a leak.",
            [
                Query(f"sum by (instance) ({process.of('process_open_fds')})", f"{name} {{{{instance}}}}")
                for process, name in both
            ],
            units.Short,
            THIRD,
        ),
    ]


def comparator() -> dashboard.Dashboard:
    """Whether every pair is compared, and counted once."""
    made = start(
        "shadowproxy-comparator",
        "shadowproxy: comparator health",
        "Do the comparators keep up with the proxies, is every pair counted, and what was lost or could not be read?",
        COMPARATOR,
        API,
        PROXY,
    )
    for row, panels in (
        ("Now", _now()),
        ("Throughput", _throughput()),
        ("What is in the pairs", _content()),
        ("Losses and recoveries", _losses()),
        ("Labels that come later", _labels()),
        ("Processes", _processes()),
    ):
        made.with_row(dashboard.Row(row))
        for panel in panels:
            made.with_panel(panel)
    return made
