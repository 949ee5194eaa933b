"""A real Prometheus that scrapes a running shadowproxy, for tests that ask it by PromQL.

`observed` is one for the whole run: three processes of shadowproxy with a few hundred pairs through them, all of which
are counted and scraped when a test gets it. Nothing happens to it any more then, so that a figure read twice is the
same. The scrape configuration is that of deploy/prometheus, quicker and with the ports of the moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import random
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import program
from whole.load import command

from shadowproxy.config import Settings, loads

DEPLOYED = Path(__file__).parent.parent / "deploy" / "prometheus"
PATIENCE = 40.0
INTERVAL = "500ms"
WAVES, WAVE, CLIENTS = 3, 120, 4
"""Requests come in waves, each of which is scraped before the next begins: so there is something for `rate` to find."""


@dataclass(frozen=True)
class Prometheus:
    """One that runs, at this URL."""

    url: str
    folder: Path

    def scrape(self, targets: Mapping[str, str]) -> None:
        """From now on scrape these: by process, its admin URL.

        It takes a look at its targets five seconds after its start and every five seconds: best said before the first.
        """
        groups = json.dumps(
            [{"targets": [url.removeprefix("http://")], "labels": {"process": name}} for name, url in targets.items()]
        )
        written = self.folder / "targets.tmp"
        written.write_text(groups)
        written.rename(self.folder / "targets.json")

    def get(self, path: str, **parameters: str) -> Any:
        """The `data` of an answer of its HTTP API. Raises ValueError with what it says where it refuses."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None

    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """An expression now: of each series its labels, the name as `__name__`, and its value."""
        found = self.get("query", query=promql)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in found["result"]]

    def value(self, promql: str) -> float:
        """Of an expression that has one value now."""
        (series,) = self.query(promql)
        return series[1]

    def exemplars(self, promql: str) -> list[tuple[str, dict[str, str]]]:
        """Those of the last hour: the name of the series, and the exemplar's labels."""
        now = time.time()
        found = self.get("query_exemplars", query=promql, start=str(now - 3600), end=str(now + 60))
        return [
            (series["seriesLabels"]["__name__"], exemplar["labels"])
            for series in found
            for exemplar in series["exemplars"]
        ]

    def until(self, promql: str, value: float) -> None:
        """Wait until it has scraped this value: `sum` over the series of the expression."""
        wait_for(lambda: self.query(f"sum({promql})") == [({}, value)], lambda: f"{promql} is {self.query(promql)}")


@dataclass(frozen=True)
class Observed:
    """A shadowproxy that was used, and the Prometheus that watched."""

    prometheus: Prometheus
    urls: Mapping[str, str]
    """By name as `shadowproxy run` announces them: `proxy`, `proxy_admin`, `comparator_admin`, `api`."""
    settings: Settings
    pairs: int

    def api(self, path: str) -> Any:
        """The JSON at a path of the API."""
        with urllib.request.urlopen(f"{self.urls['api']}/api/v1/{path}") as response:
            return json.load(response)

    def page(self, process: str, accept: str = "") -> str:
        """/metrics of `proxy_admin`, `comparator_admin` or `api`."""
        request = urllib.request.Request(f"{self.urls[process]}/metrics", headers={"Accept": accept})
        with urllib.request.urlopen(request) as response:
            return str(response.read().decode())


@contextlib.contextmanager
def prometheus() -> Iterator[Prometheus]:
    """One with the rules of deploy/prometheus, and nothing to scrape yet; skips where there is no such program."""
    binary = program("prometheus")
    with tempfile.TemporaryDirectory(prefix="sp-prometheus-") as name:
        folder = Path(name)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(configuration(folder / "targets.json")))
        with (folder / "log").open("w") as said:
            process = subprocess.Popen(
                [
                    binary,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder}/data",
                    f"--web.listen-address={address}",
                    "--enable-feature=exemplar-storage",
                    "--log.level=warn",
                ],
                stderr=said,
            )
        try:
            started = Prometheus(f"http://{address}", folder)
            wait_for(lambda: _listens(started, process), (folder / "log").read_text)
            yield started
        finally:
            process.terminate()
            process.wait()


def configuration(targets: Path) -> dict[str, Any]:
    """The one that is deployed, at INTERVAL, and for the targets in a file."""
    config: dict[str, Any] = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
    config["rule_files"] = [str(DEPLOYED / name) for name in config.get("rule_files", ())]
    config.pop("alerting", None)
    (job,) = config["scrape_configs"]
    del job["static_configs"]
    job["file_sd_configs"] = [{"files": [str(targets)]}]
    return config


