"""Heads of requests and responses: what is refused and why, and the few edits made on the way. Sans-I/O.

A head is handled as one run of bytes. One scan of a lower-cased copy finds the headers that matter, they are cut out or
kept as raw slices, and the rest is forwarded untouched. llhttp then checks the grammar of every field; it is not asked
for them one by one. What llhttp lets through and this module refuses: more than one space in the request line, HTTP/0.9
and HTTP/2 on it, a fragment in the target, a missing, repeated or malformed Host, an Expect that is unknown.

What a request gets on its way to an upstream:

- `Host` is the upstream's own authority, as nginx's `proxy_pass` does by default. The client's own Host would reach the
  wrong service behind any name-based router (an ingress in front of the candidate would route the copy back to the
  baseline), while the authority of the configured URL is right wherever that URL is. The client's is in
  `X-Forwarded-Host`.
- `X-Forwarded-For` and `Via` are appended to; `X-Forwarded-Proto` and `X-Forwarded-Host` are kept if an outer proxy
  set them, and set otherwise; `X-Request-Id` is kept if it is usable (1 to 128 visible ASCII characters), else made.
- Hop-by-hop headers and those named by `Connection` go; so do the annotation header (for no upstream) and the marker
  header (a client that could set it would have its own requests taken for copies).
- `Expect: 100-continue` is answered by the listener and goes too. An `Upgrade` to h2c, which some clients offer with
  every request, is ignored as RFC 9110 allows; any other is refused.
- Trailers and chunk extensions of a request are not forwarded (RFC 9110, section 6.5.1, allows it).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus

import httptools

from shadowproxy.config import Limits
from shadowproxy.proxy.bodies import Body, ChunkedBody, CloseBody, LengthBody

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(?::[0-9]*)?")
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_BLANK_LINES = re.compile(rb"(?:\r\n)*")
_DIGITS = re.compile(rb"[0-9]{1,18}")
_HOP_BY_HOP = (
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
)
_RESPONSE_FIELDS = re.compile(rb"\r\n(%b):[ \t]*([^\r]*)" % b"|".join((*_HOP_BY_HOP, b"content-length")))
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host"})

_LINE_BESIDES_TARGET = 64
"""Bytes of a request line that its method, its version and the spaces may take."""

SAFE_TO_REPEAT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""Idempotent methods (RFC 9110, section 9.2.2)."""

RESPONSE_HEAD_LIMIT = 256 * 1024
"""Largest head that is read from an upstream."""


class RefusalError(Exception):
    """A request that is answered by an error and goes nowhere. Its connection closes: its framing can't be trusted."""

    def __init__(self, status: int, detail: str) -> None:
        self.status = status
        self.detail = detail
        super().__init__(f"{status} {HTTPStatus(status).phrase}: {detail}")


class MalformedResponseError(Exception):
    """What came from an upstream is not a response of HTTP/1."""


class RequestHead:
    """One request as it will be forwarded.

    `fields` are header lines, each with a CRLF *before* it, without Host and shared by all upstreams; `received` are
    those of the client. `target` is in origin form. `length` is that of the body, None if it is chunked.
    """

    __slots__ = (
        "annotations",
        "expects",
        "fields",
        "keep_alive",
        "length",
        "method",
        "minor",
        "received",
        "request_id",
        "target",
    )

    method: bytes
    target: bytes
    minor: int
    keep_alive: bool
    length: int | None
    expects: bool
    request_id: bytes
    annotations: bytes
    fields: bytes
    received: bytes

    def body(self) -> Body:
        """A decoder for the body that follows."""
        return ChunkedBody() if self.length is None else LengthBody(self.length)

    def to(self, prefix: bytes, authority: bytes, extra: bytes = b"") -> bytes:
        """The head for one upstream: its path `prefix` and `authority`, and `extra` lines (CRLF before each)."""
        target = self.target if self.target == b"*" else prefix + self.target
        return b"%b %b HTTP/1.1\r\nHost: %b%b%b\r\n\r\n" % (self.method, target, authority, self.fields, extra)


