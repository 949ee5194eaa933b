"""The Datadog Agent's own OpenMetrics check, with the configuration in deploy/datadog, on pages of real processes."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent import mapping
from pages import DATADOG, filled
from programs import missing
from prometheus import Observed
from prometheus_client.parser import text_string_to_metric_families

from shadowproxy import metrics

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".cache" / "datadog"
CONF = yaml.safe_load((mapping.DEPLOYED / "openmetrics.d" / "conf.yaml").read_text())
PROCESSES = {"proxy": "proxy_admin", "comparator": "comparator_admin", "api": "api"}


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter of an environment with the Agent's check, made on demand and kept."""
    requirements = HERE / "requirements.txt"
    version = hashlib.blake2b(requirements.read_bytes() + sys.version.encode(), digest_size=6).hexdigest()
    folder = CACHE / version
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        # Of several processes that share the tests, one makes it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
            into = ["--python", str(folder / "bin" / "python"), "install", "--quiet", "--no-input"]
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", *into, "-r", str(requirements)]
            done = subprocess.run(pip, capture_output=True, text=True)
            if done.returncode:
                missing(f"datadog-checks-base can't be had: {done.stderr.strip().splitlines()[-1]}")
            (folder / "complete").touch()
    return str(folder / "bin" / "python")


def submitted(python: str, instances: Mapping[str, Any]) -> Any:
    done = subprocess.run(
        [python, str(HERE / "run_check.py")], input=json.dumps(instances), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def instances(urls: Mapping[str, str]) -> dict[str, Any]:
    """Those of the configuration, at other addresses."""
    (*found,) = copy.deepcopy(CONF["instances"])
    by_process = {one["tags"][0].removeprefix("process:"): one for one in found}
    for process, one in by_process.items():
        assert one["openmetrics_endpoint"] == f"http://127.0.0.1:{mapping.PORTS[process]}/metrics"
        one["openmetrics_endpoint"] = f"{urls[process]}/metrics"
    return by_process


def annotated(url: str) -> Any:
    """The instance in the pod's annotation, as the Agent fills it in."""
    pod = yaml.safe_load((mapping.DEPLOYED / "pod.yaml").read_text())
    container = pod["spec"]["containers"][0]["name"]
    annotation = pod["metadata"]["annotations"][f"ad.datadoghq.com/{container}.checks"]
    (instance,) = json.loads(annotation)["openmetrics"]["instances"]
    instance["openmetrics_endpoint"] = instance["openmetrics_endpoint"].replace("http://%%host%%:9101", url)
    return instance


def tagged(tags: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (tag.partition(":") for tag in tags) if name != "endpoint"}


def expected(page: str) -> tuple[Counter[tuple[Any, ...]], Counter[tuple[Any, ...]]]:
    """What a page comes to by the Agent's documentation: (name, kind, value, tags) and, of buckets, their counts."""
    plain: Counter[tuple[Any, ...]] = Counter()
    buckets: Counter[tuple[Any, ...]] = Counter()
    for family in text_string_to_metric_families(page):
        if not family.name.startswith(mapping.PREFIX) or family.name.endswith("_created"):
            continue
        name = f"shadowproxy.{family.name.removeprefix(mapping.PREFIX)}"
        below: dict[Any, float] = {}
        for sample in family.samples:
            renamed = mapping.OPTIONS["rename_labels"]
            tags = {renamed.get(key, key): value for key, value in sample.labels.items() if key != "le"}
            frozen = tuple(sorted(tags.items()))
            if family.type == "counter":
                plain[f"{name}.count", "monotonic_count", sample.value, frozen] += 1
            elif family.type == "gauge":
                if abs(sample.value) != float("inf"):
                    plain[name, "gauge", sample.value, frozen] += 1
            elif "quantile" in tags:
                if abs(sample.value) != float("inf"):
                    plain[f"{name}.quantile", "gauge", sample.value, frozen] += 1
            elif sample.name.endswith("_bucket"):
                buckets[name, sample.value - below.get(frozen, 0.0), float(sample.labels["le"]), frozen] += 1
                below[frozen] = sample.value
            elif sample.name.endswith(("_sum", "_count")):
                plain[f"{name}.{sample.name.rpartition('_')[2]}", "monotonic_count", sample.value, frozen] += 1
    return plain, buckets


def got(told: Any) -> tuple[Counter[tuple[Any, ...]], Counter[tuple[Any, ...]]]:
    def frozen(tags: list[str], *without: str) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((k, v) for k, v in tagged(tags).items() if k not in ("process", *without)))

    plain = Counter(
        (name, kind, value, frozen(tags))
        for name, kind, value, tags in told["metrics"]
        if not name.startswith("shadowproxy.process.")
    )
    buckets = Counter(
        (name, value, float(upper), frozen(tags, "lower_bound", "upper_bound"))
        for name, value, _, upper, tags in told["buckets"]
    )
    return plain, buckets


