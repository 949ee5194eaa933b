"""The demo's scenarios worked out offline: what the services would answer, judged as the statistics have it.

Written apart from `compare/`, `verdict/` and, but for quantiles, `stats/`: it shows that scenarios and margins reach
the expected state without a process or a socket. `python tests/demo/simulation.py [seeds]` prints the pairs that each
scenario needs.
"""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shadowproxy.config import GUARDABLE, Guardrail
from shadowproxy.demo import data
from shadowproxy.demo.configuration import DEADLINE, GUARDRAILS, LIST_LENGTH, SLOW, settings
from shadowproxy.demo.faults import FAULTS, Answer, Draws
from shadowproxy.demo.models import Model, Trained, train
from shadowproxy.demo.run import accounts
from shadowproxy.demo.scenarios import BASELINE, SCENARIOS, Scenario
from shadowproxy.demo.service import Recommender, service_time
from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.quantiles import RatioGrid
from shadowproxy.traffic.accounts import draw
from shadowproxy.verdict.record import State

Floats = NDArray[np.float64]
EVERY = 100
BEFORE = 2
"""Column of the baseline's seconds; the candidate's is the next."""
UNDEFINED = (0.0, math.nan, math.nan, math.nan)
"""rbo, length, relative delta and NDCG of a pair of which one exchange failed."""


@dataclass(frozen=True)
class Ended:
    state: State
    pairs: int
    blamed: tuple[tuple[str, str], ...]
    """(guardrail, cohort) of the largest contribution, then of the others that are proven by themselves."""


def rbo(a: list[str], b: list[str], p: float = 0.9) -> float:
    """RBO_ext (Webber et al. 2010, eq. 32) of two lists without ties."""
    if not a or not b:
        return 0.0
    short, long = sorted((a, b), key=len)
    s, depth = len(short), len(long)
    overlap = [len(set(short[:d]) & set(long[:d])) for d in range(1, depth + 1)]
    total = sum(overlap[d - 1] / d * p**d for d in range(1, depth + 1))
    total += sum(overlap[s - 1] * (d - s) / (s * d) * p**d for d in range(s + 1, depth + 1))
    return (1 - p) / p * total + ((overlap[-1] - overlap[s - 1]) / depth + overlap[s - 1] / s) * p**depth


def ndcg(ids: list[str], truth: set[str], k: int = 10) -> float:
    gained = sum(1 / math.log2(at + 2) for at, item in enumerate(ids[:k]) if item in truth)
    return gained / sum(1 / math.log2(at + 2) for at in range(min(k, len(truth))))


def list_values(left: dict[str, float], right: dict[str, float], truth: set[str]) -> tuple[float, ...]:
    """rbo, length, relative delta and NDCG of two answers (id → score, best first)."""
    common = [(right[item] - left[item]) / (right[item] + left[item]) for item in left if item in right]
    return (
        rbo(list(left), list(right)),
        (len(right) - len(left)) / max(len(right), len(left)),
        float(np.mean(common)) if common else math.nan,
        ndcg(list(right), truth) - ndcg(list(left), truth),
    )


def exchange_values(before: float, after: float, failed: bool) -> tuple[float, ...]:
    """Failure and slow of two durations, of which the baseline's never fails; then both, for the quantiles."""
    after = math.inf if failed else after
    return float(failed), float(after > SLOW) - float(before > SLOW), before, after


def losses(values: Floats) -> list[tuple[str, Guardrail, tuple[float, float], Floats]]:
    """(name, guardrail, range, loss per pair) from values whose columns stand in the order of GUARDRAILS.

    Of a quantile the loss is by how much the candidate was slower, for people to look at.
    """
    found = []
    columns = iter((0, 1, *range(BEFORE + 2, values.shape[1])))
    for guardrail in GUARDRAILS:
        metric = GUARDABLE[guardrail.metric]
        if metric.quantile is not None:
            before, after = values[:, BEFORE], values[:, BEFORE + 1]
            found.append((metric.name, guardrail, metric.loss_range("higher"), after / before - 1))
            continue
        column = next(columns)
        for worse in metric.worse:
            intercept, slope = metric.loss(worse)
            name = f"{metric.name}.{worse}" if len(metric.worse) > 1 else metric.name
            found.append((name, guardrail, metric.loss_range(worse), intercept + slope * values[:, column]))
    return found


