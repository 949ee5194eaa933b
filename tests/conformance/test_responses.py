"""The corpus of answers: a client never gets a complete-looking wrong one, and never pays for a candidate's."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest
from conformance import oracle
from conformance.network import READ, Remote
from conformance.responses_corpus import BROKEN, GOOD, SURPLUS, Answer
from conformance.scene import Scene, Service, echo, echo_body, pieces
from conformance.witness import ANSWER, witness
from proxy.harness import RawUpstream, Received, client, get, proxy, read_response, sides, upstream

from shadowproxy.model import Outcome, Pair, Side

REQUEST = b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n"
OLD = b"GET /first HTTP/1.0\r\n\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


class Script:
    """Answers `/first` with given reads, then perhaps ends; anything else as `echo` does."""

    def __init__(self, parts: Sequence[bytes], *, ends: bool = True) -> None:
        self.parts = parts
        self.ends = ends

    def __call__(self, service: Service, message: oracle.Message) -> None:
        if message.second != b"/first":
            echo(service, message)
            return
        for part in self.parts:
            service.send(part)
        if self.ends:
            service.send_eof()


def got(remote: Remote, method: bytes = b"GET") -> oracle.Message | None:
    """The complete response that a client has; None if what it has is not complete, whatever it makes of the end."""
    try:
        _, message = oracle.read_response(bytes(remote.got), method, ended=remote.end == "closed")
    except oracle.IncompleteError:
        return None
    assert message.size == len(remote.got)
    return message


def check_next_is_clean(scene: Scene) -> None:
    expected = echo_body(oracle.read_request(NEXT))
    assert scene.ask(NEXT).endswith(b"\r\n\r\n" + expected)
    assert scene.recorder.pairs[-1].baseline.body == expected


def the_pair(scene: Scene) -> Pair:
    (pair,) = (pair for pair in scene.recorder.pairs if pair.request.target == "/first")
    return pair


@pytest.mark.parametrize("request_", [REQUEST, OLD], ids=["1.1", "1.0"])
@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_broken_answer_of_the_baseline_is_502_or_cut_off_in_any_split(case: Answer, request_: bytes) -> None:
    for mode in (0, 1, 2, 3) if len(case.data) < 5000 else (0, 2, 3):
        with Scene(Script(pieces(case.data, mode))) as scene:
            remote = scene.client()
            remote.send(request_)
            scene.loop.settle()
            message = got(remote)
            if message is None:
                assert remote.end == "reset"
            else:
                assert message.status == 502
            pair = the_pair(scene)
            assert pair.baseline.outcome in case.outcomes
            assert pair.candidate.outcome is Outcome.OK
            check_next_is_clean(scene)


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_a_broken_answer_of_the_candidate_is_recorded_and_nothing_else_in_any_split(case: Answer) -> None:
    for mode in (0, 1, 2, 3) if len(case.data) < 5000 else (0, 2, 3):
        with Scene(echo, Script(pieces(case.data, mode))) as scene:
            remote = scene.client()
            remote.send(REQUEST)
            scene.loop.settle()
            message = got(remote)
            assert message is not None
            assert message.body == echo_body(oracle.read_request(REQUEST))
            pair = the_pair(scene)
            assert pair.baseline.outcome is Outcome.OK
            assert pair.candidate.outcome in case.outcomes
            assert pair.candidate.detail
            check_next_is_clean(scene)
            assert scene.recorder.pairs[-1].candidate.outcome is Outcome.OK


@pytest.mark.parametrize("name", GOOD)
def test_an_answer_that_ends_early_at_any_byte_is_never_complete(name: str) -> None:
    whole = GOOD[name]
    body_at = whole.index(b"\r\n\r\n") + 4
    for size in range(len(whole)):
        with Scene(Script([whole[:size]] if size else []), Script([whole[:size]])) as scene:
            remote = scene.client()
            remote.send(REQUEST)
            scene.loop.settle()
            message = got(remote)
            pair = the_pair(scene)
            assert pair.baseline.outcome is pair.candidate.outcome
            if name == "close" and size >= body_at:
                # Its end is that of the connection: nobody can tell that there was to be more.
                assert message is not None
                assert message.body == whole[body_at:size]
                continue
            assert message is None or message.status == 502
            assert remote.end == "reset" or message is not None
            assert pair.baseline.outcome is Outcome.RESET


@pytest.mark.parametrize("cut", [0, 1, 20, 30, 45])
def test_a_reset_is_never_the_end_of_a_body(cut: int) -> None:
    whole = GOOD["close"] + b"x" * 20

    def resetting(service: Service, _message: oracle.Message) -> None:
        service.send(whole[:cut])
        service.reset()

    with Scene(resetting, resetting) as scene:
        remote = scene.client()
        remote.send(REQUEST)
        scene.loop.settle()
        message = got(remote)
        assert remote.end == "reset" if message is None else message.status == 502
        pair = the_pair(scene)
        assert {pair.baseline.outcome, pair.candidate.outcome} == {Outcome.RESET}


@pytest.mark.parametrize("shape", ["one read", "two reads", "byte by byte"])
@pytest.mark.parametrize("name", SURPLUS)
def test_what_stands_behind_an_answer_reaches_nobody(name: str, shape: str) -> None:
    answer, surplus = SURPLUS[name]
    parts = {
        "one read": [answer + surplus],
        "two reads": [answer, surplus],
        "byte by byte": [*pieces(answer, 1), *(pieces(surplus, 1) if len(surplus) < 5000 else [surplus])],
    }[shape]
    for ends in (False, True):
        with Scene(Script(parts, ends=ends), Script(parts, ends=ends)) as scene:
            remote = scene.client()
            remote.send(REQUEST)
            scene.loop.settle()
            message = got(remote)
            assert message is not None
            expected = oracle.read_response(answer, b"GET", ended=False)[1]
            assert (message.status, message.body) == (expected.status, expected.body)
            # Nothing more is asked of such an upstream on that connection.
            assert scene.baseline.connections[0].end
            assert scene.candidate.connections[0].end
            for number in (1, 2, 3):
                check_next_is_clean(scene)
                assert len(scene.recorder.pairs) == number + 1
            pair = the_pair(scene)
            for exchange in (pair.baseline, pair.candidate):
                assert exchange.outcome is Outcome.OK
                assert exchange.body == expected.body
            assert all(pair.candidate.body == pair.baseline.body for pair in scene.recorder.pairs)


def test_an_answer_that_comes_before_its_request_is_nobodys() -> None:
    """A connection that speaks before it is asked is not used, or what it says counts for none of the requests."""

    class Early(Service):
        pass

    evil = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    with Scene() as scene:
        assert scene.ask(NEXT).startswith(b"HTTP/1.1 200")
        for side in (scene.baseline, scene.candidate):
            (connection,) = side.connections
            connection.send(evil)
        scene.loop.settle()
        check_next_is_clean(scene)
        assert len(scene.baseline.connections) == len(scene.candidate.connections) == 2
        assert scene.recorder.pairs[-1].candidate.body == scene.recorder.pairs[-1].baseline.body


def test_a_candidate_that_drips_is_ended_by_its_deadline() -> None:
    def drip(service: Service, message: oracle.Message) -> None:
        service.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for second in range(100):
            scene.loop.call_later(second, service.send, b".")

    with Scene(echo, drip) as scene:
        remote = scene.client()
        remote.send(REQUEST)
        scene.loop.settle()
        assert got(remote) is not None
        assert not scene.recorder.pairs
        scene.loop.settle(10.5)
        pair = the_pair(scene)
        assert pair.candidate.outcome is Outcome.TIMEOUT
        assert 1 <= pair.candidate.body_size <= 12
        assert scene.candidate.connections[0].end


def test_a_baseline_that_drips_is_passed_on_as_it_comes() -> None:
    def drip(service: Service, message: oracle.Message) -> None:
        service.send(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
        for second in range(1, 31):
            scene.loop.call_later(second, service.send, b".")

    with Scene(drip) as scene:
        remote = scene.client()
        remote.send(REQUEST)
        for second in range(30):
            scene.loop.settle()
            assert remote.got.count(b".") - remote.got.count(b"1.1") == second
            scene.loop.settle(1.0)
        message = got(remote)
        assert message is not None
        assert message.body == b"." * 30
        assert the_pair(scene).baseline.outcome is Outcome.TIMEOUT


def endless(head: bytes, piece: bytes, count: int) -> Script:
    return Script([head, *[piece] * count], ends=False)


FLOODS = {
    # What a candidate sends, 100 MB each; it would go on.
    "a body with a length": endless(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", bytes(READ), 1600),
    "a body without a length": endless(b"HTTP/1.1 200 OK\r\n\r\n", bytes(READ), 1600),
    "large chunks": endless(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"fff0\r\n%b\r\n" % bytes(0xFFF0), 1600
    ),
    "headers": endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"a" * 1000 + b"\r\n", 100_000),
    "one header": endless(b"HTTP/1.1 200 OK\r\nX: ", b"a" * READ, 1600),
    "garbage": endless(b"", b"\0" * READ, 1600),
    "interim responses": endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000, 1800),
    "100 Continue": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, 1800),
}
PER_SECOND = 64 * 1024 * 1024
"""What the proxy may read in a second of an answer that nobody waits for: its budget is 50 MB, and a capture."""


@pytest.mark.parametrize("name", FLOODS)
def test_a_candidate_that_floods_costs_a_bounded_amount(name: str) -> None:
    script = FLOODS[name]
    with Scene(echo, script) as scene:
        remote = scene.client()
        remote.send(REQUEST)
        scene.loop.settle()
        assert got(remote) is not None
        (service,) = scene.candidate.connections
        assert service.transport is not None
        total = sum(map(len, script.parts))
        for _ in range(3):
            before = service.unread
            scene.loop.settle(0.25)
            assert before - service.unread <= PER_SECOND // 4
            check_next_is_clean(scene)
        assert total - service.unread <= PER_SECOND or service.end
        scene.loop.settle(10)
        pair = the_pair(scene)
        assert pair.candidate.outcome in (Outcome.TIMEOUT, Outcome.PROTOCOL)
        assert len(pair.candidate.body) <= 1024**2
        assert service.end


@pytest.mark.parametrize("side", [Side.BASELINE, Side.CANDIDATE])
async def test_a_body_of_100_mb_passes_or_is_digested_on_real_sockets(side: Side) -> None:
    size = 100 * 1024 * 1024

    async def large(
        _self: RawUpstream, _request: Received, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 65536):
            writer.write(b"x" * 65536)
            await writer.drain()
        return True

    async with upstream(large) as one, witness() as other:
        baseline, candidate = (one.url, other.url) if side is Side.BASELINE else (other.url, one.url)
        async with proxy(baseline, {"url": candidate, "deadline": "60s"}) as running:
            async with client(running.address) as (reader, writer):
                writer.write(get())
                response = await read_response(reader)
                assert len(response.body) == (size if side is Side.BASELINE else 2)
            pair = (await running.recorded(1))[0]
            exchange = pair.baseline if side is Side.BASELINE else pair.candidate
            assert (exchange.outcome, exchange.body_size, len(exchange.body)) == (Outcome.OK, size, 1024**2)
            assert len(exchange.digest) == 16


@contextlib.asynccontextmanager
async def answering_and_closing(data: bytes) -> AsyncIterator[str]:
    """An upstream that says `data` to `/first` and closes, and answers any other request. Yields its URL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(data if b"/first" in head else ANSWER)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def final(reader: asyncio.StreamReader) -> int | None:
    """The status of the final response; None where the connection was cut before its end."""
    try:
        while (response := await read_response(reader)).status < 200:
            pass
    except ConnectionResetError:
        return None
    return response.status


