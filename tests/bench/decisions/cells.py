"""Five guardrails over all pairs and in each of 19 or 20 cohort slots: a hundred cells, decided on together.

Ranges, margins and weights are those that `verdict.guardrails.rules` makes of a configuration; the weighted sum is that
of `verdict.decide`, vectorised over experiments, and what it says is held to `decide` itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from bench.decisions import peers
from bench.decisions.means import OURS
from bench.decisions.reading import ALPHA, FEWEST_ROLLBACK, PROVEN, FloatArray, Reading, first, looks
from numpy.random import Generator
from numpy.typing import NDArray

from shadowproxy.config import Settings
from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.betting import MeanGrid
from shadowproxy.verdict import decide
from shadowproxy.verdict.guardrails.rules import Rule, rules
from shadowproxy.verdict.record import OVERALL, Cell, State

SLOTS: Final = 19
"""Eighteen cohorts and the pool of the others: with all pairs, 100 cells."""
Z_EACH: Final = "z-tests at the margins, peeked"
Z_ALL: Final = "the same after Bonferroni"
AGREES: Final = "decided as verdict.decide does"
NAMED: Final = "named rightly"
PROMOTED: Final = "promote before"
BAD: Final = 7
"""The slot of the one bad cohort."""

METRICS: Final = (
    ("failures.difference", 0.01),
    ("ranking.rbo", 0.2),
    ("scores.relative_delta", 0.02),
    ("latency.total_log2", 0.1375),
    ("labels.agreement", 0.1),
)

ROUTE: Final = {"ids": "response.body.ids", "scores": "response.body.scores", "label": "response.body.label"}


def settings(*, slots: int, same_margin: bool) -> Settings:
    """With one direction for each metric. `same_margin`: cohorts have the overall margin, and not twice that."""
    return Settings.model_validate(
        {
            "baseline": "http://127.0.0.1:1",
            "candidate": "http://127.0.0.1:2",
            "routes": [{"name": "rank", "path": "/rank", **ROUTE}],
            "verdict": {
                "max_cohorts": slots - 1,
                "guardrails": [
                    {"metric": metric, "margin": margin}
                    | ({"cohort_margin": margin} if same_margin else {})
                    | ({"worse": "higher"} if metric == "scores.relative_delta" else {})
                    for metric, margin in METRICS
                ],
            },
        }
    )


Draw = Callable[[Generator, tuple[int, int], NDArray[np.int64]], list[FloatArray]]
"""Losses of each guardrail, (experiments, pairs), from the cohort of each pair."""


def equal(draw: Generator, shape: tuple[int, int], cohort: NDArray[np.int64]) -> list[FloatArray]:
    """Baseline against itself: what differs by chance alone. A bad moment is bad for all five: they are correlated."""
    return _losses(draw, shape, (0.0, 0.1, 0.0, 0.0, 0.05))


def at_margin(draw: Generator, shape: tuple[int, int], cohort: NDArray[np.int64]) -> list[FloatArray]:
    """Every mean exactly at its margin, in every cohort."""
    return _losses(draw, shape, tuple(margin for _, margin in METRICS))


def one_bad(draw: Generator, shape: tuple[int, int], cohort: NDArray[np.int64]) -> list[FloatArray]:
    """As `equal`, but in one cohort, a twentieth of all pairs, scores are 0.3 worse: 0.015 overall, within 0.02."""
    found = equal(draw, shape, cohort)
    found[2] = np.where(cohort == BAD, np.clip(found[2] + 0.3, -1, 1), found[2])
    return found


def _losses(draw: Generator, shape: tuple[int, int], means: tuple[float, ...]) -> list[FloatArray]:
    moment = draw.standard_normal(shape)

    def normal() -> FloatArray:
        return math.sqrt(0.3) * moment + math.sqrt(0.7) * draw.standard_normal(shape)

    def share(of: float) -> FloatArray:
        """Of the pairs, those whose normal is greatest."""
        return (normal() > peers.stats.norm.isf(of)).astype(np.float64)

    failures, disagreement, delta, slower, labels = means
    return [
        share(0.005 + failures) - (draw.random(shape) < 0.005),
        # Two values whose mean is exact and whose spread is that of rankings that differ a little.
        np.where(share(0.3) > 0, min(1.0, disagreement * 2), (disagreement - 0.3 * min(1.0, disagreement * 2)) / 0.7),
        np.clip(delta + 0.1 * normal(), -1 + 2 * delta, 1),
        slower + np.clip(0.25 * normal(), -1 + slower, 1 - slower),
        share(labels),
    ]


@dataclass(frozen=True)
class Cells:
    """All cells of some experiments at every look."""

    rules: tuple[Rule, ...]
    at: NDArray[np.int64]
    pairs: NDArray[np.int64]
    """(experiments, looks, 1 + slots); the first is over all pairs."""
    ni: FloatArray
    """Log e-values, (experiments, looks, guardrails, 1 + slots); likewise `harm`."""
    harm: FloatArray
    moments: FloatArray
    """Σ and Σ² of the losses, by cell: (experiments, looks, guardrails, 1 + slots, 2)."""

    @property
    def slots(self) -> int:
        """How many cohorts."""
        return self.pairs.shape[-1] - 1

    @property
    def weights(self) -> FloatArray:
        """(guardrails, 1 + slots); they sum to 1."""
        return np.array([[rule.weight] + [rule.cohort_weight] * self.slots for rule in self.rules])

    @property
    def margins(self) -> FloatArray:
        """(guardrails, 1 + slots)"""
        return np.array([[rule.margin] + [rule.cohort_margin] * self.slots for rule in self.rules])

    def shares(self) -> FloatArray:
        """Σ w·E·α over the cells that have the pairs for it: (experiments, looks). At 1 a rollback is said."""
        enough = (self.pairs >= FEWEST_ROLLBACK)[:, :, None, :]
        with np.errstate(over="ignore"):
            parts = np.where(enough, self.weights * np.exp(self.harm) * ALPHA, 0.0)
        return parts.sum(axis=(2, 3))

    def promotes(self) -> NDArray[np.bool_]:
        """Where all is proven over all pairs and no cell alarms: (experiments, looks)."""
        return (self.ni[..., 0] >= PROVEN).all(axis=2) & (self.harm < PROVEN).all(axis=(2, 3))

    def decision(self, experiment: int, look: int) -> decide.Decision:
        """What `verdict.decide` says of one moment."""
        found = []
        for g, rule in enumerate(self.rules):
            for slot in range(1 + self.slots):
                pairs = int(self.pairs[experiment, look, slot])
                e_promote = math.exp(min(self.ni[experiment, look, g, slot], 690.0))
                e_rollback = math.exp(min(self.harm[experiment, look, g, slot], 690.0))
                promote_at, rollback_at = 1 / ALPHA, 1 / (ALPHA * self.weights[g, slot])
                found.append(
                    Cell(
                        guardrail=rule.name,
                        metric=rule.metric.name,
                        cohort=str(slot - 1) if slot else OVERALL,
                        unit="",
                        margin=self.margins[g, slot],
                        pairs=pairs,
                        undefined=0,
                        estimate=None,
                        interval=None,
                        e_promote=e_promote,
                        e_rollback=e_rollback,
                        promote_at=promote_at,
                        rollback_at=rollback_at,
                        required=slot == 0,
                        finding=decide.finding(
                            e_promote, promote_at, e_rollback, rollback_at, pairs >= FEWEST_ROLLBACK
                        ),
                    )
                )
        return decide.decide(found, (), pairs=int(self.at[look]), latched=False, policy=POLICY)


POLICY: Final = settings(slots=SLOTS, same_margin=False).verdict


def observed(losses: list[FloatArray], cohort: NDArray[np.int64], chosen: tuple[Rule, ...], slots: int) -> Cells:
    """All cells from the losses of each guardrail and the cohort of each pair, (experiments, pairs) each."""
    experiments, pairs = cohort.shape
    at = looks(pairs)
    look = np.broadcast_to(np.arange(pairs) // at[0], cohort.shape)
    row = np.arange(experiments)[:, None] * len(at) + look
    by_slot = Grouping(
        np.arange(cohort.size), (row * slots + cohort).ravel(), cohort.size, experiments * len(at) * slots
    )
    overall = Grouping(np.arange(cohort.size), row.ravel(), cohort.size, experiments * len(at))

    def both(of_all: FloatArray, of_slots: FloatArray) -> FloatArray:
        sums = np.concatenate(
            [
                overall.sum(of_all).reshape(experiments, len(at), 1, -1),
                by_slot.sum(of_slots).reshape(experiments, len(at), slots, -1),
            ],
            axis=2,
        )
        return np.cumsum(sums, axis=1)

    ones = np.ones((cohort.size, 1))
    evidence, moments = [], []
    for rule, of_rule in zip(chosen, losses, strict=True):
        flat = of_rule.ravel()
        wide, narrow = (MeanGrid(rule.lo, rule.hi, margin, 12) for margin in (rule.cohort_margin, rule.margin))
        sums = both(narrow.increments(flat), wide.increments(flat))
        evidence.append(
            [
                np.concatenate(parts, axis=2)
                for parts in zip(narrow.log_e(sums[:, :, :1]), wide.log_e(sums[:, :, 1:]), strict=True)
            ]
        )
        squares = np.stack([flat, flat * flat], axis=1)
        moments.append(both(squares, squares))
    return Cells(
        rules=chosen,
        at=at,
        pairs=both(ones, ones)[..., 0].astype(np.int64),
        ni=np.stack([ni for ni, _ in evidence], axis=2),
        harm=np.stack([harm for _, harm in evidence], axis=2),
        moments=np.stack(moments, axis=2),
    )


def simulate(law: Draw, pairs: int, slots: int, draw: Generator, experiments: int) -> dict[str, Reading]:
    """The decision over all cells, and z-tests in every cell."""
    cohort = draw.integers(0, slots, (experiments, pairs))
    chosen = rules(settings(slots=slots, same_margin=law is at_margin))
    cells = observed(law(draw, cohort.shape, cohort), cohort, chosen, slots)
    promote = first(cells.promotes() & (cells.at >= POLICY.min_pairs), cells.at)
    share = cells.shares()
    rollback = first(share >= 1, cells.at)
    # Where nothing is said, the moment at which the sum was greatest: the nearest to an error.
    moments = np.where(np.isfinite(rollback), (share >= 1).argmax(axis=1), share.argmax(axis=1))
    decided = [cells.decision(row, int(look)) for row, look in enumerate(moments)]
    agrees = [
        (one.state is State.ROLLBACK) == bool(said) for one, said in zip(decided, np.isfinite(rollback), strict=True)
    ]
    shares = {AGREES: np.array(agrees)}
    if law is one_bad:
        shares[NAMED] = np.array([_names(one) == {str(BAD)} for one in decided])
        shares[PROMOTED] = promote < rollback
    readings = {OURS: Reading(promote, rollback, shares)}
    for name, alpha in ((Z_EACH, ALPHA), (Z_ALL, ALPHA / (len(METRICS) * (1 + slots)))):
        readings[name] = _z(cells, alpha, named=law is one_bad)
    return readings


def _names(decision: decide.Decision) -> set[str]:
    return {cell.cohort for cell in decision.harmful or decision.contributors}


def _z(cells: Cells, alpha: float, *, named: bool) -> Reading:
    n = np.maximum(cells.pairs[:, :, None, :], 1).astype(np.float64)
    mean = cells.moments[..., 0] / n
    spread = np.maximum(cells.moments[..., 1] / n - mean * mean, 0)
    below, above = peers.z_crossed(n, mean, np.sqrt(spread / np.maximum(n - 1, 1)), cells.margins, alpha)
    above &= (cells.pairs >= FEWEST_ROLLBACK)[:, :, None, :]
    times = first(above.any(axis=(2, 3)), cells.at)
    shares = {}
    if named:
        looked = above[np.arange(len(above)), above.any(axis=(2, 3)).argmax(axis=1)].any(axis=1)
        shares[NAMED] = looked[:, 1 + BAD] & (looked.sum(axis=1) == 1)
    promote = below[..., 0].all(axis=2) & ~above.any(axis=(2, 3)) & (cells.at >= POLICY.min_pairs)
    return Reading(first(promote, cells.at), times, shares)