def skip_blank_lines(data: bytes) -> bytes:
    """`data` less the empty lines before a request line (RFC 9112, section 2.2: old clients end bodies with one)."""
    match = _BLANK_LINES.match(data)
    return data if match is None else data[match.end() :]


class RequestRules:
    """Turns the bytes of a head into a `RequestHead`, or refuses them."""

    def __init__(self, limits: Limits, *, annotation_header: str, marker_header: str) -> None:
        self._limits = limits
        self._annotations = annotation_header.lower().encode("ascii")
        names = (
            *_HOP_BY_HOP,
            b"host",
            b"content-length",
            b"expect",
            b"x-request-id",
            b"x-forwarded-for",
            b"x-forwarded-host",
            b"x-forwarded-proto",
            b"via",
            self._annotations,
            marker_header.lower().encode("ascii"),
        )
        self._pattern = re.compile(rb"\r\n(%b):[ \t]*([^\r]*)" % b"|".join(map(re.escape, names)))

    def check_partial(self, head: bytes) -> None:
        """Refuse what can be told before the head is complete: it is too large, or its lines end with a bare LF."""
        _check_line_ends(head)
        if b"\r\n" not in head and len(head) > self._limits.target + _LINE_BESIDES_TARGET:
            raise RefusalError(414, f"the request target is longer than {self._limits.target} bytes")
        if len(head) > self._limits.header_bytes + self._limits.target + _LINE_BESIDES_TARGET:
            raise RefusalError(431, f"the header section is larger than {self._limits.header_bytes} bytes")

    def parse(self, head: bytes, peer: bytes, new_id: Callable[[], str]) -> RequestHead:
        """Check a complete head (without its closing blank line) and make the forwarded one.

        `peer` is the client's address for X-Forwarded-For. Raises RefusalError.
        """
        _check_line_ends(head)
        line, crlf, _ = head.partition(b"\r\n")
        fields = head[len(line) :] if crlf else b""
        request = RequestHead()
        authority = self._request_line(request, line)
        if len(fields) > self._limits.header_bytes:
            raise RefusalError(431, f"the header section is larger than {self._limits.header_bytes} bytes")
        if fields.count(b"\r\n") > self._limits.header_count:
            raise RefusalError(431, f"there are more than {self._limits.header_count} header fields")
        found, kept = self._scan(fields)
        _check_host(request, found)
        _set_framing(request, found)
        _check_grammar(fields)
        tokens = _tokens(found.get(b"connection", b""))
        _check_upgrade(tokens, found)
        request.keep_alive = b"close" not in tokens and (request.minor == 1 or b"keep-alive" in tokens)
        request.annotations = found.get(self._annotations, b"")
        request.received = fields
        request.fields = _forwarded(request, kept, tokens, found, authority, peer, new_id)
        return request

    def _request_line(self, request: RequestHead, line: bytes) -> bytes | None:
        """Sets method, target and version. Returns the authority of an absolute-form target."""
        if len(line) > self._limits.target + _LINE_BESIDES_TARGET:
            raise RefusalError(414, f"the request target is longer than {self._limits.target} bytes")
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise RefusalError(400, "the request line is not `METHOD target HTTP/1.1`")
        method, target, major, minor = match.groups()
        if major != b"1" or minor not in b"01":
            raise RefusalError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        if len(target) > self._limits.target:
            raise RefusalError(414, f"the request target is longer than {self._limits.target} bytes")
        if method == b"CONNECT":
            raise RefusalError(501, "CONNECT is not supported: this is not a forward proxy")
        request.method, request.target, request.minor = method, target, int(minor)
        if b"#" in target:
            raise RefusalError(400, "the request target has a fragment")
        if target.startswith(b"/") or (target == b"*" and method == b"OPTIONS"):
            return None
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not absolute[1] or not _AUTHORITY.fullmatch(absolute[1]):
            raise RefusalError(400, "the request target is neither a path nor an absolute http URL")
        rest = absolute[2]
        request.target = rest if rest.startswith(b"/") else b"/" + rest
        return absolute[1]

    def _scan(self, fields: bytes) -> tuple[dict[bytes, bytes], list[bytes]]:
        """Headers that matter (repeated ones joined by a comma), and the slices of `fields` that stay as they are."""
        found: dict[bytes, bytes] = {}
        kept: list[bytes] = []
        at = 0
        for match in self._pattern.finditer(fields.lower()):
            name = match[1]
            stop = match.end()
            value = fields[match.start(2) : stop].rstrip(b" \t")
            if name in found:
                if name == b"host" or name == b"content-length":
                    raise RefusalError(400, f"{name.decode()} stands more than once")
                # Of what is not a list, the first stands: it has been kept already.
                value = found[name] if name in _KEPT else found[name] + b", " + value
            elif name in _KEPT and (name != b"x-request-id" or _REQUEST_ID.fullmatch(value)):
                found[name] = value
                continue
            found[name] = value
            kept.append(fields[at : match.start()])
            at = stop
        kept.append(fields[at:])
        return found, kept