@pytest.mark.parametrize("bad", [Side.BASELINE, Side.CANDIDATE])
@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
async def test_a_broken_answer_is_what_it_is_on_real_sockets(case: Answer, bad: Side) -> None:
    async with answering_and_closing(case.data) as url, witness() as other:
        baseline, candidate = (url, other.url) if bad is Side.BASELINE else (other.url, url)
        async with proxy(baseline, candidate, tolerate=(ConnectionError,)) as running:
            async with client(running.address) as (reader, writer):
                writer.write(REQUEST)
                assert await final(reader) in ((502, None) if bad is Side.BASELINE else (200,))
            async with client(running.address) as (reader, writer):
                writer.write(NEXT)
                assert (await read_response(reader)).body == b"ok"
            pair = next(pair for pair in await running.recorded(2) if pair.request.target == "/first")
            # A close with bytes unread is a reset, and may take with it what was still on its way.
            outcomes = sides(pair)
            assert outcomes.pop(bad) in {*case.outcomes, Outcome.RESET}
            assert set(outcomes.values()) == {Outcome.OK}


def test_every_name_is_of_one_case() -> None:
    assert len({case.data for case in BROKEN}) == len(BROKEN)
    for answer, other in itertools.combinations(GOOD.values(), 2):
        assert answer != other
