"""Certificates of one's own, and both ends of TLS with nothing between the test and the socket."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import trustme
from cryptography import x509
from proxy.harness import DEADLINE, closed

from shadowproxy.config import Address


class Authority:
    """A certificate authority; what it signs stands in files of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ca = trustme.CA()
        self.file = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.file)

    def issue(
        self, name: str, *identities: str, not_before: datetime | None = None, not_after: datetime | None = None
    ) -> dict[str, str]:
        """{certificate, key} of `identities` (localhost and 127.0.0.1 unless given): NAME.pem and NAME.key."""
        leaf = self._ca.issue_cert(
            *(identities or ("localhost", "127.0.0.1")), not_before=not_before, not_after=not_after
        )
        files = {"certificate": str(self.folder / f"{name}.pem"), "key": str(self.folder / f"{name}.key")}
        Path(files["certificate"]).write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(files["key"])
        return files

    def server(self, *, client_ca: Authority | None = None) -> ssl.SSLContext:
        """For an upstream of a test."""
        return served(self.issue("upstream"), client_ca)

    def client(self, certificate: dict[str, str] | None = None) -> ssl.SSLContext:
        """For a client that trusts this authority, and shows `certificate`."""
        context = ssl.create_default_context(cafile=self.file)
        context.set_alpn_protocols(["h2", "http/1.1"])
        if certificate is not None:
            context.load_cert_chain(certificate["certificate"], certificate["key"])
        return context


def served(files: dict[str, str], client_ca: Authority | None = None) -> ssl.SSLContext:
    """A server's context with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["certificate"], files["key"])
    if client_ca is not None:
        context.load_verify_locations(client_ca.file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def serial(files: dict[str, str]) -> int:
    return x509.load_pem_x509_certificate(Path(files["certificate"]).read_bytes()).serial_number


class Wire:
    """One end of a TLS connection, record by record, so that the test decides what is said at its end."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext, name: str | None
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.received = b""
        self.end = ""
        """How the peer ended: `close_notify`, `fin` or `reset`."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=name is None, server_hostname=name)

    async def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
            except ssl.SSLError:
                # The alert that says why.
                self._send()
                raise
            else:
                self._send()
                return

    async def _exchange(self) -> None:
        self._send()
        data = await self.reader.read(65536)
        if not data:
            raise ConnectionResetError("closed")
        self._in.write(data)

    def _send(self) -> None:
        self.writer.write(self._out.read())

    def write(self, data: bytes) -> None:
        self.tls.write(data)
        self._send()

    def close_notify(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()
        self._send()

    def fin(self) -> None:
        """End the TCP connection, and TLS not at all."""
        self.writer.write_eof()

    async def read(self, until: bytes = b"") -> bytes:
        """What comes until `until`, or the peer's end."""
        while not self.end and not (until and until in self.received):
            try:
                data = self.tls.read(65536)
                self.received += data
                if not data:
                    self.end = "close_notify"
            except ssl.SSLZeroReturnError:
                # So it is said where our own close_notify has been sent.
                self.end = "close_notify"
            except ssl.SSLWantReadError:
                try:
                    await self._exchange()
                except ConnectionResetError as error:
                    self.end = "fin" if str(error) == "closed" else "reset"
        return self.received


@contextlib.asynccontextmanager
async def wire(address: Address, context: ssl.SSLContext, name: str = "localhost") -> AsyncIterator[Wire]:
    """A client's end, its handshake done."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        async with asyncio.timeout(DEADLINE):
            one = Wire(reader, writer, context, name)
            await one.handshake()
            yield one
    finally:
        await closed(writer)


@contextlib.asynccontextmanager
async def secure(
    address: Address, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client on the event loop's own TLS."""
    reader, writer = await asyncio.open_connection(*address, ssl=context, server_hostname="localhost", limit=2**22)
    try:
        async with asyncio.timeout(DEADLINE * 2):
            yield reader, writer
    finally:
        await closed(writer)
