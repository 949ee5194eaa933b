"""Any bytes from a client: what is forwarded is what a strict reader finds in them, and nothing else happens.

`check` judges one input, whoever made it; `fuzzing` runs it under atheris, which searches for inputs by coverage.

The first byte of an input says how the rest is cut into reads (see `scene.pieces`), and whether the proxy does all it
can between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from conformance import oracle
from conformance.requests_corpus import ACCEPTED, INCOMPLETE, OVERSIZED, REFUSED, SENTINEL
from conformance.scene import Scene, echo_body, feed, pieces

LIMITS = {"target": 200, "header_bytes": 1000, "header_count": 20, "body": 2000}


def check(data: bytes) -> None:
    """Feed one input to a proxy as a client would, and judge all that comes of it. Raises AssertionError."""
    if not data:
        return
    mode, stream = data[0], data[1:]
    with Scene(limits=LIMITS) as scene:
        remote = scene.client()
        feed(scene, remote, pieces(stream, mode & 63), settle=mode < 128)
        if mode & 64:
            remote.send_eof()
        scene.loop.settle(200)
        _judge(scene, stream, bytes(remote.got), remote.end)


def _judge(scene: Scene, stream: bytes, got: bytes, end: str) -> None:
    baseline, candidate = scene.baseline.requests, scene.candidate.requests
    # Sound: the strict reader finds the same requests at the beginning of the stream.
    found, _ = oracle.read_requests(stream)
    assert len(baseline) <= len(found), (baseline, found)
    for ours, theirs in zip(baseline, found, strict=False):
        assert same(ours, theirs), (ours, theirs)
    # Nothing behind a request that was begun and not completed, and its connection is not used again.
    assert len(scene.baseline.partial) <= 1
    assert not scene.candidate.partial
    for connection in scene.baseline.partial:
        assert connection.end
    account = scene.recorder.ledger.snapshot()
    assert len(baseline) <= account.requests <= len(baseline) + 1
    # The candidate has its copies, each equal and marked. They are under way at once: their order is theirs.
    assert len(candidate) == account.eligible
    assert not Counter(map(essence, candidate)) - Counter(map(essence, baseline))
    assert all(copy.get(b"x-shadow-request") == [b"1"] for copy in candidate)
    assert not any(one.get(b"x-shadow-request") for one in baseline)
    # The client has an answer to each, in order, and at most one refusal, after which the connection ends.
    at = 0
    answered = 0
    while at < len(got):
        method = baseline[answered].first if answered < len(baseline) else b"GET"
        try:
            _, final = oracle.read_response(got[at:], method, ended=True)
        except oracle.IncompleteError:
            # Where HEAD is refused, a length without a body.
            assert answered == len(baseline)
            _, final = oracle.read_response(got[at:], b"HEAD", ended=True)
        at += final.size
        if answered < len(baseline) and final.status == 200:
            assert final.body == (b"" if method == b"HEAD" else echo_body(baseline[answered]))
            answered += 1
            continue
        assert final.status in (400, 408, 413, 414, 417, 431, 501, 505), final
        assert at == len(got)
        assert end
    assert answered == len(baseline) or end == "reset"


def same(forwarded: oracle.Message, sent: oracle.Message) -> bool:
    """Whether a request as it went upstream is the one that the client sent."""
    return (forwarded.first, forwarded.body) == (sent.first, sent.body) and sent.second.endswith(
        forwarded.second.removeprefix(b"/") if b"://" in sent.second else forwarded.second
    )


def essence(message: oracle.Message) -> tuple[bytes, ...]:
    """What a request and its copy have in common."""
    return message.first, message.second, message.body, *message.get(b"x-request-id")


def seeds() -> Iterable[tuple[str, bytes]]:
    """The corpora as inputs."""
    for case in [*REFUSED, *OVERSIZED, *INCOMPLETE]:
        for mode in (0, 2, 129) if len(case.data) < 1000 else (0,):
            yield case.name, bytes([mode]) + case.data + SENTINEL
    for name, (data, _) in ACCEPTED.items():
        for mode in (0, 1, 2, 192):
            yield name, bytes([mode]) + data + SENTINEL
