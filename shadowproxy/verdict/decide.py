"""The decision: promote, rollback or continue, from the cells and the checks alone.

Rollback rests on the weighted mean of the e-values for harm, over guardrails × cohorts. A mean of e-values is one under
any dependence, and reaches its threshold whenever a weighted Bonferroni correction would. Promote needs every required
cell by itself, so it needs no correction. Both use current e-values; only the mean's crossing, a rollback, is kept.

Sources: Vovk & Wang 2021, E-values: calibration, combination and applications; Tavyrikov, Goeman & de Heide 2025 on why
running maxima can't be averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from shadowproxy.config.judging import Verdict as Policy
from shadowproxy.model import Accounting, VersionSeen
from shadowproxy.verdict.record import OVERALL, Cell, Check, Facts, Finding, State

_NAMED = 3
"""How many cells are named where a rollback rests on several together."""
_FINEST = 0.1
"""Seconds: a difference of clocks that is smaller can't be told from the way to the store."""
CAP = 1e300
"""E-values are reported up to this, so that they stay numbers in JSON."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and what it rests on."""

    state: State
    exhausted: bool
    evidence: float
    """The weighted mean of the e-values for harm."""
    harmful: tuple[Cell, ...]
    """Cells proven harmful by themselves, the strongest first."""
    contributors: tuple[Cell, ...]
    """Where the evidence is enough but no cell proves it alone: the largest parts of it."""
    unproven: tuple[Cell, ...]
    """Required cells that are not proven within their margin."""
    alarming: tuple[Cell, ...]
    """Cells whose e-value for harm, uncorrected, forbids a promote."""


def finding(e_promote: float, promote_at: float, e_rollback: float, rollback_at: float, enough: bool) -> Finding:
    """What one cell says. `enough`: whether it has the pairs that a rollback needs. Harm wins."""
    if enough and e_rollback >= rollback_at:
        return Finding.HARMFUL
    return Finding.SAFE if e_promote >= promote_at else Finding.UNDECIDED


def decide(cells: Sequence[Cell], checks: Sequence[Check], *, pairs: int, latched: bool, policy: Policy) -> Decision:
    """The decision over all cells, of all cohorts, of one moment. `pairs` are all pairs counted.

    A cell with fewer than `min_pairs_rollback` pairs adds nothing to the evidence for a rollback: with a margin of
    0.001 and losses in [0, 1] a single bad pair gives an e-value of several hundred.
    """
    parts = sorted(
        (
            (cell.e_rollback / cell.rollback_at, at, cell)
            for at, cell in enumerate(cells)
            if cell.pairs >= policy.min_pairs_rollback
        ),
        key=lambda part: (-part[0], part[1]),
    )
    # In units of the threshold: each part is w·E·α, so 1 is where the mean reaches 1/α.
    share = math.fsum(part for part, _, _ in parts)
    reached = share >= 1 and pairs >= policy.min_pairs_rollback
    harmful = tuple(cell for part, _, cell in parts if part >= 1)
    contributors = tuple(cell for part, _, cell in parts[:_NAMED] if part > 0) if reached and not harmful else ()
    required = [cell for cell in cells if cell.required]
    unproven = tuple(cell for cell in required if not (cell.pairs and cell.e_promote >= cell.promote_at))
    alarming = tuple(cell for cell in cells if cell.e_rollback >= 1 / policy.alpha_rollback)
    if latched or reached:
        state = State.ROLLBACK
    elif required and not unproven and not alarming and checks and all(check.passed for check in checks):
        state = State.PROMOTE
    else:
        state = State.CONTINUE
    return Decision(
        state=state,
        exhausted=state is State.CONTINUE and policy.horizon is not None and pairs >= policy.horizon,
        evidence=min(share / policy.alpha_rollback, CAP),
        harmful=harmful,
        contributors=contributors,
        unproven=unproven,
        alarming=alarming,
    )


