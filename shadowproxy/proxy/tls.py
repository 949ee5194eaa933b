"""TLS between a socket and a protocol of ours, on both sides: to the protocol it looks like the socket.

uvloop's own TLS is not used, since a protocol can't tell what this proxy has to know and do (as of 0.23):

- its `close` waits up to 30 s for the peer's close_notify, which a client that has pooled the connection never sends,
  and those 30 s also cut a slow client that is still taking what was written;
- a close_notify closes both halves, and what is still to be written is lost with a client that only ended its sending;
- what has come while reading was paused is thrown away when the peer's end comes;
- it takes 256 KiB for every connection.

Here the rules are those of a socket: `close` writes what is left, says close_notify and waits for nothing (RFC 8446,
section 6.1, asks for no more); `abort` says nothing, so that a response that is cut can't pass for a complete one; a
half may be closed by itself. `eof_received` is called for a close_notify and for nothing else: an end of the TCP
connection without one is a truncation, and the connection is lost (RFC 9112, section 9.8).

It costs what uvloop's does: 12 µs of CPU for a request of 0.9 KB and an answer of 2.2 KB, and 12 without TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Protocol, cast

_RECORD = 16 * 1024
"""Most that one record holds (RFC 8446, section 5.1), so most that one read gives."""

HANDSHAKE_FAILURES = ("alert", "client_certificate", "closed", "plain_http", "protocol", "stopped", "timeout")
"""The words of `why_no_handshake`."""


class _State(enum.Enum):
    HANDSHAKE = "nothing is known of the peer"
    OPEN = "bytes go both ways, or one way if a half is closed"
    CLOSED = "closed"


class Inner(Protocol):
    """What the layer asks of the protocol within: that of asyncio, whose class it need not be."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        ...

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        ...

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        ...

    def eof_received(self) -> bool | None:
        """See asyncio."""
        ...

    def pause_writing(self) -> None:
        """See asyncio."""
        ...

    def resume_writing(self) -> None:
        """See asyncio."""
        ...


class _Nobody(asyncio.Protocol):
    """Stands where a protocol was: nothing that happens to a connection after its end is of interest."""


_NOBODY = _Nobody()


