"""What deploy/datadog says, made from the code's own metrics. `python tests/pages.py` writes it anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shadowproxy import metrics

DEPLOYED: Final = Path(__file__).parent.parent.parent / "deploy" / "datadog"

PREFIX: Final = "shadowproxy_"
PORTS: Final = {"proxy": 9101, "comparator": 9102, "api": 9100}
_PARENT: Final = "parent of several proxy workers"

LEFT_OUT: Final = {
    "_created": "says when a counter began; the Agent looks for falling counters instead",
}
"""Ends of names that are no metrics of ours but the client library's, and why they aren't asked for."""

PROCESS: Final = {
    "process_cpu_seconds": "process.cpu_seconds",
    "process_resident_memory_bytes": "process.resident_memory_bytes",
    "process_open_fds": "process.open_fds",
}
"""Of what the client library says of any process: what the Agent's own process check could not tell apart."""

OPTIONS: Final[Mapping[str, Any]] = {
    "namespace": "shadowproxy",
    "raw_metric_prefix": PREFIX,
    "histogram_buckets_as_distributions": True,
    "collect_counters_with_distributions": True,
    "rename_labels": {
        "shadowproxy_verdict": "state",
        "shadowproxy_breaker_state": "state",
        "shadowproxy_guardrail_finding": "finding",
        # Datadog's own tag of that name is the version of the service that the Agent's host runs.
        "version": "reported_version",
    },
}


def asked(registries: Mapping[str, metrics.Registry]) -> dict[str, dict[str, str]]:
    """By process of `PORTS`, {name without prefix: type} as the text format has them: the parent of several workers
    answers where a single proxy would."""
    found = {
        process: {
            family.name.removeprefix(PREFIX) + ("_info" if family.type == "info" else ""): family.type
            for family in registry.collect()
            if family.name.startswith(PREFIX)
        }
        for process, registry in registries.items()
    }
    found["proxy"] |= found.pop(_PARENT)
    return found


HEAD: Final = """\
# Version 2 of the Agent's OpenMetrics check for the three processes of `shadowproxy run` at their default addresses:
# copy it to conf.d/openmetrics.d/conf.yaml of the Agent. docs/datadog.md says what comes of it.
#
# Made from the code (make docs). Every metric of shadowproxy is here, by its name less `shadowproxy_`; of counters the
# Agent takes off `_total` and submits NAME.count. Each has its type from the page, but for state sets and what only
# informs: the check knows neither, and would pass them over where a page says what they are, so they are asked for as
# gauges.
init_config:
instances:
"""


def configuration(registries: Mapping[str, metrics.Registry]) -> str:
    """deploy/datadog/openmetrics.d/conf.yaml"""
    return HEAD + "\n".join(_instance(process, of) for process, of in asked(registries).items()) + "\n"


def _instance(process: str, of: Mapping[str, str]) -> str:
    lines = [
        f"  - openmetrics_endpoint: http://127.0.0.1:{PORTS[process]}/metrics",
        f"    tags: [process:{process}]",
    ]
    lines += [f"    {name}: {_written(value)}" for name, value in OPTIONS.items()]
    lines.append("    metrics:")
    for name, kind in of.items():
        told = f"{name}: {{name: {name}, type: gauge}}" if kind in ("stateset", "info") else name
        lines.append(f"      - {told}")
    lines += [f"      - {raw}: {name}" for raw, name in PROCESS.items()]
    return "\n".join(lines)


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {of}" for key, of in value.items()) + "}"
    return str(value).lower() if isinstance(value, bool) else str(value)


POD: Final = """\
# A pod whose sidecar the Agent finds by itself: the annotations for the proxy. Made from the code (make docs); the same
# metrics of shadowproxy as in openmetrics.d/conf.yaml, said shorter. What the process takes (CPU, memory) the Agent
# knows of the container. It comes from outside of the pod, so the proxy's admin address must be reachable:
# `proxy: {admin: "0.0.0.0:9101"}`, and a NetworkPolicy that lets in the Agent alone.
apiVersion: v1
kind: Pod
metadata:
  name: recommender
  annotations:
    ad.datadoghq.com/shadowproxy.checks: |
ANNOTATION
spec:
  containers:
    - name: shadowproxy
      image: shadowproxy:0.1.0
      args: [proxy, --config, /etc/shadowproxy/shadowproxy.yaml]
      ports: [{name: http, containerPort: 8080}, {name: admin, containerPort: 9101}]
    - name: recommender
      image: example.org/recommender:1.0.0
"""


def pod() -> str:
    """deploy/datadog/pod.yaml"""
    instance = {
        "openmetrics_endpoint": "http://%%host%%:9101/metrics",
        "tags": ["process:proxy"],
        **OPTIONS,
        "exclude_metrics": ["^process_", *(f"{end}$" for end in LEFT_OUT)],
        "metrics": [".+"],
    }
    annotation = json.dumps({"openmetrics": {"init_config": {}, "instances": [instance]}}, indent=2)
    return POD.replace("ANNOTATION", "\n".join(f"      {line}" for line in annotation.splitlines()))
