"""Any bytes from an upstream: a client gets what a strict reader finds in them or an error, and a candidate's, never.

`check` judges one input, whoever made it; `fuzzing` runs it under atheris, which searches for inputs by coverage.

The first byte of an input says how the rest is cut into reads (see `scene.pieces`), the second who says it to which
request, and how it ends.
"""

from __future__ import annotations

from collections.abc import Iterable

from conformance import oracle
from conformance.network import Remote
from conformance.responses_corpus import BROKEN, GOOD, SURPLUS
from conformance.scene import Scene, Service, echo, echo_body, pieces

from shadowproxy.model import Outcome, Pair

REQUESTS = (
    b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /first HTTP/1.0\r\n\r\n",
    b"HEAD /first HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
)
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
_ERRORS = (502, 504)


def check(data: bytes) -> None:
    """Let an upstream say one input, and judge all that comes of it. Raises AssertionError."""
    if len(data) < 2:
        return
    mode, how, said = data[0], data[1], data[2:]
    request = REQUESTS[how & 3]
    by_candidate = bool(how & 4)
    end = ("", "eof", "reset", "eof")[how >> 3 & 3]
    parts = pieces(said, mode & 63)

    def script(service: Service, message: oracle.Message) -> None:
        if message.second != b"/first":
            echo(service, message)
            return
        for part in parts:
            service.send(part)
        if end == "eof":
            service.send_eof()
        elif end:
            service.reset()

    sides = (echo, script) if by_candidate else (script, echo)
    with Scene(*sides, mirror={"methods": ["GET", "HEAD", "POST"]}, capture=100) as scene:
        remote = scene.client()
        remote.send(request)
        scene.loop.settle(30)
        method = request.partition(b" ")[0]
        (pair,) = scene.recorder.pairs
        right = _whole(said, method, ended=end == "eof")
        if by_candidate:
            _check_unharmed(remote, request, pair)
            _check_recorded(pair.candidate.outcome, pair.candidate.body, pair.candidate.body_size, right)
        else:
            _check_client(remote, request, method, right, pair)
            _check_recorded(pair.baseline.outcome, pair.baseline.body, pair.baseline.body_size, right)
        # What was said is of no other request, on whichever connection.
        for _ in range(2):
            answer = scene.ask(NEXT)
            assert answer.endswith(b"\r\n\r\n" + echo_body(oracle.read_request(NEXT))), answer
        assert scene.recorder.pairs[-1].candidate.body == scene.recorder.pairs[-1].baseline.body


def _whole(said: bytes, method: bytes, *, ended: bool) -> oracle.Message | None:
    try:
        return oracle.read_response(said, method, ended=ended)[1]
    except (oracle.IncompleteError, oracle.ViolationError):
        return None


def _check_unharmed(remote: Remote, request: bytes, pair: Pair) -> None:
    message = oracle.read_request(request)
    _, answer = oracle.read_response(bytes(remote.got), message.first, ended=True)
    assert answer.status == 200
    assert answer.body == (b"" if message.first == b"HEAD" else echo_body(message))
    assert answer.size == len(remote.got)
    assert pair.baseline.outcome is Outcome.OK


def _check_client(remote: Remote, request: bytes, method: bytes, right: oracle.Message | None, pair: Pair) -> None:
    got = bytes(remote.got)
    assert b"\r\n\r\n" not in got or got.startswith(b"HTTP/1.1 ")
    try:
        interim, answer = oracle.read_response(got, method, ended=remote.end == "closed")
    except oracle.IncompleteError:
        # Cut off, where the client can see it; or still under way, where nobody has ended it.
        assert remote.end == "reset" or (not remote.end and pair.baseline.outcome is Outcome.TIMEOUT), (got, remote.end)
        return
    assert answer.size == len(got)
    assert not interim or b"HTTP/1.0" not in request
    if right is None:
        assert answer.status in _ERRORS, (got, remote.end)
        assert pair.baseline.outcome is not Outcome.OK
        return
    if pair.baseline.outcome is Outcome.OK:
        assert (answer.status, answer.body) == (right.status, right.body)
        for name in (b"set-cookie", b"etag", b"x"):
            if name not in b"".join(right.get(b"connection")).lower():
                assert answer.get(name) == right.get(name)
    else:
        assert answer.status in _ERRORS


def _check_recorded(outcome: Outcome, body: bytes, size: int, right: oracle.Message | None) -> None:
    assert outcome in (Outcome.OK, Outcome.RESET, Outcome.PROTOCOL, Outcome.TIMEOUT)
    assert len(body) <= 100
    if outcome is Outcome.OK:
        assert right is not None
        assert (body, size) == (right.body[:100], len(right.body))


def seeds() -> Iterable[tuple[str, bytes]]:
    """The corpora as inputs."""
    for number, case in enumerate(BROKEN):
        for mode, how in ((0, 8), (2, 12), (1, 13 + number % 3)):
            yield case.name, bytes([mode, how]) + case.data[:5000]
    for name, (answer, surplus) in SURPLUS.items():
        for mode, how in ((0, 0), (1, 4), (3, 8)):
            yield name, bytes([mode, how]) + answer + surplus[:2000]
    for name, answer in GOOD.items():
        for how in range(32):
            yield name, bytes([how & 3, how]) + answer
