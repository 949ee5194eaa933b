"""What the corpora, the properties and the fuzzers of this folder have found, each as the smallest case of its own."""

from __future__ import annotations

import pytest
from conformance import oracle
from conformance.scene import Scene, Service, echo

from shadowproxy.model import Outcome, Side


def test_a_blank_line_in_two_reads_does_not_begin_a_head() -> None:
    """It armed the timer of the head, which then cut an idle client, or one whose answer was under way."""

    def late(service: Service, message: oracle.Message) -> None:
        service.upstream.answer = echo
        scene.loop.call_later(8.0, echo, service, message)

    with Scene(late) as scene:
        remote = scene.client()
        for part in (b"\r", b"\n"):
            remote.send(part)
            scene.loop.settle(5.0)
        assert not remote.got
        remote.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        scene.loop.settle(9.0)
        assert remote.got.startswith(b"HTTP/1.1 200 OK\r\n")
        scene.loop.settle(60.0)
        assert not remote.end
        assert remote.got.count(b"HTTP/1.1") == 1


def test_the_length_of_a_request_line_is_limited_in_one_read_as_in_two() -> None:
    for parts in ([b"G" * 9000 + b" / HTTP/1.1\r\nHost: a\r\n\r\n"], [b"G" * 9000, b" / HTTP/1.1\r\nHost: a\r\n\r\n"]):
        with Scene() as scene:
            remote = scene.client()
            for part in parts:
                remote.send(part)
                scene.loop.settle()
            assert remote.got.startswith(b"HTTP/1.1 414 ")
            assert not scene.baseline.connections


def test_a_client_that_stalls_in_its_streamed_body_is_not_held_against_the_baseline() -> None:
    """It was answered 504 after the baseline's deadline, and counted as a timeout of the baseline."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
    with Scene() as scene:
        remote = scene.client()
        remote.send(head + b"x" * 60)
        scene.loop.settle(60.0)
        assert not remote.got
        scene.loop.settle(20.0)
        assert remote.got.startswith(b"HTTP/1.1 408 ")
        assert Outcome.TIMEOUT not in {outcome for _, outcome in scene.observed}


def test_a_baseline_that_takes_no_more_of_a_streamed_body_has_its_deadline() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
    with Scene() as scene:
        scene.baseline.room = 1000
        remote = scene.client()
        remote.send(head + b"x" * 900_000)
        scene.loop.settle(11.0)
        assert remote.got.startswith(b"HTTP/1.1 504 ")
        assert scene.observed == [(Side.BASELINE, Outcome.TIMEOUT)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"X-Request-Id: a\r\nX-Request-Id: b", b"a"),
        (b"X-Request-Id: a\r\nx-request-id: b c", b"a"),
        (b"X-Request-Id: a b\r\nX-Request-Id: c", b"made-1"),
        (b"Connection: X-Request-Id\r\nX-Request-Id: a", b"a"),
        (b"Connection: X-Request-Id", b"made-1"),
    ],
)
def test_upstreams_get_one_request_id_and_it_is_the_pairs(lines: bytes, expected: bytes) -> None:
    """Of two both went upstream, and a third was recorded; one that Connection named was recorded and not sent."""
    with Scene() as scene:
        assert scene.ask(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        for upstream in (scene.baseline, scene.candidate):
            assert upstream.requests[0].get(b"x-request-id") == [expected]
        assert scene.recorder.pairs[0].id == expected.decode()


def test_what_the_proxy_says_of_a_client_cannot_be_named_away() -> None:
    with Scene() as scene:
        lines = b"Connection: X-Forwarded-Proto, X-Forwarded-Host, X-Forwarded-For, Via\r\nX-Forwarded-Proto: https"
        scene.ask(b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n")
        request = scene.baseline.requests[0]
        assert request.get(b"x-forwarded-proto") == [b"https"]
        assert request.get(b"x-forwarded-host") == [b"a"]
        assert request.get(b"x-forwarded-for") == [b"127.0.0.1"]
        assert request.get(b"via") == [b"1.1 shadowproxy"]


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "piece", [(b"1;" + b"a" * 4000 + b"\r\nx\r\n") * 16, b"1\r\nx\r\n" * 10_000], ids=["extensions", "one byte each"]
)
def test_a_candidates_answer_that_is_mostly_framing_is_given_up(piece: bytes) -> None:
    """1 MB in chunks of a byte is 6 MB to read and a million steps of the decoder: seconds of the loop's time."""
    head = CHUNKED + b"%x\r\n%b\r\n" % (2000, bytes(2000))

    def flood(service: Service, _message: oracle.Message) -> None:
        for part in [head, *[piece] * (2_000_000 // len(piece))]:
            service.send(part)

    with Scene(echo, flood, capture=1000) as scene:
        scene.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        (pair,) = scene.recorder.pairs
        assert (pair.candidate.outcome, pair.candidate.detail) == (
            Outcome.PROTOCOL,
            "the chunked body is mostly framing",
        )
        assert pair.candidate.body_size < 10_000
