"""One upstream: its pool of connections, and the calls that use them. Callbacks only; a task just to connect."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol, cast
from urllib.parse import quote, urlsplit

from shadowproxy.config import Upstream
from shadowproxy.model import Exchange, Outcome, Side
from shadowproxy.proxy.arrivals import Arrivals
from shadowproxy.proxy.bodies import LAST_CHUNK, BadFramingError, Body, CloseBody, chunk
from shadowproxy.proxy.connector import Connector, NoConnectionError
from shadowproxy.proxy.exchange import Observation
from shadowproxy.proxy.flow import hold_reading
from shadowproxy.proxy.framing import (
    RESPONSE_HEAD_LIMIT,
    SAFE_TO_REPEAT,
    MalformedResponseError,
    RequestHead,
    ResponseHead,
    ResponseRules,
)
from shadowproxy.proxy.shaping import shaper
from shadowproxy.proxy.timers import Deadlines
from shadowproxy.proxy.trace import NewSpan
from shadowproxy.proxy.turns import RECEIVE_BUFFER, Turns
from shadowproxy.tasks import Tasks

WRITE_HIGH: Final = 64 * 1024
"""Bytes that wait for an upstream before its writer is paused."""
MAX_INTERIMS: Final = 64
"""Most 1xx responses before the final one: no deadline ends what takes the loop's time in a single read."""
_OK: Final = Outcome.OK
SLOTS: Final = {side: slot for slot, side in enumerate(Side)}
"""A number for each side: hashing an enum's member for every exchange is a Python call."""

_HELD_BY_CLIENT: Final = 1
_HELD_FOR_TURN: Final = 2

Observe = Callable[[Outcome, float, RequestHead], None]
"""Told once of every exchange with one side that ended: how, its total in seconds (infinite for a failure), and the
request as it came."""


class Sink(Protocol):
    """Who gets a response while it comes: a client's connection."""

    def interim(self, head: ResponseHead) -> None:
        """A 1xx response came."""
        ...

    def begin(self, head: ResponseHead, raw: bytes, payload: bytes) -> None:
        """The head of the final response came, with what came of the body in the same read (see `data`)."""
        ...

    def data(self, raw: bytes, payload: bytes) -> None:
        """A part of the body, as it was framed and without framing."""
        ...

    def end(self) -> None:
        """The response is complete."""
        ...

    def fail(self, outcome: Outcome, detail: str) -> None:
        """The response will never be complete."""
        ...

    def hold_upload(self, hold: bool) -> None:
        """Stop, or go on, handing over the request's body."""
        ...

    def switch(self, connection: Connection, head: ResponseHead, data: bytes) -> None:
        """The upstream has changed protocols as asked; `data` came behind its head. The connection is the sink's."""
        ...

    def tunnelled(self, data: bytes) -> None:
        """Bytes came through the tunnel."""
        ...

    def tunnel_ended(self) -> None:
        """The upstream has closed its end of the tunnel."""
        ...