def checks(cells: Sequence[Cell], *, pairs: int, facts: Facts, policy: Policy) -> tuple[Check, ...]:
    """The conditions on the data without which nothing is promoted. Missing data fail them."""
    return (
        Check(
            name="min_pairs",
            passed=pairs >= policy.min_pairs,
            detail=f"{pairs:,} pairs counted, at least {policy.min_pairs:,} needed",
        ),
        _recorded(facts.accounting, policy.min_recorded),
        Check(
            name="nothing_lost",
            passed=facts.lost_entries == 0 and facts.missing_pairs == 0,
            detail=f"{facts.lost_entries:,} stream entries trimmed before they were read, "
            f"{facts.missing_pairs:,} pairs missing from the store",
        ),
        Check(
            name="no_dead_letters",
            passed=facts.dead_letters == 0,
            detail=f"{facts.dead_letters:,} stream entries that could not be read",
        ),
        _clocks(facts.clock_behind, policy.settle),
        _undefined(cells, policy.max_undefined),
        *((_versions(facts.version_header, facts.versions),) if facts.version_header is not None else ()),
    )


def _versions(header: str, versions: Mapping[str, Sequence[VersionSeen]]) -> Check:
    """Whether each side was one version all the time: evidence on two of them proves nothing of the second."""
    changes = [
        f"the {side}'s {header} changed from {_quoted(before)} to {_quoted(after)} at {_time(after.first)}"
        for side, seen in versions.items()
        for before, after in pairwise(seen)
    ]
    if changes:
        return Check(
            name="versions",
            passed=False,
            detail=f"{'; '.join(changes)}: start a new experiment, by another name in `experiment` or by "
            "`shadowproxy experiment reset`",
        )
    known = [f"the {side} is {_quoted(seen[0])}" for side, seen in versions.items() if seen]
    if not known:
        return Check(
            name="versions", passed=False, detail=f"no answer carries {header} yet; see verdict.version_header"
        )
    return Check(name="versions", passed=True, detail=f"by {header} {' and '.join(known)}, all the time")


def _quoted(seen: VersionSeen) -> str:
    # A service wrote it; whoever reads it in a terminal must not be controlled by it.
    return "".join(character if character.isprintable() else "?" for character in seen.value) or "an empty value"


def _time(at: float) -> str:
    """Unix seconds as UTC. numpy has calendars without clocks, which this room may not know.

    >>> _time(951782400.9)
    '2000-02-29 00:00:00 UTC'
    """
    return f"{np.datetime64(int(at), 's')} UTC".replace("T", " ", 1)


def _clocks(behind: float, settle: float) -> Check:
    """Whether start-time buckets were closed when all that began in them had ended.

    A proxy stamps the start, the store's clock closes the bucket. Where the first is behind by more than the grace
    leaves room for, buckets close before their timeouts have come, and a candidate that hangs seems sound.
    """
    most = max(settle / 2, _FINEST)
    return Check(
        name="clocks",
        passed=behind <= most,
        detail=f"a proxy's clock is {behind:.2f} s behind the store's at the most, {most:.2f} s allowed; "
        "synchronise the clocks, or raise verdict.settle",
    )


def _recorded(accounting: Accounting, least: float) -> Check:
    dropped = sum(accounting.dropped.values())
    settled = accounting.recorded + dropped
    if not settled:
        return Check(name="recorded", passed=False, detail="no eligible request is accounted for yet")
    share = accounting.recorded / settled
    return Check(
        name="recorded",
        passed=share >= least,
        detail=f"{share:.2%} of {settled:,} eligible requests recorded, at least {least:.2%} needed",
    )


def _undefined(cells: Sequence[Cell], most: float) -> Check:
    required = [cell for cell in cells if cell.required and cell.pairs + cell.undefined]
    shares = [(cell.undefined / (cell.pairs + cell.undefined), cell) for cell in required]
    worst, cell = max(shares, key=lambda entry: entry[0], default=(0.0, None))
    if cell is None:
        return Check(name="undefined", passed=False, detail="no guardrail has any data")
    where = "" if cell.cohort == OVERALL else f" in cohort {cell.cohort}"
    return Check(
        name="undefined",
        passed=worst <= most,
        detail=f"{cell.guardrail}{where} is undefined for {worst:.2%} of its pairs, the most of all; "
        f"at most {most:.2%} allowed",
    )
