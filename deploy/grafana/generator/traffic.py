"""Traffic and shedding: what became of each request, and what the proxy leaves undone lest a client pay for it."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, stat, statetimeline, timeseries
from grafana_foundation_sdk.models import units

from generator.parts import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    PROXY,
    RED,
    SIDES,
    Box,
    Query,
    Value,
    colored,
    figure,
    lines,
    or_zero,
    start,
    steps,
    timeline,
)

_CONFIGURED, _UP = (f'state="{state}"' for state in ("configured", "up"))
BREAKER = {"closed": 0, "half_open": 1, "open": 2}
SMALL, QUARTER, THIRD, HALF = Box(4, 4), Box(6, 7), Box(8, 7), Box(12, 7)


def _now() -> list[stat.Panel]:
    requests, eligible = PROXY.rate("shadowproxy_requests_total"), PROXY.rate("shadowproxy_eligible_total")
    recorded = PROXY.rate("shadowproxy_recorded_total")
    return [
        figure(
            "Requests",
            "Requests that clients send, over all proxies shown. All are answered from the baseline.",
            Query(f"sum({requests})"),
            units.RequestsPerSecond,
            SMALL,
        ),
        figure(
            "Mirrored",
            "Share of the requests of which a copy was to go to the candidate. The others were skipped: by "
            "configuration, by sampling or by a pause; see the reasons below.",
            Query(f"sum({eligible}) / (sum({requests}) > 0)"),
            units.PercentUnit,
            SMALL,
            missing="no traffic",
        ),
        figure(
            "Recorded",
            "Share of the mirrored requests whose pair is in the store. It lags while pairs wait to be written; if it "
            "stays below 100%, pairs are dropped, and a promote is held back.",
            Query(f"clamp_max(sum({recorded}) / (sum({eligible}) > 0), 1)"),
            units.PercentUnit,
            SMALL,
            colors=steps(RED, {0.95: AMBER, 0.99: GREEN}),
            missing="no traffic",
        ),
        figure(
            "Dropped in this time range",
            "Mirrored requests whose pair was not recorded, for a reason that is not the candidate's doing. "
            "Healthy is 0.",
            Query(or_zero(f"sum(increase({PROXY.of('shadowproxy_dropped_total')}[$__range]))")),
            units.Short,
            SMALL,
            colors=steps(GREEN, {0.0001: RED}),
        ),
        figure(
            "Shed in this time range",
            "Copies that were not made since the candidate (or the replica) had too many under way or its breaker was "
            "open. Their pairs are recorded and count as that side's failures: bad news of the candidate.",
            Query(or_zero(f"sum(increase({PROXY.of('shadowproxy_shed_copies_total')}[$__range]))")),
            units.Short,
            SMALL,
            colors=steps(GREEN, {0.0001: AMBER}),
        ),
        figure(
            "Mirroring",
            "Whether a person has paused mirroring or stopped the experiment, on at least one proxy. Clients are "
            "served as ever; no pairs come.",
            Query(f"max({PROXY.of('shadowproxy_mirroring_paused')})"),
            units.NoUnit,
            SMALL,
            values={0: Value("on", GREEN), 1: Value("paused", AMBER)},
        ),
    ]


def _fates() -> list[timeseries.Panel]:
    fates = lines(
        "What became of requests",
        "Every request is in one of these: requests = skipped + eligible, and eligible = recorded + dropped + those "
        "that are under way or wait to be written.",
        [
            Query(f"sum({PROXY.rate('shadowproxy_recorded_total')})", "recorded"),
            Query(or_zero(f"sum({PROXY.rate('shadowproxy_dropped_total')})"), "dropped"),
            Query(or_zero(f"sum({PROXY.rate('shadowproxy_skipped_total')})"), "skipped"),
        ],
        units.RequestsPerSecond,
        Box(16, 8),
        stacked=True,
    )
    requests, eligible = PROXY.rate("shadowproxy_requests_total"), PROXY.rate("shadowproxy_eligible_total")
    share = lines(
        "Share that is mirrored",
        "Share of the requests of which a copy was to go to the candidate, and the share that is asked for where no "
        "route says otherwise (the least of all proxies; 0 while paused). Fewer than asked for: methods, routes or "
        "sizes leave requests out, as the panels below say.",
        [
            Query(f"sum({eligible}) / (sum({requests}) > 0)", "mirrored"),
            Query(f"min({PROXY.of('shadowproxy_mirroring_sample_ratio')})", "asked for"),
        ],
        units.PercentUnit,
        Box(8, 8),
    )
    skipped = PROXY.happened("shadowproxy_skipped_total", "reason")
    dropped = PROXY.happened("shadowproxy_dropped_total", "reason")
    shed = PROXY.happened("shadowproxy_shed_copies_total", "side, reason")
    return [
        colored(fates, {"recorded": GREEN, "dropped": RED, "skipped": GREY}),
        colored(share, {"mirrored": BLUE, "asked for": GREY}),
        lines(
            "Skipped, by reason",
            "Requests that were answered and not mirrored. not_sampled, method, route and disabled are configuration, "
            "paused and stopped a person's doing; all reasons are in docs/metrics.md.",
            [Query(or_zero(skipped, reason="none"), "{{reason}}")],
            units.RequestsPerSecond,
            THIRD,
        ),
        lines(
            "Dropped, by reason",
            "Pairs that were lost before they were stored, none by the candidate's doing. recorder_full is a store "
            "that was away, or too slow, for longer than memory and spool last.",
            [Query(or_zero(dropped, reason="none"), "{{reason}}")],
            units.RequestsPerSecond,
            THIRD,
        ),
        lines(
            "Shed, by upstream and reason",
            "Copies not made: in_flight and bytes are an upstream too slow for its limits, breaker one that failed too "
            "often of late.",
            [Query(or_zero(shed, side="none", reason=""), "{{side}} {{reason}}")],
            units.OpsPerSecond,
            THIRD,
        ),
    ]


def _breaker() -> statetimeline.Panel:
    return timeline(
        "Breaker",
        "The breaker of each shadow upstream on each proxy. Open: it failed so often that no copies are made for a "
        "while; half open: a few are, to see whether it is back. Of several workers the worst.",
        [Query(PROXY.states("shadowproxy_breaker_state", BREAKER, by="side, instance"), "{{side}} {{instance}}")],
        {0: Value("closed", GREEN), 1: Value("half open", AMBER), 2: Value("open", RED)},
        HALF,
    )


def _upstreams() -> list[timeseries.Panel]:
    failed = PROXY.happened("shadowproxy_exchanges_total", "side, outcome", 'outcome!="ok"')
    known, healthy = (PROXY.of(f"shadowproxy_upstream_{name}") for name in ("addresses", "healthy_addresses"))
    lookups = PROXY.happened("shadowproxy_upstream_failed_lookups_total", "side")
    return [
        lines(
            "Failed exchanges, by upstream",
            "Exchanges that brought no whole answer, by how they ended. The baseline's failures are what clients saw.",
            [Query(or_zero(failed, side="none", outcome=""), "{{side}} {{outcome}}")],
            units.OpsPerSecond,
            HALF,
        ),
        colored(
            lines(
                "In flight, by upstream",
                "Requests under way. The candidate's rising to proxy.mirror.max_in_flight is a candidate that can't "
                "keep up: from there on copies are shed.",
                [Query(f"sum by (side) ({PROXY.of('shadowproxy_in_flight_requests')})", "{{side}}")],
                units.Short,
                THIRD,
            ),
            SIDES,
        ),
        colored(
            lines(
                "Memory of copies, by upstream",
                "What copies under way, and answers that wait for them, hold in the proxies' memory. It is bounded by "
                "proxy.mirror.max_in_flight_bytes a process.",
                [Query(f"sum by (side) ({PROXY.of('shadowproxy_in_flight_bytes')})", "{{side}}")],
                units.BytesIEC,
                THIRD,
            ),
            SIDES,
        ),
        lines(
            "Addresses put aside, and lookups that failed",
            "Addresses of an upstream that failed and are left alone for a while, and names that could not be "
            "resolved, a second. Healthy is 0.",
            [
                Query(f"sum by (side) ({known}) - sum by (side) ({healthy})", "{{side}} put aside"),
                Query(or_zero(lookups, side="no"), "{{side}} failed lookups a second"),
            ],
            units.Short,
            THIRD,
        ),
    ]


def _recorded(name: str) -> str:
    return PROXY.of(f"shadowproxy_recorder_{name}")


def _recorder() -> list[timeseries.Panel]:
    # The workers of an instance share a directory, and its bound.
    spool = f"max by (instance) ({_recorded('spool_max_bytes')})"
    return [
        lines(
            "Pairs that wait to be written",
            "In memory, and on disk where there is a spool. They rise while the store is away or slow; beyond "
            "recorder.max_bytes and the spool's size pairs are dropped.",
            [
                Query(f"sum({PROXY.of('shadowproxy_recorder_waiting_pairs')})", "in memory"),
                Query(f"sum({PROXY.of('shadowproxy_recorder_spool_pairs')})", "in the spool"),
            ],
            units.Short,
            THIRD,
        ),
        lines(
            "Room they take, of what they may",
            "Memory (recorder.max_bytes) and disk space (recorder.spool.max_bytes) that pairs waiting to be written "
            "take up. At 100% of both pairs are dropped. No line for disk: there is no spool.",
            [
                Query(f"sum({_recorded('waiting_bytes')}) / (sum({_recorded('waiting_max_bytes')}) > 0)", "memory"),
                Query(f"max(sum by (instance) ({_recorded('spool_bytes')}) / ({spool} > 0))", "disk"),
            ],
            units.PercentUnit,
            THIRD,
        ),
        lines(
            "Taken over from dead proxies",
            "Pairs a second that a proxy delivered from the spool of one that had died. Not 0: a proxy was killed.",
            [Query(f"sum({PROXY.rate('shadowproxy_recorder_adopted_pairs_total')})", "pairs")],
            units.CountsPerSecond,
            THIRD,
        ),
    ]


def _edits() -> list[timeseries.Panel]:
    unset = PROXY.happened("shadowproxy_json_fields_unapplied_total", "side, obstacle")
    unread = PROXY.happened("shadowproxy_redaction_left_out_total", "reason")
    untraced = PROXY.happened("shadowproxy_untraced_requests_total", "reason")
    handshakes = PROXY.happened("shadowproxy_failed_handshakes_total", "reason")
    return [
        lines(
            "JSON fields that could not be set",
            "Copies sent as they came, since json_fields could not be set in them, by what stood in the way. The "
            "candidate then got another request than was meant.",
            [Query(or_zero(unset, side="none", obstacle=""), "{{side}} {{obstacle}}")],
            units.OpsPerSecond,
            QUARTER,
        ),
        lines(
            "Left out by redaction",
            "Bodies and annotations left out of pairs, since what was to be redacted could not be found in them.",
            [Query(or_zero(unread, reason="none"), "{{reason}}")],
            units.OpsPerSecond,
            QUARTER,
        ),
        lines(
            "TLS handshakes that failed",
            "Clients that could not connect, by why. 0 where clients speak plain HTTP.",
            [Query(or_zero(handshakes, reason="none"), "{{reason}}")],
            units.OpsPerSecond,
            QUARTER,
        ),
        lines(
            "Traces",
            "Requests whose spans the collector has taken, and those whose spans were dropped, by reason. 0 where "
            "tracing is off. Dropped spans cost nothing but themselves: pairs are recorded all the same.",
            [
                Query(or_zero(f"sum({PROXY.rate('shadowproxy_traced_requests_total')})"), "traced"),
                Query(or_zero(untraced, reason="none"), "dropped: {{reason}}"),
            ],
            units.RequestsPerSecond,
            QUARTER,
        ),
    ]


def _processes() -> list[timeseries.Panel]:
    workers = (
        f"sum by (instance) ({PROXY.of('shadowproxy_workers', _CONFIGURED)}) - "
        f"sum by (instance) ({PROXY.of('shadowproxy_workers', _UP)})"
    )
    restarts = f"sum by (instance) (increase({PROXY.of('shadowproxy_worker_restarts_total')}[$__rate_interval]))"
    return [
        lines(
            "CPU of proxies",
            "Cores in use, by instance, all workers of one together. A worker is one core at the most: at 1 a worker "
            "the proxy itself is what makes clients wait.",
            [Query(f"sum by (instance) ({PROXY.rate('process_cpu_seconds_total')})", "{{instance}}")],
            units.Short,
            THIRD,
        ),
        lines(
            "Event-loop lag of proxies",
            "How long a step of a request waits for its turn in the proxy: what the proxy itself adds to every one of "
            "them, for clients and for all upstreams alike. Milliseconds are normal, more is a proxy short of CPU.",
            [
                Query(
                    PROXY.quantile(q, "shadowproxy_event_loop_lag_seconds", by="instance"), f"{name} {{{{instance}}}}"
                )
                for q, name in ((0.5, "p50"), (0.99, "p99"))
            ],
            units.Seconds,
            THIRD,
        ),
        lines(
            "Memory of proxies",
            "Resident memory, by instance, all workers of one together.",
            [Query(f"sum by (instance) ({PROXY.of('process_resident_memory_bytes')})", "{{instance}}")],
            units.BytesIEC,
            THIRD,
        ),
        lines(
            "Client connections",
            "Open connections of clients, by instance.",
            [Query(f"sum by (instance) ({PROXY.of('shadowproxy_client_connections')})", "{{instance}}")],
            units.Short,
            HALF,
        ),
        colored(
            lines(
                "Workers missing, and restarts",
                "Where proxy.workers is more than 1: workers that are configured and not up, and those that ended "
                "unasked and were started again. Healthy is 0.",
                [
                    Query(or_zero(workers, instance="none"), "missing {{instance}}"),
                    Query(or_zero(restarts, instance="none"), "restarted {{instance}}"),
                ],
                units.Short,
                HALF,
            ),
            {"missing": RED, "restarted": BLUE},
        ),
    ]


def traffic() -> dashboard.Dashboard:
    """What became of each request."""
    made = start(
        "shadowproxy-traffic",
        "shadowproxy: traffic and shedding",
        "Is every request accounted for, how much of the traffic is mirrored, and what is left out and why?",
        PROXY,
    )
    for row, panels in (
        ("Now", _now()),
        ("Accounting", _fates()),
        ("Upstreams", [_breaker(), *_upstreams()]),
        ("Recorder", _recorder()),
        ("Edits, TLS and traces", _edits()),
        ("Processes", _processes()),
    ):
        made.with_row(dashboard.Row(row))
        for panel in panels:
            made.with_panel(panel)
    return made
