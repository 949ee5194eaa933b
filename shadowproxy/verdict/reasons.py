"""The reasons of a decision, in plain words with figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from shadowproxy.verdict.decide import Decision
from shadowproxy.verdict.guardrails.rules import Rule
from shadowproxy.verdict.record import OTHER, OVERALL, Cell, Check, Forecast, State

_SHARE = "share of "
_LISTED = 6
"""How many cells of one kind are spelled out before the rest are only numbered."""


def reasons(
    decision: Decision,
    cells: Sequence[Cell],
    checks: Sequence[Check],
    *,
    rules: Mapping[str, Rule],
    pairs: int,
    latched: tuple[str, ...] | None,
    alpha_rollback: float,
    forecast: Forecast | None,
) -> tuple[str, ...]:
    """One sentence each, the weightiest first."""
    if decision.state is State.ROLLBACK:
        return tuple(_rollback(decision, rules, pairs, latched, alpha_rollback))
    if decision.state is State.PROMOTE:
        return tuple(_promote(cells, rules))
    return tuple(_continue(decision, checks, rules, pairs, alpha_rollback, forecast))


def _rollback(
    decision: Decision, rules: Mapping[str, Rule], pairs: int, latched: tuple[str, ...] | None, alpha: float
) -> list[str]:
    lines = [
        f"{_figure(cell, rules)}: proven harmful {_proof(cell.pairs, cell.e_rollback, cell.rollback_at)}"
        for cell in decision.harmful[:_LISTED]
    ]
    lines += _rest(len(decision.harmful), "proven harmful")
    if decision.contributors:
        proof = _proof(pairs, decision.evidence, 1 / alpha)
        lines.append(f"no guardrail is proven harmful by itself, but all together are, {proof}; the largest parts:")
        lines += [
            f"{_figure(cell, rules)}: {cell.e_rollback / cell.rollback_at:.0%} of what a proof takes, "
            f"on {cell.pairs:,} pairs"
            for cell in decision.contributors
        ]
    if latched is not None and not lines:
        lines = ["this experiment was rolled back, and a rollback stands: start a new one to try again; it was for:"]
        lines += latched
    return lines


def _promote(cells: Sequence[Cell], rules: Mapping[str, Rule]) -> list[str]:
    lines = []
    for cell in cells:
        if cell.cohort == OVERALL:
            line = f"{_figure(cell, rules)}: proven within it {_proof(cell.pairs, cell.e_promote, cell.promote_at)}"
            large = [one for one in cells if one.required and one is not cell and one.guardrail == cell.guardrail]
            if large:
                line += f", and within {_bare(large[0].margin, cell.unit)} in each of {len(large)} large cohorts"
            lines.append(line)
    return lines


def _continue(
    decision: Decision,
    checks: Sequence[Check],
    rules: Mapping[str, Rule],
    pairs: int,
    alpha: float,
    forecast: Forecast | None,
) -> list[str]:
    alarming = {(cell.guardrail, cell.cohort) for cell in decision.alarming}
    open_cells = [cell for cell in decision.unproven if (cell.guardrail, cell.cohort) not in alarming]
    open_cells.sort(key=lambda cell: cell.cohort != OVERALL)
    lines = []
    if decision.exhausted:
        lines.append(f"the horizon is reached with {pairs:,} pairs and nothing is proven either way")
    lines += [f"{check.name}: {check.detail}" for check in checks if not check.passed]
    lines += [
        f"{_figure(cell, rules)}: may be harmful {_proof(cell.pairs, cell.e_rollback, 1 / alpha)}, "
        "enough to hold a promote back"
        for cell in decision.alarming[:_LISTED]
    ]
    lines += _rest(len(decision.alarming), "that may be harmful")
    lines += [
        f"{_figure(cell, rules)}: not proven within it yet (e-value {number(cell.e_promote)}, "
        f"{number(cell.promote_at)} needed) on {cell.pairs:,} pairs"
        if cell.pairs
        else f"{_title(rules[cell.guardrail])}, {_cohort(cell.cohort)}: no data"
        for cell in open_cells[:_LISTED]
    ]
    lines += _rest(len(open_cells), "not proven yet")
    if forecast is not None:
        time = "" if forecast.seconds is None else f" (about {_duration(forecast.seconds)} as they come now)"
        lines.append(f"if things go on like this, a promote takes about {_rough(forecast.pairs)} more pairs{time}")
    return lines


def _rest(count: int, what: str) -> list[str]:
    return [f"and {count - _LISTED} more {what}"] if count > _LISTED else []


def _title(rule: Rule) -> str:
    direction = f" ({rule.direction})" if len(rule.metric.worse) > 1 else ""
    return rule.metric.title + direction + (f" on {', '.join(rule.routes)}" if rule.routes else "")


def _figure(cell: Cell, rules: Mapping[str, Rule]) -> str:
    rule = rules[cell.guardrail]
    sign = -1.0 if rule.direction == "lower" else 1.0
    shift = "unknown" if cell.estimate is None else _amount(sign * cell.estimate, cell.unit)
    # Where nothing can be below the ideal it is no shift but an amount.
    if rule.metric.low == rule.metric.ideal:
        shift = shift.removeprefix("+")
    return f"{_title(rule)}: {shift} {_cohort(cell.cohort)}, margin {_bare(cell.margin, cell.unit)}"


def _cohort(cohort: str) -> str:
    if cohort == OVERALL:
        return "over all"
    return "over the other cohorts, pooled" if cohort == OTHER else f"in cohort {cohort}"


def _amount(value: float, unit: str) -> str:
    value += 0.0  # −0 reads as a fall
    if unit.startswith(_SHARE):
        return f"{100 * value:+.3g}% of {unit.removeprefix(_SHARE)}"
    if unit == "doublings":
        return f"{value:+.3g} doublings ({100 * (2**value - 1):+.3g}%)"
    return f"{value:+.3g} {unit}"


def _bare(value: float, unit: str) -> str:
    if unit.startswith(_SHARE):
        return f"{100 * value:.3g}%"
    return f"{100 * (2**value - 1):.3g}%" if unit == "doublings" else f"{value:.3g}"


def _proof(pairs: int, e_value: float, threshold: float) -> str:
    return f"on {pairs:,} pairs (e-value {number(e_value)} ≥ {number(threshold)})"


def number(value: float) -> str:
    """A positive number in few characters, rounded down, so that it never seems to reach what it does not.

    >>> number(1234567.0), number(120.0), number(19.99), number(0.0)
    ('1.2e6', '120', '19.9', '0')
    """
    if value >= 1e4:
        exponent = math.floor(math.log10(value))
        return f"{math.floor(10 * value / 10.0**exponent + 1e-9) / 10:g}e{exponent}"
    if value >= 100:
        return f"{math.floor(value + 1e-9):,}"
    return f"{math.floor(value * 10 + 1e-9) / 10:g}" if value >= 1 else f"{value:.1g}"


def _rough(pairs: float) -> str:
    exponent = math.floor(math.log10(pairs)) if pairs >= 1 else 0
    return f"{math.ceil(pairs / 10**exponent) * 10**exponent:,}"


def _duration(seconds: float) -> str:
    """Roughly, in the unit in which it is a small number.

    >>> [_duration(seconds) for seconds in (0.2, 45, 3000, 90_000, 1e7)]
    ['1 s', '50 s', '50 min', '30 h', '200 days']
    """
    for unit, size, until in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < until:
            return f"{_rough(max(seconds / size, 1))} {unit}"
    return f"{_rough(seconds / 86_400)} days"
