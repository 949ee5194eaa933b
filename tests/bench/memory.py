"""proxy-memory: what the proxy keeps of a million requests whose copies all hang, and of bodies of 64 MB.

The million comes over many connections in a closed loop, in equal parts; memory is read after each part, with nothing
under way but the copies that hang. The first part is the warm-up. Copies beyond `max_in_flight` are shed and recorded
as such, and the account must agree with what the clients, the upstreams and the store have counted.

The bodies go through one at a time: up and down, with both ends fast, and with the receiving end slow, so that the
proxy has to hold the sender back. What counts is the kernel's mark of the most memory that was ever resident
meanwhile.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.openloop import Outcome
from bench.options import Options
from bench.report import Check, Goal, Report
from bench.rig import Audit, MiB, Peak, Rig, rig, tally
from bench.upstreams import BLOCK
from bench.wire import BASELINE, CANDIDATE

REQUESTS: Final = 1_000_000
PARTS: Final = 20
CONNECTIONS: Final = 256
GROWTH_MOST: Final = 0.05
BODY: Final = 64 * MiB
BODY_MOST: Final = 16 * MiB
_PAUSE: Final = 0.002
"""Seconds that a slow client rests after each block of 64 KiB: about 30 MB a second."""

CONFIGURATION: Final[dict[str, Any]] = {
    "experiment": "memory",
    "proxy": {"mirror": {"max_in_flight": 256}},
    # A closed loop is faster than the recorder. What waits for the store fills this, and has to before the warm-up is
    # over; pairs beyond it are dropped and counted.
    "recorder": {"max_bytes": "8MiB"},
}


@dataclass(frozen=True)
class Part:
    """A part of the million."""

    sent: int
    """In all, up to its end."""
    per_second: float
    rss: int


@dataclass(frozen=True)
class Hung:
    """The million."""

    parts: tuple[Part, ...]
    errors: dict[str, int]
    in_flight_most: int
    """Connections that the candidate had at once; likewise the bound."""
    in_flight_bound: int
    audit: Audit

    @property
    def growth(self) -> float:
        """From the end of the warm-up to the end, as a share."""
        return self.parts[-1].rss / self.parts[0].rss - 1

    @property
    def contained(self) -> list[str]:
        """What is not as it must be whatever the machine."""
        wrong = list(self.audit.wrong)
        if self.errors:
            wrong.append(f"clients got {tally(self.errors)}")
        if self.in_flight_most > self.in_flight_bound:
            wrong.append(f"{self.in_flight_most} copies were under way, allowed are {self.in_flight_bound}")
        if not self.audit.candidate.get("shed"):
            wrong.append("no copy was shed, so that the bound was not reached")
        return wrong


@dataclass(frozen=True)
class Transfer:
    """One large body."""

    what: str
    seconds: float
    size: int
    """Bytes that arrived."""
    growth: int


def hung(one: Rig, requests: int, parts: int, connections: int, told: Callable[[str], None]) -> Hung:
    """So many requests while the candidate answers none."""
    one.upstream(CANDIDATE).switch(CANDIDATE, "hung")
    found: list[Part] = []
    errors: dict[str, int] = {}
    for _ in range(parts):
        outcome: Outcome = one.clients.closed_loop(requests // parts, connections=connections)
        for what, count in outcome.errors.items():
            errors[what] = errors.get(what, 0) + count
        found.append(Part(one.clients.sent, outcome.sent / outcome.seconds, one.proxy.rss()))
        told(f"{found[-1].sent:,} requests, {found[-1].per_second:,.0f}/s, RSS {found[-1].rss / MiB:.1f} MiB")
    audit = one.audit()
    most = one.upstream(CANDIDATE).counts(CANDIDATE).most_open
    one.upstream(CANDIDATE).switch(CANDIDATE, "healthy")
    # Idle connections from before the fault are among those that are open.
    mirror, idle = one.settings.proxy.mirror, one.settings.candidate.max_idle
    return Hung(tuple(found), errors, most, mirror.max_in_flight + idle, audit)


def transfers(one: Rig, size: int = BODY) -> list[Transfer]:
    """The four bodies, over a proxy that has seen nothing but small ones."""
    kinds = (
        ("download", _download, False),
        ("download", _download, True),
        ("upload", _upload, False),
        ("upload", _upload, True),
    )
    found = []
    for what, transfer, slow in kinds:
        began = time.perf_counter()
        with Peak(one.proxy) as peak:
            arrived = transfer(one, size, slow)
        taken = time.perf_counter() - began
        receiver = "client" if what == "download" else "baseline"
        name = f"{what}, slow {receiver}" if slow else what
        found.append(Transfer(name, taken, arrived, peak.most - peak.before))
    return found


@contextlib.contextmanager
def _connection(one: Rig, slow: bool) -> Iterator[socket.socket]:
    host, _, port = one.url.removeprefix("http://").rpartition(":")
    with socket.socket() as sock:
        if slow:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)
        sock.settimeout(60)
        sock.connect((host, int(port)))
        yield sock


def _download(one: Rig, size: int, slow: bool) -> int:
    arrived = 0
    with _connection(one, slow) as sock:
        sock.sendall(b"GET /bytes/%d HTTP/1.1\r\nHost: a.test\r\n\r\n" % size)
        got = b""
        while b"\r\n\r\n" not in got:
            got += sock.recv(65536)
        arrived = len(got.partition(b"\r\n\r\n")[2])
        while arrived < size and (block := sock.recv(65536)):
            arrived += len(block)
            if slow:
                time.sleep(_PAUSE)
    return arrived


def _upload(one: Rig, size: int, slow: bool) -> int:
    baseline = one.upstream(BASELINE)
    before = baseline.counts(BASELINE).bytes_read
    baseline.sluggish(BASELINE, slow)
    with _connection(one, False) as sock:
        sock.sendall(b"POST /upload HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n" % size)
        for at in range(0, size, len(BLOCK)):
            sock.sendall(BLOCK[: size - at])
        if not sock.recv(65536).startswith(b"HTTP/1.1 200"):
            return 0
    baseline.sluggish(BASELINE, False)
    return baseline.counts(BASELINE).bytes_read - before


def run(options: Options) -> Report:
    """Measure, check and report."""
    requests, parts = (40_000, 4) if options.quick else (REQUESTS, PARTS)
    with rig(CONFIGURATION, service=0.001) as one:

        def told(line: str) -> None:
            options.console.print(line, style="dim", highlight=False)

        million = hung(one, requests, parts, CONNECTIONS, told)
    with rig(CONFIGURATION) as one:
        one.clients.closed_loop(2000, connections=16)
        bodies = transfers(one)
        # Downloads are mirrored, so the candidate has sent them too; uploads are over the mirror's cap.
        audit = one.audit(live_only=len(bodies))
    first, last = million.parts[0], million.parts[-1]
    return Report(
        "proxy-memory",
        f"proxy-memory: {requests:,} requests with a hung candidate, bodies of {BODY // MiB} MB",
        ("", "RSS before, MiB", "RSS after, MiB", "growth"),
        [
            (
                f"{requests:,} requests, candidate hung",
                f"{first.rss / MiB:.1f}",
                f"{last.rss / MiB:.1f}",
                f"{million.growth:+.1%}",
            ),
            *((f"{BODY // MiB} MB {body.what}", "", "", f"{body.growth / MiB:+.1f} MiB") for body in bodies),
        ],
        goals=[
            Goal("growth after the warm-up, share", GROWTH_MOST, million.growth),
            *(Goal(f"growth in a {body.what}, MiB", BODY_MOST / MiB, body.growth / MiB) for body in bodies),
        ],
        checks=[
            Check(
                "copies bounded and accounted for",
                not million.contained,
                "; ".join(million.contained)
                or f"{million.audit.text}; {tally(million.audit.candidate)}; {million.in_flight_most} at once",
            ),
            *(
                Check(
                    f"{BODY // MiB} MiB {body.what}",
                    body.size >= BODY,
                    f"{body.size:,} bytes arrived in {body.seconds:.1f} s",
                )
                for body in bodies
            ),
            Check("large bodies accounted for", not audit.wrong, audit.text),
        ],
        notes=(
            f"{sum(part.per_second for part in million.parts) / parts:,.0f} requests/s over {CONNECTIONS} connections.",
        ),
        raw={
            "requests": requests,
            "parts": [asdict(part) for part in million.parts],
            "candidate": dict(million.audit.candidate),
            "bodies": [asdict(body) for body in bodies],
        },
    )