def test_what_is_deployed_is_made_of_the_metrics_of_today() -> None:
    for name, written in DATADOG.items():
        assert (mapping.DEPLOYED / name).read_text() == written(), "write it anew: make docs"


@pytest.fixture(scope="module")
def told(python: str, observed: Observed) -> Any:
    """What the check submits of running processes, by process."""
    return submitted(python, instances({process: observed.urls[name] for process, name in PROCESSES.items()}))


def test_the_pages_of_running_processes_arrive_as_they_are(told: Any, observed: Observed) -> None:
    pages = {process: observed.page(name, "text/plain") for process, name in PROCESSES.items()}
    for process in PROCESSES:
        one = told[process]
        assert (one["error"], one["health"]) == ("", [0])
        assert all(tagged(tags)["process"] == process for *_, tags in one["metrics"])
        wanted, found = expected(pages[process]), got(one)
        # What goes on with time has gone on since.
        moving = re.compile(r"_age_seconds$|lag|connections$")
        assert found[0], process
        for want, have in zip(wanted, found, strict=True):
            steady = [{key for key in keys if not moving.search(key[0])} for keys in (want, have)]
            assert steady[0] == steady[1], process
    assert {name for name, *_ in told["proxy"]["buckets"]} == {"shadowproxy.exchange_duration_seconds"}
    values = {(name, tagged(tags).get("state")): value for name, _, value, tags in told["api"]["metrics"]}
    state = observed.api("verdict")["state"]
    assert {of: values["shadowproxy.verdict", of] for of in ("promote", "rollback", "continue")} == {
        of: float(of == state) for of in ("promote", "rollback", "continue")
    }
    counted = {name: value for name, _, value, _ in told["proxy"]["metrics"]}
    assert counted["shadowproxy.requests.count"] == counted["shadowproxy.recorded.count"] == observed.pairs
    assert counted["shadowproxy.process.resident_memory_bytes"] > 0


class _Page(BaseHTTPRequestHandler):
    pages: Mapping[str, metrics.Registry] = {}

    def do_GET(self) -> None:
        body, kind = metrics.render(self.pages[self.path.split("/")[1]], self.headers["Accept"])
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: the test's output is not for it."""


@pytest.fixture
def filled_pages() -> Iterator[dict[str, str]]:
    """URLs of pages on which every family of the code has a sample; `parent` is that of several proxy workers."""
    registries = filled()
    parent = registries.pop("parent of several proxy workers")
    handler = type("_Filled", (_Page,), {"pages": {**registries, "parent": parent}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield {name: f"http://127.0.0.1:{server.server_address[1]}/{name}" for name in (*registries, "parent")}
        server.shutdown()


def test_every_metric_of_the_code_is_submitted_by_either_way(python: str, filled_pages: dict[str, str]) -> None:
    chosen = instances(filled_pages)
    chosen["parent"] = {**chosen["proxy"], "openmetrics_endpoint": f"{filled_pages['parent']}/metrics"}
    chosen["pod"] = annotated(filled_pages["proxy"])
    told = submitted(python, chosen)
    for process, of in mapping.asked(filled()).items():
        asked = [one for one in (process, "parent") if one == process or process == "proxy"]
        found = {
            re.sub(r"\.(count|sum|quantile)$", "", row[0]).removeprefix("shadowproxy.")
            for one in asked
            for row in (*told[one]["metrics"], *told[one]["buckets"])
        }
        assert of.keys() <= found
    assert got(told["pod"]) == got(told["proxy"])


def test_monitors_ask_for_metrics_and_tags_that_there_are(told: Any) -> None:
    tags = {(name, tag) for one in told.values() for name, _, _, tagged in one["metrics"] for tag in [*tagged, "*"]}
    monitors = sorted((mapping.DEPLOYED / "monitors").glob("*.json"))
    assert monitors
    for path in monitors:
        monitor = json.loads(path.read_text())
        found = re.fullmatch(
            r"(?:max|min|avg)\(last_\d+m\):(?:max|min|avg|sum):([a-z0-9_.]+)\{([^}]+)\} (?:>=|>) (\d+)",
            monitor["query"],
        )
        assert found, path
        assert (found[1], found[2]) in tags, path
        assert monitor["options"]["thresholds"]["critical"] == float(found[3])