class Call:
    """One request to one upstream, from its dispatch to the end of the response.

    It *settles* once: its exchange is then handed to `settled`. It is *over* once: the upstream no longer works on it.
    The two differ only for a client's call whose deadline passes amid the response: the exchange is then a TIMEOUT, but
    the client goes on getting what the baseline sends, until that falls silent for as long as the deadline.
    """

    __slots__ = (
        "_fresh",
        "_heads_up",
        "_moved",
        "_settled",
        "connection",
        "guarded",
        "held",
        "method",
        "over",
        "pool",
        "request",
        "sink",
        "upgrade",
        "upload",
        "watch",
        "wire",
    )

    def __init__(
        self,
        pool: Pool,
        request: RequestHead,
        body: bytes | None,
        *,
        extra: bytes = b"",
        sink: Sink | None = None,
        settled: Callable[[Call, Exchange], None] | None = None,
    ) -> None:
        self.pool = pool
        self.request = request
        self.method = request.method
        self.upgrade = request.upgrade
        self.sink = sink
        self.connection: Connection | None = None
        self.over = False
        self.held = False
        """Whether the client ever made the response wait."""
        self.upload = _Upload(chunked=request.length is None) if body is None else None
        self.wire = pool.shape(request, body, extra)
        self.guarded: list[bytes] | None = []
        """Of the response's head (see `ResponseHead`)."""
        self._settled = settled
        self.watch: Observation | None = Observation(pool.capture if settled is not None else 0)
        """What is observed, until the call has settled."""
        self._heads_up = False
        self._moved = False
        self._fresh = False

    @property
    def captured(self) -> int:
        """Bytes of the response that are held by now."""
        return 0 if self.watch is None else self.watch.held

    def start(self) -> None:
        """Dispatch the request; the deadline runs from here."""
        self.pool.begin(self)

    # What its connection reports

    def sent(self) -> None:
        """The last byte of the request has been written."""
        if self.watch is not None and (self.upload is None or self.upload.complete):
            self.watch.sent = self.pool.monotonic()

    def interim(self, head: ResponseHead) -> None:
        """A 1xx response came."""
        if self.sink is not None:
            self.sink.interim(head)

    def begin(self, head: ResponseHead, raw: bytes, payload: bytes) -> None:
        """The response begins, with the first part of its body (often all of it)."""
        self._heads_up = True
        if payload and self._settled is not None and self.watch is not None:
            self.watch.feed(payload)
        if self.sink is not None:
            self.sink.begin(head, raw, payload)

    def data(self, raw: bytes, payload: bytes) -> None:
        """A part of the response's body came."""
        self._moved = True
        watch = self.watch
        if watch is not None and payload and self._settled is not None:
            watch.feed(payload)
        if self.sink is not None:
            self.sink.data(raw, payload)
        elif watch is not None and watch.overflowed and self.connection is not None:
            self.pool.turns.took(self.connection, len(raw))

    def switch(self, connection: Connection, head: ResponseHead, data: bytes) -> None:
        """The protocol has changed: from here on the client and `connection` have each other."""
        self.connection = None
        sink = cast("Sink", self.sink)
        self._finish()
        sink.switch(connection, head, data)
        self._settle(_OK, "")

    def complete(self) -> None:
        """The response is complete and its connection is no longer this call's."""
        self.connection = None
        self._finish()
        # The client first: encoding or offering the pair must not delay, nor its failure hurt, the answer.
        if self.sink is not None:
            self.sink.end()
        self._settle(_OK, "")

    def lost(self, outcome: Outcome, detail: str, *, stale: bool = False) -> None:
        """The connection is gone, or there never was one.

        `stale`: it had been idle and ended without a byte of a response, so that the upstream may never have seen the
        request. Then it is sent once more, on a new connection, if its method is safe to repeat.
        """
        self.connection = None
        if self.over:
            return
        if stale and not self._fresh and self.upload is None and self.method in SAFE_TO_REPEAT:
            self._fresh = True
            if self.watch is not None:
                self.watch.sent = None
            self.pool.connect(self)
            return
        self._finish()
        if self.sink is not None:
            self.sink.fail(outcome, detail)
        self._settle(outcome, detail)

    # What the client's side asks for

    def hold_response(self, hold: bool) -> None:
        """Stop, or go on, reading the response: the client can't take more."""
        self.held = self.held or hold
        if self.connection is not None:
            self.connection.hold(_HELD_BY_CLIENT, hold)

    def hold_upload(self, hold: bool) -> None:
        """The upstream can't take more of the request, or can again."""
        if self.upload is not None:
            self.upload.held = hold
        if self.sink is not None:
            self.sink.hold_upload(hold)

    def extend(self) -> None:
        """A part of a streamed request came: the deadline runs anew. A long upload is the client's time."""
        if not self.over:
            self.pool.extend(self)

    def leave(self) -> None:
        """The client is gone. A recorded exchange is read to its end all the same, within its deadline; others stop."""
        self.sink = None
        if self._settled is None or self.watch is None or self.upload is not None:
            self.abandon(Outcome.RESET, "the client went away")
        elif self.connection is not None:
            self.connection.hold(_HELD_BY_CLIENT, False)

    def abandon(self, outcome: Outcome, detail: str) -> None:
        """End the call at once, as `outcome`."""
        connection = self.connection
        self.lost(outcome, detail)
        if connection is not None:
            connection.drop()

    def expire(self) -> None:
        """The deadline has passed."""
        if self.upload is not None and not self.upload.complete and not self.upload.held:
            # The upstream waits for the client, whose own timeouts end that.
            self.pool.extend(self)
        elif self.sink is not None and self._heads_up:
            self._settle(Outcome.TIMEOUT, f"not complete within {self.pool.deadline:g} s")
            self._moved = False
            self.pool.silences.add(self)
        else:
            self.abandon(Outcome.TIMEOUT, f"no complete response within {self.pool.deadline:g} s")

    def silent(self) -> None:
        """As long as the deadline has passed again. A client that holds the response is given the time it needs."""
        held = self.connection is not None and self.connection.held
        if self._moved or held:
            self._moved = False
            self.pool.silences.add(self)
        else:
            self.abandon(Outcome.TIMEOUT, f"silent for {self.pool.deadline:g} s amid the response")

    def _settle(self, outcome: Outcome, detail: str) -> None:
        watch = self.watch
        if watch is None:
            return
        self.watch = None
        pool = self.pool
        exchange = watch.conclude(outcome, detail)
        if pool.observe is not None:
            pool.observe(outcome, exchange.total, self.request)
        if self._settled is not None:
            self._settled(self, exchange)

    def _finish(self) -> None:
        self.over = True
        self.pool.finished(self)


