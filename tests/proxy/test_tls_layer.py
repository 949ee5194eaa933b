"""The TLS layer by itself: between a transport that is a list, and the bytes that a real TLS client made."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proxy.secure import Authority

from shadowproxy.certificates import validity
from shadowproxy.proxy.tls import TlsLayer


class Socket(asyncio.Transport):
    """Keeps what is written and done."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.done: list[str] = []

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def taken(self) -> bytes:
        written, self.written = self.written, b""
        return written

    def is_closing(self) -> bool:
        return "close" in self.done or "abort" in self.done

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")

    def write_eof(self) -> None:
        self.done.append("write_eof")

    def pause_reading(self) -> None:
        self.done.append("pause")

    def resume_reading(self) -> None:
        self.done.append("resume")


class Inner(asyncio.Protocol):
    """Keeps what it is told. `hold`: pauses reading with the first bytes."""

    def __init__(self, *, stays: bool = False, hold: bool = False) -> None:
        self.data = b""
        self.events: list[str] = []
        self.transport = cast("asyncio.Transport", None)
        self._stays = stays
        self._hold = hold

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.events.append("made")

    def data_received(self, data: bytes) -> None:
        assert data
        self.data += data
        if self._hold:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self.events.append("eof")
        return self._stays

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.append("lost" if exc is None else f"lost: {exc}")


class Peer:
    """A client's TLS object, and the layer that it talks to."""

    def __init__(self, authority: Authority, inner: Inner, loop: asyncio.AbstractEventLoop) -> None:
        self.failures: list[Exception] = []
        self.inner = inner
        self.socket = Socket()
        self.layer = TlsLayer(
            loop,
            authority.server(),
            inner,
            server_name=None,
            opened=lambda _: None,
            failed=lambda _, error: self.failures.append(error),
        )
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = authority.client().wrap_bio(self._in, self._out, server_hostname="localhost")
        self.layer.connection_made(self.socket)

    def handshake(self, cut: Any = None) -> None:
        for _ in range(4):
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            self.feed(self._out.read(), cut)
            self._in.write(self.socket.taken())

    def feed(self, data: bytes, cuts: Any = None) -> None:
        edges = sorted({cut % len(data) for cut in cuts or () if data} | {0, len(data)})
        for start, stop in itertools.pairwise(edges):
            self.layer.data_received(data[start:stop])

    def says(self, *pieces: bytes, close_notify: bool = False) -> bytes:
        for piece in pieces:
            self.tls.write(piece)
        if close_notify:
            # It waits for ours, unless that has come.
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.unwrap()
        return self._out.read()

    def hears(self) -> bytes:
        self._in.write(self.socket.taken())
        heard = b""
        try:
            while data := self.tls.read(65536):
                heard += data
        except ssl.SSLWantReadError:
            return heard
        except ssl.SSLZeroReturnError:
            pass
        return heard + b"<close_notify>"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40_000), max_size=4),
    hello=st.lists(st.integers(0, 5000), max_size=4),
    cuts=st.lists(st.integers(0, 200_000), max_size=8),
    close_notify=st.booleans(),
)
async def test_any_split_gives_the_same(
    authority: Authority, pieces: list[bytes], hello: list[int], cuts: list[int], close_notify: bool
) -> None:
    inner = Inner()
    peer = Peer(authority, inner, asyncio.get_running_loop())
    peer.handshake(hello)
    assert inner.events == ["made"]
    peer.feed(peer.says(*pieces, close_notify=close_notify), cuts)
    assert inner.data == b"".join(pieces)
    assert inner.events == (["made", "eof"] if close_notify else ["made"])
    if close_notify:
        assert peer.hears() == b"<close_notify>"
        assert peer.socket.done == ["close"]
    else:
        assert peer.layer.eof_received() is False
        assert peer.socket.done == ["abort"]
        peer.layer.connection_lost(None)
        assert inner.events[1:] == ["lost: ended without a close_notify"]
        assert peer.hears() == b""


@given(data=st.binary(max_size=300), begun=st.booleans())
async def test_no_bytes_break_it(authority: Authority, data: bytes, begun: bool) -> None:
    inner = Inner()
    peer = Peer(authority, inner, asyncio.get_running_loop())
    if begun:
        peer.handshake()
    for start in range(0, len(data), 50):
        if not peer.socket.done:
            peer.layer.data_received(data[start : start + 50])
    if not peer.socket.done:
        peer.layer.eof_received()
    peer.layer.connection_lost(None)
    assert inner.data == b""
    assert inner.events[:1] == (["made"] if begun else [])
    assert len(inner.events) == (2 if begun else 0)
    assert begun or len(peer.failures) == 1


