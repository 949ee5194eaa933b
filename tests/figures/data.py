"""What the pictures of docs/statistics.md show: simulated experiments, judged by the product's own statistics.

Each function draws from the generator that it is given and returns numbers and lists of numbers, ready for JSON.
`runs` is how many experiments are simulated; the tests take few. It needs no matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.betting import MeanGrid, fewest_pairs
from shadowproxy.stats.inflation import GROUPS, VarianceInflation
from shadowproxy.stats.quantiles import RatioGrid
from shadowproxy.verdict.record import MOST_INFLATION

ALPHA: Final = 0.05
THRESHOLD: Final = math.log(1 / ALPHA)
_CHUNK: Final = 50
"""Experiments that are held in memory at once."""

Floats = NDArray[np.float64]
Data = dict[str, Any]
Law = Callable[[Generator, tuple[int, int]], Floats]


def peeking(draw: Generator, runs: int, looks: int = 1000) -> Data:
    """Of A/A experiments, the share that was ever called different by so many looks, 100 pairs apart.

    A pair's loss is −1, 0 or 1, the ends with 5% each. Both tests are two-sided with an error of 5%, against a
    difference of nothing at all: no margin helps the e-process.
    """
    pairs, often = 100, 0.05
    grid = MeanGrid(-1, 1, 0.0)
    shown = _steps(looks)
    peeked, ours = np.zeros(len(shown)), np.zeros(len(shown))
    for size in _chunks(runs):
        up, _, down = (
            np.cumsum(counts, axis=1)
            for counts in np.moveaxis(draw.multinomial(pairs, [often, 1 - 2 * often, often], (size, looks)), -1, 0)
        )
        n = pairs * np.arange(1, looks + 1)
        mean = (up - down) / n
        spread = np.sqrt(np.maximum((up + down) / n - mean**2, 1e-12) / n)
        low, high = grid.log_e(_capitals(grid, up, np.zeros_like(up), down))
        two_sided = np.logaddexp(low, high) - math.log(2)
        peeked += _ever(np.abs(mean) > 1.959964 * spread)[:, shown - 1].sum(axis=0)
        ours += _ever(two_sided >= THRESHOLD)[:, shown - 1].sum(axis=0)
    return {"looks": shown.tolist(), "z_test": (peeked / runs).tolist(), "e_process": (ours / runs).tolist()}


def capital(draw: Generator, runs: int, pairs: int = 3000) -> Data:
    """The e-value for being within a margin of 0.02, of candidates that are no worse, and of some exactly at it.

    `reached`: by their side, what share of a hundred times as many ever got to 20.
    """
    grid = MeanGrid(-1, 1, 0.02)
    shown = np.unique(np.geomspace(10, pairs, 56).astype(int))
    paths, reached = {}, {}
    for name, up, count in (("no_worse", 0.02, max(1, runs // 4)), ("at_the_margin", 0.04, runs)):
        ever = 0
        for at, size in enumerate([count, *_chunks(100 * count)]):
            losses = draw.choice([-1.0, 0.0, 1.0], (size, pairs), p=[0.02, 0.98 - up, up])
            log_e = grid.log_e(np.cumsum(grid.increments(losses), axis=1))[0]
            if at == 0:
                paths[name] = np.round(np.clip(np.exp(log_e[:, shown - 1]), 1e-3, 1e6), 4).tolist()
            else:
                ever += int((log_e >= THRESHOLD).any(axis=1).sum())
        reached[name] = ever / (100 * count)
    return {"pairs": shown.tolist(), **paths, "reached": reached}


def drift(draw: Generator, runs: int, pairs: int = 6000) -> Data:
    """The share of experiments that stand as proven within a margin of 0.05 after so many pairs, on a drifting loss.

    Its mean is 0 for 1,000 pairs, then 0.1 for 1,000, then 0.05: from the 2,000th pair on the running mean is at the
    margin, and to call it within is an error. The adaptive bets are the predictable plug-in of Waudby-Smith & Ramdas.
    """
    margin, noise = 0.05, 0.3
    grid = MeanGrid(-1, 1, margin)
    mean = np.repeat([0.0, 2 * margin, margin], [1000, 1000, pairs - 2000])
    shown = np.arange(100, pairs + 1, 100)
    current, maximum, adaptive = np.zeros((3, len(shown)))
    for size in _chunks(runs):
        losses = mean + draw.uniform(-noise, noise, (size, pairs))
        log_e = grid.log_e(np.cumsum(grid.increments(losses), axis=1))[0]
        current += (log_e >= THRESHOLD)[:, shown - 1].sum(axis=0)
        maximum += _ever(log_e >= THRESHOLD)[:, shown - 1].sum(axis=0)
        adaptive += (_plug_in(losses, margin, 1.0) >= THRESHOLD)[:, shown - 1].sum(axis=0)
    return {
        "pairs": shown.tolist(),
        "wrong_from": 2000,
        "constant": (current / runs).tolist(),
        "maximum": (maximum / runs).tolist(),
        "adaptive": (adaptive / runs).tolist(),
    }


def sizes(draw: Generator, runs: int) -> Data:
    """Median pairs until a mean loss of 0 is proven within a margin, by the deviation of the loss, in [−1, 1]."""
    margins, deviations = (0.3, 0.2, 0.1, 0.05, 0.02, 0.01), (0.05, 0.15, 0.3, 0.5)
    return {
        "margins": list(margins),
        "deviations": list(deviations),
        "floor": [fewest_pairs(margin, 1, ALPHA) for margin in margins],
        "median": [
            [
                _median_to_prove(
                    draw, runs, MeanGrid(-1, 1, margin), _bell(0, sd, -1, 1), max(1, int(0.01 * (sd / margin) ** 2))
                )
                for sd in deviations
            ]
            for margin in margins
        ],
    }


def examples(draw: Generator, runs: int) -> Data:
    """Median pairs, of all that come, until guardrails as they occur could be promoted by."""
    rows = []
    for kind, metric, margin, share, lo, law, loss in (
        ("any", "failures.difference", 0.01, 1, -1, _ternary(0.001, 0.001), "1 in 1,000 fails on either side"),
        ("any", "failures.candidate", 0.001, 1, 0, _ternary(0.0002, 0.0), "1 in 5,000 fails"),
        ("recommender", "quality.ndcg", 0.02, 1, -1, _bell(0.0, 0.3, -1, 1), "mean 0, deviation 0.3"),
        ("recommender", "quality.ndcg", 0.04, 0.1, -1, _bell(0.0, 0.3, -1, 1), "the same, in a cohort of 10%"),
        ("recommender", "ranking.rbo", 0.5, 1, 0, _bell(0.4, 0.2, 0, 1), "mean 0.4, deviation 0.2"),
        ("search", "ranking.ndcg", 0.05, 1, 0, _bell(0.02, 0.05, 0, 1), "mean 0.02, deviation 0.05"),
        ("search", "ranking.rbo_excess", 0.05, 1, -1, _bell(0.0, 0.15, -1, 1), "mean 0, deviation 0.15"),
        ("classifier", "labels.agreement", 0.1, 1, 0, _ternary(0.05, 0.0), "1 in 20 has another label"),
        ("classifier", "quality.accuracy", 0.02, 1, -1, _ternary(0.03, 0.03), "3 in 100 better, 3 worse"),
        ("text", "text.token_f1_excess", 0.05, 1, -1, _bell(0.0, 0.2, -1, 1), "mean 0, deviation 0.2"),
        ("text", "text.length", 0.2, 1, -1, _bell(0.05, 0.3, -1, 1), "mean 0.05, deviation 0.3"),
    ):
        grid = MeanGrid(lo, 1, margin)
        step = max(1, fewest_pairs(margin, 1, ALPHA) // 100)
        pairs = _median_to_prove(draw, runs, grid, law, step) / share
        rows.append({"kind": kind, "metric": metric, "margin": margin, "loss": loss, "pairs": round(pairs)})
    for p, margin in ((0.5, 0.1), (0.99, 0.25)):
        grid = RatioGrid(1 + margin, deadline=10.0)
        (median, *_), _ = _latency_medians(draw, max(1, runs // 5), grid, (p,), 0.5, 60_000)
        metric, loss = f"latency.total_p{100 * p:g}", "equal; correlation 0.5 within a pair"
        rows.append({"kind": "any", "metric": metric, "margin": margin, "loss": loss, "pairs": round(median)})
    return {"rows": rows}


def harm(draw: Generator, runs: int) -> Data:
    """Median pairs until a candidate that fails more often than the margin of 0.01 allows is rolled back.

    `alone`: by one guardrail and no cohorts, which then has half of the weight; `of_ten`: by one of ten equal ones.
    """
    grid, more = MeanGrid(-1, 1, 0.01), (0.02, 0.05, 0.2, 1.0)
    thresholds = {"alone": math.log(2 / ALPHA), "of_ten": math.log(20 / ALPHA)}
    found: dict[str, list[int]] = {name: [] for name in thresholds}
    for share in more:
        n = max(100, round(100 / share))
        first = np.full((len(thresholds), runs), np.inf)
        for at, size in zip(range(0, runs, _CHUNK), _chunks(runs), strict=True):
            losses = (draw.random((size, n)) < share).astype(np.float64)
            log_e = grid.log_e(np.cumsum(grid.increments(losses), axis=1))[1]
            # A rollback takes 30 pairs at the least.
            log_e[:, :29] = -math.inf
            for row, threshold in enumerate(thresholds.values()):
                there = log_e >= threshold
                first[row, at : at + size] = np.where(there.any(axis=1), there.argmax(axis=1) + 1, np.inf)
        for name, median in zip(thresholds, np.quantile(first, 0.5, axis=1, method="lower"), strict=True):
            found[name].append(int(median))
    return {"more": list(more), **found}


def latency(draw: Generator, runs: int, most: int = 60_000) -> Data:
    """Median pairs until two equal latencies are proven within a ratio of 1.1, pair by pair and with two sequences.

    Lognormal with σ = 0.6 on both sides; `correlation` of the logarithms within a pair. The two sequences are those of
    each side's own quantile, with half of the error each.
    """
    quantiles = (0.5, 0.9, 0.99)
    rows = []
    for correlation in (0.0, 0.9):
        paired, separate = _latency_medians(draw, runs, RatioGrid(1.1, deadline=10.0), quantiles, correlation, most)
        rows += [
            {"correlation": correlation, "quantile": p, "paired": one, "separate": other}
            for p, one, other in zip(quantiles, paired, separate, strict=True)
        ]
    return {"rows": rows}


def order(draw: Generator, runs: int, seconds: int = 60) -> Data:
    """The share of timeouts among the pairs that are counted so far, and of experiments that were ever called safe.

    100 requests a second; the candidate times out, after 10 s, on 5% of them more than the baseline; the margin is 1%.
    """
    rate, deadline, settle, failing = 100, 10, 1, 0.05
    grid = MeanGrid(-1, 1, 0.01)
    late = draw.binomial(rate, failing, (runs, seconds))
    zero = np.zeros((runs, 1))
    failed, sound = (np.hstack([zero, np.cumsum(counts, axis=1)]) for counts in (late, rate - late))
    now = np.arange(1, seconds + 1)
    past = np.maximum(now - deadline, 0), np.maximum(now - deadline - settle, 0)
    found = {}
    for name, ups, zeros in (("completed", failed[:, past[0]], sound[:, now]), ("buckets", failed[:, past[1]], None)):
        rest = sound[:, past[1]] if zeros is None else zeros
        log_e = grid.log_e(_capitals(grid, ups, rest, np.zeros_like(ups)))[0]
        counted = (ups + rest).mean(axis=0)
        share = np.divide(ups.mean(axis=0), counted, out=np.full(seconds, math.nan), where=counted > 0)
        found[name] = [None if math.isnan(one) else one for one in share.tolist()]
        found[f"{name}_promoted"] = _ever(log_e >= THRESHOLD).mean(axis=0).tolist()
    return {"seconds": now.tolist(), "failing": failing, **found}


def dependence(draw: Generator, runs: int, pairs: int = 5000) -> Data:
    """The share of experiments exactly at a margin of 0.05 that are ever called safe, by the inflation of the variance.

    A pair's loss follows that before it (AR(1), deviation 0.15), 50 pairs a second. `held`: called safe at a second in
    which no inflation by 1 s or 10 s holds it back, with 100 pairs or more; `later`: with 1,000 or more. `blocks`: by
    the means of blocks of ten times the inflation.
    """
    grid, spread, rate = MeanGrid(-1, 1, 0.05), 0.15, 50
    inflations = (1.0, 1.3, 2.0, 3.0, 5.0, 10.0, 20.0)
    found: dict[str, list[float]] = {"pairs": [], "held": [], "later": [], "blocks": []}
    for inflation in inflations:
        correlation = (inflation - 1) / (inflation + 1)
        length = 1 if inflation == 1 else math.ceil(10 * inflation)
        wrong = dict.fromkeys(found, 0)
        for size in _chunks(runs):
            losses = np.clip(0.05 + spread * _autoregressive(draw, size, pairs, correlation), -1, 1)
            means = losses[:, : pairs // length * length].reshape(size, -1, length).mean(axis=2)
            safe, by_blocks = (
                grid.log_e(np.cumsum(grid.increments(judged), axis=1))[0] >= THRESHOLD for judged in (losses, means)
            )
            passed = safe[:, 2 * rate - 1 :: rate] & ~_flagged(losses - 0.05, rate)[:, 1:]
            later = passed[:, 1000 // rate - 2 :]
            for name, called in zip(found, (safe, passed, later, by_blocks), strict=True):
                wrong[name] += int(called.any(axis=1).sum())
        for name, count in wrong.items():
            found[name].append(count / runs)
    return {"inflation": list(inflations), **found}


def noise(draw: Generator, runs: int, items: int = 50, k: int = 10) -> Data:
    """Overlap of the top ten that noise alone costs, plainly and with the replica's taken out, over `runs` requests.

    Scores are normal; each answer adds noise of its own. `same`: the candidate is the baseline's model; `other`: its
    scores deviate by 0.3.
    """
    rows = []
    for level in (0.0, 0.2, 0.5):
        for name, deviation in (("same", 0.0), ("other", 0.3)):
            scores = draw.standard_normal((runs, items))
            own = deviation * draw.standard_normal((runs, items))
            baseline, replica, candidate = (
                _top(scores + extra + level * draw.standard_normal((runs, items)), k) for extra in (0.0, 0.0, own)
            )
            plain = 1 - _overlap(baseline, candidate, k)
            excess = _overlap(baseline, replica, k) - (
                (_overlap(baseline, candidate, k) + _overlap(replica, candidate, k)) / 2
            )
            rows.append(
                {"noise": level, "candidate": name, "plain": float(plain.mean()), "excess": float(excess.mean())}
            )
    return {"rows": rows}


DATA: Final[Mapping[str, tuple[Callable[[Generator, int], Data], int]]] = {
    "peeking": (peeking, 4000),
    "capital": (capital, 16),
    "drift": (drift, 1000),
    "sizes": (sizes, 400),
    "examples": (examples, 300),
    "harm": (harm, 400),
    "latency": (latency, 60),
    "order": (order, 1000),
    "dependence": (dependence, 1000),
    "noise": (noise, 20_000),
}
"""By name: what is simulated, and how many experiments `make figures` takes."""

FIGURES: Final = ("peeking", "capital", "drift", "sizes", "latency", "order", "dependence")
"""Those that are drawn; the others are tables."""


def _chunks(runs: int) -> Iterator[int]:
    for first in range(0, runs, _CHUNK):
        yield min(_CHUNK, runs - first)


def _ever(happened: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.logical_or.accumulate(happened, axis=1)


def _steps(most: int) -> NDArray[np.int64]:
    return np.unique(np.geomspace(1, most, 40).round().astype(np.int64))


def _capitals(grid: MeanGrid, up: Floats, none: Floats, down: Floats) -> Floats:
    """Log-capitals of so many losses of 1, 0 and −1: (...) each → (..., 2J)."""
    per = grid.increments(np.array([1.0, 0.0, -1.0]))
    return sum(np.multiply.outer(count, row) for count, row in zip((up, none, down), per, strict=True))


def _plug_in(losses: Floats, margin: float, hi: float) -> Floats:
    """Log-capital of bets against a mean ≥ margin that shrink as data come, by the variance seen so far."""
    t = np.arange(1, losses.shape[1] + 1)
    mean = (np.cumsum(losses, axis=1) + 0.5 * margin) / (t + 0.5)
    variance = (np.cumsum((losses - mean) ** 2, axis=1) + 0.25) / (t + 1)
    before = np.hstack([np.full((len(losses), 1), 0.25), variance[:, :-1]])
    bet = np.sqrt(2 * math.log(2 / ALPHA) / (before * t * np.log1p(t)))
    return np.cumsum(np.log1p(-np.minimum(bet, 0.5 / (hi - margin)) * (losses - margin)), axis=1)


def _median_to_prove(draw: Generator, runs: int, grid: MeanGrid, law: Law, step: int) -> int:
    """Pairs until half of the experiments have proven it, to `step`, with losses that `law` draws (of a shape)."""
    capitals, n = np.zeros((runs, 2 * grid.size)), 0
    first = np.full(runs, np.inf)
    while np.isinf(first).mean() > 0.5:
        rows = grid.increments(law(draw, (runs, 20 * step)))
        sums = capitals[:, None] + np.cumsum(rows.reshape(runs, 20, step, -1).sum(axis=2), axis=1)
        crossed = grid.log_e(sums)[0] >= THRESHOLD
        fresh = np.isinf(first) & crossed.any(axis=1)
        first[fresh] = n + (crossed[fresh].argmax(axis=1) + 1) * step
        capitals, n = sums[:, -1], n + 20 * step
    return int(np.quantile(first, 0.5, method="lower"))


def _bell(mean: float, deviation: float, lo: float, hi: float) -> Law:
    """A Beta distribution on [lo, hi]."""
    share = (mean - lo) / (hi - lo)
    spread = (mean - lo) * (hi - mean) / deviation**2 - 1
    return lambda draw, shape: lo + (hi - lo) * draw.beta(share * spread, (1 - share) * spread, shape)


def _ternary(worse: float, better: float) -> Law:
    """1 and −1 with these shares, else 0."""
    return lambda draw, shape: draw.choice([1.0, -1.0, 0.0], shape, p=[worse, better, 1 - worse - better])


def _latency_medians(
    draw: Generator, runs: int, grid: RatioGrid, quantiles: tuple[float, ...], correlation: float, most: int
) -> tuple[list[float], list[float]]:
    """By quantile, median pairs until it is proven: pair by pair, and with two sequences."""
    looks = np.unique(np.geomspace(200, most, round(20 * math.log(most / 200))).astype(int))
    paired, separate = np.full((2, runs, len(quantiles)), float(most))
    for run in range(runs):
        state = grid.empty(1)
        for before, look in zip([0, *looks[:-1]], looks, strict=True):
            state = state + grid.fold(_latencies(draw, look - before, correlation), Grouping.single(look - before))
            for at, p in enumerate(quantiles):
                if paired[run, at] == most and grid.log_e(state, p)[0][0] >= THRESHOLD:
                    paired[run, at] = look
                if separate[run, at] == most and grid.interval(state, p, 2 * ALPHA)[1][0] <= grid.ratio:
                    separate[run, at] = look
            if max(paired[run].max(), separate[run].max()) < most:
                break
    return np.median(paired, axis=0).tolist(), np.median(separate, axis=0).tolist()


def _latencies(draw: Generator, n: int, correlation: float) -> Floats:
    shared, own = draw.standard_normal((2, n))
    logs = np.stack([shared, correlation * shared + math.sqrt(1 - correlation**2) * own], axis=1)
    return 0.05 * np.exp(0.6 * logs)


def _autoregressive(draw: Generator, runs: int, pairs: int, correlation: float) -> Floats:
    steps = draw.standard_normal((runs, pairs))
    steps[:, 1:] *= math.sqrt(1 - correlation**2)
    for at in range(1, pairs):
        steps[:, at] += correlation * steps[:, at - 1]
    return steps


def _flagged(losses: Floats, rate: int) -> NDArray[np.bool_]:
    """Whether after each second the inflation by 1 s or 10 s is beyond what is tolerated: (n, pairs) → (n, seconds)."""
    by_second = losses.reshape(len(losses), -1, rate)
    seconds = by_second.shape[1]
    statistic = VarianceInflation()
    flagged = np.zeros((len(losses), seconds), np.bool_)
    for span in (1, 10):
        state = np.zeros((len(losses), seconds, statistic.width))
        state[..., 0] = np.cumsum(np.square(by_second).sum(axis=2), axis=1)
        for second in range(seconds):
            state[:, second:, 1 + second // span] += rate
            state[:, second:, 1 + GROUPS + second // span] += by_second[:, second].sum(axis=1)[:, None]
        inflation, error, _ = statistic.get(state)
        flagged |= inflation - 2 * error > MOST_INFLATION
    return flagged


def _top(scores: Floats, k: int) -> NDArray[np.bool_]:
    """Which items are among the k highest: (n, items)."""
    return scores >= np.partition(scores, -k, axis=1)[:, -k, None]


def _overlap(one: NDArray[np.bool_], other: NDArray[np.bool_], k: int) -> Floats:
    return (one & other).sum(axis=1) / k