def log_e(loss: Floats, low: float, high: float, d: float, *, harm: bool, every: int = EVERY) -> Floats:
    """§2: the log of the e-value after each `every` pairs; NaN losses are skipped."""
    ceiling = 0.95 / (d - low) if harm else 0.95 / (high - d)
    floor = min(ceiling / 4, d / (4 * (high - d) * (d - low)))
    count = math.ceil(math.log2(ceiling / floor)) + 1
    sizes = np.geomspace(floor, ceiling, count)
    weights = np.full(count, 0.5 / (count - 1))
    weights[-1] = 0.5
    bets = sizes if harm else -sizes
    steps = np.nan_to_num(np.log1p(bets[:, None] * (loss[None, :] - d)))
    sums = np.cumsum(steps.reshape(count, -1, every).sum(axis=2), axis=1) + np.log(weights)[:, None]
    result: Floats = np.logaddexp.reduce(sums, axis=0)
    return result


def log_e_values(values: Floats, member: NDArray[np.bool_], every: int = EVERY) -> tuple[list[str], Floats, Floats]:
    """Names of the guardrails; log e for safe and for harm, (guardrail, cohort, step). Cohort 0 is everybody."""
    names, safe, harm = [], [], []
    for name, guardrail, (low, high), loss in losses(values):
        names.append(name)
        for cohort in range(member.shape[1]):
            margin = guardrail.margin if cohort == 0 else guardrail.cohort_margin or 2 * guardrail.margin
            here = member[:, cohort] & (cohort == 0 or guardrail.cohorts is None)
            p = GUARDABLE[guardrail.metric].quantile
            if p is not None:
                ni, worse = _log_e_of_quantile(values[:, BEFORE : BEFORE + 2], here, margin, p, every)
                # A cohort that it is not looked at for holds nothing back.
                safe.append(np.where(here.any(), ni, np.inf))
                harm.append(worse)
            else:
                safe.append(log_e(np.where(here, loss, np.nan), low, high, margin, harm=False, every=every))
                harm.append(log_e(np.where(here, loss, np.nan), low, high, margin, harm=True, every=every))
    shape = (len(names), member.shape[1], -1)
    return names, np.reshape(safe, shape), np.reshape(harm, shape)


