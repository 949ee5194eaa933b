"""The breaker against a model of it that is too simple to be wrong, and what it means for the pairs."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from proxy.harness import (
    DEADLINE,
    RawUpstream,
    Received,
    answering,
    ask,
    get,
    proxy,
    reset,
    upstream,
)
from proxy.harness import echo as echoing

from shadowproxy.config import Breaker as Settings
from shadowproxy.model import Outcome, Side
from shadowproxy.proxy.breaker import Breaker, BreakerState


class AgainstItsModel(RuleBasedStateMachine):
    """The model keeps the whole history of the current term, and works the state out of it each time."""

    @initialize(
        failures=st.integers(1, 4),
        open_for=st.integers(1, 3),
        times=st.integers(1, 9),
        probes=st.integers(1, 3),
    )
    def begin(self, failures: int, open_for: int, times: int, probes: int) -> None:
        self.settings = Settings(failures=failures, open_for=open_for, open_at_most=open_for * times, probes=probes)
        self.told: list[BreakerState] = []
        self.breaker = Breaker(self.settings, changed=lambda breaker: self.told.append(breaker.state))
        self.now = 100.0
        self.expected = BreakerState.CLOSED
        self.expected_told: list[BreakerState] = []
        self.outcomes: list[bool] = []
        self.let_through = 0
        self.opened_at = 0.0
        self.times_opened = 0
        self.term = 0
        self.under_way: list[tuple[int, int]] = []

    def model_turns(self, state: BreakerState) -> None:
        self.expected = state
        self.term += 1
        self.expected_told.append(state)
        self.outcomes = []
        self.let_through = 0

    @property
    def model_open_for(self) -> float:
        return min(self.settings.open_for * 2.0 ** (self.times_opened - 1), self.settings.open_at_most)

    @rule(seconds=st.integers(0, 12))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def a_call_is_wanted(self) -> None:
        if self.expected is BreakerState.OPEN and self.now >= self.opened_at + self.model_open_for:
            self.model_turns(BreakerState.HALF_OPEN)
        may = self.expected is BreakerState.CLOSED or (
            self.expected is BreakerState.HALF_OPEN and self.let_through < self.settings.probes
        )
        assert self.breaker.admits(self.now) is may
        if may:
            self.let_through += 1
            self.under_way.append((self.breaker.term, self.term))

    @rule(which=st.integers(0, 10**6), well=st.booleans())
    def a_call_ends(self, which: int, well: bool) -> None:
        if not self.under_way:
            return
        term, begun_in = self.under_way.pop(which % len(self.under_way))
        counts = begun_in == self.term
        if well:
            self.breaker.succeeded(term)
        else:
            self.breaker.failed(term, self.now)
        if not counts:
            return
        self.outcomes.append(well)
        last = self.outcomes[-self.settings.failures :]
        if self.expected is BreakerState.HALF_OPEN and well and self.outcomes.count(True) == self.settings.probes:
            self.times_opened = 0
            self.model_turns(BreakerState.CLOSED)
        elif (self.expected is BreakerState.HALF_OPEN and not well) or (
            self.expected is BreakerState.CLOSED and last == [False] * self.settings.failures
        ):
            self.opened_at = self.now
            self.times_opened += 1
            self.model_turns(BreakerState.OPEN)

    @invariant()
    def both_agree(self) -> None:
        if hasattr(self, "breaker"):
            assert self.breaker.state is self.expected
            assert self.told == self.expected_told
            assert self.breaker.open_for == (self.model_open_for if self.times_opened else 0)


TestAgainstItsModel = AgainstItsModel.TestCase


class Switched:
    """Resets connections, or answers once it is mended."""

    def __init__(self) -> None:
        self.mended = False

    async def __call__(self, raw: RawUpstream, request: Received, *streams: Any) -> bool:
        return await (echoing if self.mended else reset)(raw, request, *streams)


async def test_a_candidate_that_gives_no_answers_is_asked_no_more_until_it_is_well() -> None:
    candidate = Switched()
    breaker = {"failures": 4, "open_for": "50ms", "open_at_most": "100ms", "probes": 2}
    async with (
        upstream(echoing) as one,
        upstream(candidate) as other,
        proxy(one.url, other.url, mirror={"breaker": breaker}) as running,
    ):

        def state() -> BreakerState:
            return running.server.gates[Side.CANDIDATE].breaker

        for number in range(1, 5):
            assert (await ask(running.address, get())).status == 200
            await running.recorded(number)
        assert state() is BreakerState.OPEN
        candidate.mended = True
        async with asyncio.timeout(DEADLINE):
            while state() is not BreakerState.CLOSED:
                assert (await ask(running.address, get())).status == 200
        await running.balanced()
        transitions = running.server.gates[Side.CANDIDATE].transitions
        assert transitions[BreakerState.CLOSED] == 1
        assert transitions[BreakerState.OPEN] == transitions[BreakerState.HALF_OPEN] >= 1
        asked = len(other.requests)
        before = len(running.pairs)
        for _ in range(3):
            await ask(running.address, get())
        await running.recorded(before + 3)
        assert len(other.requests) == asked + 3
        assert {pair.candidate.outcome for pair in running.pairs[-3:]} == {Outcome.OK}


async def test_answers_of_any_status_and_sheds_do_not_open_it() -> None:
    failing = answering(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    async with (
        upstream(echoing) as one,
        upstream(failing) as other,
        proxy(one.url, other.url, mirror={"breaker": {"failures": 2}}) as running,
    ):
        for _ in range(6):
            await ask(running.address, get())
        assert {pair.candidate.status for pair in await running.recorded(6)} == {503}
        assert running.server.gates[Side.CANDIDATE].breaker is BreakerState.CLOSED


async def test_each_shadow_side_has_a_breaker_of_its_own_and_it_can_be_turned_off() -> None:
    for enabled in (True, False):
        async with (
            upstream(echoing) as one,
            upstream(reset) as other,
            proxy(
                one.url,
                other.url,
                replica=one.url,
                mirror={"breaker": {"failures": 2, "open_for": "60s", "open_at_most": "60s", "enabled": enabled}},
            ) as running,
        ):
            for number in range(1, 6):
                await ask(running.address, get())
                await running.recorded(number)
            assert len(other.requests) == (2 if enabled else 5)
            assert [pair.replica.outcome for pair in running.pairs if pair.replica] == [Outcome.OK] * 5
            state = BreakerState.OPEN if enabled else BreakerState.CLOSED
            assert running.server.gates[Side.CANDIDATE].breaker is state
            assert running.server.gates[Side.REPLICA].breaker is BreakerState.CLOSED
            assert running.server.gates[Side.CANDIDATE].shed["breaker"] == (3 if enabled else 0)
            last = running.pairs[-1].candidate
            assert last.outcome is (Outcome.SHED if enabled else Outcome.RESET)
            assert last.detail.startswith("the breaker is open: candidate ") is enabled
            told = [outcome for side, outcome, _ in running.observed if side is Side.CANDIDATE]
            assert told.count(Outcome.SHED) == (3 if enabled else 0)
