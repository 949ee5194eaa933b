"""The client's side: one protocol per connection, one request at a time, nothing awaited."""

from __future__ import annotations

import asyncio
import enum
import json
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, cast

from shadowproxy.config import Limits
from shadowproxy.model import Outcome
from shadowproxy.proxy.arrivals import Arrivals
from shadowproxy.proxy.bodies import LAST_CHUNK, BadFramingError, Body, chunk
from shadowproxy.proxy.flow import hold_reading
from shadowproxy.proxy.framing import RefusalError, RequestHead, RequestRules, ResponseHead, skip_blank_lines
from shadowproxy.proxy.mirror import Mirror
from shadowproxy.proxy.timers import Deadlines
from shadowproxy.proxy.upstream import Call, Connection, Pool

WRITE_HIGH: Final = 64 * 1024
"""Bytes that wait for a client before the baseline's response is held."""
LINGER: Final = 2.0
"""Seconds for which a client that is refused amid its request is still read from: closing at once would make its kernel
throw the refusal away."""
LAST_CALL: Final = 0.5
"""Seconds that a stop leaves to a connection between requests: its client may be sending the next one at this moment,
and few clients repeat a POST. What comes is answered with `Connection: close`."""

_STATUS: Final = {
    Outcome.TIMEOUT: 504,
    Outcome.CONNECT: 502,
    Outcome.RESET: 502,
    Outcome.PROTOCOL: 502,
    Outcome.SHED: 503,
}
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_RST: Final = struct.pack("ii", 1, 0)

_HELD_BY_REQUEST: Final = 1
_HELD_BY_UPLOAD: Final = 2