class _Upload:
    """The request's body, where it is streamed: bounded by holding the client."""

    __slots__ = ("_chunked", "_waiting", "complete", "held")

    def __init__(self, *, chunked: bool) -> None:
        self.complete = False
        self.held = False
        """Whether it is the upstream that makes it wait."""
        self._chunked = chunked
        self._waiting: list[bytes] = []

    def write(self, connection: Connection | None, payload: bytes, *, last: bool) -> None:
        """Pass on a part of the body; `last` completes it."""
        if self._chunked:
            payload = (chunk(payload) if payload else b"") + (LAST_CHUNK if last else b"")
        self.complete = last
        if connection is None:
            self._waiting.append(payload)
        else:
            connection.write(payload)

    def flush(self, connection: Connection) -> None:
        """Write what waited for the connection."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            connection.write(b"".join(waiting))


class Connection:
    """One connection to an upstream, with at most one call on it; after a change of protocol, the end of a tunnel."""

    __slots__ = (
        "_body",
        "_call",
        "_heard",
        "_holds",
        "_interims",
        "_partial",
        "_pool",
        "_reusable",
        "_rules",
        "_small",
        "_transport",
        "_tunnel",
        "_used",
        "_write_held",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._rules = pool.rules
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._call: Call | None = None
        self._body: Body | None = None
        self._tunnel: Sink | None = None
        self._partial = b""
        self._interims = 0
        self._small = False
        self._heard = False
        self._used = False
        self._reusable = True
        self._holds = 0
        self._write_held = False

    @property
    def usable(self) -> bool:
        """Whether a call may be put on it."""
        return self._call is None and not self._transport.is_closing()

    @property
    def held(self) -> bool:
        """Whether reading is paused."""
        return self._holds != 0

    @property
    def address(self) -> str:
        """Whom it is connected to."""
        peer = self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    def take(self, call: Call) -> None:
        """Put `call` on this connection and send its request."""
        self._call = call
        self._body = None
        self._partial = b""
        self._interims = 0
        self._heard = False
        call.connection = self
        self._transport.write(call.wire)
        if call.upload is None:
            # Its clock starts when the bytes have been handed to the kernel.
            if not self._write_held and call.watch is not None:
                call.watch.sent = self._pool.monotonic()
        else:
            call.upload.flush(self)
            call.hold_upload(False)

    def write(self, data: bytes) -> None:
        """Write bytes of a request that is streamed, or into a tunnel."""
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if not self._write_held and self._call is not None:
            self._call.sent()

    def hold(self, reason: int, hold: bool) -> None:
        """Pause reading for `reason`, or take that back."""
        self._holds = hold_reading(self._transport, self._holds, reason, hold)

    def hold_for_turn(self, hold: bool) -> None:
        """See `turns.Reader`. From its first wait on, a read brings little."""
        if hold and not self._small:
            self._small = True
            sock = self._transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        self.hold(_HELD_FOR_TURN, hold)

    def hold_tunnel(self, hold: bool) -> None:
        """Pause reading as the client can't take more, or go on."""
        self.hold(_HELD_BY_CLIENT, hold)

    def drop(self) -> None:
        """Close at once, whatever is under way."""
        self._call = self._tunnel = None
        self._transport.abort()

    def write_eof(self) -> None:
        """The client will send no more into the tunnel."""
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Close a tunnel when what was written has gone out."""
        self._tunnel = None
        self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)
        # The low mark is 0: `resume_writing` then means that the kernel has the last byte, which starts the clock.
        self._transport.set_write_buffer_limits(high=WRITE_HIGH, low=0)
        self._pool.opened(self)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._write_held = True
        if self._call is not None:
            self._call.hold_upload(True)
        elif self._tunnel is not None:
            self._tunnel.hold_upload(True)

    def resume_writing(self) -> None:
        """See asyncio."""
        self._write_held = False
        if self._call is not None:
            self._call.sent()
            self._call.hold_upload(False)
        elif self._tunnel is not None:
            self._tunnel.hold_upload(False)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        call = self._call
        if call is None:
            if self._tunnel is None:
                self._transport.abort()
            else:
                self._tunnel.tunnelled(data)
            return
        self._heard = True
        watch = call.watch
        if watch is not None:
            # Before anything is done with them: see `Observation`.
            watch.last = self._pool.arrivals.now()
        try:
            if self._body is None:
                self._heads(call, data)
            else:
                raw, payload, surplus = _part(self._body, data)
                call.data(raw, payload)
                self._check_end(call, self._body, surplus)
        except (MalformedResponseError, BadFramingError) as error:
            self.drop()
            call.lost(Outcome.PROTOCOL, str(error))

    def _heads(self, call: Call, data: bytes) -> None:
        """Read heads until that of the final response, and what follows it."""
        while data:
            if self._partial:
                data = self._partial + data
                self._partial = b""
            elif call.watch is not None:
                call.watch.first = call.watch.last
            end = data.find(b"\r\n\r\n")
            if (len(data) if end < 0 else end) > RESPONSE_HEAD_LIMIT:
                raise MalformedResponseError(f"the head is larger than {RESPONSE_HEAD_LIMIT} bytes")
            if end < 0:
                self._partial = data
                if not b"HTTP/1.".startswith(data[:7]):
                    raise MalformedResponseError("the status line is not that of HTTP/1")
                return
            head = self._rules.parse(data[:end])
            data = data[end + 4 :]
            if head.status >= 200:
                self._reusable = head.keep_alive
                # What follows may prove broken; the head has come all the same.
                if call.watch is not None:
                    call.watch.status = head.status
                    call.watch.head = head.received.removeprefix(b"\r\n")
                    call.guarded = head.guarded
                if head.length == len(data) and data and not head.bodiless and call.method != b"HEAD":
                    # The usual case, whole in one read, needs no decoder.
                    call.begin(head, data, data)
                    if self._call is call:
                        self._complete(call, keep=True)
                    return
                body = self._body = head.body(call.method, lean=call.sink is None)
                raw, payload, surplus = _part(body, data)
                call.begin(head, raw, payload)
                self._check_end(call, body, surplus)
                return
            if head.status == 101:
                self._switch(call, head, data)
                return
            self._interims += 1
            if self._interims > MAX_INTERIMS:
                raise MalformedResponseError(f"more than {MAX_INTERIMS} interim responses")
            if head.status != 100:
                call.interim(head)

    def _switch(self, call: Call, head: ResponseHead, data: bytes) -> None:
        if not call.upgrade or not head.upgrade or call.sink is None:
            raise MalformedResponseError("101 Switching Protocols was not asked for")
        self._call = None
        self._tunnel = call.sink
        call.switch(self, head, data)

    def _check_end(self, call: Call, body: Body, surplus: bytes) -> None:
        if body.done and self._call is call:
            # Bytes after the end belong to no request: the response stands, the connection can't be trusted.
            self._complete(call, keep=not surplus)

    def _complete(self, call: Call, *, keep: bool) -> None:
        self._call = None
        self._used = True
        if self._holds:
            self.hold(_HELD_BY_CLIENT | _HELD_FOR_TURN, False)
        whole = call.upload is None or call.upload.complete
        sound = self._reusable and not self._small and not self._write_held and not self._transport.is_closing()
        if keep and whole and sound:
            self._pool.release(self)
        else:
            self._transport.close()
        call.complete()

    def eof_received(self) -> None:
        """See asyncio."""
        call = self._call
        if call is not None and isinstance(self._body, CloseBody):
            self._reusable = False
            self._complete(call, keep=False)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if self._small:
            self._pool.turns.leave(self)
        self._pool.closed(self)
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.tunnel_ended()
        call, self._call = self._call, None
        if call is None:
            return
        if not self._heard:
            call.lost(Outcome.RESET, "closed before any byte of a response", stale=self._used)
        else:
            call.lost(Outcome.RESET, "closed before the response was complete")


def _part(body: Body, data: bytes) -> tuple[bytes, bytes, bytes]:
    """(raw, payload, surplus) of `data`, which is of `body` and perhaps beyond."""
    if body.done or not data:
        return b"", b"", data
    payload, surplus = body.feed(data)
    return data if not surplus else data[: len(data) - len(surplus)], payload, surplus


class Pool:
    """The connections to one upstream. LIFO, so that a burst's surplus grows old and is closed."""

    def __init__(
        self,
        side: Side,
        upstream: Upstream,
        connector: Connector,
        *,
        capture: int,
        guarded: frozenset[bytes] | None,
        new_span: NewSpan,
        loop: asyncio.AbstractEventLoop,
        tasks: Tasks,
        monotonic: Callable[[], float],
        arrivals: Arrivals,
        observe: Observe | None,
    ) -> None:
        parts = urlsplit(upstream.url)
        self.side = side
        self.slot = SLOTS[side]
        self.connector = connector
        connector.left = self.leave
        self.authority = connector.authority
        prefix = quote(parts.path, safe="/%:@!$&'()*+,;=~-._").encode("ascii").rstrip(b"/")
        self.shape = shaper(
            upstream, prefix, self.authority, side.value, new_span=None if side is Side.BASELINE else new_span
        )
        self.deadline = upstream.deadline
        self.capture = capture
        self.rules = ResponseRules(guarded)
        self.monotonic = monotonic
        self.arrivals = arrivals
        self.observe = observe
        self.in_flight = 0
        self.silences: Deadlines[Call] = Deadlines(loop, upstream.deadline, Call.silent)
        self._max_idle = upstream.max_idle
        self._loop = loop
        self._tasks = tasks
        self._deadlines: Deadlines[Call] = Deadlines(loop, upstream.deadline, Call.expire)
        self._open: set[Connection] = set()
        self._idle: Deadlines[Connection] = Deadlines(loop, upstream.idle_timeout, Connection.drop)
        self.turns = Turns(loop)
        self._closing = False
        self._retired: set[Connection] = set()
        """Connections to addresses that are not used any more, each until its call is over."""

    # Calls

    def begin(self, call: Call) -> None:
        """Send `call` on an idle connection, or on a new one."""
        self.in_flight += 1
        self._deadlines.start(call)
        while (connection := self._idle.pop()) is not None:
            if connection.usable:
                connection.take(call)
                return
        self.connect(call)

    @property
    def captured(self) -> int:
        """Bytes of the responses under way, within their deadline, that are held by now."""
        return sum(call.captured for call in self._deadlines)

    def connect(self, call: Call) -> None:
        """Send `call` on a new connection."""
        call.hold_upload(True)
        self._tasks.start(self._connect(call), name=f"connect to {self.side.value}")

    def _protocol(self) -> Any:
        # asyncio asks for a subclass of its Protocol by its types alone. A class of its own can be compiled.
        return Connection(self)

    async def _connect(self, call: Call) -> None:
        connection: Connection
        try:
            connection = await self.connector.connect(self._protocol)
        except NoConnectionError as error:
            call.lost(Outcome.CONNECT, str(error))
        except asyncio.CancelledError:
            call.lost(Outcome.CONNECT, "the proxy is stopping")
            raise
        else:
            if call.over or not connection.usable:
                self.release(connection)
                call.lost(Outcome.RESET, "closed before any byte of a response")
            else:
                connection.take(call)

    def extend(self, call: Call) -> None:
        """Let the deadline of `call` run from now."""
        self._deadlines.add(call)

    def finished(self, call: Call) -> None:
        """`call` is over."""
        self.in_flight -= 1
        self._deadlines.discard(call)
        if self.silences:
            self.silences.discard(call)

    # Connections

    def opened(self, connection: Connection) -> None:
        """`connection` was made."""
        self._open.add(connection)

    def release(self, connection: Connection) -> None:
        """`connection` has nothing to do: keep it for the next call, or close it."""
        if self._closing or len(self._idle) >= self._max_idle or not connection.usable or connection in self._retired:
            connection.drop()
        else:
            self._idle.start(connection)

    def closed(self, connection: Connection) -> None:
        """`connection` is gone."""
        self._open.discard(connection)
        self._retired.discard(connection)
        self._idle.discard(connection)

    def leave(self, address: str) -> None:
        """Let no call begin on a connection to `address`: idle ones are closed, busy ones after their answer."""
        for connection in tuple(self._open):
            if connection.address == address:
                if connection in self._idle:
                    self._idle.discard(connection)
                    connection.drop()
                else:
                    self._retired.add(connection)

    async def probe(self) -> str:
        """Empty if a connection can be made, else why not."""
        return await self.connector.probe()

    def close(self) -> None:
        """End every call and close every connection."""
        self._closing = True
        self.connector.close()
        for call in (*self._deadlines, *self.silences):
            call.abandon(Outcome.RESET, "the proxy is stopping")
        for connection in tuple(self._open):
            connection.drop()
        for timers in (self._deadlines, self.silences):
            timers.close()
        self._idle.close()
        self.turns.close()

    def __repr__(self) -> str:
        return f"<Pool {self.side} {len(self._idle)} idle of {len(self._open)}, {self.in_flight} calls>"
