"""Processes that are killed, frozen and restarted under load, by fixed seeds; `make soak` does it at length."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as replaced
from whole.chaos import Ledger, plan, run, summary

from shadowproxy.pairs import EmbeddedServer

pytestmark = pytest.mark.timeout(300)

TARGETS = ("comparator 1", "comparator 2", "proxy 1", "proxy 2", "server")
SEED, ROUNDS = 320, 4
"""Kills, freezes and restarts each of proxy, comparator and server."""


def test_a_seed_has_every_harm_befall_every_kind_of_process() -> None:
    harms = [harm for harms in plan(SEED, ROUNDS, TARGETS) for harm in harms]
    assert len({(harm.target.partition(" ")[0], harm.kind) for harm in harms}) == 9


async def harmed(
    server: EmbeddedServer, folder: Path, *, seed: int, rounds: int, exact: bool, partitions: int
) -> Ledger:
    told = [f"seed {seed}"]
    ledger = await run(
        folder, server, seed=seed, rounds=rounds, exact=exact, partitions=partitions, deadline="6s", tell=told.append
    )
    assert ledger.wrong() == [], "\n".join((*told, summary(ledger)))
    assert len(ledger.asked) > 50
    return ledger


async def test_every_recorded_pair_is_counted_once_whatever_dies(own_valkey: EmbeddedServer, tmp_path: Path) -> None:
    ledger = await harmed(own_valkey, tmp_path, seed=SEED, rounds=ROUNDS, exact=True, partitions=1)
    assert any(life.killed for life in ledger.proxies)
    # A ledger in which one more was counted, or one less, is seen to be wrong.
    verdict, (first, *_) = ledger.verdict, ledger.verdict.cohorts
    for pairs in (0, 2):
        cohorts = {**verdict.cohorts, first: replaced(verdict.cohorts[first], pairs=pairs)}
        assert replace(ledger, verdict=replaced(verdict, cohorts=cohorts)).wrong()


async def test_partitions_count_each_pair_once_too(own_valkey: EmbeddedServer, tmp_path: Path) -> None:
    ledger = await harmed(own_valkey, tmp_path, seed=1367, rounds=1, exact=False, partitions=2)
    assert ledger.recorded is not None
    once = dict(ledger.recorded)
    number = next(iter(once))
    assert replace(ledger, recorded=ledger.recorded + Counter([number])).wrong()
    # One recorded in another's place: as many as are counted, and not the same.
    del once[number]
    assert replace(ledger, recorded=Counter([*once, max(once) + 1])).wrong()
