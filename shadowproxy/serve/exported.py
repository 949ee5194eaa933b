"""A verdict in the words of the metrics."""

from __future__ import annotations

import math

import msgspec

from shadowproxy.metrics import DistanceReading, GuardrailReading, LatencyReading, StreamReading, VerdictReading
from shadowproxy.verdict.record import OVERALL, Cell, Quantiles, Verdict, cells

_LONGEST = 128


def exported(
    verdict: Verdict, stream: StreamReading, *, alpha_rollback: float, age: float, changed_at: float | None
) -> VerdictReading:
    """What is exported of a verdict that was worked out `age` seconds ago and is what it is since `changed_at`."""
    forecast = verdict.forecast
    return VerdictReading(
        state=verdict.state.value,
        experiment=verdict.experiment,
        age=age,
        pairs=verdict.pairs,
        open_pairs=verdict.open_pairs,
        exhausted=verdict.exhausted,
        changed_at=changed_at,
        evidence_rollback=verdict.evidence_rollback,
        evidence_rollback_threshold=1 / alpha_rollback,
        forecast_pairs=None if forecast is None else forecast.pairs,
        forecast_seconds=None if forecast is None else forecast.seconds,
        stream=stream,
        guardrails=tuple(_guardrail(cell) for cell in cells(verdict)),
        checks={check.name: check.passed for check in verdict.checks},
        inflation={(one.guardrail, one.by): one.inflation for one in verdict.dependence},
        latencies=tuple(_latency(row) for row in verdict.latencies if _of_all(row) and row.pairs),
        distances=tuple(
            DistanceReading(
                route=row.route, ks=row.ks, psi=row.psi, wasserstein=row.wasserstein, jensen_shannon=row.jensen_shannon
            )
            for row in verdict.distributions
            if row.cohort == OVERALL
        ),
        versions={
            side: _printable(max(seen, key=lambda version: version.last).value)
            for side, seen in verdict.versions.items()
            if seen
        },
        labels=None if verdict.labels is None else msgspec.structs.asdict(verdict.labels),
    )


def _guardrail(cell: Cell) -> GuardrailReading:
    low, high = (None, None) if cell.interval is None else cell.interval
    return GuardrailReading(
        guardrail=cell.guardrail,
        cohort=cell.cohort,
        margin=cell.margin,
        estimate=cell.estimate,
        interval_low=low,
        interval_high=high,
        e_promote=cell.e_promote,
        e_rollback=cell.e_rollback,
        promote_threshold=cell.promote_at,
        rollback_threshold=cell.rollback_at,
        pairs=cell.pairs,
        undefined_pairs=cell.undefined,
        needed_pairs=cell.needed,
        required=cell.required,
        finding=cell.finding.value,
    )


def _of_all(row: Quantiles) -> bool:
    return row.cohort == OVERALL and not row.route


def _latency(row: Quantiles) -> LatencyReading:
    quantiles = {"0.5": row.p50, "0.9": row.p90, "0.99": row.p99}
    return LatencyReading(
        side=row.side,
        timing=row.timing,
        pairs=row.pairs,
        seconds={name: math.inf if seconds is None else seconds for name, seconds in quantiles.items()},
    )


def _printable(version: str) -> str:
    # A service wrote it: what becomes a label is short and has no control characters.
    return "".join(character if character.isprintable() else "?" for character in version[:_LONGEST])
