"""The corpus of requests: the malformed are refused before any upstream sees a byte, and nothing behind is heard."""

from __future__ import annotations

import contextlib

import pytest
from conformance import oracle
from conformance.requests_corpus import ACCEPTED, INCOMPLETE, LIMITS, OVERSIZED, REFUSED, SENTINEL, Case
from conformance.scene import Scene, echo_body, feed, pieces
from conformance.witness import witness
from proxy.harness import Running, ask, client, get, proxy, read_response, talk, until

GOOD = b"POST /good HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\ngood"
WITNESS = get("/witness")


def refusal(data: bytes) -> int:
    """The status of the one response that `data` is, whose connection closes; 0 for nothing."""
    if not data:
        return 0
    interim, final = oracle.read_response(data, b"GET", ended=True)
    assert final.size == len(data), data
    assert final.get(b"connection") == [b"close"]
    assert final.get(b"content-length")
    assert [message.status for message in interim] in ([], [100])
    return final.status


async def meets(running: Running, data: bytes) -> bytes:
    """All that a client gets for `data` until the proxy closes, while another client is served before and after."""
    async with client(running.address) as (reader, writer):
        writer.write(WITNESS)
        assert (await read_response(reader)).status == 200
        answer = await talk(running.address, data)
        writer.write(WITNESS)
        assert (await read_response(reader)).status == 200
    return answer


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
async def test_a_malformed_request_is_refused_and_nothing_of_it_or_behind_it_is_forwarded(case: Case) -> None:
    async with (
        witness() as baseline,
        witness() as candidate,
        proxy(baseline.url, candidate.url, limits={"body": 4000}) as running,
    ):
        assert refusal(await meets(running, case.data + SENTINEL)) in case.statuses
        await running.recorded(2)
        assert baseline.targets == candidate.targets == [b"/witness"] * 2
        assert running.recorder.ledger.requests == 2


@pytest.mark.parametrize("case", OVERSIZED, ids=lambda case: case.name)
async def test_an_oversized_request_gets_its_status_and_nothing_of_it_is_forwarded(case: Case) -> None:
    async with (
        witness() as baseline,
        witness() as candidate,
        proxy(baseline.url, candidate.url, limits=LIMITS) as running,
    ):
        assert refusal(await meets(running, case.data + SENTINEL)) in case.statuses
        await running.recorded(2)
        assert baseline.targets == candidate.targets == [b"/witness"] * 2


@pytest.mark.parametrize("case", INCOMPLETE, ids=lambda case: case.name)
async def test_an_incomplete_request_is_ended_by_its_timeout_and_nothing_of_it_is_forwarded(case: Case) -> None:
    async with (
        witness() as baseline,
        witness() as candidate,
        proxy(baseline.url, candidate.url, limits={"header_timeout": 0.05, "idle_timeout": 0.05}) as running,
    ):
        assert refusal(await talk(running.address, case.data)) in case.statuses
        assert (await ask(running.address, WITNESS)).status == 200
        await running.recorded(1)
        assert baseline.targets == candidate.targets == [b"/witness"]


@pytest.mark.parametrize("case", INCOMPLETE, ids=lambda case: case.name)
async def test_an_incomplete_request_that_its_client_ends_is_forgotten(case: Case) -> None:
    async with witness() as baseline, witness() as candidate, proxy(baseline.url, candidate.url) as running:
        with contextlib.suppress(ConnectionResetError):
            answer = await talk(running.address, case.data, half_close=True)
            assert answer in (b"", b"HTTP/1.1 100 Continue\r\n\r\n") or refusal(answer) == 400
        assert not baseline.connections
        assert not candidate.connections
        assert running.recorder.ledger.requests == 0


@pytest.mark.parametrize("name", ACCEPTED)
async def test_an_odd_request_that_is_allowed_is_one_request_and_not_two(name: str) -> None:
    data, body = ACCEPTED[name]
    async with witness() as baseline, witness() as candidate, proxy(baseline.url, candidate.url) as running:
        async with client(running.address) as (reader, writer):
            writer.write(data + WITNESS)
            for _ in range(2):
                response = await read_response(reader)
                while response.status == 100:
                    response = await read_response(reader)
                assert (response.status, response.body) == (200, b"ok")
        await running.balanced()
        first, second = baseline.requests
        assert first.body == body
        assert second.second == b"/witness"
        sent = oracle.read_request(data)
        assert sent.first == first.first
        assert sent.second.endswith(first.second)
        mirrored = [message.body for message in candidate.requests]
        assert mirrored in ([body, b""], [b""])


@pytest.mark.parametrize("case", [*REFUSED, *OVERSIZED], ids=lambda case: case.name)
def test_a_refusal_is_the_same_however_it_comes_and_leaves_what_came_before_alone(case: Case) -> None:
    for mode in (0, 1, 2, 3) if len(case.data) < 1000 else (0, 2, 3):
        _refused_behind_a_good_one(case, mode)


def _refused_behind_a_good_one(case: Case, mode: int) -> None:
    limits = LIMITS if case in OVERSIZED else {"body": 4000}
    with Scene(limits=limits, mirror={"max_body": 10_000}) as scene:
        remote = scene.client()
        feed(scene, remote, pieces(GOOD + case.data + SENTINEL, mode))
        _, first = oracle.read_response(bytes(remote.got), b"POST", ended=False)
        good = oracle.read_request(GOOD)
        assert first.body == echo_body(good)
        assert refusal(bytes(remote.got[first.size :])) in case.statuses
        for upstream in (scene.baseline, scene.candidate):
            assert [message.second for message in upstream.requests] == [b"/good"]
            assert not upstream.partial


async def test_a_request_that_is_refused_amid_its_streamed_body_never_becomes_complete() -> None:
    """Beyond the mirror's cap the baseline has the beginning already: it must not get an end."""
    head = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with (
        witness() as baseline,
        witness() as candidate,
        proxy(baseline.url, candidate.url, mirror={"max_body": 8}) as running,
    ):
        async with client(running.address) as (reader, writer):
            writer.write(head + b"10\r\n0123456789abcdef\r\n")
            await until(lambda: baseline.connections and baseline.connections[0].got.endswith(b"f\r\n"))
            writer.write(b"zz\r\n" + SENTINEL)
            assert refusal(await reader.read()) == 400
        await running.balanced()
        (connection,) = baseline.connections
        with pytest.raises(oracle.IncompleteError):
            oracle.read_request(bytes(connection.got))
        assert not candidate.connections
        assert running.recorder.ledger.skipped == {"request_too_large": 1}


def test_the_corpus_is_as_large_as_it_is_said_to_be() -> None:
    assert len({case.name for case in [*REFUSED, *OVERSIZED, *INCOMPLETE]}) >= 120
    assert len(REFUSED) == len({case.data for case in REFUSED})
