"""Guardrails that are calibrated, of either kind, and what they ask of the data."""

from __future__ import annotations

from collections.abc import Sequence

from shadowproxy.config.settings import Settings
from shadowproxy.stats.state import Tally
from shadowproxy.verdict.guardrails.calibration import FEWEST, Calibration, WaitingGuard
from shadowproxy.verdict.guardrails.clips import ClippedGuard
from shadowproxy.verdict.guardrails.guards import Guard
from shadowproxy.verdict.guardrails.rules import Rule
from shadowproxy.verdict.guardrails.shifts import ShiftGuard
from shadowproxy.verdict.record import Check

Calibrated = WaitingGuard | ClippedGuard | ShiftGuard


def calibrated_guard(rule: Rule, settings: Settings, slots: int, calibration: Calibration | None) -> Calibrated:
    """The guardrail by its calibration, or waiting for it."""
    if calibration is None:
        return WaitingGuard(rule, settings)
    kind = ClippedGuard if rule.metric.calibrated == "clip" else ShiftGuard
    return kind(rule, settings, slots, calibration)


def calibration_checks(guards: Sequence[Guard], total: Tally) -> tuple[Check, ...]:
    """The conditions that calibrated guardrails put on the data; none where there are no such guardrails."""
    waiting = {guard.rule.name: guard.first.pairs(total) for guard in guards if isinstance(guard, WaitingGuard)}
    clips = [guard for guard in guards if isinstance(guard, ClippedGuard)]
    checks = []
    if waiting:
        name, pairs = min(waiting.items(), key=lambda entry: entry[1])
        detail = f"{name} is calibrated by the first {FEWEST:,} pairs with scores; {min(pairs, FEWEST):,} are counted"
        checks.append(Check(name="calibrated", passed=False, detail=detail))
    elif calibrated := [guard for guard in guards if isinstance(guard, ClippedGuard | ShiftGuard)]:
        checks.append(Check(name="calibrated", passed=True, detail="; ".join(map(_told, calibrated))))
    if clips:
        shares = [(guard.clipped_share(total), guard.calibration.most_clipped, guard) for guard in clips]
        share, most, guard = max(shares, key=lambda entry: entry[0] / entry[1])
        detail = (
            f"{guard.rule.name} is clipped at ±{guard.clip:.3g} in {share:.2%} of its pairs, at most {most:.0%} "
            "allowed, for what is clipped is missing from the mean; a wider margin clips less"
        )
        checks.append(Check(name="clipped", passed=share <= most, detail=detail))
    return tuple(checks)


def _told(guard: ClippedGuard | ShiftGuard) -> str:
    if isinstance(guard, ClippedGuard):
        return f"{guard.rule.name} is clipped at ±{guard.clip:.3g}"
    first, last = guard.thresholds[[0, -1]]
    return f"{guard.rule.name} looks at {len(guard.thresholds)} thresholds from {first:.3g} to {last:.3g}"
