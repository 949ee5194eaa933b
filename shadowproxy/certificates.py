"""Keys and certificates in files: made into contexts, and read anew when the files change.

A context is never changed in place: half of a new certificate would stand in it if the other half is broken. A new one
is made, and takes the old one's place only when it is whole; connections that are open keep what they have.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import re
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path

from shadowproxy.config import ListenerTls, ServerTls, UpstreamTls
from shadowproxy.errors import StartError
from shadowproxy.tasks import Tasks

log = logging.getLogger(__name__)

LOOK = 3.0
"""Seconds between two looks at the files."""

_VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_ALPN = ["http/1.1"]


class Contexts:
    """A TLS context made from files, the newest that could be made.

    `files` are (key of the configuration, path); `make` makes a context of them and raises StartError. The constructor
    raises it too: without a first context there is nothing to go on with.
    """

    def __init__(self, files: Sequence[tuple[str, Path]], make: Callable[[], ssl.SSLContext]) -> None:
        self._files = tuple(files)
        self._make = make
        # Looked at before they are read: a change in between is then seen as one.
        self._seen = self._look()
        self.current = make()

    async def refresh(self, *, force: bool = False) -> None:
        """Make a new context if a file has changed, or by `force`. One that can't be made is logged, the old one stays.

        Files and keys are read in a thread.
        """
        seen = self._look()
        if seen == self._seen and not force:
            return
        self._seen = seen
        names = ", ".join(f"{key} ({path})" for key, path in self._files)
        try:
            self.current = await asyncio.to_thread(self._make)
        except (StartError, OSError) as error:
            log.error("%s; what was read before stays in force until the file is mended", error)
        else:
            log.info("read anew, for new connections: %s", names)

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(_identity(path) for _, path in self._files)

    def __bool__(self) -> bool:
        """Whether there are files at all."""
        return bool(self._files)

    def __repr__(self) -> str:
        return f"<Contexts of {', '.join(key for key, _ in self._files) or 'no files'}>"


def _identity(path: Path) -> tuple[int, ...] | None:
    """What changes with a file, links followed (a mounted secret is exchanged by moving a link)."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


class CertificateWatch:
    """Looks at the files of all contexts every LOOK seconds, and at once when told to."""

    def __init__(self, contexts: Sequence[Contexts], tasks: Tasks, *, every: float = LOOK) -> None:
        self._contexts = [one for one in contexts if one]
        self._tasks = tasks
        self._every = every
        self._now = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if there is anything to watch."""
        if self._contexts and self._running is None:
            self._running = self._tasks.start(self._run(), name="certificates")

    def look_now(self) -> None:
        """Read all files anew, changed or not."""
        self._now.set()

    def stop(self) -> None:
        """End."""
        if self._running is not None:
            self._running.cancel()
            self._running = None

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every):
                    await self._now.wait()
            except TimeoutError:
                pass
            forced = self._now.is_set()
            self._now.clear()
            for contexts in self._contexts:
                await contexts.refresh(force=forced)


def listener_contexts(tls: ServerTls, *, clock: Callable[[], float], where: str = "proxy.tls") -> Contexts:
    """Of a listener that has a certificate. Raises StartError with the key's path, which begins with `where`.

    `clock` is Unix time: a certificate outside its validity is served all the same, and warned of.
    """
    certificate, key = Path(tls.certificate or ""), Path(tls.key or tls.certificate or "")
    client_ca = tls.client_ca if isinstance(tls, ListenerTls) else None
    files = _files(where, certificate=tls.certificate, key=tls.key, client_ca=client_ca)

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[tls.min_version]
        # A client that could renegotiate would have us make a handshake for each of its records.
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(_ALPN)
        _load_pair(context, where, certificate, key)
        _warn_of_dates(f"{where}.certificate", certificate, clock())
        if client_ca is not None:
            _load_ca(context, f"{where}.client_ca", Path(client_ca))
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    return Contexts(files, make)


def upstream_contexts(side: str, tls: UpstreamTls, *, clock: Callable[[], float]) -> Contexts:
    """Of the connections to one upstream. Raises StartError with the key's path."""
    where = f"{side}.tls"
    files = _files(where, ca=tls.ca, certificate=tls.certificate, key=tls.key)

    def make() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(_ALPN)
        if not tls.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif tls.ca is not None:
            _load_ca(context, f"{where}.ca", Path(tls.ca))
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if tls.certificate is not None:
            certificate = Path(tls.certificate)
            _load_pair(context, where, certificate, Path(tls.key or tls.certificate))
            _warn_of_dates(f"{where}.certificate", certificate, clock())
        return context

    return Contexts(files, make)