async def test_what_is_said_in_a_half_that_is_closed_still_comes_and_the_other_half_is_still_heard(
    authority: Authority,
) -> None:
    inner = Inner(stays=True)
    peer = Peer(authority, inner, asyncio.get_running_loop())
    peer.handshake()
    peer.feed(peer.says(b"question", close_notify=True))
    assert peer.layer.eof_received() is True  # the end of TCP behind it changes nothing
    inner.transport.write(b"answer" * 10_000)
    inner.transport.close()
    assert peer.hears() == b"answer" * 10_000 + b"<close_notify>"
    assert inner.events == ["made", "eof"]


async def test_the_end_is_not_seen_while_reading_is_paused(authority: Authority) -> None:
    inner = Inner(hold=True)
    peer = Peer(authority, inner, asyncio.get_running_loop())
    peer.handshake()
    peer.feed(peer.says(b"first", close_notify=True))
    assert (inner.data, inner.events) == (b"first", ["made"])
    inner.transport.resume_reading()
    inner.transport.pause_reading()
    await asyncio.sleep(0)
    assert inner.events == ["made"]
    inner.transport.resume_reading()
    inner.transport.resume_reading()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert inner.events == ["made", "eof"]


async def test_an_abort_says_nothing(authority: Authority) -> None:
    inner = Inner()
    peer = Peer(authority, inner, asyncio.get_running_loop())
    peer.handshake()
    inner.transport.write(b"part")
    inner.transport.abort()
    inner.transport.write(b"more")
    assert peer.hears() == b"part"
    assert peer.socket.done == ["abort"]


@pytest.mark.parametrize("cuts", [[], [5], [20_000]])
async def test_after_write_eof_the_other_half_is_still_heard(authority: Authority, cuts: list[int]) -> None:
    inner = Inner()
    peer = Peer(authority, inner, asyncio.get_running_loop())
    peer.handshake()
    assert inner.transport.can_write_eof()
    peer.feed(peer.says(b"before"))
    late = peer.says(b"late" * 20_000)
    for cut in cuts:
        # A record of which a part has come is under way when the half is closed.
        peer.feed(late[:cut])
        late = late[cut:]
    inner.transport.write(b"last")
    inner.transport.write_eof()
    inner.transport.write(b"too late")
    peer.feed(late)
    assert peer.hears() == b"last<close_notify>"
    peer.feed(peer.says(b"", close_notify=True) if not cuts else peer.says(b"!"))
    assert inner.data == b"before" + b"late" * 20_000 + (b"!" if cuts else b"")
    if cuts:
        assert inner.events == ["made"]
    else:
        assert (inner.events, peer.socket.done) == (["made", "eof"], ["write_eof", "close"])


async def test_a_record_that_was_changed_on_the_way_ends_the_connection(authority: Authority) -> None:
    inner = Inner()
    peer = Peer(authority, inner, asyncio.get_running_loop())
    peer.handshake()
    good, bad = peer.says(b"good"), bytearray(peer.says(b"bad"))
    bad[-1] ^= 1
    peer.feed(good + bytes(bad))
    peer.layer.connection_lost(None)
    assert inner.data == b"good"
    assert peer.socket.done == ["abort"]
    assert [type(error) for error in peer.failures] == [ssl.SSLError]
    assert len(inner.events) == 2


def test_validity_reads_both_forms_of_time(authority: Authority) -> None:
    """RFC 5280 has years from 2050 on written with four digits."""
    from datetime import UTC, datetime

    for begins, ends in ((1999, 2049), (2000, 2050), (2051, 2999)):
        span = datetime(begins, 2, 3, 4, 5, 6, tzinfo=UTC), datetime(ends, 12, 31, 23, 59, 59, tzinfo=UTC)
        files = authority.issue("dated", not_before=span[0], not_after=span[1])
        pem = Path(files["certificate"]).read_bytes()
        assert validity(b"# a comment\n" + pem) == (span[0].timestamp(), span[1].timestamp())
    with pytest.raises(ValueError, match="no certificate"):
        validity(b"")
