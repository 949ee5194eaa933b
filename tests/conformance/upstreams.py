"""Real servers as upstreams, each a process of its own: nginx, uvicorn, aiohttp.web."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from conformance import contract
from programs import missing

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE.parent.parent)])}
PATIENCE = 20.0

NGINX = """
daemon off;
master_process off;
pid {place}/pid;
error_log {place}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {place}/body;
    proxy_temp_path {place}/proxy;
    fastcgi_temp_path {place}/fastcgi;
    uwsgi_temp_path {place}/uwsgi;
    scgi_temp_path {place}/scgi;
    keepalive_requests 100000;
    absolute_redirect off;
    default_type application/octet-stream;
    upstream app {{ server 127.0.0.1:{app}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        merge_slashes off;
        root {place}/files;
        location = /file {{ }}
        location = /packed {{ gzip on; gzip_proxied any; gzip_types *; gzip_min_length 1; }}
        location = /status/204 {{ return 204; }}
        location = /status/304 {{ return 304; }}
        location = /status/404 {{ return 404 "not here"; }}
        location = /status/500 {{ return 500 "broken"; }}
        location = /redirect {{ return 302 {elsewhere}; }}
        location = /cookies {{
            {cookies}
            add_header X-Dup 1;
            add_header X-Dup 2;
            return 200 "cookies";
        }}
        location / {{
            proxy_pass http://app;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
    server {{
        listen 127.0.0.1:{short} backlog=1024;
        keepalive_requests 3;
        location / {{ return 200 "request $connection_requests of $request_uri"; }}
    }}
}}
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def _process(command: list[str], pass_fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=ENVIRONMENT, pass_fds=pass_fds, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until a server listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def uvicorn(http: str) -> Iterator[str]:
    """`http` is uvicorn's parser: h11 or httptools."""
    # A port and not a socket: uvicorn takes any socket it is given for a Unix one, and so leaves Nagle's delays on.
    port = free_port()
    options = ("--http", http, "--log-level", "error", "--no-access-log", "--timeout-graceful-shutdown", "1")
    command = [sys.executable, "-m", "uvicorn", "conformance.asgi_service:app", "--port", str(port), *options]
    with _process(command) as process:
        _wait(port, process)
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def aiohttp() -> Iterator[str]:
    """On a socket that listens already, so that nobody has to wait for it."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        command = [sys.executable, "-m", "conformance.aiohttp_service", str(sock.fileno())]
        with _process(command, (sock.fileno(),)):
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@contextlib.contextmanager
def nginx(app: str) -> Iterator[tuple[str, str]]:
    """nginx before the service at `app`. Yields its URL, and that of a server that keeps connections for 3 requests."""
    binary = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if binary is None:
        missing("nginx is not on the PATH (make test brings it on Debian)")
    with tempfile.TemporaryDirectory(prefix="sp-nginx-") as folder:
        place = Path(folder)
        (place / "files").mkdir()
        (place / "files" / "file").write_bytes(contract.file())
        (place / "files" / "packed").write_bytes(b"a body to be packed " * 5000)
        port, short = free_port(), free_port()
        cookies = "\n".join(f'add_header Set-Cookie "{cookie}";' for cookie in contract.COOKIES)
        text = NGINX.format(
            place=place,
            app=app.rpartition(":")[2],
            port=port,
            short=short,
            cookies=cookies,
            elsewhere=contract.ELSEWHERE,
        )
        (place / "nginx.conf").write_text(text)
        with _process([binary, "-p", folder, "-e", f"{folder}/error.log", "-c", f"{folder}/nginx.conf"]) as process:
            _wait(short, process)
            yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{short}"
