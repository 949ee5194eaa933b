"""What a slow candidate may hold in memory: past the budget copies are shed, and recorded as such."""

from __future__ import annotations

import asyncio

from proxy.harness import (
    RawUpstream,
    Received,
    Running,
    answering,
    ask,
    echo,
    get,
    hang,
    post,
    proxy,
    until,
    upstream,
)

from shadowproxy.model import Outcome, Side

BUDGET = 1_000_000
LARGE = 300_000
large = answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE + bytes(LARGE))


def held(running: Running, side: Side = Side.CANDIDATE) -> int:
    return running.server.gates[side].held


async def test_requests_that_wait_for_a_hung_candidate_are_bounded() -> None:
    async with (
        upstream(echo) as baseline,
        upstream(hang) as candidate,
        proxy(baseline.url, candidate.url, mirror={"max_in_flight_bytes": BUDGET}, capture=0) as running,
    ):
        for _ in range(6):
            assert (await ask(running.address, post(bytes(LARGE // 2)))).status == 200
        # Each holds its body on the wire and in its pair: 2 · 150 kB, so there is room for three.
        pairs = await running.recorded(3)
        assert {pair.candidate.outcome for pair in pairs} == {Outcome.SHED}
        assert {pair.candidate.detail for pair in pairs} == {f"the copies under way hold {BUDGET} bytes"}
        assert 3 * LARGE <= held(running) <= BUDGET
        assert running.server.gates[Side.CANDIDATE].shed == {"in_flight": 0, "bytes": 3, "breaker": 0}
        candidate.release.set()
        await running.recorded(6)
        assert held(running) == 0


async def test_answers_that_wait_for_a_hung_candidate_are_bounded() -> None:
    async with (
        upstream(large) as baseline,
        upstream(hang) as candidate,
        upstream(large) as replica,
        proxy(baseline.url, candidate.url, replica=replica.url, mirror={"max_in_flight_bytes": BUDGET}) as running,
    ):
        for number in range(1, 6):
            assert (await ask(running.address, get())).status == 200
            # The baseline's and the replica's, each 300 kB: two pairs are within the budget when the second begins.
            await until(lambda number=number: held(running) >= 2 * LARGE * min(number, 2))  # type: ignore[misc]
        pairs = await running.recorded(3)
        assert {pair.candidate.outcome for pair in pairs} == {Outcome.SHED}
        assert {pair.replica.outcome for pair in pairs if pair.replica} == {Outcome.OK}
        assert held(running) < 4 * LARGE + 100_000
        # The replica is not to blame: nothing waits for it.
        assert running.server.gates[Side.REPLICA].shed["bytes"] == 0
        await until(lambda: held(running, Side.REPLICA) == 0)
        candidate.release.set()
        await running.recorded(5)
        assert held(running) == 0


async def test_answers_that_a_candidate_never_ends_are_bounded() -> None:
    async def drip(
        self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + bytes(LARGE))
        await self.release.wait()
        return False

    async with (
        upstream(echo) as baseline,
        upstream(drip) as candidate,
        proxy(baseline.url, candidate.url, mirror={"max_in_flight_bytes": BUDGET}, capture=1_000_000) as running,
    ):
        for number in range(1, 30):
            assert (await ask(running.address, get())).status == 200
            await until(lambda: held(running) >= min(number, 4) * LARGE)  # noqa: B023
        shed = running.server.gates[Side.CANDIDATE].shed["bytes"]
        # They are measured at every sixteenth admission, where they could matter.
        assert shed >= 29 - 16 - 4
        assert held(running) <= 20 * (LARGE + 10_000)
        candidate.release.set()
        await running.recorded(29)
        assert held(running) == 0


async def test_the_budget_is_no_limit_for_what_is_quick() -> None:
    async with (
        upstream(large) as one,
        proxy(one.url, one.url, mirror={"max_in_flight_bytes": BUDGET}) as running,
    ):
        for number in range(1, 8):
            assert (await ask(running.address, post(bytes(LARGE)))).status == 200
            await running.recorded(number)
        assert {pair.candidate.outcome for pair in running.pairs} == {Outcome.OK}
        assert held(running) == 0
