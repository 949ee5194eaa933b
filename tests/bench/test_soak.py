"""The long benchmarks in a short version: counts, errors, the account, the caps. Never how fast anything is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench import aa, memory, outage
from bench.isolation import CONFIGURATION, NAMES, Isolation
from bench.openloop import Clients
from bench.options import Options
from bench.report import write_json
from bench.rig import MiB, rig
from bench.upstreams import Upstreams
from bench.wire import BASELINE, CANDIDATE

from shadowproxy.compare.comparer import Comparer
from shadowproxy.model import Accounting, Exchange, Outcome, Pair, Request
from shadowproxy.verdict.record import State

RATE = 150.0
SECONDS = 0.6
LEAD = 0.2


@pytest.fixture(scope="module")
def isolation() -> Iterator[Isolation]:
    quick = {
        **CONFIGURATION,
        "candidate": {"deadline": "400ms"},
        "recorder": {"max_bytes": "64KiB", "spool": {"max_bytes": 0}},
    }
    with rig(quick) as one:
        yield Isolation(one, rate=RATE, seconds=SECONDS, lead=LEAD, warm_up=SECONDS)


CANDIDATES = {
    "slow (1 s)": {"timeout"},
    "hung": {"timeout"},
    "refusing": {"connect", "reset"},
    "resetting": {"reset"},
    "dripping": {"timeout"},
    "garbage": {"protocol"},
    "half an answer": {"reset"},
    "10 MB": {"ok", "timeout"},
    "endless": {"timeout"},
}
"""How the candidate's exchanges may end beside being shed. All are ok while it is healthy."""


@pytest.mark.parametrize("fault", NAMES)
def test_a_fault_reaches_no_client_and_is_accounted_for(isolation: Isolation, fault: str) -> None:
    measured = isolation.measure(fault, rounds=1)
    assert measured.contained == []
    for turn in (*measured.healthy, *measured.faulty):
        assert turn.outcome.answered == turn.outcome.sent == round(RATE * (SECONDS + LEAD))
        assert 0 < len(turn.outcome.from_due) < turn.outcome.sent
    kinds = CANDIDATES.get(fault, set())
    assert set(measured.exchanges) <= {"ok", "shed"} | kinds
    assert not kinds or kinds & set(measured.exchanges)


def test_pairs_beyond_a_stopped_stores_bound_are_dropped_and_counted(isolation: Isolation) -> None:
    assert isolation.measure("store stopped", rounds=1).dropped.keys() == {"recorder_full"}


@pytest.mark.parametrize("fault", outage.FAULTS)
def test_a_store_that_is_away_for_a_while_costs_no_answer_and_no_pair(fault: str) -> None:
    little = {**outage.CONFIGURATION, "recorder": {"max_bytes": "1MiB", "spool": {"max_bytes": "64MiB"}}}
    found = outage.outage(fault, seconds=3.0, rate=RATE, sections=little)
    assert found.wrong == []
    assert found.outcome.answered == found.outcome.sent == round(RATE * (3.0 + outage.LEAD))
    assert found.counted == found.audit.account.requests == found.outcome.sent + 200
    assert 0 < found.spooled_pairs <= found.waited
    for changed in (
        replace(found, counted=found.counted - 1),
        replace(found, lost=1),
        replace(found, outcome=replace(found.outcome, errors={"status 502": 1})),
        replace(found, audit=replace(found.audit, account=found.audit.account + Accounting(dropped={"a": 1}))),
    ):
        assert changed.wrong


def test_copies_of_a_hung_candidate_are_shed_beyond_the_bound_and_recorded() -> None:
    with rig(
        {**memory.CONFIGURATION, "candidate": {"deadline": "2s"}, "proxy": {"mirror": {"max_in_flight": 8}}}
    ) as one:
        found = memory.hung(one, 2000, 2, 16, lambda _line: None)
    assert found.contained == []
    assert found.audit.account.requests == found.audit.account.eligible == 2000
    assert found.audit.candidate["shed"] >= 2000 - 8 * 20
    assert [part.sent for part in found.parts] == [1000, 2000]


def test_large_bodies_pass_whole_and_leave_no_memory_behind() -> None:
    with rig(memory.CONFIGURATION) as one:
        one.clients.closed_loop(500, connections=4)
        bodies = memory.transfers(one, 64 * MiB)
        assert one.audit(live_only=len(bodies)).wrong == ()
    assert [body.what for body in bodies] == ["download", "download, slow client", "upload", "upload, slow baseline"]
    assert all(body.size >= 64 * MiB for body in bodies)
    assert max(body.growth for body in bodies) < memory.BODY_MOST


