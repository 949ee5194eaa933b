"""The bytes of the request that one upstream gets: what the client sent, with the edits of that upstream's settings.

Settings without edits take the shortest way, `RequestHead.to`. Which shaper an upstream has is decided once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from shadowproxy.config import Upstream
from shadowproxy.config.rewriting import compile_rewrite
from shadowproxy.config.shaping import secret_text
from shadowproxy.proxy.bodies import LAST_CHUNK, chunk
from shadowproxy.proxy.framing import RequestHead
from shadowproxy.proxy.overrides import OBSTACLES, OverrideError, Overrides
from shadowproxy.proxy.trace import NewSpan, copied_trace

_NOTHING: Final[Mapping[str, int]] = {}


class Shaper(Protocol):
    """Makes the bytes of a request for one upstream."""

    @property
    def unapplied(self) -> Mapping[str, int]:
        """How often JSON fields were not set, by the obstacle (see `overrides`); the request went out as it came."""
        ...

    def __call__(self, request: RequestHead, body: bytes | None, extra: bytes) -> bytes:
        """Head and body; the head alone where the body is streamed (None). `extra` lines have a CRLF before each."""
        ...


def shaper(upstream: Upstream, prefix: bytes, authority: bytes, side: str, *, new_span: NewSpan | None) -> Shaper:
    """The shaper for `upstream`, which is `side` and whose URL has this path `prefix` and `authority`.

    `new_span` gives span ids to copies; None where the requests are the client's own.
    """
    edits = upstream.host or upstream.rewrite or upstream.headers.edited or upstream.json_fields
    credentials = upstream.credentials
    if edits or credentials.client == "remove" or credentials.authorization is not None:
        return EditingShaper(upstream, prefix, authority, side, new_span=new_span)
    if new_span is None:
        return PlainShaper(prefix, authority)
    return CopyShaper(prefix, authority, side, new_span)


class PlainShaper:
    """No edits: the baseline, usually."""

    __slots__ = ("_authority", "_prefix")

    def __init__(self, prefix: bytes, authority: bytes) -> None:
        self._prefix = prefix
        self._authority = authority

    @property
    def unapplied(self) -> Mapping[str, int]:
        """See `Shaper`."""
        return _NOTHING

    def __call__(self, request: RequestHead, body: bytes | None, extra: bytes) -> bytes:
        """See `Shaper`."""
        if request.traceparent:
            extra = request.trace + extra
        head = request.to(self._prefix, self._authority, extra)
        return head + _framed(body, chunked=request.length is None) if body or request.length is None else head


class CopyShaper:
    """No edits but a span of its own: a shadow side, usually."""

    __slots__ = ("_authority", "_new_span", "_prefix", "_side")

    def __init__(self, prefix: bytes, authority: bytes, side: str, new_span: NewSpan) -> None:
        self._prefix = prefix
        self._authority = authority
        self._side = side
        self._new_span = new_span

    @property
    def unapplied(self) -> Mapping[str, int]:
        """See `Shaper`."""
        return _NOTHING

    def __call__(self, request: RequestHead, body: bytes | None, extra: bytes) -> bytes:
        """See `Shaper`."""
        if request.traceparent:
            fields, trace = copied_trace(
                request.fields, request.traceparent, request.started, self._side, self._new_span
            )
            lines = b"".join((fields, request.framing, trace, extra))
            head = _head(request.method, self._prefix, request.target, self._authority, lines)
        else:
            head = request.to(self._prefix, self._authority, extra)
        return head + _framed(body, chunked=request.length is None) if body or request.length is None else head


class EditingShaper:
    """Every edit that can be configured, in this order: the trace, headers taken out, JSON fields, headers set, path.

    No rule can make a request that is not one: names and values were checked with the settings, a rewritten path is
    valid whatever the client's was (see `config.rewriting`), and a body in which the fields can't be set is sent as it
    came, and counted. So that a rule for the candidate never touches the client, and one for the baseline never fails
    a request that would be served without it.
    """

    def __init__(
        self, upstream: Upstream, prefix: bytes, authority: bytes, side: str, *, new_span: NewSpan | None
    ) -> None:
        self.unapplied: Counter[str] = Counter(dict.fromkeys(OBSTACLES, 0) if upstream.json_fields else {})
        self._prefix = prefix
        self._authority = authority if upstream.host in (None, "client") else str(upstream.host).encode("ascii")
        self._side = side
        self._client_host = upstream.host == "client"
        self._rewrites = [compile_rewrite(rule.match, rule.to) for rule in upstream.rewrite]
        self._new_span = new_span
        self._overrides = Overrides(upstream.json_fields) if upstream.json_fields else None
        headers, credentials = upstream.headers, upstream.credentials
        cut = set(headers.edited)
        added = dict(headers.set)
        if credentials.client == "remove":
            cut.update(credentials.headers)
        if credentials.authorization is not None:
            cut.add("authorization")
            added["authorization"] = credentials.authorization
        self._cut = _lines(cut) if cut else None
        self._added = b"".join(b"\r\n%b: %b" % (name.encode(), secret_text(value)) for name, value in added.items())

    def __call__(self, request: RequestHead, body: bytes | None, extra: bytes) -> bytes:
        """See `Shaper`."""
        fields, framing, chunked = request.fields, request.framing, request.length is None
        if self._new_span is None:
            fields += request.trace
        elif request.traceparent:
            fields, trace = copied_trace(fields, request.traceparent, request.started, self._side, self._new_span)
            fields += trace
        if self._cut is not None:
            fields = self._cut.sub(b"", fields)
        if self._overrides is not None and body != b"":
            fields, body = self._overridden(self._overrides, fields, body)
            if body is not None and not chunked:
                framing = b"\r\nContent-Length: %d" % len(body)
        authority = (request.host or self._authority) if self._client_host else self._authority
        lines = b"".join((fields, self._added, framing, extra))
        head = _head(request.method, self._prefix, self._rewritten(request.target), authority, lines)
        return head + _framed(body, chunked=chunked)

    def _overridden(self, overrides: Overrides, fields: bytes, body: bytes | None) -> tuple[bytes, bytes | None]:
        try:
            if body is None:
                raise OverrideError("streamed")
            return overrides.apply(fields, body)
        except OverrideError as error:
            self.unapplied[error.obstacle] += 1
            return fields, body

    def _rewritten(self, target: bytes) -> bytes:
        if target == b"*":
            return target
        path, mark, query = target.partition(b"?")
        for rewrite in self._rewrites:
            new = rewrite(path)
            if new is not None:
                return new + mark + query
        return target


def _head(method: bytes, prefix: bytes, target: bytes, authority: bytes, fields: bytes) -> bytes:
    if target != b"*":
        target = prefix + target
    return b"%b %b HTTP/1.1\r\nHost: %b%b\r\n\r\n" % (method, target, authority, fields)


def _framed(body: bytes | None, *, chunked: bool) -> bytes:
    if not body:
        return LAST_CHUNK if chunked and body is not None else b""
    return chunk(body) + LAST_CHUNK if chunked else body


def _lines(names: Iterable[str]) -> re.Pattern[bytes]:
    alternatives = b"|".join(re.escape(name).encode("ascii") for name in sorted(names))
    return re.compile(rb"\r\n(?:%b):[^\r]*" % alternatives, re.IGNORECASE)
