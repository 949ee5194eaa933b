"""HTTP/1.1 read a second time, by nothing but RFC 9112: the judge of what went upstream and of what the client got.

It shares no code with the proxy, takes whole byte strings and prefers plain loops to speed. It accepts at least what
the proxy accepts and nothing that two receivers could read in two ways. h11 is asked too (`agrees`), where it can be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import h11

_REQUEST = re.compile(rb"([!#-'*+.^-z|~0-9A-Z-]+) ([\x21-\x7e\x80-\xff]+) HTTP/1\.([01])")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_FIELD = re.compile(rb"([!#-'*+.^-z|~0-9A-Z-]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_CHUNK = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")


class ViolationError(Exception):
    """The bytes are not a message that all receivers read alike."""


class IncompleteError(Exception):
    """The bytes are the beginning of a message."""


@dataclass(frozen=True)
class Message:
    """One message and where it ended. `first` and `second` are method and target, or status and reason."""

    first: bytes
    second: bytes
    minor: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    size: int
    closed: bool = False
    """Whether its end is that of the connection."""

    @property
    def status(self) -> int:
        return int(self.first)

    def get(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name]


def _head(data: bytes, what: re.Pattern[bytes]) -> tuple[re.Match[bytes], tuple[tuple[bytes, bytes], ...], int]:
    end = data.find(b"\r\n\r\n")
    if end < 0:
        raise IncompleteError
    line, *lines = data[:end].split(b"\r\n")
    start = what.fullmatch(line)
    if start is None:
        raise ViolationError(f"start line {line[:100]!r}")
    headers = []
    for one in lines:
        field = _FIELD.fullmatch(one)
        if field is None:
            raise ViolationError(f"header line {one[:100]!r}")
        headers.append((field[1], field[2].rstrip(b" \t")))
    return start, tuple(headers), end + 4


def _framing(headers: tuple[tuple[bytes, bytes], ...]) -> int | str | None:
    lengths = [value for name, value in headers if name.lower() == b"content-length"]
    codings = [value for name, value in headers if name.lower() == b"transfer-encoding"]
    if codings:
        if lengths:
            raise ViolationError("two framings")
        if [coding.lower() for coding in codings] != [b"chunked"]:
            raise ViolationError(f"codings {codings!r}")
        return "chunked"
    if not lengths:
        return None
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]+", lengths[0]):
        raise ViolationError(f"lengths {lengths!r}")
    return int(lengths[0])


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    end = data.find(b"\n", at)
    if end < 0:
        raise IncompleteError
    line = data[at:end]
    if not line.endswith(b"\r") or b"\r" in line[:-1]:
        raise ViolationError(f"line end of {line[:100]!r}")
    return line[:-1], end + 1


def _chunks(data: bytes, at: int) -> tuple[bytes, int]:
    body = b""
    while True:
        line, at = _line(data, at)
        size = _CHUNK.fullmatch(line)
        if size is None:
            raise ViolationError(f"chunk size {line[:100]!r}")
        count = int(size[1], 16)
        if not count:
            break
        if len(data) < at + count + 2:
            raise IncompleteError
        body += data[at : at + count]
        at += count
        if data[at : at + 2] != b"\r\n":
            raise ViolationError("end of a chunk")
        at += 2
    while True:
        line, at = _line(data, at)
        if not line:
            return body, at
        if _FIELD.fullmatch(line) is None:
            raise ViolationError(f"trailer {line[:100]!r}")


def _with_length(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    if len(data) < at + length:
        raise IncompleteError
    return data[at : at + length], at + length


def read_request(data: bytes) -> Message:
    """The request that `data` begins with. `size` counts the blank lines before it."""
    blank = 0
    while data[blank : blank + 2] == b"\r\n":
        blank += 2
    start, headers, at = _head(data[blank:], _REQUEST)
    hosts = sum(name.lower() == b"host" for name, _ in headers)
    if hosts > 1 or (not hosts and start[3] == b"1"):
        raise ViolationError(f"{hosts} Host headers")
    framing = _framing(headers)
    if framing == "chunked" and start[3] == b"0":
        raise ViolationError("a transfer coding on HTTP/1.0")
    body, at = _chunks(data[blank:], at) if framing == "chunked" else _with_length(data[blank:], at, int(framing or 0))
    return Message(start[1], start[2], int(start[3]), headers, body, blank + at)


def read_requests(data: bytes) -> tuple[list[Message], bytes]:
    """All complete requests at the beginning of `data`, and what is left: incomplete, or no request."""
    found = []
    try:
        while data:
            message = read_request(data)
            found.append(message)
            data = data[message.size :]
    except (IncompleteError, ViolationError):
        pass
    return found, data


def read_response(data: bytes, method: bytes, *, ended: bool) -> tuple[list[Message], Message]:
    """The interim responses and the final one that `data` begins with. `ended`: the connection was closed in order."""
    interim = []
    at = 0
    while True:
        start, headers, size = _head(data[at:], _STATUS)
        status = int(start[2])
        framing = _framing(headers)
        after = at + size
        if status >= 200:
            break
        interim.append(Message(start[2], start[3] or b"", int(start[1]), headers, b"", after))
        at = after
    closed = False
    if method == b"HEAD" or status in (204, 304):
        body = b""
    elif framing == "chunked":
        body, after = _chunks(data, after)
    elif framing is not None:
        body, after = _with_length(data, after, int(framing))
    elif ended:
        body, after, closed = data[after:], len(data), True
    else:
        raise IncompleteError
    return interim, Message(start[2], start[3] or b"", int(start[1]), headers, body, after, closed)


def agrees(message: Message, raw: bytes) -> None:
    """h11 reads `raw` as this one request, with nothing before or after it. Raises ViolationError."""
    if not message.second.isascii():
        # Raw bytes above 0x7f in a target, which nginx and others take: h11 does not.
        raw = raw.replace(message.second, b"/ascii", 1)
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=2**22)
    reader.receive_data(raw)
    body = b""
    try:
        head = reader.next_event()
        while isinstance(event := reader.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError as error:
        raise ViolationError(f"h11: {error}") from None
    if not (isinstance(head, h11.Request) and isinstance(event, h11.EndOfMessage)):
        raise ViolationError(f"h11: {head!r}, {event!r}")
    if (head.method, body, reader.trailing_data[0]) != (message.first, message.body, b""):
        raise ViolationError("h11 reads another request")
