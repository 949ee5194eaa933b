"""The sans-I/O parts: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowproxy.config import Limits, Mirror
from shadowproxy.model import Outcome, headers
from shadowproxy.proxy.admission import Admission
from shadowproxy.proxy.bodies import LAST_CHUNK, BadFramingError, Body, ChunkedBody, LengthBody, chunk
from shadowproxy.proxy.capture import Capture
from shadowproxy.proxy.exchange import Observation
from shadowproxy.proxy.framing import MalformedResponseError, RefusalError, RequestRules, ResponseRules
from shadowproxy.proxy.mirror import decode_annotations
from shadowproxy.proxy.timers import Deadlines

RULES = RequestRules(Limits(), annotation_header="x-shadow-annotations", marker_header="x-shadow-request")


def pour(body: Body, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """Feed `data` in pieces; returns the payload and the surplus."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    payload = b""
    for start, stop in zip(edges, edges[1:], strict=False):  # noqa: RUF007  (pairs with their own slices)
        piece, rest = body.feed(data[start:stop])
        payload += piece
        if body.done:
            return payload, rest + data[stop:]
    return payload, b""


@given(pieces=st.lists(st.binary(min_size=1, max_size=40)), cuts=st.lists(st.integers(0, 10_000)), rest=st.binary())
def test_a_chunked_body_decodes_the_same_in_any_split(pieces: list[bytes], cuts: list[int], rest: bytes) -> None:
    body = ChunkedBody()
    data = b"".join(map(chunk, pieces)) + LAST_CHUNK
    assert pour(body, data + rest, cuts) == (b"".join(pieces), rest)
    assert body.done


@given(payload=st.binary(), cuts=st.lists(st.integers(0, 10_000)), rest=st.binary())
def test_a_body_with_a_length_ends_there(payload: bytes, cuts: list[int], rest: bytes) -> None:
    body = LengthBody(len(payload))
    if payload:
        assert pour(body, payload + rest, cuts) == (payload, rest)
    assert body.done


BAD_CHUNKED = [
    b"\n",
    b"\r\n",
    b"g\r\n",
    b"+5\r\nhello\r\n",
    b"5 \r\nhello\r\n",
    b"5\rhello",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5;a\x00b\r\nhello\r\n",
    b"0\r\nbad trailer\r\n\r\n",
    b"0\r\n folded: 1\r\n\r\n",
    b"0\r\nA: 1\n\r\n",
    b"1" * 16 + b"\r\n",
    b"5;" + b"a" * 5000,
    b"0\r\n" + b"A: 1\r\n" * 5000,
]


@pytest.mark.parametrize("data", BAD_CHUNKED)
@given(cuts=st.lists(st.integers(0, 40_000), max_size=5))
def test_bad_chunking_is_refused_in_any_split(data: bytes, cuts: list[int]) -> None:
    with pytest.raises(BadFramingError):
        pour(ChunkedBody(), data, cuts)


