"""Heads of requests and responses: what is refused and why, and the few edits made on the way. Sans-I/O.

A head is cut into its lines, and each is looked up in a table of those that came before (see `fields`): the ones that
mean something to a proxy are sorted out, the rest is forwarded untouched, byte for byte. What is refused, beside bad
grammar: more than one space in the request line, HTTP/0.9 and HTTP/2 on it, a fragment in the target, a missing,
repeated or malformed Host, an Expect that is unknown, any doubt about where the message ends.

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
  every request, is ignored as RFC 9110 allows; any other goes to the baseline, and to nobody else.
- Trailers and chunk extensions of a request are not forwarded (RFC 9110, section 6.5.1, allows it).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from shadowproxy.config import Limits
from shadowproxy.proxy.bodies import Body, ChunkedBody, CloseBody, LengthBody
from shadowproxy.proxy.fields import GUARDED, PLAIN, VISIBLE, BadFieldError, FieldTable, decimal, tokens, without

_ORIGIN_FORM: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (/[\x21\x22\x24-\x7e\x80-\xff]*) HTTP/1\.([01])")
_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([\x21-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_AUTHORITY: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+;=%-]*)(?::[0-9]*)?")
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
_BLANK_LINES: Final = re.compile(rb"(?:\r\n)*")
_BARE_LF: Final = "a line of the head ends with a bare LF; HTTP lines end with CRLF"
_MOST_HOSTS: Final = 256
_MOST_USUAL: Final = 256
_LONGEST_USUAL: Final = 256
_HOP_BY_HOP: Final = (
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
)
_UNNAMEABLE: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"content-length", b"transfer-encoding", b"host"})
"""What `Connection` can't take out of a message: its own options, and what frames the message."""

_LINE_BESIDES_TARGET: Final = 64
"""Bytes of a request line that its method, its version and the spaces may take."""
_NO_LISTS: Final = frozenset({b"x-request-id", b"x-forwarded-host", b"x-forwarded-proto"})
"""Fields with one value each: of several lines the first counts, as it would for the service behind."""

SAFE_TO_REPEAT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""Idempotent methods (RFC 9110, section 9.2.2)."""

RESPONSE_HEAD_LIMIT: Final = 256 * 1024
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

    `fields` are header lines, each with a CRLF *before* it, shared by all upstreams: without Host, without `framing`
    (the line for the body's length or coding, empty for none) and without `traceparent` (that field's value).
    `received` are the client's own lines. `target` is in origin form. `length` is that of the body, None if it is
    chunked. `upgrade` is the protocol that the client wants to change to, empty for none. `guarded` are the lines that
    may hold what must not be recorded, None where that is not known. `started` is Unix time; who has a clock sets it.
    """

    __slots__ = (
        "annotations",
        "expects",
        "fields",
        "framing",
        "guarded",
        "host",
        "keep_alive",
        "length",
        "method",
        "minor",
        "received",
        "request_id",
        "started",
        "target",
        "traceparent",
        "upgrade",
    )

    method: bytes
    target: bytes
    minor: int
    host: bytes
    keep_alive: bool
    length: int | None
    expects: bool
    upgrade: bytes
    request_id: bytes
    started: float
    traceparent: bytes
    annotations: bytes
    fields: bytes
    framing: bytes
    received: bytes
    guarded: list[bytes] | None

    def body(self) -> Body:
        """A decoder for the body that follows."""
        return ChunkedBody() if self.length is None else LengthBody(self.length)

    @property
    def trace(self) -> bytes:
        """The client's own trace context as a header line (CRLF before it), or nothing."""
        return b"\r\ntraceparent: " + self.traceparent if self.traceparent else b""

    def to(self, prefix: bytes, authority: bytes, extra: bytes = b"") -> bytes:
        """The head for one upstream: its path `prefix` and `authority`, and `extra` lines (CRLF before each)."""
        target = self.target
        if prefix and target != b"*":
            target = prefix + target
        return b"".join(
            (
                self.method,
                b" ",
                target,
                b" HTTP/1.1\r\nHost: ",
                authority,
                self.fields,
                self.framing,
                extra,
                b"\r\n\r\n",
            )
        )


