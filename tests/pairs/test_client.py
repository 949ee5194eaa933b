"""What is shown of a store's URL, and what is said of one that can't be used."""

from __future__ import annotations

import array
import asyncio
import fcntl
import socket
import termios
from pathlib import Path

import pytest

from shadowproxy.errors import StartError
from shadowproxy.pairs.client import Client, redacted


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:SECRET@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://me:SECRET@[::1]:6379", "rediss://me:***@[::1]:6379"),
        ("redis://me@host", "redis://me@host"),
        ("redis://host?password=SECRET", "redis://host"),
        ("unix:///run/redis.sock?password=SECRET", "unix:///run/redis.sock"),
        # A password that nobody encoded: where it ends can't be told, so nothing of it is shown.
        ("redis://:pa/SECRET@host:1/0", "redis://***"),
        ("redis://:pa?SECRET@host:1/0", "redis://***"),
        ("redis://:pa#SECRET@host:1/0", "redis://***"),
        ("redis://:pa@SECRET@host:1/0", "redis://***"),
        ("redis://[::1:6379", "redis://[::1:6379"),
        ("redis://:a://SECRET@host", "redis://***"),
        ("redis+cluster://me:SECRET@h:1,h:2", "redis+cluster://me:***@h:1,h:2"),
        (
            "rediss+cluster://:SECRET@[::1]:1,h?ssl_ca_certs=ca.pem&ssl_password=SECRET",
            "rediss+cluster://:***@[::1]:1,h",
        ),
        ("redis+sentinel://h,i:2/models/1?sentinel_password=SECRET", "redis+sentinel://h,i:2/models/1"),
        ("redis+cluster://:pa/SECRET@h:1,h:2", "redis+cluster://***"),
        ("me:SECRET@host", "***"),
    ],
)
def test_a_shown_url_has_no_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize("url", ["redis://[::1:6379", "redis://:SECRET/x@host:1/0", "redis://h:port", "http://h"])
def test_a_url_that_cannot_be_used_is_one_line_without_its_password(url: str) -> None:
    with pytest.raises(StartError, match=r"redis\.url .*(percent-encode|write redis://)") as raised:
        Client(url, reply_within=1, connect_within=1, attempts=1)
    assert "SECRET" not in str(raised.value)


async def test_a_unix_socket_takes_a_batch_though_the_server_reads_nothing(tmp_path: Path) -> None:
    """More than the 200 KiB that such a socket takes by default."""
    size = 300_000
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        server.setblocking(False)
        client = Client(f"unix://{tmp_path / 's'}", reply_within=10, connect_within=1, attempts=1)
        command = asyncio.create_task(client.command("SET", "key", b"x" * size))
        accepted, _ = await loop.sock_accept(server)
        with accepted:
            async with asyncio.timeout(5):
                while _unread(accepted) < size:
                    if _introduces_itself(accepted):
                        await loop.sock_sendall(accepted, b"+OK\r\n" * accepted.recv(65536).count(b"SETINFO"))
                    await asyncio.sleep(0.001)
        command.cancel()
        await asyncio.gather(command, return_exceptions=True)
        await client.close()


def _unread(peer: socket.socket) -> int:
    waiting = array.array("i", [0])
    fcntl.ioctl(peer, termios.FIONREAD, waiting)
    return waiting[0]


def _introduces_itself(peer: socket.socket) -> bool:
    return 0 < _unread(peer) < 1000 and b"SETINFO" in peer.recv(1000, socket.MSG_PEEK)
