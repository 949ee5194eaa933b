"""The demo's scenarios worked out offline: what the services would answer, judged by the e-process of the statistics.

Written apart from `compare/`, `stats/` and `verdict/`: it shows that the scenarios and their margins reach the expected
state, without a process or a socket. `python tests/demo/simulation.py [seeds]` prints the pairs that each scenario needs.
"""

from __future__ import annotations

import itertools
import math
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shadowproxy.config import CATALOGUE
from shadowproxy.demo import data
from shadowproxy.demo.configuration import DEADLINE, GUARDRAILS, LIST_LENGTH, SLOW, settings
from shadowproxy.demo.faults import FAULTS, Draws
from shadowproxy.demo.models import Model, Trained, train
from shadowproxy.demo.scenarios import BASELINE, SCENARIOS, Scenario
from shadowproxy.demo.service import Recommender, service_time
from shadowproxy.demo.run import accounts
from shadowproxy.traffic.accounts import draw
from shadowproxy.verdict.record import State

Floats = NDArray[np.float64]
EVERY = 100


@dataclass(frozen=True)
class Ended:
    state: State
    pairs: int
    blamed: tuple[tuple[str, str], ...]
    """(guardrail, cohort) of the largest contribution, and of those proven by themselves."""


def rbo(a: list[int], b: list[int], p: float = 0.9) -> float:
    """RBO_ext (Webber et al. 2010, eq. 32) of two lists without ties."""
    if not a or not b:
        return 0.0
    short, long = sorted((a, b), key=len)
    s, depth = len(short), len(long)
    overlap = [len(set(short[:d]) & set(long[:d])) for d in range(1, depth + 1)]
    total = sum(overlap[d - 1] / d * p**d for d in range(1, depth + 1))
    total += sum(overlap[s - 1] * (d - s) / (s * d) * p**d for d in range(s + 1, depth + 1))
    return (1 - p) / p * total + ((overlap[-1] - overlap[s - 1]) / depth + overlap[s - 1] / s) * p**depth


def ndcg(ids: list[int], truth: set[int], k: int = 10) -> float:
    gained = sum(1 / math.log2(at + 2) for at, item in enumerate(ids[:k]) if item in truth)
    return gained / sum(1 / math.log2(at + 2) for at in range(min(k, len(truth))))