def _files(where: str, **paths: str | None) -> list[tuple[str, Path]]:
    return [(f"{where}.{name}", Path(path)) for name, path in paths.items() if path is not None]


def _load_pair(context: ssl.SSLContext, where: str, certificate: Path, key: Path) -> None:
    key_at = f"{where}.key" if key != certificate else f"{where}.certificate"
    for at, path in ((f"{where}.certificate", certificate), (key_at, key)):
        _check_readable(at, path)
    try:
        # The empty password keeps OpenSSL from asking for one at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise StartError(
                f"{key_at}: {key} is not the key of the certificate in {certificate}: exchange both files"
            ) from None
        if not _PEM.search(certificate.read_bytes()):
            raise StartError(
                f"{where}.certificate: {certificate} holds no certificate: give a PEM file with the server's own first"
            ) from None
        raise StartError(
            f"{key_at}: {key} and {certificate} can't be used: {_reason(error)}; give PEM files, the key without a "
            "passphrase"
        ) from None
    except (OSError, ValueError) as error:
        raise StartError(f"{key_at}: {key} can't be used: {error}; give a PEM file, without a passphrase") from None


def _load_ca(context: ssl.SSLContext, at: str, path: Path) -> None:
    _check_readable(at, path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise StartError(
            f"{at}: {path} holds no certificates that can be read: {_reason(error)}; give a PEM file"
        ) from None


def _check_readable(at: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise StartError(f"{at}: there is no file {path}") from None
    except OSError as error:
        raise StartError(f"{at}: {path} can't be read: {(error.strerror or str(error)).lower()}") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _warn_of_dates(at: str, path: Path, now: float) -> None:
    try:
        begins, ends = validity(path.read_bytes())
    except (ValueError, IndexError, OSError):
        # OpenSSL has taken it: a date that is written as no other is, is no reason not to serve.
        return
    if now > ends:
        log.warning("%s: the certificate in %s expired on %s; peers will refuse it: renew it", at, path, _date(ends))
    elif now < begins:
        log.warning("%s: the certificate in %s is not valid before %s; peers will refuse it", at, path, _date(begins))


def _date(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def validity(pem: bytes) -> tuple[float, float]:
    """When the first certificate in `pem` begins and ends to be valid, Unix time (RFC 5280, section 4.1.2.5).

    Python's ssl tells this of a peer's certificate only. Raises ValueError where there is none.
    """
    match = _PEM.search(pem)
    if match is None:
        raise ValueError("there is no certificate")
    (_, certificate), _ = _element(ssl.PEM_cert_to_DER_cert(match[0].decode("ascii")))
    (_, rest), _ = _element(certificate)
    (tag, _), after = _element(rest)
    if tag == _VERSION:
        rest = after
    # Serial number, algorithm and issuer stand before it.
    for _ in range(3):
        _, rest = _element(rest)
    (_, dates), _ = _element(rest)
    begins, rest = _element(dates)
    ends, _ = _element(rest)
    return _moment(*begins), _moment(*ends)


_VERSION, _UTC_TIME = 0xA0, 0x17


def _element(der: bytes) -> tuple[tuple[int, bytes], bytes]:
    """((tag, content), what follows) of the element that `der` begins with (X.690, sections 8.1.2 and 8.1.3)."""
    length, at = der[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(der[2:at], "big")
    return (der[0], der[at : at + length]), der[at + length :]


def _moment(tag: int, text: bytes) -> float:
    written = text.decode("ascii")
    if tag == _UTC_TIME:
        # RFC 5280, section 4.1.2.5.1: years from 50 on are of the last century.
        written = ("19" if written[:2] >= "50" else "20") + written
    return datetime.datetime.strptime(written, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.UTC).timestamp()