_KEPT = frozenset({b"content-length", b"x-request-id", b"x-forwarded-host", b"x-forwarded-proto"})


def _check_line_ends(head: bytes) -> None:
    if head.count(b"\n") != head.count(b"\r\n"):
        raise RefusalError(400, "a line of the head ends with a bare LF; HTTP lines end with CRLF")


def _check_host(request: RequestHead, found: dict[bytes, bytes]) -> None:
    host = found.get(b"host")
    if host is None:
        if request.minor == 1:
            raise RefusalError(400, "an HTTP/1.1 request needs a Host header")
    elif not _AUTHORITY.fullmatch(host):
        raise RefusalError(400, "the Host header is not a host with an optional port")


def _set_framing(request: RequestHead, found: dict[bytes, bytes]) -> None:
    length = found.get(b"content-length")
    coding = found.get(b"transfer-encoding")
    request.length = 0
    if coding is not None:
        if length is not None:
            raise RefusalError(400, "Content-Length and Transfer-Encoding stand together: the body's end is unclear")
        if request.minor == 0:
            raise RefusalError(400, "HTTP/1.0 has no Transfer-Encoding")
        if coding.lower() != b"chunked":
            raise RefusalError(501, "the only transfer coding that is understood is chunked")
        request.length = None
    elif length is not None:
        if not _DIGITS.fullmatch(length):
            raise RefusalError(400, "Content-Length is not a plain decimal number")
        request.length = int(length)
    expect = found.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        raise RefusalError(417, "the only expectation that is understood is 100-continue")
    request.expects = expect is not None and request.minor == 1 and request.length != 0


def _check_upgrade(tokens: frozenset[bytes], found: dict[bytes, bytes]) -> None:
    if b"upgrade" in tokens and _tokens(found.get(b"upgrade", b"")) - {b"h2c"}:
        raise RefusalError(501, "Upgrade is not supported")


def _check_grammar(fields: bytes) -> None:
    """Let llhttp judge the fields. The request line has been checked, more strictly; any method is passed on."""
    try:
        httptools.HttpRequestParser(_NO_CALLBACKS).feed_data(b"GET / HTTP/1.1%b\r\n\r\n" % fields)
    except httptools.HttpParserUpgrade:
        return
    except httptools.HttpParserError as error:
        raise RefusalError(400, f"the header section is malformed: {error}") from None


def _tokens(value: bytes) -> frozenset[bytes]:
    return frozenset(token.strip(b" \t").lower() for token in value.split(b",")) if value else frozenset()


def _forwarded(
    request: RequestHead,
    kept: list[bytes],
    tokens: frozenset[bytes],
    found: dict[bytes, bytes],
    authority: bytes | None,
    peer: bytes,
    new_id: Callable[[], str],
) -> bytes:
    lines = _without(b"".join(kept), tokens - _KEPT)
    request_id = found.get(b"x-request-id", b"")
    if not _REQUEST_ID.fullmatch(request_id):
        request_id = new_id().encode("latin-1")
        lines += b"\r\nX-Request-Id: " + request_id
    request.request_id = request_id
    before = found.get(b"x-forwarded-for")
    via = found.get(b"via")
    lines += b"\r\nX-Forwarded-For: %b\r\nVia: %b" % (
        peer if before is None else before + b", " + peer,
        (b"" if via is None else via + b", ") + b"1.%d shadowproxy" % request.minor,
    )
    if b"x-forwarded-proto" not in found:
        lines += b"\r\nX-Forwarded-Proto: http"
    host = authority or found.get(b"host")
    if host and b"x-forwarded-host" not in found:
        lines += b"\r\nX-Forwarded-Host: " + host
    if request.length is None:
        lines += b"\r\nTransfer-Encoding: chunked"
    return lines