class Front:
    """What all client connections share."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        rules: RequestRules,
        baseline: Pool,
        mirror: Mirror,
        *,
        max_body: int,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        arrivals: Arrivals,
        new_id: Callable[[], str],
        emptied: Callable[[], None],
    ) -> None:
        self.limits = limits
        self.rules = rules
        self.baseline = baseline
        self.mirror = mirror
        self.max_body = max_body
        self.clock = clock
        self.monotonic = monotonic
        self.arrivals = arrivals
        self.new_id = new_id
        self.emptied = emptied
        self.draining = False
        self.connections: set[ClientConnection] = set()
        self.idle: Deadlines[ClientConnection] = Deadlines(loop, limits.idle_timeout, ClientConnection.idled)
        self.heads: Deadlines[ClientConnection] = Deadlines(loop, limits.header_timeout, ClientConnection.head_late)
        self.lingering: Deadlines[ClientConnection] = Deadlines(loop, LINGER, ClientConnection.lingered)
        self.last_calls: Deadlines[ClientConnection] = Deadlines(loop, LAST_CALL, ClientConnection.retire)
        self.tunnels: Deadlines[ClientConnection] = Deadlines(loop, limits.tunnel_timeout, ClientConnection.abort)

    def drain(self) -> None:
        """Close every connection after its next answer; one that is idle and stays so, after LAST_CALL seconds."""
        self.draining = True
        for connection in self.connections:
            self.last_calls.add(connection)

    def close(self) -> None:
        """Close what is idle and cut every other connection."""
        for connection in tuple(self.connections):
            if connection.idle:
                connection.retire()
            else:
                connection.abort()
        for timers in (self.idle, self.heads, self.lingering, self.last_calls, self.tunnels):
            timers.close()


class _State(enum.Enum):
    HEAD = "between requests, or within a head"
    BODY = "reading a body that is kept"
    UPLOAD = "reading a body that is streamed to the baseline"
    ANSWER = "the request is complete, its response is not"
    TUNNEL = "passing bytes both ways, of another protocol"
    LINGER = "answered for good; what still comes is thrown away"
    CLOSED = "closed"


class _Framing(enum.Enum):
    RAW = "as the baseline framed it"
    PLAIN = "without framing"
    CHUNKED = "chunked by us"
    NONE = "no body"


# Names of the module: those of an enum's class are looked up anew each time.
_AT_HEAD: Final = _State.HEAD
_AT_BODY: Final = _State.BODY
_AT_UPLOAD: Final = _State.UPLOAD
_AT_ANSWER: Final = _State.ANSWER
_AT_TUNNEL: Final = _State.TUNNEL
_AT_LINGER: Final = _State.LINGER
_AT_CLOSED: Final = _State.CLOSED
_RAW: Final = _Framing.RAW
_PLAIN: Final = _Framing.PLAIN
_CHUNKED: Final = _Framing.CHUNKED
_NONE: Final = _Framing.NONE


class ClientConnection:
    """One client. Requests are answered in order, one at a time; while one is under way, reading pauses.

    A request's body up to the mirror's cap is read whole before any upstream sees a byte (as nginx does by default): so
    all upstreams get the request in one loop turn, and a body with broken framing is refused before it does harm. A
    larger one is streamed to the baseline as it comes.

    A client that closes its sending half is still answered. One that goes away amid a mirrored request does not undo
    the pair: the baseline's response is read to its end within its deadline, and recorded.
    """

    __slots__ = (
        "_backlog",
        "_body",
        "_call",
        "_eof",
        "_framing",
        "_front",
        "_head_at",
        "_holds",
        "_keep",
        "_partial",
        "_peer",
        "_pending",
        "_pieces",
        "_request",
        "_response_begun",
        "_size",
        "_started",
        "_state",
        "_transport",
        "_tunnel",
        "_write_held",
    )

    def __init__(self, front: Front) -> None:
        self._front = front
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._state = _AT_HEAD
        self._partial = b""
        self._pending = b""
        self._peer = b""
        self._request: RequestHead | None = None
        self._body: Body | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._started = 0.0
        self._head_at = 0.0
        self._call: Call | None = None
        self._tunnel: Connection | None = None
        self._framing = _NONE
        self._response_begun = False
        self._keep = True
        self._eof = False
        self._holds = 0
        self._write_held = False
        self._backlog = 0

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return self._state in (_AT_BODY, _AT_UPLOAD, _AT_ANSWER, _AT_TUNNEL)

    @property
    def idle(self) -> bool:
        """Whether it waits for a request of which nothing has come."""
        return self._state is _AT_HEAD and not self._partial

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        front = self._front
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH)
        peer = transport.get_extra_info("peername")
        self._peer = peer[0].encode("ascii") if isinstance(peer, tuple) else b"unknown"
        front.connections.add(self)
        if len(front.connections) > front.limits.connections:
            self._refuse(503, f"there are {front.limits.connections} connections already")
        else:
            front.idle.add(self)
            if front.draining:
                front.last_calls.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        front = self._front
        self._state = _AT_CLOSED
        front.connections.discard(self)
        front.idle.discard(self)
        front.heads.discard(self)
        front.lingering.discard(self)
        front.last_calls.discard(self)
        front.tunnels.discard(self)
        call, self._call = self._call, None
        if call is not None:
            call.leave()
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.close()
        if not front.connections:
            front.emptied()

    def eof_received(self) -> bool:
        """See asyncio. The transport stays open for the answer of a request that is complete."""
        self._eof = True
        if self._state is _AT_ANSWER:
            self._keep = False
            return True
        if self._tunnel is not None:
            self._tunnel.write_eof()
            return True
        if self.busy:
            self.abort()
        return False

    def pause_writing(self) -> None:
        """See asyncio."""
        self._write_held = True
        self._backlog = self._transport.get_write_buffer_size()
        self._front.idle.add(self)
        if self._call is not None:
            self._call.hold_response(True)
        elif self._tunnel is not None:
            self._tunnel.hold_tunnel(True)

    def resume_writing(self) -> None:
        """See asyncio."""
        self._write_held = False
        if self._call is not None:
            self._front.idle.discard(self)
            self._call.hold_response(False)
        elif self._tunnel is not None:
            self._front.idle.discard(self)
            self._tunnel.hold_tunnel(False)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        # An answer that waits behind this must not seem to have come when this was done with.
        self._front.arrivals.now()
        if self._state is _AT_ANSWER:
            self._pending += data
            self._hold(_HELD_BY_REQUEST, True)
            return
        if self._tunnel is not None:
            self._front.tunnels.add(self)
            self._tunnel.write(data)
            return
        try:
            self._read(data)
        except RefusalError as refusal:
            self._refuse(refusal.status, refusal.detail)
        except BadFramingError as error:
            self._refuse(400, str(error))

    # Reading requests

    def _read(self, data: bytes) -> None:
        while data:
            if self._state is _AT_HEAD:
                data = self._read_head(data)
            elif self._state is _AT_BODY or self._state is _AT_UPLOAD:
                data = self._read_body(data)
            elif self._state is _AT_ANSWER:
                self._pending = data
                self._hold(_HELD_BY_REQUEST, True)
                return
            else:
                return

    def _read_head(self, data: bytes) -> bytes:
        """Read until a head is complete; returns what follows it, or what follows its request."""
        front = self._front
        begun = bool(self._partial)
        if begun:
            data = self._partial + data
        if data[:2] == b"\r\n":
            data = skip_blank_lines(data)
        end = data.find(b"\r\n\r\n")
        if end < 0:
            front.rules.check_partial(data)
            self._partial = data
            if data and not begun:
                front.idle.discard(self)
                front.heads.add(self)
            elif begun and not data:
                # What had been kept was half of a blank line: no head has begun after all.
                front.heads.discard(self)
                front.idle.add(self)
            return b""
        self._partial = b""
        (front.heads if begun else front.idle).discard(self)
        self._request = request = front.rules.parse(data[:end], self._peer, front.new_id)
        request.started = self._started = front.clock()
        self._response_begun = False
        self._keep = request.keep_alive and not front.draining
        end += 4
        length = request.length
        if length == 0:
            self._dispatch(request, b"")
        elif length is not None and length <= front.max_body and len(data) >= end + length:
            # The usual case, whole in one read, needs no decoder.
            self._dispatch(request, data[end : end + length])
            return data[end + length :]
        else:
            rest = data[end:]
            self._expect_body(request, rest)
            return rest
        return data[end:]

    def _expect_body(self, request: RequestHead, rest: bytes) -> None:
        front = self._front
        length = request.length
        if length is not None and length > front.limits.body:
            raise RefusalError(413, f"the body is larger than {front.limits.body} bytes")
        self._body = request.body()
        self._pieces = []
        self._size = 0
        self._head_at = front.monotonic()
        front.idle.add(self)
        if request.expects and not rest:
            self._transport.write(_CONTINUE)
        if length is not None and length > front.max_body:
            self._state = _AT_UPLOAD
            self._dispatch(request, None)
        else:
            self._state = _AT_BODY

    def _read_body(self, data: bytes) -> bytes:
        body = cast("Body", self._body)
        request = cast("RequestHead", self._request)
        payload, rest = body.feed(data)
        self._size += len(payload)
        if self._size > self._front.limits.body:
            raise RefusalError(413, f"the body is larger than {self._front.limits.body} bytes")
        if self._state is _AT_BODY:
            self._keep_body(request, body, payload)
        else:
            self._pass_on(body, payload)
        if not body.done:
            self._front.idle.add(self)
        return rest

    def _keep_body(self, request: RequestHead, body: Body, payload: bytes) -> None:
        self._pieces.append(payload)
        if self._size > self._front.max_body:
            whole, self._pieces = b"".join(self._pieces), []
            self._state = _AT_UPLOAD
            self._dispatch(request, None)
            self._pass_on(body, whole)
        elif body.done:
            pieces, self._pieces = self._pieces, []
            self._front.idle.discard(self)
            self._dispatch(request, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _pass_on(self, body: Body, payload: bytes) -> None:
        call = self._call
        if body.done:
            self._front.idle.discard(self)
            self._state = _AT_ANSWER
        if call is not None and call.upload is not None and (payload or body.done):
            call.upload.write(call.connection, payload, last=body.done)
            call.extend()

    def _dispatch(self, request: RequestHead, body: bytes | None) -> None:
        """Hand the request to the baseline and, where it is mirrored, to the shadow sides: all in this loop turn."""
        front = self._front
        # A body that came in the same read as its head took no time.
        upload = front.monotonic() - self._head_at if body and self._body is not None else 0.0
        pair = front.mirror.admit(request, body, self._started, upload)
        settled = None if pair is None else pair.settled
        self._call = call = Call(front.baseline, request, body, sink=self, settled=settled)
        if body is not None:
            self._state = _AT_ANSWER
        call.start()
        if pair is not None:
            pair.copy()

    # The baseline's response (upstream.Sink)

    def interim(self, head: ResponseHead) -> None:
        """See `Sink`."""
        if self._request is not None and self._request.minor == 1:
            self._transport.write(b"HTTP/1.1 %b%b\r\n\r\n" % (head.reason, head.fields))

    def begin(self, head: ResponseHead, raw: bytes, payload: bytes) -> None:
        """See `Sink`."""
        request = cast("RequestHead", self._request)
        self._response_begun = True
        keep = self._keep and not self._front.draining and self._state is _AT_ANSWER
        if keep and head.length is not None and request.minor == 1 and not head.bodiless:
            self._framing = _PLAIN
            # One write, so one system call, for a response that came in one piece.
            self._transport.write(b"".join((b"HTTP/1.1 ", head.reason, head.fields, b"\r\n\r\n", payload)))
            return
        framing, header = _frame(request, head)
        self._framing = framing
        # Without a length, only the end of the connection can end a body that has no framing.
        self._keep = keep and (framing is not _PLAIN or head.length is not None)
        if not self._keep:
            header += b"\r\nConnection: close"
        elif request.minor == 0:
            header += b"\r\nConnection: keep-alive"
        self._transport.write(
            b"HTTP/1.1 %b%b%b\r\n\r\n%b" % (head.reason, head.fields, header, self._framed(raw, payload))
        )

    def data(self, raw: bytes, payload: bytes) -> None:
        """See `Sink`."""
        framed = self._framed(raw, payload)
        if framed:
            self._transport.write(framed)

    def _framed(self, raw: bytes, payload: bytes) -> bytes:
        if self._framing is _RAW:
            return raw
        return chunk(payload) if payload and self._framing is _CHUNKED else payload

    def end(self) -> None:
        """See `Sink`."""
        if self._framing is _CHUNKED:
            self._transport.write(LAST_CHUNK)
        self._call = None
        if self._keep:
            self._next()
        else:
            self._finish(complete=self._state is _AT_ANSWER)

    def fail(self, outcome: Outcome, detail: str) -> None:
        """See `Sink`. A response that has begun is cut off, never passed off as complete."""
        self._call = None
        if self._response_begun:
            self.abort()
            return
        complete = self._state is _AT_ANSWER
        self._keep = self._keep and complete and not self._front.draining
        self._transport.write(self._error(_STATUS[outcome], f"baseline: {detail}", where="baseline"))
        if self._keep:
            self._next()
        else:
            self._finish(complete=complete)

    def hold_upload(self, hold: bool) -> None:
        """See `Sink`."""
        if hold and self._state is not _AT_UPLOAD and self._tunnel is None:
            return
        self._hold(_HELD_BY_UPLOAD, hold)

    # A tunnel (upstream.Sink)

    def switch(self, connection: Connection, head: ResponseHead, data: bytes) -> None:
        """See `Sink`."""
        front = self._front
        self._call = None
        self._tunnel = connection
        self._state = _AT_TUNNEL
        front.tunnels.add(self)
        self._transport.write(b"HTTP/1.1 %b%b\r\n\r\n%b" % (head.reason, head.received, data))
        pending, self._pending = self._pending, b""
        if pending:
            connection.write(pending)
        self._hold(_HELD_BY_REQUEST, False)

    def tunnelled(self, data: bytes) -> None:
        """See `Sink`."""
        self._front.tunnels.add(self)
        self._transport.write(data)

    def tunnel_ended(self) -> None:
        """See `Sink`."""
        self._tunnel = None
        self._close()

    # Ends

    def _next(self) -> None:
        """The response is complete and the connection stays: on to the next request."""
        front = self._front
        self._state = _AT_HEAD
        self._request = None
        self._body = None
        front.idle.add(self)
        if front.draining:
            # Its answer began before the stop, and without a word of closing.
            front.last_calls.add(self)
        pending, self._pending = self._pending, b""
        if self._holds:
            self._hold(_HELD_BY_REQUEST | _HELD_BY_UPLOAD, False)
        if pending:
            self.data_received(pending)

    def _refuse(self, status: int, detail: str) -> None:
        """Answer with an error and close; what the client still sends is thrown away."""
        call, self._call = self._call, None
        if call is not None:
            call.leave()
        if self._response_begun and call is not None:
            self.abort()
            return
        if self._state is _AT_CLOSED:
            return
        self._keep = False
        self._transport.write(self._error(status, detail, where="request"))
        self._finish(complete=False)

    def _error(self, status: int, detail: str, *, where: str) -> bytes:
        request = self._request
        phrase = HTTPStatus(status).phrase
        content = {"source": "shadowproxy", "status": status, "error": phrase, "where": where, "detail": detail}
        if request is not None:
            content["request_id"] = request.request_id.decode("latin-1")
        body = json.dumps(content).encode() + b"\n"
        connection = b"close" if not self._keep else b"keep-alive"
        head = b"HTTP/1.1 %d %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: %b\r\n\r\n" % (
            status,
            phrase.encode("ascii"),
            len(body),
            connection,
        )
        return head if request is not None and request.method == b"HEAD" else head + body

    def _finish(self, *, complete: bool) -> None:
        """Close after what has been written; linger if the client may still be sending."""
        front = self._front
        front.idle.discard(self)
        front.heads.discard(self)
        # Nobody told this client in time that no further request would be answered: it may have sent one.
        unaware = front.draining and self._request is not None and self._request.keep_alive
        if (complete and not self._pending and not unaware) or self._eof:
            self._close()
            return
        self._state = _AT_LINGER
        self._pending = self._partial = b""
        self._hold(_HELD_BY_REQUEST | _HELD_BY_UPLOAD, False)
        front.lingering.add(self)
        self._transport.write_eof()

    def _hold(self, reason: int, hold: bool) -> None:
        self._holds = hold_reading(self._transport, self._holds, reason, hold)

    def idled(self) -> None:
        """Nothing has moved for the idle time."""
        if self._write_held or self._state is _AT_CLOSED:
            self._written_late()
        elif self._state is _AT_BODY or self._state is _AT_UPLOAD:
            if self._holds:
                self._front.idle.add(self)
            else:
                self._refuse(408, f"the body has stalled for {self._front.limits.idle_timeout:g} s")
        else:
            self._state = _AT_CLOSED
            self._transport.close()

    def _written_late(self) -> None:
        """A client that takes nothing is cut off; one that is slow has the time it needs."""
        waiting = self._transport.get_write_buffer_size()
        if waiting < self._backlog:
            self._backlog = waiting
            self._front.idle.add(self)
        else:
            self.abort()

    def lingered(self) -> None:
        """The client has been read from for long enough after its answer."""
        self._close()

    def _close(self) -> None:
        """Close when all that was written has gone out, or as the client takes no more of it."""
        self._state = _AT_CLOSED
        self._backlog = self._transport.get_write_buffer_size()
        self._transport.close()
        self._front.idle.add(self)

    def head_late(self) -> None:
        """A head was begun and not completed in time."""
        self._refuse(408, f"the head was not complete within {self._front.limits.header_timeout:g} s")

    def retire(self) -> None:
        """Close if nothing is under way."""
        if self.idle:
            self._front.idle.discard(self)
            self._state = _AT_CLOSED
            self._transport.close()

    def abort(self) -> None:
        """Cut the connection with a reset: a plain end would pass for the end of a close-delimited body."""
        self._state = _AT_CLOSED
        call, self._call = self._call, None
        if call is not None:
            call.leave()
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.drop()
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        self._transport.abort()


def _frame(request: RequestHead, head: ResponseHead) -> tuple[_Framing, bytes]:
    """How the body goes to the client, and the header line that says so. Content-Length is among the head's own."""
    if head.bodiless:
        return _NONE, b""
    if head.length is not None or request.minor == 0:
        return _PLAIN, b""
    coding = b"\r\nTransfer-Encoding: chunked"
    if request.method == b"HEAD":
        return _NONE, coding if head.chunked else b""
    return _RAW if head.chunked else _CHUNKED, coding
