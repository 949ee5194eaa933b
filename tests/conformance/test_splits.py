"""Any split of any stream of requests and answers gives the same: to the client, to the upstreams, and in the record.

What may depend on the split, and is taken out before comparing: how a streamed body is cut into chunks, whether the
client had to be told to continue, and how much of an answer that will never be complete was passed on before that was
known (a whole error instead of it, if nothing was).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from conformance import oracle
from conformance.network import Remote
from conformance.requests_corpus import ACCEPTED, REFUSED
from conformance.responses_corpus import BROKEN, GOOD, SURPLUS
from conformance.scene import MAX_BODY, Scene, Service, cut, echo, feed, pieces
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowproxy.model import Exchange, Outcome

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LONG = MAX_BODY + 20

# Requests

_token = st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"patch"])
_target = st.sampled_from([b"/", b"/a?b=c", b"//x;y", b"http://other:1/z?q", b"/%2F%zz", b"/\xc3\xa9"])
_header = st.sampled_from(
    [
        *(b"X: 1", b"Y:", b"Cookie: a=b", b"X-Request-Id: mine", b"Via: 1.0 edge", b"X-Forwarded-For: 10.0.0.1"),
        *(b"Connection: X", b"TE: trailers", b"Upgrade: h2c", b"Accept:  */*  ", b"Expect: 100-continue", b"X: \xe9"),
        *(b"X-Shadow-Annotations: eyJhIjoxfQ", b"X-Shadow-Request: 1", b"Connection: keep-alive, Y"),
    ]
)
_body = st.binary(max_size=LONG)


@st.composite
def good_requests(draw: st.DrawFn) -> bytes:
    """One request that is to be answered, in any framing, on a connection that is to be kept."""
    method, target, headers = draw(_token), draw(_target), draw(st.lists(_header, max_size=4, unique=True))
    body = draw(_body)
    lines = [b"Host: a", *headers]
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "none":
        payload = b""
    elif framing == "length":
        lines.insert(draw(st.integers(0, len(lines))), b"Content-Length: %d" % len(body))
        payload = body
    else:
        lines.insert(draw(st.integers(0, len(lines))), b"Transfer-Encoding: chunked")
        parts = cut(body, draw(st.lists(st.integers(0, LONG), max_size=3)))
        size = draw(st.sampled_from([b"%x\r\n", b"%X;a=b\r\n", b"00%x \t; q\r\n"]))
        trailers = draw(st.sampled_from([b"", b"T: 1\r\n", b"Content-Length: 9\r\n"]))
        payload = b"".join(size % len(part) + part + b"\r\n" for part in parts if part) + b"0\r\n" + trailers + b"\r\n"
    blank = draw(st.sampled_from([b"", b"", b"\r\n"]))
    return (
        blank
        + b"%b %b HTTP/1.1\r\n" % (method, target)
        + b"".join(line + b"\r\n" for line in lines)
        + b"\r\n"
        + payload
    )


_last = st.one_of(
    st.just(b""),
    st.sampled_from([case.data for case in REFUSED if len(case.data) < 400]),
    st.sampled_from([data for data, _ in ACCEPTED.values()]),
    good_requests().map(lambda data: data.replace(b"HTTP/1.1", b"HTTP/1.0", 1)),
    good_requests().map(lambda data: data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)),
    st.tuples(good_requests(), st.integers(1, 100)).map(lambda pair: pair[0][: -pair[1]]),
    st.tuples(good_requests(), st.integers(0, 300), st.binary(max_size=3)).map(
        lambda triple: triple[0][: triple[1]] + triple[2] + triple[0][triple[1] :]
    ),
    st.binary(max_size=60),
)


@dataclass(frozen=True)
class Outcomes:
    """All that came of one stream of requests."""

    client: bytes
    ended: bool
    baseline: list[Any]
    candidate: list[str]
    record: list[str]
    skipped: Counter[str]


def _message(message: oracle.Message) -> Any:
    return message.first, message.second, message.headers, message.body


def _exchange(exchange: Exchange | None) -> Any:
    return exchange and (exchange.outcome, exchange.status, exchange.head, exchange.body, exchange.body_size)


def _asked(parts: list[bytes], *, settle: bool) -> Outcomes:
    with Scene() as scene:
        remote = scene.client()
        feed(scene, remote, parts, settle=settle)
        # Past every timeout of the client's and of the upstreams'.
        scene.loop.settle(200)
        record = [
            (pair.id, pair.request, _exchange(pair.baseline), _exchange(pair.candidate), pair.annotations)
            for pair in scene.recorder.pairs
        ]
        # A streamed body may prove bad when part of it has gone on: such a request is begun, accounted for, and never
        # complete. In another split it was refused before.
        skipped = Counter(scene.recorder.ledger.snapshot().skipped)
        skipped["request_too_large"] -= len(scene.baseline.partial)
        return Outcomes(
            bytes(remote.got).replace(CONTINUE, b""),
            bool(remote.end),
            [_message(message) for message in scene.baseline.requests],
            # Copies are under way at once, each on a connection of its own: their order is theirs.
            sorted(map(repr, map(_message, scene.candidate.requests))),
            sorted(map(repr, record)),
            skipped,
        )


def _agree(stream: bytes, places: list[int]) -> Outcomes:
    whole = _asked([stream] if stream else [], settle=True)
    for parts, settle in (
        (pieces(stream, 1), True),
        (pieces(stream, 1), False),
        (cut(stream, places), True),
        (cut(stream, places), False),
    ):
        other = _asked([part for part in parts if part], settle=settle)
        assert other == whole
    return whole


@settings(max_examples=150)
@given(many=st.lists(good_requests(), max_size=4), last=_last, places=st.lists(st.integers(0, 2000), max_size=10))
def test_any_split_of_requests_gives_the_same(many: list[bytes], last: bytes, places: list[int]) -> None:
    outcomes = _agree(b"".join(many) + last, places)
    assert len(outcomes.baseline) >= len(many)
    for ours, sent in zip(outcomes.baseline, many, strict=False):
        assert ours[3] == oracle.read_request(sent).body


# Answers

_status = st.sampled_from([b"200 OK", b"404", b"204 None", b"304 Same", b"500 ", b"299 \xe9"])
_interim = st.sampled_from([b"", b"", b"HTTP/1.1 103 Hints\r\nLink: a\r\n\r\n", b"HTTP/1.1 100 Go\r\n\r\n"])
_field = st.sampled_from(
    [
        b"X: 1",
        b"Set-Cookie: a",
        b"Set-Cookie: b",
        b"Connection: X",
        b"Connection: close",
        b"Keep-Alive: 5",
        b"Date: now",
    ]
)


@st.composite
def good_answers(draw: st.DrawFn) -> bytes:
    """One complete answer, in any framing."""
    body = draw(st.binary(max_size=150))
    lines = draw(st.lists(_field, max_size=4))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    payload = body
    if framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        parts = [part for part in cut(body, draw(st.lists(st.integers(0, 150), max_size=3))) if part]
        payload = b"".join(b"%x;e\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\nT: 1\r\n\r\n"
    status, version = draw(_status), draw(st.sampled_from([b"1", b"1", b"0"]))
    if status[:3] in (b"204", b"304"):
        payload = b""
    head = b"HTTP/1.%b %b\r\n" % (version, status) + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
    return draw(_interim) + draw(_interim) + head + payload


_answer = st.one_of(
    good_answers(),
    good_answers(),
    st.sampled_from([case.data for case in BROKEN if len(case.data) < 400]),
    st.sampled_from(list(GOOD.values())),
    st.sampled_from([whole + more for whole, more in SURPLUS.values() if len(more) < 400]),
    st.tuples(good_answers(), st.integers(1, 200)).map(lambda pair: pair[0][: -pair[1]]),
    st.tuples(good_answers(), st.integers(0, 300), st.binary(max_size=3)).map(
        lambda triple: triple[0][: triple[1]] + triple[2] + triple[0][triple[1] :]
    ),
)


def _seen(remote: Remote, method: bytes) -> Any:
    """What a client makes of it: an answer, or none."""
    try:
        interim, final = oracle.read_response(bytes(remote.got), method, ended=remote.end == "closed")
    except oracle.IncompleteError:
        return None
    assert final.size == len(remote.got)
    if final.status in (502, 504):
        return None
    return [_message(message) for message in interim], _message(final)


def _answered(parts: list[bytes], request: bytes, end: str, *, by_candidate: bool) -> Any:
    def script(service: Service, message: oracle.Message) -> None:
        if message.second != b"/first":
            echo(service, message)
            return
        for part in parts:
            service.send(part)
        if end == "eof":
            service.send_eof()
        elif end == "reset":
            service.reset()

    with Scene(*((echo, script) if by_candidate else (script, echo)), capture=100) as scene:
        remote = scene.client()
        remote.send(request)
        scene.loop.settle(100)
        (pair,) = scene.recorder.pairs
        exchange = pair.candidate if by_candidate else pair.baseline
        # Of what failed, how much had come is a matter of the split; how it failed is not.
        recorded = _exchange(exchange) if exchange.outcome is Outcome.OK else (exchange.outcome, exchange.detail)
        other = _exchange(pair.baseline if by_candidate else pair.candidate)
        follow = scene.ask(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        return _seen(remote, request.partition(b" ")[0]), recorded, other, follow


@pytest.mark.parametrize("by_candidate", [False, True])
@settings(max_examples=150)
@given(
    answer=_answer,
    request=st.sampled_from([b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /first HTTP/1.0\r\n\r\n"]),
    end=st.sampled_from(["eof", "eof", "reset", ""]),
    places=st.lists(st.integers(0, 1000), max_size=8),
)
def test_any_split_of_an_answer_gives_the_same(
    by_candidate: bool, answer: bytes, request: bytes, end: str, places: list[int]
) -> None:
    whole = _answered([answer] if answer else [], request, end, by_candidate=by_candidate)
    for parts in (pieces(answer, 1), cut(answer, places)):
        other = _answered([part for part in parts if part], request, end, by_candidate=by_candidate)
        assert other == whole
