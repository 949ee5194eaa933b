"""Pairs that depend on each other, at the margin exactly: without a remedy, held back where noticed, and with one.

Losses that come in runs (an autoregression of 0.9), 100 pairs a second; and accounts that return, each with a mean of
its own, in an order that the autocorrelation doesn't betray.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from bench.decisions import peers
from bench.decisions.means import GRID, MARGIN, SPREAD, Z_MARGIN, crossings, evidence, said
from bench.decisions.reading import EVERY, PROVEN, BoolArray, FloatArray, Reading, first, looks
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import lfilter

from shadowproxy.config.judging import Verdict
from shadowproxy.stats.additive import Grouping
from shadowproxy.stats.blocks import Schedule, means
from shadowproxy.stats.inflation import GROUPS, VarianceInflation, time_keys
from shadowproxy.verdict.guardrails.dependence import SPANS
from shadowproxy.verdict.record import MOST_INFLATION

RATE: Final = 100.0
STAY: Final = 0.9
BLOCK: Final = 2.0
"""Seconds: 200 pairs, and (1 + 0.9) / (1 − 0.9) = 19 of them are worth one."""
BARE: Final = "shadowproxy, pairs as if independent"
HELD: Final = "shadowproxy, held back where noticed"
BLOCKS: Final = "shadowproxy, block means"
FIRSTS: Final = "shadowproxy, accounts' first pairs alone"
WAITED: Final = "shadowproxy, and for `min_duration`"
FLAGGED: Final = "noticed"
DURATION: Final = Verdict().min_duration
"""Seconds: before, the inflation of runs is not to be seen."""
ACCOUNTS: Final = 500
_VIF: Final = VarianceInflation()


def runs(pairs: int, draw: Generator, experiments: int) -> dict[str, Reading]:
    """Losses in runs, and the means of blocks of two seconds."""
    news = draw.standard_normal((experiments, pairs)) * np.sqrt(1 - STAY**2)
    news[:, 0] /= np.sqrt(1 - STAY**2)
    losses = np.clip(MARGIN + SPREAD * lfilter([1.0], [1.0, -STAY], news, axis=1), -1, 1)
    began = np.arange(pairs) / RATE
    by_span = [_inflation(losses, np.broadcast_to(time_keys(began, span), losses.shape)) for span in SPANS.values()]
    readings = _without(losses, np.logical_or.reduce(by_span))
    readings[BLOCKS] = _blocks(losses, began)
    return readings


def accounts(pairs: int, draw: Generator, experiments: int) -> dict[str, Reading]:
    """Accounts that return twenty times on average, and only the first pair of each."""
    account = draw.integers(0, ACCOUNTS, (experiments, pairs))
    of_account = draw.normal(0, 0.8 * SPREAD, (experiments, ACCOUNTS))
    own = draw.normal(0, 0.6 * SPREAD, (experiments, pairs))
    losses = np.clip(MARGIN + np.take_along_axis(of_account, account, axis=1) + own, -1, 1)
    readings = _without(losses, _inflation(losses, (account % GROUPS).astype(np.float64)))
    readings[FIRSTS] = _firsts(losses, account)
    return readings


def _without(losses: FloatArray, flagged: BoolArray) -> dict[str, Reading]:
    at = looks(losses.shape[1])
    ni, harm = evidence(GRID, losses)
    bare = crossings(ni, harm, at)
    noticed = {FLAGGED: flagged[:, -1]}

    def held(by: BoolArray) -> Reading:
        """A promote is held back; a rollback isn't."""
        return Reading(said((ni >= PROVEN) & ~by, harm >= PROVEN, at).promote, None, noticed)

    return {
        BARE: Reading(bare.promote, bare.rollback, noticed),
        HELD: held(flagged),
        WAITED: held(flagged | (at < DURATION * RATE)),
        Z_MARGIN: said(*peers.z_margin(losses, MARGIN, at), at),
    }


def _inflation(losses: FloatArray, keys: FloatArray) -> BoolArray:
    """At which looks it is beyond the limit by two standard errors: (experiments, n) twice → (experiments, looks)."""
    experiments, n = losses.shape
    count = n // EVERY
    one = Grouping(np.arange(n), np.arange(n) // EVERY, n, count)
    flags = np.empty((experiments, count), np.bool_)
    for row in range(experiments):
        state = np.cumsum(_VIF.fold(np.column_stack([losses[row], keys[row]]), one), axis=0)
        vif, error, _ = _VIF.get(state)
        flags[row] = vif - 2 * error > MOST_INFLATION
    return flags


def _blocks(losses: FloatArray, began: FloatArray) -> Reading:
    """Looked at whenever a block is closed, in pairs."""
    block = Schedule(BLOCK, 0.0).index(began)
    grouping = Grouping(np.arange(len(began)), block, len(began), int(block[-1]) + 1)
    sums = np.stack([grouping.sum(np.ones_like(losses).T), grouping.sum(losses.T)], axis=-1)
    of_blocks = means(sums, np.ones(len(sums), np.bool_)).T
    at = np.cumsum(np.bincount(block))
    return crossings(*evidence(GRID, of_blocks, every=1), at)


def _firsts(losses: FloatArray, account: NDArray[np.int64]) -> Reading:
    """Each account's first pair alone; the capitals stay as they are at the others."""
    experiments, n = losses.shape
    counts = np.zeros((experiments, n), np.bool_)
    for row, of_one in enumerate(account):
        counts[row, np.unique(of_one, return_index=True)[1]] = True
    at = looks(n)
    every = np.where(counts, losses, np.nan)
    ni, harm = evidence(GRID, every)
    return Reading(first(ni >= PROVEN, at), first(harm >= PROVEN, at))
