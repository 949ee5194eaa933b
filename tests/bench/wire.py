"""What client and upstream say to each other: every request has a number, and its answer repeats it.

So a client can tell that it got the whole of its own answer, from the baseline. Lengths are fixed: a request is 0.9
KB, an answer 2.2 KB.
"""

from __future__ import annotations

import re

_REQUEST_BODY = 760
_ANSWER_BODY = 2048
_DIGITS = 9
_BEGINS = b'{"n":"'

BASELINE = "baseline"
CANDIDATE = "candidate"

_PADDING = (b'","items":[' + b'{"id":"item-0001","score":0.8125},' * 70)[: _ANSWER_BODY - 32]
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def request(number: int, target: str = "/rank") -> bytes:
    """Request `number`, head and body."""
    body = (_BEGINS + b"%0*d" % (_DIGITS, number) + b'","user":"').ljust(_REQUEST_BODY - 2, b"u") + b'"}'
    return (
        b"POST %b HTTP/1.1\r\nHost: rank.test\r\nUser-Agent: soak\r\nAccept: application/json\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (target.encode(), len(body), body)
    )


def number_of(body: bytes) -> bytes:
    """The digits of a request's number, from its body."""
    return body[len(_BEGINS) : len(_BEGINS) + _DIGITS]


def answer(digits: bytes, side: str) -> bytes:
    """The whole answer of one side to the request whose number is written in `digits`."""
    body = (_BEGINS + digits + b'","side":"' + side.encode() + _PADDING).ljust(_ANSWER_BODY - 2, b" ") + b"]}"
    return b"HTTP/1.1 200 OK\r\nServer: upstream\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def expected(number: int) -> bytes:
    """The body that a client must get."""
    return answer(b"%0*d" % (_DIGITS, number), BASELINE).partition(b"\r\n\r\n")[2]


def length(head: bytes) -> int:
    """What Content-Length says, 0 without one."""
    found = _LENGTH.search(head)
    return int(found[1]) if found else 0
