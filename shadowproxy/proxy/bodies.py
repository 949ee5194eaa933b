"""Where a body ends: sans-I/O decoders for the three framings of HTTP/1.1 (RFC 9112, section 6).

A decoder takes bytes as they come, in any split, and gives (payload, rest): the body's own bytes, and what follows the
message. `done` says that the body is complete. The chunked one is this project's own, as llhttp does not tell at which
byte a message ended, which a proxy needs to keep pipelined requests apart and to notice surplus after a response.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER_LINE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_PLAIN_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,15}")
MAX_LINE: Final = 4096
"""Longest chunk-size line with its extensions."""
MAX_TRAILERS: Final = 16384
"""Largest trailer section."""


class BadFramingError(Exception):
    """The body's framing is broken; nothing after it can be trusted."""


class Body(Protocol):
    """A body that is being read."""

    done: bool

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Take bytes; return (payload, rest). Raises BadFramingError."""
        ...


class LengthBody:
    """A body of known size; size 0 is a message without one."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See `Body`."""
        size = len(data)
        if size < self.left:
            self.left -= size
            return data, b""
        if size == self.left:
            payload, rest = data, b""
        else:
            payload, rest = data[: self.left], data[self.left :]
        self.left = 0
        self.done = True
        return payload, rest


class CloseBody:
    """A body that ends with its connection."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See `Body`."""
        return data, b""


FREE_FRAMING: Final = 16 * 1024
"""Bytes of framing that a lean body may have whatever it frames."""
LEAN: Final = 2
"""Bytes of framing for each byte of a lean body, at most."""


class ChunkedBody:
    """Chunked transfer coding, strictly: CRLF only, plain hexadecimal sizes, bounded extensions and trailers.

    `lean` refuses a body that is mostly framing too: nobody waits for a shadow side's answer, and one in chunks of a
    byte would take the loop's time from those who wait for theirs.
    """

    __slots__ = ("_framing", "_lean", "_left", "_line", "_payload", "_step", "_trailers", "done")

    def __init__(self, *, lean: bool = False) -> None:
        self.done = False
        self._lean = lean
        self._framing = 0
        self._payload = 0
        self._step = self._size
        self._line = b""
        self._left = 0
        self._trailers = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """See `Body`."""
        pieces: list[bytes] = []
        at = 0
        while at < len(data) and not self.done:
            at = self._step(data, at, pieces)
            if self._lean and self._framing > FREE_FRAMING + LEAN * self._payload:
                raise BadFramingError("the chunked body is mostly framing")
        payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return payload, data[at:]

    def _whole_chunks(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Chunks that lie in `data` whole and without extensions, up to a hundred, in one go; returns what is next."""
        # No slice begins beyond the data: Python would give nothing, what is compiled an error.
        size = len(data)
        for _ in range(100):
            end = data.find(b"\r\n", at, at + 17)
            if end < 0:
                return at
            size_line = data[at:end]
            if not _PLAIN_SIZE.fullmatch(size_line):
                return at
            start = end + 2
            stop = start + int(size_line, 16)
            if stop == start or stop + 2 > size or data[stop : stop + 2] != b"\r\n":
                return at
            pieces.append(data[start:stop])
            self._payload += stop - start
            self._framing += start - at + 2
            at = stop + 2
        return at

    def _take_line(self, data: bytes, at: int) -> tuple[bytes | None, int]:
        """The line from `at` on with what was kept of it, or None while it is incomplete."""
        end = data.find(b"\n", at)
        stop = len(data) if end < 0 else end + 1
        line = self._line + data[at:stop]
        if len(line) > MAX_LINE:
            raise BadFramingError("a line of the chunked body is too long")
        if end < 0:
            if b"\r" in line[:-1]:
                raise BadFramingError("a line of the chunked body does not end with CRLF")
            self._line = line
            return None, stop
        self._line = b""
        if line[-2:] != b"\r\n" or b"\r" in line[:-2]:
            raise BadFramingError("a line of the chunked body does not end with CRLF")
        return line[:-2], stop

    def _size(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        if not self._line:
            whole = self._whole_chunks(data, at, pieces)
            if whole > at:
                return whole
        line, at = self._take_line(data, at)
        if line is None:
            # A wrong first byte is refused at once, not when the line ends: nobody may be waiting to end it.
            if self._line[:1] not in b"0123456789abcdefABCDEF":
                raise BadFramingError("a chunk size is not hexadecimal")
            return at
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise BadFramingError("a chunk size is not hexadecimal")
        self._framing += len(line) + 4
        self._left = int(match[1], 16)
        self._step = self._data if self._left else self._trailer
        return at

    def _data(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        piece = data[at : at + self._left]
        pieces.append(piece)
        self._payload += len(piece)
        self._left -= len(piece)
        if not self._left:
            self._step = self._data_end
        return at + len(piece)

    def _data_end(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        taken = data[at : at + 2 - len(self._line)]
        self._line += taken
        if not b"\r\n".startswith(self._line):
            raise BadFramingError("a chunk is longer than its size says")
        if len(self._line) == 2:
            self._line = b""
            self._step = self._size
        return at + len(taken)

    def _trailer(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        line, at = self._take_line(data, at)
        if line is None:
            return at
        if not line:
            self.done = True
            return at
        self._trailers += len(line)
        if self._trailers > MAX_TRAILERS:
            raise BadFramingError("the trailer section is too large")
        if not _TRAILER_LINE.fullmatch(line):
            raise BadFramingError("a trailer field is malformed")
        return at


def chunk(payload: bytes) -> bytes:
    """`payload`, not empty, as one chunk.

    >>> chunk(b"hello")
    b'5\\r\\nhello\\r\\n'
    """
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK: Final = b"0\r\n\r\n"
