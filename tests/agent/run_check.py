"""Runs the Agent's OpenMetrics check, in an environment that has it: instances as JSON on standard input, by name; what
each submitted as JSON on standard output."""

from __future__ import annotations

import json
import sys
from typing import Any

from datadog_checks.base import OpenMetricsBaseCheckV2
from datadog_checks.base.stubs import aggregator


def submitted(instance: dict[str, Any]) -> dict[str, Any]:
    aggregator.reset()
    check = OpenMetricsBaseCheckV2("openmetrics", {}, [instance])
    # As the integration does that the Agent ships for pages of anybody's: the namespace is the instance's.
    check.__NAMESPACE__ = ""
    error = check.run()
    kinds = aggregator.METRIC_ENUM_MAP_REV
    return {
        "error": error,
        "metrics": [
            [one.name, kinds[one.type], one.value, one.tags]
            for name in aggregator.metric_names
            for one in aggregator.metrics(name)
        ],
        "buckets": [
            [one.name, one.value, one.lower_bound, one.upper_bound, one.tags]
            for name in aggregator._histogram_buckets
            for one in aggregator.histogram_bucket(name)
        ],
        "health": [one.status for one in aggregator.service_checks("shadowproxy.openmetrics.health")],
    }


if __name__ == "__main__":
    json.dump({name: submitted(instance) for name, instance in json.load(sys.stdin).items()}, sys.stdout)