def _without(lines: bytes, tokens: frozenset[bytes]) -> bytes:
    """`lines` less those that Connection names; it can't name what frames the message."""
    named = tokens - {b"close", b"keep-alive", b"upgrade", b""} - _FRAMING
    if named:
        lines = re.sub(rb"(?i)\r\n(?:%b):[^\r]*" % b"|".join(map(re.escape, named)), b"", lines)
    return lines


class ResponseHead:
    """The head of a response.

    `received` are its header lines as they came, `fields` those that are forwarded; a CRLF stands before each line.
    `length` is the Content-Length, None if there is none.
    """

    __slots__ = ("chunked", "fields", "keep_alive", "length", "reason", "received", "status")

    status: int
    reason: bytes
    """Status code and reason phrase, as received."""
    received: bytes
    fields: bytes
    length: int | None
    chunked: bool
    keep_alive: bool

    @property
    def bodiless(self) -> bool:
        """Whether a response of this status has no body, whatever its headers say (RFC 9112, section 6.3)."""
        return self.status < 200 or self.status == 204 or self.status == 304

    def body(self, method: bytes) -> Body:
        """A decoder for the body that follows, given the request's method."""
        if method == b"HEAD" or self.bodiless:
            return LengthBody(0)
        if self.chunked:
            return ChunkedBody()
        return CloseBody() if self.length is None else LengthBody(self.length)


def parse_response(head: bytes) -> ResponseHead:
    """Check a complete response head (without its closing blank line). Raises MalformedResponseError."""
    line, crlf, _ = head.partition(b"\r\n")
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise MalformedResponseError("the status line is not that of HTTP/1")
    fields = head[len(line) :] if crlf else b""
    _check_response_grammar(fields)
    response = ResponseHead()
    response.status = int(match[2])
    response.reason = line[9:]
    response.received = fields
    _scan_response(response, fields, minor=match[1])
    return response


def _check_response_grammar(fields: bytes) -> None:
    try:
        httptools.HttpResponseParser(_NO_CALLBACKS).feed_data(b"HTTP/1.1 200 OK%b\r\n\r\n" % fields)
    except httptools.HttpParserUpgrade:
        return
    except httptools.HttpParserError as error:
        raise MalformedResponseError(f"the header section is malformed: {error}") from None


def _scan_response(response: ResponseHead, fields: bytes, *, minor: bytes) -> None:
    tokens: frozenset[bytes] = frozenset()
    response.chunked = False
    response.length = None
    kept = []
    at = 0
    for match in _RESPONSE_FIELDS.finditer(fields.lower()):
        name = match[1]
        if name == b"content-length":
            # llhttp has refused what is repeated, is not a number, or stands beside Transfer-Encoding.
            response.length = int(match[2])
            # A 204 or 1xx must not have one (RFC 9110, section 8.6).
            if response.status >= 200 and response.status != 204:
                continue
        if name == b"connection":
            tokens |= _tokens(match[2])
        elif name == b"transfer-encoding":
            if response.chunked or match[2].rstrip(b" \t") != b"chunked":
                raise MalformedResponseError("the only transfer coding that is understood is chunked")
            response.chunked = True
        kept.append(fields[at : match.start()])
        at = match.end()
    kept.append(fields[at:])
    response.keep_alive = b"close" not in tokens and (minor == b"1" or b"keep-alive" in tokens)
    response.fields = _without(b"".join(kept), tokens)


class _NoCallbacks:
    """llhttp is asked to check, not to report: a parser without callbacks makes no Python call."""


_NO_CALLBACKS = _NoCallbacks()