def _log_e_of_quantile(
    seconds: Floats, here: NDArray[np.bool_], margin: float, p: float, every: int
) -> tuple[Floats, Floats]:
    """§3, which is held to its definition elsewhere."""
    grid = RatioGrid(1 + margin, deadline=DEADLINE)
    steps = len(seconds) // every
    members = np.flatnonzero(here[: steps * every])
    by_step = grid.fold(seconds, Grouping(members, members // every, len(seconds), steps))
    return grid.log_e(np.cumsum(by_step, axis=0), p)


VERDICT = settings("http://a", "http://b", experiment="x", data_dir="x").verdict


def weights(guardrails: int, cohorts: int) -> Floats:
    """§4: half the weight overall, half over the slots of cohorts. (guardrail, cohort), cohort 0 is everybody."""
    shares = np.full((guardrails, cohorts), 0.5 / guardrails / VERDICT.max_cohorts)
    shares[:, 0] = 0.5 / guardrails
    return shares


def decide(safe: Floats, harm: Floats, share: Floats, pairs: int) -> State:
    """§4 at one moment, from log e-values (guardrail, cohort) and each cohort's share of the pairs."""
    contribution = weights(*harm.shape) * np.exp(np.minimum(harm, 600))
    if pairs >= VERDICT.min_pairs_rollback and contribution.sum() >= 1 / VERDICT.alpha_rollback:
        return State.ROLLBACK
    enough = math.log(1 / VERDICT.alpha_promote)
    large = share >= VERDICT.large_cohort
    proven = bool((safe[:, large] >= enough).all()) and bool((harm < enough).all())
    return State.PROMOTE if pairs >= VERDICT.min_pairs and proven else State.CONTINUE


class Simulation:
    """Services without HTTP: pairs of answers, and their values."""

    def __init__(self, dataset: data.Dataset, trained: Trained) -> None:
        self.accounts = accounts(dataset)
        self.items = trained.items
        self.services = {model: Recommender(trained, model) for model in Model}
        self.values_of: dict[tuple[str, Answer, Answer], tuple[float, ...]] = {}
        self.cohorts = sorted(
            {f"{key}={value}" for account in self.accounts for key, value in account.attributes.items()}
        )

    def pairs(self, scenario: Scenario, seed: int, count: int) -> tuple[Floats, NDArray[np.bool_]]:
        """Values, NaN where undefined, (pairs, 8): failure, slow, both durations, then in the order of GUARDRAILS; and
        membership, (pairs, 1 + cohorts)."""
        rows, member = [], []
        for request, account in itertools.islice(draw(self.accounts, seed), count):
            draws = Draws(seed, request)
            asked = self.services[BASELINE].asked(account.id, draws)
            a = FAULTS["none"].serve(asked, self.services[BASELINE].recommend)
            b = scenario.fault.serve(asked, self.services[scenario.candidate].recommend)
            after = service_time(draws, "candidate") * b.slowdown
            failed = b.status >= 500 or after > DEADLINE
            lists = UNDEFINED if failed else self._lists(account.id, set(account.truth), a, b)
            rows.append(exchange_values(service_time(draws, "baseline"), after, failed) + lists)
            own = {f"{key}={value}" for key, value in account.attributes.items()}
            member.append([True, *(name in own for name in self.cohorts)])
        return np.array(rows), np.array(member)

    def _lists(self, user: str, truth: set[str], a: Answer, b: Answer) -> tuple[float, ...]:
        if (user, a, b) not in self.values_of:
            left, right = ({self.items[at]: score for at, score in answer.items[:LIST_LENGTH]} for answer in (a, b))
            self.values_of[user, a, b] = list_values(left, right, truth)
        return self.values_of[user, a, b]

    def run(self, scenario: Scenario, seed: int, count: int = 6000) -> Ended:
        """Decide after every hundred pairs and stop at the first decision."""
        values, member = self.pairs(scenario, seed, count)
        names, safe, harm = log_e_values(values, member)
        for step in range(harm.shape[2]):
            pairs = (step + 1) * EVERY
            state = decide(safe[:, :, step], harm[:, :, step], member[:pairs].mean(axis=0), pairs)
            if state is not State.CONTINUE:
                return Ended(state, pairs, self._blamed(names, harm[:, :, step]) if state is State.ROLLBACK else ())
        return Ended(State.CONTINUE, count, ())

    def _blamed(self, names: list[str], harm: Floats) -> tuple[tuple[str, str], ...]:
        contribution = np.log(weights(*harm.shape)) + harm
        labels = ["all", *self.cohorts]
        largest = np.dstack(np.unravel_index(np.argsort(-contribution, axis=None), harm.shape))[0].tolist()
        proven = math.log(1 / VERDICT.alpha_rollback)
        return tuple(
            (names[g], labels[c]) for at, (g, c) in enumerate(largest) if at == 0 or contribution[g, c] >= proven
        )


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    dataset = data.load(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    sys.stdout.write(f"{dataset.source}\n")
    simulation = Simulation(dataset, train(dataset))
    for scenario in SCENARIOS.values():
        runs = [simulation.run(scenario, seed) for seed in range(seeds)]
        right = sum(run.state == scenario.expected for run in runs)
        needed = [run.pairs for run in runs]
        blamed = sorted({" in ".join(run.blamed[0]) for run in runs if run.blamed})
        sys.stdout.write(
            f"{scenario.name:18} {scenario.expected:9} {right}/{seeds}  median {np.median(needed):.0f}"
            f"  95% {np.percentile(needed, 95):.0f}  {', '.join(blamed)}\n"
        )


if __name__ == "__main__":
    main()