@pytest.mark.parametrize("layout", aa.LAYOUTS)
def test_every_request_of_a_comparison_with_itself_gives_a_pair_that_is_looked_at(layout: str) -> None:
    run = aa.run_once(layout, 1, seconds=1.0, rate=100.0)
    assert run.pairs == 100
    assert run.errors == {}
    assert run.audit.wrong == ()
    assert run.audit.candidate == {"ok": 200}
    assert run.looks >= 5
    assert all(0 < median < math.inf for median in run.medians.values())


def pairs(slower: float) -> list[Pair]:
    draw = np.random.default_rng(1)
    return [
        Pair(
            id=str(at),
            started=1000 + at / 100,
            request=Request("POST", "/rank"),
            baseline=Exchange(Outcome.OK, 200, ttfb=first, total=first),
            candidate=Exchange(Outcome.OK, 200, ttfb=second * slower, total=second * slower),
        )
        for at, (first, second) in enumerate(np.exp(draw.normal(-6, 0.1, (2000, 2))).tolist())
    ]


ACCOUNT = Accounting(requests=2000, eligible=2000, recorded=2000)


def test_the_latency_guardrails_tell_a_slower_candidate_from_an_equal_one() -> None:
    equal = aa.looks(Comparer(())(pairs(1.0)), ACCOUNT, None)
    slower = aa.looks(Comparer(())(pairs(1.3)), ACCOUNT, None)
    assert State.ROLLBACK not in equal
    assert equal[-1] is State.PROMOTE
    assert slower[-1] is State.ROLLBACK
    assert len(equal) == 200


def test_an_audit_finds_what_the_proxy_has_not_seen() -> None:
    with rig(memory.CONFIGURATION) as one, Clients(one.upstream(BASELINE).urls[BASELINE]) as direct:
        one.clients.closed_loop(20, connections=2)
        direct.closed_loop(3, connections=1)
        assert one.audit().wrong == ("the baseline saw each once: 23 is not 20",)


def test_clients_say_what_they_got_instead_of_their_answers() -> None:
    with Upstreams(CANDIDATE) as upstreams, Clients(upstreams.urls[CANDIDATE]) as clients:
        assert clients.closed_loop(5, connections=1).errors == {"another's answer": 5}
        upstreams.switch(CANDIDATE, "resetting")
        assert clients.closed_loop(5, connections=1).errors == {"cut off before an answer": 5}
        upstreams.switch(CANDIDATE, "half")
        assert clients.closed_loop(5, connections=1).errors == {"cut off amid an answer": 5}
        upstreams.switch(CANDIDATE, "refusing")
        assert set(clients.closed_loop(5, connections=1).errors) <= {"no connection", "cut off before an answer"}
        assert upstreams.counts(CANDIDATE).requests == 15


def test_an_open_loop_sends_at_its_rate_whether_or_not_it_is_answered() -> None:
    with Upstreams(BASELINE, service=0.05) as upstreams, Clients(upstreams.urls[BASELINE]) as clients:
        outcome = clients.open_loop(rate=200, seconds=0.5, lead=0.1, connections=4, seed=3)
    assert outcome.sent == outcome.answered == 120
    assert outcome.most_open == 4
    assert len(outcome.from_due) == len(outcome.from_sent) == 100
    # Four connections of 50 ms each can't keep up: what waited for one shows only in the latency from its due time.
    assert max(outcome.from_due) > 2 * max(outcome.from_sent)


def test_a_rig_ends_what_it_began() -> None:
    with rig(memory.CONFIGURATION) as one:
        processes = [one.proxy, one.comparator()]
        store = one.valkey.pid
        assert store is not None
    assert not any(process.running for process in processes)
    assert not Path(f"/proc/{store}").exists()


def test_a_report_of_a_comparison_with_itself_can_be_written(tmp_path: Path) -> None:
    report = aa.run(Options(rounds=2, seconds=0.5))
    write_json(tmp_path / "figures.json", [report])
    (written,) = json.loads((tmp_path / "figures.json").read_text())
    assert [run["layout"] for run in written["runs"]] == list(aa.LAYOUTS)
    assert all(run["alarms"].keys() == {"default", "strict"} for run in written["runs"])
