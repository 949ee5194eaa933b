"""The proxy's process with TLS: how it starts, what it says, and what SIGHUP does."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
from proxy.harness import echo, get, read_response, upstream
from proxy.secure import Authority, secure, serial
from servers import unique

from shadowproxy.config import Address, load
from shadowproxy.pairs.embedded import EmbeddedServer
from shadowproxy.supervisor import Supervisor

ROOT = Path(__file__).parent.parent.parent


def written(
    folder: Path, tls: dict[str, str], url: str = "https://127.0.0.1:9", ca: str = "null", workers: int = 1
) -> Path:
    path = folder / "shadowproxy.yaml"
    path.write_text(
        f"experiment: {unique('tls')}\nredis: {{data_dir: {folder}/data}}\n"
        f"baseline: {{url: {url}, tls: {{ca: {ca}}}}}\ncandidate: {{url: {url}, tls: {{verify: false}}}}\n"
        'proxy:\n  listen: "127.0.0.1:0"\n  admin: "127.0.0.1:0"\n  grace: 1\n'
        f"  workers: {workers}\n"
        f"  tls: {{certificate: {tls['certificate']}, key: {tls['key']}}}\n"
    )
    return path


def shadowproxy(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shadowproxy", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "400", "TERM": "dumb"},
    )


def exchange(files: dict[str, str], new: dict[str, str]) -> None:
    for name, path in new.items():
        Path(path).rename(files[name])


async def shown(address: Address, context: ssl.SSLContext) -> int:
    async with secure(address, context) as (reader, writer):
        writer.write(get())
        assert (await read_response(reader)).status == 200
        return int(writer.get_extra_info("ssl_object").getpeercert()["serialNumber"], 16)


@pytest.mark.parametrize("workers", [1, 2])
async def test_sighup_has_the_certificate_read_anew(workers: int, tmp_path: Path, valkey: EmbeddedServer) -> None:
    authority = Authority(tmp_path)
    files, other = authority.issue("server"), authority.issue("other")
    async with upstream(echo, tls=authority.server()) as one:
        config = written(tmp_path, files, one.url, authority.file, workers)
        supervisor = Supervisor(config, load(config), valkey.url)
        await supervisor.start(["proxy"])
        try:
            url = urlsplit(supervisor.urls["proxy"])
            assert url.scheme == "https"
            address = Address("127.0.0.1", url.port or 0)
            assert await shown(address, authority.client()) == serial(files)
            exchange(files, other)
            pid = supervisor.parts["proxy"].pid
            os.kill(pid, signal.SIGHUP)
            async with asyncio.timeout(30):
                # With several workers, the kernel chooses who answers.
                while {await shown(address, authority.client()) for _ in range(8)} != {serial(files)}:
                    pass
            assert supervisor.parts["proxy"].pid == pid
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{supervisor.urls['proxy_admin']}/metrics") as response:
                    metrics = await response.text()
                async with session.get(f"{supervisor.urls['proxy_admin']}/readyz") as response:
                    assert response.status == 200
        finally:
            await supervisor.stop()
    worker = ',worker="1"' if workers > 1 else ""
    assert f'shadowproxy_upstream_addresses{{side="baseline"{worker}}} 1.0' in metrics
    assert f'shadowproxy_upstream_healthy_addresses{{side="candidate"{worker}}} 1.0' in metrics
    assert 'reason="plain_http"' in metrics


def test_a_certificate_that_is_missing_is_one_line_and_verification_that_is_off_is_warned_of(tmp_path: Path) -> None:
    config = written(tmp_path, {"certificate": f"{tmp_path}/none.pem", "key": f"{tmp_path}/none.key"})
    done = shadowproxy("proxy", "--config", str(config))
    assert done.returncode == 2
    assert f"shadowproxy: proxy.tls.certificate: there is no file {tmp_path}/none.pem\n" in done.stderr
    assert "Traceback" not in done.stderr
    done = shadowproxy("check-config", str(config))
    assert done.returncode == 0
    assert "warning: candidate.tls.verify is false: whoever answers at https://127.0.0.1:9 is believed" in done.stdout