def skip_blank_lines(data: bytes) -> bytes:
    """`data` less the empty lines before a request line (RFC 9112, section 2.2: old clients end bodies with one)."""
    match = _BLANK_LINES.match(data)
    return data if match is None else data[match.end() :]


class RequestRules:
    """Turns the bytes of a head into a `RequestHead`, or refuses them.

    `scheme` is what the listener speaks. `guarded` are names of headers (lower case) whose lines are to be told.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        annotation_header: str,
        marker_header: str,
        scheme: bytes = b"http",
        guarded: frozenset[bytes] | None = None,
    ) -> None:
        self._limits = limits
        self._scheme = scheme
        self._annotations = annotation_header.lower().encode("ascii")
        self._hosts: dict[bytes, bytes] = {}
        self._usual: dict[bytes, tuple[bytes, bytes]] = {}
        special = frozenset(
            (
                *_HOP_BY_HOP,
                b"host",
                b"content-length",
                b"expect",
                b"traceparent",
                b"x-request-id",
                b"x-forwarded-for",
                b"x-forwarded-host",
                b"x-forwarded-proto",
                b"via",
                self._annotations,
                marker_header.lower().encode("ascii"),
            )
        )
        self._table = FieldTable(special, guarded or ())
        # Lines of ours would have to be told too.
        self._tells = guarded is not None and not guarded & special

    def check_partial(self, head: bytes) -> None:
        """Refuse what can be told before the head is complete: it is too large, or its lines end with a bare LF."""
        if head.count(b"\n") != head.count(b"\r\n"):
            raise RefusalError(400, _BARE_LF)
        if b"\r\n" not in head and len(head) > self._limits.target + _LINE_BESIDES_TARGET:
            raise RefusalError(414, f"the request target is longer than {self._limits.target} bytes")
        if len(head) > self._limits.header_bytes + self._limits.target + _LINE_BESIDES_TARGET:
            raise RefusalError(431, f"the header section is larger than {self._limits.header_bytes} bytes")

    def parse(self, head: bytes, peer: bytes, new_id: Callable[[], str]) -> RequestHead:
        """Check a complete head (without its closing blank line) and make the forwarded one.

        `peer` is the client's address for X-Forwarded-For. Raises RefusalError.
        """
        lines = head.split(b"\r\n")
        # One look at all bytes. It comes before all else, as with a head that comes in parts: what is said of one must
        # not depend on how it came.
        clean = head.translate(None, VISIBLE) == b"\r\n" * (len(lines) - 1)
        if not clean and head.count(b"\n") != len(lines) - 1:
            raise RefusalError(400, _BARE_LF)
        first = lines[0]
        request = RequestHead()
        request.started = 0.0
        authority = self._request_line(request, first)
        request.received = received = head[len(first) :]
        limits = self._limits
        if len(received) > limits.header_bytes:
            raise RefusalError(431, f"the header section is larger than {limits.header_bytes} bytes")
        if len(lines) > limits.header_count + 1:
            raise RefusalError(431, f"there are more than {limits.header_count} header fields")
        del lines[0]
        guarded: list[bytes] | None = [] if self._tells else None
        request.guarded = guarded
        kept, found = self._sort(lines, clean, guarded)
        if request.minor == 1 and b"host" not in found:
            raise RefusalError(400, "an HTTP/1.1 request needs a Host header")
        _set_framing(request, found)
        self._set_connection(request, found)
        self._forward(request, kept, found, authority, peer, new_id)
        return request

    def _request_line(self, request: RequestHead, line: bytes) -> bytes | None:
        """Sets method, target and version. Returns the authority of an absolute-form target."""
        if len(line) > self._limits.target + _LINE_BESIDES_TARGET:
            raise RefusalError(414, f"the request target is longer than {self._limits.target} bytes")
        usual = self._usual.get(line)
        if usual is not None:
            request.method, request.target = usual
            request.minor = 1
            return None
        match = _ORIGIN_FORM.fullmatch(line)
        if match is None:
            return self._unusual_request_line(request, line)
        method, target, minor = match.groups()
        request.method, request.target = method, target
        request.minor = 1 if minor == b"1" else 0
        self._check_target(method, target)
        if request.minor and target.find(b"?") < 0 and len(target) <= _LONGEST_USUAL:
            if len(self._usual) >= _MOST_USUAL:
                self._usual.clear()
            self._usual[line] = (method, target)
        return None

    def _check_target(self, method: bytes, target: bytes) -> None:
        if len(target) > self._limits.target:
            raise RefusalError(414, f"the request target is longer than {self._limits.target} bytes")
        if method == b"CONNECT":
            raise RefusalError(501, "CONNECT is not supported: this is not a forward proxy")

    def _unusual_request_line(self, request: RequestHead, line: bytes) -> bytes | None:
        match = _REQUEST_LINE.fullmatch(line)
        if match is None:
            raise RefusalError(400, "the request line is not `METHOD target HTTP/1.1`")
        method, target, major, minor = match.groups()
        if major != b"1" or minor not in b"01":
            raise RefusalError(505, "only HTTP/1.1 and HTTP/1.0 are spoken here")
        self._check_target(method, target)
        request.method, request.target, request.minor = method, target, int(minor)
        if b"#" in target:
            raise RefusalError(400, "the request target has a fragment")
        if target == b"*" and method == b"OPTIONS":
            return None
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or not absolute[1] or not _AUTHORITY.fullmatch(absolute[1]):
            raise RefusalError(400, "the request target is neither a path nor an absolute http URL")
        rest = absolute[2]
        request.target = rest if rest.startswith(b"/") else b"/" + rest
        return absolute[1]

    def _sort(
        self, lines: list[bytes], clean: bool, guarded: list[bytes] | None
    ) -> tuple[list[bytes], dict[bytes, bytes]]:
        """The lines that stay as they are, and the fields that matter by name (repeated ones joined by a comma)."""
        known = self._table.known
        found: dict[bytes, bytes] = {}
        # Joined again, the empty string gives each line the CRLF that stands before it.
        kept = [b""]
        try:
            for line in lines:
                field = known.get(line)
                if field is None:
                    field = self._table.learn(line, clean)
                if field is PLAIN:
                    kept.append(line)
                    continue
                if field is GUARDED:
                    kept.append(line)
                    if guarded is not None:
                        guarded.append(line)
                    continue
                name, value = field.name, field.value
                if name in found:
                    if name == b"host" or name == b"content-length":
                        raise RefusalError(400, f"{name.decode()} stands more than once")
                    value = found[name] if name in _NO_LISTS else found[name] + b", " + value
                found[name] = value
        except BadFieldError as error:
            raise RefusalError(400, str(error)) from None
        return kept, found

    def _set_connection(self, request: RequestHead, found: dict[bytes, bytes]) -> None:
        request.upgrade = b""
        value = found.get(b"connection")
        if value is None:
            request.keep_alive = request.minor == 1
            return
        options = tokens(value)
        request.keep_alive = b"close" not in options and (request.minor == 1 or b"keep-alive" in options)
        if b"upgrade" in options and tokens(found.get(b"upgrade", b"")) - {b"h2c"}:
            if request.length != 0:
                raise RefusalError(501, "Upgrade with a request body is not supported")
            if request.minor == 1:
                request.upgrade = found[b"upgrade"]

    def _forward(
        self,
        request: RequestHead,
        kept: list[bytes],
        found: dict[bytes, bytes],
        authority: bytes | None,
        peer: bytes,
        new_id: Callable[[], str],
    ) -> None:
        """Sets what goes to the upstreams."""
        get = found.get
        connection = get(b"connection")
        if connection is not None:
            named = tokens(connection) - _UNNAMEABLE
            if named:
                kept = without(kept, named)
        request_id = get(b"x-request-id")
        # Of letters and digits, or to be looked at more closely.
        if request_id is None or not (
            (request_id.isalnum() and len(request_id) <= 128) or _REQUEST_ID.fullmatch(request_id)
        ):
            request_id = new_id().encode("latin-1")
        request.request_id = request_id
        request.annotations = get(self._annotations, b"")
        request.traceparent = get(b"traceparent", b"")
        host = get(b"host", b"")
        # Checked even where the target's own authority takes its place.
        forwarded_host = self._hosts.get(host) or self._host(host)
        if authority:
            host = authority
            forwarded_host = self._hosts.get(host) or self._host(host)
        request.host = host
        if not host:
            forwarded_host = b""
        if b"x-forwarded-host" in found:
            forwarded_host = b"\r\nX-Forwarded-Host: " + found[b"x-forwarded-host"]
        before = get(b"x-forwarded-for")
        via = get(b"via")
        request.fields = b"".join(
            (
                b"\r\n".join(kept),
                b"\r\nX-Request-Id: ",
                request_id,
                b"\r\nX-Forwarded-For: ",
                peer if before is None else before + b", " + peer,
                b"\r\nVia: " if via is None else b"\r\nVia: " + via + b", ",
                b"1.1 shadowproxy" if request.minor else b"1.0 shadowproxy",
                b"\r\nX-Forwarded-Proto: ",
                get(b"x-forwarded-proto", self._scheme),
                forwarded_host,
                b"\r\nConnection: Upgrade\r\nUpgrade: " + request.upgrade if request.upgrade else b"",
            )
        )

    def _host(self, host: bytes) -> bytes:
        """The line that tells an upstream of `host`; few hosts are asked for, so it is checked and made once."""
        if not _AUTHORITY.fullmatch(host):
            raise RefusalError(400, "the Host header is not a host with an optional port")
        if len(self._hosts) >= _MOST_HOSTS:
            self._hosts.clear()
        line = self._hosts[host] = b"\r\nX-Forwarded-Host: " + host
        return line


def _set_framing(request: RequestHead, found: dict[bytes, bytes]) -> None:
    length = found.get(b"content-length")
    coding = found.get(b"transfer-encoding")
    request.length = 0
    request.framing = b""
    if coding is not None:
        if length is not None:
            raise RefusalError(400, "Content-Length and Transfer-Encoding stand together: the body's end is unclear")
        if request.minor == 0:
            raise RefusalError(400, "HTTP/1.0 has no Transfer-Encoding")
        if coding.lower() != b"chunked":
            raise RefusalError(501, "the only transfer coding that is understood is chunked")
        request.length = None
        request.framing = b"\r\nTransfer-Encoding: chunked"
    elif length is not None:
        request.length = decimal(length)
        if request.length < 0:
            raise RefusalError(400, "Content-Length is not a plain decimal number")
        request.framing = b"\r\nContent-Length: " + length
    expect = found.get(b"expect")
    if expect is None:
        request.expects = False
    elif expect.lower() != b"100-continue":
        raise RefusalError(417, "the only expectation that is understood is 100-continue")
    else:
        request.expects = request.minor == 1 and request.length != 0


class ResponseHead:
    """The head of a response.

    `received` are its header lines as they came, `fields` those that are forwarded; a CRLF stands before each line.
    `length` is the Content-Length, None if there is none. `upgrade` is the protocol that a 101 changes to. `guarded` as
    in a `RequestHead`.
    """

    __slots__ = ("chunked", "fields", "guarded", "keep_alive", "length", "reason", "received", "status", "upgrade")

    status: int
    reason: bytes
    """Status code and reason phrase, as received."""
    received: bytes
    fields: bytes
    length: int | None
    chunked: bool
    keep_alive: bool
    upgrade: bytes
    guarded: list[bytes] | None

    @property
    def bodiless(self) -> bool:
        """Whether a response of this status has no body, whatever its headers say (RFC 9112, section 6.3)."""
        return self.status < 200 or self.status == 204 or self.status == 304

    def body(self, method: bytes, *, lean: bool = False) -> Body:
        """A decoder for the body that follows, given the request's method; `lean` as for a `ChunkedBody`."""
        if method == b"HEAD" or self.bodiless:
            return LengthBody(0)
        if self.chunked:
            return ChunkedBody(lean=lean)
        return CloseBody() if self.length is None else LengthBody(self.length)