class TlsLayer(asyncio.Protocol, asyncio.Transport):
    """One TLS connection: a protocol to its socket, a transport to `inner`.

    `inner` is connected when the handshake is done. `opened` is called just before that; `failed`, instead, with what
    went wrong. `failed` is called after `opened` too, where TLS breaks later on: `inner` then loses its connection.
    """

    __slots__ = (
        "_closing",
        "_due",
        "_ended",
        "_failed",
        "_half",
        "_held",
        "_incoming",
        "_inner",
        "_kept",
        "_loop",
        "_opened",
        "_outgoing",
        "_socket",
        "_state",
        "_tls",
        "_trouble",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        inner: Inner,
        *,
        server_name: str | None,
        session: ssl.SSLSession | None = None,
        opened: Callable[[TlsLayer], None],
        failed: Callable[[TlsLayer, Exception], None],
    ) -> None:
        """`server_name`: whom to expect, for a client; None for a server. Raises ValueError for what is no name."""
        super().__init__()
        self._loop = loop
        self._inner: Inner = inner
        self._opened = opened
        self._failed = failed
        self._socket: asyncio.Transport = cast("asyncio.Transport", None)
        self._state = _State.HANDSHAKE
        self._held = False
        self._ended = False
        """Whether close_notify came."""
        self._due = False
        """Whether `inner` has yet to be told: as with a socket, the end is not seen while reading is paused."""
        self._kept = False
        """Whether `inner`, when it was told, kept the connection open."""
        self._half = False
        """Whether our half is closed."""
        self._closing = False
        self._trouble: Exception | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_name is None,
            server_hostname=server_name,
            session=session,
        )

    @property
    def session(self) -> ssl.SSLSession | None:
        """What a later connection may resume. With TLS 1.3 it comes after the handshake, with the first bytes."""
        return self._tls.session

    # asyncio.Protocol: what the socket reports

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._socket = cast("asyncio.Transport", transport)
        self._shake_hands()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._state is _State.OPEN:
            self._incoming.write(data)
            self._decrypt()
        elif self._state is _State.HANDSHAKE:
            self._incoming.write(data)
            self._shake_hands()

    def eof_received(self) -> bool:
        """See asyncio: the end of TCP, which says nothing about that of TLS."""
        if self._state is _State.HANDSHAKE:
            self._give_up(ConnectionResetError("closed during the handshake"))
        elif self._state is _State.OPEN:
            if self._ended:
                return self._due or self._kept
            self._trouble = ConnectionResetError("ended without a close_notify")
            self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        inner, self._inner = self._inner, _NOBODY
        state, self._state = self._state, _State.CLOSED
        self._closing = True
        if state is _State.HANDSHAKE:
            self._failed(self, exc or ConnectionResetError("closed during the handshake"))
        else:
            if isinstance(self._trouble, ssl.SSLError):
                self._failed(self, self._trouble)
            inner.connection_lost(self._trouble or exc)

    def pause_writing(self) -> None:
        """See asyncio."""
        if self._state is not _State.HANDSHAKE:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        if self._state is not _State.HANDSHAKE:
            self._inner.resume_writing()

    # Handshake

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as error:
            # It has left an alert.
            self._flush()
            self._give_up(error)
            return
        self._flush()
        self._state = _State.OPEN
        self._opened(self)
        self._inner.connection_made(self)
        if self._incoming.pending:
            self._decrypt()

    def _give_up(self, error: Exception) -> None:
        """End without a handshake. The protocol was never connected, and is told nothing."""
        self._state = _State.CLOSED
        self._inner = _NOBODY
        self._failed(self, error)
        self.close()

    def give_up(self, error: Exception) -> None:
        """End a handshake that is under way, without a word to the peer."""
        if self._state is _State.HANDSHAKE:
            self._state = _State.CLOSED
            self._inner = _NOBODY
            self._failed(self, error)
            self.abort()

    def say_in_plain(self, words: bytes) -> None:
        """Write to a peer that doesn't speak TLS."""
        self._socket.write(words)

    # Reading

    def _decrypt(self) -> None:
        pieces = []
        try:
            while self._incoming.pending:
                piece = self._tls.read(_RECORD)
                if not piece:
                    self._ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            # So it is said where our own close_notify has been sent.
            self._ended = True
        except ssl.SSLError as error:
            self._trouble = error
        if self._outgoing.pending:
            self._flush()
        if pieces:
            self._inner.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._trouble is not None:
            self.abort()
        elif self._ended:
            self._due = True
            self._tell_end()

    def _tell_end(self) -> None:
        if self._due and not self._held and not self._closing:
            self._due = False
            self._kept = bool(self._inner.eof_received())
            if not self._kept:
                self.close()

    def pause_reading(self) -> None:
        """See asyncio."""
        self._held = True
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio."""
        self._held = False
        self._socket.resume_reading()
        if self._due:
            self._loop.call_soon(self._tell_end)

    def is_reading(self) -> bool:
        """See asyncio."""
        return self._socket.is_reading()

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio."""
        if not data or self._closing or self._half or self._state is not _State.OPEN:
            return
        left = memoryview(data)
        try:
            while left:
                left = left[self._tls.write(left) :]
        except ssl.SSLError as error:
            self._trouble = error
            self.abort()
        else:
            self._flush()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """See asyncio."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """See asyncio."""
        return True

    def write_eof(self) -> None:
        """Say close_notify and close our half of the socket; the peer is still heard."""
        if self._state is _State.OPEN and not self._closing and not self._half:
            self._say_close_notify()
            self._half = True
            self._socket.write_eof()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio. What is counted is encrypted: some 22 bytes a record more."""
        self._socket.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """See asyncio."""
        return self._socket.get_write_buffer_size()

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            self._socket.write(data)

    def _say_close_notify(self) -> None:
        # It is written by the first of the two steps of a shutdown; the second, hearing the peer's, is not waited for.
        # That second step would spoil a whole record that has come and not been read: `_decrypt` leaves none.
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    # Ends

    def is_closing(self) -> bool:
        """See asyncio."""
        return self._closing or self._socket.is_closing()

    def close(self) -> None:
        """Say close_notify after what has been written, and close the socket after that."""
        if self._closing:
            return
        self._closing = True
        if self._state is _State.OPEN and not self._half and not self._socket.is_closing():
            self._say_close_notify()
        self._socket.close()

    def abort(self) -> None:
        """Close at once and without a close_notify."""
        self._closing = True
        self._socket.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the socket knows, and `ssl_object`."""
        return self._tls if name == "ssl_object" else self._socket.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See asyncio."""
        self._inner = cast("Inner", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See asyncio."""
        return cast("asyncio.BaseProtocol", self._inner)

    def __repr__(self) -> str:
        return f"<TlsLayer {self._state.name.lower()}, {self._inner!r}>"


def why_no_handshake(error: Exception) -> str:
    """A word for a handshake that failed, one of HANDSHAKE_FAILURES.

    >>> why_no_handshake(TimeoutError()), why_no_handshake(ConnectionResetError())
    ('timeout', 'closed')
    """
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, ConnectionAbortedError):
        return "stopped"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "client_certificate"
    if not isinstance(error, ssl.SSLError):
        return "closed"
    reason = error.reason or ""
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "client_certificate"
    if reason == "HTTP_REQUEST":
        return "plain_http"
    return "alert" if "_ALERT_" in reason else "protocol"