def _listens(started: Prometheus, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "prometheus ended"
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{started.url}/-/ready"):
        return True
    return False


def wait_for(met: Callable[[], bool], said: Callable[[], str]) -> None:
    """Wait until something holds; what else is said fails the test."""
    deadline = time.monotonic() + PATIENCE
    while not met():
        if time.monotonic() > deadline:
            pytest.fail(said())
        time.sleep(0.02)


class _Service(BaseHTTPRequestHandler):
    """Ranks ten items, the same for the same request. The candidate ranks for `region=eu` the wrong way round, gives
    lower scores, and fails there now and then."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    candidate = False

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        scores = sorted((random.Random(asked["id"]).random() for _ in range(10)), reverse=True)
        bad = self.candidate and asked["region"] == "eu"
        if bad:
            scores = [0.9 * score for score in reversed(scores)]
        items = [{"id": f"item-{at}", "score": score} for at, score in enumerate(scores)]
        if bad:
            items.reverse()
        body = json.dumps({"items": items}).encode()
        self.send_response(503 if bad and asked["id"] % 5 == 0 else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: the test's output is not for it."""


class _Candidate(_Service):
    candidate = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


@contextlib.contextmanager
def _serving(handler: type[_Service]) -> Iterator[str]:
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def settings(folder: Path, baseline: str, candidate: str) -> Settings:
    """Every family of metrics has something to say: scores, cohorts, labels to come, a replica."""
    return loads(
        f"""
experiment: observed
baseline: {{url: "{baseline}", deadline: 1s}}
candidate: {{url: "{candidate}", deadline: 1s}}
replica: {{url: "{baseline}", deadline: 1s}}
proxy: {{listen: "127.0.0.1:0", admin: "127.0.0.1:0"}}
recorder: {{batch: 20, linger: 50ms}}
redis: {{data_dir: "{folder}/data"}}
comparator: {{admin: "127.0.0.1:0"}}
serve: {{listen: "127.0.0.1:0", refresh: 200ms}}
verdict: {{bucket: 500ms, settle: 500ms, min_duration: 1s, guardrails: [
    {{metric: ranking.rbo, margin: 0.1}}, {{metric: failures.difference, margin: 0.02}},
    {{metric: latency.total_p90, margin: 0.5}}, {{metric: scores.relative_delta, margin: 0.05}}]}}
routes: [{{name: rank, path: /rank, ids: "response.body.items[*].id", scores: "response.body.items[*].score",
    truth: annotations.truth, labels: 1h, account: request.body.id, cohorts: {{region: request.body.region}}}}]
log_level: warning
"""
    )


def ask(proxy: str, numbers: range) -> None:
    """Requests on one connection, one after the other: with an id of their own, and every other with a trace."""
    connection = http.client.HTTPConnection(proxy.removeprefix("http://"), timeout=PATIENCE)
    try:
        for number in numbers:
            body = json.dumps({"id": number, "region": ("us", "eu", "asia")[number % 3]})
            headers = {"Content-Type": "application/json", "X-Request-Id": f"request-{number}"}
            if number % 2:
                headers["traceparent"] = f"00-{number + 1:032x}-{number + 1:016x}-01"
            connection.request("POST", "/rank", body, headers)
            response = connection.getresponse()
            response.read()
            assert response.status == 200
    finally:
        connection.close()


@pytest.fixture(scope="session")
def observed() -> Iterator[Observed]:
    """See the module. Look at it, and change nothing."""
    program("prometheus")
    with (
        tempfile.TemporaryDirectory(prefix="sp-observed-") as name,
        _serving(_Service) as baseline,
        _serving(_Candidate) as candidate,
    ):
        folder = Path(name)
        chosen = settings(folder, baseline, candidate)
        with prometheus() as watching, command(folder, chosen, "run") as running:
            asyncio.run(running.ready("experiment"))
            urls = running.urls
            admins = {"api": urls["api"], "proxy": urls["proxy_admin"], "comparator": urls["comparator_admin"]}
            watching.scrape(admins)
            watching.until("up", len(admins))
            with ThreadPoolExecutor(CLIENTS) as clients:
                for wave in range(WAVES):
                    share = WAVE // CLIENTS
                    starts = range(wave * WAVE, (wave + 1) * WAVE, share)
                    for asked in [clients.submit(ask, urls["proxy"], range(at, at + share)) for at in starts]:
                        asked.result()
                    watching.until("shadowproxy_requests_total", (wave + 1) * WAVE)
            pairs = WAVES * WAVE
            for counted in ("recorded_total", "compared_pairs_total", "verdict_pairs"):
                watching.until(f"shadowproxy_{counted}", pairs)
            yield Observed(watching, urls, chosen, pairs)