class ResponseRules:
    """Turns the bytes of a response's head into a `ResponseHead`. One for each upstream, as each has its own lines.

    `guarded` are names of headers (lower case) whose lines are to be told.
    """

    __slots__ = ("_lines", "_table", "_tells")

    _MOST_STATUS_LINES: Final = 64

    def __init__(self, guarded: frozenset[bytes] | None = None) -> None:
        special = frozenset((*_HOP_BY_HOP, b"content-length"))
        self._table = FieldTable(special, guarded or ())
        self._tells = guarded is not None and not guarded & special
        self._lines: dict[bytes, tuple[int, bool]] = {}

    def parse(self, head: bytes) -> ResponseHead:
        """Check a complete response head (without its closing blank line). Raises MalformedResponseError."""
        lines = head.split(b"\r\n")
        first = lines[0]
        status, new = self._lines.get(first) or self._status(first)
        response = ResponseHead()
        response.status = status
        response.reason = first[9:]
        response.received = response.fields = head[len(first) :]
        response.chunked = False
        response.length = None
        response.keep_alive = new
        response.upgrade = b""
        response.guarded = [] if self._tells else None
        del lines[0]
        self._sort(response, lines, new=new)
        return response

    def _status(self, line: bytes) -> tuple[int, bool]:
        """The code, and whether it is HTTP/1.1."""
        match = _STATUS_LINE.fullmatch(line)
        if match is None:
            raise MalformedResponseError("the status line is not that of HTTP/1")
        if len(self._lines) >= self._MOST_STATUS_LINES:
            self._lines.clear()
        status = self._lines[line] = (int(match[2]), match[1] == b"1")
        return status

    def _sort(self, response: ResponseHead, lines: list[bytes], *, new: bool) -> None:
        known = self._table.known
        kept = [b""]
        connection = b""
        guarded = response.guarded
        status = response.status
        try:
            for line in lines:
                field = known.get(line)
                if field is None:
                    field = self._table.learn(line)
                if field is PLAIN:
                    kept.append(line)
                elif field is GUARDED:
                    kept.append(line)
                    if guarded is not None:
                        guarded.append(line)
                elif field.name == b"content-length":
                    if response.length is not None:
                        raise MalformedResponseError("Content-Length stands more than once")
                    if field.number < 0:
                        raise MalformedResponseError("Content-Length is not a plain decimal number")
                    response.length = field.number
                    # A 204 or 1xx must not have one (RFC 9110, section 8.6).
                    if status >= 200 and status != 204:
                        kept.append(line)
                elif field.name == b"connection":
                    connection = connection + b"," + field.value if connection else field.value
                elif field.name == b"transfer-encoding":
                    _set_coding(response, field.value)
                elif field.name == b"upgrade":
                    response.upgrade = field.value
        except BadFieldError as error:
            raise MalformedResponseError(str(error)) from None
        if response.chunked and response.length is not None:
            raise MalformedResponseError("Content-Length and Transfer-Encoding stand together")
        if connection == b"keep-alive":
            response.keep_alive = True
        elif connection:
            options = tokens(connection)
            response.keep_alive = b"close" not in options and (new or b"keep-alive" in options)
            named = options - _UNNAMEABLE
            if named:
                kept = without(kept, named)
        if len(kept) <= len(lines):
            response.fields = b"\r\n".join(kept)


def _set_coding(response: ResponseHead, value: bytes) -> None:
    if response.chunked or value.lower() != b"chunked":
        raise MalformedResponseError("the only transfer coding that is understood is chunked")
    response.chunked = True
