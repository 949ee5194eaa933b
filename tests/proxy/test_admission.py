"""Which requests are copied: by route, by key, and under what was said at run time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy.harness import ask, echo, get, hang, proxy, until, upstream

from shadowproxy.config import Mirror
from shadowproxy.model import Outcome, Side
from shadowproxy.pairs.controls import Controls
from shadowproxy.proxy.admission import Admission

SHARES = st.floats(0, 1)


def decide(admission: Admission, target: str = "/", *lines: str, method: bytes = b"GET", request_id: str = "r") -> str:
    fields = "".join(f"\r\n{line}" for line in lines).encode()
    return admission.refusal(method, target.encode(), fields, request_id.encode(), 0, 0.0)


def made(controls: Controls | None = None, **mirror: Any) -> Admission:
    return Admission(Mirror.model_validate(mirror), "exp", slow_upload=1.0, controls=controls)


def test_the_first_route_that_matches_decides_and_inherits_what_it_does_not_say() -> None:
    admission = made(
        methods=["GET"],
        routes=[
            {"path": "/a/private/*", "enabled": False},
            {"path": "/a/*", "methods": ["POST"]},
            {"path": "/b", "sample": 0},
            {"path": "/**", "enabled": True},
        ],
    )
    assert decide(admission, "/a/private/x?q=1") == "route"
    assert decide(admission, "/a/x") == "method"
    assert decide(admission, "/a/x", method=b"POST") == ""
    assert decide(admission, "/b?a=/a/private/") == "not_sampled"
    assert decide(admission, "/b", method=b"POST") == "method"
    assert decide(admission, "/c") == ""
    # The second time from memory.
    assert decide(admission, "/a/private/x?q=2") == "route"


def test_a_route_may_be_mirrored_where_nothing_else_is() -> None:
    admission = made(enabled=False, routes=[{"path": "/rank", "enabled": True}, {"path": "/inherits"}])
    assert decide(admission, "/rank") == ""
    assert decide(admission, "/inherits") == "disabled"
    assert decide(admission, "/") == "disabled"


def test_no_number_of_paths_changes_a_decision() -> None:
    admission = made(routes=[{"path": "/in/*"}, {"path": "/**", "enabled": False}])
    for _ in range(2):
        for number in range(3000):
            assert decide(admission, f"/in/{number}") == ""
            assert decide(admission, f"/out/{number}") == "route"


FORMS: dict[str, list[tuple[str, list[str]]]] = {
    "header:X-Account": [("/", ["x-account:  KEY \t"]), ("/", ["B: 1", "X-ACCOUNT: KEY", "x-account: second"])],
    "cookie:sid": [
        ("/", ["Cookie: sid=KEY"]),
        ("/", ["COOKIE: asid=x; sid=KEY; sid=B"]),
        ("/", ["Cookie: a=1", "cookie:b=sid=;sid=KEY "]),
    ],
    "query:user": [("/?user=KEY", []), ("/p?x=user=B&user=KEY&user=C", []), ("/user=B?&user=KEY", [])],
}


@pytest.mark.parametrize("sample_by", FORMS)
def test_sampling_goes_by_the_key_wherever_it_stands(sample_by: str) -> None:
    admission = made(sample=0.5, sample_by=sample_by)
    decisions = {
        key: {
            decide(
                admission, target.replace("KEY", key), *(line.replace("KEY", key) for line in lines), request_id=name
            )
            for target, lines in FORMS[sample_by]
            for name in ("one", "two")
        }
        for key in map(str, range(100, 140))
    }
    assert all(len(found) == 1 for found in decisions.values()), decisions
    assert set.union(*decisions.values()) == {"", "not_sampled"}


@pytest.mark.parametrize(
    ("sample_by", "target", "lines"),
    [
        ("header:X-Account", "/?X-Account=A", ["X-Accounts: A", "B: X-Account: A"]),
        ("cookie:sid", "/?sid=A", ["Cookie: asid=A; SID=A; b=sid=A", "X: 1; sid=A"]),
        ("query:user", "/user=A&user=A?users=A&User=A", ["user: A", "Cookie: user=A"]),
    ],
)
def test_what_only_looks_like_the_key_is_none_and_the_request_id_decides(
    sample_by: str, target: str, lines: list[str]
) -> None:
    admission = made(sample=0.5, sample_by=sample_by)
    by_id = made(sample=0.5)
    decisions = {name: decide(admission, target, *lines, request_id=name) for name in map(str, range(60))}
    assert decisions == {name: decide(by_id, request_id=name) for name in decisions}
    assert set(decisions.values()) == {"", "not_sampled"}


@given(first=SHARES, second=SHARES, configured=SHARES)
def test_who_is_in_at_a_share_is_in_at_every_larger_one(first: float, second: float, configured: float) -> None:
    small, large = sorted((first, second))
    base = made(sample=configured)
    inside = [
        {name for name in map(str, range(50)) if decide(admission, request_id=name) == ""}
        for admission in (base.under(Controls(sample=small)), base.under(Controls(sample=large)))
    ]
    assert inside[0] <= inside[1]
    assert base.under(Controls(sample=small)).sample == small
    assert base.under(Controls(sample=small)).under(Controls()).sample == configured


@given(route=SHARES, said=SHARES)
def test_a_share_set_at_run_time_never_raises_that_of_a_route(route: float, said: float) -> None:
    routes = [{"path": "/r", "sample": route}]
    admission = made(Controls(sample=said), sample=0.0, routes=routes)
    lower = made(sample=min(route, said))
    plain = made(sample=said)
    for name in map(str, range(30)):
        assert decide(admission, "/r", request_id=name) == decide(lower, "/r", request_id=name)
        assert decide(admission, "/", request_id=name) == decide(plain, "/", request_id=name)


def test_paused_comes_before_every_other_reason() -> None:
    paused = Controls(paused=True)
    assert decide(made(paused, enabled=False)) == "paused"
    assert decide(made(paused, routes=[{"path": "/", "enabled": False}])) == "paused"
    assert made(paused).sample == 0
    assert decide(made(Controls(paused=True, stopped=True), enabled=False)) == "stopped"
    assert made(Controls(stopped=True)).sample == 0
    assert decide(made(paused).under(Controls())) == ""


async def test_a_pause_ends_the_copies_at_once_and_what_is_under_way_is_recorded() -> None:
    async with (
        upstream(echo) as baseline,
        upstream(hang) as candidate,
        proxy(baseline.url, candidate.url) as running,
    ):
        assert (await ask(running.address, get("/1"))).status == 200
        await until(lambda: len(candidate.requests) == 1)
        running.server.control(Controls(paused=True))
        assert running.server.sample == 0
        for _ in range(3):
            assert (await ask(running.address, get("/2"))).status == 200
        assert running.recorder.ledger.skipped == {"paused": 3}
        running.server.control(Controls())
        assert (await ask(running.address, get("/3"))).status == 200
        await until(lambda: len(candidate.requests) == 2)
        candidate.release.set()
        pairs = await running.recorded(2)
        assert {pair.request.target for pair in pairs} == {"/1", "/3"}
        assert {pair.candidate.outcome for pair in pairs} == {Outcome.RESET}
        assert running.server.in_flight[Side.CANDIDATE] == 0


async def test_the_share_changes_while_it_runs() -> None:
    async with upstream(echo) as one, proxy(one.url, one.url, mirror={"sample_by": "query:user"}) as running:

        async def inside() -> set[str]:
            before = len(running.pairs)
            for number in range(30):
                await ask(running.address, get(f"/?user={number}"))
            await running.balanced()
            return {pair.request.target for pair in running.pairs[before:]}

        assert len(await inside()) == 30
        running.server.control(Controls(sample=0.5))
        half = await inside()
        assert 0 < len(half) < 30
        assert await inside() == half
        running.server.control(Controls(sample=0.8))
        assert half <= await inside()
        assert running.recorder.ledger.skipped.keys() == {"not_sampled"}