class Simulation:
    """Services without HTTP: pairs of answers and their losses, user by user."""

    def __init__(self, dataset: data.Dataset, trained: Trained) -> None:
        at = {item.id: index for index, item in enumerate(dataset.items)}
        self.truth = [{at[item] for item in items} for items in dataset.truth()]
        self.positions = {user: index for index, user in enumerate(trained.users)}
        self.accounts = accounts(dataset)
        self.trained = trained
        self.services = {model: Recommender(trained, model) for model in Model}
        self.ranked: dict[tuple[object, ...], tuple[float, ...]] = {}
        names = sorted({f"{key}={value}" for cohort in trained.cohorts for key, value in cohort.items()})
        self.cohorts = names
        self.members = np.array(
            [
                [name in {f"{key}={value}" for key, value in cohort.items()} for name in names]
                for cohort in trained.cohorts
            ]
        )

    def values(self, scenario: Scenario, seed: int, pairs: int) -> tuple[Floats, NDArray[np.int64]]:
        """Per pair the value of each metric, in the order of GUARDRAILS, NaN where undefined; and the user."""
        users, rows = [], []
        for request, account in itertools.islice(draw(self.accounts, seed), pairs):
            user = self.positions[account.id]
            users.append(user)
            draws = Draws(seed, request)
            asked = self.services[BASELINE].asked(self.trained.users[user], draws)
            a = FAULTS["none"].serve(asked, self.services[BASELINE].recommend)
            b = scenario.fault.serve(asked, self.services[scenario.candidate].recommend)
            before = service_time(draws, "baseline")
            after = service_time(draws, "candidate") * b.slowdown
            failed = b.status >= 500 or after > DEADLINE
            after = math.inf if failed else after
            log2 = min(1.0, max(-1.0, math.log2(after / before)))
            head = (float(failed), float(after > SLOW) - float(before > SLOW), log2)
            rows.append(head + ((0.0, math.nan, math.nan, math.nan) if failed else self._lists(user, a, b)))
        return np.array(rows), np.array(users)

    def _lists(self, user: int, a, b) -> tuple[float, ...]:
        key = (user, a.items, b.items)
        if key not in self.ranked:
            left, right = dict(a.items[:LIST_LENGTH]), dict(b.items[:LIST_LENGTH])
            common = [(right[item] - left[item]) / (right[item] + left[item]) for item in left if item in right]
            self.ranked[key] = (
                rbo(list(left), list(right)),
                (len(right) - len(left)) / max(len(right), len(left)),
                float(np.mean(common)) if common else math.nan,
                ndcg(list(right), self.truth[user]) - ndcg(list(left), self.truth[user]),
            )
        return self.ranked[key]

    def run(self, scenario: Scenario, seed: int, pairs: int = 8000) -> Ended:
        """Judge after every hundred pairs, as §4 has it, and stop at the first decision."""
        values, users = self.values(scenario, seed, pairs)
        member = np.column_stack([np.ones(pairs, bool), self.members[users]])
        cells = [
            (
                f"{metric.name}.{worse}",
                metric.loss_range(worse),
                guardrail,
                metric.ideal * (-1 if worse == "higher" else 1) + (1 if worse == "higher" else -1) * values[:, column],
            )
            for column, guardrail in enumerate(GUARDRAILS)
            for metric in (CATALOGUE[guardrail.metric],)
            for worse in metric.worse
        ]
        safe, harm = [], []
        for _, (low, high), guardrail, loss in cells:
            for cohort in range(member.shape[1]):
                margin = guardrail.margin if cohort == 0 else guardrail.cohort_margin
                here = np.where(member[:, cohort], loss, np.nan)
                safe.append(log_e(here, low, high, margin, harm=False))
                harm.append(log_e(here, low, high, margin, harm=True))
        shape = (len(cells), member.shape[1], -1)
        return self._decide([cell[0] for cell in cells], np.reshape(safe, shape), np.reshape(harm, shape), member)

    def _decide(self, names: list[str], safe: Floats, harm: Floats, member: NDArray[np.bool_]) -> Ended:
        verdict = settings("http://a", "http://b", experiment="x", data_dir="x").verdict
        weights = np.full(harm.shape[:2], 0.5 / len(names) / verdict.max_cohorts)
        weights[:, 0] = 0.5 / len(names)
        for step in range(harm.shape[2]):
            pairs = (step + 1) * EVERY
            share = member[:pairs].mean(axis=0)
            contribution = weights * np.exp(np.minimum(harm[:, :, step], 600))
            if contribution.sum() >= 1 / verdict.alpha_rollback:
                order = np.argwhere(contribution >= 1 / verdict.alpha_rollback).tolist()
                largest = np.unravel_index(int(contribution.argmax()), contribution.shape)
                blamed = [largest, *(cell for cell in order if tuple(cell) != tuple(map(int, largest)))]
                labels = ["all", *self.cohorts]
                return Ended(State.ROLLBACK, pairs, tuple((names[g], labels[c]) for g, c in blamed))
            enough = math.log(1 / verdict.alpha_promote)
            needed = share >= verdict.large_cohort
            if (
                pairs >= verdict.min_pairs
                and (safe[:, needed, step] >= enough).all()
                and (harm[:, :, step] < enough).all()
            ):
                return Ended(State.PROMOTE, pairs, ())
        return Ended(State.CONTINUE, harm.shape[2] * EVERY, ())


def log_e(loss: Floats, low: float, high: float, d: float, *, harm: bool) -> Floats:
    """§2: the log of the e-value after every `EVERY` pairs; NaN losses are skipped."""
    ceiling = 0.95 / (d - low) if harm else 0.95 / (high - d)
    floor = min(ceiling / 4, d / (4 * (high - d) * (d - low)))
    count = math.ceil(math.log2(ceiling / floor)) + 1
    sizes = np.geomspace(floor, ceiling, count)
    weights = np.full(count, 0.5 / (count - 1))
    weights[-1] = 0.5
    bets = sizes if harm else -sizes
    steps = np.nan_to_num(np.log1p(bets[:, None] * (loss[None, :] - d)))
    sums = np.cumsum(steps.reshape(count, -1, EVERY).sum(axis=2), axis=1) + np.log(weights)[:, None]
    result: Floats = np.logaddexp.reduce(sums, axis=0)
    return result


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    dataset = data.load()
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