@given(head=st.binary(max_size=200))
def test_no_bytes_break_the_head_parsers(head: bytes) -> None:
    for start in (b"", b"GET / HTTP/1.1\r\nHost: a\r\n"):
        complete = (start + head + b"\r\n\r\n").partition(b"\r\n\r\n")[0]
        with contextlib.suppress(RefusalError):
            forwarded = RULES.parse(complete, b"127.0.0.1", lambda: "id").to(b"", b"up")
            assert forwarded.index(b"\r\n\r\n") == len(forwarded) - 4
            assert forwarded.count(b"\n") == forwarded.count(b"\r\n") == forwarded.count(b"\r")
    response = (b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n").partition(b"\r\n\r\n")[0]
    with contextlib.suppress(MalformedResponseError):
        assert b"\r\n\r\n" not in ResponseRules().parse(response).fields


def test_connection_cannot_name_what_frames_the_message() -> None:
    request = RULES.parse(
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close, Content-Length, X-Forwarded-For, Host, x.b\r\n"
        b"Content-Length: 3\r\nX.B: 1\r\nXab: 1",
        b"10.1.1.1",
        lambda: "id",
    )
    lines = dict(headers(request.to(b"", b"up").partition(b"\r\n")[2]))
    assert lines["content-length"] == "3"
    assert lines["x-forwarded-for"] == "10.1.1.1"
    assert lines["host"] == "up"
    assert "x.b" not in lines
    assert lines["xab"] == "1"
    assert request.keep_alive is False


def test_options_of_the_server_itself_and_absolute_targets() -> None:
    star = RULES.parse(b"OPTIONS * HTTP/1.1\r\nHost: a", b"p", lambda: "id")
    assert star.to(b"/v1", b"up").startswith(b"OPTIONS * HTTP/1.1\r\nHost: up\r\n")
    bare = RULES.parse(b"GET http://b?q=1 HTTP/1.1\r\nHost: a", b"p", lambda: "id")
    assert bare.target == b"/?q=1"
    assert b"X-Forwarded-Host: b\r\n" in bare.to(b"", b"up")


@given(pieces=st.lists(st.binary(max_size=30)), cap=st.integers(0, 100))
def test_a_capture_keeps_a_prefix_and_digests_the_whole(pieces: list[bytes], cap: int) -> None:
    capture = Capture(cap)
    for piece in pieces:
        capture.feed(piece)
    whole = b"".join(pieces)
    assert capture.body == whole[:cap]
    assert capture.size == len(whole)
    digest = hashlib.blake2b(whole, digest_size=16).digest()
    assert capture.digest == (digest if len(whole) > cap else b"")


def test_an_observation_measures_from_the_last_byte_sent() -> None:
    watch = Observation(10)
    watch.sent, watch.first, watch.last = 5.0, 5.25, 6.0
    exchange = watch.conclude(Outcome.OK, "")
    assert (exchange.ttfb, exchange.total) == (0.25, 1.0)
    early = Observation(10)
    early.sent, early.first, early.last = 5.0, 4.0, 4.5
    exchange = early.conclude(Outcome.OK, "")
    assert (exchange.ttfb, exchange.total) == (0.0, 0.0)
    assert watch.conclude(Outcome.RESET, "gone").total == math.inf


def decide(mirror: Mirror, **given_: object) -> str:
    facts: dict[str, object] = {
        "method": b"GET",
        "target": b"/",
        "fields": b"",
        "request_id": b"r",
        "size": 0,
        "upload": 0.0,
        **given_,
    }
    return Admission(mirror, "exp", slow_upload=0.5).refusal(**facts)  # type: ignore[arg-type]


def test_admission_names_the_first_reason() -> None:
    assert decide(Mirror()) == ""
    assert decide(Mirror(enabled=False), method=b"PUT") == "disabled"
    assert decide(Mirror(sample=0), method=b"PUT") == "method"
    assert decide(Mirror(sample=0), size=None) == "not_sampled"
    assert decide(Mirror(max_body=5), size=6) == "request_too_large"
    assert decide(Mirror(max_body=5), size=5) == ""
    assert decide(Mirror(), size=None) == "request_too_large"
    assert decide(Mirror(), size=5, upload=0.6) == "slow_upload"


def test_sampling_is_a_share_a_function_of_the_key_and_independent_between_experiments() -> None:
    mirror = Mirror(sample=0.3, sample_by="header:X-Account")
    one, other = (Admission(mirror, name, slow_upload=1) for name in ("one", "other"))

    def within(admission: Admission, key: int, request_id: bytes) -> bool:
        fields = b"\r\nA: 1\r\nx-account:  %d \r\nB: 2" % key
        return admission.refusal(b"GET", b"/", fields, request_id, 0, 0.0) == ""

    picked = [within(one, key, b"a") for key in range(4000)]
    assert 0.27 < sum(picked) / 4000 < 0.33
    assert picked == [within(one, key, b"b") for key in range(4000)]
    both = sum(a and within(other, key, b"a") for key, a in enumerate(picked))
    assert 0.06 < both / 4000 < 0.12


@pytest.mark.parametrize(
    ("value", "decoded"),
    [(b"", b""), (b"e30", b"{}"), (b"e30=", b"{}"), (b"-_-_", b"\xfb\xff\xbf"), (b"!!", b""), (b"a", b"")],
)
def test_annotations(value: bytes, decoded: bytes) -> None:
    assert decode_annotations(value) == decoded


async def test_deadlines_expire_in_order_and_only_what_was_not_discarded() -> None:
    expired: list[str] = []
    done = asyncio.Event()

    def expire(item: str) -> None:
        expired.append(item)
        if item == "last":
            done.set()

    deadlines: Deadlines[str] = Deadlines(asyncio.get_running_loop(), 0.02, expire)
    for item in ("a", "b", "c"):
        deadlines.add(item)
    deadlines.discard("b")
    deadlines.add("a")
    deadlines.add("last")
    async with asyncio.timeout(5):
        await done.wait()
    assert expired == ["c", "a", "last"]
    assert len(deadlines) == 0


async def test_an_expiry_that_starts_anew_does_not_put_off_the_others() -> None:
    loop = asyncio.get_running_loop()
    happened: list[str] = []
    done = asyncio.Event()

    def expire(item: str) -> None:
        happened.append(item)
        if item == "again" and happened.count("again") == 1:
            deadlines.add("again")
        elif item == "again":
            done.set()

    deadlines: Deadlines[str] = Deadlines(loop, 0.2, expire)
    start = loop.time()
    deadlines.add("again")
    loop.call_at(start + 0.1, deadlines.add, "other")
    # Between the two that are due at 0.3 and 0.4: the loop keeps their order however late it is.
    loop.call_at(start + 0.37, happened.append, "marker")
    async with asyncio.timeout(5):
        await done.wait()
    assert happened == ["again", "other", "marker", "again"]
