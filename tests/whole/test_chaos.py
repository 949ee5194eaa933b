"""Processes that are killed, frozen and restarted under load, by a fixed seed; `make soak` does it at length."""

from __future__ import annotations

from pathlib import Path

import pytest
from whole.chaos import run, summary

from shadowproxy.pairs import EmbeddedServer

SEED = 11


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("exact", "partitions", "rounds"), [(True, 1, 5)])
async def test_every_recorded_pair_is_counted_once_whatever_dies(
    own_valkey: EmbeddedServer, tmp_path: Path, exact: bool, partitions: int, rounds: int
) -> None:
    print(f"seed {SEED}")
    ledger = await run(tmp_path, own_valkey, seed=SEED, rounds=rounds, exact=exact, partitions=partitions, tell=print)
    print(summary(ledger))
    assert ledger.wrong() == []
    assert ledger.verdict.pairs > 100
