"""Answers as broken, lying and hostile upstreams give them: names, bytes, and the outcomes that are right.

After the bytes of a case the upstream closes, in order. BROKEN must never look like a complete answer to a client.
SURPLUS are complete answers with more behind them, which belongs to nobody. GOOD are complete in every byte.
"""

from __future__ import annotations

from dataclasses import dataclass

from shadowproxy.model import Outcome


@dataclass(frozen=True)
class Answer:
    """What an upstream sends for a GET, and what may be recorded of it."""

    name: str
    data: bytes
    outcomes: tuple[Outcome, ...]


_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _OK + b"Transfer-Encoding: chunked\r\n\r\n"
_LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"
_END = b"\r\n0\r\n\r\n"
_EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"

_PROTOCOL = (Outcome.PROTOCOL,)
_EITHER = (Outcome.PROTOCOL, Outcome.RESET)
"""Which of the two depends on whether the end of the connection or of the head is met first."""

_BROKEN: dict[str, tuple[bytes, tuple[Outcome, ...]]] = {
    "nothing": (b"", (Outcome.RESET,)),
    # Status lines.
    "garbage": (b"\x00\xff\x01 nonsense\r\n\r\n", _PROTOCOL),
    "SSH": (b"SSH-2.0-OpenSSH_9.2p1\r\n", _PROTOCOL),
    "TLS alert": (b"\x15\x03\x01\x00\x02\x02\x28", _PROTOCOL),
    "HTTP/0.9": (b"<html>hello</html>\r\n\r\n", _PROTOCOL),
    "a blank line first": (b"\r\n" + _LONG + b"\r\nhello", _PROTOCOL),
    "HTTP/2.0": (b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "HTTP/2 frames": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64\r\n\r\n", _PROTOCOL),
    "HTTP/1.2": (b"HTTP/1.2 200 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "HTTP/1.10": (b"HTTP/1.10 200 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "http/1.1": (b"http/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "ICY": (b"ICY 200 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "status of two digits": (b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "status of four digits": (b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "status 000": (b"HTTP/1.1 000 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "status 099": (b"HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "status of letters": (b"HTTP/1.1 abc OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "status -200": (b"HTTP/1.1 -200 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "no status": (b"HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "two spaces before the status": (b"HTTP/1.1  200 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "tab before the status": (b"HTTP/1.1\t200 OK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "NUL in the reason": (b"HTTP/1.1 200 O\0K\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "CR in the reason": (b"HTTP/1.1 200 O\rK\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "LF in the reason": (b"HTTP/1.1 200 O\nK: 1\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "a request": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", _PROTOCOL),
    # Heads.
    "LF for every line end": (b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello", _EITHER),
    "LF behind a header": (_OK + b"X: 1\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "LF for the empty line": (_LONG + b"\nhello", _EITHER),
    "CR in a value": (_OK + b"X: 1\r2\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "CR before a header": (_OK + b"X: 1\rSet-Cookie: a=1\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "NUL in a value": (_OK + b"X: a\0b\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "NUL in a name": (_OK + b"X\0: a\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "escape in a value": (_OK + b"X: \x1b[31m\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "space before a colon": (_OK + b"X : 1\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "space before the colon of the length": (_OK + b"Content-Length : 5\r\n\r\nhello", _PROTOCOL),
    "space before the colon of the coding": (_OK + b"Transfer-Encoding : chunked\r\n\r\n5\r\nhello" + _END, _PROTOCOL),
    "no colon": (_OK + b"junk\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "empty name": (_OK + b": 1\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "space in a name": (_OK + b"X Y: 1\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "high byte in a name": (_OK + b"X\xe9: 1\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "first header behind a space": (_OK + b" X: 1\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "folded value": (_OK + b"X: 1\r\n 2\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "folded length": (_OK + b"Content-Length:\r\n 5\r\n\r\nhello", _PROTOCOL),
    "folded coding": (_OK + b"Transfer-Encoding:\r\n chunked\r\n\r\n5\r\nhello" + _END, _PROTOCOL),
    # Framing.
    "CL and TE": (_LONG + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello" + _END, _PROTOCOL),
    "TE and CL": (_OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello" + _END, _PROTOCOL),
    "CL -5": (_OK + b"Content-Length: -5\r\n\r\nhello", _PROTOCOL),
    "CL +5": (_OK + b"Content-Length: +5\r\n\r\nhello", _PROTOCOL),
    "CL 0x5": (_OK + b"Content-Length: 0x5\r\n\r\nhello", _PROTOCOL),
    "CL 5,5": (_OK + b"Content-Length: 5,5\r\n\r\nhello", _PROTOCOL),
    "CL 5 5": (_OK + b"Content-Length: 5 5\r\n\r\nhello", _PROTOCOL),
    "CL empty": (_OK + b"Content-Length:\r\n\r\nhello", _PROTOCOL),
    "CL of letters": (_OK + b"Content-Length: five\r\n\r\nhello", _PROTOCOL),
    "CL of 30 digits": (_OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\nhello", _PROTOCOL),
    "CL twice, differing": (_LONG + b"Content-Length: 2\r\n\r\nhello", _PROTOCOL),
    "CL twice, one empty": (_LONG + b"Content-Length:\r\n\r\nhello", _PROTOCOL),
    "CL longer than the body": (_OK + b"Content-Length: 50\r\n\r\nhello", (Outcome.RESET,)),
    "CL of 2^40": (_OK + b"Content-Length: 1099511627776\r\n\r\nhello", (Outcome.RESET,)),
    "TE gzip": (_OK + b"Transfer-Encoding: gzip\r\n\r\nhello", _PROTOCOL),
    "TE identity": (_OK + b"Transfer-Encoding: identity\r\n\r\nhello", _PROTOCOL),
    "TE gzip, chunked": (_OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello" + _END, _PROTOCOL),
    "TE chunked, gzip": (_OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n5\r\nhello" + _END, _PROTOCOL),
    "TE xchunked": (_OK + b"Transfer-Encoding: xchunked\r\n\r\n5\r\nhello" + _END, _PROTOCOL),
    "TE quoted": (_OK + b'Transfer-Encoding: "chunked"\r\n\r\n5\r\nhello' + _END, _PROTOCOL),
    "TE empty": (_OK + b"Transfer-Encoding:\r\n\r\n5\r\nhello" + _END, _PROTOCOL),
    "TE twice": (
        _OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello" + _END,
        _PROTOCOL,
    ),
    "TE behind a vertical tab": (_OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n5\r\nhello" + _END, _PROTOCOL),
    # Chunks.
    "chunk size of letters": (_CHUNKED + b"xyz\r\nhello" + _END, _PROTOCOL),
    "chunk size -5": (_CHUNKED + b"-5\r\nhello" + _END, _PROTOCOL),
    "chunk size 0x5": (_CHUNKED + b"0x5\r\nhello" + _END, _PROTOCOL),
    "chunk size empty": (_CHUNKED + b"\r\nhello" + _END, _PROTOCOL),
    "chunk size behind a space": (_CHUNKED + b" 5\r\nhello" + _END, _PROTOCOL),
    "chunk size of 2^64 + 5": (_CHUNKED + b"10000000000000005\r\nhello" + _END, _PROTOCOL),
    "chunk size and a bare LF": (_CHUNKED + b"5\nhello" + _END, _PROTOCOL),
    "chunk size and a bare CR": (_CHUNKED + b"5\rhello" + _END, _PROTOCOL),
    "chunk longer than it says": (_CHUNKED + b"5\r\nhello world" + _END, _PROTOCOL),
    "chunk shorter than it says": (_CHUNKED + b"f\r\nhello" + _END, _EITHER),
    "bad second chunk": (_CHUNKED + b"5\r\nhello\r\nzz\r\n", _PROTOCOL),
    "no last chunk": (_CHUNKED + b"5\r\nhello\r\n", (Outcome.RESET,)),
    "endless extension": (_CHUNKED + b"5;" + b"a" * 9000, _PROTOCOL),
    "NUL in an extension": (_CHUNKED + b"5;a=\0\r\nhello" + _END, _PROTOCOL),
    "trailer without a colon": (_CHUNKED + b"5\r\nhello\r\n0\r\njunk\r\n\r\n", _PROTOCOL),
    "trailer folded": (_CHUNKED + b"5\r\nhello\r\n0\r\nA: 1\r\n 2\r\n\r\n", _PROTOCOL),
    "trailer with a NUL": (_CHUNKED + b"5\r\nhello\r\n0\r\nA: \0\r\n\r\n", _PROTOCOL),
    "trailers without an end": (_CHUNKED + b"5\r\nhello\r\n0\r\n" + b"A: 1\r\n" * 5000, _PROTOCOL),
    # Interim responses.
    "100 and no more": (b"HTTP/1.1 100 Continue\r\n\r\n", (Outcome.RESET,)),
    "103 and garbage": (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\ngarbage\r\n\r\n", _PROTOCOL),
    "101 unasked": (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhello", _PROTOCOL),
    "101 unasked and bare": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", _PROTOCOL),
    "103 with a body": (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhello", _PROTOCOL),
    "103 with chunks": (b"HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello" + _END, _PROTOCOL),
    # Heads without bounds.
    "a long status line": (b"HTTP/1.1 200 " + b"a" * 300_000, _PROTOCOL),
    "a long value": (_OK + b"X: " + b"a" * 300_000, _PROTOCOL),
    "a long name": (_OK + b"X" * 300_000, _PROTOCOL),
    "many headers without an end": (_OK + b"X: 1\r\n" * 50_000, _PROTOCOL),
    "a header bomb with an end": (_OK + b"X: 1\r\n" * 50_000 + b"\r\n", _PROTOCOL),
    "interim responses without an end": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 2000, _PROTOCOL),
    "100 without an end": (b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, _PROTOCOL),
}  # fmt: skip

BROKEN = [Answer(name, data, outcomes) for name, (data, outcomes) in _BROKEN.items()]

SURPLUS = {
    # The whole of an answer, and what stands behind it.
    "another response": (_LONG + b"\r\nhello", _EVIL),
    "many responses": (_LONG + b"\r\nhello", _EVIL * 100),
    "garbage": (_LONG + b"\r\nhello", b"\0\xff" * 50),
    "a line end": (_LONG + b"\r\nhello", b"\r\n"),
    "a byte": (_LONG + b"\r\nhello", b"!"),
    "another response behind chunks": (_CHUNKED + b"5\r\nhello" + _END, _EVIL),
    "another response behind no body": (_OK + b"Content-Length: 0\r\n\r\n", _EVIL),
    "another response behind a 204": (b"HTTP/1.1 204 No Content\r\n\r\n", _EVIL),
    "another response behind a 304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", _EVIL),
    "a body behind a 204": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", b"hello"),
    "a body behind a 304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"hello"),
    "chunks behind a 304": (b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello" + _END),
    "half a response": (_LONG + b"\r\nhello", b"HTTP/1.1 200 OK\r\nX-"),
    "an interim response": (_LONG + b"\r\nhello", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "megabytes": (_LONG + b"\r\nhello", bytes(3_000_000)),
}  # fmt: skip

GOOD = {
    "length": _LONG + b"X: 1\r\n\r\nhello",
    "chunks": _CHUNKED + b"5;a=b\r\nhello\r\n006\r\n world" + b"\r\n0\r\nA: 1\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + _LONG + b"\r\nhello",
    "close": b"HTTP/1.0 200 OK\r\nX: 1\r\n\r\nhello",
    "empty": b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
    "not modified": b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 5\r\n\r\n',
}  # fmt: skip
